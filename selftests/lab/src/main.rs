// SPDX-License-Identifier: GPL-2.0-only

//! The lab: sets up, builds and runs eltwo on an emulated arm64 machine.
//!
//! It is started by the Makefile; `make help` lists what it does. Everything that it makes is in the cache
//! (`$XDG_CACHE_HOME/eltwo`), nothing in the checkout.

mod apt;
mod bench;
mod cache;
mod cells;
mod check;
mod cmd;
mod columns;
mod coverage;
mod debug_kernel;
mod debug_runs;
mod demo;
mod fdt;
mod guest;
mod high;
mod host;
mod idle;
mod image;
mod initramfs;
mod kernel;
mod kselftest;
mod ktap;
mod matrix;
mod module;
mod names;
mod owners;
mod panics;
mod root;
mod runs;
mod sandbox;
mod session;
mod setup;
mod soak;
mod steps;
mod symvers;
mod ui;
mod verdict;
mod vm;

use std::{
    path::{
        Path,
        PathBuf, //
    },
    process::ExitCode, //
};

use anyhow::{
    Context as _,
    Result, //
};
use clap::{
    builder::PossibleValuesParser,
    Parser,
    Subcommand, //
};

use crate::{
    cache::Cache,
    check::Check,
    cmd::Failure,
    coverage::Coverage,
    debug_runs::Plan,
    host::Arch,
    kernel::Spec,
    kselftest::KvmSelftests,
    matrix::Matrix,
    module::{
        Build,
        Cargo,
        Source, //
    },
    runs::{
        CpuModel,
        Run,
        FLAVOUR, //
    },
    session::Session,
    setup::Lab,
    ui::Ui, //
};

#[derive(Debug, Parser)]
#[command(about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Set up the lab: Debian root, kernel, programs for the VM.
    Setup,
    /// Build the module and the EL2 image.
    Build {
        /// The kernel tree to build against, instead of the running kernel's (on arm64) or the lab's.
        #[arg(long)]
        kdir: Option<PathBuf>,
    },
    /// Run all tests.
    Check {
        /// Number of VMs that run at a time.
        #[arg(long, default_value_t = 2)]
        vms: usize,
        /// Do only this VM run (may be repeated).
        #[arg(long = "run", conflicts_with = "no_vm")]
        only: Vec<String>,
        /// Run no VM.
        #[arg(long)]
        no_vm: bool,
    },
    /// Run the tests of the VM on a kernel that looks for errors.
    CheckDebug {
        /// Number of VMs that run at a time.
        #[arg(long, default_value_t = 2)]
        vms: usize,
        /// Do only this VM run (may be repeated).
        #[arg(long = "run")]
        only: Vec<String>,
    },
    /// Run the kernel's KVM selftests on the kernel's own KVM and on eltwo, and print both columns.
    KvmSelftests {
        /// The CPU model of the VMs.
        #[arg(long, value_parser = cpu_models(), default_value = runs::PAIRS[0].stock.cpu)]
        cpu: String,
        /// Run only this program (may be repeated).
        #[arg(long = "program")]
        only: Vec<String>,
    },
    /// Show which lines of the page-table code the tests on the host execute.
    Coverage,
    /// Count what things cost in a VM, and print tables.
    Bench {
        /// Do only this bench (may be repeated).
        #[arg(long = "run")]
        only: Vec<String>,
    },
    /// Do all hooks, loads and VMs in random order, for minutes or hours, and see what is left behind.
    Soak(soak::Options),
    /// Run a short set of tests on many machines, and print a table.
    Matrix {
        /// Number of VMs that run at a time.
        #[arg(long, default_value_t = 2)]
        vms: usize,
        /// Run only the cells that have this in their names (may be repeated).
        #[arg(long = "only")]
        only: Vec<String>,
        /// Print the names of the cells, and run nothing.
        #[arg(long)]
        list: bool,
    },
    /// Show the journey of the module in a VM, with timings.
    Demo {
        /// The CPUs of the VM.
        #[arg(long, value_enum, default_value_t = CpuModel::CortexA72)]
        cpu: CpuModel,
    },
    /// Open a shell in a VM that has the module at hand.
    Shell {
        /// The CPUs of the VM.
        #[arg(long, value_enum, default_value_t = CpuModel::CortexA72)]
        cpu: CpuModel,
        /// Let a debugger look in from outside (`gdb.sock` and `qmp.sock` in the directory that is printed).
        #[arg(long)]
        debug: bool,
    },
    /// Take each maintenance instruction out in turn, and see that the model of the machine notices.
    Mutants,
    /// Remove what was built; with `--all` the lab too.
    Clean {
        /// Remove the whole cache.
        #[arg(long)]
        all: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ui = Ui::new();
    match run(&ui, arguments.action) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            ui.line(format_args!("error: {error:#}"));
            if let Some(failure) = error.downcast_ref::<Failure>() {
                ui.line(failure.details());
            }
            ExitCode::FAILURE
        }
    }
}

