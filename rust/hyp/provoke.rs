// SPDX-License-Identifier: GPL-2.0-only

//! Hyp: exceptions taken on purpose, so that their containment can be tested.

use core::hint::black_box;

use crate::{
    arch::el2,
    common::abi::{
        CpuContext,
        Provoke, //
    },
};

/// Takes the exception. Does not return, unless the protection that should have raised it is missing.
pub(super) fn provoke(way: Provoke, context: *mut CpuContext) {
    match way {
        Provoke::ReadUnmapped => {
            // VA 0 is never mapped: PA 0 is no idmap page, and the runtime half starts elsewhere or behind a guard.
            let nowhere = core::ptr::without_provenance::<u64>(UNMAPPED);
            // SAFETY: None: the access faults, which is what it is for, and the vectors contain it.
            black_box(unsafe { nowhere.read_volatile() });
        }
        Provoke::WriteText => {
            let text = provoke as *const () as *mut u32;
            // SAFETY: None, as above: text is mapped read-only.
            unsafe { text.write_volatile(0) };
        }
        Provoke::ExecData => {
            // SAFETY: None, as above: the context page is mapped execute-never, and is no function.
            let data: extern "C" fn() = unsafe { core::mem::transmute(context) };
            data();
        }
        Provoke::StackOverflow => {
            black_box(sink(0));
        }
        Provoke::Brk => el2::brk(),
    }
}

/// An address that no runtime PGD maps: in a page below everything, 8-byte aligned.
const UNMAPPED: usize = 8;

/// Uses up the stack, 256 bytes a level.
#[expect(
    unconditional_recursion,
    reason = "it ends in the guard page of the stack"
)]
#[inline(never)]
fn sink(depth: u64) -> u64 {
    let fill = black_box([depth; 32]);
    let below = sink(depth.wrapping_add(1));
    fill.iter().fold(below, |sum, word| sum.wrapping_add(*word))
}
