// SPDX-License-Identifier: GPL-2.0-only

//! Cache maintenance of the host: its own sequences (`common::upkeep`), in the order of `rust/host/service.rs:clean_image`.

use std::cell::RefCell;

use anyhow::{
    bail,
    Result, //
};
use eltwo::{
    common::{
        abi::CpuContext,
        upkeep::{
            self,
            CacheGeometry,
            Op,
            Port, //
        },
    },
    fake::{
        Checked,
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

/// What leaves out the maintenance of the image.
const IMAGE: [Change; 2] = [Change::SkipCleanOfImage, Change::SkipDsbAfterImage];
/// CTR_EL0 with lines of this size.
const CTR: u64 = 4 << 16;
/// Bytes of a line of the data cache.
const LINE_BYTES: u64 = 64;

/// First byte and size.
type Bytes = (u64, u64);

fn lines((first, size): Bytes) -> impl Iterator<Item = u64> {
    (first & !(LINE_BYTES - 1)..first + size).step_by(LINE_BYTES as usize)
}

/// A CPU of the host, which leaves out what it is told to.
struct Host<'a> {
    system: RefCell<&'a mut System>,
    cpu: usize,
    changes: &'a [Change],
    /// What leaves out DC, and DSB.
    skips: [Change; 2],
    result: RefCell<Checked<()>>,
}

impl Port for Host<'_> {
    fn issue(&self, op: Op) {
        let mut system = self.system.borrow_mut();
        let mut cpu = system.cpu(self.cpu);
        let [lines, barrier] = self.skips.map(|change| self.changes.contains(&change));
        let issued = match op {
            Op::DcCivac(_) if lines => Ok(()),
            Op::DsbSy if lines || barrier => Ok(()),
            Op::DcCivac(line) => cpu.dc_civac(line),
            Op::IcIalluis => cpu.ic_ialluis(),
            Op::DsbSy => cpu.dsb(Domain::Sy, Kind::Full),
            Op::DsbIsh => cpu.dsb(Domain::Ish, Kind::Full),
            Op::DsbIshst => cpu.dsb(Domain::Ish, Kind::Stores),
            Op::Isb => cpu.isb(),
        };
        let mut result = self.result.borrow_mut();
        if result.is_ok() {
            *result = issued;
        }
    }
}

/// The host cleans `bytes`, as it does for EL2.
fn clean_to_poc(
    system: &mut System,
    cpu: usize,
    (first, size): Bytes,
    changes: &[Change],
    skips: [Change; 2],
) -> Result<()> {
    let host = Host {
        system: RefCell::new(system),
        cpu,
        changes,
        skips,
        result: RefCell::new(Ok(())),
    };
    CacheGeometry::from_ctr(CTR).clean_to_poc(&host, first, size, true);
    host.result.into_inner().map_err(Failure::from)?;
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

/// The host invalidates the instruction caches of all CPUs, at all addresses.
fn invalidate_icache(system: &mut System) -> Result<()> {
    let host = Host {
        system: RefCell::new(system),
        cpu: LOADER,
        changes: &[],
        skips: IMAGE,
        result: RefCell::new(Ok(())),
    };
    upkeep::invalidate_icache(&host);
    host.result.into_inner().map_err(Failure::from)?;
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
        return clean_to_poc(system, LOADER, (base, idmap), &[], IMAGE);
    }
    clean_to_poc(system, LOADER, all, changes, IMAGE)?;
    if changes.contains(&Change::SkipInvalidateOfCode) {
        return Ok(());
    }
    invalidate_icache(system)
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
    let bytes = (context, size_of::<CpuContext>() as u64);
    let skips = [Change::SkipCleanOfContext, Change::SkipDsbAfterContext];
    clean_to_poc(system, cpu, bytes, changes, skips)
}
