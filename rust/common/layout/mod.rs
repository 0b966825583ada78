// SPDX-License-Identifier: GPL-2.0-only

//! Where everything stands in the virtual address space of EL2.
//!
//! Domain: common. A pure computation: the host makes it at load and hands the result to EL2.
//!
//! With V bits of VA, the idmap page (VA = PA) lies in one half of the space, told by bit V−1 of its address. All else
//! lies in the other half, so that boot PGD and runtime PGD agree on the trampoline and on nothing else:
//!
//! ```text
//! half of the idmap page        | idmap page                                           |
//! other half, lower half of it  | guard unit | ... linear window of all RAM ...        |
//! other half, upper half of it  | four windows of equal size, in random order, for     |
//!                               | image, per-CPU slots, trampoline, vmemmap            |
//! ```
//!
//! A per-CPU slot is a guard granule, the stack, a guard granule, and the context granule; the guard of the next slot
//! follows. The linear window is congruent with RAM modulo 1 GiB (32 MiB with 16K, 512 MiB with 64K), so that blocks
//! fit, and never holds VA 0. The seed moves the linear window and all that is in the four windows.
//!
//! TTBR0_EL2 and TCR_EL2.T0SZ cannot change together, so both PGDs have the same V. It is the largest one with as many
//! levels as are needed, within what the CPUs have: a level more costs memory, a bit more in the root does not.
//!
//! Source: Arm ARM DDI 0487 D8.2 (T0SZ limits); behaviour as `arch/arm64/kvm/va_layout.c`, but with a boot PGD.

mod error;
#[cfg(test)]
mod tests;

pub use error::LayoutError;

use super::{
    addr::{
        AddrRange,
        Address,
        Granule,
        HypVa,
        PhysAddr,
        Pow2, //
    },
    pgtable::{
        Level,
        MIN_INPUT_BITS, //
    },
};

/// Largest VA size without FEAT_LPA2 or FEAT_LVA.
const BASE_VA_BITS: u32 = 48;

/// Largest VA size with them.
const MAX_VA_BITS: u32 = 52;

/// Granules of a slot besides the stack: guard, guard, context.
pub(super) const SLOT_EXTRA_GRANULES: u64 = 3;

/// What the layout depends on.
#[derive(Clone, Copy, Debug)]
pub struct LayoutInput {
    /// The granule of the tables: the kernel's page size.
    pub granule: Granule,
    /// The largest VA size of all CPUs: 48, or 52 with TCR_EL2.DS = 1 (4K and 16K) or FEAT_LVA (64K).
    pub max_va_bits: u32,
    /// The page that is mapped at its own address. One granule.
    pub idmap: PhysAddr,
    /// From the lowest to the highest address of RAM.
    pub ram: AddrRange<PhysAddr>,
    /// Size of the EL2 image in granules.
    pub image_granules: u32,
    /// Number of CPUs that can ever be present.
    pub cpus: u32,
    /// Size of a stack in granules.
    pub stack_granules: u32,
    /// Random bits.
    pub seed: u64,
}

/// A part of the EL2 address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// The page at VA = PA, only in the boot PGD.
    Idmap,
    /// The same page, at the VA that both PGDs have.
    Trampoline,
    /// The EL2 image.
    Image,
    /// All per-CPU slots, guards included.
    Slots,
    /// The stack of a CPU.
    Stack(u32),
    /// The context granule of a CPU.
    Context(u32),
    /// RAM, at a constant distance from its PA.
    Linear,
    /// Room for one entry for each page of RAM. Nothing is mapped there yet.
    Vmemmap,
}

impl Region {
    /// The name in dumps and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idmap => "idmap",
            Self::Trampoline => "trampoline",
            Self::Image => "image",
            Self::Slots => "slots",
            Self::Stack(_) => "stack",
            Self::Context(_) => "context",
            Self::Linear => "linear",
            Self::Vmemmap => "vmemmap",
        }
    }
}

/// The layout. Filled by the host at load; constant from then on.
// INVARIANT: the ranges of `extents` are disjoint, in the address space and multiples of the granule; `linear` is as
// long as `ram`; `slots` holds `cpus` slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Layout {
    granule: Granule,
    va_bits: u32,
    cpus: u32,
    stack_granules: u32,
    idmap: AddrRange<HypVa>,
    trampoline: AddrRange<HypVa>,
    image: AddrRange<HypVa>,
    slots: AddrRange<HypVa>,
    linear: AddrRange<HypVa>,
    vmemmap: AddrRange<HypVa>,
    ram: AddrRange<PhysAddr>,
}

