// SPDX-License-Identifier: GPL-2.0-only

//! Host: building both PGDs at load, and showing them.
//!
//! At load the tables are written through the kernel's linear map, before any TTBR leads to them. Once a CPU is in,
//! only EL2 changes the runtime PGD, by hypercall; the boot PGD never changes. The host still reads both, for debugfs.

use core::{
    ptr::NonNull,
    sync::atomic::Ordering, //
};

use kernel::{
    fmt,
    prelude::*, //
};

use super::{
    image::Image,
    linear,
    pool::HostPool,
    probe::Machine,
    ram::Ram, //
};
use crate::{
    arch::el1,
    common::{
        addr::{
            Granule,
            HypVa,
            PhysAddr, //
        },
        demand::Demand,
        layout::{
            Layout,
            LayoutInput,
            Region, //
        },
        pgds::Plan,
        pgtable::{
            Error as TableError,
            Geometry,
            HypAccess,
            Level,
            Mapping,
            Output,
            PageTable,
            Stage1, //
        },
        pool_tables::{
            PoolTables,
            Window, //
        },
        regs::tcr,
        shared::MapMode, //
    },
    host::{
        inject::{
            self,
            Step, //
        },
        refused::{
            refuse,
            Reason,
            Refused, //
        },
    },
};

/// The kernel's linear map as the way to table pages.
struct LinearMap;

// SAFETY: The pool is kernel memory, all of it in the linear map.
unsafe impl Window for LinearMap {
    fn reach(&self, pa: PhysAddr) -> Option<NonNull<u8>> {
        Some(linear::phys_to_kern(pa))
    }
}

type HostTables<'a> = PoolTables<'a, LinearMap>;

/// The pool's pages as memory for tables, from this side.
fn memory(pool: &HostPool, granule: Granule) -> HostTables<'_> {
    PoolTables {
        pool: &pool.shared().pool,
        meta: pool.meta(),
        window: LinearMap,
        page_bytes: granule.size() as usize,
    }
}

/// Computes the address space.
///
/// # Errors
///
/// `ENODEV` where it does not fit.
pub(crate) fn layout(
    machine: &Machine,
    ram: &Ram,
    idmap: PhysAddr,
    demand: &Demand<'_>,
) -> Result<Layout, Refused> {
    let granule = machine.granule;
    let input = LayoutInput {
        granule,
        max_va_bits: machine.va_bits_max.into(),
        idmap,
        ram: ram
            .span()
            .and_then(|span| span.align_outward(granule.unit()))
            .ok_or_else(|| EINVAL.tell("the span of RAM"))?,
        image_granules: demand.image_pages as u32,
        cpus: demand.cpus as u32,
        stack_granules: demand.stack_pages as u32,
        // SAFETY: No precondition.
        seed: unsafe { crate::bindings::get_random_u64() },
    };
    Layout::compute(&input).map_err(|error| refuse!(ENODEV, "{error}"))
}

/// Both PGDs, and what leads to them.
pub(crate) struct Tables {
    layout: Layout,
    boot: PageTable<Stage1>,
    runtime: PageTable<Stage1>,
    tcr: u64,
    mair: u64,
    ttbr_boot: u64,
    ttbr_runtime: u64,
}

impl Tables {
    /// Builds both. What it takes from the pool goes back with the pool.
    pub(crate) fn build(
        machine: &Machine,
        layout: &Layout,
        image: &Image,
        pool: &HostPool,
    ) -> Result<Self, Refused> {
        let geometry = Output::new(machine.granule, machine.pa_bits.into(), machine.wide)
            .ok_or(TableError::OutputRange)
            .and_then(|output| Geometry::stage1(machine.granule, layout.va_bits(), output))
            .map_err(|error| tell("the shape of EL2's tables", error))?;
        let facts = &pool.shared().facts;
        let plan = Plan {
            layout,
            geometry,
            image: image.base(),
            header: image.header(),
            map: facts.map,
            ram: facts.ram_ranges(),
            pool: &pool.shared().pool,
            meta: pool.meta(),
        };
        let memory = memory(pool, machine.granule);
        let boot = pgd(Step::BootTables, || plan.boot(&memory))?;
        let runtime = pgd(Step::RuntimeTables, || plan.runtime(&memory))?;
        pool.shared()
            .runtime_pgd
            .store(runtime.root().raw(), Ordering::Relaxed);
        el1::publish_tables();
        let granule_field = match machine.granule {
            Granule::K4 => tcr::TG0_4K,
            Granule::K16 => tcr::TG0_16K,
            Granule::K64 => tcr::TG0_64K,
        };
        let ds = if machine.lpa2 { tcr::DS } else { 0 };
        let ttbr = |pgd: &PageTable<Stage1>| {
            let ttbr = geometry.ttbr(pgd.root());
            ttbr.ok_or_else(|| EFAULT.tell("TTBR0_EL2 of a PGD"))
        };
        Ok(Self {
            layout: *layout,
            tcr: tcr::RES1
                | (machine.pa_size << tcr::PS_SHIFT)
                | tcr::WALKS_WBWA_IS
                | granule_field
                | ds
                | geometry.t0sz(),
            mair: machine.mair,
            ttbr_boot: ttbr(&boot)?,
            ttbr_runtime: ttbr(&runtime)?,
            boot,
            runtime,
        })
    }

