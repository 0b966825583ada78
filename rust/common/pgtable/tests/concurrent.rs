// SPDX-License-Identifier: GPL-2.0-only

//! Tests of the lock rules: faults on several CPUs, in every order of their accesses to memory.
//!
//! Loom runs each model again and again with another interleaving of the accesses; where an exhaustive search would take
//! too long, it is bounded in the number of preemptions.

use loom::{
    model::Builder,
    sync::{
        Arc,
        Mutex,
        RwLock, //
    },
    thread,
};
use std::{
    collections::BTreeMap,
    vec::Vec, //
};

use super::*;

const PAGE_SIZE: u64 = 0x1000;

fn rw() -> HypAttrs {
    HypAttrs::normal(HypAccess::ReadWrite)
}

#[derive(Default)]
struct Books {
    words: BTreeMap<u64, u64>,
    counts: BTreeMap<u64, u64>,
    next: u64,
}

/// Memory for tables that several CPUs use; each access is one step of a CPU.
struct SharedMemory {
    books: Mutex<Books>,
    /// Whether compare-and-exchange is one step, as it must be.
    atomic: bool,
}

impl SharedMemory {
    fn new(atomic: bool) -> Self {
        let books = Books {
            next: 0x4000_0000,
            ..Books::default()
        };
        Self {
            books: Mutex::new(books),
            atomic,
        }
    }

    fn books(&self) -> loom::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// Checks that each table but the root is reachable once, with a count of its valid entries.
    fn assert_sound(&self, root: PhysAddr) {
        let books = self.books();
        let valid = || books.words.iter().filter(|(_, word)| **word & 1 == 1);
        for (table, count) in books.counts.iter().filter(|(at, _)| **at != root.raw()) {
            let inside = *table..*table + PAGE_SIZE;
            let entries = valid().filter(|(at, _)| inside.contains(at)).count();
            assert_eq!(entries as u64, *count, "count of {table:#x}");
            let links = valid().filter(|(_, word)| **word & !0xfff == *table);
            assert_eq!(links.count(), 1, "links to {table:#x}");
        }
    }
}

impl TableMemory for SharedMemory {
    fn alloc(&self, granules: u64) -> Result<PhysAddr, Error> {
        let mut books = self.books();
        let base = books.next;
        books.next += granules * PAGE_SIZE;
        books.counts.insert(base, 0);
        Ok(pa(base))
    }

    fn free(&self, table: PhysAddr, _granules: u64) {
        let mut books = self.books();
        assert!(books.counts.remove(&table.raw()).is_some());
        books
            .words
            .retain(|at, _| !(table.raw()..table.raw() + PAGE_SIZE).contains(at));
    }

    fn get(&self, table: PhysAddr, entries: u64) -> Result<(), Error> {
        *self.books().counts.get_mut(&table.raw()).unwrap() += entries;
        Ok(())
    }

    fn put(&self, table: PhysAddr, entries: u64) -> Result<(), Error> {
        *self.books().counts.get_mut(&table.raw()).unwrap() -= entries;
        Ok(())
    }

    fn count(&self, table: PhysAddr) -> Result<u64, Error> {
        Ok(self.books().counts[&table.raw()])
    }

    fn load(&self, slot: Slot) -> Result<u64, Error> {
        let books = self.books();
        assert!(
            books.counts.contains_key(&slot.table.raw()),
            "read of a freed table"
        );
        let at = slot.pa().unwrap().raw();
        Ok(books.words.get(&at).copied().unwrap_or(0))
    }

    fn store(&self, slot: Slot, descriptor: u64) -> Result<(), Error> {
        self.books()
            .words
            .insert(slot.pa().unwrap().raw(), descriptor);
        Ok(())
    }

    fn compare_exchange(&self, slot: Slot, old: u64, new: u64) -> Result<bool, Error> {
        if !self.atomic {
            let same = self.load(slot)? == old;
            if same {
                self.store(slot, new)?;
            }
            return Ok(same);
        }
        let mut books = self.books();
        let word = books.words.entry(slot.pa().unwrap().raw()).or_insert(0);
        let same = *word == old;
        if same {
            *word = new;
        }
        Ok(same)
    }
}

struct Shared {
    memory: SharedMemory,
    table: RwLock<PageTable<Stage1>>,
}

impl Shared {
    fn new(va_bits: u32, atomic: bool) -> Arc<Self> {
        let memory = SharedMemory::new(atomic);
        let output = Output::new(Granule::K4, 40, false).unwrap();
        let geometry = Geometry::stage1(Granule::K4, va_bits, output).unwrap();
        let table = PageTable::create(Stage1, geometry, &memory).unwrap();
        Arc::new(Self {
            memory,
            table: RwLock::new(table),
        })
    }

