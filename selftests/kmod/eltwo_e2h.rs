// SPDX-License-Identifier: GPL-2.0-only

//! A test module: makes EL2 run with HCR_EL2.E2H = 1 while it is loaded.
//!
//! CPUs that cannot clear E2H leave a kernel at EL1 in this state (hVHE). eltwo must refuse it, and QEMU has no such CPU: so
//! this module sets the bit on all CPUs of one that has FEAT_VHE, by way of the kernel's stub, and clears it again when it is
//! unloaded. CPTR_EL2 and CNTHCTL_EL2 have another layout then and are translated, so that the kernel can go on.
//!
//! Source: Arm ARM DDI 0487, D24.2 (CPTR_EL2, CNTHCTL_EL2, HCR_EL2).

use core::{
    arch::global_asm,
    ffi::c_void, //
};

use kernel::{
    bindings,
    cpu::nr_cpu_ids,
    prelude::*, //
};

#[expect(dead_code, reason = "shared with eltwo.ko, which uses more of it")]
#[path = "../../rust/arch/mod.rs"]
mod arch;
mod code_page;
#[expect(unreachable_pub, reason = "shared with crates that export it")]
mod common;

use arch::el1::hvc;
use code_page::{
    CodePage,
    HVC_SOFT_RESTART, //
};

module! {
    type: E2h,
    name: "eltwo_e2h",
    authors: ["eltwo contributors"],
    description: "Test module: HCR_EL2.E2H = 1",
    license: "GPL v2",
}

// x0 = HCR_EL2.E2H in its place, x1 = CPTR_EL2, x2 = CNTHCTL_EL2 in the layout that goes with it. Returns the old
// CPTR_EL2 and CNTHCTL_EL2 in x1 and x2. Position independent, registers only.
global_asm!(
    ".pushsection .rodata.eltwo_e2h, \"a\"",
    ".balign 8",
    "eltwo_e2h_start:",
    "mrs x3, cptr_el2",
    "mrs x4, cnthctl_el2",
    "mrs x5, hcr_el2",
    "bic x5, x5, #(1 << 34)",
    "orr x5, x5, x0",
    "msr hcr_el2, x5",
    // The layouts change with the bit.
    "isb",
    "msr cptr_el2, x1",
    "msr cnthctl_el2, x2",
    "mov x0, xzr",
    "mov x1, x3",
    "mov x2, x4",
    "eret",
    "eltwo_e2h_end:",
    ".popsection",
);

extern "C" {
    static eltwo_e2h_start: u8;
    static eltwo_e2h_end: u8;
}

/// HCR_EL2.E2H.
const E2H: u64 = 1 << 34;
/// CPTR_EL2 with E2H = 1: no traps of SVE, FP and SME (ZEN, FPEN, SMEN).
const CPTR_NO_TRAPS: u64 = (3 << 16) | (3 << 20) | (3 << 24);
/// CNTHCTL_EL2 with E2H = 1: no traps of the physical counter and timer (EL1PCTEN, EL1PTEN).
const CNTHCTL_NO_TRAPS: u64 = (3 << 10) | 3;

/// The code in a page of its own, and what the boot CPU had before.
struct E2h {
    page: CodePage,
    cptr: u64,
    cnthctl: u64,
}

/// What a CPU is to do, and what it had before.
struct Job {
    entry: u64,
    e2h: u64,
    cptr: u64,
    cnthctl: u64,
    before: [u64; 2],
}

/// Hard interrupt context.
///
/// # Safety
///
/// `data` is a [`Job`] that lives until this returns, and nobody else uses it.
unsafe extern "C" fn run(data: *mut c_void) {
    // SAFETY: By the contract.
    let job = unsafe { &mut *data.cast::<Job>() };
    let regs = [HVC_SOFT_RESTART, job.entry, job.e2h, job.cptr, job.cnthctl];
    // SAFETY: The stub owns EL2 (the lab boots with kvm-arm.mode=none), and the page has been cleaned to the PoC.
    let [_, x1, x2, ..] = unsafe { hvc(regs) };
    job.before = [x1, x2];
}

/// Runs `job` on each CPU that is online, one after the other.
fn on_all(job: &mut Job) {
    for cpu in 0..nr_cpu_ids() {
        let data: *mut Job = job;
        // SAFETY: `run` takes a `Job`, and the call waits for it. A CPU that is offline is not called.
        unsafe {
            // Wait. It is an `int` in Linux 7.2, and a `bool` in 7.3.
            bindings::smp_call_function_single(cpu as i32, Some(run), data.cast(), true.into())
        };
    }
}

impl kernel::Module for E2h {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // SAFETY: The labels are in one section, and the code is position independent and shorter than a page.
        let page = unsafe { CodePage::new(&raw const eltwo_e2h_start, &raw const eltwo_e2h_end)? };
        let mut job = Job {
            entry: page.pa(),
            e2h: E2H,
            cptr: CPTR_NO_TRAPS,
            cnthctl: CNTHCTL_NO_TRAPS,
            before: [0; 2],
        };
        on_all(&mut job);
        let [cptr, cnthctl] = job.before;
        pr_info!("HCR_EL2.E2H is 1 on all CPUs\n");
        Ok(Self {
            page,
            cptr,
            cnthctl,
        })
    }
}

impl Drop for E2h {
    fn drop(&mut self) {
        on_all(&mut Job {
            entry: self.page.pa(),
            e2h: 0,
            cptr: self.cptr,
            cnthctl: self.cnthctl,
            before: [0; 2],
        });
        pr_info!("HCR_EL2.E2H is 0 again\n");
    }
}
