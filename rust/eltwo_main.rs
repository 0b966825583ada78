// SPDX-License-Identifier: GPL-2.0-only

//! eltwo.ko (domain: host): crate root.

use core::ptr::addr_of;

use kernel::prelude::*;

/// What `kernel::bindings` does not have.
#[allow(
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unused_imports,
    clippy::all,
    reason = "generated from C headers"
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
            description: "Size of the EL2 memory pool in KiB (0: computed)",
        },
    },
}

extern "C" {
    static eltwo_blob_start: u8;
    static eltwo_blob_end: u8;
}

struct Eltwo;

impl kernel::Module for Eltwo {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let len_bytes = addr_of!(eltwo_blob_end) as usize - addr_of!(eltwo_blob_start) as usize;
        pr_info!(
            "loaded: image of {} bytes, pool_kib={}\n",
            len_bytes,
            *module_parameters::pool_kib.value()
        );
        Ok(Self)
    }
}

impl Drop for Eltwo {
    fn drop(&mut self) {
        pr_info!("unloaded\n");
    }
}
