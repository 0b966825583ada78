// SPDX-License-Identifier: GPL-2.0-only

//! A virtual machine with memory and the image.

use std::sync::Arc;

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_userspace_memory_region,
    kvm_vcpu_init,
    KVM_ARM_VCPU_POWER_OFF,
    KVM_ARM_VCPU_PSCI_0_2, //
};
use kvm_ioctls::{
    Kvm,
    VmFd, //
};
use nix::errno::Errno;

use super::{
    calls,
    image,
    ram::Ram,
    raw,
    vcpu::Vcpu, //
};

/// Guest physical address of the memory with the image.
pub const BASE: u64 = 0x8000_0000;
/// Guest physical address of memory that a test adds. Like [`BASE`], it is mapped as normal memory by the guest.
pub const EXTRA: u64 = 0xc000_0000;
/// Bytes of the memory of a machine, and of what it grows by.
pub const CHUNK: usize = 2 << 20;
/// Slot of the memory with the image.
pub const SLOT: u32 = 0;
/// Most vCPUs that have a mailbox.
pub const MAILBOXES: u64 = (image::FREE - image::MAILBOXES) / image::MAILBOX_STRIDE;

/// Stage-1 block of 1 GiB: valid, accessed, inner shareable, and the attribute of MAIR_EL1 with this index.
const fn block(address: u64, attribute: u64) -> u64 {
    const AF: u64 = 1 << 10;
    const INNER_SHAREABLE: u64 = 3 << 8;
    address | AF | INNER_SHAREABLE | (attribute << 2) | 1
}

/// A new VM. The kernel gives up registering its MMU notifier if a signal is pending; as VMMs do, it is tried again then.
fn create_vm(kvm: &Kvm) -> Result<VmFd> {
    loop {
        match raw::errno(kvm.create_vm()) {
            Err(Errno::EINTR) => {}
            outcome => return outcome.context("KVM_CREATE_VM"),
        }
    }
}

/// A VM, its memory at [`BASE`] and the image in it.
pub struct Machine {
    /// The memory at [`BASE`].
    pub ram: Arc<Ram>,
    /// The VM.
    pub vm: VmFd,
}

impl Machine {
    /// A VM with 2 MiB of memory in small pages.
    pub fn new(kvm: &Kvm) -> Result<Self> {
        Self::with_ram(kvm, Ram::new(CHUNK)?)
    }

    /// A VM with this memory.
    pub fn with_ram(kvm: &Kvm, ram: Ram) -> Result<Self> {
        let machine = Self::without_memory(create_vm(kvm)?, ram)?;
        machine.add(SLOT, BASE, &machine.ram, 0)?;
        Ok(machine)
    }

    /// The image is in `ram`, but the VM has not got it as its memory yet.
    pub fn without_memory(vm: VmFd, ram: Ram) -> Result<Self> {
        let bytes = image::bytes();
        ensure!(bytes.len() as u64 <= image::TABLE, "the image is too large");
        ram.write(0, bytes);
        // The first 2 GiB are devices, the next are memory.
        for (index, attribute) in [(0, 1), (1, 1), (2, 0), (3, 0)] {
            ram.set(image::TABLE + 8 * index, block(index << 30, attribute));
        }
        Ok(Self {
            ram: Arc::new(ram),
            vm,
        })
    }

    /// Adds memory, or changes where it is or its flags.
    pub fn add(&self, slot: u32, gpa: u64, ram: &Ram, flags: u32) -> Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: ram.len() as u64,
            userspace_addr: ram.address(),
        };
        self.set_region(region)
            .with_context(|| format!("KVM_SET_USER_MEMORY_REGION of slot {slot} at {gpa:#x}"))
    }

    /// Takes memory away.
    pub fn remove(&self, slot: u32) -> Result<()> {
        self.set_region(kvm_userspace_memory_region {
            slot,
            ..Default::default()
        })
        .with_context(|| format!("removing slot {slot}"))
    }

    fn set_region(&self, region: kvm_userspace_memory_region) -> Result<()> {
        // SAFETY: The memory is a `Ram`, whose users expect it to change at any time. If it is unmapped while the VM
        // lives, the guest's accesses fault and nothing else is touched.
        Ok(raw::errno(unsafe {
            self.vm.set_user_memory_region(region)
        })?)
    }

    /// Sets line `line` (0 for IRQ, 1 for FIQ) of the vCPU `id`.
    pub fn set_line(&self, id: u32, line: u32, level: bool) -> Result<()> {
        let words = [(id << 16) | line, u32::from(level)];
        // SAFETY: The call reads 8 bytes, which live until it is over.
        unsafe { raw::ioctl(&self.vm, calls::IRQ_LINE, words.as_ptr() as u64) }
            .context("KVM_IRQ_LINE")?;
        Ok(())
    }

    /// The target of this host, with the feature PSCI 0.2 and newer.
    pub fn target(&self) -> Result<kvm_vcpu_init> {
        let mut init = kvm_vcpu_init::default();
        self.vm
            .get_preferred_target(&mut init)
            .context("KVM_ARM_PREFERRED_TARGET")?;
        init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
        Ok(init)
    }

    /// Creates the vCPU with this number and initialises it.
    pub fn vcpu(&self, id: u64) -> Result<Vcpu> {
        self.vcpu_with(id, 0)
    }

    /// As [`Self::vcpu`], but it waits for CPU_ON.
    pub fn vcpu_off(&self, id: u64) -> Result<Vcpu> {
        self.vcpu_with(id, 1 << KVM_ARM_VCPU_POWER_OFF)
    }

    fn vcpu_with(&self, id: u64, features: u32) -> Result<Vcpu> {
        let fd = self
            .vm
            .create_vcpu(id)
            .with_context(|| format!("KVM_CREATE_VCPU {id}"))?;
        let mut init = self.target()?;
        init.features[0] |= features;
        fd.vcpu_init(&init).context("KVM_ARM_VCPU_INIT")?;
        Vcpu::new(fd, Arc::clone(&self.ram), id)
    }
}
