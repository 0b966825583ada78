// SPDX-License-Identifier: GPL-2.0-only

//! From the walker of `common::pgtable` to the model: memory for tables, and the port for TLB maintenance.
//!
//! A [`Machine`] is a system that several users share, each as one of its CPUs. Freed tables are poisoned, and the next
//! allocation takes them first, so that a walk which still sees one goes astray at once.

use core::panic::Location;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        Mutex,
        MutexGuard, //
    },
};

use super::{
    hwdebug::{
        ID_AA64DFR0_EL1,
        MDSCR_EL1, //
    },
    inject::Injector,
    types::{
        Domain,
        Instruction,
        Kind,
        Reg,
        Tlbi, //
    },
    violation::{
        Event,
        Rule, //
    },
    System,
};
use crate::common::{
    addr::{
        Granule,
        PhysAddr, //
    },
    hwdebug,
    pgtable::{
        tlb::{
            self,
            Op,
            TlbPort, //
        },
        Error,
        Slot,
        TableMemory, //
    },
    upkeep,
};

/// Memory for tables.
#[derive(Clone)]
struct Arena {
    next: u64,
    /// Address and granules, the last one freed at the end.
    free: Vec<(u64, u64)>,
    /// Granules and valid entries of each table.
    tables: HashMap<u64, (u64, u64)>,
    /// Allocations that may still be made, if there is a limit.
    budget: Option<u64>,
}

#[derive(Clone)]
struct Inner {
    system: System,
    arena: Arena,
}

/// A system and the memory for its tables. Clones are the same machine.
#[derive(Clone)]
pub struct Machine {
    inner: Arc<Mutex<Inner>>,
    granule: Granule,
    /// Called before each access and instruction: another CPU may go first.
    interrupt: Arc<dyn Fn() + Send + Sync>,
}

impl Machine {
    /// `cpus` CPUs, with memory for tables from `base` on.
    pub fn new(cpus: usize, granule: Granule, base: u64) -> Self {
        let arena = Arena {
            next: base,
            free: Vec::new(),
            tables: HashMap::new(),
            budget: None,
        };
        Self {
            inner: Arc::new(Mutex::new(Inner {
                system: System::new(cpus),
                arena,
            })),
            granule,
            interrupt: Arc::new(|| {}),
        }
    }

