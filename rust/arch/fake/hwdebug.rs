// SPDX-License-Identifier: GPL-2.0-only

//! Breakpoints and watchpoints at EL1 of the host: no mixture of old and new ones may ever be able to match.
//!
//! Source: Arm ARM DDI 0487 D2: a write to a debug register, or to MDSCR_EL1, takes effect at any time until the next context
//! synchronization event, and for sure behind it.

use super::{
    cpu::Cpu,
    types::{
        El,
        Reg, //
    },
    violation::{
        Checked,
        Rule, //
    },
};
use crate::common::hwdebug::{
    Bank,
    MDSCR_ON,
    MOST, //
};

/// MDSCR_EL1.
pub const MDSCR_EL1: Reg = Reg::Other("MDSCR_EL1");
/// ID_AA64DFR0_EL1.
pub const ID_AA64DFR0_EL1: Reg = Reg::Other("ID_AA64DFR0_EL1");

/// All that the architecture has room for.
pub(super) fn all() -> impl Iterator<Item = (Bank, usize)> {
    let bank = |bank| (0..MOST).map(move |number| (bank, number));
    Bank::ALL.into_iter().flat_map(bank)
}

impl Cpu<'_> {
    /// `reg` is about to be written.
    pub(super) fn debug_before_msr(&mut self, reg: Reg, value: u64) -> Checked<()> {
        if self.el() != El::Host {
            return Ok(());
        }
        match reg {
            Reg::Debug(bank, number) => self.before_breakpoint(bank, number),
            MDSCR_EL1 if value & MDSCR_ON != 0 => self.before_exceptions(),
            _ => Ok(()),
        }
    }

    fn before_breakpoint(&mut self, bank: Bank, number: usize) -> Checked<()> {
        if number >= bank.count(self.mrs(ID_AA64DFR0_EL1)) {
            return self.wrong(
                Rule::Unsupported,
                &format!("{bank:?} number {number} is UNDEFINED"),
            );
        }
        let mdscr = self.possible(MDSCR_EL1);
        if mdscr.iter().any(|value| value & MDSCR_ON != 0) {
            let detail = format!("{bank:?} number {number}, with MDSCR_EL1 any of {mdscr:x?}");
            return self.wrong(Rule::DebugException, &detail);
        }
        Ok(())
    }

    fn before_exceptions(&mut self) -> Checked<()> {
        for (bank, number) in all() {
            let values = self.possible(Reg::Debug(bank, number));
            if values.len() > 1 {
                let detail = format!("on, with {bank:?} number {number} any of {values:x?}");
                return self.wrong(Rule::DebugException, &detail);
            }
        }
        Ok(())
    }
}
