// SPDX-License-Identifier: GPL-2.0-only

//! The breakpoints and watchpoints of a CPU, lent to a guest: what changes hands, and in which order.
//!
//! Domain: common. As in [`super::upkeep`], the order is decided here, so that the model sees it; `arch` only turns one [`Op`]
//! into one instruction.
//!
//! Source: Arm ARM DDI 0487 D2 (debug exceptions, and when a write to a debug register takes effect for sure), D24.3
//! (DBGBVR, DBGBCR, DBGWVR, DBGWCR, MDSCR_EL1).

/// Breakpoints, and watchpoints, that the architecture has room for.
pub const MOST: usize = 16;

/// Values and controls of breakpoints, then of watchpoints, in the order of [`Bank::ALL`].
pub type DebugRegs = [[u64; MOST]; 4];

/// MDSCR_EL1: SS, KDE, MDE: what makes the CPU take debug exceptions.
pub const MDSCR_SS: u64 = 1 << 0;
/// See [`MDSCR_SS`].
pub const MDSCR_KDE: u64 = 1 << 13;
/// See [`MDSCR_SS`].
pub const MDSCR_MDE: u64 = 1 << 15;
/// All of them.
pub const MDSCR_ON: u64 = MDSCR_SS | MDSCR_KDE | MDSCR_MDE;

/// Registers of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bank {
    /// DBGBVR: values of breakpoints.
    Bvr,
    /// DBGBCR: their controls.
    Bcr,
    /// DBGWVR: values of watchpoints.
    Wvr,
    /// DBGWCR: their controls.
    Wcr,
}

impl Bank {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Bvr, Self::Bcr, Self::Wvr, Self::Wcr];

    /// How many of these registers a CPU with this ID_AA64DFR0_EL1 has.
    pub const fn count(self, id_aa64dfr0: u64) -> usize {
        let shift = match self {
            Self::Bvr | Self::Bcr => 12,
            Self::Wvr | Self::Wcr => 20,
        };
        (id_aa64dfr0.wrapping_shr(shift) & 0xf).wrapping_add(1) as usize
    }
}

/// One instruction of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// ISB.
    Isb,
    /// MSR of MDSCR_EL1.
    WriteMdscr(u64),
    /// MSR of a register with this number.
    Write(Bank, usize, u64),
}

/// What executes the instructions: the CPU, at EL1, or a model of it.
pub trait Port {
    /// Executes one. In program order with all others.
    fn issue(&self, op: Op);
    /// MRS of a register that the CPU has.
    fn read(&self, bank: Bank, number: usize) -> u64;
    /// MRS of MDSCR_EL1.
    fn mdscr(&self) -> u64;
    /// MRS of ID_AA64DFR0_EL1.
    fn id_aa64dfr0(&self) -> u64;
}

/// What the kernel had, while a guest's registers are in the CPU.
pub struct HostDebug {
    registers: DebugRegs,
    mdscr: u64,
}

impl HostDebug {
    /// Puts `guest` in the CPU. Debug exceptions of the kernel itself are off until [`Self::restore`].
    pub fn replace(port: &impl Port, guest: &DebugRegs) -> Self {
        let mdscr = port.mdscr();
        port.issue(Op::WriteMdscr(mdscr & !MDSCR_ON));
        // They are off for sure before a register below can match anything at EL1.
        port.issue(Op::Isb);
        let mut registers = [[0; MOST]; 4];
        let id = port.id_aa64dfr0();
        for (bank, (kept, wanted)) in Bank::ALL.into_iter().zip(registers.iter_mut().zip(guest)) {
            let both = kept.iter_mut().zip(wanted);
            for (number, (kept, wanted)) in (0..bank.count(id)).zip(both) {
                *kept = port.read(bank, number);
                port.issue(Op::Write(bank, number, *wanted));
            }
        }
        // No ISB: the guest is entered by way of an exception to EL2, which is a context synchronization event.
        Self { registers, mdscr }
    }

    /// Undoes [`Self::replace`]. The caller's MDSCR_EL1 must be in the CPU as `replace` has left it.
    pub fn restore(&self, port: &impl Port) {
        let id = port.id_aa64dfr0();
        for (bank, values) in Bank::ALL.into_iter().zip(&self.registers) {
            for (number, value) in (0..bank.count(id)).zip(values) {
                port.issue(Op::Write(bank, number, *value));
            }
        }
        // All of them are in place when exceptions are on again.
        port.issue(Op::Isb);
        port.issue(Op::WriteMdscr(self.mdscr));
        // From here on the kernel's breakpoints work.
        port.issue(Op::Isb);
    }
}
