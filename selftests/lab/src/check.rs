// SPDX-License-Identifier: GPL-2.0-only

//! `make check`: every test there is, one line per group, and a count at the end.

use std::{
    ffi::OsStr,
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
    kselftest::KvmSelftests,
    ktap::Tally,
    module::{
        Build,
        Cargo,
        Products,
        Source,
        GUEST_TARGET, //
    },
    names,
    panics,
    runs::{
        Run,
        FLAVOUR,
        RUNS, //
    },
    session::Session,
    setup::Lab,
    ui::{
        Seconds,
        Step,
        Ui, //
    }, //
};

/// Lines of a guest's console that are shown when its run fails.
const CONSOLE_TAIL: usize = 40;

/// Failures that are named again at the end.
const FAILURES_NAMED: usize = 10;

/// A cargo package of the checkout.
struct Package {
    /// What it is called in the output.
    name: &'static str,
    /// Its directory in the checkout.
    dir: &'static str,
    /// Arguments of clippy, so that it sees all of the package.
    clippy: &'static [&'static str],
    /// When its tests can run.
    tests: Tests,
}

/// When the tests of a package can run.
#[derive(PartialEq, Eq)]
enum Tests {
    /// At any time.
    OnHost,
    /// When the EL2 image is there; they find it by a variable of the environment.
    OnImage,
    /// In a VM only.
    InVm,
}

/// The cargo packages of the checkout.
const PACKAGES: [Package; 5] = [
    Package {
        name: "common code",
        dir: "",
        clippy: &["--all-targets"],
        tests: Tests::OnHost,
    },
    Package {
        name: "life cycle of CPUs, exhaustively",
        dir: "selftests/lifecycle",
        clippy: &["--all-targets"],
        tests: Tests::OnHost,
    },
    Package {
        name: "lab",
        dir: "selftests/lab",
        clippy: &["--all-targets"],
        tests: Tests::OnHost,
    },
    Package {
        name: "model of the machine",
        dir: "selftests/model",
        clippy: &["--all-targets"],
        tests: Tests::OnImage,
    },
    Package {
        name: "programs for the VM",
        dir: "selftests/vm",
        clippy: &["--target", GUEST_TARGET],
        tests: Tests::InVm,
    },
];

/// Tells tests where the EL2 image is.
const IMAGE_VARIABLE: &str = "ELTWO_HYP_ELF";

/// Crate roots that no cargo package names.
const KERNEL_CRATES: &[&str] = &[
    "rust/eltwo_main.rs",
    "rust/eltwo_hyp.rs",
    "rust/eltwo_builtins.rs",
    "selftests/hyp/panics.rs",
    "selftests/kmod/eltwo_e2h.rs",
    "selftests/kmod/eltwo_hooks.rs",
    "selftests/kmod/eltwo_panic.rs",
    "selftests/kmod/eltwo_taken.rs",
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
    /// The VM runs to do.
    pub runs: Vec<&'a Run>,
    /// The flavours of the kernel that they need.
    pub flavours: Vec<&'static str>,
    /// What is not done, and why.
    pub left_out: Vec<String>,
    /// Whether to do nothing else.
    pub vms_only: bool,
}

/// The VM runs that are called for: those that are named in `only`, all if it is empty, none with `no_vm`.
pub fn chosen(only: &[String], no_vm: bool) -> Result<Vec<&'static Run>> {
    if let Some(name) = only
        .iter()
        .find(|name| RUNS.iter().all(|run| run.name != **name))
    {
        let names: Vec<&str> = RUNS.iter().map(|run| run.name).collect();
        let remedy = format!("name one of: {}", names.join(", "));
        return Err(Failure::new(format!("there is no VM run {name}"), remedy).into());
    }
    let wanted = |run: &&Run| only.is_empty() || only.iter().any(|name| name == run.name);
    Ok(match no_vm {
        true => Vec::new(),
        false => RUNS.iter().filter(wanted).collect(),
    })
}

/// A group of tests.
struct Group {
    label: String,
    tally: Tally,
    took: Duration,
    /// What helps to understand a failure.
    details: Vec<String>,
}

impl Group {
    /// Counts a test that passed.
    fn pass(&mut self) {
        self.tally.passed += 1;
    }

    /// Counts a test that could not be done to its end, with what the error says about it.
    fn fail(&mut self, error: &anyhow::Error) {
        self.tally.failed.push(format!("{error:#}"));
        if let Some(failure) = error.downcast_ref::<Failure>() {
            self.details
                .extend(failure.details().lines().map(str::to_owned));
        }
    }
}