/// Does what was asked for, and returns whether all is well.
fn run(ui: &Ui, action: Action) -> Result<bool> {
    let checkout = checkout()?;
    let cache = Cache::open()?;
    match action {
        Action::Setup => {
            let lock = cache.lock(ui)?;
            Lab::ensure(ui, &cache, &lock, kernel::VERSION, &[FLAVOUR])?;
            ui.line(format_args!(
                "the lab is ready in {}",
                cache.dir().display()
            ));
        }
        Action::Build { kdir } => build(ui, &cache, &checkout, kdir)?,
        Action::Check { vms, only, no_vm } => {
            let lock = cache.lock(ui)?;
            let runs = check::chosen(&only, no_vm)?;
            let flavours = runs::flavours(&runs);
            let lab = Lab::ensure(ui, &cache, &lock, kernel::VERSION, &flavours)?;
            let check = Check {
                ui,
                cache: &cache,
                lab: &lab,
                checkout: &checkout,
                vms,
                runs,
                flavours,
                left_out: Vec::new(),
                vms_only: !only.is_empty(),
            };
            return check.run(lock);
        }
        Action::CheckDebug { vms, only } => return check_debug(ui, &cache, &checkout, vms, &only),
        Action::KvmSelftests { cpu, only } => {
            return kvm_selftests(ui, &cache, &checkout, &cpu, &only)
        }
        Action::Coverage => return coverage(ui, &cache, &checkout),
        Action::Bench { only } => {
            let benches = bench::chosen(&only)?;
            let runs = bench::runs(&benches);
            return with_session(ui, &cache, &checkout, &runs, |session| {
                bench::run(ui, session, &benches)
            });
        }
        Action::Soak(options) => {
            let run = soak::run_of(&options);
            return with_session(ui, &cache, &checkout, &[&run], |session| {
                soak::run(ui, session, &run, &options)
            });
        }
        Action::Matrix { vms, only, list } => {
            let cells = matrix::chosen(&only)?;
            if list {
                for cell in &cells {
                    ui.line(cell);
                }
                return Ok(true);
            }
            let matrix = Matrix {
                ui,
                cache: &cache,
                checkout: &checkout,
                vms,
            };
            return matrix.run(&cells);
        }
        Action::Demo { cpu } => {
            let run = runs::DEMO.on(cpu);
            with_session(ui, &cache, &checkout, &[&run], |session| {
                demo::run(ui, session, &run)
            })?;
        }
        Action::Shell { cpu, debug } => {
            let run = runs::SHELL.on(cpu);
            with_session(ui, &cache, &checkout, &[&run], |session| {
                shell(ui, session, &run, debug)
            })?;
        }
        Action::Mutants => return mutants(ui, &cache, &checkout),
        Action::Clean { all } => clean(ui, &cache, all)?,
    }
    Ok(true)
}

/// The top of the source tree.
fn checkout() -> Result<PathBuf> {
    // Cargo says where the package is that it runs; a program that was copied elsewhere knows where it was built.
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let top = package.join("../..");
    top.canonicalize()
        .with_context(|| format!("cannot find the source tree at {}", top.display()))
}

