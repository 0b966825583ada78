// SPDX-License-Identifier: GPL-2.0-only

//! What a VM run is: which machine, which command line, which tests; and the runs of the make targets. Those of `make check`
//! are in `table`.

use std::time::Duration;

use clap::ValueEnum;

use crate::{
    debug_kernel,
    debug_runs,
    vm::{
        Gic,
        Spec, //
    }, //
};

mod hooks;
mod kvm_selftests;
mod table;

pub use kvm_selftests::{
    Pair,
    PAIRS, //
};
pub use table::RUNS;

/// Words of every kernel command line: results need the console only if something goes wrong, and an emulated CPU that the host has
/// no time for is not stuck.
const COMMAND_LINE: &str =
    "console=ttyAMA0 panic=-1 loglevel=5 watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120";

/// What the kernel's own KVM is told on the command line.
const KVM_OFF: &str = "kvm-arm.mode=none";

/// Has the kernel run at EL1 on a CPU with VHE.
const NO_VHE: &str = "id_aa64mmfr1.vh=0";

/// What takes the kernel to EL1 and leaves EL2 to eltwo, on CPUs without and with VHE.
pub const CPU_HAS_NO_VHE: &[&str] = &[KVM_OFF];
pub const CPU_HAS_VHE: &[&str] = &[KVM_OFF, NO_VHE];

/// Memory for a crash kernel, on the command line.
const CRASH_MEMORY: &str = "crashkernel=192M";

/// Flavour of the kernel that the runs take, unless they say otherwise.
pub const FLAVOUR: &str = "arm64";

/// Flavour of the kernel with pages of 16 KiB.
const FLAVOUR_16K: &str = "arm64-16k";

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine powers off.
    PowerOff,
    /// The machine is reset and starts again; the lab ends it then.
    Reboot,
    /// Another kernel is started by kexec, runs its tests, and powers off.
    Kexec,
    /// The machine powers off with its state on its disk, is started again by the lab, and goes on, as often as it likes; at
    /// last it powers off.
    Hibernate,
    /// The kernel panics on purpose; the crash kernel runs its tests and powers off.
    Kdump,
}

impl End {
    /// Whether the kernel starts another one.
    pub fn needs_kexec(self) -> bool {
        matches!(self, Self::Kexec | Self::Kdump)
    }
}

/// A CPU model that `make demo` and `make shell` can be asked for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CpuModel {
    /// Armv8.0, with a GICv3.
    CortexA72,
    /// Armv8.0, with 40 bits of physical address.
    CortexA53,
    /// All that QEMU can emulate: LPA2, SVE, MTE, pointer authentication. VHE is kept out of use.
    Max,
}

/// One run of a VM.
#[derive(Clone, Debug)]
pub struct Run {
    /// Name of the run.
    pub name: &'static str,
    /// Flavour of the kernel.
    pub flavour: &'static str,
    /// QEMU's CPU model.
    pub cpu: &'static str,
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Where the memory of 1 GiB is, if not where the board has it.
    pub ram_base: Option<u64>,
    /// Whether the machine counts instructions, see [`Spec::counting`].
    pub counting: bool,
    /// Whether the machine has EL2.
    pub el2: bool,
    /// Whether idle CPUs are powered down, see [`Spec::idle_states`].
    pub idle_states: bool,
    /// The machine's interrupt controller.
    pub gic: Gic,
    /// What the command line says besides [`COMMAND_LINE`] and `eltwo.run=`.
    pub words: &'static [&'static str],
    /// Tests, in their order.
    pub tests: &'static [&'static str],
    /// Tests that may skip themselves, as the machine has not what they need; `None` if any may.
    pub may_skip: Option<&'static [&'static str]>,
    /// Whether the kernel's KVM selftests are at hand.
    pub kvm_selftests: bool,
    /// Whether the tests print results. A story does not; whoever reads it knows its end.
    pub results: bool,
    /// How it ends.
    pub end: End,
    /// Whether the tests leave eltwo loaded, so that the kernel finds it when it goes down in order. EL2 of every CPU must then be
    /// given back, and the test module says whether it is.
    pub loaded_at_end: bool,
    /// Limit of its duration.
    pub timeout: Duration,
}

impl Run {
    /// The same run on CPUs of `model`.
    pub fn on(&self, model: CpuModel) -> Self {
        let (cpu, words) = match model {
            CpuModel::CortexA72 => ("cortex-a72", CPU_HAS_NO_VHE),
            CpuModel::CortexA53 => ("cortex-a53", CPU_HAS_NO_VHE),
            CpuModel::Max => ("max", CPU_HAS_VHE),
        };
        Self {
            cpu,
            words,
            ..self.clone()
        }
    }

