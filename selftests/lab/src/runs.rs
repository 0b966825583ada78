// SPDX-License-Identifier: GPL-2.0-only

//! The table of the VM runs of `make check`: which machine, which command line, which tests.

use std::time::Duration;

use crate::vm::Spec;

/// Words of every kernel command line: results need the console only if something goes wrong.
const COMMAND_LINE: &str = "console=ttyAMA0 panic=-1 loglevel=5";

/// What the kernel's own KVM is told on the command line.
const KVM_OFF: &str = "kvm-arm.mode=none";

/// Flavour of the kernel that the runs take.
pub const FLAVOUR: &str = "arm64";

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine powers off.
    PowerOff,
    /// The machine is reset and starts again; the lab ends it then.
    Reboot,
    /// Another kernel is started by kexec, runs its tests, and powers off.
    Kexec,
    /// The kernel panics on purpose; the crash kernel runs its tests and powers off.
    Kdump,
}

impl End {
    /// Whether the kernel starts another one.
    pub fn needs_kexec(self) -> bool {
        matches!(self, Self::Kexec | Self::Kdump)
    }
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
    pub memory_mib: u32,
    /// Whether the machine has EL2.
    pub el2: bool,
    /// What the command line says besides [`COMMAND_LINE`] and `eltwo.run=`.
    pub words: &'static [&'static str],
    /// Tests, in their order.
    pub tests: &'static [&'static str],
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
    /// The machine for this run, with `more` on the command line.
    pub fn spec(&self, more: &str) -> Spec {
        let words = [&self.words.join(" "), more].join(" ");
        Spec {
            cpu: self.cpu.to_owned(),
            cpus: self.cpus,
            memory_mib: self.memory_mib,
            el2: self.el2,
            its: !self.end.needs_kexec(),
            command_line: format!(
                "{COMMAND_LINE} {} eltwo.run={}",
                words.trim(),
                self.tests.join(",")
            ),
            reboot: self.end == End::Reboot,
            debug: false,
        }
    }

    /// The run in a few words: CPU model, number of CPUs, what is special on the command line.
    pub fn description(&self) -> String {
        let mut words = format!("{}, {} CPUs", self.cpu, self.cpus);
        if !self.el2 {
            words += ", no EL2";
        }
        let is_told = |word: &&&str| **word != KVM_OFF && !word.starts_with("eltwo.");
        for word in self.words.iter().filter(is_told) {
            words += &format!(", {word}");
        }
        words
    }
}

/// A run on four Cortex-A72 that powers off; the table changes what differs.
const BASE: Run = Run {
    name: "base",
    flavour: FLAVOUR,
    cpu: "cortex-a72",
    cpus: 4,
    memory_mib: 1024,
    el2: true,
    words: &[KVM_OFF],
    tests: &[],
    kvm_selftests: false,
    results: true,
    end: End::PowerOff,
    timeout: Duration::from_secs(300),
};

/// Tests that every machine must pass.
const COMMON: [&str; 10] = [
    "load_unload",
    "regs",
    "hypercalls",
    "map_unmap",
    "hotplug",
    "offline_at_load",
    "fail_at",
    "contain",
    "pool_too_small",
    "hibernate_core",
];

/// The machine on which the kernel's KVM selftests run. What the library takes for a guest of many programs is half a
/// gibibyte.
const KVM_SELFTESTS: Run = Run {
    memory_mib: 3072,
    tests: &["kvm_selftests"],
    kvm_selftests: true,
    timeout: Duration::from_secs(5400),
    ..BASE
};

/// What tells the VM to run those of the kernel's KVM selftests that must pass on eltwo.
const REQUIRED: &str = "eltwo.kvm_selftests=guest_print_test,arm64/mmio_sign_ext,arm64/psci_test,arm64/hypercalls,\
    arm64/smccc_filter,set_memory_region_test,kvm_create_max_vcpus,arm64/vcpu_width_config,arm64/kvm-uuid,\
    coalesced_io_test,arm64/external_aborts,get-reg-list,kvm_binary_stats_test,kvm_page_table_test,\
    arm64/page_fault_test";

