// SPDX-License-Identifier: GPL-2.0-only

//! The table of the VM runs of `make check`.

use super::{
    hooks,
    kvm_selftests::{
        KVM_SELFTESTS,
        REQUIRED, //
    },
    Duration,
    End,
    Run,
    BASE,
    CPU_HAS_VHE,
    CRASH_MEMORY,
    FLAVOUR_16K,
    KVM_OFF,
    NO_VHE,
    SOAK, //
};

/// A run that goes on with another kernel.
const KEXEC: Run = Run {
    name: "kexec",
    tests: &["kexec"],
    end: End::Kexec,
    loaded_at_end: true,
    ..BASE
};

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
        tests: &["fail_at", "refuse_taken"],
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
        may_skip: Some(&[KEYS]),
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
        may_skip: Some(&[KEYS, DEBUG_IDENTITY]),
        timeout: Duration::from_secs(600),
        ..BASE
    },
    Run {
        name: "guests-stock",
        cpu: "cortex-a53",
        words: &["kvm-arm.mode=nvhe"],
        tests: &GUESTS,
        may_skip: Some(&[KEYS, BRANCH_HISTORY]),
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
    KEXEC,
    Run {
        name: "kexec-given-back",
        words: &[KVM_OFF, "eltwo.before=stub_1"],
        ..KEXEC
    },
    Run {
        name: "kexec-faulted",
        words: &[KVM_OFF, "eltwo.before=fault"],
        ..KEXEC
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
        name: "kdump-given-back",
        words: &[
            KVM_OFF,
            CRASH_MEMORY,
            "eltwo.panic=idle",
            "eltwo.before=stub_1",
        ],
        ..KDUMP
    },
    Run {
        name: "kdump-faulted",
        words: &[
            KVM_OFF,
            CRASH_MEMORY,
            "eltwo.panic=secondary",
            "eltwo.before=fault",
        ],
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
        loaded_at_end: true,
        ..BASE
    },
    Run {
        name: "shutdown",
        tests: &["shutdown"],
        loaded_at_end: true,
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
