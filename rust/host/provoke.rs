// SPDX-License-Identifier: GPL-2.0-only

//! Host: exceptions that EL2 takes on purpose, so that their containment can be tested.
//!
//! `insmod eltwo.ko provoke=1` allows them: there is `debugfs/eltwo/provoke` then, and EL2 obeys. In a hypercall one is taken at
//! once. In the switch to or from a guest it is armed here, and the next entry of a guest takes it.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::prelude::*;

use super::parameter;
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

/// Whether exceptions may be taken at EL2 on purpose.
pub(crate) fn is_allowed() -> bool {
    parameter::<u32>(module_parameters::provoke.value()) != 0
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
