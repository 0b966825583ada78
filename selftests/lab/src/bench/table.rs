// SPDX-License-Identifier: GPL-2.0-only

//! The table of a bench: its figures as the VMs print them, their ratios, and how it looks.

/// How a line with a figure starts.
const MARK: &str = "# BENCH ";

/// A column that says how much one column is of another.
#[derive(Debug)]
pub struct Ratio {
    pub title: &'static str,
    pub of: &'static str,
    pub to: &'static str,
    /// What it may be at most, by the end of the row's name. The first that fits counts.
    pub limits: &'static [(&'static str, f64)],
}

impl Ratio {
    fn limit(&self, row: &str) -> Option<f64> {
        let fits = |(end, _): &&(&str, f64)| row.ends_with(end);
        self.limits.iter().find(fits).map(|(_, limit)| *limit)
    }
}

/// Cells that a table must have: each of `rows` in each of `columns`.
#[derive(Debug)]
pub struct Cells {
    /// The numbers of CPUs that the names of the rows start with; none if they do not.
    pub cpus: &'static [u32],
    pub rows: &'static [&'static str],
    pub columns: &'static [&'static str],
}

impl Cells {
    /// The names of their rows.
    pub fn names(&self) -> Vec<String> {
        if self.cpus.is_empty() {
            return self.rows.iter().map(|row| (*row).to_owned()).collect();
        }
        let of_one = |cpus: &u32| {
            let machine = match cpus {
                1 => "1 CPU".to_owned(),
                _ => format!("{cpus} CPUs"),
            };
            self.rows.iter().map(move |row| format!("{machine}: {row}"))
        };
        self.cpus.iter().flat_map(of_one).collect()
    }

    fn has(&self, row: &str, column: &str) -> bool {
        self.columns.contains(&column) && self.names().iter().any(|name| name == row)
    }
}

/// A figure as a test printed it.
#[derive(Debug, PartialEq, Eq)]
pub struct Figure<'a> {
    column: &'a str,
    row: &'a str,
    unit: &'a str,
    value: &'a str,
}

impl<'a> Figure<'a> {
    /// Reads a line of a VM; `None` if it is none with a figure.
    pub fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.trim().strip_prefix(MARK)?.split(" | ").map(str::trim);
        let figure = Self {
            column: parts.next()?,
            row: parts.next()?,
            unit: parts.next()?,
            value: parts.next()?,
        };
        parts.next().is_none().then_some(figure)
    }
}

/// A row: its name, its unit and one place for each column so far.
#[derive(Debug)]
struct Row {
    name: String,
    unit: String,
    values: Vec<Option<String>>,
}

impl Row {
    fn value(&self, column: usize) -> Option<&str> {
        self.values.get(column)?.as_deref()
    }

    /// One figure divided by another, if both are there.
    fn ratio(&self, of: usize, to: usize) -> Option<f64> {
        let figure = |column| -> Option<f64> { self.value(column)?.parse().ok() };
        Some(figure(of)? / figure(to)?)
    }
}

/// The figures of a bench.
#[derive(Debug, Default)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Row>,
}

impl Table {
    /// A table without rows, whose first columns are `columns`.
    pub fn with_columns(columns: &[&str]) -> Self {
        Self {
            columns: columns.iter().copied().map(str::to_owned).collect(),
            rows: Vec::new(),
        }
    }

    /// Puts a figure in its place.
    pub fn add(&mut self, figure: &Figure<'_>) {
        let column = position(
            &mut self.columns,
            |name| name == figure.column,
            || figure.column.to_owned(),
        );
        let row = position(
            &mut self.rows,
            |row| row.name == figure.row,
            || Row {
                name: figure.row.to_owned(),
                unit: figure.unit.to_owned(),
                values: Vec::new(),
            },
        );
        let values = &mut self.rows[row].values;
        if values.len() <= column {
            values.resize(column + 1, None);
        }
        values[column] = Some(figure.value.to_owned());
    }

