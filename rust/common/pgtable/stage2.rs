// SPDX-License-Identifier: GPL-2.0-only

//! Stage 2 of the EL1&0 translation regime: from a guest's IPAs to PAs.
//!
//! Domain: common. Source: Arm ARM DDI 0487 D8.3.1.3, D8.4.2 (S2AP, XN), D8.6.6 (MemAttr, FEAT_S2FWB).

use super::{
    error::Error,
    field::Field,
    format::Format,
    geometry::PaFormat, //
};
use crate::common::addr::Ipa;

/// MemAttr[3:0].
type MemAttr = Field<2, 4>;
/// S2AP[0]: readable.
type S2apRead = Field<6, 1>;
/// S2AP[1]: writable.
type S2apWrite = Field<7, 1>;
/// SH; with 52-bit descriptors these bits hold the address instead.
type Sh = Field<8, 2>;
/// AF: clear to make the next access fault, for tracking.
type Af = Field<10, 1>;
/// XN[1:0]; without FEAT_XNX only XN[1] exists.
type Xn = Field<53, 2>;
/// Bits that hardware ignores.
type SoftwareBits = Field<55, 4>;

/// SH of Inner Shareable memory.
const SH_INNER: u64 = 3;

/// MemAttr of Device-nGnRE, with and without FEAT_S2FWB.
const DEVICE_NGNRE: u64 = 0b0001;
/// MemAttr of Normal Inner and Outer Write-Back memory.
const NORMAL_WB: u64 = 0b1111;
/// MemAttr that makes memory Normal Write-Back whatever stage 1 says (FEAT_S2FWB).
const NORMAL_FWB: u64 = 0b0110;

/// Memory types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestMemory {
    /// Normal Write-Back.
    Normal,
    /// Device-nGnRE.
    Device,
}

/// Who of the guest may execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestExecute {
    /// EL1 and EL0.
    All = 0b00,
    /// Only EL0 (FEAT_XNX).
    El0 = 0b01,
    /// Nobody.
    Nobody = 0b10,
    /// Only EL1 (FEAT_XNX).
    El1 = 0b11,
}

/// Attributes of a stage-2 leaf. Any combination is legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuestAttrs {
    /// Memory type.
    pub memory: GuestMemory,
    /// The guest may read.
    pub read: bool,
    /// The guest may write. Cleared to log writes.
    pub write: bool,
    /// Who may execute.
    pub execute: GuestExecute,
    /// Accesses do not fault. Cleared to find out what is in use.
    pub accessed: bool,
    /// A tag of our own in the bits that hardware ignores, at most 15.
    pub tag: u8,
}

impl GuestAttrs {
    /// Largest tag.
    pub const MAX_TAG: u8 = 15;

    /// Guest RAM: all is allowed.
    pub const RAM: Self = Self {
        memory: GuestMemory::Normal,
        read: true,
        write: true,
        execute: GuestExecute::All,
        accessed: true,
        tag: 0,
    };

    /// A device: read and write.
    pub const DEVICE: Self = Self {
        memory: GuestMemory::Device,
        execute: GuestExecute::Nobody,
        ..Self::RAM
    };
}

/// The format of a guest's stage-2 tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2 {
    /// HCR_EL2.FWB is set (FEAT_S2FWB).
    pub fwb: bool,
    /// XN[0] exists (FEAT_XNX).
    pub xnx: bool,
}

impl Format for Stage2 {
    type Input = Ipa;
    type Attrs = GuestAttrs;

    fn encode(&self, attrs: GuestAttrs, pa_format: PaFormat) -> Result<u64, Error> {
        let memory = match (attrs.memory, self.fwb) {
            (GuestMemory::Device, _) => DEVICE_NGNRE,
            (GuestMemory::Normal, true) => NORMAL_FWB,
            (GuestMemory::Normal, false) => NORMAL_WB,
        };
        if matches!(attrs.execute, GuestExecute::El0 | GuestExecute::El1) && !self.xnx {
            return Err(Error::Attributes);
        }
        if attrs.tag > GuestAttrs::MAX_TAG {
            return Err(Error::Attributes);
        }
        let shareability = match pa_format {
            PaFormat::Lpa2 => 0,
            PaFormat::Pa48 | PaFormat::Lpa64k => Sh::put(SH_INNER),
        };
        Ok(MemAttr::put(memory)
            | S2apRead::put(attrs.read.into())
            | S2apWrite::put(attrs.write.into())
            | shareability
            | Af::put(attrs.accessed.into())
            | Xn::put(attrs.execute as u64)
            | SoftwareBits::put(attrs.tag.into()))
    }

    fn decode(&self, descriptor: u64, pa_format: PaFormat) -> Option<GuestAttrs> {
        let memory = match (MemAttr::get(descriptor), self.fwb) {
            (DEVICE_NGNRE, _) => GuestMemory::Device,
            (NORMAL_FWB, true) | (NORMAL_WB, false) => GuestMemory::Normal,
            _ => return None,
        };
        let execute = match Xn::get(descriptor) {
            0b00 => GuestExecute::All,
            0b01 => GuestExecute::El0,
            0b10 => GuestExecute::Nobody,
            _ => GuestExecute::El1,
        };
        let attrs = GuestAttrs {
            memory,
            read: S2apRead::is_set(descriptor),
            write: S2apWrite::is_set(descriptor),
            execute,
            accessed: Af::is_set(descriptor),
            tag: u8::try_from(SoftwareBits::get(descriptor)).ok()?,
        };
        // All other bits must be as we write them.
        (self.encode(attrs, pa_format) == Ok(descriptor)).then_some(attrs)
    }

    fn needs_break(&self, old: GuestAttrs, new: GuestAttrs) -> bool {
        old.memory != new.memory
    }

    fn needs_flush(&self, old: GuestAttrs, new: GuestAttrs) -> bool {
        // The tag is in bits that hardware ignores.
        GuestAttrs { tag: 0, ..old } != GuestAttrs { tag: 0, ..new }
    }
}
