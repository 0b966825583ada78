// SPDX-License-Identifier: GPL-2.0-only

//! Host: KVM_GET_STATS_FD: what is counted, in the self-describing form of the uAPI.
//!
//! A file of statistics is a header, an identification, descriptors and the counters, one after the other.
//!
//! Source: `Documentation/virt/kvm/api.rst` of Linux, 4.133; behaviour as `virt/kvm/binary_stats.c`.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::{
    error::{
        from_err_ptr,
        from_result, //
    },
    ffi::{
        c_char,
        c_int, //
    },
    prelude::*,
    str::CString,
    sync::Arc, //
};

use super::{
    vcpu::Vcpu,
    vm::Vm, //
};
use crate::{
    bindings,
    host::{
        inject,
        THIS_MODULE, //
    },
};

/// Size of a name (`KVM_STATS_NAME_SIZE`).
const NAME_BYTES: usize = 48;

/// What is counted per VM.
#[derive(Clone, Copy)]
pub(super) enum VmStat {
    /// Invalidations of TLBs that stage 2 has asked for.
    TlbFlushes,
    /// Stage-2 faults that were resolved from user memory.
    Faults,
}

/// What is counted per vCPU.
#[derive(Clone, Copy)]
pub(crate) enum VcpuStat {
    /// Exits from the guest.
    Exits,
    /// HVC.
    Hvc,
    /// WFE.
    Wfe,
    /// WFI.
    Wfi,
    /// MMIO that user space completes.
    MmioUser,
    /// MMIO that nobody else need know of.
    MmioKernel,
    /// KVM_RUN returned because of a signal.
    Signals,
}

const VM_NAMES: [&CStr; 2] = [c"remote_tlb_flush", c"stage2_faults"];

const VCPU_NAMES: [&CStr; 7] = [
    c"exits",
    c"hvc_exit_stat",
    c"wfe_exit_stat",
    c"wfi_exit_stat",
    c"mmio_exit_user",
    c"mmio_exit_kernel",
    c"signal_exits",
];

/// Counters of a VM.
#[derive(Default)]
pub(super) struct VmCounters([AtomicU64; VM_NAMES.len()]);

impl VmCounters {
    /// All of them, in the order of [`VmStat`].
    pub(super) fn values(&self) -> [u64; VM_NAMES.len()] {
        self.0
            .each_ref()
            .map(|counter| counter.load(Ordering::Relaxed))
    }

