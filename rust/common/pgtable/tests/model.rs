// SPDX-License-Identifier: GPL-2.0-only

//! Tests against a model: a map of what should be mapped, without levels, blocks or tables.

use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    vec::Vec, //
};

use super::*;

/// What should be mapped: from the first address of a range to its size, its output and its attributes.
#[derive(Clone, Debug)]
struct Model<A> {
    ranges: BTreeMap<u64, (u64, u64, A)>,
}

impl<A: Copy + Eq> Model<A> {
    fn new() -> Self {
        Self {
            ranges: BTreeMap::new(),
        }
    }

    /// Makes `at` the border of two ranges, if it is in the middle of one.
    fn cut(&mut self, at: u64) {
        let Some((first, (size, to, attrs))) = self
            .ranges
            .range(..at)
            .next_back()
            .map(|(first, range)| (*first, *range))
        else {
            return;
        };
        if first + size > at {
            let offset = at - first;
            self.ranges.insert(first, (offset, to, attrs));
            self.ranges.insert(at, (size - offset, to + offset, attrs));
        }
    }

    fn inside(&mut self, first: u64, size: u64) -> Vec<(u64, (u64, u64, A))> {
        self.cut(first);
        self.cut(first + size);
        self.ranges
            .range(first..first + size)
            .map(|(at, range)| (*at, *range))
            .collect()
    }

    fn map(&mut self, first: u64, size: u64, to: u64, attrs: A) -> Result<(), Error> {
        // The first range in the way decides.
        if let Some((at, (_, is, has))) = self.inside(first, size).first() {
            let same = *is == to + (at - first) && *has == attrs;
            return Err(if same {
                Error::AlreadyMapped
            } else {
                Error::BreakBeforeMake
            });
        }
        self.ranges.insert(first, (size, to, attrs));
        Ok(())
    }

    /// Maps what is not mapped, up to the first conflict.
    fn map_concurrent(&mut self, first: u64, size: u64, to: u64, attrs: A) -> Result<(), Error> {
        let mut at = first;
        for (next, (length, is, has)) in self.inside(first, size) {
            if next > at {
                self.ranges
                    .insert(at, (next - at, to + (at - first), attrs));
            }
            if is != to + (next - first) || has != attrs {
                return Err(Error::BreakBeforeMake);
            }
            at = next + length;
        }
        if at < first + size {
            let rest = (first + size - at, to + (at - first), attrs);
            self.ranges.insert(at, rest);
        }
        Ok(())
    }

    fn unmap(&mut self, first: u64, size: u64) -> u64 {
        let inside = self.inside(first, size);
        for (at, _) in &inside {
            self.ranges.remove(at);
        }
        inside.iter().map(|(_, (size, _, _))| size).sum()
    }

    fn protect(&mut self, first: u64, size: u64, attrs: A) -> Result<(), Error> {
        let inside = self.inside(first, size);
        let mapped: u64 = inside.iter().map(|(_, (size, _, _))| size).sum();
        if mapped != size {
            return Err(Error::NotMapped);
        }
        for (at, (size, to, _)) in inside {
            self.ranges.insert(at, (size, to, attrs));
        }
        Ok(())
    }

    /// All ranges, those that continue each other taken together.
    fn joined(&self) -> Vec<(u64, u64, u64, A)> {
        join(
            self.ranges
                .iter()
                .map(|(at, (size, to, a))| (*at, *size, *to, *a)),
        )
    }
}

fn join<A: Copy + Eq>(ranges: impl Iterator<Item = (u64, u64, u64, A)>) -> Vec<(u64, u64, u64, A)> {
    let mut joined: Vec<(u64, u64, u64, A)> = Vec::new();
    for (at, size, to, attrs) in ranges {
        match joined.last_mut() {
            Some(last) if last.0 + last.1 == at && last.2 + last.1 == to && last.3 == attrs => {
                last.1 += size;
            }
            _ => joined.push((at, size, to, attrs)),
        }
    }
    joined
}

/// One step of a random run. Places and sizes are numbers that [`Driver`] makes addresses of.
#[derive(Clone, Debug)]
enum Step {
    Map(Place, usize, bool),
    MapConcurrent(Place, usize),
    Unmap(Place),
    Protect(Place, usize),
    Split(Place, usize),
    Merge(Place),
    Budget(Option<u64>),
}

/// Where: an anchor, pages before or after it, a size in blocks and pages, and pages by which the output is shifted.
#[derive(Clone, Debug)]
struct Place {
    anchor: usize,
    before: u64,
    block: usize,
    pages: u64,
    shift: u64,
}

