// SPDX-License-Identifier: GPL-2.0-only

//! `make check`: every test there is, one line per group, and a count at the end.

use std::{
    fs,
    path::Path,
    sync::Mutex,
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};

use anyhow::{
    Context as _,
    Result, //
};

use crate::{
    cache::{
        Cache,
        Lock, //
    },
    cmd::{
        self,
        Failure, //
    },
    image,
    ktap::Tally,
    module::{
        Build,
        Cargo,
        Products, //
    },
    runs::{
        Run,
        RUNS, //
    },
    session::Session,
    setup::Lab,
    ui::{
        Seconds,
        Ui, //
    },
};

/// Lines of a guest's console that are shown when its run fails.
const CONSOLE_TAIL: usize = 40;

/// Packages with a manifest of their own, and arguments that each needs.
const PACKAGES: [(&str, &[&str]); 3] = [
    ("", &["--all-targets"]),
    ("selftests/lab", &["--all-targets"]),
    ("selftests/vm", &["--target", "aarch64-unknown-linux-gnu"]),
];

/// Crate roots that no cargo package names.
const KERNEL_CRATES: [&str; 3] = [
    "rust/eltwo_main.rs",
    "rust/eltwo_hyp.rs",
    "rust/eltwo_builtins.rs",
];

/// All that the groups of tests need to know.
pub struct Check<'a> {
    /// What the user sees.
    pub ui: &'a Ui,
    /// The cache.
    pub cache: &'a Cache,
    /// The lab.
    pub lab: &'a Lab,
    /// The checkout.
    pub checkout: &'a Path,
    /// Number of VMs that run at a time.
    pub vms: usize,
    /// Names of the VM runs to do; all if empty.
    pub only: Vec<String>,
}

/// A group of tests that has ended.
struct Group {
    label: String,
    tally: Tally,
    took: Duration,
    /// What helps to understand a failure.
    details: Vec<String>,
}