    /// Counts one.
    #[inline]
    pub(super) fn add(&self, stat: VmStat) {
        if let Some(counter) = self.0.get(stat as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Counters of a vCPU.
#[derive(Default)]
pub(crate) struct VcpuCounters([AtomicU64; VCPU_NAMES.len()]);

impl VcpuCounters {
    /// Counts one. Only the thread that has the vCPU's mutex counts, so there is no need for an atomic addition.
    #[inline]
    pub(crate) fn add(&self, stat: VcpuStat) {
        if let Some(counter) = self.0.get(stat as usize) {
            counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }
}

/// Whose counters a file has.
enum Subject {
    Vm(Arc<Vm>),
    Vcpu {
        vcpu: Arc<Vcpu>,
        /// The VM lives as long as the file does, as with the kernel's own KVM.
        _vm: Arc<Vm>,
    },
}

impl Subject {
    fn names(&self) -> &'static [&'static CStr] {
        match self {
            Self::Vm(_) => &VM_NAMES,
            Self::Vcpu { .. } => &VCPU_NAMES,
        }
    }

    fn counters(&self) -> &[AtomicU64] {
        match self {
            Self::Vm(vm) => &vm.stage2().counters().0,
            Self::Vcpu { vcpu, .. } => &vcpu.counters.0,
        }
    }
}

/// What a file's private data points to.
struct Stats {
    subject: Subject,
    /// Everything but the counters.
    head: KVVec<u8>,
}

/// In a static, as the kernel wants it.
struct Operations(bindings::file_operations);

// SAFETY: The kernel only reads it.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(bindings::file_operations {
    owner: THIS_MODULE,
    read: Some(read),
    release: Some(release),
    llseek: Some(bindings::noop_llseek),
    ..pin_init::zeroed()
});

/// KVM_GET_STATS_FD of a VM.
///
/// # Errors
///
/// `ENOMEM`, `EMFILE`.
pub(super) fn vm_file(vm: Arc<Vm>) -> Result<c_int> {
    inject::step("the name of the file with the statistics of a VM")?;
    let name = CString::try_from_fmt(fmt!("kvm-vm-stats"))?;
    inject::step("the name of a VM in its statistics")?;
    let id = CString::try_from_fmt(fmt!("kvm-{}", kernel::current!().pid()))?;
    new_file(&name, &id, Subject::Vm(vm))
}

/// KVM_GET_STATS_FD of a vCPU.
///
/// # Errors
///
/// As [`vm_file`].
pub(crate) fn vcpu_file(vm: Arc<Vm>, vcpu: Arc<Vcpu>) -> Result<c_int> {
    let number = vcpu.id();
    inject::step("the name of the file with the statistics of a vCPU")?;
    let name = CString::try_from_fmt(fmt!("kvm-vcpu-stats:{number}"))?;
    inject::step("the name of a vCPU in its statistics")?;
    let id = CString::try_from_fmt(fmt!("kvm-{}/vcpu-{number}", kernel::current!().pid()))?;
    new_file(&name, &id, Subject::Vcpu { vcpu, _vm: vm })
}

fn new_file(name: &CStr, id: &CStr, subject: Subject) -> Result<c_int> {
    let head = head(id, subject.names())?;
    let stats = Stats { subject, head };
    let stats = KBox::new(stats, inject::account("the statistics of a file")?)?;
    inject::step("the number of the file with the statistics")?;
    // SAFETY: Nothing is passed but flags.
    let fd = unsafe { bindings::get_unused_fd_flags(bindings::O_CLOEXEC) };
    if fd < 0 {
        return Err(Error::from_errno(fd));
    }
    let stats = KBox::into_raw(stats);
    let file = inject::step("the file with the statistics").and_then(|()| {
        // SAFETY: The name is copied, the operations live as long as the module, which the file keeps loaded.
        from_err_ptr(unsafe {
            bindings::anon_inode_getfile_fmode(
                name.as_char_ptr(),
                &OPERATIONS.0,
                stats.cast(),
                bindings::O_RDONLY as c_int,
                FMODE_PREAD,
            )
        })
    });
    match file {
        Ok(file) => {
            // SAFETY: Both are fresh.
            unsafe { bindings::fd_install(fd as u32, file) };
            Ok(fd)
        }
        Err(error) => {
            // SAFETY: No file has been made, so this is still the only pointer, and nobody uses the number.
            unsafe {
                drop(KBox::from_raw(stats));
                bindings::put_unused_fd(fd as u32);
            }
            Err(error)
        }
    }
}

/// FMODE_PREAD of `include/linux/fs.h`: pread works.
const FMODE_PREAD: bindings::fmode_t = 1 << 3;

/// Header, identification and descriptors.
fn head(id: &CStr, names: &[&CStr]) -> Result<KVVec<u8>> {
    let header_bytes = size_of::<bindings::kvm_stats_header>();
    let id_offset = header_bytes;
    let descriptors_offset = id_offset + NAME_BYTES;
    let data_offset = descriptors_offset + names.len() * size_of::<bindings::kvm_stats_desc>();
    let flags = inject::account("the header of statistics")?;
    let mut head = KVVec::with_capacity(data_offset, flags)?;
    let mut put = |bytes: &[u8]| head.extend_from_slice(bytes, flags);
    for word in [
        0,
        NAME_BYTES as u32,
        names.len() as u32,
        id_offset as u32,
        descriptors_offset as u32,
        data_offset as u32,
    ] {
        put(&word.to_ne_bytes())?;
    }
    put(&padded(id))?;
    let flags = bindings::KVM_STATS_TYPE_CUMULATIVE | bindings::KVM_STATS_UNIT_NONE;
    for (number, name) in names.iter().enumerate() {
        put(&flags.to_ne_bytes())?;
        // Exponent 0, one value.
        put(&0i16.to_ne_bytes())?;
        put(&1u16.to_ne_bytes())?;
        put(&((number * size_of::<u64>()) as u32).to_ne_bytes())?;
        // No buckets.
        put(&0u32.to_ne_bytes())?;
        put(&padded(name))?;
    }
    Ok(head)
}

/// `name`, cut to leave room for a 0 at the end.
fn padded(name: &CStr) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    for (place, byte) in bytes.iter_mut().take(NAME_BYTES - 1).zip(name.to_bytes()) {
        *place = *byte;
    }
    bytes
}

const _: () = assert!(size_of::<bindings::kvm_stats_header>() == 6 * size_of::<u32>());
const _: () = assert!(size_of::<bindings::kvm_stats_desc>() == 16 + NAME_BYTES);

/// # Safety
///
/// Called by the kernel for a file of [`new_file`].
unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: `new_file` has made the private data from a `KBox<Stats>`. The kernel calls this once, and nothing else after it.
    drop(unsafe { KBox::from_raw((*file).private_data.cast::<Stats>()) });
    0
}

/// # Safety
///
/// As for [`release`]; `buffer` is of user space, and `position` belongs to this call.
unsafe extern "C" fn read(
    file: *mut bindings::file,
    buffer: *mut c_char,
    count: usize,
    position: *mut bindings::loff_t,
) -> isize {
    // SAFETY: As for `release`, which has not run.
    let stats = unsafe { &*(*file).private_data.cast::<Stats>() };
    from_result(|| {
        let counters = stats.subject.counters();
        let bytes = stats.head.len() + counters.len() * size_of::<u64>();
        let flags = inject::kernel("a copy of statistics")?;
        let mut all = KVVec::with_capacity(bytes, flags)?;
        all.extend_from_slice(&stats.head, flags)?;
        for counter in counters {
            let value = counter.load(Ordering::Relaxed);
            all.extend_from_slice(&value.to_ne_bytes(), flags)?;
        }
        // SAFETY: By the contract; all of `all` is there.
        Ok(unsafe {
            bindings::simple_read_from_buffer(
                buffer.cast(),
                count,
                position,
                all.as_ptr().cast(),
                all.len(),
            )
        })
    })
}
