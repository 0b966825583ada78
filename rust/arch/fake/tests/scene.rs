// SPDX-License-Identifier: GPL-2.0-only

//! A table on the adversary, in use by all CPUs, and what it must translate.

use super::{
    super::{
        Access,
        Checked,
        Cpu,
        Domain,
        El,
        Injector,
        Kind,
        Machine,
        Port,
        Reg,
        Rule,
        Tables,
        Tlbi,
        Translation, //
    },
    assert_clean,
};
use crate::common::{
    addr::{
        AddrRange,
        Address,
        Granule,
        PhysAddr, //
    },
    pgtable::{
        tlb::{
            GuestTlb,
            HypTlb,
            TlbFeatures, //
        },
        Blocks,
        Env,
        Error,
        Format,
        Geometry,
        GuestAttrs,
        GuestExecute,
        HypAccess,
        HypAttrs,
        Level,
        Maintenance,
        Output,
        PageTable,
        Stage1,
        Stage2, //
    },
    regs::{
        sctlr,
        tcr, //
    },
};

/// VMID of the guest under test.
pub(super) const VMID: u16 = 7;
/// Where tables stand.
const TABLES: u64 = 0x4000_0000;
/// MAIR as the kernel has it: Normal at 0, Device-nGnRE at 4.
const MAIR: u64 = 0xff | 0x04 << 32;
/// HCR_EL2.VM.
const HCR_VM: u64 = 1;

/// Granule, input bits, output bits, 52-bit descriptors.
pub(super) type Shape = (Granule, u32, u32, bool);

/// A format under test and the regime that walks it.
pub(super) trait Subject: Format + Send + Sync + 'static {
    type Tlb: Maintenance<Self::Input>;

    fn format() -> Self;
    fn geometry(granule: Granule, input_bits: u32, output: Output) -> Geometry;
    fn tlb(port: Port, granule: Granule, features: TlbFeatures, vttbr: u64) -> Self::Tlb;
    /// Attributes: read-write, read-only, executable, of another memory type.
    fn attrs() -> [Self::Attrs; 4];
    /// Whether a guest's CPUs walk it.
    const IS_GUEST: bool;
}

impl Subject for Stage1 {
    type Tlb = HypTlb<Port>;
    const IS_GUEST: bool = false;

    fn format() -> Self {
        Self
    }

    fn geometry(granule: Granule, input_bits: u32, output: Output) -> Geometry {
        Geometry::stage1(granule, input_bits, output).unwrap()
    }

    fn tlb(port: Port, granule: Granule, features: TlbFeatures, _vttbr: u64) -> HypTlb<Port> {
        HypTlb {
            port,
            granule,
            features,
        }
    }

    fn attrs() -> [HypAttrs; 4] {
        [
            HypAttrs::normal(HypAccess::ReadWrite),
            HypAttrs::normal(HypAccess::Read),
            HypAttrs::normal(HypAccess::ReadExecute),
            HypAttrs::device(true),
        ]
    }
}

impl Subject for Stage2 {
    type Tlb = GuestTlb<Port>;
    const IS_GUEST: bool = true;

    fn format() -> Self {
        Self {
            fwb: false,
            xnx: true,
        }
    }

    fn geometry(granule: Granule, input_bits: u32, output: Output) -> Geometry {
        Geometry::stage2(granule, input_bits, output).unwrap()
    }

    fn tlb(port: Port, granule: Granule, features: TlbFeatures, vttbr: u64) -> GuestTlb<Port> {
        GuestTlb {
            port,
            granule,
            features,
            guest_vttbr: vttbr,
            host_vttbr: 0,
        }
    }

    fn attrs() -> [GuestAttrs; 4] {
        let data = GuestAttrs {
            execute: GuestExecute::Nobody,
            ..GuestAttrs::RAM
        };
        let read_only = GuestAttrs {
            write: false,
            ..data
        };
        let code = GuestAttrs {
            execute: GuestExecute::All,
            ..read_only
        };
        [data, read_only, code, GuestAttrs::DEVICE]
    }
}

/// An operation, on pages counted from the start of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Map {
        first: u64,
        pages: u64,
        to: u64,
        attr: usize,
        blocks: Blocks,
    },
    MapConcurrent {
        first: u64,
        pages: u64,
        to: u64,
        attr: usize,
        blocks: Blocks,
    },
    Unmap {
        first: u64,
        pages: u64,
    },
    Protect {
        first: u64,
        pages: u64,
        attr: usize,
    },
    Split {
        first: u64,
        pages: u64,
    },
    Merge {
        first: u64,
        pages: u64,
    },
}

