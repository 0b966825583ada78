// SPDX-License-Identifier: GPL-2.0-only

//! Common: arithmetic of memory slots and their logs of dirty pages.
//!
//! A slot is a range of a guest's pages that is a range of its maker's memory. Pages are counted in granules.

use super::addr::Granule;

/// Consecutive pages of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GfnRange {
    first: u64,
    // INVARIANT: not 0, and `first + count` does not overflow.
    count: u64,
}

impl GfnRange {
    /// `count` pages from number `first` on; `None` if there are none, or too many.
    pub fn new(first: u64, count: u64) -> Option<Self> {
        first.checked_add(count)?;
        // INVARIANT: tested.
        (count != 0).then_some(Self { first, count })
    }

    /// Number of the first page.
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// Number of pages.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Number of the page behind the last one.
    pub const fn end(&self) -> u64 {
        // The invariant keeps it from wrapping.
        self.first.wrapping_add(self.count)
    }

    /// Whether the page `gfn` is one of them.
    pub const fn contains(&self, gfn: u64) -> bool {
        self.first <= gfn && gfn < self.end()
    }

    /// Whether the range goes on behind the start of page `gfn`.
    pub const fn ends_after(&self, gfn: u64) -> bool {
        self.end() > gfn
    }

    /// Whether any page is in both.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.first < other.end() && other.first < self.end()
    }

    /// The pages that are in both.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let first = self.first.max(other.first);
        Self::new(first, self.end().min(other.end()).checked_sub(first)?)
    }
}

/// Where a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The guest's pages.
    pub gfns: GfnRange,
    /// First byte in the maker's address space, aligned to a page.
    pub user: u64,
    /// Size of a page.
    pub granule: Granule,
}

impl Place {
    /// The user address of the start of page `gfn`, which is in the slot.
    pub fn user_of(&self, gfn: u64) -> Option<u64> {
        let offset = gfn.checked_sub(self.gfns.first())?;
        self.user.checked_add(self.granule.times(offset)?)
    }

    /// The byte behind the last one in the maker's address space.
    pub fn user_end(&self) -> u64 {
        let bytes = self.granule.times(self.gfns.count());
        bytes
            .and_then(|bytes| self.user.checked_add(bytes))
            .unwrap_or(u64::MAX)
    }

    /// The guest's pages that have any of the bytes from `start` to before `end` of the maker's address space.
    pub fn gfns_of(&self, start: u64, end: u64) -> Option<GfnRange> {
        let (first, end) = (start.max(self.user), end.min(self.user_end()));
        if first >= end {
            return None;
        }
        let unit = self.granule.unit();
        let from = unit.round_down(first.wrapping_sub(self.user));
        let to = unit.round_up(end.wrapping_sub(self.user))?;
        let page = |bytes: u64| bytes.wrapping_shr(self.granule.shift());
        GfnRange::new(
            self.gfns.first().checked_add(page(from))?,
            page(to).checked_sub(page(from))?,
        )
    }

    /// The pages of the block of `pages` pages (a power of two) that has page `gfn`, if one descriptor can map it all: the
    /// slot has all of it, and guest and maker have it at the same offset in a block.
    pub fn block_of(&self, gfn: u64, pages: u64) -> Option<GfnRange> {
        let mask = pages.checked_sub(1)?;
        let user_page = self.user.wrapping_shr(self.granule.shift());
        if (user_page ^ self.gfns.first()) & mask != 0 {
            return None;
        }
        let block = GfnRange::new(gfn & !mask, pages)?;
        (block.first() >= self.gfns.first() && block.end() <= self.gfns.end()).then_some(block)
    }
}

/// Number of words of a log of `pages` pages.
pub const fn log_words(pages: u64) -> u64 {
    pages.div_ceil(64)
}

/// Whether KVM_CLEAR_DIRTY_LOG can be asked for `count` pages from number `first` on, of a slot of `pages` pages: whole
/// words, or up to the end.
pub fn is_log_part(first: u64, count: u64, pages: u64) -> bool {
    if first & 63 != 0 {
        return false;
    }
    match pages.checked_sub(first) {
        None => false,
        Some(rest) => count <= rest && (count == rest || count & 63 == 0),
    }
}

