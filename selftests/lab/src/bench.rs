// SPDX-License-Identifier: GPL-2.0-only

//! `make bench`: figures of machines that count instructions, as tables.
//!
//! A bench is a list of VM runs. Their tests print lines `# BENCH column | row | unit | figure`; the figures of all runs
//! of a bench make one table, whose rows and columns come in the order in which they are first named. A bench fails if a
//! test in a VM fails, if its table has not the cells that its list has (`list`), or if a ratio of two columns has a limit and
//! is above it in any row: the figures are counts of instructions, no times, so they do not depend on how busy the machine is
//! that counts them.

mod list;
mod table;

use anyhow::Result;

pub use self::list::BENCHES;
use self::table::{
    Cells,
    Figure,
    Ratio,
    Table, //
};

use crate::{
    cmd::{
        self,
        Failure, //
    },
    runs::Run,
    session::Session,
    ui::Ui, //
};

/// Where [`Bench::cells`] is written down.
const LIST: &str = "selftests/lab/src/bench/list.rs";

/// Lines of the console that are shown if a bench fails.
const CONSOLE_TAIL: usize = 40;

/// One table, and the runs that its figures come from.
#[derive(Debug)]
pub struct Bench {
    /// Its name on the command line.
    pub name: &'static str,
    title: &'static str,
    /// What is to be known of the figures, if it is not clear from the title, in lines.
    notes: &'static [&'static str],
    runs: &'static [Run],
    /// Columns that come first, in this order.
    columns: &'static [&'static str],
    /// The cells that its table must have, without ratios.
    cells: &'static [Cells],
    ratios: &'static [Ratio],
}

/// What a bench has given.
struct Report {
    /// Its table, with the title and the notes.
    lines: Vec<String>,
    /// What is wrong with it, in words.
    wrong: Vec<String>,
}

impl Bench {
    /// Adds the ratios to `table`, and looks whether all its figures are there.
    fn report(&self, mut table: Table) -> Report {
        let mut wrong = table.lost(self.cells);
        wrong.extend(table.unlisted(self.cells));
        if !wrong.is_empty() {
            wrong.push(format!(
                "the list of the bench {} ({LIST}) and what its VMs print differ: mend the one that is wrong",
                self.name
            ));
        }
        wrong.extend(table.above_limits(self.ratios));
        table.add_ratios(self.ratios);
        let title = match table.unit() {
            Some(unit) => format!("{}, in {unit}", self.title),
            None => self.title.to_owned(),
        };
        let notes = self.notes.iter().map(|note| (*note).to_owned());
        let lines = [title].into_iter().chain(notes).chain(table.lines());
        Report {
            lines: lines.collect(),
            wrong,
        }
    }
}

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
    let report = bench.report(table);
    failed.extend(report.wrong);
    ui.line("");
    for line in report.lines {
        ui.line(line);
    }
    ui.line("");
    for name in &failed {
        ui.line(format_args!("failed: {name}"));
    }
    Ok(failed.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Every figure that the VMs are to print for `bench`, as (row, column).
    fn printed(bench: &Bench) -> Vec<(String, &'static str)> {
        let cells = bench.cells.iter().flat_map(|cells| {
            let rows = cells.names().into_iter();
            rows.flat_map(|row| {
                cells
                    .columns
                    .iter()
                    .map(move |column| (row.clone(), *column))
            })
        });
        cells.collect()
    }

    /// A bench with such figures, as large as they are.
    fn report(bench: &Bench, figures: &[(String, &str)]) -> Report {
        let mut table = Table::with_columns(bench.columns);
        for (row, column) in figures {
            let line = format!("# BENCH {column} | {row} | instructions | 12345678");
            table.add(&Figure::parse(&line).expect("a figure"));
        }
        bench.report(table)
    }

    #[test]
    fn bench_with_all_figures_passes() {
        for bench in &BENCHES {
            let report = report(bench, &printed(bench));
            assert!(report.wrong.is_empty(), "{:?}", report.wrong);
        }
    }

    #[test]
    fn bench_without_any_one_of_its_figures_fails() {
        for bench in &BENCHES {
            let all = printed(bench);
            for lost in &all {
                let rest: Vec<_> = all.iter().filter(|one| *one != lost).cloned().collect();
                let wrong = report(bench, &rest).wrong;
                let (row, column) = lost;
                let named = wrong
                    .iter()
                    .any(|text| text.starts_with(&format!("{row}: no figure for {column}")));
                assert!(named, "{lost:?} is missed in {wrong:?}");
            }
        }
    }

    #[test]
    fn bench_with_a_figure_that_no_list_has_fails() {
        for bench in &BENCHES {
            let mut figures = printed(bench);
            let column = figures[0].1;
            figures.push(("new row".to_owned(), column));
            let wrong = report(bench, &figures).wrong;
            assert_eq!(wrong[0], format!("new row: a figure for {column}"));
        }
    }

    #[test]
    fn reports_fit_on_a_screen() {
        const WIDTH: usize = 100;
        for bench in &BENCHES {
            for line in report(bench, &printed(bench)).lines {
                assert!(line.len() <= WIDTH, "{} wide: {line}", line.len());
            }
        }
    }

    #[test]
    fn machines_of_the_life_cycle_differ_in_the_hypervisor_alone() {
        let lifecycle = BENCHES.iter().find(|bench| bench.name == "lifecycle");
        let runs = lifecycle.expect("the bench").runs;
        let is_stock = |run: &&Run| run.name.contains("stock");
        for stock in runs.iter().filter(is_stock) {
            let ours = runs
                .iter()
                .find(|run| run.cpus == stock.cpus && !is_stock(run))
                .expect("the same machine with eltwo");
            let line = |run: &Run| run.spec("").command_line;
            let as_ours = line(stock).replace("kvm-arm.mode=nvhe", "kvm-arm.mode=none");
            assert_eq!(as_ours, line(ours));
            let named = Run {
                name: ours.name,
                words: ours.words,
                ..stock.clone()
            };
            assert_eq!(format!("{named:?}"), format!("{ours:?}"));
        }
    }
}