/// A table in use.
pub(super) struct Scene<F: Subject> {
    pub(super) machine: Machine,
    pub(super) table: PageTable<F>,
    pub(super) features: TlbFeatures,
    /// The guest runs on CPU0 before each step, which fills its TLB.
    pub(super) visits: bool,
    cpus: usize,
    /// First page of the window that the steps count from.
    window: u64,
    /// What each page of the window must lead to: page number and attributes.
    expected: Vec<Option<(u64, usize)>>,
}

impl<F: Subject> Scene<F> {
    /// `cpus` CPUs that all walk an empty table, with a window of `pages` pages that starts at a multiple of itself.
    pub(super) fn new(shape: Shape, cpus: usize, pages: u64) -> Self {
        let (granule, input_bits, pa_bits, wide) = shape;
        let machine = Machine::new(cpus, granule, TABLES);
        let output = Output::new(granule, pa_bits, wide).unwrap();
        let geometry = F::geometry(granule, input_bits, output);
        let memory = machine.memory(0);
        let table = PageTable::create(F::format(), geometry, &memory).unwrap();
        let all = geometry.input_range::<F::Input>().unwrap().size_bytes() >> granule.shift();
        let scene = Self {
            machine,
            table,
            features: TlbFeatures::default(),
            visits: false,
            cpus,
            window: all / 2,
            expected: vec![None; pages as usize],
        };
        // Whoever makes a table live issues a DSB before.
        scene.machine.with(|system| {
            system.cpu(0).dsb(Domain::Ish, Kind::Stores).unwrap();
        });
        for cpu in 0..cpus {
            scene.use_table(cpu).unwrap();
        }
        scene
    }

    /// A scene of its own in the same state.
    pub(super) fn fork(&self) -> Self {
        let table = &self.table;
        Self {
            machine: self.machine.fork(),
            table: PageTable::adopt(*table.format(), *table.geometry(), table.root()).unwrap(),
            features: self.features,
            visits: self.visits,
            cpus: self.cpus,
            window: self.window,
            expected: self.expected.clone(),
        }
    }

    /// What the table says: address, output and level of each leaf, and the number of tables.
    pub(super) fn contents(&self) -> (Vec<(u64, u64, i8)>, usize) {
        let mut leaves = Vec::new();
        let all = self.table.geometry().input_range().unwrap();
        self.table
            .visit(&self.memory(0), all, |leaf| {
                let attr = F::attrs().iter().position(|attr| *attr == leaf.attrs);
                let output = leaf.pa.raw() + attr.unwrap() as u64;
                leaves.push((leaf.range.first().raw(), output, leaf.level.number()));
            })
            .unwrap();
        (leaves, self.machine.tables())
    }

    /// TCR_EL2 or VTCR_EL2.
    fn control(&self) -> u64 {
        let geometry = self.table.geometry();
        let granule = match geometry.granule() {
            Granule::K4 => tcr::TG0_4K,
            Granule::K16 => tcr::TG0_16K,
            Granule::K64 => tcr::TG0_64K,
        };
        let size = [32, 36, 40, 42, 44, 48, 52]
            .iter()
            .position(|bits| *bits == geometry.output().bits())
            .unwrap() as u64;
        let wide = if geometry.output().bits() == 52 && geometry.granule() != Granule::K64 {
            tcr::DS
        } else {
            0
        };
        let start = match geometry.vtcr_start_level() {
            Some((sl0, sl2)) if F::IS_GUEST => sl0 << 6 | sl2 << 33,
            _ => 0,
        };
        tcr::RES1
            | size << tcr::PS_SHIFT
            | tcr::WALKS_WBWA_IS
            | granule
            | wide
            | geometry.t0sz()
            | start
    }

    pub(super) fn vttbr(&self) -> u64 {
        let geometry = self.table.geometry();
        geometry.vttbr(self.table.root(), VMID).unwrap()
    }

    /// Lets `cpu` walk the table. CPU0, which changes the table, has done so before, and runs the host now.
    fn use_table(&self, cpu: usize) -> Checked<()> {
        self.machine.with(|system| {
            let mut at = system.cpu(cpu);
            if at.el() != El::Hyp {
                at.hvc()?;
            }
            if F::IS_GUEST {
                at.preset(Reg::VtcrEl2, self.control())?;
                at.preset(Reg::VttbrEl2, self.vttbr())?;
                at.preset(Reg::HcrEl2, HCR_VM)?;
                at.eret(El::Guest)?;
                if cpu == 0 {
                    self.leave_guest(&mut at)?;
                }
            } else {
                let ttbr = self.table.geometry().ttbr(self.table.root()).unwrap();
                at.preset(Reg::MairEl2, MAIR)?;
                at.preset(Reg::TcrEl2, self.control())?;
                at.preset(Reg::Ttbr0El2, ttbr)?;
                at.preset(Reg::SctlrEl2, sctlr::MMU_ON)?;
            }
            Ok(())
        })
    }

