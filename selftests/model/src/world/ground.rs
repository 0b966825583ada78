// SPDX-License-Identifier: GPL-2.0-only

//! What a machine is like, and what may be wrong with the way that it is set up.

use eltwo::common::shared::MapMode;

/// The machine.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// Number of CPUs.
    pub cpus: usize,
    /// PARange, in bits.
    pub pa_bits: u32,
    /// 52-bit descriptors (TCR.DS = 1; FEAT_LPA with 64K).
    pub wide: bool,
    /// First and last byte of RAM.
    pub ram: (u64, u64),
    /// Where the kernel has memory for the image.
    pub image_pa: u64,
    /// Random bits of the layout.
    pub seed: u64,
    /// How RAM gets into the linear window.
    pub map: MapMode,
    /// SCTLR_EL2.I as found: fetches with the MMU off go through the instruction cache.
    pub icache_on: bool,
}

impl Default for Ground {
    /// QEMU's `virt` with 1 GiB.
    fn default() -> Self {
        Self {
            cpus: 1,
            pa_bits: 44,
            wide: false,
            ram: (0x4000_0000, 0x7fff_ffff),
            image_pa: 0x4780_0000,
            seed: 0x00e1_0002,
            map: MapMode::OnDemand,
            icache_on: false,
        }
    }
}

/// A way in which the set-up differs from what the host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Instruction caches are not invalidated for the image.
    SkipInvalidateOfCode,
    /// The image is not cleaned to the PoC.
    SkipCleanOfImage,
    /// The clean of the image is not completed by its DSB.
    SkipDsbAfterImage,
    /// The context of a CPU, with what init reads, is not cleaned.
    SkipCleanOfContext,
    /// The clean of the context is not completed by its DSB.
    SkipDsbAfterContext,
    /// No more than what init asks for: what runs with the MMU off is at the PoC, the rest at the PoU.
    CleanLeast,
    /// One PGD, with the idmap and the run-time mappings, for both phases.
    OnePgd,
    /// The runtime PGD maps the VA of the idmap page to a page that is not ours.
    Collision,
}

/// A step of the host that can be left out.
#[derive(Clone, Copy, Debug)]
pub struct HostStep {
    /// Leaves it out.
    pub change: Change,
    /// The function of the host that takes it.
    pub function: &'static str,
    /// For what it is taken.
    pub of: &'static str,
    /// The instruction.
    pub text: &'static str,
}

const fn step(
    change: Change,
    function: &'static str,
    of: &'static str,
    text: &'static str,
) -> HostStep {
    HostStep {
        change,
        function,
        of,
        text,
    }
}

/// All of them.
pub const HOST_STEPS: [HostStep; 5] = [
    step(
        Change::SkipInvalidateOfCode,
        "invalidate_icache",
        "image",
        "ic ialluis",
    ),
    step(
        Change::SkipCleanOfImage,
        "clean_to_poc",
        "image",
        "dc civac",
    ),
    step(Change::SkipDsbAfterImage, "clean_to_poc", "image", "dsb sy"),
    step(
        Change::SkipCleanOfContext,
        "clean_to_poc",
        "context",
        "dc civac",
    ),
    step(
        Change::SkipDsbAfterContext,
        "clean_to_poc",
        "context",
        "dsb sy",
    ),
];