fn place() -> impl Strategy<Value = Place> {
    (
        0usize..6,
        0u64..3,
        prop_oneof![5 => Just(0usize), 3 => Just(1), 1 => Just(2)],
        0u64..4,
        prop_oneof![6 => Just(0u64), 1 => Just(1)],
    )
        .prop_map(|(anchor, before, block, pages, shift)| Place {
            anchor,
            before,
            block,
            pages,
            shift,
        })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (place(), 0usize..4, any::<bool>()).prop_map(|(p, a, b)| Step::Map(p, a, b)),
        2 => (place(), 0usize..4).prop_map(|(p, a)| Step::MapConcurrent(p, a)),
        4 => place().prop_map(Step::Unmap),
        3 => (place(), 0usize..4).prop_map(|(p, a)| Step::Protect(p, a)),
        1 => (place(), 0usize..2).prop_map(|(p, l)| Step::Split(p, l)),
        1 => place().prop_map(Step::Merge),
        1 => prop_oneof![Just(None), (0u64..4).prop_map(Some)].prop_map(Step::Budget),
    ]
}

type Outcome = Result<(), Error>;

/// A table and the model beside it.
struct Driver<F: Subject> {
    bench: Bench<F>,
    model: Model<F::Attrs>,
    page: u64,
    /// Size of a block of the lowest block level, and of the next one where that is not too large.
    blocks: [u64; 2],
}

impl<F: Subject> Driver<F> {
    fn new(shape: (Granule, u32, u32, bool)) -> Self {
        let bench = Bench::<F>::new(shape);
        let page = shape.0.size();
        let fits = |level: Level| {
            let geometry = bench.table.geometry();
            let size = geometry.entry_size(level)?.bytes();
            let most = 1 << (shape.1.min(shape.2) - 2);
            (geometry.is_leaf_level(level) && size <= most).then_some(size)
        };
        let lower = fits(Level::L2).unwrap_or(16 * page);
        let blocks = [lower, fits(Level::L1).unwrap_or(lower)];
        Self {
            bench,
            model: Model::new(),
            page,
            blocks,
        }
    }

    /// The range that `place` means, clipped to the input of the table.
    fn range(&self, place: &Place) -> (u64, u64) {
        let end = self.bench.all().last().raw() + 1;
        let anchors = [
            0,
            self.blocks[0],
            2 * self.blocks[0],
            self.blocks[1],
            end / 2,
            end - self.blocks[0],
        ];
        let first = anchors[place.anchor].saturating_sub(place.before * self.page);
        let block = match place.block {
            0 => 0,
            number => self.blocks[number - 1],
        };
        let size = (block + place.pages * self.page).max(self.page);
        (first, size.min(end - first))
    }

    /// The output for `first`: the same address modulo half the output, or one page beside it.
    fn output(&self, place: &Place, first: u64, size: u64) -> u64 {
        let half = 1 << (self.bench.table.geometry().output().bits() - 1);
        let to = first % half + place.shift * self.page;
        if to + size <= 2 * half {
            to
        } else {
            0
        }
    }

    fn input(first: u64, size: u64) -> AddrRange<F::Input> {
        AddrRange::new(F::Input::new(first).unwrap(), size).unwrap()
    }

    /// Performs `step` on table and model and compares.
    fn apply(&mut self, step: &Step) {
        // A failed allocation is the only thing that the model does not foresee. It leaves everything as it was.
        let before = self.model.clone();
        let Some((found, expected)) = self.perform(step) else {
            return;
        };
        if found == Err(Error::NoMemory) {
            self.model = before;
        } else {
            assert_eq!(found, expected, "{step:?}");
        }
        self.compare();
    }

    /// What the table answers to `step`, and what the model does; `None` if there is nothing to compare.
    fn perform(&mut self, step: &Step) -> Option<(Outcome, Outcome)> {
        let attrs = F::attrs();
        Some(match step {
            Step::Map(place, a, pages_only) => return self.map(place, attrs[*a], *pages_only),
            Step::MapConcurrent(place, a) => return self.map_concurrent(place, attrs[*a]),
            Step::Unmap(place) => {
                let (first, size) = self.range(place);
                let expected = self.model.unmap(first, size);
                let found = self.bench.unmap(Self::input(first, size));
                if let Ok(bytes) = found {
                    assert_eq!(bytes, expected);
                }
                (found.map(|_| ()), Ok(()))
            }
            Step::Protect(place, a) => {
                let (first, size) = self.range(place);
                (
                    self.bench.protect(Self::input(first, size), attrs[*a]),
                    self.model.protect(first, size, attrs[*a]),
                )
            }
            Step::Split(place, level) => {
                // Down to level 2 or 3, but the larger block only to level 2.
                let (first, size) = self.range(place);
                let level = if *level == 0 || size > 2 * self.blocks[0] {
                    Level::L2
                } else {
                    Level::L3
                };
                (self.bench.split(Self::input(first, size), level), Ok(()))
            }
            Step::Merge(place) => {
                let (first, size) = self.range(place);
                let found = self.bench.merge(Self::input(first, size));
                (found.map(|_| ()), Ok(()))
            }
            Step::Budget(budget) => {
                self.bench.arena.set_budget(*budget);
                return None;
            }
        })
    }

