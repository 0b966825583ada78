// SPDX-License-Identifier: GPL-2.0-only

//! Host: the file descriptor of a vCPU.
//!
//! Behaviour as `virt/kvm/kvm_main.c` of Linux (`kvm_vcpu_ioctl`, `kvm_vcpu_mmap`).

use kernel::{
    error::from_result,
    ffi::{
        c_int,
        c_long,
        c_uint,
        c_ulong,
        c_void, //
    },
    ioctl::{
        _IO,
        _IOC_TYPE,
        _IOW, //
    },
    prelude::*,
    str::CString,
    sync::Arc,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use super::{
    regs,
    run,
    stats,
    vcpu::{
        Active,
        Vcpu, //
    },
    vm::Vm, //
};
use crate::{
    bindings,
    host::{
        inject,
        THIS_MODULE, //
    },
};

/// What a file's private data points to.
struct Owner {
    vm: Arc<Vm>,
    vcpu: Arc<Vcpu>,
}

/// In a static, as the kernel wants it.
struct Operations(bindings::file_operations);

// SAFETY: The kernel only reads it.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(bindings::file_operations {
    owner: THIS_MODULE,
    unlocked_ioctl: Some(ioctl),
    compat_ioctl: Some(compat_ioctl),
    mmap: Some(mmap),
    release: Some(release),
    llseek: Some(bindings::noop_llseek),
    ..pin_init::zeroed()
});

/// KVM_CREATE_VCPU.
///
/// # Errors
///
/// As the VM says about `id`; `ENOMEM`, `EMFILE`.
pub(crate) fn create(vm: &Arc<Vm>, id: c_ulong) -> Result<c_int> {
    vm.add_vcpu(
        id,
        |id, index| Vcpu::new(vm.service().clone(), id, index),
        |vcpu| new_file(vm.clone(), vcpu.clone()),
    )
}

fn new_file(vm: Arc<Vm>, vcpu: Arc<Vcpu>) -> Result<c_int> {
    inject::step("the name of the file of a vCPU")?;
    let name = CString::try_from_fmt(fmt!("kvm-vcpu:{}", vcpu.id()))?;
    let owner = KBox::new(Owner { vm, vcpu }, inject::account("the owner of a vCPU")?)?;
    inject::step("the file of a vCPU")?;
    let owner = KBox::into_raw(owner);
    // SAFETY: The name is copied, the operations live as long as the module, which the file keeps loaded.
    let fd = unsafe {
        bindings::anon_inode_getfd(
            name.as_char_ptr(),
            &OPERATIONS.0,
            owner.cast(),
            (bindings::O_RDWR | bindings::O_CLOEXEC) as c_int,
        )
    };
    if fd < 0 {
        // SAFETY: No file has been made, so this is still the only pointer.
        drop(unsafe { KBox::from_raw(owner) });
        return Err(Error::from_errno(fd));
    }
    Ok(fd)
}

/// The owner of an open file.
///
/// # Safety
///
/// `file` is one of [`new_file`]'s and stays open while the result is used.
unsafe fn owner<'a>(file: *mut bindings::file) -> &'a Owner {
    // SAFETY: `new_file` has made the private data from a `KBox<Owner>`, and `release` has not run.
    unsafe { &*(*file).private_data.cast::<Owner>() }
}

/// # Safety
///
/// Called by the kernel for a file of [`new_file`].
unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: As for `owner`; the kernel calls this once, and nothing else after it.
    drop(unsafe { KBox::from_raw((*file).private_data.cast::<Owner>()) });
    0
}

/// A 32-bit process has no business with a 64-bit vCPU.
extern "C" fn compat_ioctl(_file: *mut bindings::file, _cmd: c_uint, _arg: c_ulong) -> c_long {
    EINVAL.to_errno() as c_long
}

/// # Safety
///
/// Called by the kernel for a file of [`new_file`].
unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
    // SAFETY: By the contract.
    let owner = unsafe { owner(file) };
    from_result(|| dispatch(owner, cmd, arg))
}

