// SPDX-License-Identifier: GPL-2.0-only

//! The host's breakpoints and watchpoints around a guest that is debugged (`common::hwdebug`).

use super::{
    super::{
        hwdebug::all,
        Checked,
        Cpu,
        El,
        Injector,
        Machine,
        Reg,
        Rule,
        ID_AA64DFR0_EL1,
        MDSCR_EL1, //
    },
    host::Act,
    DEBUG_PORT,
};
use crate::common::hwdebug::{
    Bank,
    DebugRegs,
    HostDebug,
    MDSCR_ON,
    MOST, //
};

/// On a CPU with all that there can be, and on one with 6 breakpoints and 4 watchpoints.
pub(super) const ACTS: [Act; 2] = [
    Act {
        name: "breakpoints",
        port: DEBUG_PORT,
        play: |machine, injector| lend(machine, injector, (16, 16)),
    },
    Act {
        name: "breakpoints",
        port: DEBUG_PORT,
        play: |machine, injector| lend(machine, injector, (6, 4)),
    },
];

/// What the kernel has in MDSCR_EL1: all debug exceptions, and TDCC.
const HOST_MDSCR: u64 = MDSCR_ON | (1 << 12);

/// A value that no other register has, of the kernel's or of a guest's.
fn value(owner: u64, bank: Bank, number: usize) -> u64 {
    (owner << 32) | ((bank as u64) << 8) | number as u64 | 0x1000
}

/// All registers of an owner.
fn values(owner: u64) -> DebugRegs {
    Bank::ALL.map(|bank| std::array::from_fn::<_, MOST, _>(|number| value(owner, bank, number)))
}

const HOST: u64 = 1;
const GUEST: u64 = 2;

/// Each register that the CPU has is `owner`'s for sure.
fn check(cpu: &mut Cpu<'_>, owner: u64) -> Checked<()> {
    let id = cpu.mrs(ID_AA64DFR0_EL1);
    for (bank, number) in all().filter(|(bank, number)| *number < bank.count(id)) {
        let (found, wanted) = (
            cpu.certain(Reg::Debug(bank, number))?,
            value(owner, bank, number),
        );
        if found != wanted {
            let detail = format!("{bank:?} number {number} is {found:#x}, not {wanted:#x}");
            return cpu.wrong(Rule::LostRegister, &detail);
        }
    }
    Ok(())
}

/// MDSCR_EL1 is `wanted` for sure.
fn check_mdscr(cpu: &mut Cpu<'_>, wanted: u64) -> Checked<()> {
    let found = cpu.certain(MDSCR_EL1)?;
    if found != wanted {
        let detail = format!("MDSCR_EL1 is {found:#x}, not {wanted:#x}");
        return cpu.wrong(Rule::LostRegister, &detail);
    }
    Ok(())
}

/// CPU0, which debugs its kernel, lends its registers to a guest that EL2 enters, and takes them back.
fn lend(
    machine: &Machine,
    injector: &Injector,
    (breakpoints, watchpoints): (u64, u64),
) -> Checked<()> {
    let port = machine.port(0).with(injector);
    let id = ((breakpoints - 1) << 12) | ((watchpoints - 1) << 20);
    machine.with(|system| {
        let mut cpu = system.cpu(0);
        cpu.preset(ID_AA64DFR0_EL1, id)?;
        cpu.preset(MDSCR_EL1, HOST_MDSCR)?;
        all().try_for_each(|(bank, number)| {
            cpu.preset(Reg::Debug(bank, number), value(HOST, bank, number))
        })
    })?;

    let host = HostDebug::replace(&port, &values(GUEST));
    machine.with(|system| {
        let mut cpu = system.cpu(0);
        cpu.hvc()?;
        check(&mut cpu, GUEST)?;
        // What EL2 keeps, and puts back when the guest is left.
        check_mdscr(&mut cpu, HOST_MDSCR & !MDSCR_ON)?;
        cpu.eret(El::Host)
    })?;

    host.restore(&port);
    machine.with(|system| {
        let mut cpu = system.cpu(0);
        check(&mut cpu, HOST)?;
        check_mdscr(&mut cpu, HOST_MDSCR)
    })
}
