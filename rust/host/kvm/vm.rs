// SPDX-License-Identifier: GPL-2.0-only

//! Host: one VM. (Owner: G2; being written. What stands here is what the vCPUs call.)

use kernel::{
    ffi::{
        c_int,
        c_ulong, //
    },
    prelude::*,
    sync::Arc, //
};

use super::{
    run::LastRan,
    vcpu::{
        Active,
        Vcpu, //
    },
};
use crate::{
    bindings,
    host::service::Service, //
};

/// What became of a stage-2 fault.
pub(crate) enum Abort {
    /// Mapped: the guest tries again.
    Mapped,
    /// No memory there.
    Mmio {
        /// Address, with the offset in the page.
        ipa: u64,
    },
    /// `struct kvm_run` is filled.
    ToUser,
}

/// One VM.
pub(crate) struct Vm {
    service: Arc<Service>,
    last: LastRan,
    vttbr: u64,
}

impl Vm {
    /// The loaded eltwo.
    pub(crate) fn service(&self) -> &Arc<Service> {
        &self.service
    }
    /// `EIO` if the caller has another address space than the VM's maker, or the VM is dead.
    pub(crate) fn check_mm(&self) -> Result {
        Ok(())
    }
    /// Makes room for a vCPU, has it made, and has its file made.
    pub(crate) fn add_vcpu(
        &self,
        _id: c_ulong,
        make: impl FnOnce(u32, u32) -> Result<Arc<Vcpu>>,
        then: impl FnOnce(&Arc<Vcpu>) -> Result<c_int>,
    ) -> Result<c_int> {
        then(&make(0, 0)?)
    }
    /// The ring of coalesced MMIO.
    pub(crate) fn coalesced_page(&self) -> Option<*mut bindings::page> {
        None
    }
    /// VTCR_EL2.
    pub(crate) fn vtcr(&self) -> u64 {
        0
    }
    /// Which vCPU ran last on each CPU.
    pub(crate) fn last_ran(&self) -> &LastRan {
        &self.last
    }
    /// VTTBR_EL2 with a VMID that is live; interrupts are masked.
    pub(crate) fn enter_vttbr(&self, _cpu: u32) -> u64 {
        self.vttbr
    }
    /// A stage-2 fault: see `active.context().exit`. Interrupts on, may sleep.
    pub(crate) fn handle_abort(&self, _active: &mut Active<'_>) -> Result<Abort> {
        Err(EIO)
    }
}
