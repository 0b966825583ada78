// SPDX-License-Identifier: GPL-2.0-only

//! eltwo.ko (domain: host): crate root.
//!
//! Loading builds a [`host::service::Service`] step by step and then lets every CPU in; unloading is the same in reverse,
//! by the order in which the fields of [`Eltwo`] are dropped.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use host::{
    debugfs::Directory,
    hooks,
    inject::{
        self,
        Step, //
    },
    kvm::{
        device::Device,
        system::System, //
    },
    probe,
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
            description: "Size of the EL2 memory pool in KiB (0: what this machine needs, and 64 pages)",
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
            description: "Testing: the CPU on which it is to fail, if it is a step of a CPU",
        },
        provoke: u32 {
            default: 0,
            description: "Testing: 1 allows exceptions to be taken at EL2 on purpose (eltwo/provoke in debugfs)",
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

/// A service that CPUs are in. The order of the fields is the order of unloading.
struct Active {
    /// Takes every CPU down, and lets none in any more.
    _hotplug: hooks::Hotplug,
    /// From here on a CPU that wakes up is not brought up: it is not marked as asleep.
    _syscore: hooks::Syscore,
    _cpu_pm: hooks::CpuPm,
    /// No callback can run any more.
    _published: hooks::Published,
    /// The last reference: the pool goes back to the kernel.
    service: Arc<Service>,
    _farewell: Farewell,
}

/// Says when everything is back as it was.
struct Farewell;

impl Drop for Farewell {
    fn drop(&mut self) {
        pr_info!("unloaded\n");
    }
}

impl Active {
    fn new() -> Result<Self> {
        let service = Service::build(probe::admit()?)?;
        // SAFETY: `service` is dropped after `published`, and that after all other guards: both the locals here and the
        // fields of `Self` are dropped in this order.
        let published = unsafe { hooks::Published::new(&service) };
        inject::check(Step::CpuPm)?;
        let cpu_pm = hooks::CpuPm::new()?;
        inject::check(Step::Syscore)?;
        let syscore = hooks::Syscore::new()?;
        let hotplug = hooks::Hotplug::new(&service)?;
        // The shutdown path may have passed before the hooks were there.
        if hooks::system_goes_down() {
            return Err(EBUSY);
        }
        Ok(Self {
            _hotplug: hotplug,
            _syscore: syscore,
            _cpu_pm: cpu_pm,
            _published: published,
            service,
            _farewell: Farewell,
        })
    }
}

impl kernel::Module for Eltwo {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        inject::start();
        let active = Active::new()?;
        inject::check(Step::Debugfs)?;
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
