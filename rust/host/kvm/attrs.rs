// SPDX-License-Identifier: GPL-2.0-only

//! Host: what the vCPUs of a VM have in common besides memory, and the VM's calls that configure it.
//!
//! Most of it is fixed once a vCPU has run. It is changed under one mutex; what the run loop reads is atomic.
//!
//! Source: `Documentation/virt/kvm/{api,devices/vm}.rst` of Linux; behaviour as `arch/arm64/kvm/{arm,hypercalls}.c`.

use core::sync::atomic::{
    AtomicU32,
    AtomicU64,
    Ordering, //
};

use kernel::{
    ffi::c_long,
    ioctl::{
        _IO,
        _IOR,
        _IOW,
        _IOWR, //
    },
    new_mutex,
    prelude::*,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Mutex, //
    },
};

use super::{
    config,
    debug,
    regs::{
        self,
        id::IdRegs,
        user, //
    },
    vcpu::Request,
    vm::Vm, //
};
use crate::{
    arch::sysreg,
    bindings,
    common::{
        idreg,
        smccc::{
            self,
            Action,
            Filter, //
        },
    },
    host::{
        inject,
        probe, //
    },
};

/// What KVM_ENABLE_CAP has switched on, and what else has happened to a VM. One bit each.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Flag {
    /// KVM_CAP_ARM_NISV_TO_USER.
    NisvToUser = 0,
    /// KVM_CAP_ARM_SYSTEM_SUSPEND.
    SystemSuspend = 1,
    /// KVM_CAP_ARM_WRITABLE_IMP_ID_REGS.
    WritableImplementation = 2,
    /// KVM_ARM_SET_COUNTER_OFFSET: writes of the counters no longer move them.
    FixedCounters = 3,
    /// A vCPU has run.
    HasRun = 4,
    /// There is a filter of SMCCC calls.
    Filtered = 5,
}

/// The bitmaps of firmware features, in the order of their register IDs.
pub(crate) const BITMAPS: usize = 4;

/// What every bitmap may have.
pub(crate) const BITMAP_LIMITS: [u64; BITMAPS] = [
    1 << bindings::KVM_REG_ARM_STD_BIT_TRNG_V1_0,
    1 << bindings::KVM_REG_ARM_STD_HYP_BIT_PV_TIME,
    (1 << bindings::KVM_REG_ARM_VENDOR_HYP_BIT_FUNC_FEAT)
        | (1 << bindings::KVM_REG_ARM_VENDOR_HYP_BIT_PTP),
    (1 << bindings::KVM_REG_ARM_VENDOR_HYP_BIT_DISCOVER_IMPL_VER)
        | (1 << bindings::KVM_REG_ARM_VENDOR_HYP_BIT_DISCOVER_IMPL_CPUS),
];

/// What [`VmArch::config`] protects.
pub(crate) struct Config {
    /// Bitmap of `KVM_ARM_VCPU_*` that all vCPUs have; the first KVM_ARM_VCPU_INIT decides.
    pub(crate) features: Option<u64>,
    /// See [`IdRegs`].
    pub(crate) ids: IdRegs,
    filters: KVec<Filter>,
}

/// See the module.
#[pin_data]
pub(crate) struct VmArch {
    #[pin]
    config: Mutex<Config>,
    flags: AtomicU32,
    /// What user space has chosen; 0 if nothing.
    psci_version: AtomicU32,
    bitmaps: [AtomicU64; BITMAPS],
    /// What the virtual counter is behind the physical one.
    virtual_offset: AtomicU64,
    /// What the guest's physical counter is behind the CPU's.
    physical_offset: AtomicU64,
}

impl VmArch {
    /// Of a new VM. Its virtual counter starts now.
    pub(crate) fn new() -> impl PinInit<Self> {
        let [standard, standard_hyp, vendor, _] = BITMAP_LIMITS;
        pin_init!(Self {
            config <- new_mutex!(Config {
                features: None,
                ids: IdRegs::new(),
                filters: KVec::new(),
            }),
            flags: AtomicU32::new(0),
            psci_version: AtomicU32::new(0),
            // What came with the second half of the vendor's numbers must be asked for.
            bitmaps: [standard, standard_hyp, vendor, 0].map(AtomicU64::new),
            virtual_offset: AtomicU64::new(sysreg::cntpct()),
            physical_offset: AtomicU64::new(0),
        })
    }