    /// A fault at `page`, to be resolved with the memory at `to`.
    fn fault(&self, page: u64, to: u64) -> Result<(), Error> {
        let env = Env::new(&self.memory, &NotLive);
        let range = va(page * PAGE_SIZE, PAGE_SIZE);
        let table = self.table.read().unwrap();
        table.map_concurrent(&env, range, pa(to), rw(), Blocks::Allowed)
    }

    fn unmap(&self, page: u64) -> Result<u64, Error> {
        let env = Env::new(&self.memory, &NotLive);
        let range = va(page * PAGE_SIZE, PAGE_SIZE);
        self.table.write().unwrap().unmap(&env, range)
    }

    fn lookup(&self, page: u64) -> Option<u64> {
        let at = HypVa::new(page * PAGE_SIZE).unwrap();
        let table = self.table.read().unwrap();
        let leaf = table.lookup(&self.memory, at).unwrap();
        leaf.and_then(|leaf| leaf.translate(at)).map(PhysAddr::raw)
    }

    fn assert_sound(&self) {
        self.memory.assert_sound(self.table.read().unwrap().root());
    }
}

/// Runs `cpu` on two CPUs with the numbers 0 and 1 and returns what they found.
fn on_two_cpus<R: Send + 'static>(
    shared: &Arc<Shared>,
    cpu: impl Fn(u64, &Shared) -> R + Copy + Send + 'static,
) -> Vec<R> {
    let other = {
        let shared = Arc::clone(shared);
        thread::spawn(move || cpu(1, &shared))
    };
    let mine = cpu(0, shared);
    vec![mine, other.join().unwrap()]
}

fn exhaustively(model: impl Fn() + Sync + Send + 'static) {
    Builder::new().check(model);
}

fn with_preemptions(bound: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(bound);
    builder.check(model);
}

#[test]
fn faults_on_one_page_are_resolved_once() {
    exhaustively(|| {
        // Two levels: the tables and the leaf are raced for.
        let shared = Shared::new(30, true);
        let results = on_two_cpus(&shared, |_, shared| shared.fault(5, 0x9000));
        assert_eq!(results, [Ok(()), Ok(())]);
        assert_eq!(shared.lookup(5), Some(0x9000));
        shared.assert_sound();
    });
}

#[test]
fn faults_on_one_page_through_three_levels_are_resolved_once() {
    with_preemptions(3, || {
        let shared = Shared::new(39, true);
        let results = on_two_cpus(&shared, |_, shared| shared.fault(5, 0x9000));
        assert_eq!(results, [Ok(()), Ok(())]);
        assert_eq!(shared.lookup(5), Some(0x9000));
        shared.assert_sound();
    });
}

#[test]
fn faults_on_neighbours_share_their_tables() {
    exhaustively(|| {
        let shared = Shared::new(30, true);
        let results = on_two_cpus(&shared, |cpu, shared| {
            shared.fault(5 + cpu, (9 + cpu) * PAGE_SIZE)
        });
        assert_eq!(results, [Ok(()), Ok(())]);
        assert_eq!(
            (shared.lookup(5), shared.lookup(6)),
            (Some(0x9000), Some(0xa000))
        );
        shared.assert_sound();
    });
}

#[test]
fn faults_that_disagree_have_one_winner() {
    exhaustively(|| {
        let shared = Shared::new(30, true);
        let results = on_two_cpus(&shared, |cpu, shared| {
            shared.fault(5, (9 + cpu) * PAGE_SIZE)
        });
        let winner = match results[..] {
            [Ok(()), Err(Error::BreakBeforeMake)] => 0x9000,
            [Err(Error::BreakBeforeMake), Ok(())] => 0xa000,
            _ => panic!("{results:?}"),
        };
        assert_eq!(shared.lookup(5), Some(winner));
        shared.assert_sound();
    });
}

#[test]
fn reader_beside_a_fault_sees_nothing_or_all() {
    exhaustively(|| {
        let shared = Shared::new(30, true);
        let results = on_two_cpus(&shared, |cpu, shared| {
            if cpu == 0 {
                shared.fault(5, 0x9000).unwrap();
                Some(0x9000)
            } else {
                shared.lookup(5)
            }
        });
        assert!(matches!(results[1], None | Some(0x9000)));
        shared.assert_sound();
    });
}

#[test]
fn unmap_beside_a_fault_leaves_no_trace_or_the_new_page() {
    with_preemptions(2, || {
        let shared = Shared::new(30, true);
        shared.fault(5, 0x9000).unwrap();
        on_two_cpus(&shared, |cpu, shared| {
            if cpu == 0 {
                assert_eq!(shared.unmap(5), Ok(PAGE_SIZE));
            } else {
                shared.fault(6, 0xa000).unwrap();
            }
        });
        assert_eq!((shared.lookup(5), shared.lookup(6)), (None, Some(0xa000)));
        shared.assert_sound();
    });
}

