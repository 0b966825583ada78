// SPDX-License-Identifier: GPL-2.0-only

//! The threads of vCPUs are moved from CPU to CPU while they compute.

use std::collections::BTreeSet;

use anyhow::{
    ensure,
    Result, //
};
use kvm_ioctls::Kvm;
use nix::{
    sched::{
        sched_setaffinity,
        CpuSet, //
    },
    unistd::Pid,
};

use super::needs_two_cpus;
use crate::{
    guest::{
        cpu,
        stat::Stat, //
    },
    ktap::{
        note,
        Test, //
    },
    kvm::{
        fleet::{
            compute_while,
            Fleet,
            Size, //
        },
        host,
        ram::Ram, //
    },
};

const MOVES: usize = 200;
const SIZE: Size = Size {
    machines: 1,
    vcpus: 2,
    words: 4096,
    pause: 100_000,
};

pub fn test() -> Test {
    host::test()
        .needs(needs_two_cpus)
        .case("vcpu_threads_move_between_cpus", host::with(moves))
}

/// The CPU that the thread was last on.
fn cpu_of(thread: Pid) -> Result<usize> {
    Ok(usize::try_from(Stat::of(thread)?.number(39)?)?)
}

fn moves(kvm: &Kvm) -> Result<()> {
    let online = cpu::online()?;
    let mut seen = BTreeSet::new();
    let rounds = compute_while(kvm, SIZE, Ram::new, |fleet: &Fleet| {
        let threads = fleet.threads()?;
        for step in 0..MOVES {
            for (index, thread) in threads.iter().enumerate() {
                let mut set = CpuSet::new();
                set.set(online[(step + index) % online.len()])?;
                sched_setaffinity(*thread, &set)?;
            }
            if step % 8 == 0 {
                fleet.advance(1)?;
            }
            for thread in &threads {
                seen.insert(cpu_of(*thread)?);
            }
        }
        Ok(())
    })?;
    ensure!(
        seen.iter().copied().eq(online.iter().copied()),
        "the vCPUs were on {seen:?} only"
    );
    note(format!("{MOVES} moves of each vCPU, {rounds} rounds"));
    Ok(())
}