    /// Takes the mutex.
    pub(crate) fn config(&self) -> Guard<'_, Config, MutexBackend> {
        self.config.lock()
    }

    /// Whether `flag` is set.
    #[inline]
    pub(crate) fn has(&self, flag: Flag) -> bool {
        self.flags.load(Ordering::Relaxed) & (1 << flag as u32) != 0
    }

    /// Sets `flag`, for ever.
    pub(crate) fn set(&self, flag: Flag) {
        self.flags.fetch_or(1 << flag as u32, Ordering::Relaxed);
    }

    /// The PSCI version that user space has chosen.
    pub(crate) fn psci_version(&self) -> Option<u32> {
        Some(self.psci_version.load(Ordering::Relaxed)).filter(|version| *version != 0)
    }

    /// Chooses a PSCI version.
    pub(crate) fn set_psci_version(&self, version: u32) {
        self.psci_version.store(version, Ordering::Relaxed);
    }

    /// A bitmap of firmware features, by its place.
    pub(crate) fn bitmap(&self, place: usize) -> u64 {
        self.bitmaps
            .get(place)
            .map_or(0, |bitmap| bitmap.load(Ordering::Relaxed))
    }

    /// Changes a bitmap of firmware features.
    ///
    /// # Errors
    ///
    /// `EINVAL` for what there is not, `EBUSY` for a change once a vCPU has run.
    pub(crate) fn set_bitmap(&self, place: usize, value: u64) -> Result {
        let (Some(bitmap), Some(limit)) = (self.bitmaps.get(place), BITMAP_LIMITS.get(place))
        else {
            return Err(ENOENT);
        };
        if value & !limit != 0 {
            return Err(EINVAL);
        }
        let _config = self.config();
        if self.has(Flag::HasRun) && value != bitmap.load(Ordering::Relaxed) {
            return Err(EBUSY);
        }
        bitmap.store(value, Ordering::Relaxed);
        Ok(())
    }

    /// CNTVOFF_EL2 of every vCPU.
    #[inline]
    pub(crate) fn virtual_offset(&self) -> u64 {
        self.virtual_offset.load(Ordering::Relaxed)
    }

    /// See [`Self::virtual_offset`].
    pub(crate) fn set_virtual_offset(&self, offset: u64) {
        self.virtual_offset.store(offset, Ordering::Relaxed);
    }

    /// What the guest's CNTPCT_EL0 is behind the CPU's. If it is not 0, CNTPCT_EL0 traps.
    #[inline]
    pub(crate) fn physical_offset(&self) -> u64 {
        self.physical_offset.load(Ordering::Relaxed)
    }

    /// See [`Self::physical_offset`].
    pub(crate) fn set_physical_offset(&self, offset: u64) {
        self.physical_offset.store(offset, Ordering::Relaxed);
    }

    /// What user space has decided about this SMCCC function.
    #[inline]
    pub(crate) fn filtered(&self, function: u32) -> Action {
        if !self.has(Flag::Filtered) {
            return Action::Handle;
        }
        smccc::decide(&self.config().filters, function)
    }

    fn add_filter(&self, filter: Filter) -> Result {
        let mut config = self.config();
        if self.has(Flag::HasRun) {
            return Err(EBUSY);
        }
        if !filter.is_free(&config.filters) {
            return Err(EEXIST);
        }
        let flags = inject::account("a filter of SMCCC functions")?;
        config.filters.push(filter, flags)?;
        self.set(Flag::Filtered);
        Ok(())
    }
}

const KVMIO: u32 = 0xae;
const CREATE_IRQCHIP: u32 = _IO(KVMIO, 0x60);
const IRQ_LINE: u32 = _IOW::<bindings::kvm_irq_level>(KVMIO, 0x61);
const IRQ_LINE_STATUS: u32 = _IOWR::<bindings::kvm_irq_level>(KVMIO, 0x67);
const ARM_SET_DEVICE_ADDR: u32 = _IOW::<bindings::kvm_arm_device_addr>(KVMIO, 0xab);
const ARM_PREFERRED_TARGET: u32 = _IOR::<bindings::kvm_vcpu_init>(KVMIO, 0xaf);
const ARM_SET_COUNTER_OFFSET: u32 = _IOW::<bindings::kvm_arm_counter_offset>(KVMIO, 0xb5);
const ARM_GET_REG_WRITABLE_MASKS: u32 = _IOR::<bindings::reg_mask_range>(KVMIO, 0xb6);
const CREATE_DEVICE: u32 = _IOWR::<bindings::kvm_create_device>(KVMIO, 0xe0);
pub(super) const SET_DEVICE_ATTR: u32 = _IOW::<bindings::kvm_device_attr>(KVMIO, 0xe1);
pub(super) const GET_DEVICE_ATTR: u32 = _IOW::<bindings::kvm_device_attr>(KVMIO, 0xe2);
pub(super) const HAS_DEVICE_ATTR: u32 = _IOW::<bindings::kvm_device_attr>(KVMIO, 0xe3);

