// SPDX-License-Identifier: GPL-2.0-only

//! A thread that runs a vCPU, and signals that take it out of the guest.

use std::{
    os::unix::thread::JoinHandleExt,
    sync::mpsc::{
        self,
        Receiver, //
    },
    thread::{
        self,
        JoinHandle, //
    },
    time::{
        Duration,
        Instant, //
    },
};

use anyhow::{
    anyhow,
    bail,
    Result, //
};
use nix::{
    libc::{
        self,
        c_int, //
    },
    sys::{
        pthread::pthread_kill,
        signal::{
            sigaction,
            SaFlags,
            SigAction,
            SigHandler,
            SigSet,
            Signal, //
        },
    },
    unistd::Pid,
};

use super::vcpu::Vcpu;
use crate::guest::poll::patient;

/// The signal of [`Runner::kick`].
pub const KICK: Signal = Signal::SIGUSR1;
/// How long a vCPU may take to notice that it is to stop.
const LIMIT: Duration = Duration::from_secs(20);

extern "C" fn ignore(_: c_int) {}

/// Makes [`KICK`] interrupt system calls and do nothing else.
pub fn accept_kicks() -> Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(ignore),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: The handler does nothing, which is allowed in every context.
    unsafe { sigaction(KICK, &action)? };
    Ok(())
}

/// A thread with a vCPU. It gives the vCPU back when it ends.
pub struct Runner<T> {
    thread: JoinHandle<(Vcpu, Result<T>)>,
    id: Receiver<Pid>,
}

impl<T: Send + 'static> Runner<T> {
    /// Runs `body` in a thread of its own.
    pub fn start(
        mut vcpu: Vcpu,
        body: impl FnOnce(&mut Vcpu) -> Result<T> + Send + 'static,
    ) -> Result<Self> {
        accept_kicks()?;
        let (sender, id) = mpsc::channel();
        let thread = thread::spawn(move || {
            // Nobody may be listening.
            let _ = sender.send(nix::unistd::gettid());
            let result = body(&mut vcpu);
            (vcpu, result)
        });
        Ok(Self { thread, id })
    }

    /// Number of the thread. To be asked once.
    pub fn thread_id(&self) -> Result<Pid> {
        Ok(self.id.recv_timeout(patient(LIMIT))?)
    }

    /// Interrupts the thread once. If it is not in KVM_RUN at that time, it does not notice.
    pub fn kick(&self) -> Result<()> {
        pthread_kill(self.thread.as_pthread_t() as libc::pthread_t, KICK)?;
        Ok(())
    }

    /// Has the thread ended?
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end of the thread, and returns its vCPU and its result.
    pub fn join(self) -> Result<(Vcpu, T)> {
        self.join_with(|_| Ok(()))
    }

    /// As [`Self::join`], but interrupts the thread until it ends.
    pub fn interrupt(self) -> Result<(Vcpu, T)> {
        self.join_with(Self::kick)
    }

    fn join_with(self, nudge: impl Fn(&Self) -> Result<()>) -> Result<(Vcpu, T)> {
        let deadline = Instant::now() + patient(LIMIT);
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                bail!(
                    "a vCPU does not come back within {} s",
                    patient(LIMIT).as_secs()
                );
            }
            nudge(&self)?;
            thread::sleep(Duration::from_millis(2));
        }
        match self.thread.join() {
            Ok((vcpu, result)) => Ok((vcpu, result?)),
            Err(_) => Err(anyhow!("the thread of a vCPU has panicked")),
        }
    }
}
