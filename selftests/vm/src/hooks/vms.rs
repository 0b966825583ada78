// SPDX-License-Identifier: GPL-2.0-only

//! A guest that runs while hooks happen.

use std::sync::{
    atomic::{
        AtomicBool,
        Ordering::Relaxed, //
    },
    Arc,
};

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::Kvm;
use nix::errno::Errno;

use crate::{
    guest::cpu::Pinned,
    kvm::{
        image::Program,
        machine::Machine,
        poll,
        runner::Runner,
        vcpu::{
            describe,
            Channel,
            Exit,
            Vcpu,
            FAIL_ENTRY, //
        },
    },
};

/// vCPUs of the guest.
const VCPUS: u64 = 2;

/// A VM whose vCPUs count, each in a thread of its own.
pub struct Guest {
    vcpus: Vec<(Runner<Exit>, Channel)>,
    /// A vCPU could not be entered on the CPU where its thread was.
    moved: Arc<AtomicBool>,
    _machine: Machine,
}

impl Guest {
    /// Starts it; the first vCPU begins on `cpu`.
    ///
    /// # Errors
    ///
    /// Where the module takes no VM any more.
    pub fn start(cpu: usize) -> Result<Self> {
        let kvm = Kvm::new().context("/dev/kvm")?;
        let machine = Machine::new(&kvm)?;
        let moved = Arc::new(AtomicBool::new(false));
        let mut vcpus = Vec::new();
        for id in 0..VCPUS {
            let mut vcpu = machine.vcpu(id)?;
            vcpu.start(Program::Spin, &[])?;
            let channel = vcpu.channel();
            let moved = Arc::clone(&moved);
            let home = (id == 0).then_some(cpu);
            vcpus.push((
                Runner::start(vcpu, move |vcpu| run(vcpu, home, &moved))?,
                channel,
            ));
        }
        let guest = Self {
            vcpus,
            moved,
            _machine: machine,
        };
        match guest.advance() {
            Ok(()) => Ok(guest),
            Err(error) => {
                guest.end(true)?;
                Err(error)
            }
        }
    }

    /// Waits until every vCPU has counted on.
    pub fn advance(&self) -> Result<()> {
        for (number, (runner, channel)) in self.vcpus.iter().enumerate() {
            let before = channel.progress();
            poll(|| runner.is_finished() || channel.progress() != before)?;
            ensure!(
                channel.progress() != before,
                "vCPU {number} has ended instead of counting on"
            );
        }
        Ok(())
    }

    /// Whether a vCPU has met a CPU that is not eltwo's.
    pub fn has_moved(&self) -> bool {
        self.moved.load(Relaxed)
    }

    /// Ends it. `killed`: its vCPUs must have ended by themselves with `EIO`, or must end so now.
    pub fn end(self, killed: bool) -> Result<()> {
        for (_, channel) in &self.vcpus {
            channel.stop();
        }
        for (number, (runner, _)) in self.vcpus.into_iter().enumerate() {
            let (_vcpu, exit) = runner.join()?;
            let as_expected = match exit {
                Exit::Failed(Errno::EIO) => killed,
                Exit::Done(_) => !killed,
                _ => false,
            };
            ensure!(
                as_expected,
                "vCPU {number} of a guest that was{} killed: {}",
                if killed { "" } else { " not" },
                describe(&exit)
            );
        }
        Ok(())
    }
}

/// Runs a vCPU to its end. Where a CPU cannot run guests, it moves on to the first one, as a VMM would.
fn run(vcpu: &mut Vcpu, home: Option<usize>, moved: &AtomicBool) -> Result<Exit> {
    let mut pinned = home.map(Pinned::to).transpose()?;
    loop {
        match vcpu.run() {
            Exit::Interrupted => {}
            Exit::Other(FAIL_ENTRY) => {
                moved.store(true, Relaxed);
                // The old place is forgotten first: each of them puts back what it has found.
                drop(pinned.take());
                pinned = Some(Pinned::to(0)?);
            }
            exit @ (Exit::Done(_) | Exit::Failed(_)) => return Ok(exit),
            exit => bail!("{}", describe(&exit)),
        }
    }
}
