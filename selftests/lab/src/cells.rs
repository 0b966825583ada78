// SPDX-License-Identifier: GPL-2.0-only

//! The cells of `make matrix`: of all machines that can be made of a kernel, a CPU model, a number of CPUs and an interrupt
//! controller, so few that every two of these that can be together are together in one cell at least.

use std::{
    collections::BTreeSet,
    fmt, //
};

use crate::{
    runs::FLAVOUR,
    vm::Gic, //
};

/// Which version of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// The one that the lab works with.
    Pinned,
    /// The newest that the archive has.
    Newest,
}

/// A kernel: a version and one of Debian's flavours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The version.
    pub release: Release,
    /// The flavour.
    pub flavour: &'static str,
    /// Whether its pages have 16 KiB; the others have 4 KiB.
    pages_16k: bool,
}

/// A CPU model of QEMU, with what its ID registers read.
#[derive(Debug, PartialEq, Eq)]
pub struct Model {
    /// QEMU's name.
    pub name: &'static str,
    /// ID_AA64MMFR0_EL1.
    mmfr0: u64,
    /// ID_AA64MMFR1_EL1.
    mmfr1: u64,
    /// Whether it has SVE.
    pub sve: bool,
}

impl Model {
    /// Whether it knows pages of 16 KiB: TGran16 is not 0.
    pub fn has_16k(&self) -> bool {
        (self.mmfr0 >> 20) & 0xf != 0
    }

    /// Whether it has VHE, out of which the kernel must be kept: VH is not 0.
    pub fn has_vhe(&self) -> bool {
        (self.mmfr1 >> 8) & 0xf != 0
    }
}

/// The kernels. The newest one is tried in the usual flavour only.
const KERNELS: [Kernel; 5] = [
    pinned(FLAVOUR, false),
    pinned("arm64-16k", true),
    pinned("rt-arm64", false),
    pinned("cloud-arm64", false),
    Kernel {
        release: Release::Newest,
        ..pinned(FLAVOUR, false)
    },
];

const fn pinned(flavour: &'static str, pages_16k: bool) -> Kernel {
    Kernel {
        release: Release::Pinned,
        flavour,
        pages_16k,
    }
}

/// The CPU models, as QEMU 10.0 shows them to a debugger.
const MODELS: [Model; 7] = [
    model("cortex-a53", 0x1122, 0),
    model("cortex-a57", 0x1124, 0),
    model("cortex-a72", 0x1124, 0),
    model("cortex-a76", 0x0010_1122, 0x1021_2122),
    model("neoverse-n1", 0x0010_1125, 0x1021_2122),
    with_sve(model("neoverse-v1", 0x0010_1125, 0x1021_2122)),
    with_sve(model("max", 0x2100_0323_1020_1126, 0x0110_1120_1031_2122)),
];

const fn model(name: &'static str, mmfr0: u64, mmfr1: u64) -> Model {
    Model {
        name,
        mmfr0,
        mmfr1,
        sve: false,
    }
}

const fn with_sve(model: Model) -> Model {
    Model { sve: true, ..model }
}

/// Numbers of CPUs. Where a choice is left, the first is taken: one CPU cannot go offline, and many are slow.
const CPUS: [u32; 4] = [2, 4, 1, 8];

/// Interrupt controllers.
const GICS: [Gic; 2] = [Gic::V3, Gic::V2];

/// Most CPUs of a machine with a GICv2.
const GICV2_CPUS: u32 = 8;

/// One machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The kernel.
    pub kernel: Kernel,
    /// The CPU model.
    pub model: &'static Model,
    /// Number of CPUs.
    pub cpus: u32,
    /// The interrupt controller.
    pub gic: Gic,
    /// Places of all these in the tables above, in the same order.
    places: [usize; 4],
}

impl Cell {
    /// The cell of what is at these places.
    fn at(places: [usize; 4]) -> Self {
        let [kernel, model, cpus, gic] = places;
        Self {
            kernel: KERNELS[kernel],
            model: &MODELS[model],
            cpus: CPUS[cpus],
            gic: GICS[gic],
            places,
        }
    }

    /// Whether there can be such a machine.
    fn is_valid(&self) -> bool {
        (!self.kernel.pages_16k || self.model.has_16k())
            && (self.gic != Gic::V2 || self.cpus <= GICV2_CPUS)
    }