    /// Lets the guest run on CPU0, which fills its TLB.
    fn visit_guest(&self) {
        let visit = |at: &mut Cpu<'_>| {
            at.hvc()?;
            at.dsb(Domain::Nsh, Kind::Full)?;
            at.msr(Reg::VttbrEl2, self.vttbr())?;
            at.msr(Reg::HcrEl2, HCR_VM)?;
            at.eret(El::Guest)?;
            self.leave_guest(at)
        };
        // A violation is recorded in the system.
        let _ = self.machine.with(|system| visit(&mut system.cpu(0)));
    }

    fn leave_guest(&self, at: &mut Cpu<'_>) -> Checked<()> {
        at.exception()?;
        at.dsb(Domain::Nsh, Kind::Full)?;
        at.msr(Reg::HcrEl2, 0)?;
        at.msr(Reg::VttbrEl2, 0)?;
        at.eret(El::Host)
    }

    pub(super) fn pages(&self) -> u64 {
        self.expected.len() as u64
    }

    fn granule(&self) -> Granule {
        self.table.geometry().granule()
    }

    pub(super) fn range(&self, first: u64, pages: u64) -> AddrRange<F::Input> {
        let shift = self.granule().shift();
        let first = F::Input::new((self.window + first) << shift).unwrap();
        AddrRange::new(first, pages << shift).unwrap()
    }

    pub(super) fn pa(&self, page: u64) -> PhysAddr {
        PhysAddr::new(page << self.granule().shift()).unwrap()
    }

    pub(super) fn memory(&self, cpu: usize) -> Tables {
        self.machine.memory(cpu)
    }

    pub(super) fn tlb(&self, cpu: usize, injector: &Injector) -> F::Tlb {
        let port = self.machine.port(cpu).with(injector);
        F::tlb(port, self.granule(), self.features, self.vttbr())
    }

    /// Makes `step` on CPU0 with the faults of `injector`, and keeps track of what the table must say then.
    pub(super) fn step_with(&mut self, step: Step, injector: &Injector) -> Result<(), Error> {
        if F::IS_GUEST {
            if self.visits {
                self.visit_guest();
            }
            // A hypercall of the host.
            self.machine
                .with(|system| system.cpu(0).hvc().map(|_| ()).unwrap());
        }
        let result = self.perform(step, injector);
        if result.is_ok() {
            self.expect(step);
        }
        result
    }

    fn perform(&mut self, step: Step, injector: &Injector) -> Result<(), Error> {
        let memory = self.memory(0);
        let tlb = self.tlb(0, injector);
        let env = Env::new(&memory, &tlb);
        let attrs = F::attrs();
        match step {
            Step::Map {
                first,
                pages,
                to,
                attr,
                blocks,
            } => {
                let (range, pa) = (self.range(first, pages), self.pa(to));
                self.table.map(&env, range, pa, attrs[attr], blocks)
            }
            Step::MapConcurrent {
                first,
                pages,
                to,
                attr,
                blocks,
            } => {
                let (range, pa) = (self.range(first, pages), self.pa(to));
                self.table
                    .map_concurrent(&env, range, pa, attrs[attr], blocks)
            }
            Step::Unmap { first, pages } => {
                let range = self.range(first, pages);
                self.table.unmap(&env, range).map(|_| ())
            }
            Step::Protect { first, pages, attr } => {
                let range = self.range(first, pages);
                self.table.protect(&env, range, |_| Some(attrs[attr]))
            }
            Step::Split { first, pages } => {
                let range = self.range(first, pages);
                self.table.split(&env, range, Level::L3)
            }
            Step::Merge { first, pages } => {
                let range = self.range(first, pages);
                self.table.merge(&env, range).map(|_| ())
            }
        }
    }

    fn expect(&mut self, step: Step) {
        let part = |first: u64, pages: u64| first as usize..(first + pages) as usize;
        match step {
            Step::Map {
                first,
                pages,
                to,
                attr,
                ..
            }
            | Step::MapConcurrent {
                first,
                pages,
                to,
                attr,
                ..
            } => {
                for (page, place) in self.expected[part(first, pages)].iter_mut().enumerate() {
                    *place = Some((to + page as u64, attr));
                }
            }
            Step::Unmap { first, pages } => self.expected[part(first, pages)].fill(None),
            Step::Protect { first, pages, attr } => {
                for place in self.expected[part(first, pages)].iter_mut().flatten() {
                    place.1 = attr;
                }
            }
            Step::Split { .. } | Step::Merge { .. } => {}
        }
    }

    /// What `step` must answer, by what the pages are.
    pub(super) fn answer(&self, step: Step) -> Result<(), ()> {
        let part =
            |first: u64, pages: u64| &self.expected[first as usize..(first + pages) as usize];
        let fine = match step {
            Step::Map { first, pages, .. } => part(first, pages).iter().all(Option::is_none),
            Step::MapConcurrent {
                first,
                pages,
                to,
                attr,
                ..
            } => {
                let mut pages = (to..).zip(part(first, pages));
                pages.all(|(to, page)| page.is_none_or(|page| page == (to, attr)))
            }
            Step::Protect { first, pages, .. } => part(first, pages).iter().all(Option::is_some),
            Step::Unmap { .. } | Step::Split { .. } | Step::Merge { .. } => true,
        };
        fine.then_some(()).ok_or(())
    }

    /// Makes `step` on CPU0; it must not break a rule, and must leave what it should.
    pub(super) fn step(&mut self, step: Step) -> Result<(), Error> {
        let result = self.step_with(step, &Injector::default());
        self.check();
        assert_clean(&self.machine);
        result
    }

    /// Whether the adversary can still do harm after a step: violations are left in the system.
    pub(super) fn check(&self) {
        self.machine.with(|system| {
            // A violation is recorded in the system.
            let _ = system.assert_settled(0);
            if F::IS_GUEST {
                let _ = system.cpu(0).eret(El::Host);
            }
            if !system.violations().is_empty() {
                return;
            }
            for cpu in 0..self.cpus {
                if F::IS_GUEST && cpu == 0 {
                    continue;
                }
                self.check_cpu(&mut system.cpu(cpu));
            }
        });
    }

    /// Probes the ends of each run of pages.
    fn check_cpu(&self, cpu: &mut Cpu<'_>) {
        let follows = |page: usize| {
            let (before, here) = (self.expected[page - 1], self.expected[page]);
            match (before, here) {
                (Some((pa, attr)), Some(here)) => here == (pa + 1, attr),
                (None, None) => true,
                _ => false,
            }
        };
        let last = self.expected.len() - 1;
        for page in 0..=last {
            let inner = page != 0 && page != last && follows(page) && follows(page + 1);
            if inner {
                continue;
            }
            let address = self.range(page as u64, 1).first().raw();
            for access in [Access::Read, Access::Write, Access::Execute] {
                let found = if F::IS_GUEST {
                    cpu.probe_guest(address, access)
                } else {
                    cpu.probe(address, access)
                };
                // A violation is recorded in the system.
                let Ok(found) = found else { return };
                let wanted = self.wanted(page, access);
                if found != wanted {
                    cpu.report(
                        Rule::WrongTranslation,
                        std::format!("{access:?} of page {page}: {found:x?}"),
                    );
                    return;
                }
            }
        }
    }

    fn wanted(&self, page: usize, access: Access) -> Translation {
        let Some((to, attr)) = self.expected[page] else {
            return Translation::Fault;
        };
        let allowed = match access {
            Access::Read => true,
            Access::Write => attr == 0 || attr == 3,
            Access::Execute => attr == 2,
        };
        if !allowed {
            return Translation::Denied;
        }
        Translation::Mapped {
            pa: self.pa(to).raw(),
            cacheable: attr != 3,
            uncached: attr == 3,
        }
    }

    /// Stops to use the table everywhere and frees it.
    pub(super) fn finish(self) {
        for cpu in 0..self.cpus {
            self.machine.with(|system| {
                let mut at = system.cpu(cpu);
                if F::IS_GUEST && cpu != 0 {
                    self.leave_guest(&mut at).unwrap();
                } else if !F::IS_GUEST {
                    at.msr(Reg::SctlrEl2, sctlr::MMU_ON & !sctlr::M).unwrap();
                    at.isb().unwrap();
                }
            });
        }
        self.retire();
        let memory = self.machine.memory(0);
        self.table.destroy(&memory).unwrap();
        assert_clean(&self.machine);
        assert_eq!(self.machine.tables(), 0);
    }

    /// Invalidates all that the CPUs hold of the table, which none of them uses any more.
    fn retire(&self) {
        if F::IS_GUEST {
            self.machine
                .with(|system| system.cpu(0).hvc().map(|_| ()).unwrap());
            let port = self.machine.port(0);
            let tlb = GuestTlb {
                port,
                granule: self.granule(),
                features: self.features,
                guest_vttbr: self.vttbr(),
                host_vttbr: 0,
            };
            tlb.invalidate_vm();
        } else {
            self.machine.with(|system| {
                let mut cpu = system.cpu(0);
                cpu.tlbi(Tlbi::Alle2 { is: true }).unwrap();
                cpu.dsb(Domain::Ish, Kind::Full).unwrap();
                cpu.isb().unwrap();
            });
        }
    }
}