    fn column(&self, title: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == title)
    }

    fn value(&self, row: &str, column: &str) -> Option<&str> {
        let column = self.column(column)?;
        self.rows.iter().find(|one| one.name == row)?.value(column)
    }

    /// Adds a column for each of `ratios`. A row that lacks one of its figures gets none.
    pub fn add_ratios(&mut self, ratios: &[Ratio]) {
        for ratio in ratios {
            let (Some(of), Some(to)) = (self.column(ratio.of), self.column(ratio.to)) else {
                continue;
            };
            let column = self.columns.len();
            self.columns.push(ratio.title.to_owned());
            for row in &mut self.rows {
                if let Some(ratio) = row.ratio(of, to) {
                    row.values.resize(column, None);
                    row.values.push(Some(format!("{ratio:.2}")));
                }
            }
        }
    }

    /// The cells of `must` that are not there, in words: one text for each row.
    pub fn lost(&self, must: &[Cells]) -> Vec<String> {
        let mut lost = Vec::new();
        for cells in must {
            for name in cells.names() {
                let gone = |column: &&&str| self.value(&name, column).is_none();
                let columns: Vec<&str> = cells.columns.iter().filter(gone).copied().collect();
                if !columns.is_empty() {
                    lost.push(format!("{name}: no figure for {}", columns.join(", ")));
                }
            }
        }
        lost
    }

    /// The cells that are there although `must` does not have them, in words: one text for each row.
    pub fn unlisted(&self, must: &[Cells]) -> Vec<String> {
        let mut unlisted = Vec::new();
        for row in &self.rows {
            let is_listed = |column: &str| must.iter().any(|cells| cells.has(&row.name, column));
            let there = self.columns.iter().zip(&row.values);
            let columns: Vec<&str> = there
                .filter(|(column, value)| value.is_some() && !is_listed(column))
                .map(|(column, _)| column.as_str())
                .collect();
            if !columns.is_empty() {
                unlisted.push(format!("{}: a figure for {}", row.name, columns.join(", ")));
            }
        }
        unlisted
    }

    /// Which of the `ratios` are above their limits, each in words. They are compared as they are, not as they are shown.
    pub fn above_limits(&self, ratios: &[Ratio]) -> Vec<String> {
        let mut wrong = Vec::new();
        for ratio in ratios {
            let columns = self.column(ratio.of).zip(self.column(ratio.to));
            let Some((of, to)) = columns else {
                continue;
            };
            for row in &self.rows {
                let (title, name) = (ratio.title, &row.name);
                match (row.ratio(of, to), ratio.limit(name)) {
                    (Some(value), Some(limit)) if value > limit => {
                        wrong.push(format!("{title} of {name} is {value:.4}, above {limit}"));
                    }
                    _ => {}
                }
            }
        }
        wrong
    }

    /// The unit of all rows, if they have the same.
    pub fn unit(&self) -> Option<&str> {
        let unit = &self.rows.first()?.unit;
        let same = self.rows.iter().all(|row| row.unit == *unit);
        same.then_some(unit)
    }

    /// The table as text: the titles of the columns, then one line per row, with its unit if not all have the same; a figure
    /// that is missing is a dash. Titles are broken where that makes a column narrower.
    pub fn lines(&self) -> Vec<String> {
        let names = self.rows.iter().map(|row| row.name.len()).max();
        let widths = Widths {
            name: names.unwrap_or_default(),
            columns: (0..self.columns.len())
                .map(|column| self.width(column))
                .collect(),
        };
        let same_unit = self.unit().is_some();
        let mut lines = self.heading(&widths);
        lines.extend(self.rows.iter().map(|row| {
            let cells = (0..self.columns.len()).map(|column| cell(row, column));
            let unit = if same_unit { "" } else { &row.unit };
            widths.line(&row.name, cells, unit)
        }));
        lines
    }

    /// The width of what stands in a column, and of the longest part of its title.
    fn width(&self, column: usize) -> usize {
        let values = self.rows.iter().map(|row| cell(row, column).len());
        let words = pieces(&self.columns[column]).map(|word| word.trim_end().len());
        values.chain(words).max().unwrap_or_default()
    }

    /// The titles, in as many lines as it takes; the last lines of all of them stand side by side.
    fn heading(&self, widths: &Widths) -> Vec<String> {
        let titles = self.columns.iter().zip(&widths.columns);
        let titles: Vec<Vec<String>> = titles.map(|(title, width)| broken(title, *width)).collect();
        let height = titles.iter().map(Vec::len).max().unwrap_or_default();
        let part = |title: &Vec<String>, index: usize| {
            let index = (index + title.len()).checked_sub(height);
            index.map_or_else(String::new, |index| title[index].clone())
        };
        (0..height)
            .map(|index| widths.line("", titles.iter().map(|title| part(title, index)), ""))
            .collect()
    }
}

/// Widths of the name of a row and of the columns, in characters.
struct Widths {
    name: usize,
    columns: Vec<usize>,
}

impl Widths {
    fn line(&self, name: &str, cells: impl Iterator<Item = String>, unit: &str) -> String {
        let mut text = format!("{name:<0$}", self.name);
        for (cell, width) in cells.zip(&self.columns) {
            text += &format!("  {cell:>width$}");
        }
        format!("{text}  {unit}").trim_end().to_owned()
    }
}

/// What stands in a row of a column; a dash if there is nothing.
fn cell(row: &Row, column: usize) -> String {
    row.value(column).map_or("-".to_owned(), grouped)
}

