// SPDX-License-Identifier: GPL-2.0-only

//! Host: the calls that give a guest memory, and that tell which of it the guest has written.
//!
//! Source: `Documentation/virt/kvm/api.rst` of Linux, 4.8, 4.35, 4.117, 7.19; behaviour, errors and their order included, as
//! `virt/kvm/kvm_main.c`.

use core::sync::atomic::Ordering;

use kernel::{
    mm::MmWithUser,
    prelude::*,
    sync::Arc,
    transmute::FromBytes,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use super::{
    dirty::DirtyLog,
    slots::{
        Slot,
        SlotTable,
        SLOTS_MAX, //
    },
    user_pages,
    vm::Vm, //
};
use crate::{
    arch::el1,
    bindings,
    common::{
        invalidation::change_slot,
        slots::{
            is_log_part,
            runs,
            GfnRange,
            Place, //
        },
    },
    host::inject,
};

/// Most pages of a slot: the calls for dirty pages count in 31 bits.
const SLOT_PAGES_MAX: u64 = (1 << 31) - 1;

/// Words of a log that are copied at a time.
const CHUNK_WORDS: usize = 64;

/// `struct kvm_userspace_memory_region`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct RegionV1 {
    slot: u32,
    flags: u32,
    guest: u64,
    bytes: u64,
    user: u64,
}

// SAFETY: Integers only.
unsafe impl FromBytes for RegionV1 {}

/// `struct kvm_userspace_memory_region2`. What it has in addition is for guest_memfd, which there is none of.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct RegionV2 {
    v1: RegionV1,
    _guest_memfd_offset: u64,
    _guest_memfd: u32,
    _pad: [u32; 29],
}

// SAFETY: Integers only.
unsafe impl FromBytes for RegionV2 {}

const _: () = assert!(size_of::<RegionV1>() == size_of::<bindings::kvm_userspace_memory_region>());
const _: () = assert!(size_of::<RegionV2>() == size_of::<bindings::kvm_userspace_memory_region2>());

/// What KVM_SET_USER_MEMORY_REGION and its successor ask for.
pub(super) struct Region(RegionV1);

impl Region {
    /// # Errors
    ///
    /// `EINVAL` for flags that this call has not.
    pub(super) fn from_v1(region: RegionV1) -> Result<Self> {
        if region.flags & !(bindings::KVM_MEM_LOG_DIRTY_PAGES | bindings::KVM_MEM_READONLY) != 0 {
            return Err(EINVAL);
        }
        Ok(Self(region))
    }

    pub(super) fn from_v2(region: RegionV2) -> Self {
        Self(region.v1)
    }

    /// Number of the slot, and where it is to be; `None` if it is to be deleted.
    ///
    /// # Errors
    ///
    /// `EINVAL`.
    fn check(&self, vm: &Vm) -> Result<(u16, Option<Place>)> {
        let region = &self.0;
        if region.flags & !(bindings::KVM_MEM_LOG_DIRTY_PAGES | bindings::KVM_MEM_READONLY) != 0 {
            return Err(EINVAL);
        }
        let granule = vm.granule();
        let aligned = [region.bytes, region.guest, region.user]
            .iter()
            .all(|value| granule.unit().divides(*value));
        // There is one address space of slots, number 0, and the highest slot is for the kernel.
        if !aligned || !is_user_range(region.user, region.bytes) || region.slot >= SLOTS_MAX {
            return Err(EINVAL);
        }
        region.guest.checked_add(region.bytes).ok_or(EINVAL)?;
        let pages = region.bytes >> granule.shift();
        if pages > SLOT_PAGES_MAX {
            return Err(EINVAL);
        }
        let gfns = GfnRange::new(region.guest >> granule.shift(), pages);
        let place = gfns.map(|gfns| Place {
            gfns,
            user: region.user,
            granule,
        });
        Ok((region.slot as u16, place))
    }
}

/// Whether the bytes are addresses of user space, without a tag.
fn is_user_range(start: u64, bytes: u64) -> bool {
    const LIMIT: u64 = 1 << bindings::VA_BITS;
    bytes <= LIMIT && start <= LIMIT - bytes
}

/// `struct kvm_dirty_log`.
#[repr(C)]
pub(super) struct Log {
    slot: u32,
    _padding: u32,
    bitmap: u64,
}

// SAFETY: Integers only.
unsafe impl FromBytes for Log {}

