// SPDX-License-Identifier: GPL-2.0-only

//! Host: VMs as `/sys/kernel/debug/eltwo/` shows them: their numbers in `vms`, their stage 2 in `stage2`.

use core::sync::atomic::Ordering;

use kernel::fmt;

use super::{
    system::System,
    vm::Vm, //
};
use crate::{
    common::pgtable::{
        GuestExecute,
        GuestMemory,
        Level,
        Mapping,
        Stage2, //
    },
    host::mitigation,
};

/// What all VMs take, and a line for each.
pub(crate) fn vms(system: &System, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (vmid_space, generations) = system.vmid_space();
    writeln!(f, "vmids: {}", system.vmids_taken())?;
    writeln!(f, "vmid_space: {vmid_space}")?;
    writeln!(f, "vmid_generations: {generations}")?;
    writeln!(
        f,
        "table_pages: {}",
        system.table_pages.load(Ordering::Relaxed)
    )?;
    let unlearn = mitigation::unlearn();
    writeln!(
        f,
        "at_exit: smc {:#x}, branches {}, clrbhb {}",
        unlearn.smc, unlearn.branches, unlearn.clrbhb
    )?;
    writeln!(f, "vms: {}", system.vm_count())?;
    writeln!(
        f,
        "vm pid ipa_bits vmid vcpus slots table_pages faults tlb_flushes"
    )?;
    let mut number = 0;
    system.for_each_vm(|vm| {
        let stage2 = vm.stage2();
        let [flushes, faults] = stage2.counters().values();
        let slots = stage2.lock().slots().count();
        let vmid = stage2.vmid().unwrap_or(0);
        let result = writeln!(
            f,
            "{number} {} {} {vmid} {} {slots} {} {faults} {flushes}",
            vm.pid(),
            vm.ipa_bits(),
            vm.vcpu_count(),
            stage2.table_pages(),
        );
        number += 1;
        result
    })
}

/// The tables of each VM, run by run.
pub(crate) fn stage2(system: &System, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut number = 0;
    system.for_each_vm(|vm| {
        writeln!(f, "---[ stage 2 of VM {number}, pid {} ]---", vm.pid())?;
        number += 1;
        table(vm, f)
    })
}

fn table(vm: &Vm, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut result = Ok(());
    vm.stage2().lock().runs(|run| {
        result = result.and_then(|()| show_run(&run, f));
    });
    result
}

fn show_run(run: &Mapping<Stage2>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let attrs = &run.attrs;
    let flag = |set: bool, letter: char| if set { letter } else { '-' };
    writeln!(
        f,
        "{:#014x}-{:#014x} {:#014x} {:>6}K L{} {} {}{}{} {}{}",
        run.range.first().raw(),
        run.range.last().raw(),
        run.pa.raw(),
        run.range.size_bytes() / 1024,
        run.level.number(),
        if run.level == Level::L3 {
            "PAGE"
        } else {
            "BLOCK"
        },
        flag(attrs.read, 'R'),
        flag(attrs.write, 'W'),
        flag(attrs.execute != GuestExecute::Nobody, 'X'),
        match attrs.memory {
            GuestMemory::Normal => "normal",
            GuestMemory::Device => "device",
        },
        if attrs.accessed { " accessed" } else { "" },
    )
}
