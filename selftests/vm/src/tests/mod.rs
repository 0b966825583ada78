// SPDX-License-Identifier: GPL-2.0-only

//! The tests, one file each, and what they have in common.

mod admission;
mod contain;
mod cpu_hotplug_kselftest;
mod cpuidle;
mod fail_at;
mod guest_aarch32;
mod guest_bad_config;
mod guest_bad_input;
mod guest_basic;
mod guest_charges;
mod guest_fail_nth;
mod guest_fault;
mod guest_host_state;
mod guest_inputs;
mod guest_lifetime;
mod guest_mapped;
mod guest_memory;
mod guest_migrate;
mod guest_notifier;
mod guest_psci_smp;
mod guest_regs;
mod guest_signals;
mod guest_sve;
mod guest_undef;
mod guest_vmids;
mod hibernate;
mod hibernate_core;
mod hooks;
mod hotplug;
mod hotplug_100;
mod hotplug_load;
mod hypercalls;
mod kdump;
mod kdump_second;
mod kexec;
mod kexec_second;
mod kvm_selftests;
mod load_failslab;
mod load_unload;
mod load_unload_100;
mod machine;
mod map_linear;
mod map_unmap;
mod maxcpus;
mod offline_at_load;
mod pool_too_small;
mod power;
mod refuse;
mod refuse_e2h;
mod refuse_el1;
mod refuse_kvm;
mod refuse_taken;
mod refuse_vhe;
mod regs;
mod selfcheck;
mod soak;
mod tables_at;
mod with_guest;

use std::{
    fs,
    sync::OnceLock,
    time::Duration, //
};

use anyhow::{
    bail,
    ensure,
    Result, //
};

pub use load_unload::{
    equal_images,
    equal_images_on, //
};

use crate::{
    bench,
    guest::{
        cpu,
        module, //
    },
    hooks::helper,
    ktap::{
        Skip,
        Test, //
    },
};

/// A test, and what init must know of it.
pub struct Program {
    /// Name, on the kernel command line and in the results.
    pub name: &'static str,
    /// Time after which it counts as hung.
    pub limit: Duration,
    /// Is it one of `eltwo.run=all`, that is, does it need nothing special of the machine?
    pub plain: bool,
    /// Makes the test.
    pub test: fn() -> Test,
}

const fn plain(name: &'static str, seconds: u64, test: fn() -> Test) -> Program {
    Program {
        name,
        limit: Duration::from_secs(seconds),
        plain: true,
        test,
    }
}

const fn special(name: &'static str, seconds: u64, test: fn() -> Test) -> Program {
    Program {
        plain: false,
        ..plain(name, seconds, test)
    }
}

/// All tests, in the order of `eltwo.run=all`.
pub const PROGRAMS: &[Program] = &[
    plain("load_unload", 300, load_unload::test),
    plain("regs", 300, regs::test),
    plain("hypercalls", 300, hypercalls::test),
    plain("map_unmap", 300, map_unmap::test),
    plain("map_linear", 300, map_linear::test),
    plain("tables_at", 180, tables_at::test),
    plain("hotplug", 300, hotplug::test),
    plain("offline_at_load", 300, offline_at_load::test),
    plain("fail_at", 900, fail_at::test),
    plain("admission", 300, admission::test),
    plain("selfcheck", 300, selfcheck::test),
    plain("contain", 300, contain::test),
    plain("pool_too_small", 300, pool_too_small::test),
    plain("hibernate_core", 300, hibernate_core::test),
    plain("hotplug_load", 900, hotplug_load::test),
    plain("load_unload_100", 1200, load_unload_100::test),
    plain("hotplug_100", 1200, hotplug_100::test),
    plain("cpu_hotplug_kselftest", 300, cpu_hotplug_kselftest::test),
    special("bench_guests", 900, bench::guests::test),
    special("guest_aarch32", 300, guest_aarch32::test),
    special("guest_bad_config", 300, guest_bad_config::test),
    special("guest_bad_input", 300, guest_bad_input::test),
    special("guest_basic", 300, guest_basic::test),
    special("guest_fail_nth", 600, guest_fail_nth::test),
    special("guest_failslab", 1200, guest_fail_nth::by_kernel),
    special("load_failslab", 1200, load_failslab::test),
    special("guest_charges", 300, guest_charges::test),
    special("guest_fault", 300, guest_fault::test),
    special("guest_host_state", 300, guest_host_state::test),
    special("guest_inputs", 300, guest_inputs::test),
    special("guest_lifetime", 300, guest_lifetime::test),
    special("guest_mapped", 300, guest_mapped::test),
    special("guest_memory", 300, guest_memory::test),
    special("guest_migrate", 300, guest_migrate::test),
    special("guest_notifier", 600, guest_notifier::test),
    special("guest_psci_smp", 300, guest_psci_smp::test),
    special("guest_regs", 300, guest_regs::test),
    special("guest_signals", 300, guest_signals::test),
    special("guest_sve", 300, guest_sve::test),
    special("guest_undef", 300, guest_undef::test),
    special("hibernate", 600, hibernate::test),
    special("hooks", 900, hooks::awake),
    special("hooks_asleep", 900, hooks::asleep),
    special("guest_vmids", 300, guest_vmids::test),
    special("machine", 300, machine::test),
    special("maxcpus", 300, maxcpus::test),
    special("refuse_vhe", 300, refuse_vhe::test),
    special("refuse_kvm", 300, refuse_kvm::test),
    special("refuse_el1", 300, refuse_el1::test),
    special("refuse_e2h", 300, refuse_e2h::test),
    special("refuse_taken", 300, refuse_taken::test),
    special("kexec", 300, kexec::test),
    special("kexec_second", 300, kexec_second::test),
    special("kdump", 300, kdump::test),
    special("kdump_second", 300, kdump_second::test),
    special("reboot", 300, power::reboot),
    special("kvm_selftests", 7200, kvm_selftests::test),
    special("shutdown", 300, power::shutdown),
    special("soak", 300, soak::test),
    special("cpuidle", 300, cpuidle::test),
    special("kexec_with_guest", 300, with_guest::kexec),
    special("reboot_with_guest", 300, with_guest::reboot),
    special("shutdown_with_guest", 300, with_guest::shutdown),
    special("bench_maps", 600, bench::maps::test),
    special("bench_lifecycle", 1500, bench::lifecycle::test),
];

