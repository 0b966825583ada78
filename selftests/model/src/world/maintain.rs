// SPDX-License-Identifier: GPL-2.0-only

//! Cache maintenance of the host, behaviour as `rust/host/service.rs:clean_image` and `rust/arch/el1.rs`.

use anyhow::{
    bail,
    Result, //
};
use eltwo::{
    common::abi::CpuContext,
    fake::{
        Domain,
        Kind,
        System, //
    },
};

use super::{
    books::LOADER,
    ground::Change,
    setup::Prepared, //
};
use crate::{
    core::Failure,
    elf::Image, //
};

/// Bytes of a line of the data cache.
const LINE_BYTES: u64 = 64;

/// First byte and size.
type Bytes = (u64, u64);

fn lines((first, size): Bytes) -> impl Iterator<Item = u64> {
    (first & !(LINE_BYTES - 1)..first + size).step_by(LINE_BYTES as usize)
}

/// A loop of DC CIVAC and its DSB, all of it twice.
fn clean_to_poc(system: &mut System, cpu: usize, bytes: Bytes, with_dsb: bool) -> Result<()> {
    for _ in 0..2 {
        for line in lines(bytes) {
            system.cpu(cpu).dc_civac(line).map_err(Failure::from)?;
        }
        if with_dsb {
            system
                .cpu(cpu)
                .dsb(Domain::Sy, Kind::Full)
                .map_err(Failure::from)?;
        }
    }
    Ok(())
}

/// A loop of DC CVAU and its DSB.
fn clean_to_pou(system: &mut System, bytes: Bytes) -> Result<()> {
    for line in lines(bytes) {
        system.cpu(LOADER).dc_cvau(line).map_err(Failure::from)?;
    }
    system
        .cpu(LOADER)
        .dsb(Domain::Ish, Kind::Full)
        .map_err(Failure::from)?;
    Ok(())
}

/// `caches_clean_inval_pou` of Linux. For the model IC IALLUIS stands for the loop of IC IVAU, which is broadcast as well.
fn clean_and_invalidate_pou(system: &mut System, bytes: Bytes) -> Result<()> {
    clean_to_pou(system, bytes)?;
    let mut cpu = system.cpu(LOADER);
    cpu.ic_ialluis().map_err(Failure::from)?;
    cpu.dsb(Domain::Ish, Kind::Full).map_err(Failure::from)?;
    cpu.isb().map_err(Failure::from)?;
    Ok(())
}

/// What the host does with the image before any CPU uses it.
pub(super) fn clean_image(
    system: &mut System,
    image: &Image,
    prepared: &Prepared,
    changes: &[Change],
) -> Result<()> {
    let base = prepared.image_pa;
    let all = (base, image.size_bytes());
    if changes.contains(&Change::CleanLeast) {
        let idmap = u64::from(image.header().idmap_end);
        clean_to_pou(system, all)?;
        return clean_to_poc(system, LOADER, (base, idmap), true);
    }
    if !changes.contains(&Change::SkipInvalidateOfCode) {
        clean_and_invalidate_pou(system, all)?;
    }
    if changes.contains(&Change::SkipCleanOfImage) {
        return Ok(());
    }
    let with_dsb = !changes.contains(&Change::SkipDsbAfterImage);
    clean_to_poc(system, LOADER, all, with_dsb)
}

/// What the host does on `cpu` before each init of it: the registers that were found go to the context, and all of that
/// to the PoC.
pub(super) fn before_init(
    system: &mut System,
    prepared: &Prepared,
    cpu: usize,
    saved: &[u64; 6],
    changes: &[Change],
) -> Result<()> {
    let Some(context) = prepared.contexts.get(cpu).copied() else {
        bail!("no CPU {cpu}");
    };
    let place = context + std::mem::offset_of!(CpuContext, saved) as u64;
    for (word, value) in (0..).zip(saved) {
        let bytes = value.to_le_bytes();
        system
            .write_host(cpu, place + word * 8, &bytes)
            .map_err(Failure::from)?;
    }
    if changes.contains(&Change::SkipCleanOfContext) {
        return Ok(());
    }
    let with_dsb = !changes.contains(&Change::SkipDsbAfterContext);
    let bytes = (context, size_of::<CpuContext>() as u64);
    clean_to_poc(system, cpu, bytes, with_dsb)
}