/// The VM's ioctls that are not about memory, vCPUs and events.
///
/// # Errors
///
/// As the API says; `EINVAL` for what there is not.
pub(crate) fn vm_ioctl(vm: &Vm, cmd: u32, arg: usize) -> Result<c_long> {
    match cmd {
        ARM_PREFERRED_TARGET => {
            let mut init = [0; 32];
            init[..4].copy_from_slice(&bindings::KVM_ARM_TARGET_GENERIC_V8.to_ne_bytes());
            user::write(arg as u64, &init)?;
        }
        HAS_DEVICE_ATTR => user::Attr::read(arg).and_then(|attr| has_attr(&attr))?,
        SET_DEVICE_ATTR => user::Attr::read(arg).and_then(|attr| set_attr(vm, &attr))?,
        ARM_GET_REG_WRITABLE_MASKS => regs::id::writable_masks(arg)?,
        ARM_SET_COUNTER_OFFSET => set_counter_offset(vm, arg)?,
        IRQ_LINE | IRQ_LINE_STATUS => {
            let [irq, level] = user::read_words::<2>(arg)?;
            irq_line(vm, irq, level != 0)?;
            if cmd == IRQ_LINE_STATUS {
                user::write(arg as u64, &irq.to_ne_bytes())?;
            }
        }
        CREATE_IRQCHIP => return Err(ENXIO),
        CREATE_DEVICE => {
            // There are no types of devices.
            user::read::<{ size_of::<bindings::kvm_create_device>() }>(arg as u64)?;
            return Err(ENODEV);
        }
        ARM_SET_DEVICE_ADDR => {
            let [id, _] = user::read_longs::<2>(arg)?;
            // Bits 31:16: 0 is the GICv2, which there is not.
            return Err(if (id >> 16) & 0xffff == 0 {
                ENXIO
            } else {
                ENODEV
            });
        }
        _ => return Err(EINVAL),
    }
    Ok(0)
}

fn has_attr(attr: &user::Attr) -> Result {
    if attr.group == bindings::KVM_ARM_VM_SMCCC_CTRL
        && attr.attr == u64::from(bindings::KVM_ARM_VM_SMCCC_FILTER)
    {
        Ok(())
    } else {
        Err(ENXIO)
    }
}

