// SPDX-License-Identifier: GPL-2.0-only

//! Host: `/dev/kvm`, the way in.
//!
//! Its files, and those of VMs and vCPUs, name this module as their owner: it cannot be removed while one of them is open.
//!
//! Behaviour as `kvm_dev_ioctl` of `virt/kvm/kvm_main.c` of Linux.

use core::mem::offset_of;

use kernel::{
    error::{
        from_result,
        to_result, //
    },
    ffi::{
        c_int,
        c_long,
        c_uint,
        c_ulong, //
    },
    ioctl::_IO,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

use super::{
    caps,
    system::System,
    vm_file, //
};
use crate::{
    bindings,
    host::{
        inject,
        refused::{
            refuse,
            Reason,
            Refused, //
        },
        THIS_MODULE, //
    },
};

/// KVMIO of the uAPI.
const KVMIO: u32 = 0xae;
const GET_API_VERSION: u32 = _IO(KVMIO, 0x00);
const CREATE_VM: u32 = _IO(KVMIO, 0x01);
const CHECK_EXTENSION: u32 = _IO(KVMIO, 0x03);
const GET_VCPU_MMAP_SIZE: u32 = _IO(KVMIO, 0x04);

/// The device. It is gone when this is dropped, which is when no file is open.
pub(crate) struct Device(Pin<KBox<Registered>>);

/// What the kernel knows, and what it leads to.
#[repr(C)]
struct Registered {
    misc: Opaque<bindings::miscdevice>,
    system: Arc<System>,
}

// SAFETY: The kernel does its own locking, and the rest is shared by references only.
unsafe impl Send for Device {}
// SAFETY: As above.
unsafe impl Sync for Device {}

/// In a static, as the kernel wants it.
struct Operations(bindings::file_operations);

// SAFETY: The kernel only reads it.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(bindings::file_operations {
    owner: THIS_MODULE,
    unlocked_ioctl: Some(ioctl),
    compat_ioctl: Some(compat_ioctl),
    llseek: Some(bindings::noop_llseek),
    ..pin_init::zeroed()
});

impl Device {
    /// Registers it: from here on VMs can be made.
    ///
    /// # Errors
    ///
    /// `EBUSY` if somebody else has the minor number, `ENOMEM`.
    pub(crate) fn new(system: Arc<System>) -> Result<Self, Refused> {
        let device = Registered {
            misc: Opaque::new(bindings::miscdevice {
                minor: bindings::KVM_MINOR as c_int,
                name: c"kvm".as_char_ptr(),
                fops: &OPERATIONS.0,
                ..Default::default()
            }),
            system,
        };
        let device = inject::loading("the device", |flags| KBox::pin(device, flags))?;
        inject::loading("the registration of /dev/kvm", |_| {
            // SAFETY: The device is pinned and lives until `drop` has unregistered it.
            to_result(unsafe { bindings::misc_register(device.misc.get()) }).map_err(|error| {
                match error {
                    EBUSY => refuse!(
                        EBUSY,
                        "somebody else provides /dev/kvm; remove that module, or boot with kvm-arm.mode=none"
                    ),
                    error => error.tell("the registration of /dev/kvm"),
                }
            })
        })?;
        Ok(Self(device))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: `new` has registered it.
        unsafe { bindings::misc_deregister(self.0.misc.get()) };
    }
}

/// A 32-bit process has no business with 64-bit VMs.
extern "C" fn compat_ioctl(_file: *mut bindings::file, _cmd: c_uint, _arg: c_ulong) -> c_long {
    EINVAL.to_errno() as c_long
}

/// # Safety
///
/// Called by the kernel for a file of a [`Device`].
unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
    // SAFETY: The kernel has put the address of the `miscdevice` there when the file was opened. The device lives as long as
    // the module, which the file keeps loaded.
    let system = unsafe {
        let misc = (*file).private_data.cast::<u8>();
        let registered = misc.sub(offset_of!(Registered, misc)).cast::<Registered>();
        &(*registered).system
    };
    from_result(|| dispatch(system, cmd, arg))
}

fn dispatch(system: &Arc<System>, cmd: u32, arg: usize) -> Result<c_long> {
    match cmd {
        GET_API_VERSION if arg == 0 => Ok(bindings::KVM_API_VERSION as c_long),
        CREATE_VM => vm_file::create(system, arg).map(|fd| fd as c_long),
        CHECK_EXTENSION => caps::check(system, None, arg),
        // `struct kvm_run`, and behind it the ring of coalesced MMIO.
        GET_VCPU_MMAP_SIZE if arg == 0 => Ok(2 * bindings::PAGE_SIZE as c_long),
        _ => Err(EINVAL),
    }
}