/// Builds the module against the kernel that the user means.
fn build(ui: &Ui, cache: &Cache, checkout: &Path, kdir: Option<PathBuf>) -> Result<()> {
    const LABEL: &str = "module and EL2 image";
    let arch = Arch::of_host()?;
    let lock = cache.lock(ui)?;
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let running = PathBuf::from(format!("/lib/modules/{release}/build"));
    let own = kdir.or_else(|| {
        (arch == Arch::Arm64 && kernel::has_rust_metadata(&running)).then_some(running)
    });
    let products = match own {
        Some(kdir) => {
            let kdir = kdir
                .canonicalize()
                .with_context(|| format!("there is no kernel tree at {}", kdir.display()))?;
            if !kernel::has_rust_metadata(&kdir) {
                let cause = format!("the kernel tree {} has no Rust metadata", kdir.display());
                let remedy =
                    "build it with CONFIG_RUST=y and `make modules_prepare`, or leave KDIR out: \
                              the lab then prepares a tree for Debian's kernel";
                return Err(Failure::new(cause, remedy).into());
            }
            let build = Build {
                checkout,
                source: Source::Module,
                kdir: &kdir,
                arch,
                by_clang: false,
                sandbox: None,
                lint: false,
            };
            ui.step(LABEL, |step| build.module(cache, &lock, step))?
        }
        None => {
            let spec = spec_for(arch, &release)?;
            let lab = Lab::ensure(ui, cache, &lock, &spec.version, &[&spec.flavour])?;
            let kernel = lab.kernel(&spec.flavour)?;
            let build = Build::in_lab(&lab, checkout, kernel, Source::Module);
            ui.step(LABEL, |step| build.module(cache, &lock, step))?
        }
    };
    ui.line(format_args!("module:    {}", products.module.display()));
    ui.line(format_args!(
        "           {} with debug information",
        products.with_debug.display()
    ));
    ui.line(format_args!("EL2 image: {}", products.image.display()));
    ui.line(format_args!(
        "all {} symbols that it needs are exported by the kernel",
        products.kernel_symbols
    ));
    Ok(())
}

/// The kernel of Debian's that is built against where no kernel tree is at hand: the running one on arm64, else the lab's.
fn spec_for(arch: Arch, release: &str) -> Result<Spec> {
    match arch {
        Arch::Amd64 => Ok(Spec {
            version: kernel::VERSION.to_owned(),
            flavour: FLAVOUR.to_owned(),
        }),
        Arch::Arm64 => Spec::parse_release(release).ok_or_else(|| {
            let cause = format!(
                "the running kernel {release} is none of Debian's backports to 13, and \
                 /lib/modules/{release}/build has no Rust metadata"
            );
            let remedy =
                "name a kernel tree with CONFIG_RUST=y that has it: make KDIR=<kernel tree>";
            Failure::new(cause, remedy).into()
        }),
    }
}

/// Runs the tests of the VM on the debug kernel: those runs that are named in `only`, or all.
fn check_debug(
    ui: &Ui,
    cache: &Cache,
    checkout: &Path,
    vms: usize,
    only: &[String],
) -> Result<bool> {
    let plan = Plan::new(only)?;
    let lock = cache.lock(ui)?;
    let flavours = vec![debug_kernel::FLAVOUR];
    let lab = Lab::ensure(ui, cache, &lock, kernel::VERSION, &flavours)?;
    let check = Check {
        ui,
        cache,
        lab: &lab,
        checkout,
        vms,
        runs: plan.runs.iter().collect(),
        flavours,
        left_out: plan.left_out,
        vms_only: true,
    };
    check.run(lock)
}

/// Measures the coverage, and returns whether enough is covered.
fn coverage(ui: &Ui, cache: &Cache, checkout: &Path) -> Result<bool> {
    let lock = cache.lock(ui)?;
    let lab = Lab::ensure(ui, cache, &lock, kernel::VERSION, &[FLAVOUR])?;
    let coverage = Coverage {
        ui,
        cache,
        lab: &lab,
        checkout,
    };
    coverage.run(&lock)
}

