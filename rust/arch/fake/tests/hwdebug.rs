// SPDX-License-Identifier: GPL-2.0-only

//! Pairs for the host's breakpoints around a guest, each written down once more, so that the rules can be tested without the
//! sequences. That no instruction of these can be left out is for `mutants`.

use super::{
    super::{
        Checked,
        Cpu,
        Machine,
        Reg,
        Rule,
        ID_AA64DFR0_EL1,
        MDSCR_EL1, //
    },
    broken,
};
use crate::common::{
    addr::Granule,
    hwdebug::{
        Bank,
        MDSCR_KDE,
        MDSCR_MDE, //
    },
};

const ON: u64 = MDSCR_KDE | MDSCR_MDE;
const OTHER: Reg = Reg::Debug(Bank::Wcr, 1);

/// Runs `act` on a CPU that has two of each, with debug exceptions on.
fn rules(act: impl FnOnce(&mut Cpu<'_>) -> Checked<()>) -> Vec<Rule> {
    let machine = Machine::new(1, Granule::K4, 0x4000_0000);
    machine.with(|system| {
        let mut cpu = system.cpu(0);
        cpu.preset(ID_AA64DFR0_EL1, (1 << 12) | (1 << 20)).unwrap();
        cpu.preset(MDSCR_EL1, ON).unwrap();
        // What breaks a rule is kept in the system, too.
        let _ = act(&mut cpu);
    });
    broken(&machine)
}

fn off(cpu: &mut Cpu<'_>) -> Checked<()> {
    cpu.msr(MDSCR_EL1, 0)?;
    cpu.isb()
}

#[test]
fn breakpoint_written_with_exceptions_off_passes() {
    let found = rules(|cpu| {
        off(cpu)?;
        cpu.msr(OTHER, 1)
    });
    assert_eq!(found, []);
}

#[test]
fn breakpoint_written_with_exceptions_on_is_caught() {
    assert_eq!(rules(|cpu| cpu.msr(OTHER, 1)), [Rule::DebugException]);
}

#[test]
fn breakpoint_written_before_exceptions_are_surely_off_is_caught() {
    let found = rules(|cpu| {
        cpu.msr(MDSCR_EL1, 0)?;
        cpu.msr(OTHER, 1)
    });
    assert_eq!(found, [Rule::DebugException]);
}

#[test]
fn exceptions_on_when_breakpoints_are_in_place_passes() {
    let found = rules(|cpu| {
        off(cpu)?;
        cpu.msr(OTHER, 1)?;
        cpu.isb()?;
        cpu.msr(MDSCR_EL1, ON)
    });
    assert_eq!(found, []);
}

#[test]
fn exceptions_on_before_breakpoints_are_surely_in_place_is_caught() {
    let found = rules(|cpu| {
        off(cpu)?;
        cpu.msr(OTHER, 1)?;
        cpu.msr(MDSCR_EL1, ON)
    });
    assert_eq!(found, [Rule::DebugException]);
}

#[test]
fn breakpoint_that_the_cpu_has_passes() {
    let found = rules(|cpu| {
        off(cpu)?;
        cpu.msr(Reg::Debug(Bank::Bvr, 1), 1)
    });
    assert_eq!(found, []);
}

#[test]
fn breakpoint_that_the_cpu_has_not_is_caught() {
    let found = rules(|cpu| {
        off(cpu)?;
        cpu.msr(Reg::Debug(Bank::Bvr, 2), 1)
    });
    assert_eq!(found, [Rule::Unsupported]);
}