    fn map(
        &mut self,
        place: &Place,
        attrs: F::Attrs,
        pages_only: bool,
    ) -> Option<(Outcome, Outcome)> {
        let (first, size, to) = self.mapping(place)?;
        // Pages for the larger block would be hundreds of thousands.
        let blocks = if pages_only && size <= 2 * self.blocks[0] {
            Blocks::PagesOnly
        } else {
            Blocks::Allowed
        };
        let input = Self::input(first, size);
        Some((
            self.bench.map(input, to, attrs, blocks),
            self.model.map(first, size, to, attrs),
        ))
    }

    fn map_concurrent(&mut self, place: &Place, attrs: F::Attrs) -> Option<(Outcome, Outcome)> {
        let (first, size, to) = self.mapping(place)?;
        // Without memory it stops half-way, which the model cannot follow.
        self.bench.arena.set_budget(None);
        let input = Self::input(first, size);
        Some((
            self.bench.map_concurrent(input, to, attrs, Blocks::Allowed),
            self.model.map_concurrent(first, size, to, attrs),
        ))
    }

    /// Input, size and output for a mapping at `place`; `None` if it would be the larger block, in pages.
    fn mapping(&self, place: &Place) -> Option<(u64, u64, u64)> {
        let (first, size) = self.range(place);
        let to = self.output(place, first, size);
        let in_pages = to % self.blocks[0] != first % self.blocks[0];
        (!in_pages || size <= 2 * self.blocks[0]).then_some((first, size, to))
    }

    fn compare(&self) {
        self.bench.assert_sound();
        let found = join(self.bench.runs().into_iter().map(|run| {
            let first = run.range.first().raw();
            (first, run.range.size_bytes(), run.pa.raw(), run.attrs)
        }));
        assert_eq!(found, self.model.joined());
    }

    fn finish(mut self) {
        self.bench.arena.set_budget(None);
        let mapped: u64 = self.model.ranges.values().map(|(size, _, _)| size).sum();
        assert_eq!(self.bench.unmap(self.bench.all()), Ok(mapped));
        self.bench.assert_sound();
        assert_eq!(self.bench.arena.table_count(), 1, "tables are left");
        self.bench.destroy();
    }
}

fn run<F: Subject>(shape: (Granule, u32, u32, bool), steps: &[Step]) {
    let mut driver = Driver::<F>::new(shape);
    for step in steps {
        driver.apply(step);
    }
    driver.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn stage1_random_operations_agree_with_the_model(
        shape in 0..STAGE1_SHAPES.len(),
        steps in prop::collection::vec(step(), 1..24),
    ) {
        run::<Stage1>(STAGE1_SHAPES[shape], &steps);
    }

    #[test]
    fn stage2_random_operations_agree_with_the_model(
        shape in 0..STAGE2_SHAPES.len(),
        steps in prop::collection::vec(step(), 1..24),
    ) {
        run::<Stage2>(STAGE2_SHAPES[shape], &steps);
    }
}

/// Every sequence of three operations on the four ranges of two neighbouring places, one in a block and one beside it.
#[test]
fn small_space_every_sequence_agrees_with_the_model() {
    let places = [(0, 0, 1, 0), (1, 1, 0, 2), (1, 0, 0, 1), (0, 0, 1, 1)].map(
        |(anchor, before, block, pages)| Place {
            anchor,
            before,
            block,
            pages,
            shift: 0,
        },
    );
    let mut steps = Vec::new();
    for place in places {
        steps.push(Step::Map(place.clone(), 0, false));
        steps.push(Step::MapConcurrent(place.clone(), 0));
        steps.push(Step::Unmap(place.clone()));
        steps.push(Step::Protect(place.clone(), 1));
        steps.push(Step::Merge(place));
    }
    for shape in [(Granule::K4, 39, 40, false), (Granule::K4, 52, 52, true)] {
        for first in &steps {
            for second in &steps {
                for third in &steps {
                    let sequence = [first.clone(), second.clone(), third.clone()];
                    run::<Stage1>(shape, &sequence);
                }
            }
        }
    }
}
