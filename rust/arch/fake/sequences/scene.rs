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
        Reg,
        Rule,
        Tables,
        Tlbi,
        Translation, //
    },
    subject::{
        GuestRegs,
        Shape,
        Step,
        Subject,
        Way, //
    },
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
            Stage2Regs,
            TlbFeatures, //
        },
        Env,
        Error,
        Level,
        Maintenance,
        Output,
        PageTable,
        Stale, //
    },
    regs::{
        sctlr,
        tcr, //
    },
};

/// VMID of the guest under test: with eight bits it would be another one.
pub const VMID: u16 = 0x107;
/// VTCR_EL2.VS: sixteen bits.
const VTCR_VS: u64 = 1 << 19;
/// Where tables stand.
const TABLES: u64 = 0x4000_0000;
/// MAIR as the kernel has it: Normal at 0, Device-nGnRE at 4.
const MAIR: u64 = 0xff | (0x04 << 32);
/// TCR_EL1 of the host: walks from both TTBRs.
pub const HOST_TCR: u64 = 0x0010_0010;
/// HCR_EL2.VM.
const HCR_VM: u64 = 1;

/// Maintenance by CPU0 that tells an injector which sequence is being issued.
///
/// The host changes a guest's tables at EL1, so that each invalidation is a hypercall of its own.
struct Watched<'a, F: Subject> {
    tlb: F::Tlb,
    machine: &'a Machine,
    injector: &'a Injector,
    way: Way,
}

impl<F: Subject> Watched<'_, F> {
    fn begin(&self, what: &str) {
        let stage = if F::IS_GUEST { "guest" } else { "el2" };
        self.injector.begin(&format!("{stage}.{what}"));
    }
}

impl<F: Subject> Maintenance<F::Input> for Watched<'_, F> {
    fn publish(&self) {
        self.begin("publish");
        self.tlb.publish();
    }

    fn invalidate(&self, range: AddrRange<F::Input>, stale: Stale) {
        self.begin(match (self.way, stale) {
            (Way::Vm, _) => "invalidate_vm",
            (Way::AllVms, _) => "invalidate_all_vms",
            (Way::ByRange, Stale::Leaves(_)) => "invalidate_leaves",
            (Way::ByRange, Stale::Table(_)) => "invalidate_table",
            (Way::ByRange, Stale::Subtree(_)) => "invalidate_subtree",
        });
        // Violations are recorded in the system.
        if F::IS_GUEST {
            let _ = self.machine.with(|system| system.cpu(0).hvc());
        }
        F::invalidate(&self.tlb, range, stale, self.way);
        if F::IS_GUEST {
            self.machine.with(|system| {
                let mut cpu = system.cpu(0);
                // EL2 may have more to do before it goes back, and does so under the host's VMID.
                let _ = cpu.certain(Reg::VttbrEl2);
                let vtcr = cpu.mrs(Reg::VtcrEl2);
                if vtcr != 0 {
                    cpu.report(Rule::LostRegister, std::format!("VTCR_EL2 is {vtcr:#x}"));
                }
                let tcr = cpu.mrs(Reg::TcrEl1);
                if tcr != HOST_TCR {
                    cpu.report(Rule::LostRegister, std::format!("TCR_EL1 is {tcr:#x}"));
                }
                let _ = cpu.eret(El::Host);
            });
        }
    }
}

/// A table in use.
pub struct Scene<F: Subject> {
    pub machine: Machine,
    pub table: PageTable<F>,
    pub features: TlbFeatures,
    /// TCR_EL1 of the host, if invalidations for a guest must keep walks off.
    pub host_tcr: Option<u64>,
    /// How invalidations are made.
    pub way: Way,
    /// The guest runs on CPU0 before each step, which fills its TLB.
    pub visits: bool,
    pub(super) cpus: usize,
    /// First page of the window that the steps count from.
    window: u64,
    /// What each page of the window must lead to: page number and attributes.
    pub(super) expected: Vec<Option<(u64, usize)>>,
}

impl<F: Subject> Scene<F> {
    /// `cpus` CPUs that all walk an empty table, with a window of `pages` pages that starts at a multiple of itself.
    pub fn new(shape: Shape, cpus: usize, pages: u64) -> Self {
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
            host_tcr: None,
            way: Way::ByRange,
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
    pub fn fork(&self) -> Self {
        let table = &self.table;
        Self {
            machine: self.machine.fork(),
            table: PageTable::adopt(*table.format(), *table.geometry(), table.root()).unwrap(),
            features: self.features,
            host_tcr: self.host_tcr,
            way: self.way,
            visits: self.visits,
            cpus: self.cpus,
            window: self.window,
            expected: self.expected.clone(),
        }
    }

    /// A second way to the same machine and table, which the lock rules forbid.
    pub fn alias(&self) -> Self {
        Self {
            machine: self.machine.clone(),
            ..self.fork()
        }
    }

    /// Expects what `steps` must have made of the machine and table of `other`.
    pub fn take_over(&mut self, other: &Self, steps: &[Step]) {
        self.machine = other.machine.clone();
        steps.iter().for_each(|step| self.expect(*step));
    }

    /// What the table says: address, output and level of each leaf, and the number of tables.
    pub fn contents(&self) -> (Vec<(u64, u64, i8)>, usize) {
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
            Some((sl0, sl2)) if F::IS_GUEST => (sl0 << 6) | (sl2 << 33) | VTCR_VS,
            _ => 0,
        };
        tcr::RES1
            | (size << tcr::PS_SHIFT)
            | tcr::WALKS_WBWA_IS
            | granule
            | wide
            | geometry.t0sz()
            | start
    }

