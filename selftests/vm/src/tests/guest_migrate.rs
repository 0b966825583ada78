// SPDX-License-Identifier: GPL-2.0-only

//! The threads of vCPUs are moved from CPU to CPU while they compute.

use std::{
    collections::BTreeSet,
    fs, //
};

use anyhow::{
    ensure,
    Context,
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
    guest::cpu,
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

/// The CPU that the thread was last on: field 39 of its `stat`, counted from 1.
fn cpu_of(thread: Pid) -> Result<usize> {
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat"))?;
    // The name of the thread, field 2, may have blanks in it.
    let rest = stat.rsplit_once(')').context("stat has no name")?.1;
    let field = rest.split_whitespace().nth(39 - 3);
    Ok(field.context("stat is too short")?.parse()?)
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
