// SPDX-License-Identifier: GPL-2.0-only

//! Processes that run beside a soak: VMs, and programs that want memory.

use std::{
    process, slice, thread,
    time::{
        Duration,
        Instant, //
    },
};

use anyhow::{
    bail,
    Context,
    Result, //
};
use kvm_ioctls::Kvm;
use nix::{
    errno::Errno,
    sys::{
        signal::{
            kill,
            Signal, //
        },
        wait::{
            waitpid,
            WaitPidFlag,
            WaitStatus, //
        },
    },
    unistd::Pid,
};

use crate::{
    guest::{
        child,
        poll::patient, //
    },
    kvm::{
        fleet::{
            Fleet,
            Refused,
            Size, //
        },
        ram::Ram,
        raw, //
    },
};

/// What the vCPUs of a VM compute with.
const SIZE: Size = Size {
    machines: 1,
    vcpus: 2,
    words: 512,
    pause: 20_000,
};
/// Most VMs at a time.
pub const MOST_VMS: usize = 3;
/// The exit status of a VM that the host has declared dead: it got `EIO`.
const DEAD: i32 = Errno::EIO as i32;
/// How long a VM may take to find that it is dead.
const LIMIT: Duration = Duration::from_secs(20);
const KIB: usize = 1 << 10;
const PAGE: usize = 4 * KIB;

/// A process.
struct Member {
    pid: Pid,
    is_vm: bool,
}

/// All that run.
#[derive(Default)]
pub struct Troop {
    members: Vec<Member>,
    /// VMs that have computed to their end, and were right.
    pub finished: u64,
    /// VMs that were killed.
    pub killed: u64,
    /// VMs that a fault at EL2 has ended.
    pub dead: u64,
}

impl Troop {
    /// Number of VMs that run.
    pub fn vms(&self) -> usize {
        self.members.iter().filter(|member| member.is_vm).count()
    }

    /// Starts a VM that computes `rounds` rounds and checks its result.
    pub fn start_vm(&mut self, rounds: u64) -> Result<()> {
        let pid = child::start(|| match compute(rounds) {
            Err(error) if raw::errno_of(&error) == Some(Errno::EIO) => process::exit(DEAD),
            result => result,
        })?;
        self.members.push(Member { pid, is_vm: true });
        Ok(())
    }

    /// Starts a program that fills `mib` MiB and keeps them for a while.
    pub fn start_hog(&mut self, mib: usize, time: Duration) -> Result<()> {
        let pid = child::start(|| {
            let mut memory = vec![0_u8; mib * KIB * KIB];
            for page in memory.chunks_mut(PAGE) {
                page[0] = 1;
            }
            thread::sleep(time);
            Ok(())
        })?;
        self.members.push(Member { pid, is_vm: false });
        Ok(())
    }

    /// Sends `signal` to member `number`, counted modulo their number. Returns whether there was one.
    pub fn signal(&self, number: usize, signal: Signal) -> Result<bool> {
        let Some(member) = number
            .checked_rem(self.members.len())
            .and_then(|at| self.members.get(at))
        else {
            return Ok(false);
        };
        // It has ended perhaps, but nobody has waited for it yet, so that its number is its own.
        kill(member.pid, signal)?;
        Ok(true)
    }

    /// Takes note of those that have ended.
    pub fn reap(&mut self) -> Result<()> {
        for member in std::mem::take(&mut self.members) {
            match waitpid(member.pid, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::StillAlive => self.members.push(member),
                status => self.count(&member, status)?,
            }
        }
        Ok(())
    }

    fn count(&mut self, member: &Member, status: WaitStatus) -> Result<()> {
        let number = match status {
            WaitStatus::Exited(_, 0) => &mut self.finished,
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => &mut self.killed,
            _ => bail!(
                "a {} ended with {status:?}",
                if member.is_vm { "VM" } else { "program" }
            ),
        };
        *number += u64::from(member.is_vm);
        Ok(())
    }

    /// After a fault at EL2: every VM ends by itself, with `EIO` unless it was through already.
    pub fn bury_vms(&mut self) -> Result<()> {
        let deadline = Instant::now() + patient(LIMIT);
        for member in self.take_vms() {
            match wait_until(member.pid, deadline)? {
                WaitStatus::Exited(_, DEAD) => self.dead += 1,
                WaitStatus::StillAlive => {
                    self.end(slice::from_ref(&member))?;
                    bail!("a VM goes on after the fault");
                }
                status => self.count(&member, status)?,
            }
        }
        Ok(())
    }

    fn take_vms(&mut self) -> Vec<Member> {
        let all = std::mem::take(&mut self.members);
        let (vms, others) = all.into_iter().partition(|member| member.is_vm);
        self.members = others;
        vms
    }

    /// Kills the member `number`, counted modulo their number, and waits for its end.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        if let Some(at) = number.checked_rem(self.members.len()) {
            let member = self.members.swap_remove(at);
            self.end(slice::from_ref(&member))?;
        }
        Ok(())
    }

    /// Waits until every VM has computed to its end.
    pub fn wait_for_vms(&mut self) -> Result<()> {
        for member in self.take_vms() {
            let status = waitpid(member.pid, None)?;
            self.count(&member, status)?;
        }
        Ok(())
    }

    /// Kills all.
    pub fn kill_all(&mut self) -> Result<()> {
        let members = std::mem::take(&mut self.members);
        self.end(&members)
    }

    fn end(&mut self, members: &[Member]) -> Result<()> {
        for member in members {
            kill(member.pid, Signal::SIGKILL)?;
        }
        for member in members {
            let status = waitpid(member.pid, None)?;
            self.count(member, status)?;
        }
        Ok(())
    }
}

/// Lets a VM compute `rounds` rounds, and checks its result.
fn compute(rounds: u64) -> Result<()> {
    let kvm = Kvm::new().context("/dev/kvm")?;
    let fleet = Fleet::start_with(&kvm, SIZE, Ram::new, Refused::MovesOn)?;
    fleet.advance(rounds)?;
    fleet.finish().map(drop)
}

/// Waits for the end of a process, or until `deadline`.
fn wait_until(pid: Pid, deadline: Instant) -> Result<WaitStatus> {
    loop {
        let status = waitpid(pid, Some(WaitPidFlag::WNOHANG))?;
        if status != WaitStatus::StillAlive || Instant::now() >= deadline {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

impl Drop for Troop {
    fn drop(&mut self) {
        // Whoever drops members that run has an error to report already.
        let _ = self.kill_all();
    }
}