fn set_attr(vm: &Vm, attr: &user::Attr) -> Result {
    has_attr(attr)?;
    let bytes = user::read::<{ size_of::<bindings::kvm_smccc_filter>() }>(attr.address)?;
    let word = |at: usize| -> u32 {
        let bytes = bytes.get(at..at + 4).and_then(|it| it.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    };
    if bytes.iter().skip(9).any(|byte| *byte != 0) {
        return Err(EINVAL);
    }
    let action = Action::from_number(bytes[8]).ok_or(EINVAL)?;
    vm.arch()
        .add_filter(Filter::new(word(0), word(4), action).ok_or(EINVAL)?)
}

/// KVM_ARM_SET_COUNTER_OFFSET, while no vCPU is in use. The vCPUs take it over when they run.
///
/// # Errors
///
/// `EBUSY` if one is in use, `EINVAL` for what is reserved, `EFAULT`, `ENOMEM`.
fn set_counter_offset(vm: &Vm, arg: usize) -> Result {
    let [offset, reserved] = user::read_longs::<2>(arg)?;
    if reserved != 0 {
        return Err(EINVAL);
    }
    vm.while_idle(|| {
        let arch = vm.arch();
        let _config = arch.config();
        arch.set(Flag::FixedCounters);
        arch.set_virtual_offset(offset);
        arch.set_physical_offset(offset);
    })
}

/// KVM_IRQ_LINE: without an interrupt controller, the two lines of each CPU.
fn irq_line(vm: &Vm, irq: u32, level: bool) -> Result {
    let field = |shift: u32, mask: u32| (irq >> shift) & mask;
    let kind = field(
        bindings::KVM_ARM_IRQ_TYPE_SHIFT,
        bindings::KVM_ARM_IRQ_TYPE_MASK,
    );
    match kind {
        bindings::KVM_ARM_IRQ_TYPE_CPU => {}
        bindings::KVM_ARM_IRQ_TYPE_PPI | bindings::KVM_ARM_IRQ_TYPE_SPI => return Err(ENXIO),
        _ => return Err(EINVAL),
    }
    let id = field(
        bindings::KVM_ARM_IRQ_VCPU_SHIFT,
        bindings::KVM_ARM_IRQ_VCPU_MASK,
    ) + field(
        bindings::KVM_ARM_IRQ_VCPU2_SHIFT,
        bindings::KVM_ARM_IRQ_VCPU2_MASK,
    ) * (bindings::KVM_ARM_IRQ_VCPU_MASK + 1);
    let line = match field(
        bindings::KVM_ARM_IRQ_NUM_SHIFT,
        bindings::KVM_ARM_IRQ_NUM_MASK,
    ) {
        bindings::KVM_ARM_IRQ_CPU_IRQ => Some(config::hcr::VI),
        bindings::KVM_ARM_IRQ_CPU_FIQ => Some(config::hcr::VF),
        _ => None,
    };
    let mut result = Err(EINVAL);
    vm.for_each_vcpu(&mut |vcpu| {
        let Some(line) = line.filter(|_| vcpu.id() == id) else {
            return;
        };
        let before = if level {
            vcpu.irq_lines.fetch_or(line, Ordering::Relaxed)
        } else {
            vcpu.irq_lines.fetch_and(!line, Ordering::Relaxed)
        };
        if (before & line != 0) != level {
            vcpu.request(Request::IrqPending);
            vcpu.kick();
        }
        result = Ok(());
    });
    result
}

/// KVM_ENABLE_CAP on a VM, for what is configured here.
///
/// # Errors
///
/// `EINVAL` for flags, for what there is not, and once it is too late.
pub(crate) fn enable_cap(vm: &Vm, cap: &bindings::kvm_enable_cap) -> Result<c_long> {
    if cap.flags != 0 {
        return Err(EINVAL);
    }
    match cap.cap {
        bindings::KVM_CAP_ARM_NISV_TO_USER => vm.arch().set(Flag::NisvToUser),
        bindings::KVM_CAP_ARM_SYSTEM_SUSPEND => vm.arch().set(Flag::SystemSuspend),
        bindings::KVM_CAP_ARM_WRITABLE_IMP_ID_REGS => {
            if vm.vcpu_count() != 0 {
                return Err(EINVAL);
            }
            vm.arch().set(Flag::WritableImplementation);
        }
        _ => return Err(EINVAL),
    }
    Ok(0)
}

/// KVM_CHECK_EXTENSION, for what is done here; `None` for the rest.
pub(crate) fn check_extension(extension: u32) -> Option<c_long> {
    Some(match extension {
        bindings::KVM_CAP_ONE_REG
        | bindings::KVM_CAP_MP_STATE
        | bindings::KVM_CAP_VCPU_EVENTS
        | bindings::KVM_CAP_VCPU_ATTRIBUTES
        | bindings::KVM_CAP_DEVICE_CTRL
        | bindings::KVM_CAP_STEAL_TIME
        | bindings::KVM_CAP_SET_GUEST_DEBUG
        | bindings::KVM_CAP_PTP_KVM
        | bindings::KVM_CAP_ARM_PSCI
        | bindings::KVM_CAP_ARM_PSCI_0_2
        | bindings::KVM_CAP_ARM_SYSTEM_SUSPEND
        | bindings::KVM_CAP_SYSTEM_EVENT_DATA
        | bindings::KVM_CAP_ARM_NISV_TO_USER
        | bindings::KVM_CAP_ARM_INJECT_EXT_DABT
        | bindings::KVM_CAP_ARM_IRQ_LINE_LAYOUT_2
        | bindings::KVM_CAP_COUNTER_OFFSET
        | bindings::KVM_CAP_ARM_WRITABLE_IMP_ID_REGS => 1,
        bindings::KVM_CAP_ARM_INJECT_SERROR_ESR => {
            c_long::from(probe::has_cap(bindings::ARM64_HAS_RAS_EXTN))
        }
        bindings::KVM_CAP_SET_GUEST_DEBUG2 => debug::VALID as c_long,
        bindings::KVM_CAP_GUEST_DEBUG_HW_BPS => debug_registers(12),
        bindings::KVM_CAP_GUEST_DEBUG_HW_WPS => debug_registers(20),
        // Bit n: range n of registers has masks. The one range is that of feature ID registers.
        bindings::KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES => 1,
        _ => return None,
    })
}

/// The number of breakpoints or watchpoints that all CPUs have, which stands at `shift` of ID_AA64DFR0_EL1.
fn debug_registers(shift: u32) -> c_long {
    let dfr0 = probe::sanitised(probe::SYS_ID_AA64DFR0_EL1);
    idreg::field(dfr0, shift) as c_long + 1
}