    /// The address space.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Levels of a full walk, the same in both.
    pub(crate) fn levels(&self) -> u32 {
        self.runtime.geometry().levels()
    }

    /// TCR_EL2 for both.
    pub(crate) fn tcr(&self) -> u64 {
        self.tcr
    }

    /// MAIR_EL2 for both.
    pub(crate) fn mair(&self) -> u64 {
        self.mair
    }

    /// TTBR0_EL2 of the boot PGD.
    pub(crate) fn ttbr_boot(&self) -> u64 {
        self.ttbr_boot
    }

    /// TTBR0_EL2 of the runtime PGD.
    pub(crate) fn ttbr_runtime(&self) -> u64 {
        self.ttbr_runtime
    }

    /// What the runtime PGD translates `va` to.
    pub(crate) fn runtime_pa(&self, pool: &HostPool, va: HypVa) -> Option<PhysAddr> {
        let memory = memory(pool, self.layout.granule());
        self.runtime.lookup(&memory, va).ok()??.translate(va)
    }

    /// Writes both PGDs, run by run, each with the name of its region.
    pub(crate) fn show(&self, pool: &HostPool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = memory(pool, self.layout.granule());
        for (name, table) in [("boot", &self.boot), ("runtime", &self.runtime)] {
            writeln!(f, "---[ {name} PGD @{:#x} ]---", table.root().raw())?;
            let mut result = Ok(());
            let walked = table.runs(&memory, |run| {
                result = result.and_then(|()| self.show_run(&run, pool, f));
            });
            result?;
            if let Err(error) = walked {
                writeln!(f, "{error}")?;
            }
        }
        Ok(())
    }

    fn show_run(
        &self,
        run: &Mapping<Stage1>,
        pool: &HostPool,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        let attrs = &run.attrs;
        let access = match attrs.access() {
            HypAccess::Read => "R--",
            HypAccess::ReadWrite => "RW-",
            HypAccess::ReadExecute => "R-X",
        };
        let kind = if run.level == Level::L3 {
            "PAGE"
        } else {
            "BLOCK"
        };
        let memory = if attrs.is_device() {
            "device"
        } else {
            "normal"
        };
        let region = self.layout.region_of(run.range.first());
        write!(
            f,
            "{:#018x}-{:#018x} {:#014x} {:>6}K L{} {kind} {access} {memory} ",
            run.range.first().raw(),
            run.range.last().raw(),
            run.pa.raw(),
            run.range.size_bytes() / 1024,
            run.level.number(),
        )?;
        match region {
            Some(Region::Image) => writeln!(
                f,
                "image.{}",
                match attrs.access() {
                    HypAccess::Read => "rodata",
                    HypAccess::ReadWrite => "data",
                    HypAccess::ReadExecute => "text",
                }
            ),
            Some(Region::Linear) if pool.shared().facts.map == MapMode::Linear => {
                writeln!(f, "linear/ram")
            }
            Some(Region::Linear) if pool.shared().pool.contains(run.pa) => {
                writeln!(f, "linear/pool")
            }
            Some(Region::Linear) if attrs.tag() != 0 => {
                writeln!(f, "linear/shared count={}", attrs.tag())
            }
            Some(Region::Linear) => writeln!(f, "linear/mapped"),
            Some(Region::Stack(cpu)) => writeln!(f, "stack cpu={cpu}"),
            Some(Region::Context(cpu)) => writeln!(f, "context cpu={cpu}"),
            Some(region) => writeln!(f, "{}", region.name()),
            None => writeln!(f, "?"),
        }
    }
}

/// Builds one of the PGDs. On request there is no page left for it.
fn pgd(
    step: Step,
    build: impl FnOnce() -> Result<PageTable<Stage1>, TableError>,
) -> Result<PageTable<Stage1>, Refused> {
    inject::check(step)
        .map_err(|_| TableError::NoMemory)
        .and_then(|()| build())
        .map_err(|error| tell(step.what(), error))
}

fn tell(what: &str, error: TableError) -> Refused {
    match error {
        TableError::NoMemory => refuse!(
            ENOMEM,
            "the pool has no page left for {what}; load with a larger pool_kib"
        ),
        error => refuse!(EINVAL, "{what}: {error}; please report this"),
    }
}