impl Layout {
    /// Computes the layout.
    ///
    /// # Errors
    ///
    /// See [`LayoutError`].
    pub fn compute(input: &LayoutInput) -> Result<Self, LayoutError> {
        let needs = Needs::of(input)?;
        let va_bits = needs.va_bits(input)?;
        let layout = needs.place(input, va_bits).ok_or(LayoutError::VaBits {
            max_va_bits: va_bits,
        })?;
        layout.check()?;
        Ok(layout)
    }

    /// Bits of EL2 virtual address, of both PGDs.
    pub const fn va_bits(&self) -> u32 {
        self.va_bits
    }

    /// The granule.
    pub const fn granule(&self) -> Granule {
        self.granule
    }

    /// Number of per-CPU slots.
    pub const fn cpus(&self) -> u32 {
        self.cpus
    }

    /// The idmap page, whose VA is its PA.
    pub const fn idmap(&self) -> AddrRange<HypVa> {
        self.idmap
    }

    /// The trampoline page.
    pub const fn trampoline(&self) -> AddrRange<HypVa> {
        self.trampoline
    }

    /// The EL2 image.
    pub const fn image(&self) -> AddrRange<HypVa> {
        self.image
    }

    /// All of RAM in the linear window, holes included.
    pub const fn linear(&self) -> AddrRange<HypVa> {
        self.linear
    }

    /// Room for one entry for each page of RAM. Nothing is mapped there yet.
    pub const fn vmemmap(&self) -> AddrRange<HypVa> {
        self.vmemmap
    }

    /// The stack of `cpu`, with an unmapped granule on either side. It grows downwards from the end of the range.
    pub fn stack(&self, cpu: u32) -> Option<AddrRange<HypVa>> {
        self.in_slot(cpu, 1, self.stack_granules.into())
    }

    /// The context granule of `cpu`, with an unmapped granule on either side.
    pub fn context(&self, cpu: u32) -> Option<AddrRange<HypVa>> {
        self.in_slot(cpu, u64::from(self.stack_granules).checked_add(2)?, 1)
    }

    /// The VA in the linear window for `pa`; `None` outside of RAM.
    pub fn linear_va(&self, pa: PhysAddr) -> Option<HypVa> {
        if !self.ram.contains(pa) {
            return None;
        }
        self.linear
            .first()
            .checked_add(pa.offset_from(self.ram.first())?)
    }

    /// The PA for a VA of the linear window; `None` outside of it.
    pub fn linear_pa(&self, va: HypVa) -> Option<PhysAddr> {
        if !self.linear.contains(va) {
            return None;
        }
        self.ram
            .first()
            .checked_add(va.offset_from(self.linear.first())?)
    }

    /// Everything that can be mapped, with each stack and context on its own.
    pub fn regions(&self) -> impl Iterator<Item = (Region, AddrRange<HypVa>)> + '_ {
        let slots = (0..self.cpus).flat_map(|cpu| {
            let stack = self.stack(cpu).map(|range| (Region::Stack(cpu), range));
            let context = self.context(cpu).map(|range| (Region::Context(cpu), range));
            stack.into_iter().chain(context)
        });
        self.extents()
            .into_iter()
            .filter(|(region, _)| *region != Region::Slots)
            .chain(slots)
    }

    /// The region that `va` lies in; `None` for a guard or for an address that nothing uses.
    pub fn region_of(&self, va: HypVa) -> Option<Region> {
        self.regions()
            .find(|(_, range)| range.contains(va))
            .map(|(region, _)| region)
    }

    /// The disjoint ranges of the space, with the per-CPU slots as one.
    fn extents(&self) -> [(Region, AddrRange<HypVa>); 6] {
        [
            (Region::Idmap, self.idmap),
            (Region::Trampoline, self.trampoline),
            (Region::Image, self.image),
            (Region::Slots, self.slots),
            (Region::Linear, self.linear),
            (Region::Vmemmap, self.vmemmap),
        ]
    }

    /// `granules` granules of the slot of `cpu`, from granule `first` on.
    fn in_slot(&self, cpu: u32, first: u64, granules: u64) -> Option<AddrRange<HypVa>> {
        if cpu >= self.cpus {
            return None;
        }
        let slot = slot_granules(self.stack_granules)?.checked_mul(cpu.into())?;
        let offset = self.granule.times(slot.checked_add(first)?)?;
        AddrRange::new(
            self.slots.first().checked_add(offset)?,
            self.granule.times(granules)?,
        )
    }

    /// Looks for a residual overlap. The placement leaves none; this is the proof that it did what it says.
    fn check(&self) -> Result<(), LayoutError> {
        let extents = self.extents();
        for (place, (first, range)) in extents.iter().enumerate() {
            let clash = extents
                .iter()
                .skip(place.wrapping_add(1))
                .find(|(_, other)| range.overlaps(other));
            if let Some((second, _)) = clash {
                return Err(LayoutError::Overlap {
                    first: *first,
                    second: *second,
                });
            }
        }
        Ok(())
    }
}