/// The place of the item that `is_it` knows; if there is none, of a new one at the end.
fn position<T>(items: &mut Vec<T>, is_it: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> usize {
    items.iter().position(is_it).unwrap_or_else(|| {
        items.push(new());
        items.len() - 1
    })
}

/// The parts of a title: it can be broken behind blanks and slashes.
fn pieces(title: &str) -> impl Iterator<Item = &str> {
    title.split_inclusive([' ', '/'])
}

/// A title in lines that are no wider than `width`, as far as it can be broken.
fn broken(title: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for piece in pieces(title) {
        match lines.last_mut() {
            Some(line) if (line.len() + piece.trim_end().len()) <= width => *line += piece,
            _ => lines.push(piece.to_owned()),
        }
    }
    let trimmed = lines.iter().map(|line| line.trim_end().to_owned());
    trimmed.filter(|line| !line.is_empty()).collect()
}

/// A number with a blank between each three digits of its whole part; other text as it is.
fn grouped(value: &str) -> String {
    let (whole, rest) = value.split_at(value.find('.').unwrap_or(value.len()));
    if whole.len() <= 4 || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.to_owned();
    }
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index != 0 && (whole.len() - index) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(mut table: Table, lines: &[&str]) -> Table {
        for line in lines {
            if let Some(figure) = Figure::parse(line) {
                table.add(&figure);
            }
        }
        table
    }

    #[test]
    fn table_has_rows_and_columns_in_the_order_of_their_figures() {
        let lines = [
            "  # BENCH a | insmod | instructions | 1234567",
            "# BENCH a | table pages | pages | 12",
            "# BENCH long name | insmod | instructions | 2",
            "# BENCH not a figure",
            "ok 1 # BENCH a | b | c | d",
        ];
        let table = filled(Table::default(), &lines);
        assert_eq!(table.unit(), None);
        let expected = [
            "                        long",
            "                     a  name",
            "insmod       1 234 567     2  instructions",
            "table pages         12     -  pages",
        ];
        assert_eq!(table.lines(), expected);
    }

    #[test]
    fn ratios_need_both_figures() {
        let lines = [
            "# BENCH second | exit | instructions | 500",
            "# BENCH first | exit | instructions | 2000",
            "# BENCH first | fault | instructions | 10",
        ];
        let mut table = filled(Table::with_columns(&["none", "first"]), &lines);
        let ratio = |title, of, to| Ratio {
            title,
            of,
            to,
            limits: &[],
        };
        table.add_ratios(&[
            ratio("second/first", "second", "first"),
            ratio("other", "first", "none"),
            ratio("no such", "first", "third"),
        ]);
        assert_eq!(table.unit(), Some("instructions"));
        let expected = [
            "                            second/",
            "       none  first  second    first  other",
            "exit      -   2000     500     0.25      -",
            "fault     -     10       -        -      -",
        ];
        assert_eq!(table.lines(), expected);
    }

    #[test]
    fn ratios_above_their_limits_are_wrong() {
        let lines = [
            "# BENCH of | less | instructions | 1999",
            "# BENCH of | equal | instructions | 2000",
            "# BENCH of | hardly more | instructions | 2001",
            "# BENCH of | alone | instructions | 1",
            "# BENCH to | less | instructions | 2000",
            "# BENCH to | equal | instructions | 2000",
            "# BENCH to | hardly more | instructions | 2000",
        ];
        let table = filled(Table::default(), &lines);
        let with = |limits| Ratio {
            title: "of/to",
            of: "of",
            to: "to",
            limits,
        };
        let expected = ["of/to of hardly more is 1.0005, above 1"];
        assert_eq!(table.above_limits(&[with(&[("", 1.0)])]), expected);
        assert_eq!(table.above_limits(&[with(&[("more", 1.0)])]), expected);
        for no_limit in [
            &[("", 1.1)][..],
            &[("less", 1.0)],
            &[("more", 1.1), ("", 1.0)],
            &[],
        ] {
            assert!(table.above_limits(&[with(no_limit)]).is_empty());
        }
    }

    #[test]
    fn cells_that_are_lost_or_in_no_list_are_named() {
        let must = [
            Cells {
                cpus: &[1, 2],
                rows: &["insmod"],
                columns: &["a", "b"],
            },
            Cells {
                cpus: &[],
                rows: &["rmmod"],
                columns: &["c"],
            },
        ];
        let lines = [
            "# BENCH a | 1 CPU: insmod | instructions | 1",
            "# BENCH c | 1 CPU: insmod | instructions | 1",
            "# BENCH d | 1 CPU: insmod | instructions | 1",
            "# BENCH c | rmmod | instructions | 1",
        ];
        let table = filled(Table::default(), &lines);
        let lost = [
            "1 CPU: insmod: no figure for b",
            "2 CPUs: insmod: no figure for a, b",
        ];
        assert_eq!(table.lost(&must), lost);
        assert_eq!(table.unlisted(&must), ["1 CPU: insmod: a figure for c, d"]);
    }

    #[test]
    fn numbers_are_grouped() {
        for (value, text) in [
            ("1", "1"),
            ("1234", "1234"),
            ("12345.67", "12 345.67"),
            ("1.00", "1.00"),
            ("none at all", "none at all"),
        ] {
            assert_eq!(grouped(value), text);
        }
    }

    #[test]
    fn titles_are_broken_to_the_width_of_their_columns() {
        for (title, width, lines) in [
            ("eltwo", 9, &["eltwo"][..]),
            ("eltwo checked", 10, &["eltwo", "checked"]),
            ("eltwo checked", 13, &["eltwo checked"]),
            ("checked/stock", 8, &["checked/", "stock"]),
            ("a b longer", 3, &["a b", "longer"]),
        ] {
            assert_eq!(broken(title, width), lines);
        }
    }
}
