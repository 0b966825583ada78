// SPDX-License-Identifier: GPL-2.0-only

//! `make bench`: figures of machines that count instructions, as tables.
//!
//! A bench is a list of VM runs. Their tests print lines `# BENCH column | row | unit | figure`; the figures of all runs
//! of a bench make one table, whose rows and columns come in the order in which they are first named. A bench fails if a
//! test in a VM fails or gives no figure, or if a ratio of two columns has a limit and is above it in any row, or missing:
//! the figures are counts of instructions, no times, so they do not depend on how busy the machine is that counts them.

use std::time::Duration;

use anyhow::Result;

use crate::{
    cmd::{
        self,
        Failure, //
    },
    runs::{
        self,
        Run, //
    },
    session::Session,
    ui::Ui, //
};

/// Has the kernel's own KVM in the mode in which its EL2 code is apart from the kernel, as that of eltwo is.
const STOCK: &[&str] = &["kvm-arm.mode=nvhe"];

/// The machine of the bench of both ways to map memory at EL2.
const MAPS: Run = Run {
    name: "bench-maps",
    cpus: 1,
    counting: true,
    tests: &["bench_maps"],
    timeout: Duration::from_secs(900),
    ..runs::BASE
};

/// The machine of the bench of guests, with the kernel's own KVM.
const GUESTS_STOCK: Run = Run {
    name: "bench-guests-stock",
    words: STOCK,
    ..GUESTS
};

/// The machine of the bench of guests, with eltwo.
const GUESTS: Run = Run {
    name: "bench-guests",
    cpus: 1,
    counting: true,
    tests: &["bench_guests"],
    ..runs::BASE
};

/// The machines of the bench of the life cycle. Where the CPU is one with Spectre vectors, the kernel's own KVM warns when a
/// CPU comes online.
const LIFECYCLE: [Run; 7] = [
    lifecycle("bench-lifecycle-1", 1, runs::CPU_HAS_NO_VHE),
    lifecycle("bench-lifecycle-2", 2, runs::CPU_HAS_NO_VHE),
    lifecycle("bench-lifecycle-stock-2", 2, STOCK),
    lifecycle("bench-lifecycle-4", 4, runs::CPU_HAS_NO_VHE),
    lifecycle("bench-lifecycle-stock-4", 4, STOCK),
    lifecycle("bench-lifecycle-8", 8, runs::CPU_HAS_NO_VHE),
    lifecycle("bench-lifecycle-stock-8", 8, STOCK),
];

const fn lifecycle(name: &'static str, cpus: u32, words: &'static [&'static str]) -> Run {
    Run {
        name,
        cpu: "cortex-a53",
        cpus,
        counting: true,
        words,
        tests: &["bench_lifecycle"],
        timeout: Duration::from_secs(1800),
        ..runs::BASE
    }
}

/// How a line with a figure starts.
const MARK: &str = "# BENCH ";

/// Lines of the console that are shown if a bench fails.
const CONSOLE_TAIL: usize = 40;

/// One table, and the runs that its figures come from.
#[derive(Debug)]
pub struct Bench {
    /// Its name on the command line.
    pub name: &'static str,
    title: &'static str,
    /// What is to be known of the figures, if it is not clear from the title.
    note: &'static str,
    runs: &'static [Run],
    /// Columns that come first, in this order.
    columns: &'static [&'static str],
    ratios: &'static [Ratio],
}

/// A column that says how much one column is of another.
#[derive(Debug)]
struct Ratio {
    title: &'static str,
    of: &'static str,
    to: &'static str,
    /// What it may be at most, in every row.
    limit: Option<f64>,
}

/// Eltwo beside the stock KVM.
const ELTWO_TO_STOCK: Ratio = Ratio {
    title: "eltwo/stock",
    of: "eltwo",
    to: "stock KVM",
    limit: None,
};

/// All benches.
pub const BENCHES: [Bench; 3] = [
    Bench {
        name: "maps",
        title: "What EL2 maps: on demand, or all of RAM",
        note: "",
        runs: &[MAPS],
        columns: &[],
        ratios: &[],
    },
    Bench {
        name: "guests",
        title: "What an exit of a guest costs: the kernel's own KVM, and eltwo",
        note: "",
        runs: &[GUESTS_STOCK, GUESTS],
        columns: &[],
        ratios: &[Ratio {
            limit: Some(1.0),
            ..ELTWO_TO_STOCK
        }],
    },
    Bench {
        name: "lifecycle",
        title: "What it costs to take EL2 over and to give it back",
        note: "(instructions of all CPUs together, from the start of the system call to its end; idle CPUs execute none)",
        runs: &LIFECYCLE,
        columns: &["no hypervisor", "stock KVM", "eltwo"],
        ratios: &[
            Ratio {
                title: "stock/none",
                of: "stock KVM",
                to: "no hypervisor",
                limit: None,
            },
            Ratio {
                title: "eltwo/none",
                of: "eltwo",
                to: "no hypervisor",
                limit: None,
            },
            ELTWO_TO_STOCK,
        ],
    },
];