/// KVMIO of the uAPI.
const KVMIO: u32 = 0xae;
const KVM_GET_STATS_FD: u32 = _IO(KVMIO, 0xce);
const KVM_RUN: u32 = _IO(KVMIO, 0x80);
const KVM_SET_SIGNAL_MASK: u32 = _IOW::<bindings::kvm_signal_mask>(KVMIO, 0x8b);

fn dispatch(owner: &Owner, cmd: u32, arg: usize) -> Result<c_long> {
    owner.vm.check_mm()?;
    if _IOC_TYPE(cmd) != KVMIO {
        return Err(EINVAL);
    }
    if cmd == KVM_GET_STATS_FD {
        let fd = stats::vcpu_file(owner.vm.clone(), owner.vcpu.clone())?;
        return Ok(fd as c_long);
    }
    let mut active = owner.vcpu.lock(&owner.vm)?;
    match cmd {
        KVM_RUN if arg != 0 => Err(EINVAL),
        KVM_RUN => run::run(&mut active).map(|()| 0),
        KVM_SET_SIGNAL_MASK => set_signal_mask(&mut active, arg).map(|()| 0),
        _ => regs::vcpu_ioctl(&mut active, cmd, arg),
    }
}

/// KVM_SET_SIGNAL_MASK: `arg` points to a length and that many bytes of a mask, or is 0 for none.
fn set_signal_mask(active: &mut Active<'_>, arg: usize) -> Result {
    if arg == 0 {
        active.state_mut().sigmask = None;
        return Ok(());
    }
    const LENGTH: usize = size_of::<bindings::sigset_t>();
    let mut reader = UserSlice::new(UserPtr::from_addr(arg), size_of::<u32>() + LENGTH).reader();
    if reader.read::<u32>()? as usize != LENGTH {
        return Err(EINVAL);
    }
    let unblockable = (1u64 << (bindings::SIGKILL - 1)) | (1u64 << (bindings::SIGSTOP - 1));
    let mask = reader.read::<u64>()? & !unblockable;
    active.state_mut().sigmask = Some(bindings::sigset_t {
        sig: [mask as usize],
    });
    Ok(())
}

/// Maps `struct kvm_run` at offset 0 and the ring of coalesced MMIO behind it. What lies beyond is mapped by nothing and
/// gives SIGBUS, as with the kernel's own KVM.
///
/// # Safety
///
/// Called by the kernel for a file of [`new_file`], with the area being set up.
unsafe extern "C" fn mmap(file: *mut bindings::file, vma: *mut bindings::vm_area_struct) -> c_int {
    // SAFETY: By the contract.
    let owner = unsafe { owner(file) };
    let pages = [owner.vcpu.run_page(), owner.vm.coalesced_page()];
    from_result(|| {
        for (offset, page) in pages.into_iter().enumerate() {
            // SAFETY: By the contract; the page is alive.
            unsafe { insert(vma, offset, page) }?;
        }
        Ok(0)
    })
}

/// Puts `page`, which stands at `offset` pages in the file, in the area, if the area has that offset.
///
/// # Safety
///
/// `vma` is being set up by mmap, and `page` is allocated, on its own.
unsafe fn insert(
    vma: *mut bindings::vm_area_struct,
    offset: usize,
    page: *mut bindings::page,
) -> Result {
    // SAFETY: By the contract.
    let (start, end, first) = unsafe {
        let range = (*vma).__bindgen_anon_1.__bindgen_anon_1;
        (range.vm_start, range.vm_end, (*vma).vm_pgoff)
    };
    let address = offset
        .checked_sub(first)
        .and_then(|place| place.checked_mul(bindings::PAGE_SIZE))
        .and_then(|bytes| start.checked_add(bytes));
    match address {
        Some(address) if address < end => {
            inject::step("a page of a vCPU in user space")?;
            // SAFETY: By the contract; the address is inside the area. The kernel takes a reference of its own.
            kernel::error::to_result(unsafe { bindings::vm_insert_page(vma, address, page) })
        }
        _ => Ok(()),
    }
}

/// The kernel's `void *` of a file is one of these.
const _: () = assert!(size_of::<*mut c_void>() == size_of::<*mut Owner>());
