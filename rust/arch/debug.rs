// SPDX-License-Identifier: GPL-2.0-only

//! Arch, host side: the breakpoints and watchpoints of this CPU.
//!
//! Source: Arm ARM DDI 0487, D24.3 (DBGBVR, DBGBCR, DBGWVR, DBGWCR, MDSCR_EL1).

use core::arch::asm;

use super::sysreg;

/// Breakpoints, and watchpoints, that the architecture has room for.
const MOST: usize = 16;

/// Values and controls of breakpoints, then of watchpoints.
pub(crate) type DebugRegs = [[u64; MOST]; 4];

/// Defines functions that read and write one of a bank of registers.
macro_rules! bank {
    ($read:ident, $write:ident, $prefix:literal, $($number:literal)*) => {
        /// Zero for a number that the architecture has not.
        ///
        /// # Safety
        ///
        /// The CPU has the register with this number.
        unsafe fn $read(number: usize) -> u64 {
            let value: u64;
            match number {
                $(
                    // SAFETY: By the contract; the read changes nothing.
                    $number => unsafe {
                        asm!(
                            concat!("mrs {}, ", $prefix, $number, "_el1"),
                            out(reg) value,
                            options(nostack, preserves_flags)
                        )
                    },
                )*
                _ => value = 0,
            }
            value
        }

        /// # Safety
        ///
        /// The CPU has the register with this number, and debug exceptions are off or wanted there.
        unsafe fn $write(number: usize, value: u64) {
            match number {
                $(
                    // SAFETY: By the contract.
                    $number => unsafe {
                        asm!(
                            concat!("msr ", $prefix, $number, "_el1, {}"),
                            in(reg) value,
                            options(nostack, preserves_flags)
                        )
                    },
                )*
                _ => {}
            }
        }
    };
}

bank!(read_bvr, write_bvr, "dbgbvr", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
bank!(read_bcr, write_bcr, "dbgbcr", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
bank!(read_wvr, write_wvr, "dbgwvr", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
bank!(read_wcr, write_wcr, "dbgwcr", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);

/// How many breakpoints and watchpoints this CPU has.
fn counts() -> (usize, usize) {
    let dfr0 = sysreg::id_aa64dfr0();
    let field = |shift: u32| ((dfr0 >> shift) & 0xf) as usize + 1;
    (field(12), field(20))
}

/// MDSCR_EL1: SS, KDE, MDE: what makes the CPU take debug exceptions.
pub(crate) const MDSCR_SS: u64 = 1 << 0;
/// See [`MDSCR_SS`].
pub(crate) const MDSCR_KDE: u64 = 1 << 13;
/// See [`MDSCR_SS`].
pub(crate) const MDSCR_MDE: u64 = 1 << 15;

/// What the kernel had, while a guest's registers are in the CPU.
pub(crate) struct HostDebug {
    registers: DebugRegs,
    mdscr: u64,
}

impl HostDebug {
    /// Puts `guest` in the CPU. Debug exceptions of the kernel itself are off until [`Self::restore`].
    ///
    /// # Safety
    ///
    /// The caller stays on this CPU, with interrupts masked, until it restores.
    #[inline(never)]
    pub(crate) unsafe fn replace(guest: &DebugRegs) -> Self {
        let mdscr = sysreg::mdscr_el1();
        // SAFETY: Without these bits no register below can have an effect at EL1.
        unsafe { write_mdscr(mdscr & !(MDSCR_SS | MDSCR_KDE | MDSCR_MDE)) };
        let mut registers = [[0; MOST]; 4];
        let [bvr, bcr, wvr, wcr] = &mut registers;
        let [guest_bvr, guest_bcr, guest_wvr, guest_wcr] = guest;
        let (breakpoints, watchpoints) = counts();
        // SAFETY: The CPU has that many, and debug exceptions are off.
        unsafe {
            for number in 0..breakpoints.min(MOST) {
                bvr[number] = read_bvr(number);
                bcr[number] = read_bcr(number);
                write_bvr(number, guest_bvr[number]);
                write_bcr(number, guest_bcr[number]);
            }
            for number in 0..watchpoints.min(MOST) {
                wvr[number] = read_wvr(number);
                wcr[number] = read_wcr(number);
                write_wvr(number, guest_wvr[number]);
                write_wcr(number, guest_wcr[number]);
            }
        }
        Self { registers, mdscr }
    }

    /// Undoes [`Self::replace`].
    ///
    /// # Safety
    ///
    /// On the same CPU, with interrupts masked ever since, and with the kernel's own EL1 registers in the CPU.
    #[inline(never)]
    pub(crate) unsafe fn restore(self) {
        let [bvr, bcr, wvr, wcr] = &self.registers;
        let (breakpoints, watchpoints) = counts();
        // SAFETY: As above; at the end everything is as the kernel had it.
        unsafe {
            for number in 0..breakpoints.min(MOST) {
                write_bvr(number, bvr[number]);
                write_bcr(number, bcr[number]);
            }
            for number in 0..watchpoints.min(MOST) {
                write_wvr(number, wvr[number]);
                write_wcr(number, wcr[number]);
            }
            write_mdscr(self.mdscr);
        }
    }
}

/// # Safety
///
/// The debug exceptions that this allows are wanted.
unsafe fn write_mdscr(value: u64) {
    // SAFETY: By the contract. ISB before: the registers that were written are in place when exceptions are allowed; after:
    // they are off before any is written.
    unsafe {
        asm!(
            "isb",
            "msr mdscr_el1, {}",
            "isb",
            in(reg) value,
            options(nostack, preserves_flags)
        )
    };
}