/// The benches that are named in `only`; all if it is empty.
pub fn chosen(only: &[String]) -> Result<Vec<&'static Bench>> {
    if let Some(name) = only
        .iter()
        .find(|name| BENCHES.iter().all(|bench| bench.name != **name))
    {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        let remedy = format!("name one of: {}", names.join(", "));
        return Err(Failure::new(format!("there is no bench {name}"), remedy).into());
    }
    let wanted = |bench: &&Bench| only.is_empty() || only.iter().any(|name| name == bench.name);
    Ok(BENCHES.iter().filter(wanted).collect())
}

/// The runs of some benches.
pub fn runs<'a>(benches: &[&'a Bench]) -> Vec<&'a Run> {
    benches.iter().flat_map(|bench| bench.runs).collect()
}

/// Does some benches and prints their tables. Returns whether all tests passed and all ratios are within their limits.
pub fn run(ui: &Ui, session: &Session<'_>, benches: &[&Bench]) -> Result<bool> {
    let mut good = true;
    for bench in benches {
        good &= run_one(ui, session, bench)?;
    }
    Ok(good)
}

fn run_one(ui: &Ui, session: &Session<'_>, bench: &Bench) -> Result<bool> {
    let mut table = Table::with_columns(bench.columns);
    let mut failed = Vec::new();
    for run in bench.runs {
        let label = format!(
            "bench {}: VM {} ({})",
            bench.name,
            run.name,
            run.description()
        );
        let tally = ui.step(&label, |step| {
            session.run(run, |line| {
                step.news(line.text());
                if let Some(figure) = Figure::parse(line.text()) {
                    table.add(&figure);
                }
            })
        })?;
        if !tally.failed.is_empty() {
            let console = session.vm_dir(run.name).join("console.log");
            for line in cmd::tail(&console, CONSOLE_TAIL) {
                ui.line(format_args!("    | {line}"));
            }
            ui.line(format_args!("    log: {}", console.display()));
        }
        failed.extend(tally.failed);
        // A bench that does not run gives no figures.
        failed.extend(tally.skipped);
    }
    failed.extend(table.above_limits(bench.ratios));
    table.add_ratios(bench.ratios);
    if table.rows.is_empty() {
        failed.push(format!("bench {} gave no figure", bench.name));
    }
    ui.line("");
    ui.line(bench.title);
    if !bench.note.is_empty() {
        ui.line(bench.note);
    }
    for line in table.lines() {
        ui.line(format_args!("  {line}"));
    }
    ui.line("");
    for name in &failed {
        ui.line(format_args!("failed: {name}"));
    }
    Ok(failed.is_empty())
}

/// A figure as a test printed it.
#[derive(Debug, PartialEq, Eq)]
struct Figure<'a> {
    column: &'a str,
    row: &'a str,
    unit: &'a str,
    value: &'a str,
}

impl<'a> Figure<'a> {
    fn parse(line: &'a str) -> Option<Self> {
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
    /// One figure divided by another, if both are there.
    fn ratio(&self, of: usize, to: usize) -> Option<f64> {
        let figure =
            |column: usize| -> Option<f64> { self.values.get(column)?.as_ref()?.parse().ok() };
        Some(figure(of)? / figure(to)?)
    }
}

/// The figures of a bench.
#[derive(Debug, Default)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Row>,
}

impl Table {
    fn with_columns(columns: &[&str]) -> Self {
        Self {
            columns: columns.iter().copied().map(str::to_owned).collect(),
            rows: Vec::new(),
        }
    }