    /// The machine for this run, with `more` on the command line.
    pub fn spec(&self, more: &str) -> Spec {
        let mut words: Vec<&str> = self.words.to_vec();
        if self.counting {
            words.push("eltwo.counting=1");
        }
        words.push(more);
        let mut words = words.join(" ");
        if self.flavour == debug_kernel::FLAVOUR {
            words = words.replace(CRASH_MEMORY, debug_runs::CRASH_MEMORY);
            words += &format!(" eltwo.patience={}", debug_runs::PATIENCE);
            words += match self.ram_base {
                Some(base) if base >= KMEMLEAK_ENDS => " kmemleak=off eltwo.watch=lockdep",
                _ => " eltwo.watch=kmemleak,lockdep",
            };
        }
        Spec {
            cpu: self.cpu.to_owned(),
            cpus: self.cpus,
            memory_mib: self.memory_mib,
            ram_base: self.ram_base,
            counting: self.counting,
            el2: self.el2,
            idle_states: self.idle_states,
            gic: self.gic,
            its: !self.end.needs_kexec(),
            command_line: format!(
                "{COMMAND_LINE} {} eltwo.run={}",
                words.trim(),
                self.tests.join(",")
            ),
            reboot: self.end == End::Reboot,
            disk_mib: (self.end == End::Hibernate).then_some(DISK_MIB),
            debug: false,
        }
    }

    /// The run in a few words: CPU model, number of CPUs, what is special on the command line.
    pub fn description(&self) -> String {
        let mut words = format!("{}, {} CPUs", self.cpu, self.cpus);
        if !self.el2 {
            words += ", no EL2";
        }
        if self.gic == Gic::V2 {
            words += ", GICv2";
        }
        if self.idle_states {
            words += ", powered down when idle";
        }
        if self.flavour == FLAVOUR_16K {
            words += ", 16K pages";
        }
        if self.flavour == debug_kernel::FLAVOUR {
            words += ", debug kernel";
        }
        if let Some(base) = self.ram_base {
            words += &match base % (1 << 40) {
                0 => format!(", RAM at {} TiB", base >> 40),
                _ => format!(", RAM at {} GiB", base >> 30),
            };
        }
        // Words of ours are for the tests.
        let is_told = |word: &&&str| **word != KVM_OFF && !word.starts_with("eltwo.");
        for word in self.words.iter().filter(is_told) {
            words += &format!(", {word}");
        }
        words
    }
}

/// kmemleak looks at each page frame number between the first and the last of a zone (`kmemleak_scan`), and board RAM is at 1 GiB:
/// with a bank from here on it comes to no end.
const KMEMLEAK_ENDS: u64 = 1 << 40;

/// Size of the disk of a machine that hibernates: room for all of its memory.
const DISK_MIB: u64 = 1536;

/// A run on four Cortex-A72 that powers off; the table changes what differs.
pub const BASE: Run = Run {
    name: "base",
    flavour: FLAVOUR,
    cpu: "cortex-a72",
    cpus: 4,
    memory_mib: 1024,
    ram_base: None,
    counting: false,
    el2: true,
    idle_states: false,
    gic: Gic::V3,
    words: CPU_HAS_NO_VHE,
    tests: &[],
    may_skip: Some(&[]),
    kvm_selftests: false,
    results: true,
    end: End::PowerOff,
    loaded_at_end: false,
    timeout: Duration::from_secs(300),
};

/// Flavours of the kernel that `runs` need, and the usual one, which comes first.
pub fn flavours(runs: &[&Run]) -> Vec<&'static str> {
    let mut flavours = vec![FLAVOUR];
    for run in runs {
        if !flavours.contains(&run.flavour) {
            flavours.push(run.flavour);
        }
    }
    flavours
}

/// What only the debug kernel can do: each allocation fails in turn, the kernel's own among them.
pub const FAILSLAB: Run = Run {
    name: "failslab",
    tests: &["load_failslab", "guest_failslab"],
    ..BASE
};

/// The run of `make demo`.
pub const DEMO: Run = Run {
    name: "demo",
    tests: &["demo"],
    results: false,
    end: End::Kexec,
    ..BASE
};

/// The machine of `make soak`.
pub const SOAK: Run = Run {
    name: "soak",
    tests: &["soak"],
    ..BASE
};

/// The machine of `make shell`.
pub const SHELL: Run = Run {
    name: "shell",
    tests: &["shell"],
    ..BASE
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn runs_have_names_of_their_own() {
        let names: BTreeSet<_> = RUNS.iter().map(|run| run.name).collect();
        assert_eq!(names.len(), RUNS.len());
    }

    #[test]
    fn runs_that_restart_the_kernel_in_order_are_asked_who_owns_el2() {
        let mut restarts = RUNS
            .iter()
            .filter(|run| matches!(run.end, End::Reboot | End::Kexec));
        assert!(restarts.all(|run| run.loaded_at_end));
    }

    #[test]
    fn run_command_line_names_its_tests() {
        let spec = DEMO.spec("");
        assert!(spec
            .command_line
            .ends_with(" kvm-arm.mode=none eltwo.run=demo"));
        assert!(!spec.reboot);
        assert_eq!(DEMO.description(), "cortex-a72, 4 CPUs");
        assert_eq!(
            DEMO.on(CpuModel::Max).description(),
            "max, 4 CPUs, id_aa64mmfr1.vh=0"
        );
    }
}
