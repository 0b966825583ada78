// SPDX-License-Identifier: GPL-2.0-only

//! The VM runs about the hooks by which CPUs go and come.

use super::{
    Duration,
    End,
    Gic,
    Run,
    BASE,
    KVM_OFF, //
};

/// Pairs of hooks.
pub const HOOKS: Run = Run {
    name: "hooks",
    cpus: 3,
    tests: &["hooks"],
    timeout: Duration::from_secs(900),
    ..BASE
};

/// Pairs of hooks of which one puts the machine to sleep.
pub const HOOKS_ASLEEP: Run = Run {
    name: "hooks-asleep",
    cpus: 3,
    // The less memory there is, the sooner the kernel has made room for an image.
    memory_mib: 512,
    tests: &["hooks_asleep"],
    // QEMU's firmware has no SYSTEM_SUSPEND.
    may_skip: Some(&["suspend_to_ram"]),
    timeout: Duration::from_secs(900),
    ..BASE
};

/// Hibernation with an image on a disk.
pub const HIBERNATE: Run = Run {
    name: "hibernate",
    cpus: 3,
    tests: &["hibernate"],
    words: &[KVM_OFF, "eltwo.resume=1"],
    end: End::Hibernate,
    timeout: Duration::from_secs(900),
    ..BASE
};

/// Idle CPUs that are powered down.
pub const CPUIDLE: Run = Run {
    name: "cpuidle",
    cpus: 3,
    gic: Gic::V2,
    idle_states: true,
    tests: &["cpuidle"],
    ..BASE
};

/// kexec while a guest runs.
pub const KEXEC_GUEST: Run = Run {
    name: "kexec-guest",
    tests: &["kexec_with_guest"],
    end: End::Kexec,
    loaded_at_end: true,
    ..BASE
};

/// Reboot while a guest runs.
pub const REBOOT_GUEST: Run = Run {
    name: "reboot-guest",
    tests: &["reboot_with_guest"],
    end: End::Reboot,
    loaded_at_end: true,
    ..BASE
};

/// Power off while a guest runs.
pub const SHUTDOWN_GUEST: Run = Run {
    name: "shutdown-guest",
    tests: &["shutdown_with_guest"],
    loaded_at_end: true,
    ..BASE
};