/// `struct kvm_clear_dirty_log`.
#[repr(C)]
pub(super) struct ClearLog {
    slot: u32,
    count: u32,
    first: u64,
    bitmap: u64,
}

// SAFETY: Integers only.
unsafe impl FromBytes for ClearLog {}

const _: () = assert!(size_of::<Log>() == size_of::<bindings::kvm_dirty_log>());
const _: () = assert!(size_of::<ClearLog>() == size_of::<bindings::kvm_clear_dirty_log>());

/// Part of a page of a guest, where its maker sees it.
struct Part {
    slot: Arc<Slot>,
    gfn: u64,
    user: usize,
    bytes: usize,
}

impl Vm {
    /// KVM_SET_USER_MEMORY_REGION and KVM_SET_USER_MEMORY_REGION2.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `EEXIST` for an overlap, `EFAULT` beyond the IPA size, `ENOMEM`.
    pub(super) fn set_region(&self, region: &Region) -> Result {
        let mut table = self.slots.lock();
        let (id, place) = region.check(self)?;
        let old = table.get(id).cloned();
        let Some(place) = place else {
            let old = old.ok_or(EINVAL)?;
            self.delete(&mut table, &old);
            return Ok(());
        };
        let flags = region.0.flags;
        if let Some(old) = &old {
            let fixed = old.place.user == place.user
                && old.gfns().count() == place.gfns.count()
                && (old.flags ^ flags) & bindings::KVM_MEM_READONLY == 0;
            if !fixed {
                return Err(EINVAL);
            }
            if old.place == place && old.flags == flags {
                return Ok(());
            }
        }
        let moves = old.as_ref().is_none_or(|old| old.place != place);
        if moves && self.stage2().lock().slots().is_taken(place.gfns, id) {
            return Err(EEXIST);
        }
        let new = self.prepare(old.as_deref(), id, place, flags)?;
        match &old {
            None => self.create(&mut table, new),
            Some(old) if moves => self.move_slot(&mut table, old, new),
            Some(old) => {
                self.change_flags(&mut table, old, new);
                Ok(())
            }
        }
    }

    /// A slot that nobody knows yet.
    fn prepare(&self, old: Option<&Slot>, id: u16, place: Place, flags: u32) -> Result<Arc<Slot>> {
        let logs = flags & bindings::KVM_MEM_LOG_DIRTY_PAGES != 0;
        let dirty = match old.and_then(|old| old.dirty.as_ref()) {
            _ if !logs => None,
            Some(log) => Some(log.clone()),
            None => Some(DirtyLog::new(place.gfns.count(), self.initially_set())?),
        };
        if place.gfns.end() > 1 << (self.ipa_bits() - place.granule.shift()) {
            return Err(EFAULT);
        }
        check_devices(&place, logs, self.system().has_cacheable_pfns())?;
        let slot = Slot {
            id,
            place,
            flags,
            dirty,
        };
        Ok(Arc::new(slot, inject::account("a slot")?)?)
    }

    fn create(&self, table: &mut SlotTable, new: Arc<Slot>) -> Result {
        table.reserve(new.id)?;
        let room = self.stage2().lock().slots().wants_room();
        if let Some(room) = room {
            // Only who holds the mutex changes the slots, so this is still the right size afterwards.
            let flags = inject::account("the list of slots")?;
            let room = KVVec::with_capacity(room, flags)?;
            let empty = self
                .stage2()
                .lock()
                .change_slots(|slots| slots.give_room(room));
            drop(empty);
        }
        self.stage2()
            .lock()
            .change_slots(|slots| slots.insert(new.clone()))?;
        table.set(new.id, Some(new));
        Ok(())
    }

    fn delete(&self, table: &mut SlotTable, old: &Slot) {
        let removed = change_slot(&**self.stage2(), &old.place, |slots| slots.remove(old));
        table.set(old.id, None);
        drop(removed);
    }

    fn move_slot(&self, table: &mut SlotTable, old: &Slot, new: Arc<Slot>) -> Result {
        let removed = change_slot(&**self.stage2(), &old.place, |slots| {
            let removed = slots.remove(old);
            // There is room: one has just been removed.
            slots.insert(new.clone()).map(|()| removed)
        })?;
        table.set(new.id, Some(new));
        drop(removed);
        Ok(())
    }

    fn change_flags(&self, table: &mut SlotTable, old: &Slot, new: Arc<Slot>) {
        let replaced = self
            .stage2()
            .lock()
            .change_slots(|slots| slots.replace(old, new.clone()));
        // With an initially full log, pages become read-only as user space clears their bits.
        if new.dirty.is_some() && !self.initially_set() {
            self.stage2().write_protect(new.gfns());
        }
        table.set(new.id, Some(new));
        drop(replaced);
    }

