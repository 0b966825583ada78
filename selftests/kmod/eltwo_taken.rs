// SPDX-License-Identifier: GPL-2.0-only

//! A test module: has what eltwo needs from the kernel and only one can have, the number of `/dev/kvm` or, with `hotplug=1`, the
//! hotplug state of KVM. The kernel's own KVM would have both, but has EL2 too, and that is seen first.

use core::borrow::Borrow;

use kernel::{
    bindings,
    error::to_result,
    ffi::c_int,
    prelude::*,
    types::Opaque, //
};

module! {
    type: Taken,
    name: "eltwo_taken",
    authors: ["eltwo contributors"],
    description: "Test module: has the device or the hotplug state of KVM",
    license: "GPL v2",
    params: {
        hotplug: u32 {
            default: 0,
            description: "1: the hotplug state; 0: the device",
        },
    },
}

/// What is taken.
enum Taken {
    Device(Pin<KBox<Opaque<bindings::miscdevice>>>),
    Hotplug,
}

// SAFETY: The device is touched by the kernel alone, under its own lock.
unsafe impl Send for Taken {}
// SAFETY: As above.
unsafe impl Sync for Taken {}

/// The value of a parameter. Linux 7.2 lends it, 7.3 gives it away.
fn number(value: impl Borrow<u32>) -> u32 {
    *value.borrow()
}

impl kernel::Module for Taken {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        if number(module_parameters::hotplug.value()) != 0 {
            // SAFETY: The name is static, and there is nothing to call.
            to_result(unsafe {
                bindings::__cpuhp_setup_state(
                    bindings::cpuhp_state_CPUHP_AP_KVM_ONLINE,
                    c"taken".as_char_ptr(),
                    false,
                    None,
                    None,
                    false,
                )
            })?;
            return Ok(Self::Hotplug);
        }
        // A device without operations cannot be opened.
        let device = Opaque::new(bindings::miscdevice {
            minor: bindings::KVM_MINOR as c_int,
            name: c"taken".as_char_ptr(),
            ..pin_init::zeroed()
        });
        let device = KBox::pin(device, GFP_KERNEL)?;
        // SAFETY: The device is pinned and lives until `drop` has unregistered it.
        to_result(unsafe { bindings::misc_register(device.get()) })?;
        Ok(Self::Device(device))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        match self {
            // SAFETY: `init` has registered it.
            Self::Device(device) => unsafe { bindings::misc_deregister(device.get()) },
            // SAFETY: `init` has set it up.
            Self::Hotplug => unsafe {
                bindings::__cpuhp_remove_state(bindings::cpuhp_state_CPUHP_AP_KVM_ONLINE, false)
            },
        }
    }
}
