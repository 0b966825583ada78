// SPDX-License-Identifier: GPL-2.0-only

//! The PGDs that the host would build, built in memory of the test and looked at from all sides.

use core::{
    ptr::NonNull,
    sync::atomic::AtomicU64, //
};
use std::{
    collections::BTreeMap,
    ops::Range,
    vec::Vec, //
};

use proptest::prelude::*;

use super::*;
use crate::common::{
    addr::Granule,
    demand::Demand,
    layout::{
        LayoutInput,
        Region, //
    },
    pgtable::{
        Level,
        Mapping,
        Output, //
    },
    pool_tables::{
        PoolTables,
        Window, //
    },
};

/// Granule, VA bits at most, PA bits, 52-bit descriptors.
type Shape = (Granule, u32, u32, bool);

const SHAPES: [Shape; 6] = [
    (Granule::K4, 48, 44, false),
    (Granule::K4, 52, 52, true),
    (Granule::K16, 48, 48, false),
    (Granule::K16, 52, 52, true),
    (Granule::K64, 48, 48, false),
    (Granule::K64, 52, 52, true),
];

const GIB: u64 = 1 << 30;

/// What a machine is made of.
#[derive(Clone, Debug)]
struct Recipe {
    shape: Shape,
    map: MapMode,
    /// RAM, in ascending order, from byte to byte.
    ram: Vec<Range<u64>>,
    /// In which piece of RAM each chunk of the pool is, and how far from its start, in pages.
    chunks: Vec<(usize, u64)>,
    image_pages: u32,
    cpus: u32,
    seed: u64,
}

/// The memory of the pool, by PA.
struct Memory(BTreeMap<u64, Vec<AtomicU64>>);

// SAFETY: Table pages are in the chunks, which are never moved or freed while the window lives.
unsafe impl Window for &Memory {
    fn reach(&self, pa: PhysAddr) -> Option<NonNull<u8>> {
        let (base, words) = self.0.range(..=pa.raw()).next_back()?;
        let word = words.get(usize::try_from((pa.raw() - base) / 8).ok()?)?;
        NonNull::new(word.as_ptr().cast())
    }
}

/// A machine with its tables built.
struct Machine {
    recipe: Recipe,
    layout: Layout,
    header: ImageHeader,
    image: PhysAddr,
    ram: Vec<RamRange>,
    pool: Pool,
    meta: Vec<PageMeta>,
    memory: Memory,
    /// Pages that the demand was computed to be.
    pages: u64,
}

fn pa(raw: u64) -> PhysAddr {
    PhysAddr::new(raw).unwrap()
}

impl Machine {
    /// With a pool that is as large as the demand says, less `missing` pages.
    fn new(recipe: &Recipe, missing: u64) -> Self {
        let (granule, max_va_bits, ..) = recipe.shape;
        let ram: Vec<RamRange> = recipe
            .ram
            .iter()
            .map(|piece| RamRange {
                first: piece.start,
                last: piece.end - 1,
            })
            .collect();
        let demand = Demand {
            granule,
            max_va_bits,
            map: recipe.map,
            ram: &ram,
            image_pages: recipe.image_pages.into(),
            cpus: recipe.cpus.into(),
            stack_pages: 2,
        };
        let pages = demand.pages(recipe.chunks.len() as u64, 0).unwrap();
        let total = pages - missing;
        let meta: Vec<PageMeta> = (0..total).map(|_| PageMeta::default()).collect();
        let pool = Pool::default();
        pool.start(granule);
        // The metadata and the image are in the first chunk, so that one gets what the others need not have.
        let others = recipe.chunks.len() as u64 - 1;
        let each = (total / (others + 1)).min(total / 4).max(1);
        let mut memory = BTreeMap::new();
        let mut image = None;
        for (number, (piece, offset)) in recipe.chunks.iter().enumerate() {
            let pages = if number == 0 {
                total - others * each
            } else {
                each
            };
            let base = recipe.ram[*piece].start + offset * granule.size();
            assert!(base + pages * granule.size() <= recipe.ram[*piece].end);
            let words = pages * granule.size() / 8;
            memory.insert(base, (0..words).map(|_| AtomicU64::new(0)).collect());
            pool.add_chunk(&meta, pa(base), pages as u32).unwrap();
            if number == 0 {
                for _ in 0..demand.meta_pages(total).unwrap() {
                    pool.take(&meta, Use::Meta).unwrap();
                }
                let taken: Vec<PhysAddr> = (0..recipe.image_pages)
                    .map(|_| pool.take(&meta, Use::Image).unwrap())
                    .collect();
                image = taken.first().copied();
            }
        }
        let image = image.unwrap();
        let span = AddrRange::from_bounds(pa(ram[0].first), pa(ram.last().unwrap().last));
        let layout = Layout::compute(&LayoutInput {
            granule,
            max_va_bits,
            idmap: image,
            ram: span.unwrap(),
            image_granules: recipe.image_pages,
            cpus: recipe.cpus,
            stack_granules: 2,
            seed: recipe.seed,
        })
        .unwrap();
        Self {
            recipe: recipe.clone(),
            layout,
            header: header(granule, recipe.image_pages),
            image,
            ram,
            pool,
            meta,
            memory: Memory(memory),
            pages,
        }
    }