/// Sets up and builds what `runs` need, and hands it to `work`, which may take its time: other runs of the lab need not
/// wait for it.
fn with_session<T>(
    ui: &Ui,
    cache: &Cache,
    checkout: &Path,
    runs: &[&Run],
    work: impl FnOnce(&Session<'_>) -> Result<T>,
) -> Result<T> {
    let lock = cache.lock(ui)?;
    let flavours = runs::flavours(runs);
    let lab = Lab::ensure(ui, cache, &lock, kernel::VERSION, &flavours)?;
    let session = ui.step("module, EL2 image, programs for the VM", |step| {
        Session::build(cache, &lock, step, &lab, checkout, &flavours)
    })?;
    drop(lock);
    work(&session)
}

/// The CPU models that the kernel's KVM selftests can run on.
fn cpu_models() -> PossibleValuesParser {
    PossibleValuesParser::new(runs::PAIRS.map(|pair| pair.stock.cpu))
}

/// Runs the kernel's KVM selftests on the CPU model `cpu`: those named in `only`, or all.
fn kvm_selftests(
    ui: &Ui,
    cache: &Cache,
    checkout: &Path,
    cpu: &str,
    only: &[String],
) -> Result<bool> {
    let pair = runs::PAIRS
        .into_iter()
        .find(|pair| pair.stock.cpu == cpu)
        .with_context(|| format!("no CPU model {cpu}"))?;
    let lock = cache.lock(ui)?;
    let lab = Lab::ensure(ui, cache, &lock, kernel::VERSION, &[FLAVOUR])?;
    let tests = KvmSelftests::ensure(ui, cache, &lock, &lab)?;
    let all = tests.names()?;
    let session = ui.step("module, EL2 image, programs for the VM", |step| {
        Session::build(cache, &lock, step, &lab, checkout, &[FLAVOUR])
    })?;
    let session = session.with_kvm_selftests(tests);
    drop(lock);
    columns::run(ui, &session, &all, &pair, only)
}

/// Opens a shell in a VM.
fn shell(ui: &Ui, session: &Session<'_>, run: &Run, debug: bool) -> Result<()> {
    ui.line("the module is /eltwo.ko; leave with `poweroff`, or Ctrl-A X");
    if debug {
        let dir = session.vm_dir(run.name);
        ui.line(format_args!("debugger sockets: {}", dir.display()));
    }
    let status = session.interactive(run, debug)?;
    anyhow::ensure!(status.success(), "QEMU failed ({status})");
    Ok(())
}

/// Runs the mutants on the model of the machine, which prints them, and returns whether all that survive are argued for.
fn mutants(ui: &Ui, cache: &Cache, checkout: &Path) -> Result<bool> {
    let lock = cache.lock(ui)?;
    let lab = Lab::ensure(ui, cache, &lock, kernel::VERSION, &[FLAVOUR])?;
    let build = Build::in_lab(&lab, checkout, lab.kernel(FLAVOUR)?, Source::Module);
    let products = ui.step("module and EL2 image", |step| {
        build.module(cache, &lock, step)
    })?;
    let cargo = Cargo {
        lab: &lab,
        cache,
        checkout,
    };
    let mut model = cargo.command("selftests/model", &[])?;
    model
        .args(["run", "--release", "--locked", "--quiet", "--"])
        .args(["mutants", "--elf"])
        .arg(&products.image);
    let status = model.status().context("cannot run cargo")?;
    Ok(status.success())
}

/// Removes what was built, and with `all` the whole cache but for the lock and the lab program itself.
fn clean(ui: &Ui, cache: &Cache, all: bool) -> Result<()> {
    let _lock = cache.lock(ui)?;
    if all {
        ui.step("removing the cache", |_| {
            for entry in std::fs::read_dir(cache.dir())? {
                let path = entry?.path();
                if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                    cache::remove_tree(&path)?;
                }
            }
            Ok(())
        })
    } else {
        for name in ["build", "run", "log"] {
            cache::remove_tree(&cache.join(name))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_to_build_against_is_never_another_than_the_running_one_on_arm64() {
        let debian = spec_for(Arch::Arm64, "7.2.9+deb13-arm64-16k").unwrap();
        assert_eq!(
            (debian.version.as_str(), debian.flavour.as_str()),
            ("7.2.9", "arm64-16k")
        );
        let other = spec_for(Arch::Arm64, "6.8.0-31-generic").unwrap_err();
        assert!(
            format!("{other:#}").contains("6.8.0-31-generic"),
            "{other:#}"
        );
        let cross = spec_for(Arch::Amd64, "6.8.0-31-generic").unwrap();
        assert_eq!(cross.version, kernel::VERSION);
    }
}