impl Check<'_> {
    /// Runs all tests, and returns whether all is well.
    pub fn run(&self, lock: Lock) -> Result<bool> {
        let mut total = Tally::default();
        total.skipped.extend_from_slice(&self.left_out);
        for left_out in &self.left_out {
            self.ui.line(format_args!("skipped: {left_out}"));
        }
        if !self.vms_only {
            self.lints(&lock, &mut total);
            for package in PACKAGES
                .iter()
                .filter(|package| package.tests == Tests::OnHost)
            {
                let label = format!("tests: {}", package.name);
                self.group(&label, &mut total, |group, step| {
                    self.cargo_tests(package, None, group, step)
                });
            }
        }
        let mut session = self.build(&lock, &mut total);
        if self.needs_kvm_selftests() {
            session =
                session.and_then(|session| self.add_kvm_selftests(session, &lock, &mut total));
        }
        drop(lock);
        // What could not be built is a failure already; there is nothing to run then.
        if let Some(session) = session {
            // The usual image is tested with everything else; that for a kernel with instrumentation must have none of it.
            let tested = |flavour: &&&str| !self.vms_only || **flavour != FLAVOUR;
            for flavour in self.flavours.iter().filter(tested) {
                self.image_tests(flavour, session.products(flavour)?, &mut total);
            }
            self.vm_runs(&session, &mut total);
        }
        let Tally {
            passed,
            failed,
            skipped,
        } = &total;
        let (failures, skips) = (failed.len(), skipped.len());
        // Once more: much may have been printed since, and a reader of the log may have its end only.
        for failed in failed.iter().take(FAILURES_NAMED) {
            self.ui.line(format_args!("failed: {failed}"));
        }
        if let Some(more @ 1..) = failures.checked_sub(FAILURES_NAMED) {
            self.ui.line(format_args!("failed: {more} more"));
        }
        self.ui.line(format_args!(
            "{passed} passed, {failures} failed, {skips} skipped"
        ));
        Ok(failed.is_empty())
    }

    /// Runs one group, reports it and adds its counts to `total`. An error is a failure of the group.
    fn group(
        &self,
        label: &str,
        total: &mut Tally,
        tests: impl FnOnce(&mut Group, &Step) -> Result<()>,
    ) {
        let group = self.run_group(label, tests);
        self.report(&group);
        total.add(group.tally);
    }

    fn run_group(&self, label: &str, tests: impl FnOnce(&mut Group, &Step) -> Result<()>) -> Group {
        let start = Instant::now();
        let mut group = Group {
            label: label.to_owned(),
            tally: Tally::default(),
            took: Duration::ZERO,
            details: Vec::new(),
        };
        if let Err(error) = self.ui.busy(label, |step| tests(&mut group, step)) {
            group.fail(&error);
        }
        group.took = start.elapsed();
        group
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
        let mut text = format!("{:<56} {} {counts}", group.label, Seconds(group.took));
        let failed = failed.iter().map(|name| format!("failed: {name}"));
        let skipped = skipped.iter().map(|name| format!("skipped: {name}"));
        for line in failed.chain(skipped).chain(group.details.iter().cloned()) {
            text += &format!("\n    {line}");
        }
        // In one go: groups that run at the same time must not mix their lines.
        self.ui.line(text);
    }

    /// Checks the format of all sources, and what clippy thinks of them.
    fn lints(&self, lock: &Lock, total: &mut Tally) {
        self.group("format", total, |group, step| self.format(group, step));
        for package in &PACKAGES {
            let label = format!("clippy: {}", package.name);
            self.group(&label, total, |group, step| {
                self.clippy(package, group, step)
            });
        }
        self.group("clippy: module and EL2 image", total, |group, step| {
            for source in [Source::Module, Source::TestModules] {
                self.module_build(source, true)?
                    .make(self.cache, lock, step)?;
                group.pass();
            }
            Ok(())
        });
    }

    fn format(&self, group: &mut Group, step: &Step) -> Result<()> {
        let log = self.cache.fresh_log("format")?;
        let remedy = "run cargo fmt in the package, or rustfmt on the file";
        let mut commands = Vec::new();
        for package in &PACKAGES {
            let mut command = self.cargo().command(package.dir, &[])?;
            command.args(["fmt", "--check"]);
            commands.push(command);
        }
        for file in KERNEL_CRATES {
            let sandbox = self.lab.root.sandbox().with_input(self.checkout);
            let mut command = sandbox.command(self.checkout, "rustfmt");
            command.args(["--check", "--edition", "2021", file]);
            commands.push(command);
        }
        for command in commands {
            match cmd::run(command, &log, remedy, |line| step.news(line)) {
                Ok(()) => group.pass(),
                Err(error) => group.fail(&error),
            }
        }
        Ok(())
    }

    fn clippy(&self, package: &Package, group: &mut Group, step: &Step) -> Result<()> {
        let log = self.cache.fresh_log("clippy")?;
        let mut command = self.cargo().command(package.dir, &[])?;
        command
            .args(["clippy", "--locked"])
            .args(package.clippy)
            .args(["--", "-D", "warnings"]);
        cmd::run(command, &log, "mend what clippy reports", |line| {
            step.news(line)
        })?;
        group.pass();
        Ok(())
    }

    /// Runs the tests of a package, which may need the EL2 image at `image`.
    fn cargo_tests(
        &self,
        package: &Package,
        image: Option<&Path>,
        group: &mut Group,
        step: &Step,
    ) -> Result<()> {
        let log = self.cache.fresh_log("cargo-test")?;
        let variables: Vec<(&str, &OsStr)> = image
            .iter()
            .map(|image| (IMAGE_VARIABLE, image.as_os_str()))
            .collect();
        let mut command = self.cargo().command(package.dir, &variables)?;
        command.args(["test", "--locked", "--no-fail-fast"]);
        let remedy = "mend the test, or what it tests";
        let result = cmd::run(command, &log, remedy, |line| {
            step.news(line);
            read_libtest(line, &mut group.tally);
            // What a test has to say in any case.
            if let Some(figure) = line.strip_prefix("figure: ") {
                group.details.push(figure.to_owned());
            }
        });
        match result {
            Err(error) if group.tally.failed.is_empty() => Err(error),
            Err(_) => {
                let tail = cmd::tail(&log, CONSOLE_TAIL);
                group
                    .details
                    .extend(tail.iter().map(|line| format!("| {line}")));
                group.details.push(format!("log: {}", log.display()));
                Ok(())
            }
            Ok(()) => {
                anyhow::ensure!(
                    group.tally.passed != 0,
                    "no test ran; log: {}",
                    log.display()
                );
                Ok(())
            }
        }
    }

    fn cargo(&self) -> Cargo<'_> {
        Cargo {
            lab: self.lab,
            cache: self.cache,
            checkout: self.checkout,
        }
    }

    fn module_build(&self, source: Source, lint: bool) -> Result<Build<'_>> {
        let kernel = self.lab.kernel(FLAVOUR)?;
        Ok(Build {
            lint,
            ..Build::in_lab(self.lab, self.checkout, kernel, source)
        })
    }

    /// Builds what the VMs are made of.
    fn build(&self, lock: &Lock, total: &mut Tally) -> Option<Session<'_>> {
        let mut session = None;
        self.group(
            "build: module, EL2 image, programs for the VM",
            total,
            |group, step| {
                let flavours = &self.flavours;
                let built =
                    Session::build(self.cache, lock, step, self.lab, self.checkout, flavours)?;
                session = Some(built);
                group.tally.passed += flavours.len();
                Ok(())
            },
        );
        session
    }

    /// Whether one of the VM runs needs the kernel's KVM selftests.
    fn needs_kvm_selftests(&self) -> bool {
        self.runs.iter().any(|run| run.kvm_selftests)
    }

    /// Builds the kernel's KVM selftests. If that fails, which is a failure, nothing is left to run.
    fn add_kvm_selftests<'a>(
        &'a self,
        session: Session<'a>,
        lock: &Lock,
        total: &mut Tally,
    ) -> Option<Session<'a>> {
        let mut tests = None;
        self.group("build: the kernel's KVM selftests", total, |group, _| {
            tests = Some(KvmSelftests::ensure(self.ui, self.cache, lock, self.lab)?);
            group.pass();
            Ok(())
        });
        tests.map(|tests| session.with_kvm_selftests(tests))
    }

    /// Checks the EL2 image for one flavour of the kernel, and runs that for the usual one on the model of the machine.
    fn image_tests(&self, flavour: &str, products: &Products, total: &mut Tally) {
        let verdict = |group: &mut Group, name: &str, offence: Option<String>| match offence {
            None => group.pass(),
            Some(offence) => group.tally.failed.push(format!("{name}: {offence}")),
        };
        self.group(&format!("EL2 image: {flavour}"), total, |group, _| {
            let data = fs::read(&products.image)
                .with_context(|| format!("cannot read {}", products.image.display()))?;
            for check in image::check(&data)? {
                verdict(group, check.name, check.offence);
            }
            let table = fs::read_to_string(&products.names)?;
            let offence = names::check(&table, &data).err();
            let offence = offence.map(|error| format!("{error:#}"));
            verdict(group, "names_are_those_of_the_image", offence);
            Ok(())
        });
        if flavour != FLAVOUR {
            return;
        }
        self.group("EL2 image: no way to panic", total, |group, _| {
            let sandbox = self.lab.root.sandbox();
            panics::check(&sandbox, self.checkout, &products.image, |name, offence| {
                verdict(group, &name, offence);
            })
        });
        for package in PACKAGES
            .iter()
            .filter(|package| package.tests == Tests::OnImage)
        {
            let label = format!("tests: {}", package.name);
            self.group(&label, total, |group, step| {
                self.cargo_tests(package, Some(&products.image), group, step)
            });
        }
    }

    /// Runs the VMs, some at a time, and reports each when it has ended.
    fn vm_runs(&self, session: &Session<'_>, total: &mut Tally) {
        let queue = Mutex::new(self.runs.iter());
        let tallies = Mutex::new(total);
        thread::scope(|scope| {
            for _ in 0..self.vms.max(1) {
                scope.spawn(|| loop {
                    // A thread that panicked takes the whole scope down: no lock is poisoned here.
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some(run) = next else { return };
                    let group = self.vm_run(run, session);
                    self.report(&group);
                    if let Ok(mut total) = tallies.lock() {
                        total.add(group.tally);
                    }
                });
            }
        });
    }

    fn vm_run(&self, run: &Run, session: &Session<'_>) -> Group {
        let label = format!("VM {} ({})", run.name, run.description());
        self.run_group(&label, |group, step| {
            group.tally = session.run(run, |line| step.news(line.text()))?;
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
            Ok(())
        })
    }
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