    /// Reads the guest's memory from `ipa` on, as the process that made the VM sees it.
    ///
    /// # Errors
    ///
    /// `EFAULT` if there is no slot for all of it, or no memory behind it.
    pub(crate) fn read_guest(&self, ipa: u64, data: &mut [u8]) -> Result {
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let part = self.part(ipa + done as u64, rest.len()).ok_or(EFAULT)?;
            let rest = rest.get_mut(..part.bytes).ok_or(EFAULT)?;
            UserSlice::new(UserPtr::from_addr(part.user), part.bytes)
                .reader()
                .read_slice(rest)?;
            done += part.bytes;
        }
        Ok(())
    }

    /// Writes the guest's memory from `ipa` on.
    ///
    /// # Errors
    ///
    /// As [`Self::read_guest`]; `EFAULT` also for a read-only slot.
    pub(crate) fn write_guest(&self, ipa: u64, data: &[u8]) -> Result {
        // Who changes the slots waits until all is written and logged: when that call returns, the process may use the memory for
        // something else.
        let _slots = self.slots.lock();
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let part = self.part(ipa + done as u64, rest.len()).ok_or(EFAULT)?;
            if part.slot.is_read_only() {
                return Err(EFAULT);
            }
            let rest = rest.get(..part.bytes).ok_or(EFAULT)?;
            UserSlice::new(UserPtr::from_addr(part.user), part.bytes)
                .writer()
                .write_slice(rest)?;
            if let Some(log) = &part.slot.dirty {
                log.mark(part.gfn - part.slot.gfns().first());
            }
            done += part.bytes;
        }
        Ok(())
    }

    /// Whether a slot has `ipa`, and the guest may write there.
    pub(crate) fn is_writable_ram(&self, ipa: u64) -> bool {
        self.part(ipa, 1)
            .is_some_and(|part| !part.slot.is_read_only())
    }

    /// At most `bytes` bytes from `ipa` on, in one page.
    fn part(&self, ipa: u64, bytes: usize) -> Option<Part> {
        let granule = self.granule();
        let gfn = ipa >> granule.shift();
        let (slot, _) = self.stage2().lock().find(gfn)?;
        let offset = ipa & (granule.size() - 1);
        Some(Part {
            user: (slot.place.user_of(gfn)? + offset) as usize,
            bytes: bytes.min((granule.size() - offset) as usize),
            gfn,
            slot,
        })
    }

    /// Whether logs begin with all pages dirty.
    fn initially_set(&self) -> bool {
        self.manual_protect.load(Ordering::Relaxed)
            & u64::from(bindings::KVM_DIRTY_LOG_INITIALLY_SET)
            != 0
    }

    /// The log of the slot with the number that user space gives.
    fn log(&self, table: &SlotTable, number: u32) -> Result<(Arc<Slot>, Arc<DirtyLog>)> {
        if number >= SLOTS_MAX {
            return Err(EINVAL);
        }
        let slot = table.get(number as u16).ok_or(ENOENT)?;
        let log = slot.dirty.as_ref().ok_or(ENOENT)?;
        Ok((slot.clone(), log.clone()))
    }

    /// KVM_GET_DIRTY_LOG. Without manual protection, what is reported is clean from then on.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `ENOENT` if there is no such slot or it has no log, `EFAULT`.
    pub(super) fn get_dirty_log(&self, asked: &Log) -> Result {
        let table = self.slots.lock();
        let (slot, log) = self.log(&table, asked.slot)?;
        let manual = self.manual_protect.load(Ordering::Relaxed) != 0;
        let mut cleaner = Cleaner::new(self, &slot, &log);
        let bytes = log.len() * size_of::<u64>();
        let mut writer = UserSlice::new(UserPtr::from_addr(asked.bitmap as usize), bytes).writer();
        for first in (0..log.len()).step_by(CHUNK_WORDS) {
            let mut chunk = [0u64; CHUNK_WORDS];
            let count = CHUNK_WORDS.min(log.len() - first);
            let words = chunk.get_mut(..count).ok_or(EFAULT)?;
            for (offset, word) in words.iter_mut().enumerate() {
                *word = if manual {
                    log.get(first + offset)
                } else {
                    cleaner.take(first + offset, u64::MAX)
                };
            }
            cleaner.protect();
            for word in words {
                writer.write::<u64>(word)?;
            }
        }
        Ok(())
    }

    /// KVM_CLEAR_DIRTY_LOG.
    ///
    /// # Errors
    ///
    /// As [`Self::get_dirty_log`]; `EINVAL` also if the part is none of whole words.
    pub(super) fn clear_dirty_log(&self, asked: &ClearLog) -> Result {
        let table = self.slots.lock();
        if asked.slot >= SLOTS_MAX || asked.first % 64 != 0 {
            return Err(EINVAL);
        }
        let (slot, log) = self.log(&table, asked.slot)?;
        if !is_log_part(asked.first, asked.count.into(), slot.gfns().count()) {
            return Err(EINVAL);
        }
        let words = (asked.count as usize).div_ceil(64);
        let bitmap = UserPtr::from_addr(asked.bitmap as usize);
        let mut reader = UserSlice::new(bitmap, words * size_of::<u64>()).reader();
        let first = (asked.first / 64) as usize;
        // All is read before anything is cleared: a fault must not leave half of it done.
        let flags = inject::account("a copy of the bits of a dirty log")?;
        let mut masks = KVVec::with_capacity(words, flags)?;
        for _ in 0..words {
            masks.push(reader.read::<u64>()?, flags)?;
        }
        let mut cleaner = Cleaner::new(self, &slot, &log);
        for (offset, mask) in masks.iter().enumerate() {
            cleaner.take(first + offset, *mask);
        }
        cleaner.protect();
        Ok(())
    }
}

