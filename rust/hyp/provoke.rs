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

use super::{
    assertion::hyp_assert,
    memory::Memory, //
};

/// An address that no runtime PGD maps: the linear window never holds VA 0, and PA 0 is no idmap page.
const UNMAPPED: u64 = 8;

/// Takes the exception. Does not return, unless the protection that should have raised it is missing.
#[inline(never)]
pub(super) fn provoke(way: Provoke, context: *mut CpuContext, memory: &Memory) {
    match way {
        Provoke::ReadUnmapped => el2::fault_by_read(UNMAPPED),
        Provoke::WriteText => el2::fault_by_write(provoke as *const () as u64),
        Provoke::ExecData => el2::fault_by_branch(context as u64),
        Provoke::StackOverflow => {
            black_box(sink(0));
        }
        Provoke::Brk => el2::brk(),
        Provoke::UnderLock => {
            let _locked = memory.lock();
            el2::brk();
        }
        Provoke::Undefined => el2::undefined(),
        Provoke::SError => el2::enter_serror_vector(),
        Provoke::Assertion => {
            hyp_assert!(black_box(false), "this assertion fails on request");
        }
    }
}

/// Entered from `eltwo_provoke_in_switch`, on this CPU's stack, with a guest's registers in the CPU.
///
/// # Safety
///
/// `context` is this CPU's own and complete, and nobody else uses it.
pub(super) unsafe extern "C" fn provoke_in_switch(context: *mut CpuContext, way: u64) {
    // SAFETY: By the contract.
    let memory = unsafe { Memory::new((&raw const (*context).shared_va).read()) };
    if let Some(way) = Provoke::from_number(way) {
        provoke(way, context, &memory);
    }
}

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
