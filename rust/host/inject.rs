// SPDX-License-Identifier: GPL-2.0-only

//! Host: fault injection, so that the way back from every step of loading can be tested.
//!
//! `insmod eltwo.ko fail_at=N` makes step N of loading fail as if the kernel or the machine had refused it;
//! `fail_cpu=C` (default 0) names the CPU for steps that every CPU takes. Steps have the numbers below; a number behind
//! the last one fails nothing. Numbers from 100 on are not about loading: they spoil something that happens later.
//!
//! `provoke=1` allows exceptions to be taken at EL2 on purpose: there is `debugfs/eltwo/provoke` then, and EL2 obeys.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::prelude::*;

use super::{
    parameter,
    trouble::Trouble, //
};
use crate::{
    arch::witness::HostState,
    common::{
        abi::{
            Provoke,
            ProvokeAt, //
        },
        guest::{
            flags,
            GuestConfig, //
        },
    },
    module_parameters, //
};

/// The steps of loading. Their numbers are what users know them by, and roughly their order.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Step {
    /// Reserving the first chunk of the pool.
    PoolFirstChunk = 1,
    /// Reserving the rest.
    PoolNextChunk = 2,
    /// Finding out what RAM there is.
    RamMap = 3,
    /// Copying and relocating the EL2 image.
    Image = 4,
    /// Computing the address space.
    Layout = 5,
    /// Building the boot PGD.
    BootTables = 6,
    /// Building the runtime PGD.
    RuntimeTables = 7,
    /// Preparing the context and the stack of each CPU.
    Contexts = 8,
    /// Registering for CPU power management.
    CpuPm = 9,
    /// Registering for suspend and shutdown.
    Syscore = 10,
    /// On a CPU: admission.
    CpuAdmit = 11,
    /// On a CPU: reading what is to be saved.
    CpuSave = 12,
    /// On a CPU: init. It is not entered.
    CpuInit = 13,
    /// On a CPU: the first call after init. The CPU is at EL2 with us by then.
    CpuVerify = 14,
    /// After all CPUs are up: the files in debugfs.
    Debugfs = 15,
    /// A guest's first use of FP/SIMD ends in an exception at EL2 while the guest's registers are in the CPU.
    GuestSwitch = 100,
}

/// Fails if this is the step that `fail_at` names.
pub(crate) fn check(step: Step) -> Result {
    if parameter::<u32>(module_parameters::fail_at.value()) == step as u32 {
        pr_warn!("fail_at={}: this step fails on request\n", step as u32);
        return Err(match step {
            Step::PoolFirstChunk
            | Step::PoolNextChunk
            | Step::BootTables
            | Step::RuntimeTables
            | Step::Contexts => ENOMEM,
            _ => EIO,
        });
    }
    Ok(())
}

/// As [`check`], for a step that `cpu` takes.
pub(crate) fn check_on(step: Step, cpu: u32) -> Result<(), Trouble> {
    let wanted = parameter::<u32>(module_parameters::fail_at.value()) == step as u32;
    if wanted && parameter::<u32>(module_parameters::fail_cpu.value()) == cpu {
        Err(Trouble::Injected)
    } else {
        Ok(())
    }
}

/// Whether exceptions may be taken at EL2 on purpose.
pub(crate) fn provoke() -> bool {
    *module_parameters::provoke.value() != 0
}

/// What [`arm`] was told: 0 for nothing, else the flag in bits 15:8 and the way, plus one, in bits 7:0.
static ARMED: AtomicU64 = AtomicU64::new(0);

/// The next entry of a guest, on any CPU, takes the exception `way` at EL2. False if `at` is no place of the switch.
pub(crate) fn arm(way: Provoke, at: ProvokeAt) -> bool {
    let flag = match at {
        ProvokeAt::Call => return false,
        ProvokeAt::Entering => flags::PROVOKE_ENTERING,
        ProvokeAt::Leaving => flags::PROVOKE_LEAVING,
    };
    let order = (u64::from(flag) << 8) | (way as u64 + 1);
    ARMED.store(order, Ordering::Relaxed);
    true
}

/// An entry of a guest that is to end in an exception.
pub(crate) struct Injected {
    order: u64,
    host: HostState,
}

impl Injected {
    /// A guest is about to be entered by `config`: has it take the exception that is armed, if there is one.
    #[inline]
    pub(crate) fn take(config: &mut GuestConfig) -> Option<Self> {
        if ARMED.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Self::take_armed(config)
    }

    #[cold]
    fn take_armed(config: &mut GuestConfig) -> Option<Self> {
        let order = ARMED.swap(0, Ordering::Relaxed);
        if order == 0 {
            return None;
        }
        config.provoke = (order & 0xff) - 1;
        config.flags |= Self::bits(order);
        Some(Self {
            order,
            host: HostState::read(),
        })
    }

    /// The flag of `order`, and the one that opens the way of the switch on which it is looked at.
    fn bits(order: u64) -> u64 {
        let flag = (order >> 8) as u32;
        let way = if flag == flags::PROVOKE_ENTERING {
            flags::FLUSH
        } else {
            flags::UNLEARN
        };
        (1 << flag) | (1 << way)
    }

    /// The guest has been left. The host's registers must be what they were. If an interrupt has kept the guest from
    /// running, the next entry is to do it.
    #[cold]
    pub(crate) fn end(self, config: &mut GuestConfig, cpu: u32, faulted: bool) {
        let (equal, different) = self.host.compare(&HostState::read(), |name, before, now| {
            pr_err!("CPU{cpu}: the host's {name} is {now:#x} and was {before:#x}\n");
        });
        if faulted {
            pr_info!("CPU{cpu}: EL1 registers of the host: {equal} equal, {different} different\n");
        } else {
            config.flags &= !(1 << (self.order >> 8));
            ARMED.store(self.order, Ordering::Relaxed);
        }
    }
}
