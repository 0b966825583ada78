// SPDX-License-Identifier: GPL-2.0-only

//! Host: accesses of the guest to where there is no memory.
//!
//! What a coalesced zone or an ioeventfd takes ends here; the rest is user space's, which answers a load by the next KVM_RUN.
//!
//! Source: `Documentation/virt/kvm/api.rst` of Linux (KVM_EXIT_MMIO, KVM_EXIT_ARM_NISV); behaviour as
//! `arch/arm64/kvm/{mmio,mmu}.c`.

use kernel::prelude::*;

use super::{
    attrs::Flag,
    events,
    exit::Next,
    regs,
    stats::VcpuStat,
    vcpu::Active, //
};
use crate::{
    bindings,
    common::{
        exception, idreg,
        mmio::{
            self,
            Access,
            CM,
            S1PTW, //
        },
    },
    host::probe, //
};

/// An access that user space emulates.
#[derive(Clone, Copy)]
pub(crate) struct Pending {
    access: Access,
    big_endian: bool,
}

/// `mmio` of `struct kvm_run`.
#[repr(C)]
struct MmioExit {
    phys_addr: u64,
    data: [u8; 8],
    len: u32,
    is_write: u8,
}

/// `arm_nisv` of `struct kvm_run`.
#[repr(C)]
struct NisvExit {
    esr_iss: u64,
    fault_ipa: u64,
}

/// The first IPA that no CPU of this machine can have.
fn address_limit() -> u64 {
    const BITS: [u32; 7] = [32, 36, 40, 42, 44, 48, 52];
    let range = idreg::field(probe::sanitised(probe::SYS_ID_AA64MMFR0_EL1), 0);
    1 << BITS.get(range as usize).copied().unwrap_or(52)
}

/// An abort at `ipa`, where there is no memory, or none for this access.
///
/// # Errors
///
/// `ENOSYS` if the hardware does not describe the instruction and user space does not want to find out by itself.
pub(crate) fn abort(active: &mut Active<'_>, ipa: u64) -> Result<Next> {
    let esr = active.context().exit.esr;
    let fetch = events::is_fetch(active);
    if ipa >= 1 << active.vm.ipa_bits() {
        if ipa >= address_limit() {
            events::inject_size_fault(active, fetch);
        } else {
            events::inject_external_abort(active, fetch);
        }
        return Ok(Next::Resume);
    }
    if fetch || esr & S1PTW != 0 {
        // Nobody can emulate the fetch of an instruction or of a descriptor.
        events::inject_external_abort(active, fetch);
        return Ok(Next::Resume);
    }
    if esr & CM != 0 {
        // What is not there is not cached either.
        active.advance_pc();
        return Ok(Next::Resume);
    }
    match Access::decode(esr) {
        Some(access) => emulate(active, ipa, access),
        None => undescribed(active, ipa),
    }
}

fn emulate(active: &mut Active<'_>, ipa: u64, access: Access) -> Result<Next> {
    let context = active.context();
    let big_endian = exception::is_big_endian(context);
    let data = if access.write {
        access.stored(regs::x(context, access.register), big_endian)
    } else {
        [0; 8]
    };
    let taken = access.write
        && data
            .get(..usize::from(access.bytes))
            .is_some_and(|data| active.vm.io_write(ipa, data));
    if taken {
        active.vcpu.counters.add(VcpuStat::MmioKernel);
        active.advance_pc();
        return Ok(Next::Resume);
    }
    active.vcpu.counters.add(VcpuStat::MmioUser);
    let run = active.run();
    let exit = run.exit_data::<MmioExit>();
    // SAFETY: The union has room for it, in a page that is alive; user space may write there too, so no reference is made. A
    // load leaves `data` alone, as the kernel's KVM does.
    unsafe {
        (&raw mut (*exit).phys_addr).write_volatile(ipa);
        (&raw mut (*exit).len).write_volatile(u32::from(access.bytes));
        (&raw mut (*exit).is_write).write_volatile(u8::from(access.write));
        if access.write {
            (&raw mut (*exit).data).write_volatile(data);
        }
    }
    run.set_exit(bindings::KVM_EXIT_MMIO);
    active.state_mut().arch.mmio = Some(Pending { access, big_endian });
    Ok(Next::ToUser)
}

fn undescribed(active: &mut Active<'_>, ipa: u64) -> Result<Next> {
    if !active.vm.arch().has(Flag::NisvToUser) {
        return Err(Error::from_errno(-(bindings::ENOSYS as i32)));
    }
    let run = active.run();
    let exit = run.exit_data::<NisvExit>();
    let iss = mmio::sanitised_iss(active.context().exit.esr);
    // SAFETY: As in `emulate`.
    unsafe {
        (&raw mut (*exit).esr_iss).write_volatile(iss);
        (&raw mut (*exit).fault_ipa).write_volatile(ipa);
    }
    run.set_exit(bindings::KVM_EXIT_ARM_NISV);
    Ok(Next::ToUser)
}

/// KVM_RUN after KVM_EXIT_MMIO: the access is over. Nothing happens if user space has injected an exception instead.
///
/// # Errors
///
/// None; the caller treats it like the other steps of KVM_RUN.
pub(crate) fn complete(active: &mut Active<'_>) -> Result {
    let Some(Pending { access, big_endian }) = active.state_mut().arch.mmio.take() else {
        return Ok(());
    };
    if !access.write {
        let exit = active.run().exit_data::<MmioExit>();
        // SAFETY: As in `emulate`: read once.
        let data = unsafe { (&raw const (*exit).data).read_volatile() };
        let value = access.loaded(data, big_endian);
        regs::set_x(active.context_mut(), access.register, value);
    }
    active.advance_pc();
    Ok(())
}