    fn add(&mut self, figure: &Figure<'_>) {
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

    /// Adds a column for each of `ratios`. A row that lacks one of its figures gets none.
    fn add_ratios(&mut self, ratios: &[Ratio]) {
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

    /// What is wrong with the `ratios` that have a limit, each in words. They are compared as they are, not as they are shown.
    fn above_limits(&self, ratios: &[Ratio]) -> Vec<String> {
        let mut wrong = Vec::new();
        for ratio in ratios {
            let Some(limit) = ratio.limit else {
                continue;
            };
            let columns = self.column(ratio.of).zip(self.column(ratio.to));
            for row in &self.rows {
                let (title, name) = (ratio.title, &row.name);
                match columns.and_then(|(of, to)| row.ratio(of, to)) {
                    Some(value) if value <= limit => {}
                    Some(value) => {
                        wrong.push(format!("{title} of {name} is {value:.4}, above {limit}"));
                    }
                    None => wrong.push(format!("{title} of {name} is missing")),
                }
            }
        }
        wrong
    }

    /// The table as text: a heading, then one line per row; a figure that is missing is a dash.
    fn lines(&self) -> Vec<String> {
        let value = |row: &Row, column: usize| {
            let value = row.values.get(column).cloned().flatten();
            value.map_or_else(|| "-".to_owned(), |value| grouped(&value))
        };
        let name_width = self.rows.iter().map(|row| row.name.len()).max();
        let name_width = name_width.unwrap_or_default();
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(column, name)| {
                let values = self.rows.iter().map(|row| value(row, column).len());
                values.chain([name.len()]).max().unwrap_or_default()
            })
            .collect();
        let line = |name: &str, cells: Vec<String>, unit: &str| {
            let mut text = format!("{name:<name_width$}");
            for (cell, width) in cells.iter().zip(&widths) {
                text += &format!("  {cell:>width$}");
            }
            format!("{text}  {unit}").trim_end().to_owned()
        };
        let mut lines = vec![line("", self.columns.clone(), "")];
        lines.extend(self.rows.iter().map(|row| {
            let cells = (0..self.columns.len()).map(|column| value(row, column));
            line(&row.name, cells.collect(), &row.unit)
        }));
        lines
    }
}

/// The place of the item that `is_it` knows; if there is none, of a new one at the end.
fn position<T>(items: &mut Vec<T>, is_it: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> usize {
    items.iter().position(is_it).unwrap_or_else(|| {
        items.push(new());
        items.len() - 1
    })
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

    #[test]
    fn table_has_rows_and_columns_in_the_order_of_their_figures() {
        let mut table = Table::default();
        for line in [
            "  # BENCH a | insmod | instructions | 1234567",
            "# BENCH a | table pages | pages | 12",
            "# BENCH long name | insmod | instructions | 2",
            "# BENCH not a figure",
            "ok 1 # BENCH a | b | c | d",
        ] {
            if let Some(figure) = Figure::parse(line) {
                table.add(&figure);
            }
        }
        let expected = [
            "                     a  long name",
            "insmod       1 234 567          2  instructions",
            "table pages         12          -  pages",
        ];
        assert_eq!(table.lines(), expected);
    }

    #[test]
    fn ratios_need_both_figures() {
        let mut table = Table::with_columns(&["none", "first"]);
        for line in [
            "# BENCH second | exit | instructions | 500",
            "# BENCH first | exit | instructions | 2000",
            "# BENCH first | fault | instructions | 10",
        ] {
            if let Some(figure) = Figure::parse(line) {
                table.add(&figure);
            }
        }
        let ratio = |title, of, to| Ratio {
            title,
            of,
            to,
            limit: None,
        };
        table.add_ratios(&[
            ratio("ratio", "second", "first"),
            ratio("other", "first", "none"),
            ratio("no such", "first", "third"),
        ]);
        let expected = [
            "       none  first  second  ratio  other",
            "exit      -   2000     500   0.25      -  instructions",
            "fault     -     10       -      -      -  instructions",
        ];
        assert_eq!(table.lines(), expected);
    }

    #[test]
    fn ratios_above_their_limits_are_wrong() {
        let mut table = Table::default();
        for line in [
            "# BENCH stock KVM | less | instructions | 2000",
            "# BENCH stock KVM | equal | instructions | 2000",
            "# BENCH stock KVM | hardly more | instructions | 2000",
            "# BENCH eltwo | less | instructions | 1999",
            "# BENCH eltwo | equal | instructions | 2000",
            "# BENCH eltwo | hardly more | instructions | 2001",
            "# BENCH eltwo | alone | instructions | 1",
        ] {
            if let Some(figure) = Figure::parse(line) {
                table.add(&figure);
            }
        }
        let with = |limit| Ratio {
            limit,
            ..ELTWO_TO_STOCK
        };
        let expected = [
            "eltwo/stock of hardly more is 1.0005, above 1",
            "eltwo/stock of alone is missing",
        ];
        assert_eq!(table.above_limits(&[with(Some(1.0))]), expected);
        assert!(table.above_limits(&[with(Some(1.1))]).len() == 1);
        assert!(table.above_limits(&[with(None)]).is_empty());
        let none = Table::default();
        assert!(none.above_limits(&[with(Some(1.0))]).is_empty());
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
    fn benches_have_names_and_runs_of_their_own() {
        let all: Vec<&Bench> = BENCHES.iter().collect();
        let mut names: Vec<&str> = runs(&all).iter().map(|run| run.name).collect();
        names.extend(BENCHES.iter().map(|bench| bench.name));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(chosen(&["nothing".to_owned()]).is_err());
    }
}