/// The test with this name.
pub fn find(name: &str) -> Option<&'static Program> {
    PROGRAMS.iter().find(|program| program.name == name)
}

/// CPUs that were online when the test began.
fn online_at_start() -> &'static [usize] {
    static ONLINE: OnceLock<Vec<usize>> = OnceLock::new();
    ONLINE.get_or_init(|| cpu::online().unwrap_or_default())
}

/// Taint of the kernel when the test began.
fn taint_at_start() -> u64 {
    static TAINT: OnceLock<u64> = OnceLock::new();
    *TAINT.get_or_init(|| taint().unwrap_or_default())
}

/// Bits of `/proc/sys/kernel/tainted`.
pub fn taint() -> Result<u64> {
    Ok(fs::read_to_string("/proc/sys/kernel/tainted")?
        .trim()
        .parse()?)
}

/// An out-of-tree module was loaded.
const TAINT_OOT_MODULE: u64 = 1 << 12;
/// An unsigned module was loaded.
const TAINT_UNSIGNED_MODULE: u64 = 1 << 13;

/// What every test builds on: the module is not loaded before and after, CPUs and taint are left as found.
pub fn standard() -> Test {
    Test::new()
        .needs(fresh_machine)
        .after_each(restore)
        .finally("machine_left_as_found", left_as_found)
}

/// As [`standard`], for a test that ends with the module loaded.
pub fn handing_over() -> Test {
    Test::new().needs(fresh_machine)
}

/// As [`handing_over`], for a test after which the kernel goes down in order, with [`crate::handover::GoingDown`].
pub fn going_down() -> Test {
    handing_over().needs(helper::needed)
}

fn fresh_machine() -> Result<()> {
    ensure!(!online_at_start().is_empty(), "no CPU is online");
    taint_at_start();
    let debugfs = fs::read_dir("/sys/kernel/debug").is_ok_and(|mut files| files.next().is_some());
    if !debugfs || fs::read("/proc/modules").is_err() {
        return Skip::because("needs root, /proc and debugfs");
    }
    if module::is_loaded()? {
        return Skip::because("eltwo is loaded already; rmmod it first");
    }
    Ok(())
}

/// Puts back what a case has left behind, and fails if it had to.
fn restore() -> Result<()> {
    let mut left = Vec::new();
    if module::is_loaded()? {
        left.push("the module was still loaded".to_string());
        module::unload()?;
    }
    if cpu::online()? != online_at_start() {
        left.push(format!("CPUs {:?} were online", cpu::online()?));
        cpu::bring_online(online_at_start())?;
    }
    if !left.is_empty() {
        bail!("left behind by this case: {}", left.join(", "));
    }
    Ok(())
}

fn left_as_found() -> Result<()> {
    module::nothing_left()?;
    cpu::expect_online(online_at_start())?;
    let fresh = taint()? & !taint_at_start() & !(TAINT_OOT_MODULE | TAINT_UNSIGNED_MODULE);
    ensure!(fresh == 0, "new bits in the kernel's taint: {fresh:#x}");
    Ok(())
}

/// Skips unless there are at least `count` CPUs online.
fn needs_cpus(count: usize) -> Result<()> {
    let online = cpu::online()?.len();
    if online < count {
        return Skip::because(format!("needs {count} CPUs, {online} online"));
    }
    Ok(())
}

fn needs_two_cpus() -> Result<()> {
    needs_cpus(2)
}

fn needs_four_cpus() -> Result<()> {
    needs_cpus(4)
}
