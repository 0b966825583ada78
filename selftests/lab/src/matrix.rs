// SPDX-License-Identifier: GPL-2.0-only

//! `make matrix`: a short set of tests on many machines, as one table.

use std::{
    fmt::Write as _,
    path::Path,
    sync::Mutex,
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};

use anyhow::Result;

use crate::{
    cache::{
        Cache,
        Lock, //
    },
    cells::{
        self,
        Cell,
        Release, //
    },
    cmd::{
        self,
        Failure, //
    },
    kernel,
    ktap::Tally,
    runs::{
        self,
        Run, //
    },
    session::Session,
    setup::Lab,
    ui::{
        Seconds,
        Ui, //
    }, //
};

/// Lines of the console that are shown if a cell fails.
const CONSOLE_TAIL: usize = 25;

/// Tests of each cell of the matrix. The last one is for CPUs with SVE.
const TESTS: &[&str] = &[
    "load_unload",
    "regs",
    "hypercalls",
    "tables_at",
    "hotplug",
    "contain",
    "guest_basic",
    "guest_sve",
];

/// What a machine with one CPU does without. Nothing else is skipped.
const NEED_TWO_CPUS: &[&str] = &[
    "hotplug",
    "regs_equal_at_hotplug_reset",
    "hotplug_works_after_a_fault",
];

/// The run of a cell.
fn run_of(cell: &Cell) -> Run {
    Run {
        // There are few of them, and they are used until the program ends.
        name: cell.to_string().leak(),
        flavour: cell.kernel.flavour,
        cpu: cell.model.name,
        cpus: cell.cpus,
        gic: cell.gic,
        words: match cell.model.has_vhe() {
            true => runs::CPU_HAS_VHE,
            false => runs::CPU_HAS_NO_VHE,
        },
        tests: match TESTS {
            [all @ .., _sve] if !cell.model.sve => all,
            all => all,
        },
        may_skip: match cell.cpus {
            1 => Some(NEED_TWO_CPUS),
            _ => Some(&[]),
        },
        timeout: Duration::from_secs(900),
        ..runs::BASE
    }
}

/// What is asked of the matrix.
pub struct Matrix<'a> {
    /// What the user sees.
    pub ui: &'a Ui,
    /// The cache.
    pub cache: &'a Cache,
    /// The checkout.
    pub checkout: &'a Path,
    /// Number of VMs that run at a time.
    pub vms: usize,
}

/// The labs: that of the pinned kernel, and that of the newest if there is a newer one.
struct Labs {
    pinned: Lab,
    newest: Option<Lab>,
}

/// A row of the table.
struct Row {
    cell: Cell,
    kernel: String,
    tally: Tally,
    took: Duration,
}

/// The cells whose names have one of the words in `only`; all if there is none.
pub fn chosen(only: &[String]) -> Result<Vec<Cell>> {
    let wanted =
        |cell: &Cell| only.is_empty() || only.iter().any(|word| cell.to_string().contains(word));
    let cells: Vec<Cell> = cells::covering().into_iter().filter(wanted).collect();
    if cells.is_empty() {
        let cause = format!("no cell has {} in its name", only.join(" or "));
        return Err(Failure::new(cause, "--list prints their names").into());
    }
    Ok(cells)
}

