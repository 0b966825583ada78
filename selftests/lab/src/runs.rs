// SPDX-License-Identifier: GPL-2.0-only

//! The table of the VM runs of `make check`: which machine, which command line, which tests.

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

pub use kvm_selftests::{
    Pair,
    PAIRS, //
};
use kvm_selftests::{
    KVM_SELFTESTS,
    REQUIRED, //
};

/// Words of every kernel command line: results need the console only if something goes wrong.
const COMMAND_LINE: &str = "console=ttyAMA0 panic=-1 loglevel=5";

/// What the kernel's own KVM is told on the command line.
const KVM_OFF: &str = "kvm-arm.mode=none";

/// Has the kernel run at EL1 on a CPU with VHE.
const NO_VHE: &str = "id_aa64mmfr1.vh=0";

/// What takes the kernel to EL1 and leaves EL2 to eltwo, on CPUs without and with VHE.
pub const CPU_HAS_NO_VHE: &[&str] = &[KVM_OFF];
pub const CPU_HAS_VHE: &[&str] = &[KVM_OFF, NO_VHE];

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
            // The crash kernel is as large as this one, and has a file system with kernel and module in it.
            words = words.replace("crashkernel=192M", "crashkernel=640M");
            words += &format!(" eltwo.watch=1 eltwo.patience={}", debug_runs::PATIENCE);
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
    timeout: Duration::from_secs(300),
};

/// Memory for a crash kernel, on the command line.
const CRASH_MEMORY: &str = "crashkernel=192M";

/// A small run that panics and goes on with the crash kernel.
const KDUMP: Run = Run {
    cpus: 2,
    memory_mib: 768,
    tests: &["kdump"],
    end: End::Kdump,
    ..BASE
};

/// Tests that every machine must pass.
const COMMON: [&str; 14] = [
    "machine",
    "load_unload",
    "regs",
    "hypercalls",
    "map_unmap",
    "map_linear",
    "tables_at",
    "hotplug",
    "offline_at_load",
    "admission",
    "selfcheck",
    "contain",
    "pool_too_small",
    "hibernate_core",
];

/// Tests of guests, each short.
const GUESTS: [&str; 12] = [
    "guest_basic",
    "guest_regs",
    "guest_psci_smp",
    "guest_signals",
    "guest_memory",
    "guest_undef",
    "guest_bad_input",
    "guest_bad_config",
    "guest_inputs",
    "guest_aarch32",
    "guest_mapped",
    "guest_host_state",
];

/// What of [`GUESTS`] not every CPU has.
const SVE_LIVES: &str = "sve_registers_live_across_kvm_run";
const SVE_OF_A_NEIGHBOUR: &str = "sve_registers_of_a_neighbour_live";
const KEYS: &str = "keys_of_pointer_authentication_stay";
const DEBUG_IDENTITY: &str = "debug_identity_is_readable";
const BRANCH_HISTORY: &str = "branch_history_is_cleared_as_the_core_needs";

/// Tests of how EL2's tables fit a machine.
const TABLES: [&str; 4] = ["machine", "load_unload", "map_linear", "tables_at"];