/// The same as the first model, on a memory that breaks its promise: the models do find a lost update.
#[test]
#[should_panic]
fn faults_without_atomic_exchange_are_caught() {
    exhaustively(|| {
        let shared = Shared::new(30, false);
        let _ = on_two_cpus(&shared, |_, shared| shared.fault(5, 0x9000));
        shared.assert_sound();
    });
}

#[test]
fn fault_that_loses_the_race_for_a_table_frees_its_own() {
    let bench = Bench::<Stage1>::new((Granule::K4, 39, 40, false));
    let table = PageTable::adopt(Stage1, *bench.table.geometry(), bench.table.root()).unwrap();
    let arena = bench.arena.clone();
    bench.arena.interfere(move || {
        let env = Env::new(&arena, &NotLive);
        let range = va(PAGE_SIZE, PAGE_SIZE);
        table
            .map_concurrent(&env, range, pa(0x8000), rw(), Blocks::Allowed)
            .unwrap();
    });
    let range = va(0, PAGE_SIZE);
    bench
        .map_concurrent(range, 0x7000, rw(), Blocks::Allowed)
        .unwrap();
    bench.assert_sound();
    // Both pages continue each other.
    assert_eq!(bench.runs().len(), 1);
    assert_eq!(bench.runs()[0].range, va(0, 2 * PAGE_SIZE));
    assert_eq!(bench.arena.table_count(), 3);
}

#[test]
fn fault_without_memory_leaves_tables_that_the_next_unmap_frees() {
    let mut bench = Bench::<Stage1>::new((Granule::K4, 39, 40, false));
    let range = va(0, PAGE_SIZE);
    bench.arena.set_budget(Some(1));
    assert_eq!(
        bench.map_concurrent(range, 0, rw(), Blocks::Allowed),
        Err(Error::NoMemory)
    );
    bench.assert_sound();
    assert_eq!(bench.arena.table_count(), 2);
    assert_eq!(bench.unmap(range), Ok(0));
    bench.assert_sound();
    assert_eq!(bench.arena.table_count(), 1);
}

#[test]
fn fault_on_part_of_a_block_that_is_mapped_is_done() {
    let mut bench = Bench::<Stage2>::new((Granule::K4, 40, 40, false));
    let block = ipa(0x20_0000, 0x20_0000);
    bench
        .map(block, 0x4000_0000, GuestAttrs::RAM, Blocks::Allowed)
        .unwrap();
    let page = ipa(0x20_3000, PAGE_SIZE);
    assert_eq!(
        bench.map_concurrent(page, 0x4000_3000, GuestAttrs::RAM, Blocks::Allowed),
        Ok(())
    );
    assert_eq!(
        bench.map_concurrent(page, 0x4000_4000, GuestAttrs::RAM, Blocks::Allowed),
        Err(Error::BreakBeforeMake)
    );
    bench.assert_sound();
    assert_eq!(bench.runs().len(), 1);
}

/// Memory on which no exchange ever succeeds.
struct Stubborn(Arena);

impl TableMemory for Stubborn {
    fn alloc(&self, granules: u64) -> Result<PhysAddr, Error> {
        self.0.alloc(granules)
    }

    fn free(&self, table: PhysAddr, granules: u64) {
        self.0.free(table, granules);
    }

    fn get(&self, table: PhysAddr, entries: u64) -> Result<(), Error> {
        self.0.get(table, entries)
    }

    fn put(&self, table: PhysAddr, entries: u64) -> Result<(), Error> {
        self.0.put(table, entries)
    }

    fn count(&self, table: PhysAddr) -> Result<u64, Error> {
        self.0.count(table)
    }

    fn load(&self, slot: Slot) -> Result<u64, Error> {
        self.0.load(slot)
    }

    fn store(&self, slot: Slot, descriptor: u64) -> Result<(), Error> {
        self.0.store(slot, descriptor)
    }

    fn compare_exchange(&self, _slot: Slot, _old: u64, _new: u64) -> Result<bool, Error> {
        Ok(false)
    }
}

#[test]
fn fault_that_never_wins_gives_up() {
    let bench = Bench::<Stage1>::new((Granule::K4, 39, 40, false));
    let memory = Stubborn(bench.arena.clone());
    let env = Env::new(&memory, &NotLive);
    for range in [va(0, PAGE_SIZE), va(0, 1 << 30)] {
        assert_eq!(
            bench
                .table
                .map_concurrent(&env, range, pa(0), rw(), Blocks::Allowed),
            Err(Error::Contended)
        );
    }
    assert_eq!(bench.arena.table_count(), 1, "tables are left");
}