    pub fn vttbr(&self) -> u64 {
        let geometry = self.table.geometry();
        geometry.vttbr(self.table.root(), VMID).unwrap()
    }

    fn stage2(&self) -> Stage2Regs {
        Stage2Regs {
            vttbr: self.vttbr(),
            vtcr: self.control(),
        }
    }

    /// Lets `cpu` walk the table. CPU0, which changes the table, has done so before, and runs the host now.
    fn use_table(&self, cpu: usize) -> Checked<()> {
        self.machine.with(|system| {
            let mut at = system.cpu(cpu);
            if at.el() != El::Hyp {
                at.hvc()?;
            }
            if F::IS_GUEST {
                at.preset(Reg::TcrEl1, HOST_TCR)?;
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
            at.msr(Reg::VtcrEl2, self.control())?;
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
        at.msr(Reg::VtcrEl2, 0)?;
        at.eret(El::Host)
    }

    fn granule(&self) -> Granule {
        self.table.geometry().granule()
    }

    pub fn range(&self, first: u64, pages: u64) -> AddrRange<F::Input> {
        let shift = self.granule().shift();
        let first = F::Input::new((self.window + first) << shift).unwrap();
        AddrRange::new(first, pages << shift).unwrap()
    }

    pub fn pa(&self, page: u64) -> PhysAddr {
        PhysAddr::new(page << self.granule().shift()).unwrap()
    }

    pub fn memory(&self, cpu: usize) -> Tables {
        self.machine.memory(cpu)
    }

    pub fn tlb(&self, cpu: usize, injector: &Injector) -> F::Tlb {
        let port = self.machine.port(cpu).with(injector);
        let guest = GuestRegs {
            stage2: self.stage2(),
            host_tcr: self.host_tcr,
        };
        F::tlb(port, self.granule(), self.features, guest)
    }

    /// Makes `step` on CPU0 with the faults of `injector`, and keeps track of what the table must say then.
    pub fn step_with(&mut self, step: Step, injector: &Injector) -> Result<(), Error> {
        let machine = self.machine.clone();
        let tlb = Watched::<F> {
            tlb: self.tlb(0, injector),
            machine: &machine,
            injector,
            way: self.way,
        };
        self.step_by(step, &tlb)
    }

    /// The same with any kind of maintenance.
    pub fn step_by(&mut self, step: Step, tlb: &impl Maintenance<F::Input>) -> Result<(), Error> {
        if F::IS_GUEST && self.visits {
            self.visit_guest();
        }
        let result = self.perform(step, tlb);
        if result.is_ok() {
            self.expect(step);
        }
        result
    }

    /// Maps from `cpu`, as one of several CPUs.
    pub fn map_concurrent(&self, cpu: usize, step: Step) -> Result<(), Error> {
        let Step::MapConcurrent {
            first,
            pages,
            to,
            attr,
            blocks,
        } = step
        else {
            unreachable!("no other operation may run on several CPUs");
        };
        let memory = self.memory(cpu);
        let tlb = self.tlb(cpu, &Injector::default());
        let env = Env::new(&memory, &tlb);
        let (range, pa) = (self.range(first, pages), self.pa(to));
        self.table
            .map_concurrent(&env, range, pa, F::attrs()[attr], blocks)
    }

    /// Whether `cpu`, which has mapped the pages of `step`, is sure to get there at once.
    pub fn can_use(&self, cpu: usize, step: Step) -> bool {
        let (Step::Map {
            first, pages, to, ..
        }
        | Step::MapConcurrent {
            first, pages, to, ..
        }) = step
        else {
            return false;
        };
        self.machine.with(|system| {
            let mut cpu = system.cpu(cpu);
            (0..pages).all(|page| {
                let va = self.range(first + page, 1).first().raw();
                let wanted = self.pa(to + page).raw();
                let found = cpu.probe(va, Access::Read);
                matches!(found, Ok(Translation::Mapped { pa, .. }) if pa == wanted)
            })
        })
    }

    fn perform(&mut self, step: Step, tlb: &impl Maintenance<F::Input>) -> Result<(), Error> {
        let memory = self.memory(0);
        let env = Env::new(&memory, tlb);
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

    /// Makes `step` on CPU0; it must not break a rule, and must leave what it should.
    pub fn step(&mut self, step: Step) -> Result<(), Error> {
        let result = self.step_with(step, &Injector::default());
        self.check();
        self.assert_clean();
        result
    }

    /// Checks that a step has left nothing that the adversary could use: violations are left in the system.
    pub fn settle(&self) {
        // A violation is recorded in the system.
        let _ = self.machine.with(|system| system.assert_settled(0));
    }

    /// Fails with the first violation, if there is one.
    ///
    /// # Panics
    ///
    /// There is one.
    pub fn assert_clean(&self) {
        self.machine.with(|system| {
            if let Some(violation) = system.violations().first() {
                panic!("{violation}");
            }
        });
    }

    /// Stops to use the table everywhere and frees it.
    pub fn finish(self) {
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
        self.assert_clean();
        let machine = self.machine.clone();
        self.table.destroy(&memory).unwrap();
        machine.with(|system| assert!(system.violations().is_empty(), "{}", system.trace()));
        assert_eq!(machine.tables(), 0);
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
                guest: self.stage2(),
                host: Stage2Regs::default(),
                host_tcr: None,
            };
            tlb.invalidate_vm();
        } else {
            self.machine.with(|system| {
                let mut cpu = system.cpu(0);
                // Twice, as errata may ask for.
                for _ in 0..2 {
                    cpu.tlbi(Tlbi::Alle2 { is: true }).unwrap();
                    cpu.dsb(Domain::Ish, Kind::Full).unwrap();
                }
                cpu.isb().unwrap();
            });
        }
    }
}
