// SPDX-License-Identifier: GPL-2.0-only

//! What the host does at load, before any CPU is at EL2 with us.
//!
//! Layout, pool and PGDs are the module's own code. What only the host has - the copy of the image, the contexts, the
//! order of things and the maintenance - behaves as `rust/host/service.rs`, `rust/host/tables.rs` and `rust/arch/el1.rs`: the
//! same stores, the same instructions, nothing more.

use std::{
    cell::RefCell,
    mem::offset_of, //
};

use anyhow::{
    anyhow,
    Context as _,
    Result, //
};
use eltwo::{
    common::{
        abi::{
            BootParams,
            CpuContext, //
        },
        addr::{
            AddrRange,
            Granule,
            PhysAddr, //
        },
        layout::{
            Layout,
            LayoutInput, //
        },
        pgds::{
            Pgds,
            Plan, //
        },
        pgtable::{
            Blocks,
            Env,
            Error,
            Geometry,
            HypAccess,
            HypAttrs,
            NotLive,
            Output,
            PageTable,
            Stage1, //
        },
        pool::Use,
        regs::{
            sctlr,
            tcr, //
        },
        shared::RamRange,
    },
    fake::{
        Domain,
        Kind,
        System, //
    },
};

use super::{
    books::{
        Books,
        HostTables,
        LOADER, //
    },
    ground::{
        Change,
        Ground, //
    },
    maintain,
};
use crate::{
    core::Failure,
    elf::Image, //
};

/// The kernel's MAIR_EL1: Normal, Normal Tagged, Normal Non-cacheable, Device-nGnRnE, Device-nGnRE.
const MAIR: u64 = 0x0000_0004_0044_ffff;
/// Size of an EL2 stack, as the host reserves it.
const STACK_BYTES: u64 = 8192;
/// Granules of the pool in front of the image: its books.
const META_GRANULES: u64 = 2;
/// Granules of the pool behind the image.
const SPARE_GRANULES: u64 = 96;

/// What the host has prepared.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The granule.
    pub granule: Granule,
    /// The address space.
    pub layout: Layout,
    /// All of the pool: first byte and size.
    pub pool: (u64, u64),
    /// Where the image is.
    pub image_pa: u64,
    /// Where the context of each CPU is.
    pub contexts: Vec<u64>,
    /// What init is told, by CPU.
    pub params: Vec<BootParams>,
}

/// The registers that lead to the tables.
struct Control {
    ttbr_boot: u64,
    ttbr_runtime: u64,
    tcr: u64,
}

/// Does all that the host does at load.
///
/// # Errors
///
/// The layout does not exist, or a table could not be built.
pub(super) fn prepare(
    system: &mut System,
    image: &Image,
    ground: &Ground,
    changes: &[Change],
) -> Result<Prepared> {
    let granule = granule_of(image)?;
    let layout = layout(image, ground, granule)?;
    let image_granules = image.size_bytes() >> granule.shift();
    let granules = META_GRANULES + image_granules + SPARE_GRANULES;
    let pool = (
        ground.image_pa - META_GRANULES * granule.size(),
        granules * granule.size(),
    );
    let first = PhysAddr::new(pool.0).context("the pool is beyond 52 bits")?;
    let books = Books::new(
        granule,
        first,
        granules as u32,
        META_GRANULES,
        image_granules,
    )?;

    let contents = image.relocated(layout.image().first().raw())?;
    system
        .write_host(LOADER, ground.image_pa, &contents)
        .map_err(Failure::from)?;
    let mut prepared = Prepared {
        granule,
        layout,
        pool,
        image_pa: ground.image_pa,
        contexts: Vec::new(),
        params: Vec::new(),
    };
    let control = build(system, &books, image, ground, &mut prepared, changes)?;
    let published = system.cpu(LOADER).dsb(Domain::Ish, Kind::Stores);
    published.map_err(Failure::from)?;
    for cpu in 0..ground.cpus {
        let params = fill_context(system, image, &prepared, &control, cpu)?;
        prepared.params.push(params);
    }
    maintain::clean_image(system, image, &prepared, changes)?;
    Ok(prepared)
}

/// The granule that the image was linked for: its second part starts at the first multiple of it.
fn granule_of(image: &Image) -> Result<Granule> {
    let text = u64::from(image.header().text);
    let known = Granule::ALL
        .into_iter()
        .find(|granule| granule.size() == text);
    known.context("the image was linked for an unknown granule")
}

fn layout(image: &Image, ground: &Ground, granule: Granule) -> Result<Layout> {
    let pa = |raw| PhysAddr::new(raw).context("an address beyond 52 bits");
    let ram = AddrRange::from_bounds(pa(ground.ram.0)?, pa(ground.ram.1)?).context("RAM")?;
    let input = LayoutInput {
        granule,
        max_va_bits: if ground.wide { 52 } else { 48 },
        idmap: pa(ground.image_pa)?,
        ram,
        image_granules: (image.size_bytes() >> granule.shift()) as u32,
        cpus: ground.cpus as u32,
        stack_granules: STACK_BYTES.div_ceil(granule.size()) as u32,
        seed: ground.seed,
    };
    Layout::compute(&input).map_err(|error| anyhow!("{error}"))
}

fn table_error(error: Error) -> anyhow::Error {
    anyhow!("{error}")
}

