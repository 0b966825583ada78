// SPDX-License-Identifier: GPL-2.0-only

//! Memory for tables that watches what is done to it, and the port that sees the barriers between.
//!
//! The monitor knows these rules:
//!
//! - what was valid and was changed must be invalidated before its entry is made valid again with another address, before any
//!   table is freed, and before the operation returns: DSB, TLBI, DSB; at stage 2 under the guest's VMID and followed by an
//!   invalidation of stage 1 that is complete in its turn;
//! - no store comes between the steps of that;
//! - what was made valid must be followed by a DSB before the operation returns;
//! - in the EL2 regime an ISB comes after each of these DSBs; VTTBR_EL2 is used after an ISB only, and put back;
//! - the count of a table is the number of its valid entries.
//!
//! Whether a TLBI is for the right address and level is not its business: the tests of the sequences see to that.

use std::{
    boxed::Box,
    cell::RefCell,
    collections::{
        BTreeMap,
        BTreeSet, //
    },
    rc::Rc,
    vec::Vec, //
};

use super::{
    Error,
    Granule,
    Op,
    PhysAddr,
    Slot,
    TableMemory,
    TlbPort,
    GUEST_VTTBR, //
};
use crate::common::pgtable::tlb::Tlbi;

/// Bits of a leaf that may change while it is live: S2AP or AP, AF, XN, and those for software.
const CHANGEABLE: u64 = 0x0060_0000_0000_04c0 | IGNORED;
/// Bits of a leaf that hardware ignores, so that no TLB is stale when they change.
const IGNORED: u64 = 0x1ff << 55;

/// What happened to memory and TLBs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Granules were taken from this address on.
    Alloc(u64),
    /// Granules were given back.
    Free(u64),
    /// The descriptor at this address was written.
    Store(u64, u64),
    /// An instruction was issued.
    Op(Op),
}

/// The instructions in a trace.
pub(super) fn ops(trace: &[Event]) -> Vec<Op> {
    trace
        .iter()
        .filter_map(|event| match event {
            Event::Op(op) => Some(*op),
            _ => None,
        })
        .collect()
}

/// How far the invalidation of a changed entry has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// The entry was written.
    Stored,
    /// All walkers see it.
    Visible,
    /// Stage 2 alone is being invalidated.
    IssuedStage2,
    /// Stage 2 alone is invalidated.
    DoneStage2,
    /// The last invalidation is being made.
    Issued,
}

struct Table {
    words: Vec<u64>,
    count: u64,
}

#[derive(Default)]
struct State {
    tables: BTreeMap<u64, Table>,
    returned: Vec<(u64, u64)>,
    next: u64,
    budget: Option<u64>,
    trace: Vec<Event>,
    dirty: BTreeMap<u64, Stage>,
    unpublished: BTreeSet<u64>,
    /// A DSB wants an ISB.
    wants_isb: bool,
    /// Stage 2 is used: publishing needs no ISB.
    guest: bool,
    vttbr: u64,
    vttbr_in_effect: bool,
    violations: Vec<&'static str>,
}

type Interference = Box<dyn FnOnce()>;

/// Memory for tables, with its books and its monitor. Clones are the same arena.
#[derive(Clone)]
pub(super) struct Arena {
    granule: u64,
    state: Rc<RefCell<State>>,
    before_exchange: Rc<RefCell<Option<Interference>>>,
}

impl Arena {
    /// An arena whose tables stand at `base` and above.
    pub(super) fn new(granule: Granule, base: u64) -> Self {
        Self::with(granule, base, false)
    }

    /// An arena for tables of stage 2.
    pub(super) fn for_guest(granule: Granule, base: u64) -> Self {
        Self::with(granule, base, true)
    }

    fn with(granule: Granule, base: u64, guest: bool) -> Self {
        let state = State {
            next: base,
            guest,
            vttbr_in_effect: true,
            ..State::default()
        };
        Self {
            granule: granule.size(),
            state: Rc::new(RefCell::new(state)),
            before_exchange: Rc::default(),
        }
    }

    /// Lets only so many more allocations succeed; `None` lets all.
    pub(super) fn set_budget(&self, budget: Option<u64>) {
        self.state.borrow_mut().budget = budget;
    }

    /// Runs `other` right before the next compare-and-exchange, as another CPU could.
    pub(super) fn interfere(&self, other: impl FnOnce() + 'static) {
        *self.before_exchange.borrow_mut() = Some(Box::new(other));
    }

