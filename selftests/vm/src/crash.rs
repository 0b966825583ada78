// SPDX-License-Identifier: GPL-2.0-only

//! Ways for a kernel to die while the module is loaded. `eltwo.panic=` on the command line names one.
//!
//! It is process 1 that does it, as it outlives every test, and what is to be going on meanwhile goes on in its threads.

use std::{
    fs::{
        self,
        File, //
    },
    path::Path,
    sync::{
        atomic::{
            AtomicU64,
            Ordering::Relaxed, //
        },
        Arc, //
    },
    thread,
    time::Duration, //
};

use anyhow::{
    anyhow,
    bail,
    Context,
    Result, //
};
use nix::kmod::{
    finit_module,
    ModuleInitFlags, //
};

use crate::{
    guest::{
        cpu,
        debugfs::Caller,
        kmsg,
        page::Pages, //
    },
    kvm::{
        image::Program,
        machine::Machine,
        poll, //
    },
};

/// What a line of the log begins with that says that something has ended which was to go on until the panic.
pub const ENDED: &str = "eltwo-test: it has ended: ";

/// A way to die.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Panic {
    /// On CPU 0, in a task, with nothing else going on.
    Idle,
    /// The same on another CPU.
    Secondary,
    /// On CPU 0, in a task, with CPU 1 offline.
    Offline,
    /// On CPU 0, in an interrupt that comes while the CPU is idle.
    Interrupt,
    /// In an interrupt that ends the run of a guest, with guests on all other CPUs.
    Guest,
    /// In an interrupt, with all CPUs making hypercalls all the time.
    Hypercall,
}

/// Hypercalls of each CPU after which they are under way.
const MANY: u64 = 20;

/// The CPU that is not the boot CPU.
const SECONDARY: usize = 1;

/// How long the CPUs are to be busy before one of them panics.
const BUSY: Duration = Duration::from_millis(200);

impl Panic {
    /// Each with its name.
    const ALL: [(Panic, &'static str); 6] = [
        (Panic::Idle, "idle"),
        (Panic::Secondary, "secondary"),
        (Panic::Offline, "offline"),
        (Panic::Interrupt, "interrupt"),
        (Panic::Guest, "guest"),
        (Panic::Hypercall, "hypercall"),
    ];

    /// The one that the command line names.
    pub fn ordered() -> Result<Self> {
        let line = fs::read_to_string("/proc/cmdline")?;
        let word = word(&line, "eltwo.panic").context("no eltwo.panic= on the command line")?;
        let mut all = Self::ALL.into_iter();
        all.find(|(_, name)| *name == word)
            .map(|(panic, _)| panic)
            .with_context(|| format!("eltwo.panic={word}?"))
    }

    /// What the kernel says when it panics.
    pub fn message(self) -> &'static str {
        match self {
            Panic::Idle | Panic::Secondary | Panic::Offline => "sysrq triggered crash",
            Panic::Interrupt | Panic::Guest | Panic::Hypercall => "eltwo_panic: in an interrupt",
        }
    }

    /// The CPU that panics.
    pub fn cpu(self) -> usize {
        match self {
            Panic::Idle | Panic::Offline | Panic::Interrupt => 0,
            Panic::Secondary | Panic::Guest | Panic::Hypercall => SECONDARY,
        }
    }

    /// CPUs that are offline then.
    pub fn offline(self) -> usize {
        usize::from(self == Panic::Offline)
    }

    /// The last line that this program puts into the log of the kernel that is about to die.
    pub fn last_words(self) -> String {
        format!("eltwo-test: dying: {self:?}")
    }

    /// Does it. Returns only if that fails.
    pub fn go(self) -> anyhow::Error {
        match self.try_to_die() {
            Ok(()) => anyhow!("the kernel does not panic"),
            Err(error) => error,
        }
    }

    fn try_to_die(self) -> Result<()> {
        match self {
            Panic::Offline => cpu::set_online(SECONDARY, false)?,
            Panic::Guest => {
                for cpu in cpu::online()? {
                    spin_on(cpu)?;
                }
                thread::sleep(BUSY);
            }
            Panic::Hypercall => {
                let busy = cpu::online()?.into_iter().map(keep_calling);
                let busy: Vec<_> = busy.collect();
                thread::sleep(BUSY);
                for calls in busy {
                    poll(|| calls.load(Relaxed) >= MANY).context("hypercalls are not under way")?;
                }
            }
            Panic::Idle | Panic::Secondary | Panic::Interrupt => {}
        }
        kmsg::mark(&self.last_words());
        match self {
            Panic::Idle | Panic::Secondary | Panic::Offline => cpu::on(self.cpu(), || {
                fs::write("/proc/sysrq-trigger", "c").context("sysrq-trigger")
            }),
            Panic::Interrupt | Panic::Guest | Panic::Hypercall => {
                let mut online = cpu::online()?.into_iter();
                let other = online.find(|cpu| *cpu != self.cpu()).context("one CPU")?;
                cpu::on(other, || interrupt(self.cpu()))
            }
        }
    }
}

/// The value of `name=value` among the words of a command line.
pub fn word<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut words = line.split_whitespace();
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// Has `cpu` panic in an interrupt.
fn interrupt(cpu: usize) -> Result<()> {
    const FILE: &str = "/eltwo_panic.ko";
    let file = File::open(Path::new(FILE)).context(FILE)?;
    let parameters = std::ffi::CString::new(format!("cpu={cpu}"))?;
    finit_module(&file, &parameters, ModuleInitFlags::empty()).context(FILE)
}

/// A guest that runs on `cpu` until the end.
fn spin_on(cpu: usize) -> Result<()> {
    let kvm = kvm_ioctls::Kvm::new().context("/dev/kvm")?;
    let machine = Machine::new(&kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    vcpu.start(Program::Spin, &[])?;
    let channel = vcpu.channel();
    thread::spawn(move || {
        let exit = cpu::on(cpu, || Ok(vcpu.run()));
        kmsg::mark(&format!("{ENDED}the guest on CPU {cpu}: {exit:?}"));
        drop(machine);
    });
    poll(|| channel.progress() != 0).context("the guest does not run")
}

/// A thread that calls EL2 from `cpu` until the end, and how often it has.
fn keep_calling(cpu: usize) -> Arc<AtomicU64> {
    let calls = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&calls);
    thread::spawn(move || {
        let error = call_for_ever(cpu, &count);
        kmsg::mark(&format!("{ENDED}the calls of CPU {cpu}: {error:?}"));
    });
    calls
}

/// Maps and unmaps memory at EL2, on `cpu`, until the end. Returns only if that fails.
fn call_for_ever(cpu: usize, calls: &AtomicU64) -> Result<()> {
    let pages = Pages::new(1)?;
    let mut caller = Caller::open()?;
    cpu::on(cpu, || loop {
        for call in ["share", "unshare"] {
            let answer = caller.call(&format!("{call} {:#x}", pages.pa(0)?))?;
            if answer.ok().is_err() {
                bail!("{call}: {answer:?}");
            }
            calls.fetch_add(1, Relaxed);
        }
    })
}