impl Check<'_> {
    /// Runs all tests, and returns whether all is well.
    pub fn run(&self, lock: Lock) -> Result<bool> {
        let mut total = Tally::default();
        let mut count = |group: Group| {
            self.report(&group);
            total.add(group.tally);
        };
        if self.only.is_empty() {
            count(self.group("format", || self.format()));
            count(self.group("host tests", || self.cargo_tests("")));
            count(self.group("tests of the lab", || self.cargo_tests("selftests/lab")));
            for (package, arguments) in PACKAGES {
                let name = if package.is_empty() {
                    "common code"
                } else {
                    package
                };
                count(self.group(&format!("clippy: {name}"), || {
                    self.clippy(package, arguments)
                }));
            }
            count(self.group("clippy: module and EL2 image", || {
                self.build(&lock, true).map(|_| one_passed())
            }));
        }
        let mut products = None;
        count(self.group("build: module and EL2 image", || {
            products = Some(self.build(&lock, false)?);
            Ok(one_passed())
        }));
        let mut init = None;
        count(self.group("build: programs for the VM", || {
            init = Some(self.cargo().guest_init(self.ui, &lock)?);
            Ok(one_passed())
        }));
        if let Some(products) = &products {
            count(self.group("EL2 image", || check_image(products)));
        }
        drop(lock);
        // Whatever could not be built is a failure already; there is nothing to run then.
        if let (Some(products), Some(init)) = (products, init) {
            let session = Session::new(self.lab, self.cache, products, init);
            for group in self.vm_runs(&session)? {
                total.add(group.tally);
            }
        }
        let Tally {
            passed,
            failed,
            skipped,
        } = &total;
        self.ui.line(format_args!(
            "{passed} passed, {} failed, {} skipped",
            failed.len(),
            skipped.len()
        ));
        Ok(failed.is_empty())
    }

    fn cargo(&self) -> Cargo<'_> {
        Cargo {
            lab: self.lab,
            cache: self.cache,
            checkout: self.checkout,
        }
    }

    /// Runs one group; an error is a failure of the group itself.
    fn group(&self, label: &str, tests: impl FnOnce() -> Result<Tally>) -> Group {
        let start = Instant::now();
        let mut details = Vec::new();
        let tally = tests().unwrap_or_else(|error| {
            if let Some(failure) = error.downcast_ref::<Failure>() {
                details.extend(failure.details().lines().map(str::to_owned));
            }
            Tally {
                failed: vec![format!("{error:#}")],
                ..Tally::default()
            }
        });
        Group {
            label: label.to_owned(),
            tally,
            took: start.elapsed(),
            details,
        }
    }

    /// Prints a group: a line if all is well, what is wrong otherwise.
    fn report(&self, group: &Group) {
        let Tally {
            passed,
            failed,
            skipped,
        } = &group.tally;
        let mut counts = format!("{passed:>4} passed");
        if !failed.is_empty() {
            counts += &format!(", {} FAILED", failed.len());
        }
        if !skipped.is_empty() {
            counts += &format!(", {} skipped", skipped.len());
        }
        let took = Seconds(group.took);
        self.ui
            .line(format_args!("{:<56} {took} {counts}", group.label));
        for name in failed {
            self.ui.line(format_args!("    failed: {name}"));
        }
        for name in skipped {
            self.ui.line(format_args!("    skipped: {name}"));
        }
        for line in &group.details {
            self.ui.line(format_args!("    {line}"));
        }
    }

    fn format(&self) -> Result<Tally> {
        let mut tally = Tally::default();
        let log = self.cache.fresh_log("format")?;
        let remedy = "run cargo fmt in the package, or rustfmt on the file";
        for (package, _) in PACKAGES {
            let mut command = self.cargo().command(package)?;
            command.args(["fmt", "--check"]);
            cmd::run(command, &log, remedy, |_| ())?;
            tally.passed += 1;
        }
        for file in KERNEL_CRATES {
            let sandbox = self.lab.root.sandbox().with_input(self.checkout);
            let mut command = sandbox.command(self.checkout, "rustfmt");
            command.args(["--check", "--edition", "2021", file]);
            cmd::run(command, &log, remedy, |_| ())?;
            tally.passed += 1;
        }
        Ok(tally)
    }

    fn cargo_tests(&self, package: &str) -> Result<Tally> {
        let log = self.cache.fresh_log("cargo-test")?;
        let mut command = self.cargo().command(package)?;
        command.args(["test", "--locked", "--no-fail-fast"]);
        let mut tally = Tally::default();
        let result = cmd::run(command, &log, "mend the test, or what it tests", |line| {
            read_libtest(line, &mut tally);
        });
        if tally.failed.is_empty() {
            result?;
        }
        anyhow::ensure!(
            tally != Tally::default(),
            "cargo test ran no test; log: {}",
            log.display()
        );
        Ok(tally)
    }

    fn clippy(&self, package: &str, arguments: &[&str]) -> Result<Tally> {
        let log = self.cache.fresh_log("clippy")?;
        let mut command = self.cargo().command(package)?;
        command
            .args(["clippy", "--locked"])
            .args(arguments)
            .args(["--", "-D", "warnings"]);
        cmd::run(command, &log, "mend what clippy reports", |_| ())?;
        Ok(one_passed())
    }

    fn build(&self, lock: &Lock, lint: bool) -> Result<Products> {
        let kernel = self.lab.kernel("arm64")?;
        Build::in_lab(self.lab, self.checkout, kernel.prepared.path(), lint)
            .run(self.ui, self.cache, lock)
    }

    /// Runs the VMs, some at a time, and reports each when it has ended.
    fn vm_runs(&self, session: &Session<'_>) -> Result<Vec<Group>> {
        let wanted =
            |run: &&Run| self.only.is_empty() || self.only.iter().any(|name| name == run.name);
        let queue = Mutex::new(RUNS.iter().filter(wanted));
        let groups = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..self.vms.max(1) {
                scope.spawn(|| loop {
                    let Some(run) = queue.lock().ok().and_then(|mut queue| queue.next()) else {
                        return;
                    };
                    let group = self.vm_run(run, session);
                    self.report(&group);
                    if let Ok(mut groups) = groups.lock() {
                        groups.push(group);
                    }
                });
            }
        });
        let groups = groups
            .into_inner()
            .ok()
            .context("a thread that ran a VM panicked")?;
        anyhow::ensure!(!groups.is_empty(), "there is no VM run of that name");
        Ok(groups)
    }

    fn vm_run(&self, run: &Run, session: &Session<'_>) -> Group {
        let label = format!("VM {} ({})", run.name, run.description());
        let mut group = self.group(&label, || session.run(run, |_| ()));
        if !group.tally.failed.is_empty() {
            let dir = session.vm_dir(run.name);
            let console = dir.join("console.log");
            for log in [&dir.join("qemu.log"), &console] {
                let lines = cmd::tail(log, CONSOLE_TAIL);
                group
                    .details
                    .extend(lines.iter().map(|line| format!("| {line}")));
            }
            group.details.push(format!(
                "log: {} and results.log beside it",
                console.display()
            ));
        }
        group
    }
}

fn one_passed() -> Tally {
    Tally {
        passed: 1,
        ..Tally::default()
    }
}

/// Checks the EL2 image, and that the module takes only what the kernel exports.
fn check_image(products: &Products) -> Result<Tally> {
    let mut tally = Tally::default();
    let data = fs::read(&products.image)
        .with_context(|| format!("cannot read {}", products.image.display()))?;
    for check in image::check(&data)? {
        match check.offence {
            None => tally.passed += 1,
            Some(offence) => tally.failed.push(format!("{}: {offence}", check.name)),
        }
    }
    Ok(tally)
}

/// Reads a line of libtest: `test name ... ok`, `... FAILED` or `... ignored, why`.
fn read_libtest(line: &str, tally: &mut Tally) {
    let Some((name, result)) = line
        .strip_prefix("test ")
        .and_then(|rest| rest.split_once(" ... "))
    else {
        return;
    };
    match result.split(',').next().unwrap_or_default() {
        "ok" => tally.passed += 1,
        "FAILED" => tally.failed.push(name.to_owned()),
        "ignored" => tally.skipped.push(format!("{name}: {result}")),
        _ => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_libtest_counts_lines() {
        let mut tally = Tally::default();
        let text =
            "running 3 tests\ntest a ... ok\ntest b::c ... FAILED\ntest d ... ignored, slow\n\
                    test result: FAILED. 1 passed; 1 failed; 1 ignored";
        text.lines().for_each(|line| read_libtest(line, &mut tally));
        assert_eq!(tally.passed, 1);
        assert_eq!(tally.failed, ["b::c"]);
        assert_eq!(tally.skipped, ["d: ignored, slow"]);
    }
}
