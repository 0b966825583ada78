// SPDX-License-Identifier: GPL-2.0-only

//! Who answers on `/dev/kvm`: eltwo, loaded for one case, or the stock KVM as the reference.

use std::{
    path::Path,
    time::Duration, //
};

use anyhow::{
    Context,
    Result, //
};
use kvm_ioctls::Kvm;

use crate::{
    guest::{
        module::{
            self,
            Loaded, //
        },
        poll,
    },
    ktap::Test,
    tests, //
};

/// How long the release of a closed VM may take. The kernel puts files off to the end of a task's work.
const RELEASE: Duration = Duration::from_secs(10);

/// The kernel's own KVM is live, so it is the reference that runs here.
pub fn is_reference() -> bool {
    Path::new("/sys/module/kvm_arm").exists() || (Path::new("/dev/kvm").exists() && !loaded())
}

fn loaded() -> bool {
    module::is_loaded().unwrap_or(false)
}

/// A host with `/dev/kvm`. Call [`Self::end`] when all VMs are closed.
pub struct Host {
    module: Option<Loaded>,
}

impl Host {
    /// Loads eltwo, unless the stock KVM is live.
    pub fn start() -> Result<Self> {
        Self::start_with("")
    }

    /// The same with `parameters` for eltwo.
    pub fn start_with(parameters: &str) -> Result<Self> {
        let module = if is_reference() {
            None
        } else {
            Some(module::load_with(parameters)?)
        };
        Ok(Self { module })
    }

    /// Opens `/dev/kvm`.
    pub fn open(&self) -> Result<Kvm> {
        Kvm::new().context("/dev/kvm")
    }

    /// Unloads eltwo again, which must succeed, as all VMs are closed.
    pub fn end(self) -> Result<()> {
        let Some(module) = self.module else {
            return Ok(());
        };
        module.keep();
        poll::until(RELEASE, || match module::is_loaded()? {
            true => module::unload(),
            false => Ok(()),
        })?;
        module::nothing_left()
    }
}

/// A case that gets `/dev/kvm` for its time.
pub fn with(body: fn(&Kvm) -> Result<()>) -> impl FnOnce() -> Result<()> {
    move || {
        let host = Host::start()?;
        let result = host.open().and_then(|kvm| body(&kvm));
        let end = host.end();
        // The error of the case says more than that of the unloading, which may only follow from it.
        result.and(end)
    }
}

/// A test of guests: as every test, the machine is left as found.
pub fn test() -> Test {
    tests::standard()
}