    /// What happened since the last call.
    pub(super) fn take_trace(&self) -> Vec<Event> {
        std::mem::take(&mut self.state.borrow_mut().trace)
    }

    /// Number of tables, the root's granules as one.
    pub(super) fn table_count(&self) -> usize {
        self.state.borrow().tables.len()
    }

    /// What the monitor complains about since the last call. An operation has just returned.
    pub(super) fn take_violations(&self) -> Vec<&'static str> {
        let mut state = self.state.borrow_mut();
        let at_return = [
            (
                !state.dirty.is_empty(),
                "returned before the invalidation was complete",
            ),
            (
                !state.unpublished.is_empty(),
                "returned before new entries were published",
            ),
            (state.wants_isb, "returned without the ISB"),
            (
                state.vttbr != 0 || !state.vttbr_in_effect,
                "returned under the guest's VMID",
            ),
        ];
        for (found, complaint) in at_return {
            if found {
                state.violations.push(complaint);
            }
        }
        state.dirty.clear();
        state.unpublished.clear();
        state.wants_isb = false;
        state.vttbr = 0;
        state.vttbr_in_effect = true;
        std::mem::take(&mut state.violations)
    }

    /// Writes a descriptor as a stray store would.
    pub(super) fn corrupt(&self, slot: Slot, descriptor: u64) {
        let mut state = self.state.borrow_mut();
        *state.word(slot).unwrap() = descriptor;
    }

    /// Sets the count of a table.
    pub(super) fn corrupt_count(&self, table: PhysAddr, count: u64) {
        let mut state = self.state.borrow_mut();
        state.tables.get_mut(&table.raw()).unwrap().count = count;
    }

    /// Checks that the count of every table but `root` is the number of its valid entries.
    pub(super) fn assert_counts(&self, root: PhysAddr) {
        for (pa, table) in &self.state.borrow().tables {
            if *pa != root.raw() {
                let valid = table.words.iter().filter(|word| **word & 1 == 1).count();
                assert_eq!(table.count, valid as u64, "count of the table at {pa:#x}");
            }
        }
    }
}

impl State {
    fn word(&mut self, slot: Slot) -> Result<&mut u64, Error> {
        self.tables
            .get_mut(&slot.table.raw())
            .and_then(|table| table.words.get_mut(slot.index as usize))
            .ok_or(Error::Corrupt)
    }

    fn write(&mut self, slot: Slot, new: u64) -> Result<(), Error> {
        let at = slot.pa().ok_or(Error::Corrupt)?.raw();
        let old = std::mem::replace(self.word(slot)?, new);
        self.trace.push(Event::Store(at, new));
        if self.wants_isb || self.dirty.values().any(|stage| *stage > Stage::Visible) {
            self.violations
                .push("went on before the invalidation was complete");
        }
        if self.vttbr != 0 || !self.vttbr_in_effect {
            self.violations.push("went on under the guest's VMID");
        }
        match (old & 1, new & 1) {
            (1, 1) if (old ^ new) & !CHANGEABLE != 0 => {
                self.violations
                    .push("a valid entry was given another translation");
            }
            (1, 1) if (old ^ new) & !IGNORED == 0 => {}
            (1, _) => {
                self.dirty.insert(at, Stage::Stored);
            }
            (_, 1) => {
                if self.dirty.contains_key(&at) {
                    self.violations.push("made before the break was complete");
                }
                self.unpublished.insert(at);
            }
            _ => {}
        }
        Ok(())
    }

    fn issue(&mut self, op: Op) {
        self.trace.push(Event::Op(op));
        match op {
            Op::DsbIshst => self.store_barrier(),
            Op::DsbIsh => {
                self.store_barrier();
                self.advance(Stage::IssuedStage2, Stage::DoneStage2);
                let before = self.dirty.len();
                self.dirty.retain(|_, stage| *stage != Stage::Issued);
                self.wants_isb |= self.dirty.len() != before;
            }
            Op::Isb => {
                self.wants_isb = false;
                self.vttbr_in_effect = true;
            }
            Op::Tlbi(tlbi) => self.invalidate(tlbi),
            Op::WriteVttbr(vttbr) => {
                if self.wants_isb {
                    self.violations.push("left the VMID without the ISB");
                }
                self.vttbr = vttbr;
                self.vttbr_in_effect = false;
            }
            Op::WriteVtcr(_) | Op::WriteTcrEl1(_) => {}
        }
    }

    fn store_barrier(&mut self) {
        self.advance(Stage::Stored, Stage::Visible);
        self.wants_isb |= !self.unpublished.is_empty() && !self.guest;
        self.unpublished.clear();
    }