/// The runs of `make check`, the longest first, so that short ones fill the gaps.
pub const RUNS: &[Run] = &[
    Run {
        name: "cycles",
        tests: &["load_unload_100", "hotplug_100"],
        timeout: Duration::from_secs(1800),
        ..BASE
    },
    // Steps that fail do so alike on all machines.
    Run {
        name: "fail-at",
        tests: &["fail_at"],
        timeout: Duration::from_secs(600),
        ..BASE
    },
    Run {
        name: "base",
        words: &[
            KVM_OFF,
            "eltwo.expect=granule_bytes:4096,va_bits:39,levels:3,pa_bits:44,lpa2:0",
        ],
        tests: &COMMON,
        timeout: Duration::from_secs(600),
        ..BASE
    },
    Run {
        name: "max",
        cpu: "max",
        words: &[
            KVM_OFF,
            NO_VHE,
            "eltwo.expect=granule_bytes:4096,va_bits:39,levels:3,pa_bits:52,lpa2:1",
        ],
        tests: &COMMON,
        timeout: Duration::from_secs(900),
        ..BASE
    },
    Run {
        name: "a53",
        cpu: "cortex-a53",
        words: &[
            KVM_OFF,
            "eltwo.expect=granule_bytes:4096,va_bits:39,levels:3,pa_bits:40,lpa2:0",
        ],
        tests: &COMMON,
        timeout: Duration::from_secs(600),
        ..BASE
    },
    Run {
        name: "kvm-selftests",
        words: &[KVM_OFF, REQUIRED],
        // It is about guests that are 32-bit at EL1.
        may_skip: Some(&["vcpu_width_config"]),
        timeout: Duration::from_secs(1200),
        ..KVM_SELFTESTS
    },
    Run {
        name: "16k",
        flavour: FLAVOUR_16K,
        cpu: "cortex-a76",
        words: &[
            KVM_OFF,
            NO_VHE,
            "eltwo.expect=granule_bytes:16384,va_bits:36,levels:2,pa_bits:40,lpa2:0",
        ],
        tests: &COMMON,
        timeout: Duration::from_secs(600),
        ..BASE
    },
    hooks::HOOKS,
    hooks::HOOKS_ASLEEP,
    hooks::HIBERNATE,
    hooks::CPUIDLE,
    hooks::KEXEC_GUEST,
    hooks::REBOOT_GUEST,
    hooks::SHUTDOWN_GUEST,
    // For a short while, with a seed that is always the same.
    SOAK,
    Run {
        name: "load",
        tests: &["hotplug_load", "cpu_hotplug_kselftest"],
        timeout: Duration::from_secs(600),
        ..BASE
    },
    Run {
        name: "guests-load",
        tests: &[
            "guest_notifier",
            "guest_lifetime",
            "guest_migrate",
            "guest_fail_nth",
            "guest_vmids",
            "guest_charges",
        ],
        timeout: Duration::from_secs(900),
        ..BASE
    },
    Run {
        name: "guests",
        tests: &GUESTS,
        may_skip: Some(&[SVE_LIVES, SVE_OF_A_NEIGHBOUR, KEYS]),
        ..BASE
    },
    Run {
        name: "guests-max",
        cpu: "max",
        words: CPU_HAS_VHE,
        tests: &GUESTS,
        may_skip: Some(&[BRANCH_HISTORY]),
        timeout: Duration::from_secs(600),
        ..BASE
    },
    Run {
        name: "guests-16k",
        flavour: FLAVOUR_16K,
        cpu: "cortex-a76",
        words: CPU_HAS_VHE,
        tests: &GUESTS,
        may_skip: Some(&[SVE_LIVES, SVE_OF_A_NEIGHBOUR, KEYS, DEBUG_IDENTITY]),
        timeout: Duration::from_secs(600),
        ..BASE
    },
    Run {
        name: "guests-stock",
        cpu: "cortex-a53",
        words: &["kvm-arm.mode=nvhe"],
        tests: &GUESTS,
        may_skip: Some(&[SVE_LIVES, SVE_OF_A_NEIGHBOUR, KEYS, BRANCH_HISTORY]),
        ..BASE
    },
    Run {
        name: "faults",
        cpus: 2,
        tests: &["guest_fault"],
        ..BASE
    },
    Run {
        name: "faults-max",
        cpu: "max",
        cpus: 2,
        words: CPU_HAS_VHE,
        // On the CPU with SVE.
        tests: &["guest_fault", "guest_sve"],
        ..BASE
    },
    Run {
        name: "high",
        // RAM above the 512 GiB that 39 bits reach.
        ram_base: Some(514 << 30),
        words: &[
            KVM_OFF,
            "eltwo.expect=granule_bytes:4096,va_bits:48,levels:4,pa_bits:44,lpa2:0,idmap_above:39",
        ],
        tests: &TABLES,
        ..BASE
    },
    Run {
        name: "high-lpa2",
        cpu: "max",
        // RAM above the 256 TiB that 48 bits reach: tables of five levels, addresses of 50 bits.
        ram_base: Some(3 << 48),
        words: &[
            KVM_OFF,
            NO_VHE,
            "eltwo.expect=granule_bytes:4096,va_bits:52,levels:5,pa_bits:52,lpa2:1,idmap_above:48",
        ],
        tests: &TABLES,
        ..BASE
    },
    Run {
        name: "high-16k",
        flavour: FLAVOUR_16K,
        cpu: "max",
        ram_base: Some(3 << 48),
        words: &[
            KVM_OFF,
            NO_VHE,
            "eltwo.expect=granule_bytes:16384,va_bits:52,levels:4,pa_bits:52,lpa2:1,idmap_above:48",
        ],
        tests: &TABLES,
        ..BASE
    },
    Run {
        name: "n1",
        cpu: "neoverse-n1",
        words: &[
            KVM_OFF,
            NO_VHE,
            "eltwo.expect=granule_bytes:4096,va_bits:39,levels:3,pa_bits:48,lpa2:0",
        ],
        tests: &TABLES,
        ..BASE
    },
    Run {
        name: "kexec",
        tests: &["kexec"],
        end: End::Kexec,
        ..BASE
    },
    Run {
        name: "kdump-idle",
        words: &[KVM_OFF, CRASH_MEMORY, "eltwo.panic=idle"],
        ..KDUMP
    },
    Run {
        name: "kdump-secondary",
        words: &[KVM_OFF, CRASH_MEMORY, "eltwo.panic=secondary"],
        ..KDUMP
    },
    Run {
        name: "kdump-offline",
        cpus: 3,
        words: &[KVM_OFF, CRASH_MEMORY, "eltwo.panic=offline"],
        ..KDUMP
    },
    Run {
        name: "kdump-interrupt",
        words: &[KVM_OFF, CRASH_MEMORY, "eltwo.panic=interrupt"],
        ..KDUMP
    },
    Run {
        name: "kdump-guest",
        words: &[KVM_OFF, CRASH_MEMORY, "eltwo.panic=guest"],
        ..KDUMP
    },
    Run {
        name: "kdump-hypercall",
        words: &[KVM_OFF, CRASH_MEMORY, "eltwo.panic=hypercall"],
        ..KDUMP
    },
    Run {
        name: "maxcpus",
        words: &[KVM_OFF, "maxcpus=2"],
        tests: &["maxcpus"],
        ..BASE
    },
    Run {
        name: "reboot",
        tests: &["reboot"],
        end: End::Reboot,
        ..BASE
    },
    Run {
        name: "shutdown",
        tests: &["shutdown_paths"],
        ..BASE
    },
    Run {
        name: "vhe",
        cpu: "max",
        cpus: 2,
        words: &[],
        tests: &["refuse_vhe"],
        ..BASE
    },
    Run {
        name: "kvm",
        // On a CPU with Spectre vectors the kernel's own KVM warns when a CPU comes online (cpu_set_hyp_vector).
        cpu: "cortex-a53",
        cpus: 2,
        words: &["kvm-arm.mode=nvhe"],
        tests: &["refuse_kvm"],
        ..BASE
    },
    Run {
        name: "e2h",
        cpu: "max",
        cpus: 2,
        words: CPU_HAS_VHE,
        tests: &["refuse_e2h"],
        ..BASE
    },
    Run {
        name: "el1",
        cpus: 2,
        el2: false,
        tests: &["refuse_el1"],
        ..BASE
    },
];

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