/// The runs of ones in `mask`, as (first bit, number of bits), in ascending order.
pub fn runs(mask: u64) -> impl Iterator<Item = (u32, u32)> {
    let mut rest = mask;
    core::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let first = rest.trailing_zeros();
        let count = (!rest.wrapping_shr(first)).trailing_zeros();
        // A shift by 64 would shift by 0: then the run is the whole word.
        let ones = u64::MAX.wrapping_shr(64u32.wrapping_sub(count) & 63);
        rest &= !ones.wrapping_shl(first);
        Some((first, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gfns(first: u64, count: u64) -> GfnRange {
        GfnRange::new(first, count).unwrap()
    }

    fn place(first: u64, count: u64, user: u64) -> Place {
        Place {
            gfns: gfns(first, count),
            user,
            granule: Granule::K4,
        }
    }

    #[test]
    fn range_without_pages_or_end_is_none() {
        assert_eq!(GfnRange::new(4, 0), None);
        assert_eq!(GfnRange::new(u64::MAX, 2), None);
        assert!(GfnRange::new(u64::MAX - 1, 1).is_some());
    }

    #[test]
    fn neighbours_do_not_overlap() {
        let slot = gfns(16, 16);
        assert!(!slot.overlaps(&gfns(0, 16)));
        assert!(!slot.overlaps(&gfns(32, 1)));
        assert!(slot.overlaps(&gfns(31, 1)));
        assert!(slot.overlaps(&gfns(0, 17)));
        assert!(slot.overlaps(&gfns(20, 1)));
        assert_eq!(slot.intersection(&gfns(8, 10)), Some(gfns(16, 2)));
        assert_eq!(slot.intersection(&gfns(0, 16)), None);
    }

    #[test]
    fn user_range_touches_pages_it_has_a_byte_of() {
        let slot = place(0x100, 8, 0x7f00_0000);
        assert_eq!(slot.gfns_of(0x7f00_0000, 0x7f00_8000), Some(gfns(0x100, 8)));
        assert_eq!(slot.gfns_of(0x7f00_1fff, 0x7f00_2001), Some(gfns(0x101, 2)));
        assert_eq!(slot.gfns_of(0, u64::MAX), Some(gfns(0x100, 8)));
        assert_eq!(slot.gfns_of(0x7eff_0000, 0x7f00_0000), None);
        assert_eq!(slot.gfns_of(0x7f00_8000, 0x7f00_9000), None);
        assert_eq!(slot.gfns_of(0x7f00_1000, 0x7f00_1000), None);
        assert_eq!(slot.user_of(0x107), Some(0x7f00_7000));
    }

    #[test]
    fn block_needs_equal_offsets_and_all_of_its_pages() {
        let slot = place(0x200, 0x600, 0x4000_0000);
        assert_eq!(slot.block_of(0x4ff, 512), Some(gfns(0x400, 512)));
        assert_eq!(slot.block_of(0x200, 512), Some(gfns(0x200, 512)));
        assert_eq!(slot.block_of(0x200, 1 << 18), None, "1 GiB is not there");
        assert_eq!(place(0x200, 0x600, 0x4000_1000).block_of(0x4ff, 512), None);
        let cut = place(0x201, 0x5fe, 0x4000_1000);
        assert_eq!(cut.block_of(0x201, 512), None, "its first page is missing");
        assert_eq!(cut.block_of(0x7fe, 512), None, "its last page is missing");
        assert_eq!(cut.block_of(0x5ff, 512), Some(gfns(0x400, 512)));
        assert_eq!(cut.block_of(0x5ff, 1), Some(gfns(0x5ff, 1)));
    }

    #[test]
    fn log_parts_are_whole_words_or_reach_the_end() {
        assert!(is_log_part(0, 64, 100));
        assert!(is_log_part(64, 36, 100));
        assert!(is_log_part(0, 100, 100));
        assert!(is_log_part(0, 0, 100));
        assert!(!is_log_part(0, 65, 100));
        assert!(!is_log_part(64, 37, 100));
        assert!(!is_log_part(1, 64, 100));
        assert!(!is_log_part(128, 0, 100));
        assert!(!is_log_part(0, 101, 100));
        assert_eq!(log_words(64), 1);
        assert_eq!(log_words(65), 2);
    }

    #[test]
    fn runs_are_the_mask() {
        let mut state = 1u64;
        let mut masks = vec![
            0,
            1,
            u64::MAX,
            1 << 63,
            0xff00_ff00,
            u64::MAX << 1,
            u64::MAX >> 1,
        ];
        for _ in 0..1000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            masks.push(state & (state >> 13));
        }
        for mask in masks {
            let mut again = 0u64;
            let mut last = None;
            for (first, count) in runs(mask) {
                assert!(last.is_none_or(|last| first > last), "a gap between runs");
                for bit in first..first + count {
                    again |= 1 << bit;
                }
                last = Some(first + count);
            }
            assert_eq!(again, mask);
        }
    }
}
