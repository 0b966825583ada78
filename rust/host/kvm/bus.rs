// SPDX-License-Identifier: GPL-2.0-only

//! Host: guest addresses that user space wants to hear of without an exit: eventfds that a write signals (ioeventfd), and
//! zones whose writes are collected in a ring (coalesced MMIO).
//!
//! Source: `Documentation/virt/kvm/api.rst` of Linux, 4.59 and 4.116; behaviour, errors and their order included, as
//! `virt/kvm/eventfd.c` and `virt/kvm/coalesced_mmio.c`.

use core::{
    ptr::NonNull,
    sync::atomic::{
        fence,
        AtomicUsize,
        Ordering, //
    },
};

use kernel::{
    error::from_err_ptr,
    new_spinlock,
    page::Page,
    prelude::*,
    sync::SpinLock,
    transmute::FromBytes, //
};

use crate::{
    bindings,
    host::{
        inject,
        linear, //
    },
};

/// Most zones of one space, as the uAPI has it (`NR_IOBUS_DEVS`). Eventfds are limited by the files that a process may have open.
const MAX_ZONES: usize = 1000;

/// Entries of the ring (`KVM_COALESCED_MMIO_MAX`).
const RING_ENTRIES: u32 = ((bindings::PAGE_SIZE - size_of::<bindings::kvm_coalesced_mmio_ring>())
    / size_of::<bindings::kvm_coalesced_mmio>()) as u32;

/// Flags of `struct kvm_ioeventfd`.
mod flag {
    use crate::bindings;

    pub(super) const DATAMATCH: u32 = 1 << bindings::kvm_ioeventfd_flag_nr_datamatch;
    pub(super) const PIO: u32 = 1 << bindings::kvm_ioeventfd_flag_nr_pio;
    pub(super) const DEASSIGN: u32 = 1 << bindings::kvm_ioeventfd_flag_nr_deassign;
    pub(super) const VIRTIO_CCW: u32 = 1 << bindings::kvm_ioeventfd_flag_nr_virtio_ccw_notify;
    pub(super) const ALL: u32 = (1 << bindings::kvm_ioeventfd_flag_nr_max) - 1;
}

/// `struct kvm_ioeventfd`.
#[repr(C)]
pub(super) struct IoEventFd(bindings::kvm_ioeventfd);

// SAFETY: Integers only.
unsafe impl FromBytes for IoEventFd {}

/// `struct kvm_coalesced_mmio_zone`.
#[repr(C)]
pub(super) struct ZoneArgs {
    address: u64,
    bytes: u32,
    /// Not 0: ports and not memory. No arm64 guest has such.
    port: u32,
}

// SAFETY: Integers only.
unsafe impl FromBytes for ZoneArgs {}

const _: () = assert!(size_of::<ZoneArgs>() == size_of::<bindings::kvm_coalesced_mmio_zone>());

/// Where an address is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Memory,
    /// These exist on other architectures only: nothing ever happens there.
    Port,
    Ccw,
}

/// A reference to an eventfd.
struct EventFd(NonNull<bindings::eventfd_ctx>);

// SAFETY: It does its own locking.
unsafe impl Send for EventFd {}

impl EventFd {
    /// # Errors
    ///
    /// `EBADF`, `EINVAL` if `fd` is none.
    fn new(fd: i32) -> Result<Self> {
        inject::step("the reference to an eventfd")?;
        // SAFETY: Any number may be asked for.
        let context = from_err_ptr(unsafe { bindings::eventfd_ctx_fdget(fd) })?;
        NonNull::new(context).map(Self).ok_or(EBADF)
    }

    fn signal(&self) {
        // SAFETY: The reference is held. From any context.
        unsafe { bindings::eventfd_signal_mask(self.0.as_ptr(), 0) };
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: The reference is given up.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) };
    }
}

/// What signals an eventfd.
struct Doorbell {
    space: Space,
    address: u64,
    /// 0: whatever the length.
    bytes: u32,
    /// Only this value; `None`: any.
    value: Option<u64>,
    event: EventFd,
}

impl Doorbell {
    fn new(args: &bindings::kvm_ioeventfd) -> Result<Self> {
        Ok(Self {
            space: match args.flags {
                flags if flags & flag::PIO != 0 => Space::Port,
                flags if flags & flag::VIRTIO_CCW != 0 => Space::Ccw,
                _ => Space::Memory,
            },
            address: args.addr,
            bytes: args.len,
            value: (args.flags & flag::DATAMATCH != 0).then_some(args.datamatch),
            event: EventFd::new(args.fd)?,
        })
    }

