// SPDX-License-Identifier: GPL-2.0-only

//! A panic with the module loaded starts the crash kernel, which runs `kdump_second`. `eltwo.panic=` on the command line says
//! what kind of panic.

use std::fs;

use anyhow::{
    ensure,
    Context,
    Result, //
};

use super::handing_over;
use crate::{
    crash::Panic,
    guest::{
        cpu,
        debugfs,
        module, //
    },
    handover::End,
    hooks::before,
    ktap::{
        note,
        Skip,
        Test, //
    },
    second_kernel,
};

pub fn test() -> Test {
    handing_over()
        .needs(second_kernel::needed)
        .needs(needs_crash_memory)
        .case("kdump_kernel_loads_with_the_module", load)
}

fn needs_crash_memory() -> Result<()> {
    if !fs::read_to_string("/proc/iomem")?.contains("Crash kernel") {
        return Skip::because("no memory for a crash kernel; boot with crashkernel=192M");
    }
    Ok(())
}

fn load() -> Result<()> {
    let panic = Panic::ordered()?;
    match before::ordered()? {
        Some(hooks) => before::happen(&hooks)?,
        None => {
            let loaded = module::load()?;
            debugfs::expect_online_are_hyp()?;
            loaded.keep();
        }
    }
    let ranges: Vec<_> = ram()?
        .iter()
        .map(|(first, last)| format!("{first:#x}-{last:#x}"))
        .collect();
    let online = cpu::online()?.len() - panic.offline();
    let words = format!("eltwo.ram={} eltwo.online={online}", ranges.join(","));
    second_kernel::load_for_crash("kdump_second", &words)?;
    note(format!("{panic:?}, {words}"));
    End::Crash.request()
}

/// The RAM that a dump of this kernel must have, as ranges of first and last byte: all that is not the crash kernel's own.
fn ram() -> Result<Vec<(u64, u64)>> {
    let text = fs::read_to_string("/proc/iomem")?;
    let mut ram: Vec<(u64, u64)> = Vec::new();
    for line in text.lines() {
        let (range, title) = line.split_once(" : ").context("/proc/iomem")?;
        let (first, last) = range.trim().split_once('-').context("/proc/iomem")?;
        let [first, last] = [first, last].map(|word| u64::from_str_radix(word, 16));
        let (first, last) = (first?, last?);
        match title {
            "System RAM" => ram.push((first, last)),
            "Crash kernel" => {
                let holder = ram.pop().context("a crash kernel outside of RAM")?;
                ensure!(
                    holder.0 <= first && last <= holder.1,
                    "a crash kernel outside of RAM"
                );
                if holder.0 < first {
                    ram.push((holder.0, first - 1));
                }
                if last < holder.1 {
                    ram.push((last + 1, holder.1));
                }
            }
            _ => {}
        }
    }
    ensure!(
        ram.iter().all(|range| range.1 != 0),
        "no right to see /proc/iomem"
    );
    Ok(ram)
}