    fn tables(&self) -> PoolTables<'_, &Memory> {
        PoolTables {
            pool: &self.pool,
            meta: &self.meta,
            window: &self.memory,
            page_bytes: self.layout.granule().size() as usize,
        }
    }

    fn build(&self) -> Result<Pgds, Error> {
        let (granule, _, pa_bits, wide) = self.recipe.shape;
        let output = Output::new(granule, pa_bits, wide).unwrap();
        let plan = Plan {
            layout: &self.layout,
            geometry: Geometry::stage1(granule, self.layout.va_bits(), output).unwrap(),
            image: self.image,
            header: &self.header,
            map: self.recipe.map,
            ram: &self.ram,
            pool: &self.pool,
            meta: &self.meta,
        };
        plan.build(&self.tables())
    }

    fn runs(&self, table: &PageTable<Stage1>) -> Vec<Mapping<Stage1>> {
        let mut runs = Vec::new();
        table.runs(&self.tables(), |run| runs.push(run)).unwrap();
        runs
    }

    /// PAs of `run`.
    fn output(run: &Mapping<Stage1>) -> AddrRange<PhysAddr> {
        AddrRange::new(run.pa, run.range.size_bytes()).unwrap()
    }

    /// Fails unless both PGDs are as the documentation of the module has them.
    fn check(&self) {
        let pgds = self.build().unwrap();
        let boot = self.runs(&pgds.boot);
        let runtime = self.runs(&pgds.runtime);
        let text = HypAttrs::normal(HypAccess::ReadExecute);
        let mut wanted = [self.layout.idmap(), self.layout.trampoline()];
        wanted.sort_by_key(AddrRange::first);
        for (run, place) in boot.iter().zip(wanted) {
            assert_eq!((run.range, run.pa, run.attrs), (place, self.image, text));
        }
        assert_eq!(boot.len(), 2);
        for run in &runtime {
            let first = self.layout.region_of(run.range.first());
            assert_eq!(first, self.layout.region_of(run.range.last()), "{run:?}");
            assert_ne!(first, Some(Region::Idmap), "VA = PA at run time");
            let output = Self::output(run);
            match first.unwrap_or_else(|| panic!("a guard is mapped: {run:?}")) {
                Region::Linear => self.check_window_run(run),
                Region::Trampoline => assert_eq!((output.first(), run.attrs), (self.image, text)),
                region => {
                    assert_eq!(run.level, Level::L3, "{region:?}");
                    let kind = self.kind_of(output.first());
                    assert!(!kind.unwrap().in_linear_window(), "{region:?} {kind:?}");
                }
            }
        }
        self.check_window(&runtime);
        self.check_regions(&runtime);
    }

    fn check_window_run(&self, run: &Mapping<Stage1>) {
        assert_eq!(run.attrs, HypAttrs::normal(HypAccess::ReadWrite));
        assert_eq!(self.layout.linear_va(run.pa), Some(run.range.first()));
        let output = Self::output(run);
        for number in 0..self.pool.pages() {
            let (kind, page) = self.pool.page(&self.meta, number).unwrap();
            assert!(
                kind.in_linear_window() || !output.contains(page),
                "a second, writable mapping of {kind:?} {page:?}"
            );
        }
        let in_ram = self.ram.iter().filter_map(|piece| piece.range());
        let in_ram: u64 = in_ram
            .filter_map(|piece| piece.intersection(&output))
            .map(|part| part.size_bytes())
            .sum();
        assert_eq!(in_ram, output.size_bytes(), "what is not RAM is mapped");
    }

    /// Nothing that should be in the window is missing.
    fn check_window(&self, runtime: &[Mapping<Stage1>]) {
        let mapped: u64 = runtime
            .iter()
            .filter(|run| self.layout.region_of(run.range.first()) == Some(Region::Linear))
            .map(|run| run.range.size_bytes())
            .sum();
        let all: u64 = match self.recipe.map {
            MapMode::OnDemand => self
                .pool
                .chunk_ranges()
                .map(|chunk| chunk.size_bytes())
                .sum(),
            MapMode::Linear => self
                .recipe
                .ram
                .iter()
                .map(|piece| piece.end - piece.start)
                .sum(),
        };
        let private: u32 = [Use::Image, Use::Stack, Use::Context]
            .map(|kind| self.pool.pages_in(kind))
            .iter()
            .sum();
        assert_eq!(
            mapped,
            all - u64::from(private) * self.layout.granule().size()
        );
    }

    /// Image, stacks and contexts are mapped whole, each page of them once.
    fn check_regions(&self, runtime: &[Mapping<Stage1>]) {
        let mut pages = Vec::new();
        for (region, range) in self.layout.regions() {
            let mapped = runtime
                .iter()
                .filter_map(|run| run.range.intersection(&range));
            let bytes: u64 = mapped.map(|part| part.size_bytes()).sum();
            match region {
                Region::Image | Region::Stack(_) | Region::Context(_) | Region::Trampoline => {
                    assert_eq!(bytes, range.size_bytes(), "{region:?}");
                }
                Region::Idmap | Region::Vmemmap => assert_eq!(bytes, 0, "{region:?}"),
                Region::Linear | Region::Slots => {}
            }
        }
        for run in runtime {
            let region = self.layout.region_of(run.range.first()).unwrap();
            if matches!(
                region,
                Region::Stack(_) | Region::Context(_) | Region::Image
            ) {
                let granule = self.layout.granule().size();
                let first = run.pa.raw();
                pages.extend(
                    (0..run.range.size_bytes() / granule).map(|page| first + page * granule),
                );
            }
        }
        let all = pages.len();
        pages.sort_unstable();
        pages.dedup();
        assert_eq!(pages.len(), all, "a page is mapped in two places");
    }

    fn kind_of(&self, address: PhysAddr) -> Option<Use> {
        (0..self.pool.pages())
            .filter_map(|number| self.pool.page(&self.meta, number))
            .find(|(_, page)| *page == address)
            .map(|(kind, _)| kind)
    }
}

