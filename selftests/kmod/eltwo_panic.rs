// SPDX-License-Identifier: GPL-2.0-only

//! A test module: loading it makes the CPU `cpu` panic in an interrupt, an IPI from the CPU that loads it.

use core::{
    borrow::Borrow,
    ffi::c_void,
    ptr::null_mut, //
};

use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

module! {
    type: Panic,
    name: "eltwo_panic",
    authors: ["eltwo contributors"],
    description: "Test module: a panic in an interrupt",
    license: "GPL v2",
    params: {
        cpu: u32 {
            default: 0,
            description: "The CPU that panics; not the one that loads the module",
        },
    },
}

/// Never there for longer than it takes.
struct Panic;

/// Hard interrupt context.
extern "C" fn die(_: *mut c_void) {
    // SAFETY: A string without conversions needs no arguments.
    unsafe { bindings::panic(c"eltwo_panic: in an interrupt".as_char_ptr()) };
}

/// The value of a parameter. Linux 7.2 lends it, 7.3 gives it away.
fn number(value: impl Borrow<u32>) -> u32 {
    *value.borrow()
}

impl kernel::Module for Panic {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let cpu = number(module_parameters::cpu.value()) as i32;
        // SAFETY: `die` takes no data, and the call waits for it: in vain.
        to_result(unsafe {
            // Wait. It is an `int` in Linux 7.2, and a `bool` in 7.3.
            bindings::smp_call_function_single(cpu, Some(die), null_mut(), true.into())
        })?;
        Ok(Self)
    }
}
