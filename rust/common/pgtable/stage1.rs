// SPDX-License-Identifier: GPL-2.0-only

//! Stage 1 of the EL2 translation regime (HCR_EL2.E2H = 0): one VA range, one privilege level.
//!
//! Domain: common. Source: Arm ARM DDI 0487 D8.3.1.2, D8.4.1 (permissions), D8.6.2 (MAIR).

use super::{
    error::Error,
    field::Field,
    format::Format,
    geometry::PaFormat, //
};
use crate::common::addr::HypVa;

/// AttrIndx: the field of MAIR_EL2, which is a copy of the kernel's MAIR_EL1.
type AttrIndx = Field<2, 3>;
/// AP[1], RES1 in a regime with one privilege level.
type Ap1 = Field<6, 1>;
/// AP[2]: read-only.
type Ap2 = Field<7, 1>;
/// SH; with 52-bit descriptors these bits hold the address instead.
type Sh = Field<8, 2>;
/// AF. Always set: a clear one would fault.
type Af = Field<10, 1>;
/// XN.
type Xn = Field<54, 1>;
/// Bits that hardware ignores, and so ours: what counts shares needs all that there are.
///
/// - 58:55 are reserved for software.
/// - 62:59 are PBHA, ignored while TCR_EL2.HWU62 to HWU59 are 0, which they are: we write all of TCR_EL2. FEAT_AIE and
///   FEAT_S1POE have uses for them that TCR2_EL2 turns on; Linux leaves it alone, as do we, and its own nVHE tables are wrong
///   with any of the bits set there that mean something with E2H = 0.
/// - 63 is ignored but in the Realm state (FEAT_MEC), whose EL2 no kernel runs at.
type SoftwareBits = Field<55, 9>;

/// SH of Inner Shareable memory.
const SH_INNER: u64 = 3;

/// What EL2 may do with memory. Writable and executable at once does not exist, as SCTLR_EL2.WXN demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HypAccess {
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
}

/// Memory types, with their index in the kernel's MAIR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum HypMemory {
    /// Normal Write-Back, `MT_NORMAL`.
    Normal = 0,
    /// Device-nGnRE, `MT_DEVICE_nGnRE`.
    Device = 4,
}

/// Attributes of an EL2 leaf.
// INVARIANT: Device memory is not executable, and `tag` has nine bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HypAttrs {
    memory: HypMemory,
    access: HypAccess,
    tag: u16,
}

impl HypAttrs {
    /// Largest tag.
    pub const MAX_TAG: u16 = 511;

    /// Normal, cacheable, Inner Shareable memory.
    pub const fn normal(access: HypAccess) -> Self {
        // INVARIANT: not Device memory.
        Self {
            memory: HypMemory::Normal,
            access,
            tag: 0,
        }
    }

    /// Device-nGnRE memory, read-only or not.
    pub const fn device(writable: bool) -> Self {
        // INVARIANT: neither access executes.
        Self {
            memory: HypMemory::Device,
            access: if writable {
                HypAccess::ReadWrite
            } else {
                HypAccess::Read
            },
            tag: 0,
        }
    }

    /// The same memory with another access; `None` if that would execute Device memory.
    pub const fn with_access(self, access: HypAccess) -> Option<Self> {
        match (self.memory, access) {
            (HypMemory::Device, HypAccess::ReadExecute) => None,
            // INVARIANT: just tested.
            _ => Some(Self { access, ..self }),
        }
    }

    /// The same with a tag of our own in the bits that hardware ignores; `None` above [`Self::MAX_TAG`].
    pub const fn with_tag(self, tag: u16) -> Option<Self> {
        if tag > Self::MAX_TAG {
            return None;
        }
        // INVARIANT: just tested.
        Some(Self { tag, ..self })
    }

    /// What EL2 may do.
    pub const fn access(self) -> HypAccess {
        self.access
    }

    /// Whether it is Device memory.
    pub const fn is_device(self) -> bool {
        matches!(self.memory, HypMemory::Device)
    }

    /// The tag of [`Self::with_tag`], 0 without one.
    pub const fn tag(self) -> u16 {
        self.tag
    }
}

/// The format of EL2's own tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage1;

impl Format for Stage1 {
    type Input = HypVa;
    type Attrs = HypAttrs;

    fn encode(&self, attrs: HypAttrs, pa_format: PaFormat) -> Result<u64, Error> {
        let access = match attrs.access {
            HypAccess::Read => Ap2::MASK | Xn::MASK,
            HypAccess::ReadWrite => Xn::MASK,
            HypAccess::ReadExecute => Ap2::MASK,
        };
        let shareability = match pa_format {
            PaFormat::Lpa2 => 0,
            PaFormat::Pa48 | PaFormat::Lpa64k => Sh::put(SH_INNER),
        };
        Ok(AttrIndx::put(attrs.memory as u64)
            | Ap1::MASK
            | access
            | shareability
            | Af::MASK
            | SoftwareBits::put(attrs.tag.into()))
    }

    fn decode(&self, descriptor: u64, pa_format: PaFormat) -> Option<HypAttrs> {
        let memory = match AttrIndx::get(descriptor) {
            0 => HypMemory::Normal,
            4 => HypMemory::Device,
            _ => return None,
        };
        let access = match (Ap2::is_set(descriptor), Xn::is_set(descriptor)) {
            (true, true) => HypAccess::Read,
            (false, true) => HypAccess::ReadWrite,
            (true, false) => HypAccess::ReadExecute,
            (false, false) => return None,
        };
        let attrs = HypAttrs {
            memory,
            access: HypAccess::Read,
            tag: u16::try_from(SoftwareBits::get(descriptor)).ok()?,
        }
        // INVARIANT: `with_access` refuses executable Device memory; the tag has the nine bits of its field.
        .with_access(access)?;
        // All other bits must be as we write them.
        (self.encode(attrs, pa_format) == Ok(descriptor)).then_some(attrs)
    }

    fn needs_break(&self, old: HypAttrs, new: HypAttrs) -> bool {
        old.memory != new.memory
    }

    fn needs_flush(&self, old: HypAttrs, new: HypAttrs) -> bool {
        // The tag is in bits that hardware ignores.
        HypAttrs { tag: 0, ..old } != HypAttrs { tag: 0, ..new }
    }
}