    /// Its pairs: two properties, each with its value.
    fn pairs(&self) -> BTreeSet<[(usize, usize); 2]> {
        let places = self.places;
        let all = (0..places.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
        all.map(|(a, b)| [(a, places[a]), (b, places[b])]).collect()
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let release = match self.kernel.release {
            Release::Pinned => "",
            Release::Newest => "newest-",
        };
        let Self {
            kernel,
            model,
            cpus,
            gic,
            ..
        } = self;
        let gic = gic.version();
        let flavour = kernel.flavour;
        write!(f, "{release}{flavour}-{}-{cpus}cpu-gicv{gic}", model.name)
    }
}

/// All machines that there can be.
fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for cpus in 0..CPUS.len() {
        for gic in 0..GICS.len() {
            for kernel in 0..KERNELS.len() {
                cells.extend((0..MODELS.len()).map(|model| Cell::at([kernel, model, cpus, gic])));
            }
        }
    }
    cells.retain(Cell::is_valid);
    cells
}

/// A choice of them in which every pair occurs: each time the cell that has most pairs which none of the others has.
pub fn covering() -> Vec<Cell> {
    let all = all();
    let mut open: BTreeSet<_> = all.iter().flat_map(Cell::pairs).collect();
    let mut chosen = Vec::new();
    while !open.is_empty() {
        let gain = |cell: &Cell| cell.pairs().intersection(&open).count();
        // `rev`: the first of several that are as good.
        let Some(best) = all.iter().rev().max_by_key(|cell| gain(cell)) else {
            break;
        };
        for pair in best.pairs() {
            open.remove(&pair);
        }
        chosen.push(*best);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether two values can be together, worked out from the rules and not from the cells.
    fn possible(one: (usize, usize), other: (usize, usize)) -> bool {
        let model = |(_, place): (usize, usize)| &MODELS[place];
        match (one.0, other.0) {
            (0, 1) => !KERNELS[one.1].pages_16k || model(other).has_16k(),
            _ => true,
        }
    }

    #[test]
    fn every_pair_that_can_be_is_in_a_cell() {
        let sizes = [KERNELS.len(), MODELS.len(), CPUS.len(), GICS.len()];
        let covered: BTreeSet<_> = covering().iter().flat_map(Cell::pairs).collect();
        let mut possible_pairs = 0;
        for b in 0..sizes.len() {
            for a in 0..b {
                for (x, y) in (0..sizes[a]).flat_map(|x| (0..sizes[b]).map(move |y| (x, y))) {
                    let pair = [(a, x), (b, y)];
                    let expected = possible(pair[0], pair[1]);
                    assert_eq!(covered.contains(&pair), expected, "{pair:?}");
                    possible_pairs += usize::from(expected);
                }
            }
        }
        assert_eq!(possible_pairs, covered.len());
    }

    #[test]
    fn cells_are_few_valid_and_different() {
        let cells = covering();
        assert!(cells.iter().all(Cell::is_valid));
        let names: BTreeSet<String> = cells.iter().map(Cell::to_string).collect();
        assert_eq!(names.len(), cells.len());
        // Fewer is not possible: each kernel has to meet each model.
        let least = KERNELS.len() * MODELS.len() - 3;
        assert!(cells.len() >= least && cells.len() <= least + 2);
        assert!(all().len() > 6 * cells.len());
    }

    #[test]
    fn facts_are_read_from_the_id_registers() {
        let names = |has: fn(&Model) -> bool| -> Vec<&str> {
            MODELS.iter().filter(|m| has(m)).map(|m| m.name).collect()
        };
        let young = ["cortex-a76", "neoverse-n1", "neoverse-v1", "max"];
        assert_eq!(names(Model::has_16k), young);
        assert_eq!(names(Model::has_vhe), young);
    }

    #[test]
    fn pages_of_16_kib_need_a_cpu_that_has_them() {
        assert!(!Cell::at([1, 0, 0, 0]).is_valid());
        let young = Cell::at([1, 3, 0, 0]);
        assert!(young.is_valid());
        let many = Cell {
            cpus: 9,
            gic: Gic::V2,
            ..young
        };
        assert!(!many.is_valid());
        assert_eq!(young.to_string(), "arm64-16k-cortex-a76-2cpu-gicv3");
    }
}