/// An image with text in all pages but the last two, which are rodata and data.
fn header(granule: Granule, pages: u32) -> ImageHeader {
    let page = granule.size() as u32;
    ImageHeader {
        magic: 0,
        abi_version: 0,
        image_bytes: pages * page,
        idmap_end: 1024,
        text: page,
        rodata: (pages - 2) * page,
        data: (pages - 1) * page,
        rela: 0,
        rela_end: 0,
        entry_init: 0,
        entry_read_reg: 0,
        entry_reset: 0,
        vectors: 0,
        build_id: 0,
    }
}

fn simple(shape: Shape, map: MapMode) -> Recipe {
    Recipe {
        shape,
        map,
        ram: Vec::from([GIB..3 * GIB, 5 * GIB..6 * GIB - 0x20_0000]),
        chunks: Vec::from([(0, 777)]),
        image_pages: 8,
        cpus: 4,
        seed: 0x5eed,
    }
}

#[test]
fn pgds_map_exactly_what_is_documented() {
    for shape in SHAPES {
        for map in MapMode::ALL {
            Machine::new(&simple(shape, map), 0).check();
        }
    }
}

#[test]
fn pgds_linear_uses_the_largest_blocks() {
    for (granule, sizes) in [
        (Granule::K4, [GIB, 2 << 20, 4 << 10].as_slice()),
        (Granule::K16, &[32 << 20, 16 << 10]),
        (Granule::K64, &[512 << 20, 64 << 10]),
    ] {
        let shape = SHAPES.into_iter().find(|shape| shape.0 == granule).unwrap();
        let machine = Machine::new(&simple(shape, MapMode::Linear), 0);
        let pgds = machine.build().unwrap();
        let mut seen = Vec::new();
        let window = machine.layout.linear();
        pgds.runtime
            .visit(&machine.tables(), window, |leaf| {
                seen.push(leaf.range.size_bytes())
            })
            .unwrap();
        let count = seen.len();
        seen.sort_unstable_by(|one, other| other.cmp(one));
        seen.dedup();
        assert_eq!(seen, sizes);
        // 3 GiB in pages would be 786432 leaves with 4K.
        let most = 2 * (machine.pgds_entries() as usize) * sizes.len();
        assert!(count < most, "{count} leaves");
    }
}