/// Makes pages whose bits are cleared read-only, neighbours together, so that the next write is seen.
///
/// That need not be done at once: what is written in between is in memory before the call returns, and so seen by who asks
/// for the log.
struct Cleaner<'a> {
    vm: &'a Vm,
    slot: &'a Slot,
    log: &'a DirtyLog,
    pending: Option<GfnRange>,
}

impl<'a> Cleaner<'a> {
    fn new(vm: &'a Vm, slot: &'a Slot, log: &'a DirtyLog) -> Self {
        Self {
            vm,
            slot,
            log,
            pending: None,
        }
    }

    /// Clears the bits of `mask` in word `number`, and returns those that were set.
    fn take(&mut self, number: usize, mask: u64) -> u64 {
        let cleared = self.log.take(number, mask);
        for (first, count) in runs(cleared) {
            let gfn = self.slot.gfns().first() + number as u64 * 64 + u64::from(first);
            let more = GfnRange::new(gfn, count.into());
            let joined = self
                .pending
                .filter(|pending| pending.end() == gfn)
                .and_then(|pending| {
                    GfnRange::new(pending.first(), pending.count() + u64::from(count))
                });
            if joined.is_none() {
                self.protect();
            }
            self.pending = joined.or(more);
        }
        cleared
    }

    /// Does what is pending.
    fn protect(&mut self) {
        if let Some(gfns) = self.pending.take() {
            self.vm.stage2().write_protect(gfns);
        }
    }
}

/// Memory that is mapped by number and not by page: writes to it cannot be logged, and it cannot be made coherent for a guest
/// that has its caches off, so it may be cached only if that does not matter.
///
/// # Errors
///
/// `EINVAL` if part of the place is such and `logs`, or is cached and not `may_be_cached`.
fn check_devices(place: &Place, logs: bool, may_be_cached: bool) -> Result {
    // SAFETY: A process that makes a call has an address space, and keeps it while it does.
    let mm = unsafe { MmWithUser::from_raw((*el1::current_task()).mm) };
    let guard = mm.mmap_read_lock();
    let end = place.user + (place.gfns.count() << place.granule.shift());
    let mut at = place.user;
    while at < end {
        // SAFETY: The address space is locked for reading, for as long as the area is looked at.
        let (first, next, flags, protection) = unsafe {
            let vma = bindings::find_vma(mm.as_raw(), at as usize);
            if vma.is_null() {
                break;
            }
            let range = (*vma).__bindgen_anon_1.__bindgen_anon_1;
            (
                range.vm_start,
                range.vm_end,
                (*vma).__bindgen_anon_2.vm_flags,
                (*vma).vm_page_prot,
            )
        };
        if first as u64 >= end {
            break;
        }
        let refused = logs || (user_pages::is_cached(protection) && !may_be_cached);
        if flags & bindings::VM_PFNMAP != 0 && refused {
            return Err(EINVAL);
        }
        at = next as u64;
    }
    drop(guard);
    Ok(())
}