    fn invalidate(&mut self, tlbi: Tlbi) {
        if self.dirty.values().any(|stage| *stage == Stage::Stored) {
            self.violations.push("invalidated before the DSB");
        }
        let in_guest = self.vttbr == GUEST_VTTBR && self.vttbr_in_effect;
        match tlbi {
            Tlbi::Vae2is(_) | Tlbi::Vale2is(_) | Tlbi::Alle2is | Tlbi::Alle1is => {
                self.advance(Stage::Visible, Stage::Issued);
            }
            Tlbi::Ipas2e1is(_) | Tlbi::Ipas2le1is(_) if in_guest => {
                self.advance(Stage::Visible, Stage::IssuedStage2);
            }
            Tlbi::Vmalls12e1is if in_guest => self.advance(Stage::Visible, Stage::Issued),
            Tlbi::Vmalle1is if in_guest => self.advance(Stage::DoneStage2, Stage::Issued),
            _ => self.violations.push("invalidated another VMID"),
        }
    }

    fn advance(&mut self, from: Stage, to: Stage) {
        for stage in self.dirty.values_mut().filter(|stage| **stage == from) {
            *stage = to;
        }
    }
}

impl TableMemory for Arena {
    fn alloc(&self, granules: u64) -> Result<PhysAddr, Error> {
        let mut state = self.state.borrow_mut();
        match &mut state.budget {
            Some(0) => return Err(Error::NoMemory),
            Some(left) => *left -= 1,
            None => {}
        }
        let bytes = granules * self.granule;
        let again = state.returned.iter().position(|(_, size)| *size == bytes);
        let base = match again {
            Some(place) => state.returned.swap_remove(place).0,
            None => {
                let base = state.next.next_multiple_of(bytes);
                state.next = base + bytes;
                base
            }
        };
        let table = Table {
            words: vec![0; (bytes / 8) as usize],
            count: 0,
        };
        assert!(state.tables.insert(base, table).is_none());
        state.trace.push(Event::Alloc(base));
        PhysAddr::new(base).ok_or(Error::NoMemory)
    }

    fn free(&self, table: PhysAddr, granules: u64) {
        let mut state = self.state.borrow_mut();
        let bytes = granules * self.granule;
        let freed = state.tables.remove(&table.raw()).expect("freed twice");
        assert_eq!(freed.words.len() as u64 * 8, bytes);
        // What was never reachable, or is not any more, leaves nothing to publish.
        let gone = table.raw()..table.raw() + bytes;
        state.unpublished.retain(|at| !gone.contains(at));
        if !state.dirty.is_empty() {
            state
                .violations
                .push("freed before the invalidation was complete");
        }
        state.returned.push((table.raw(), bytes));
        state.trace.push(Event::Free(table.raw()));
    }

    fn get(&self, table: PhysAddr, entries: u64) -> Result<(), Error> {
        let mut state = self.state.borrow_mut();
        let table = state.tables.get_mut(&table.raw()).ok_or(Error::Corrupt)?;
        table.count += entries;
        Ok(())
    }

    fn put(&self, table: PhysAddr, entries: u64) -> Result<(), Error> {
        let mut state = self.state.borrow_mut();
        let table = state.tables.get_mut(&table.raw()).ok_or(Error::Corrupt)?;
        table.count = table.count.checked_sub(entries).ok_or(Error::Corrupt)?;
        Ok(())
    }

    fn count(&self, table: PhysAddr) -> Result<u64, Error> {
        let state = self.state.borrow();
        let table = state.tables.get(&table.raw()).ok_or(Error::Corrupt)?;
        Ok(table.count)
    }

    fn load(&self, slot: Slot) -> Result<u64, Error> {
        self.state.borrow_mut().word(slot).copied()
    }

    fn store(&self, slot: Slot, descriptor: u64) -> Result<(), Error> {
        self.state.borrow_mut().write(slot, descriptor)
    }

    fn compare_exchange(&self, slot: Slot, old: u64, new: u64) -> Result<bool, Error> {
        let other = self.before_exchange.borrow_mut().take();
        if let Some(other) = other {
            other();
        }
        let mut state = self.state.borrow_mut();
        if *state.word(slot)? != old {
            return Ok(false);
        }
        state.write(slot, new).map(|()| true)
    }
}

impl TlbPort for Arena {
    fn issue(&self, op: Op) {
        self.state.borrow_mut().issue(op);
    }
}
