// SPDX-License-Identifier: GPL-2.0-only

//! eltwo.ko (domain: host): crate root.
//!
//! Loading builds a [`host::service::Service`] step by step and then lets every CPU in; unloading is the same in reverse,
//! by the order in which the fields of [`Eltwo`] are dropped.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use common::lifecycle::{
    self,
    Loader,
    Stage, //
};
use host::{
    debugfs::Directory,
    hooks,
    inject,
    kvm::{
        device::Device,
        system::System, //
    },
    probe,
    refused::{
        refuse,
        Refused, //
    },
    service::Service, //
};

mod arch;
#[expect(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "shared with the EL2 image, which uses other parts of it"
)]
mod common;
mod host;

/// What `kernel::bindings` does not have, and all that it has.
#[allow(
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    clippy::all,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    improper_ctypes,
    unsafe_op_in_unsafe_fn,
    unreachable_pub,
    unused_imports
)]
mod bindings {
    include!(env!("ELTWO_BINDINGS"));
}

module! {
    type: Eltwo,
    name: "eltwo",
    authors: ["eltwo contributors"],
    description: "KVM for arm64 as a loadable module",
    license: "GPL v2",
    params: {
        pool_kib: u64 {
            default: 0,
            description: "Size of the EL2 memory pool in KiB (0: what this machine needs, and with map=ondemand 64 pages more)",
        },
        fail_at: u32 {
            default: 0,
            description: "Testing: the step of loading that is to fail (0: none; see rust/host/inject.rs)",
        },
        fail_nth: u32 {
            default: 0,
            description: "Testing: which of the steps that may fail is to fail (0: none; see rust/host/inject.rs)",
        },
        fail_cpu: u32 {
            default: 0,
            description: "Testing: the CPU that fail_at and fake_id are about",
        },
        provoke: u32 {
            default: 0,
            description: "Testing: 1 allows exceptions to be taken at EL2 on purpose (eltwo/provoke in debugfs)",
        },
        fake_id: u32 {
            default: 0,
            description: "Testing: the register that the CPU of fail_cpu gives a false value of (0: none; see rust/host/inject.rs)",
        },
        fake_value: u64 {
            default: 0,
            description: "Testing: that value",
        },
        selfcheck: u8 {
            default: 1,
            description: "Compare all EL2 registers of a CPU with what was found each time that it is given back (0: do not)",
        },
    },
}

/// A loaded module. The order of the fields is the order of unloading.
struct Eltwo {
    /// No VM is left, and none comes any more.
    _device: Device,
    /// No new calls from user space.
    _files: Directory,
    _active: Active,
}

/// A service that CPUs are in: what it has registered, by the stages of the life cycle.
struct Active {
    hotplug: Option<hooks::Hotplug>,
    syscore: Option<hooks::Syscore>,
    cpu_pm: Option<hooks::CpuPm>,
    published: Option<hooks::Published>,
    /// The last reference: the pool goes back to the kernel.
    service: Arc<Service>,
    farewell: Option<Farewell>,
}

/// Says when everything is back as it was.
struct Farewell;

impl Drop for Farewell {
    fn drop(&mut self) {
        pr_info!("unloaded\n");
    }
}

impl Active {
    fn new() -> Result<Self, Refused> {
        let mut active = Self {
            hotplug: None,
            syscore: None,
            cpu_pm: None,
            published: None,
            service: Service::build(probe::admit()?)?,
            farewell: None,
        };
        lifecycle::service::load(&mut active)?;
        active.farewell = Some(Farewell);
        Ok(active)
    }
}

impl Loader for Active {
    type Error = Refused;

    fn enter(&mut self, stage: Stage) -> Result<(), Refused> {
        match stage {
            Stage::Published => {
                // SAFETY: `service` is dropped after `drop` has left all stages, this one as the last.
                self.published = Some(unsafe { hooks::Published::new(&self.service) });
            }
            Stage::CpuPm => self.cpu_pm = Some(hooks::CpuPm::new()?),
            Stage::Syscore => self.syscore = Some(hooks::Syscore::new()?),
            Stage::Hotplug => self.hotplug = Some(hooks::Hotplug::new(&self.service)?),
        }
        Ok(())
    }

    fn leave(&mut self, stage: Stage) {
        match stage {
            Stage::Published => self.published = None,
            Stage::CpuPm => self.cpu_pm = None,
            Stage::Syscore => self.syscore = None,
            Stage::Hotplug => self.hotplug = None,
        }
    }

    fn still_open(&self) -> Result<(), Refused> {
        // The shutdown path may have passed before the hooks were there.
        let outcome = match hooks::system_goes_down() {
            true => Err(EBUSY),
            false => self.service.still_open(),
        };
        outcome.map_err(|error| match error {
            EBUSY => refuse!(EBUSY, "the machine is going down; load when it is up again"),
            error => refuse!(
                error,
                "an exception was taken at EL2, see above; please report this"
            ),
        })
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        lifecycle::service::unload(self);
    }
}

impl kernel::Module for Eltwo {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        inject::start();
        let active = Active::new()?;
        let system = System::new(active.service.clone())?;
        let files = Directory::new(system.clone())?;
        let device = Device::new(system)?;
        active.service.announce();
        Ok(Self {
            _device: device,
            _files: files,
            _active: active,
        })
    }
}
