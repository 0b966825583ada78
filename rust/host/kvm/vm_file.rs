// SPDX-License-Identifier: GPL-2.0-only

//! Host: the file descriptor of a VM.
//!
//! Behaviour as `kvm_vm_ioctl` of `virt/kvm/kvm_main.c` of Linux.

use kernel::{
    error::from_result,
    ffi::{
        c_int,
        c_long,
        c_uint,
        c_ulong, //
    },
    ioctl::{
        _IO,
        _IOW,
        _IOWR, //
    },
    prelude::*,
    sync::Arc,
    transmute::FromBytes,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use super::{
    attrs,
    caps,
    memory::{
        ClearLog,
        Log,
        Region, //
    },
    stats,
    system::System,
    vcpu_file,
    vm::Vm, //
};
use crate::{
    bindings,
    host::{
        inject,
        THIS_MODULE, //
    },
};

/// KVMIO of the uAPI.
const KVMIO: u32 = 0xae;
const CHECK_EXTENSION: u32 = _IO(KVMIO, 0x03);
const CREATE_VCPU: u32 = _IO(KVMIO, 0x41);
const GET_DIRTY_LOG: u32 = _IOW::<bindings::kvm_dirty_log>(KVMIO, 0x42);
const SET_USER_MEMORY_REGION: u32 = _IOW::<bindings::kvm_userspace_memory_region>(KVMIO, 0x46);
const SET_USER_MEMORY_REGION2: u32 = _IOW::<bindings::kvm_userspace_memory_region2>(KVMIO, 0x49);
const REGISTER_COALESCED_MMIO: u32 = _IOW::<bindings::kvm_coalesced_mmio_zone>(KVMIO, 0x67);
const UNREGISTER_COALESCED_MMIO: u32 = _IOW::<bindings::kvm_coalesced_mmio_zone>(KVMIO, 0x68);
const IOEVENTFD: u32 = _IOW::<bindings::kvm_ioeventfd>(KVMIO, 0x79);
const ENABLE_CAP: u32 = _IOW::<bindings::kvm_enable_cap>(KVMIO, 0xa3);
const CLEAR_DIRTY_LOG: u32 = _IOWR::<bindings::kvm_clear_dirty_log>(KVMIO, 0xc0);
const GET_STATS_FD: u32 = _IO(KVMIO, 0xce);

/// In a static, as the kernel wants it.
struct Operations(bindings::file_operations);

// SAFETY: The kernel only reads it.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(bindings::file_operations {
    owner: THIS_MODULE,
    unlocked_ioctl: Some(ioctl),
    compat_ioctl: Some(compat_ioctl),
    release: Some(release),
    llseek: Some(bindings::noop_llseek),
    ..pin_init::zeroed()
});

/// KVM_CREATE_VM.
///
/// # Errors
///
/// `EINVAL` for the machine type, `ENOMEM`, `EMFILE`.
pub(super) fn create(system: &Arc<System>, machine_type: c_ulong) -> Result<c_int> {
    let vm = Vm::new(system, machine_type)?;
    inject::step("the file of a VM")?;
    let vm = Arc::into_raw(vm);
    // SAFETY: The name is copied, the operations live as long as the module, which the file keeps loaded.
    let fd = unsafe {
        bindings::anon_inode_getfd(
            c"kvm-vm".as_char_ptr(),
            &OPERATIONS.0,
            vm.cast_mut().cast(),
            (bindings::O_RDWR | bindings::O_CLOEXEC) as c_int,
        )
    };
    if fd < 0 {
        // SAFETY: No file has been made, so the reference is still ours.
        drop(unsafe { Arc::from_raw(vm) });
        return Err(Error::from_errno(fd));
    }
    Ok(fd)
}

/// # Safety
///
/// Called by the kernel for a file of [`create`].
unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: The private data is the reference that `create` gave away. The kernel calls this once, and nothing else after it.
    drop(unsafe { Arc::from_raw((*file).private_data.cast::<Vm>()) });
    0
}

/// A 32-bit process has no business with a 64-bit VM.
extern "C" fn compat_ioctl(_file: *mut bindings::file, _cmd: c_uint, _arg: c_ulong) -> c_long {
    EINVAL.to_errno() as c_long
}

/// # Safety
///
/// Called by the kernel for a file of [`create`].
unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
    // SAFETY: The file holds a reference for as long as it is open, so for the duration of this.
    let vm = unsafe { kernel::sync::ArcBorrow::from_raw((*file).private_data.cast::<Vm>()) };
    from_result(|| dispatch(&Arc::from(vm), cmd, arg))
}

fn dispatch(vm: &Arc<Vm>, cmd: u32, arg: usize) -> Result<c_long> {
    vm.check_mm()?;
    match cmd {
        CREATE_VCPU => vcpu_file::create(vm, arg).map(|fd| fd as c_long),
        SET_USER_MEMORY_REGION => vm.set_region(&Region::from_v1(read(arg)?)?).map(|()| 0),
        SET_USER_MEMORY_REGION2 => vm.set_region(&Region::from_v2(read(arg)?)).map(|()| 0),
        GET_DIRTY_LOG => vm.get_dirty_log(&read::<Log>(arg)?).map(|()| 0),
        CLEAR_DIRTY_LOG => vm.clear_dirty_log(&read::<ClearLog>(arg)?).map(|()| 0),
        REGISTER_COALESCED_MMIO => vm.bus.add_zone(&read(arg)?).map(|()| 0),
        UNREGISTER_COALESCED_MMIO => vm.bus.remove_zones(&read(arg)?).map(|()| 0),
        IOEVENTFD => vm.bus.ioeventfd(&read(arg)?).map(|()| 0),
        GET_STATS_FD => stats::vm_file(vm.clone()).map(|fd| fd as c_long),
        ENABLE_CAP => caps::enable(vm, &read(arg)?),
        CHECK_EXTENSION => caps::check(vm.system(), Some(vm), arg),
        _ => attrs::vm_ioctl(vm, cmd, arg),
    }
}

/// Reads the argument of a call.
///
/// # Errors
///
/// `EFAULT`.
pub(super) fn read<T: FromBytes>(arg: usize) -> Result<T> {
    UserSlice::new(UserPtr::from_addr(arg), size_of::<T>())
        .reader()
        .read()
}