impl Machine {
    /// Entries of a table.
    fn pgds_entries(&self) -> u64 {
        self.layout.granule().size() / 8
    }
}

#[test]
fn pgds_pool_of_the_demand_suffices_and_is_not_wasted() {
    for shape in SHAPES {
        for map in MapMode::ALL {
            let machine = Machine::new(&simple(shape, map), 0);
            machine.build().unwrap();
            let free = u64::from(machine.pool.pages_in(Use::Free));
            // At most five levels, and for each of eight extents a table that its worst place would need.
            assert!(
                free <= 5 * 8,
                "{shape:?} {map:?}: {free} of {} unused",
                machine.pages
            );
        }
    }
}

#[test]
fn pgds_pool_too_small_is_no_memory() {
    let recipe = simple(SHAPES[0], MapMode::Linear);
    let used = {
        let machine = Machine::new(&recipe, 0);
        machine.build().unwrap();
        machine.pages - u64::from(machine.pool.pages_in(Use::Free))
    };
    for short in 1..8 {
        let machine = Machine::new(&recipe, 0);
        for _ in 0..machine.pages - used + short {
            machine.pool.take(&machine.meta, Use::Table).unwrap();
        }
        assert_eq!(machine.build().err(), Some(Error::NoMemory));
    }
}

/// Machines with RAM in pieces of any size at any page, and the pool in up to four chunks.
fn recipes() -> impl Strategy<Value = Recipe> {
    let shape = proptest::sample::select(&SHAPES[..]);
    let map = proptest::sample::select(&MapMode::ALL[..]);
    // Each piece: how many pages after the one before, and how many pages.
    let piece = (0u64..1 << 17, 2048u64..1 << 18);
    (
        shape,
        map,
        0u64..1 << 20,
        proptest::collection::vec(piece, 1..5),
        proptest::collection::vec((0usize..4, 0u64..512), 1..4),
        3u32..12,
        1u32..9,
        any::<u64>(),
    )
        .prop_map(
            |(shape, map, start, pieces, places, image_pages, cpus, seed)| {
                let page = shape.0.size();
                let mut ram = Vec::new();
                let mut at = start * page;
                for (gap, pages) in pieces {
                    ram.push(at + gap * page..at + (gap + pages) * page);
                    at += (gap + pages) * page;
                }
                // One chunk in a quarter of a piece, so that they do not meet.
                let chunks = places
                    .into_iter()
                    .enumerate()
                    .map(|(number, (piece, offset))| {
                        (piece % ram.len(), number as u64 * 512 + offset % 200)
                    })
                    .collect();
                Recipe {
                    shape,
                    map,
                    ram,
                    chunks,
                    image_pages,
                    cpus,
                    seed,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any machine: the demand is enough, and the PGDs are as documented.
    #[test]
    fn pgds_of_any_machine_are_as_documented(recipe in recipes()) {
        Machine::new(&recipe, 0).check();
    }
}
