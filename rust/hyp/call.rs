// SPDX-License-Identifier: GPL-2.0-only

//! Hyp: the hypercalls.
//!
//! Everything in a register is the host's word and checked before it is used. The stub calls and `Reset` never come here:
//! `asm/vectors.S` answers them, so that they work whatever state Rust is in.

use crate::{
    arch::{
        el2,
        sysreg, //
    },
    common::abi::{
        Call,
        CpuContext,
        Provoke,
        Status,
        ABI_VERSION, //
    },
};

use super::{
    assertion::hyp_assert,
    entry,
    guest,
    memory::Memory,
    provoke, //
};

/// Results of a call: x1..x4.
pub(super) type Results = [u64; 4];

/// One value in x1.
pub(super) const fn one(x1: u64) -> Results {
    [x1, 0, 0, 0]
}

/// Entered from `eltwo_call` with the host's registers in `context.host`; writes x0..x4 there.
///
/// # Safety
///
/// `context` is this CPU's own and complete, and nobody else uses it during the call.
pub(super) unsafe extern "C" fn hypercall(context: *mut CpuContext) {
    // SAFETY: By the contract.
    let loaded = unsafe { (&raw const (*context).guest.loaded).read() };
    // Else this is a guest's exception, taken for the host's.
    hyp_assert!(
        loaded == 0,
        "the host's registers are in the CPU when the host makes a call"
    );
    // SAFETY: By the contract. The reference ends before `dispatch` gets the pointer.
    let (x0, args, memory) = unsafe {
        let context = &mut *context;
        context.hypercalls = context.hypercalls.wrapping_add(1);
        let [x0, x1, x2, x3, x4, ..] = context.host.x;
        (x0, [x1, x2, x3, x4], Memory::new(context.shared_va))
    };
    let outcome = match Call::from_number(x0) {
        Some(call) => dispatch(call, args, context, &memory),
        None => Err(Status::NotSupported),
    };
    let (status, [x1, x2, x3, x4]) = match outcome {
        Ok(results) => (Status::Ok, results),
        Err(status) => (status, [0; 4]),
    };
    // SAFETY: As above.
    let [r0, r1, r2, r3, r4, ..] = unsafe { &mut (*context).host.x };
    (*r0, *r1, *r2, *r3, *r4) = (status.to_x0(), x1, x2, x3, x4);
}

fn dispatch(
    call: Call,
    args: [u64; 4],
    context: *mut CpuContext,
    memory: &Memory,
) -> Result<Results, Status> {
    let [x1, x2, x3, x4] = args;
    match call {
        Call::Version => Ok([ABI_VERSION, memory.image_id(), 0, 0]),
        Call::Ping => Ok(args),
        Call::CpuInfo => {
            // SAFETY: The context is this CPU's own, and no reference into it is alive.
            let (cpu, hypercalls) = unsafe { ((*context).cpu, (*context).hypercalls) };
            Ok([cpu, hypercalls, sysreg::vbar_el2(), sysreg::ttbr0_el2()])
        }
        Call::Map => memory.map(x1, x2, x3),
        Call::Unmap => memory.unmap(x1, x2),
        Call::Share => memory.share(x1),
        Call::Unshare => memory.unshare(x1),
        Call::Read => memory.read(x1),
        Call::Walk => memory.walk(x1, x2),
        Call::At => match x2 {
            0 | 1 => Ok(one(el2::translate(x1, x2 == 1))),
            _ => Err(Status::Invalid),
        },
        Call::ReadReg => read_reg(x1, context),
        Call::PoolInfo => Ok(memory.pool_info()),
        Call::Provoke if !memory.facts().provoke => Err(Status::NotSupported),
        Call::Provoke => {
            let way = Provoke::from_number(x1).ok_or(Status::Invalid)?;
            provoke::provoke(way, context, memory);
            // The protection that should have stopped it is missing.
            Err(Status::Denied)
        }
        // SAFETY: The context is this CPU's own, and no reference into it is alive.
        Call::AdmitVcpu => unsafe { guest::admit(memory, context, x1) },
        Call::TlbIpa => guest::tlb_ipa(memory, x1, x2, x3, x4),
        Call::TlbVmid => guest::tlb_vmid(memory, x1, x2),
        Call::TlbAllVmids => guest::tlb_all_vmids(memory),
        // Answered in assembly.
        Call::Reset => Err(Status::NotSupported),
    }
}

/// Reads a register of the image, if this CPU has it: else the read would be UNDEFINED.
fn read_reg(place: u64, context: *const CpuContext) -> Result<Results, Status> {
    // SAFETY: The context is this CPU's own, and no reference into it is alive.
    let present = unsafe { (*context).present };
    let place = u32::try_from(place).map_err(|_| Status::Invalid)?;
    match present.checked_shr(place) {
        // SAFETY: The register exists: the host has read it on this CPU.
        Some(bits) if bits & 1 != 0 => Ok(one(unsafe { entry::eltwo_read_reg(place.into()) })),
        _ => Err(Status::NotFound),
    }
}