    /// Calls `interrupt` before each access and instruction of the walker.
    pub fn with_interrupt(self, interrupt: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            interrupt: Arc::new(interrupt),
            ..self
        }
    }

    /// A machine of its own in the same state.
    pub fn fork(&self) -> Self {
        let inner = self.lock().clone();
        Self {
            inner: Arc::new(Mutex::new(inner)),
            granule: self.granule,
            interrupt: self.interrupt.clone(),
        }
    }

    /// Limits the tables that can still be taken.
    pub fn limit(&self, tables: Option<u64>) {
        self.lock().arena.budget = tables;
    }

    /// Tables that are taken.
    pub fn tables(&self) -> usize {
        self.lock().arena.tables.len()
    }

    /// Runs `scene` with the system.
    pub fn with<R>(&self, scene: impl FnOnce(&mut System) -> R) -> R {
        scene(&mut self.lock().system)
    }

    /// Memory for tables, as CPU `cpu` reads and writes it.
    pub fn memory(&self, cpu: usize) -> Tables {
        Tables {
            machine: self.clone(),
            cpu,
        }
    }

    /// Maintenance by CPU `cpu`.
    pub fn port(&self, cpu: usize) -> Port {
        Port {
            machine: self.clone(),
            cpu,
            injector: Injector::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn execute(&self, cpu: usize, instruction: Instruction) {
        (self.interrupt)();
        self.with(|system| {
            let mut cpu = system.cpu(cpu);
            // A violation is recorded in the system.
            let _ = match instruction {
                Instruction::Dsb(domain, kind) => cpu.dsb(domain, kind),
                Instruction::Isb => cpu.isb(),
                Instruction::Tlbi(tlbi) => cpu.tlbi(tlbi),
                Instruction::Msr(reg, value) => cpu.msr(reg, value),
                Instruction::DcCivac(line) => cpu.dc_civac(line),
                Instruction::IcIalluis => cpu.ic_ialluis(),
            };
        });
    }
}

/// The instruction that `arch` makes of `op`.
pub fn instruction(op: Op) -> Instruction {
    let is = true;
    match op {
        Op::DsbIshst => Instruction::Dsb(Domain::Ish, Kind::Stores),
        Op::DsbIsh => Instruction::Dsb(Domain::Ish, Kind::Full),
        Op::Isb => Instruction::Isb,
        Op::WriteVttbr(value) => Instruction::Msr(Reg::VttbrEl2, value),
        Op::WriteVtcr(value) => Instruction::Msr(Reg::VtcrEl2, value),
        Op::WriteTcrEl1(value) => Instruction::Msr(Reg::TcrEl1, value),
        Op::Tlbi(tlbi) => Instruction::Tlbi(match tlbi {
            tlb::Tlbi::Vae2is(operand) => Tlbi::Vae2 { operand, is },
            tlb::Tlbi::Vale2is(operand) => Tlbi::Vale2 { operand, is },
            tlb::Tlbi::Alle2is => Tlbi::Alle2 { is },
            tlb::Tlbi::Alle1is => Tlbi::Alle1 { is },
            tlb::Tlbi::Ipas2e1is(operand) => Tlbi::Ipas2e1 { operand, is },
            tlb::Tlbi::Ipas2le1is(operand) => Tlbi::Ipas2le1 { operand, is },
            tlb::Tlbi::Vmalle1is => Tlbi::Vmalle1 { is },
            tlb::Tlbi::Vmalls12e1is => Tlbi::Vmalls12e1 { is },
        }),
    }
}

/// The same for the host's breakpoints and watchpoints.
pub fn debug_instruction(op: hwdebug::Op) -> Instruction {
    match op {
        hwdebug::Op::Isb => Instruction::Isb,
        hwdebug::Op::WriteMdscr(value) => Instruction::Msr(MDSCR_EL1, value),
        hwdebug::Op::Write(bank, number, value) => {
            Instruction::Msr(Reg::Debug(bank, number), value)
        }
    }
}

/// A CPU as [`TlbPort`], with an [`Injector`] between.
#[derive(Clone)]
pub struct Port {
    machine: Machine,
    cpu: usize,
    injector: Injector,
}

impl Port {
    /// The same port with faults of `injector`.
    pub fn with(self, injector: &Injector) -> Self {
        Self {
            injector: injector.clone(),
            ..self
        }
    }

    fn mrs(&self, reg: Reg) -> u64 {
        self.machine.with(|system| system.cpu(self.cpu).mrs(reg))
    }
}

impl TlbPort for Port {
    #[track_caller]
    fn issue(&self, op: Op) {
        let from = Location::caller();
        for instruction in self.injector.pass(instruction(op), from) {
            self.machine.execute(self.cpu, instruction);
        }
    }
}

impl upkeep::Port for Port {
    #[track_caller]
    fn issue(&self, op: upkeep::Op) {
        let from = Location::caller();
        let instruction = match op {
            upkeep::Op::DcCivac(line) => Instruction::DcCivac(line),
            upkeep::Op::IcIalluis => Instruction::IcIalluis,
            upkeep::Op::DsbSy => Instruction::Dsb(Domain::Sy, Kind::Full),
            upkeep::Op::DsbIsh => Instruction::Dsb(Domain::Ish, Kind::Full),
            upkeep::Op::DsbIshst => Instruction::Dsb(Domain::Ish, Kind::Stores),
            upkeep::Op::Isb => Instruction::Isb,
        };
        for instruction in self.injector.pass(instruction, from) {
            self.machine.execute(self.cpu, instruction);
        }
    }
}

impl hwdebug::Port for Port {
    #[track_caller]
    fn issue(&self, op: hwdebug::Op) {
        let from = Location::caller();
        for instruction in self.injector.pass(debug_instruction(op), from) {
            self.machine.execute(self.cpu, instruction);
        }
    }

    fn read(&self, bank: hwdebug::Bank, number: usize) -> u64 {
        self.mrs(Reg::Debug(bank, number))
    }

    fn mdscr(&self) -> u64 {
        self.mrs(MDSCR_EL1)
    }

    fn id_aa64dfr0(&self) -> u64 {
        self.mrs(ID_AA64DFR0_EL1)
    }
}

/// [`TableMemory`] of a [`Machine`].
#[derive(Clone)]
pub struct Tables {
    machine: Machine,
    cpu: usize,
}

impl Tables {
    fn access<R>(&self, run: impl FnOnce(&mut Inner) -> R) -> R {
        (self.machine.interrupt)();
        run(&mut self.machine.lock())
    }

    fn count_mut<R>(
        &self,
        table: PhysAddr,
        run: impl FnOnce(&mut u64) -> Option<R>,
    ) -> Result<R, Error> {
        self.access(|inner| {
            let (_, entries) = inner
                .arena
                .tables
                .get_mut(&table.raw())
                .ok_or(Error::Corrupt)?;
            run(entries).ok_or(Error::Corrupt)
        })
    }
}

impl Inner {
    fn slot(&self, slot: Slot, granule: Granule) -> Result<u64, Error> {
        let (granules, _) = self
            .arena
            .tables
            .get(&slot.table.raw())
            .ok_or(Error::Corrupt)?;
        let inside = slot.index < granules * granule.size() / 8;
        let pa = slot.pa().filter(|_| inside).ok_or(Error::Corrupt)?;
        Ok(pa.raw())
    }
}

impl TableMemory for Tables {
    fn alloc(&self, granules: u64) -> Result<PhysAddr, Error> {
        let bytes = granules * self.machine.granule.size();
        self.access(|inner| {
            let arena = &mut inner.arena;
            match &mut arena.budget {
                Some(0) => return Err(Error::NoMemory),
                Some(left) => *left -= 1,
                None => {}
            }
            let again = arena.free.iter().rposition(|(_, size)| *size == granules);
            let base = match again {
                Some(place) => arena.free.remove(place).0,
                None => {
                    let base = arena.next.next_multiple_of(bytes);
                    arena.next = base + bytes;
                    base
                }
            };
            arena.tables.insert(base, (granules, 0));
            inner.system.trace.push(self.cpu, Event::Alloc(base));
            inner.system.fill(self.cpu, base, bytes, 0);
            PhysAddr::new(base).ok_or(Error::NoMemory)
        })
    }

    fn free(&self, table: PhysAddr, granules: u64) {
        self.access(|inner| {
            let known = inner.arena.tables.remove(&table.raw());
            if known.map(|(size, _)| size) != Some(granules) {
                let detail = std::format!("{table:#x} was no table of {granules} granules");
                let _ = inner
                    .system
                    .broken::<()>(Rule::Unsupported, self.cpu, detail);
                return;
            }
            // A violation is recorded in the system.
            let bytes = granules * self.machine.granule.size();
            let _ = inner.system.release(self.cpu, table.raw(), bytes);
            inner.arena.free.push((table.raw(), granules));
        });
    }

    fn get(&self, table: PhysAddr, entries: u64) -> Result<(), Error> {
        self.count_mut(table, |count| {
            *count += entries;
            Some(())
        })
    }

    fn put(&self, table: PhysAddr, entries: u64) -> Result<(), Error> {
        self.count_mut(table, |count| {
            *count = count.checked_sub(entries)?;
            Some(())
        })
    }

    fn count(&self, table: PhysAddr) -> Result<u64, Error> {
        self.count_mut(table, |count| Some(*count))
    }

    fn load(&self, slot: Slot) -> Result<u64, Error> {
        self.access(|inner| {
            let pa = inner.slot(slot, self.machine.granule)?;
            inner.system.observe(self.cpu, pa);
            inner.system.read(pa).ok_or(Error::Corrupt)
        })
    }

    fn store(&self, slot: Slot, descriptor: u64) -> Result<(), Error> {
        self.access(|inner| {
            let pa = inner.slot(slot, self.machine.granule)?;
            // A violation is recorded in the system.
            let _ = inner
                .system
                .store_word(self.cpu, pa, descriptor, true, true);
            Ok(())
        })
    }

    fn compare_exchange(&self, slot: Slot, old: u64, new: u64) -> Result<bool, Error> {
        self.access(|inner| {
            let pa = inner.slot(slot, self.machine.granule)?;
            inner.system.observe(self.cpu, pa);
            if inner.system.read(pa) != Some(old) {
                return Ok(false);
            }
            // A violation is recorded in the system.
            let _ = inner.system.store_word(self.cpu, pa, new, true, true);
            Ok(true)
        })
    }
}