/// Granules of one per-CPU slot.
fn slot_granules(stack_granules: u32) -> Option<u64> {
    u64::from(stack_granules).checked_add(SLOT_EXTRA_GRANULES)
}

/// The unit with which the linear window is congruent to RAM: the largest block without 52-bit descriptors.
pub const fn linear_unit(granule: Granule) -> Option<Pow2> {
    Pow2::from_shift(match granule {
        Granule::K4 => 30,
        Granule::K16 => 25,
        Granule::K64 => 29,
    })
}

/// How much room the parts need.
struct Needs {
    /// The linear unit.
    unit: Pow2,
    /// From `ram` rounded down to the unit: how far RAM lies above it.
    ram_offset: u64,
    /// Size of the linear window in whole units.
    linear_bytes: u64,
    /// Size of the image.
    image_bytes: u64,
    /// Size of all per-CPU slots.
    slots_bytes: u64,
    /// The idmap page as a range of VAs.
    idmap: AddrRange<HypVa>,
}

impl Needs {
    fn of(input: &LayoutInput) -> Result<Self, LayoutError> {
        let granule = input.granule;
        if input.cpus == 0 || input.stack_granules == 0 || input.image_granules == 0 {
            return Err(LayoutError::Empty);
        }
        if !input.idmap.is_aligned(granule.unit()) || !input.ram.is_aligned(granule.unit()) {
            return Err(LayoutError::Unaligned);
        }
        Self::sizes(input).ok_or(LayoutError::PrivateTooLarge {
            needed_bytes: u64::MAX,
            max_va_bits: input.max_va_bits,
        })
    }

    fn sizes(input: &LayoutInput) -> Option<Self> {
        let granule = input.granule;
        let unit = linear_unit(granule)?;
        let ram_offset = input.ram.first().raw() & unit.mask();
        let slots = slot_granules(input.stack_granules)?.checked_mul(input.cpus.into())?;
        let idmap = HypVa::new(input.idmap.raw())?;
        Some(Self {
            unit,
            ram_offset,
            linear_bytes: unit.round_up(ram_offset.checked_add(input.ram.size_bytes())?)?,
            image_bytes: granule.times(input.image_granules.into())?,
            slots_bytes: granule.times(slots)?,
            idmap: AddrRange::new(idmap, granule.size())?,
        })
    }