impl Matrix<'_> {
    /// Runs the tests in all of `cells`, prints the table, and returns whether all is well.
    pub fn run(&self, cells: &[Cell]) -> Result<bool> {
        let start = Instant::now();
        let lock = self.cache.lock(self.ui)?;
        let mut total = Tally::default();
        let labs = self.labs(&lock, cells, &mut total)?;
        let pinned = self.session(&lock, &labs.pinned, cells, Release::Pinned)?;
        let newest = labs.newest.as_ref().map(|lab| {
            let session = self.session(&lock, lab, cells, Release::Newest)?;
            Ok((lab.source.upstream(), session))
        });
        drop(lock);
        // What does not build with the newest kernel is a failure; the others have their turn all the same.
        let newest = newest.transpose().unwrap_or_else(|error: anyhow::Error| {
            total.failed.push(format!("newest kernel: {error:#}"));
            None
        });
        let mut queue = Vec::new();
        for cell in cells {
            match (cell.kernel.release, &newest) {
                (Release::Pinned, _) => queue.push((cell, labs.pinned.source.upstream(), &pinned)),
                (Release::Newest, Some((version, session))) => {
                    queue.push((cell, *version, session));
                }
                // Told already, once for all cells.
                (Release::Newest, None) => {}
            }
        }
        let rows = self.rows(queue);
        self.tell(&rows);
        for row in rows {
            total.add(row.tally);
        }
        self.finish(&total, start.elapsed());
        Ok(total.failed.is_empty())
    }

    /// Sets up what `cells` need. That there is no newer kernel is a skip, and that it cannot be had a failure.
    fn labs(&self, lock: &Lock, cells: &[Cell], total: &mut Tally) -> Result<Labs> {
        let (ui, cache) = (self.ui, self.cache);
        let wanted = flavours(cells, Release::Pinned);
        let pinned = Lab::ensure(ui, cache, lock, kernel::VERSION, &wanted)?;
        let newest = match flavours(cells, Release::Newest).as_slice() {
            [] => None,
            wanted => match Lab::ensure_newest(ui, cache, lock, wanted) {
                Ok(None) => {
                    let version = kernel::VERSION;
                    let why = format!("newest kernel: the archive has none after {version}");
                    total.skipped.push(why);
                    None
                }
                Ok(lab) => lab,
                Err(error) => {
                    total.failed.push(format!("newest kernel: {error:#}"));
                    None
                }
            },
        };
        Ok(Labs { pinned, newest })
    }

    fn session<'a>(
        &'a self,
        lock: &Lock,
        lab: &'a Lab,
        cells: &[Cell],
        release: Release,
    ) -> Result<Session<'a>> {
        let flavours = flavours(cells, release);
        let label = format!("module, EL2 image for kernel {}", lab.source.upstream());
        self.ui.step(&label, |step| {
            Session::build(self.cache, lock, step, lab, self.checkout, &flavours)
        })
    }

    /// Runs the cells, some at a time, and returns them in their order.
    fn rows(&self, queue: Vec<(&Cell, &str, &Session<'_>)>) -> Vec<Row> {
        let queue = Mutex::new(queue.into_iter().enumerate());
        let rows = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..self.vms.max(1) {
                scope.spawn(|| loop {
                    // A thread that panicked takes the whole scope down: no lock is poisoned here.
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some((place, (cell, version, session))) = next else {
                        return;
                    };
                    let row = self.row(*cell, version, session);
                    if let Ok(mut rows) = rows.lock() {
                        rows.push((place, row));
                    }
                });
            }
        });
        let mut rows = rows.into_inner().unwrap_or_default();
        rows.sort_by_key(|(place, _)| *place);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    fn row(&self, cell: Cell, version: &str, session: &Session<'_>) -> Row {
        let start = Instant::now();
        let run = run_of(&cell);
        let result = self.ui.busy(run.name, |step| {
            session.run(&run, |line| step.news(line.text()))
        });
        let tally = result.unwrap_or_else(|error| Tally {
            failed: vec![format!("{}: {error:#}", run.name)],
            ..Tally::default()
        });
        let row = Row {
            cell,
            kernel: format!("{version} {}", cell.kernel.flavour),
            tally,
            took: start.elapsed(),
        };
        let mut text = format!("{:<44}{} {}", run.name, Seconds(row.took), row.counts());
        if !row.tally.failed.is_empty() {
            let console = session.vm_dir(run.name).join("console.log");
            for failed in &row.tally.failed {
                let _ = write!(text, "\n    failed: {failed}");
            }
            for line in cmd::tail(&console, CONSOLE_TAIL) {
                let _ = write!(text, "\n    | {line}");
            }
            let _ = write!(text, "\n    log: {}", console.display());
        }
        self.ui.line(text);
        row
    }

    /// Prints the table.
    fn tell(&self, rows: &[Row]) {
        let width = rows.iter().map(|row| row.kernel.len()).max();
        let width = width.unwrap_or_default().max("kernel".len());
        self.ui.line(format_args!(
            "\n{:<width$}  {:<12} {:>4}  {:<5}  {:>6} {:>6} {:>7}  {:>8}",
            "kernel", "CPU model", "CPUs", "GIC", "passed", "failed", "skipped", "time"
        ));
        for row in rows {
            let Cell {
                model, cpus, gic, ..
            } = row.cell;
            let gic = format!("GICv{}", gic.version());
            self.ui.line(format_args!(
                "{:<width$}  {:<12} {cpus:>4}  {gic}  {}  {}",
                row.kernel,
                model.name,
                row.counts(),
                Seconds(row.took)
            ));
        }
        self.ui.line("");
    }

    /// Prints what was skipped, what failed, and the counts.
    fn finish(&self, total: &Tally, took: Duration) {
        for name in &total.skipped {
            self.ui.line(format_args!("skipped: {name}"));
        }
        for name in &total.failed {
            self.ui.line(format_args!("failed: {name}"));
        }
        self.ui
            .line(format_args!("took {:.1} s", took.as_secs_f64()));
        let (failed, skipped) = (total.failed.len(), total.skipped.len());
        self.ui.line(format_args!(
            "{} passed, {failed} failed, {skipped} skipped",
            total.passed
        ));
    }
}

impl Row {
    fn counts(&self) -> String {
        let Tally {
            passed,
            failed,
            skipped,
        } = &self.tally;
        format!("{passed:>6} {:>6} {:>7}", failed.len(), skipped.len())
    }
}

/// Flavours of the kernels of `release` that `cells` need.
fn flavours(cells: &[Cell], release: Release) -> Vec<&'static str> {
    let mut flavours: Vec<&str> = cells
        .iter()
        .filter(|cell| cell.kernel.release == release)
        .map(|cell| cell.kernel.flavour)
        .collect();
    flavours.sort_unstable();
    flavours.dedup();
    flavours
}
