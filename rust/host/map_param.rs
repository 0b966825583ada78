// SPDX-License-Identifier: GPL-2.0-only

//! Host: the parameter `map=ondemand|linear`.
//!
//! The parameters of `module!` are integers, as it chooses the parser by the name of the type. This one is a word, so what
//! `module!` generates for each of its own is written out here: the descriptor in the section `__param`, from which the
//! kernel calls [`set`] before the module's init, and two lines for `modinfo`.
//!
//! Source: `include/linux/moduleparam.h` of Linux (`module_param_cb`).

use core::ptr::null_mut;

use kernel::{
    error::from_result,
    ffi::{
        c_char,
        c_int, //
    },
    prelude::*,
    str::as_char_ptr_in_const_context,
    sync::SetOnce, //
};

use super::THIS_MODULE;
use crate::{
    bindings,
    common::shared::MapMode, //
};

static MODE: SetOnce<MapMode> = SetOnce::new();

/// What the user has chosen.
pub(crate) fn mode() -> MapMode {
    MODE.copy().unwrap_or(MapMode::OnDemand)
}

/// Takes the word.
///
/// # Safety
///
/// `word` is null or a string.
unsafe extern "C" fn set(word: *const c_char, _: *const bindings::kernel_param) -> c_int {
    from_result(|| {
        if word.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: By the contract of this function.
        let word = unsafe { CStr::from_char_ptr(word) }.to_bytes();
        let Some(mode) = MapMode::ALL
            .into_iter()
            .find(|mode| mode.name().as_bytes() == word)
        else {
            pr_err!("refused: the parameter map is none that we know; load with map=ondemand, map=linear, or without\n");
            return Err(EINVAL);
        };
        if MODE.populate(mode) {
            Ok(0)
        } else {
            Err(EEXIST)
        }
    })
}

static OPERATIONS: bindings::kernel_param_ops = bindings::kernel_param_ops {
    flags: 0,
    set: Some(set),
    get: None,
    free: None,
};

/// The kernel's description of a parameter.
#[repr(transparent)]
struct Descriptor(bindings::kernel_param);

// SAFETY: The kernel alone reads it, while it loads the module.
unsafe impl Sync for Descriptor {}

#[link_section = "__param"]
#[used(compiler)]
static DESCRIPTOR: Descriptor = Descriptor(bindings::kernel_param {
    name: as_char_ptr_in_const_context(c"map"),
    mod_: THIS_MODULE,
    ops: &OPERATIONS,
    // Not in sysfs: it is for loading.
    perm: 0,
    level: -1,
    flags: 0,
    __bindgen_anon_1: bindings::kernel_param__bindgen_ty_1 { arg: null_mut() },
});

/// A line of `modinfo`, as bytes of its own length.
macro_rules! modinfo {
    ($name:ident, $line:literal) => {
        #[link_section = ".modinfo"]
        #[used(compiler)]
        static $name: [u8; $line.len()] = *$line;
    };
}

modinfo!(TYPE, b"parmtype=map:charp\0");
modinfo!(
    DESCRIPTION,
    b"parm=map:RAM at EL2: ondemand (default; page by page, when it is shared) or linear (all of it, at load)\0"
);