/// One CPU model, with the kernel's own KVM and with eltwo, for all of the kernel's KVM selftests.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The kernel's own KVM, in the mode in which its EL2 code is apart from the kernel, as that of eltwo is.
    pub stock: Run,
    /// Eltwo.
    pub eltwo: Run,
}

/// The machines of `make kvm-selftests`, each called by its CPU model.
pub const PAIRS: [Pair; 2] = [
    Pair {
        stock: Run {
            name: "kvm-selftests-stock",
            words: &["kvm-arm.mode=nvhe"],
            ..KVM_SELFTESTS
        },
        eltwo: Run {
            name: "kvm-selftests-eltwo",
            ..KVM_SELFTESTS
        },
    },
    Pair {
        stock: Run {
            name: "kvm-selftests-stock",
            cpu: "max",
            words: &["kvm-arm.mode=nvhe"],
            ..KVM_SELFTESTS
        },
        eltwo: Run {
            name: "kvm-selftests-eltwo",
            cpu: "max",
            words: &[KVM_OFF, "id_aa64mmfr1.vh=0"],
            ..KVM_SELFTESTS
        },
    },
];

/// Tests of guests, each short.
const GUESTS: [&str; 8] = [
    "guest_basic",
    "guest_regs",
    "guest_psci_smp",
    "guest_signals",
    "guest_memory",
    "guest_undef",
    "guest_bad_input",
    "guest_fault",
];

/// The same with the kernel's own KVM, to see that it is KVM's behaviour that they test. It has no fault to provoke.
const GUESTS_OF_STOCK: &[&str] = GUESTS.split_at(7).0;

/// The runs of `make check`, the longest first, so that short ones fill the gaps.
pub const RUNS: [Run; 19] = [
    Run {
        name: "cycles",
        tests: &["load_unload_100", "hotplug_100"],
        timeout: Duration::from_secs(1800),
        ..BASE
    },
    Run {
        name: "base",
        tests: &COMMON,
        timeout: Duration::from_secs(600),
        ..BASE
    },
    Run {
        name: "max",
        cpu: "max",
        words: &[KVM_OFF, "id_aa64mmfr1.vh=0"],
        tests: &COMMON,
        timeout: Duration::from_secs(900),
        ..BASE
    },
    Run {
        name: "a53",
        cpu: "cortex-a53",
        tests: &COMMON,
        timeout: Duration::from_secs(600),
        ..BASE
    },
    Run {
        name: "kvm-selftests",
        words: &[KVM_OFF, REQUIRED],
        timeout: Duration::from_secs(1200),
        ..KVM_SELFTESTS
    },
    Run {
        name: "load",
        tests: &["hotplug_load", "cpu_hotplug_kselftest"],
        timeout: Duration::from_secs(600),
        ..BASE
    },
    Run {
        name: "guests-load",
        tests: &["guest_notifier", "guest_lifetime", "guest_migrate"],
        timeout: Duration::from_secs(900),
        ..BASE
    },
    Run {
        name: "guests",
        tests: &GUESTS,
        ..BASE
    },
    Run {
        name: "guests-max",
        cpu: "max",
        words: &[KVM_OFF, "id_aa64mmfr1.vh=0"],
        tests: &GUESTS,
        timeout: Duration::from_secs(600),
        ..BASE
    },
    Run {
        name: "guests-stock",
        cpu: "cortex-a53",
        words: &["kvm-arm.mode=nvhe"],
        tests: GUESTS_OF_STOCK,
        ..BASE
    },
    Run {
        name: "kexec",
        tests: &["kexec"],
        end: End::Kexec,
        ..BASE
    },
    Run {
        name: "kdump",
        words: &[KVM_OFF, "crashkernel=192M"],
        tests: &["kdump"],
        end: End::Kdump,
        ..BASE
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
        words: &[KVM_OFF, "id_aa64mmfr1.vh=0"],
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

/// The run of `make demo`.
pub const DEMO: Run = Run {
    name: "demo",
    tests: &["demo"],
    results: false,
    end: End::Kexec,
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
    }
}
