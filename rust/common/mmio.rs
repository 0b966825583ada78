// SPDX-License-Identifier: GPL-2.0-only

//! Common: loads and stores that user space or the host emulates.
//!
//! Source: Arm ARM DDI 0487, D24.2.40, ISS of a data abort: ISV, SAS, SSE, SRT, SF, S1PTW, WnR.

/// ISS.S1PTW: the abort was on a walk of stage 1.
pub const S1PTW: u64 = 1 << 7;
/// ISS.CM: the abort was caused by a cache maintenance instruction.
pub const CM: u64 = 1 << 8;
const ISV: u64 = 1 << 24;
const SSE: u64 = 1 << 21;
const SF: u64 = 1 << 15;
const WNR: u64 = 1 << 6;

/// An access by one instruction with a valid syndrome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Number of bytes: 1, 2, 4 or 8.
    pub bytes: u8,
    /// It stores.
    pub write: bool,
    /// The register: 0..30, or 31 for the zero register.
    pub register: u8,
    /// A load extends the sign.
    pub sign: bool,
    /// A load fills 64 bits, not 32.
    pub wide: bool,
}

impl Access {
    /// From ESR_EL2 of a data abort. `None` if the syndrome does not describe the instruction.
    ///
    /// A cache maintenance instruction and a stage-1 walk may have what looks like a description; they are the caller's.
    pub fn decode(esr: u64) -> Option<Self> {
        (esr & ISV != 0).then_some(Self {
            bytes: 1 << ((esr >> 22) & 3),
            write: esr & WNR != 0,
            register: ((esr >> 16) & 0x1f) as u8,
            sign: esr & SSE != 0,
            wide: esr & SF != 0,
        })
    }

    /// What a store puts on the bus, in memory order: the low bytes of `value`, the first [`Self::bytes`] of the result. `big`
    /// if the guest's data is big-endian; the rest is zero.
    pub fn stored(self, value: u64, big: bool) -> [u8; 8] {
        let value = self.cut(value);
        if big {
            // The most significant byte comes first: the bytes that count are moved to the front.
            let unused = 64u32.saturating_sub(u32::from(self.bytes) << 3);
            value.checked_shl(unused).unwrap_or(0).to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    }

    /// What a load puts in its register, of `data` in memory order, which counts up to [`Self::bytes`].
    pub fn loaded(self, data: [u8; 8], big: bool) -> u64 {
        let value = if big {
            let unused = 64u32.saturating_sub(u32::from(self.bytes) << 3);
            u64::from_be_bytes(data).checked_shr(unused).unwrap_or(0)
        } else {
            self.cut(u64::from_le_bytes(data))
        };
        let value = if self.sign {
            match self.bytes {
                1 => i64::from(value as u8 as i8) as u64,
                2 => i64::from(value as u16 as i16) as u64,
                4 => i64::from(value as u32 as i32) as u64,
                _ => value,
            }
        } else {
            value
        };
        if self.wide {
            value
        } else {
            value & 0xffff_ffff
        }
    }

    fn cut(self, value: u64) -> u64 {
        match self.bytes {
            1 => value & 0xff,
            2 => value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        }
    }
}

/// ISS of an access that user space has to make out by itself (KVM_EXIT_ARM_NISV): CM, WnR and DFSC, which are valid without
/// ISV and say nothing of the host.
pub const fn sanitised_iss(esr: u64) -> u64 {
    const CM_WNR_FSC: u64 = CM | WNR | 0x3f;
    esr & CM_WNR_FSC
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn esr(sas: u64, sse: bool, srt: u64, sf: bool, write: bool) -> u64 {
        (0x24 << 26)
            | ISV
            | (sas << 22)
            | ((sse as u64) << 21)
            | (srt << 16)
            | ((sf as u64) << 15)
            | ((write as u64) << 6)
            | 6
    }

    #[test]
    fn decode_of_ldrsb_has_its_parts() {
        assert_eq!(
            Access::decode(esr(0, true, 7, true, false)),
            Some(Access {
                bytes: 1,
                write: false,
                register: 7,
                sign: true,
                wide: true
            })
        );
    }

    #[test]
    fn decode_without_isv_is_none() {
        assert_eq!(Access::decode(esr(3, false, 0, true, false) & !ISV), None);
    }

    #[test]
    fn load_extends_by_size_sign_and_width() {
        let data = 0x8182_8384_8586_8788u64.to_le_bytes();
        let load = |sas, sse, sf| {
            Access::decode(esr(sas, sse, 1, sf, false))
                .unwrap()
                .loaded(data, false)
        };
        assert_eq!(load(0, false, true), 0x88);
        assert_eq!(load(0, true, true), 0xffff_ffff_ffff_ff88);
        assert_eq!(load(0, true, false), 0xffff_ff88);
        assert_eq!(load(1, true, true), 0xffff_ffff_ffff_8788);
        assert_eq!(load(1, false, false), 0x8788);
        assert_eq!(load(2, true, true), 0xffff_ffff_8586_8788);
        assert_eq!(load(2, false, true), 0x8586_8788);
        assert_eq!(load(3, false, true), 0x8182_8384_8586_8788);
    }

    #[test]
    fn big_endian_guest_reads_back_what_it_wrote() {
        for sas in 0..4 {
            let access = Access::decode(esr(sas, false, 1, true, true)).unwrap();
            let value = access.cut(0x1122_3344_5566_7788);
            let data = access.stored(value, true);
            assert_eq!(access.loaded(data, true), value);
        }
        let word = Access::decode(esr(2, false, 1, true, true)).unwrap();
        assert_eq!(
            word.stored(0x5566_7788, true),
            [0x55, 0x66, 0x77, 0x88, 0, 0, 0, 0]
        );
        assert_eq!(
            word.stored(0x5566_7788, false),
            [0x88, 0x77, 0x66, 0x55, 0, 0, 0, 0]
        );
    }

    #[test]
    fn store_takes_the_low_bytes_only() {
        let byte = Access::decode(esr(0, false, 1, true, true)).unwrap();
        assert_eq!(byte.stored(0x1122, false), [0x22, 0, 0, 0, 0, 0, 0, 0]);
    }
}