    /// Whether one write could ring both.
    fn collides(&self, other: &Self) -> bool {
        let any_length = self.bytes == 0 || other.bytes == 0;
        let any_value = self.value.is_none() || other.value.is_none() || self.value == other.value;
        self.space == other.space
            && self.address == other.address
            && (any_length || (self.bytes == other.bytes && any_value))
    }

    fn is_same(&self, other: &Self) -> bool {
        self.space == other.space
            && self.event.0 == other.event.0
            && self.address == other.address
            && self.bytes == other.bytes
            && self.value == other.value
    }

    fn is_rung(&self, address: u64, data: &[u8]) -> bool {
        if self.space != Space::Memory || self.address != address {
            return false;
        }
        if self.bytes == 0 {
            return true;
        }
        let value = data
            .iter()
            .rev()
            .fold(0u64, |value, byte| (value << 8) | u64::from(*byte));
        data.len() == self.bytes as usize && self.value.is_none_or(|wanted| wanted == value)
    }
}

/// A range whose writes go to the ring.
struct Zone {
    address: u64,
    bytes: u32,
    port: bool,
}

impl Zone {
    fn contains(&self, address: u64, bytes: u64) -> bool {
        let end = self.address.wrapping_add(self.bytes.into());
        address >= self.address
            && address
                .checked_add(bytes)
                .is_some_and(|access_end| access_end <= end)
    }
}

/// What the lock protects.
struct Listeners {
    doorbells: KVec<Doorbell>,
    zones: KVec<Zone>,
}

/// See the module.
#[pin_data]
pub(super) struct Bus {
    /// How many listeners there are: most guests have none.
    count: AtomicUsize,
    #[pin]
    listeners: SpinLock<Listeners>,
    ring: Page,
}

impl Bus {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new() -> Result<impl PinInit<Self>> {
        let flags = inject::account("the ring of coalesced MMIO")?;
        let ring = Page::alloc_page(flags | __GFP_ZERO)?;
        Ok(pin_init!(Self {
            count: AtomicUsize::new(0),
            listeners <- new_spinlock!(Listeners {
                doorbells: KVec::new(),
                zones: KVec::new(),
            }),
            ring,
        }))
    }

    /// The ring, which user space maps.
    pub(super) fn ring_page(&self) -> *mut bindings::page {
        self.ring.as_ptr()
    }

    /// A guest's write. True if somebody has taken it.
    #[inline]
    pub(super) fn write(&self, address: u64, data: &[u8]) -> bool {
        self.count.load(Ordering::Relaxed) != 0 && self.write_listened(address, data)
    }

    fn write_listened(&self, address: u64, data: &[u8]) -> bool {
        let listeners = self.listeners.lock();
        if let Some(bell) = listeners
            .doorbells
            .iter()
            .find(|bell| bell.is_rung(address, data))
        {
            bell.event.signal();
            return true;
        }
        let zoned = listeners
            .zones
            .iter()
            .any(|zone| !zone.port && zone.contains(address, data.len() as u64));
        // The lock is held: there is one writer of the ring.
        zoned && self.push(address, data)
    }

    /// Puts a write in the ring. False if that is full, or user space has made a mess of it.
    fn push(&self, address: u64, data: &[u8]) -> bool {
        let Some(kernel) = NonNull::new(self.ring.as_ptr()).and_then(linear::page_to_phys) else {
            return false;
        };
        let ring = linear::phys_to_kern(kernel)
            .cast::<bindings::kvm_coalesced_mmio_ring>()
            .as_ptr();
        // SAFETY: The page is a ring, which user space may change at any time: each field is read once and checked, and what
        // is written stays inside of it.
        unsafe {
            let insert = (&raw const (*ring).last).read_volatile();
            if insert >= RING_ENTRIES {
                return false;
            }
            let next = (insert + 1) % RING_ENTRIES;
            if next == (&raw const (*ring).first).read_volatile() {
                return false;
            }
            let entry = ring
                .add(1)
                .cast::<bindings::kvm_coalesced_mmio>()
                .add(insert as usize);
            let mut bytes = [0; 8];
            for (place, byte) in bytes.iter_mut().zip(data) {
                *place = *byte;
            }
            (&raw mut (*entry).phys_addr).write_volatile(address);
            (&raw mut (*entry).len).write_volatile(data.len() as u32);
            (&raw mut (*entry).data).write_volatile(bytes);
            (&raw mut (*entry).__bindgen_anon_1)
                .cast::<u32>()
                .write_volatile(0);
            // User space sees the entry before it sees that it is there.
            fence(Ordering::Release);
            (&raw mut (*ring).last).write_volatile(next);
        }
        true
    }

