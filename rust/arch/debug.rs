// SPDX-License-Identifier: GPL-2.0-only

//! Arch, host side: the breakpoints and watchpoints of this CPU.
//!
//! Which of them are written when, and what is synchronised, is in `common::hwdebug`; here each operation is one instruction.

use core::arch::asm;

use super::sysreg;
use crate::common::hwdebug::{
    self,
    Bank,
    DebugRegs,
    Op,
    Port, //
};

/// This CPU, as [`crate::common::hwdebug`] sees it.
///
/// Whoever makes one answers for the debug exceptions that its use allows, and for the CPU to stay the same.
struct Cpu(());

/// Reads the register whose name begins with `$prefix`.
macro_rules! read_numbered {
    ($prefix:literal, $number:expr) => {
        read_numbered!($prefix, $number; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($prefix:literal, $number:expr; $($known:literal)*) => {{
        let value: u64;
        match $number {
            $(
                // SAFETY: `common::hwdebug` asks for registers that the CPU has, and the read changes nothing.
                $known => unsafe {
                    asm!(
                        concat!("mrs {}, ", $prefix, $known, "_el1"),
                        out(reg) value,
                        options(nostack, preserves_flags)
                    )
                },
            )*
            _ => value = 0,
        }
        value
    }};
}

/// One instruction with a register and no number.
macro_rules! with_operand {
    ($instruction:literal, $operand:expr) => {
        // SAFETY: Whoever made the `Cpu` wants the debug exceptions that this allows.
        unsafe { asm!(concat!($instruction, ", {}"), in(reg) $operand, options(nostack, preserves_flags)) }
    };
}

/// One instruction with a register, whose name begins with what stands in `$instruction`.
macro_rules! numbered {
    ($instruction:literal, $number:expr, $operand:expr) => {
        numbered!($instruction, $number, $operand; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($instruction:literal, $number:expr, $operand:expr; $($known:literal)*) => {
        match $number {
            $(
                // SAFETY: As for `with_operand`; `common::hwdebug` asks for registers that the CPU has.
                $known => unsafe {
                    asm!(
                        concat!($instruction, $known, "_el1, {}"),
                        in(reg) $operand,
                        options(nostack, preserves_flags)
                    )
                },
            )*
            _ => {}
        }
    };
}

impl Port for Cpu {
    #[inline]
    fn issue(&self, op: Op) {
        match op {
            // SAFETY: A barrier is always allowed. No `nomem`: it keeps its place among the accesses to memory.
            Op::Isb => unsafe { asm!("isb", options(nostack, preserves_flags)) },
            Op::WriteMdscr(value) => with_operand!("msr mdscr_el1", value),
            Op::Write(Bank::Bvr, number, value) => numbered!("msr dbgbvr", number, value),
            Op::Write(Bank::Bcr, number, value) => numbered!("msr dbgbcr", number, value),
            Op::Write(Bank::Wvr, number, value) => numbered!("msr dbgwvr", number, value),
            Op::Write(Bank::Wcr, number, value) => numbered!("msr dbgwcr", number, value),
        }
    }

    #[inline]
    fn read(&self, bank: Bank, number: usize) -> u64 {
        match bank {
            Bank::Bvr => read_numbered!("dbgbvr", number),
            Bank::Bcr => read_numbered!("dbgbcr", number),
            Bank::Wvr => read_numbered!("dbgwvr", number),
            Bank::Wcr => read_numbered!("dbgwcr", number),
        }
    }

    fn mdscr(&self) -> u64 {
        sysreg::mdscr_el1()
    }

    fn id_aa64dfr0(&self) -> u64 {
        sysreg::id_aa64dfr0()
    }
}

/// See [`hwdebug::HostDebug`].
pub(crate) struct HostDebug(hwdebug::HostDebug);

impl HostDebug {
    /// Puts `guest` in the CPU. Debug exceptions of the kernel itself are off until [`Self::restore`].
    ///
    /// # Safety
    ///
    /// The caller stays on this CPU, with interrupts masked, until it restores.
    #[inline(never)]
    pub(crate) unsafe fn replace(guest: &DebugRegs) -> Self {
        Self(hwdebug::HostDebug::replace(&Cpu(()), guest))
    }

    /// Undoes [`Self::replace`].
    ///
    /// # Safety
    ///
    /// On the same CPU, with interrupts masked ever since, and with the kernel's own EL1 registers in the CPU.
    #[inline(never)]
    pub(crate) unsafe fn restore(self) {
        self.0.restore(&Cpu(()));
    }
}