fn build(
    system: &mut System,
    books: &Books,
    image: &Image,
    ground: &Ground,
    prepared: &mut Prepared,
    changes: &[Change],
) -> Result<Control> {
    let granule = prepared.granule;
    let output = Output::new(granule, ground.pa_bits, ground.wide).context("PA size")?;
    let va_bits = prepared.layout.va_bits();
    let geometry = Geometry::stage1(granule, va_bits, output).map_err(table_error)?;
    let memory = HostTables {
        system: RefCell::new(system),
        books,
        granule,
    };
    let plan = Plan {
        layout: &prepared.layout,
        geometry,
        image: PhysAddr::new(prepared.image_pa).context("the image is beyond 52 bits")?,
        header: image.header(),
        map: ground.map,
        ram: &[RamRange {
            first: ground.ram.0,
            last: ground.ram.1,
        }],
        pool: &books.pool,
        meta: &books.meta,
    };
    let mut pgds = plan.build(&memory).map_err(table_error)?;
    for kind in [Use::Stack, Use::Context] {
        memory.zero(kind)?;
    }
    spoil(&memory, &mut pgds, &plan, prepared, changes)?;
    for cpu in 0..prepared.layout.cpus() {
        let va = prepared.layout.context(cpu).context("no context")?.first();
        let found = pgds.runtime.lookup(&memory, va).map_err(table_error)?;
        let pa = found
            .and_then(|mapping| mapping.translate(va))
            .context("no context")?;
        prepared.contexts.push(pa.raw());
    }
    Ok(Control {
        ttbr_boot: geometry
            .ttbr(pgds.boot.root())
            .context("no TTBR of the boot PGD")?,
        ttbr_runtime: geometry
            .ttbr(pgds.runtime.root())
            .context("no TTBR of the runtime PGD")?,
        tcr: control(granule, ground, &geometry)?,
    })
}

/// TCR_EL2 for both PGDs.
fn control(granule: Granule, ground: &Ground, geometry: &Geometry) -> Result<u64> {
    let tg0 = match granule {
        Granule::K4 => tcr::TG0_4K,
        Granule::K16 => tcr::TG0_16K,
        Granule::K64 => tcr::TG0_64K,
    };
    let sizes = [32, 36, 40, 42, 44, 48, 52];
    let size = sizes.iter().position(|bits| *bits == ground.pa_bits);
    let size = size.context("no such PARange")? as u64;
    // DS is for 4K and 16K; with 64K it is PS that selects the format.
    let ds = if ground.wide && granule != Granule::K64 {
        tcr::DS
    } else {
        0
    };
    Ok(tcr::RES1 | (size << tcr::PS_SHIFT) | tcr::WALKS_WBWA_IS | tg0 | ds | geometry.t0sz())
}

/// Makes of the PGDs what they must not be.
fn spoil(
    memory: &HostTables<'_>,
    pgds: &mut Pgds,
    plan: &Plan<'_>,
    prepared: &Prepared,
    changes: &[Change],
) -> Result<()> {
    let idmap = prepared.layout.idmap();
    let map = |table: &mut PageTable<Stage1>, pa| {
        let attrs = HypAttrs::normal(HypAccess::ReadExecute);
        let env = Env::new(memory, &NotLive);
        table
            .map(&env, idmap, pa, attrs, Blocks::PagesOnly)
            .map_err(table_error)
    };
    if changes.contains(&Change::Collision) {
        let (first, size) = prepared.pool;
        map(
            &mut pgds.runtime,
            PhysAddr::new(first + size).context("a page that is not ours")?,
        )?;
    }
    if changes.contains(&Change::OnePgd) {
        map(&mut pgds.runtime, plan.image)?;
        let runtime = pgds.runtime.root();
        pgds.boot = PageTable::adopt(Stage1, plan.geometry, runtime).map_err(table_error)?;
    }
    Ok(())
}

fn fill_context(
    system: &mut System,
    image: &Image,
    prepared: &Prepared,
    control: &Control,
    cpu: usize,
) -> Result<BootParams> {
    let layout = &prepared.layout;
    let trampoline = layout.trampoline().first().raw();
    let stack = layout.stack(cpu as u32).context("no stack")?;
    let place = layout.context(cpu as u32).context("no context")?.first();
    let header = image.header();
    let params = BootParams {
        mair: MAIR,
        tcr: control.tcr,
        ttbr_boot: control.ttbr_boot,
        ttbr_runtime: control.ttbr_runtime,
        sctlr: sctlr::MMU_ON,
        vbar: layout.image().first().raw() + u64::from(header.vectors),
        context_va: place.raw(),
        trampoline_offset: trampoline.wrapping_sub(prepared.image_pa),
        reset_va: trampoline + u64::from(header.entry_reset),
    };
    let boot = offset_of!(CpuContext, boot);
    let words = [
        (offset_of!(CpuContext, stack_top), stack.last().raw() + 1),
        (offset_of!(CpuContext, cpu), cpu as u64),
        (boot + offset_of!(BootParams, mair), params.mair),
        (boot + offset_of!(BootParams, tcr), params.tcr),
        (boot + offset_of!(BootParams, ttbr_boot), params.ttbr_boot),
        (
            boot + offset_of!(BootParams, ttbr_runtime),
            params.ttbr_runtime,
        ),
        (boot + offset_of!(BootParams, sctlr), params.sctlr),
        (boot + offset_of!(BootParams, vbar), params.vbar),
        (boot + offset_of!(BootParams, context_va), params.context_va),
        (
            boot + offset_of!(BootParams, trampoline_offset),
            params.trampoline_offset,
        ),
        (boot + offset_of!(BootParams, reset_va), params.reset_va),
    ];
    let base = prepared.contexts.get(cpu).context("no context")?;
    for (offset, value) in words {
        let written = system.write_host(LOADER, base + offset as u64, &value.to_le_bytes());
        written.map_err(Failure::from)?;
    }
    Ok(params)
}