    /// The VA size: the first of [`candidates`] in which everything fits.
    fn va_bits(&self, input: &LayoutInput) -> Result<u32, LayoutError> {
        let max_va_bits = input.max_va_bits;
        if !(MIN_INPUT_BITS..=MAX_VA_BITS).contains(&max_va_bits) {
            return Err(LayoutError::VaBits { max_va_bits });
        }
        let mut refusal = LayoutError::VaBits { max_va_bits };
        for va_bits in candidates(input.granule, max_va_bits) {
            match self.fits(input, va_bits) {
                Ok(()) => return Ok(va_bits),
                // Kept for the largest size, to which the message refers.
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    fn fits(&self, input: &LayoutInput, va_bits: u32) -> Result<(), LayoutError> {
        let size = |less: u32| {
            va_bits
                .checked_sub(less)
                .and_then(Pow2::from_shift)
                .map_or(0, Pow2::bytes)
        };
        if self.idmap.last().raw() >= size(0) {
            return Err(LayoutError::IdmapTooHigh {
                idmap: input.idmap,
                max_va_bits: va_bits,
            });
        }
        // The first unit stays free, as it may hold VA 0.
        match self.linear_bytes.checked_add(self.unit.bytes()) {
            Some(bytes) if bytes <= size(2) => {}
            _ => {
                return Err(LayoutError::RamTooLarge {
                    span_bytes: input.ram.size_bytes(),
                    max_va_bits: va_bits,
                });
            }
        }
        let needed_bytes = self.image_bytes.max(self.slots_bytes);
        let guards = input.granule.size().wrapping_mul(2);
        match needed_bytes.checked_add(guards) {
            Some(bytes) if bytes <= size(4) => Ok(()),
            _ => Err(LayoutError::PrivateTooLarge {
                needed_bytes,
                max_va_bits: va_bits,
            }),
        }
    }

    /// Places everything in a space of `va_bits`, which is large enough.
    fn place(&self, input: &LayoutInput, va_bits: u32) -> Option<Layout> {
        let half = Pow2::from_shift(va_bits.checked_sub(1)?)?;
        let quarter = Pow2::from_shift(va_bits.checked_sub(2)?)?;
        let window = Pow2::from_shift(va_bits.checked_sub(4)?)?;
        let base = !self.idmap.first().raw() & half.bytes();
        let mut random = Random(input.seed);

        let room = quarter
            .bytes()
            .checked_sub(self.linear_bytes)?
            .checked_sub(self.unit.bytes())?;
        let linear = base
            .checked_add(self.unit.bytes())?
            .checked_add(random.multiple(self.unit, room))?
            .checked_add(self.ram_offset)?;

        let windows = Windows {
            base: base.checked_add(quarter.bytes())?,
            window,
            granule: input.granule.unit(),
            order: random.next(),
        };
        Some(Layout {
            granule: input.granule,
            va_bits,
            cpus: input.cpus,
            stack_granules: input.stack_granules,
            idmap: self.idmap,
            trampoline: windows.place(0, input.granule.size(), &mut random)?,
            image: windows.place(1, self.image_bytes, &mut random)?,
            slots: windows.place(2, self.slots_bytes, &mut random)?,
            vmemmap: AddrRange::new(HypVa::new(windows.start(3)?)?, window.bytes())?,
            linear: AddrRange::new(HypVa::new(linear)?, input.ram.size_bytes())?,
            ram: input.ram,
        })
    }
}

/// VA sizes to try, in ascending order: for each number of levels the largest, 52 only where 48 is not enough.
fn candidates(granule: Granule, max_va_bits: u32) -> impl Iterator<Item = u32> {
    let base = max_va_bits.min(BASE_VA_BITS);
    Level::ALL
        .into_iter()
        .rev()
        .filter_map(move |level| level.reach(granule))
        .map(move |reach| reach.min(base))
        .chain(core::iter::once(max_va_bits))
        .filter(|bits| *bits >= MIN_INPUT_BITS)
}

/// The four windows of the private part.
struct Windows {
    base: u64,
    window: Pow2,
    granule: Pow2,
    /// Bits 1:0 rotate the order of the windows, bit 2 reverses it.
    order: u64,
}

impl Windows {
    /// The first address of the window of `occupant`, 0 to 3.
    fn start(&self, occupant: u64) -> Option<u64> {
        let reversed = if self.order & 4 != 0 { 3 } else { 0 };
        let place = (occupant ^ reversed).wrapping_add(self.order) & 3;
        self.base
            .checked_add(self.window.bytes().checked_mul(place)?)
    }

    /// `bytes` somewhere in the window of `occupant`, with a guard granule on either side.
    fn place(&self, occupant: u64, bytes: u64, random: &mut Random) -> Option<AddrRange<HypVa>> {
        let guard = self.granule.bytes();
        let room = self
            .window
            .bytes()
            .checked_sub(bytes)?
            .checked_sub(guard.checked_mul(2)?)?;
        let first = self
            .start(occupant)?
            .checked_add(guard)?
            .checked_add(random.multiple(self.granule, room))?;
        AddrRange::new(HypVa::new(first)?, bytes)
    }
}

/// A generator of 64-bit numbers from a seed (SplitMix64). Its quality is the seed's: it only spreads the bits.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A multiple of `unit` from 0 to `most`, both included.
    fn multiple(&mut self, unit: Pow2, most: u64) -> u64 {
        let choices = most.wrapping_shr(unit.shift()).saturating_add(1);
        let choice = self.next().checked_rem(choices).unwrap_or(0);
        // At most `most`, as `choice` is below `choices`.
        choice.wrapping_mul(unit.bytes())
    }
}
