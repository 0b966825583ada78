// SPDX-License-Identifier: GPL-2.0-only

//! A built module together with the lab: ready to be put into VMs.

use std::{
    collections::BTreeMap,
    fs,
    path::{
        Path,
        PathBuf, //
    },
    process::ExitStatus,
    time::Instant, //
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
    guest::Payload,
    kselftest::KvmSelftests,
    ktap::Tally,
    module::{
        Build,
        Cargo,
        Products,
        Source, //
    },
    runs::{
        End,
        Run, //
    },
    setup::Lab,
    steps::Steps,
    ui::Step,
    verdict::Reader,
    vm::{
        self,
        Event,
        Line,
        Vm, //
    }, //
};

/// What VMs are made of.
#[derive(Debug)]
pub struct Session<'a> {
    lab: &'a Lab,
    cache: &'a Cache,
    /// What was built for each flavour of the kernel.
    modules: BTreeMap<String, Modules>,
    /// The program that is `/init` and all tests of the VM.
    init: PathBuf,
    /// The steps of the module that can be made to fail.
    steps: Steps,
    /// The kernel's KVM selftests, for the runs that need them.
    kvm_selftests: Option<KvmSelftests>,
}

/// The modules for one flavour of the kernel.
#[derive(Debug)]
struct Modules {
    products: Products,
    /// Those that only tests load.
    test_modules: Vec<PathBuf>,
}

impl<'a> Session<'a> {
    /// Builds the module and those that only tests load for each of `flavours`, and the programs for the VM.
    pub fn build(
        cache: &'a Cache,
        lock: &Lock,
        step: &Step,
        lab: &'a Lab,
        checkout: &Path,
        flavours: &[&str],
    ) -> Result<Self> {
        let mut modules = BTreeMap::new();
        for flavour in flavours {
            let kernel = lab.kernel(flavour)?;
            let build = |source| Build::in_lab(lab, checkout, kernel, source);
            let built = Modules {
                products: build(Source::Module).module(cache, lock, step)?,
                test_modules: build(Source::TestModules).test_modules(cache, lock, step)?,
            };
            modules.insert((*flavour).to_owned(), built);
        }
        cache.prune_vm_dirs()?;
        let init = Cargo {
            lab,
            cache,
            checkout,
        }
        .guest_init(lock, step)?;
        Ok(Self {
            lab,
            cache,
            modules,
            init,
            steps: Steps::read(checkout)?,
            kvm_selftests: None,
        })
    }

    /// The same, with the kernel's KVM selftests.
    pub fn with_kvm_selftests(self, tests: KvmSelftests) -> Self {
        Self {
            kvm_selftests: Some(tests),
            ..self
        }
    }

    /// The module for `flavour` and its EL2 image.
    pub fn products(&self, flavour: &str) -> Result<&Products> {
        Ok(&self.modules(flavour)?.products)
    }

    fn modules(&self, flavour: &str) -> Result<&Modules> {
        self.modules
            .get(flavour)
            .with_context(|| format!("nothing was built for flavour {flavour}"))
    }

    /// The directory with the files of the VM called `name`, and of no other one.
    pub fn vm_dir(&self, name: &str) -> PathBuf {
        self.cache.vm_dir(name)
    }

    fn archive(&self, run: &Run) -> Result<Vec<u8>> {
        let modules = self.modules(run.flavour)?;
        let payload = Payload {
            userland: &self.lab.userland,
            module: &modules.products.module,
            test_modules: &modules.test_modules,
            init: &self.init,
            steps: &self.steps,
            source: &self.lab.source.path(),
            image: &self.lab.kernel(run.flavour)?.image(),
        };
        let kvm_selftests = match (run.kvm_selftests, &self.kvm_selftests) {
            (false, _) => None,
            (true, Some(tests)) => Some(tests),
            (true, None) => anyhow::bail!("the kernel's KVM selftests were not built"),
        };
        payload.archive(kvm_selftests, run.end.needs_kexec())
    }

    /// Runs a VM to its end or to its time limit, shows each line to `on_line`, and counts the results. The files of
    /// the VM stay, but for its file system.
    pub fn run(&self, run: &Run, on_line: impl FnMut(&Line)) -> Result<Tally> {
        self.run_with(run, "", on_line)
    }

    /// The same, with `more` on the command line of the kernel.
    pub fn run_with(&self, run: &Run, more: &str, mut on_line: impl FnMut(&Line)) -> Result<Tally> {
        let image = self.lab.kernel(run.flavour)?.image();
        let sandbox = self.lab.root.sandbox();
        let dir = self.vm_dir(run.name);
        let archive = self.archive(run)?;
        let mut vm = Vm::start(&sandbox, &run.spec(more), &image, &archive, &dir)?;
        let mut reader = Reader::new(run);
        let deadline = Instant::now() + run.timeout;
        let cut = loop {
            match vm.next(deadline)? {
                Event::Line(line) => {
                    on_line(&line);
                    reader.read(&line);
                }
                Event::Exit(status) if status.success() && reader.starts_again() => {
                    vm.start_again()?;
                }
                Event::Exit(status) if status.success() => break None,
                Event::Exit(status) => break Some(format!("QEMU failed ({status})")),
                Event::Deadline => break Some(format!("no end after {} s", run.timeout.as_secs())),
            }
            if reader.is_over() {
                break None;
            }
        };
        drop(vm);
        fs::remove_file(dir.join(vm::INITRD))?;
        if run.end == End::Hibernate {
            fs::remove_file(dir.join(vm::DISK))?;
        }
        Ok(reader.finish(cut))
    }

    /// Runs a VM whose console is the user's terminal.
    pub fn interactive(&self, run: &Run, debug: bool) -> Result<ExitStatus> {
        let image = self.lab.kernel(run.flavour)?.image();
        let spec = vm::Spec {
            debug,
            ..run.spec("")
        };
        let dir = self.vm_dir(run.name);
        vm::interactive(
            &self.lab.root.sandbox(),
            &spec,
            &image,
            &self.archive(run)?,
            &dir,
        )
    }
}