    /// KVM_IOEVENTFD.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `EBADF`, `EEXIST` if one write would signal another one too, `ENOENT` if there is none to remove, `ENOMEM`.
    pub(super) fn ioeventfd(&self, args: &IoEventFd) -> Result {
        let args = &args.0;
        if args.flags & flag::DEASSIGN != 0 {
            return self.remove_doorbell(&Doorbell::new(args)?);
        }
        if !matches!(args.len, 0 | 1 | 2 | 4 | 8)
            || args.addr.checked_add(args.len.into()).is_none()
            || args.flags & !flag::ALL != 0
            || (args.len == 0 && args.flags & flag::DATAMATCH != 0)
        {
            return Err(EINVAL);
        }
        let bell = Doorbell::new(args)?;
        let mut room = KVec::new();
        loop {
            let mut listeners = self.listeners.lock();
            if listeners
                .doorbells
                .iter()
                .any(|other| other.collides(&bell))
            {
                return Err(EEXIST);
            }
            if grow(&mut listeners.doorbells, &mut room) {
                listeners
                    .doorbells
                    .push_within_capacity(bell)
                    .map_err(|_| ENOMEM)?;
                break;
            }
            let wanted = listeners.doorbells.len() * 2 + 4;
            drop(listeners);
            room = KVec::with_capacity(wanted, inject::account("the list of ioeventfds")?)?;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn remove_doorbell(&self, wanted: &Doorbell) -> Result {
        let mut listeners = self.listeners.lock();
        let place = listeners
            .doorbells
            .iter()
            .position(|bell| bell.is_same(wanted))
            .ok_or(ENOENT)?;
        let removed = listeners.doorbells.remove(place);
        self.count.fetch_sub(1, Ordering::Relaxed);
        drop(listeners);
        drop(removed);
        Ok(())
    }

    /// KVM_REGISTER_COALESCED_MMIO.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `ENOSPC` if there are too many, `ENOMEM`.
    pub(super) fn add_zone(&self, args: &ZoneArgs) -> Result {
        if args.port > 1 {
            return Err(EINVAL);
        }
        let zone = Zone {
            address: args.address,
            bytes: args.bytes,
            port: args.port != 0,
        };
        let mut room = KVec::new();
        loop {
            let mut listeners = self.listeners.lock();
            let same_space = listeners
                .zones
                .iter()
                .filter(|other| other.port == zone.port);
            if same_space.count() >= MAX_ZONES {
                return Err(ENOSPC);
            }
            if grow(&mut listeners.zones, &mut room) {
                listeners
                    .zones
                    .push_within_capacity(zone)
                    .map_err(|_| ENOMEM)?;
                break;
            }
            let wanted = listeners.zones.len() * 2 + 4;
            drop(listeners);
            room = KVec::with_capacity(wanted, inject::account("the list of coalesced zones")?)?;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// KVM_UNREGISTER_COALESCED_MMIO: all zones that contain the one that is named. There need not be any.
    ///
    /// # Errors
    ///
    /// `EINVAL`.
    pub(super) fn remove_zones(&self, args: &ZoneArgs) -> Result {
        if args.port > 1 {
            return Err(EINVAL);
        }
        let mut listeners = self.listeners.lock();
        let before = listeners.zones.len();
        listeners.zones.retain(|zone| {
            zone.port != (args.port != 0) || !zone.contains(args.address, args.bytes.into())
        });
        let removed = before - listeners.zones.len();
        self.count.fetch_sub(removed, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether `list` has room for one more, if need be by moving it to `room`, which then has what is left of the old list.
fn grow<T>(list: &mut KVec<T>, room: &mut KVec<T>) -> bool {
    if list.len() < list.capacity() {
        return true;
    }
    if room.capacity() <= list.len() {
        return false;
    }
    for item in list.drain_all() {
        // There is room, so nothing is dropped.
        let _ = room.push_within_capacity(item);
    }
    core::mem::swap(list, room);
    true
}
