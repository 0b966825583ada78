// SPDX-License-Identifier: GPL-2.0-only

//! Physical memory, and what caches may make of it.
//!
//! One value is kept for each word: the newest. For each line the model knows whether an observer may see something
//! else, and that is enough to refuse the access: which of the possible values it would get does not matter.
//!
//! Any line of RAM may be cached at any time, as the host maps all of it.

use super::{
    pages::Pages,
    types::{
        Clean,
        CpuMask,
        Domain, //
    },
};

/// Bytes of a cache line.
pub const LINE_BYTES: u64 = 64;
/// Bytes of a page of the model, which is the smallest granule.
pub const PAGE_BYTES: u64 = 4096;

const WORDS: usize = (PAGE_BYTES / 8) as usize;
const LINES: usize = (PAGE_BYTES / LINE_BYTES) as usize;

#[derive(Clone, Copy)]
struct Line {
    /// Counts the writes.
    version: u32,
    /// The PoC may hold an older value: the line was written through the cache and not cleaned since.
    dirty: bool,
    /// The cache may hold an older value: the line was written past it.
    bypassed: bool,
    /// The PoU may hold an older value.
    behind_pou: bool,
    /// It was cleaned to the PoC, which CPUs with an erratum may not have done.
    cleaned_once: bool,
    /// CPUs whose instruction cache may hold an older value.
    stale_code: CpuMask,
}

#[derive(Clone)]
struct Page {
    words: [u64; WORDS],
    known: [bool; WORDS],
    lines: [Line; LINES],
}

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Memory {
    pages: Pages<Box<Page>>,
    /// An erratum: a clean is sure only when it was completed twice.
    pub(super) repeat_clean: bool,
}

/// A clean or an invalidation that is not complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingClean {
    line: u64,
    version: u32,
    clean: Clean,
}

/// Lines that an instruction cache invalidation applies to.
#[derive(Clone, Debug, Default)]
pub(super) struct PendingFlush {
    lines: Vec<(u64, u32)>,
}

const fn word(pa: u64) -> usize {
    (pa % PAGE_BYTES / 8) as usize
}

const fn line(pa: u64) -> usize {
    (pa % PAGE_BYTES / LINE_BYTES) as usize
}

impl Memory {
    fn page(&mut self, pa: u64) -> &mut Page {
        self.pages.entry(pa / PAGE_BYTES).or_insert_with(|| {
            let line = Line {
                version: 0,
                dirty: false,
                bypassed: false,
                behind_pou: false,
                cleaned_once: false,
                // Whatever the page was before.
                stale_code: CpuMask::MAX,
            };
            Box::new(Page {
                words: [0; WORDS],
                known: [false; WORDS],
                lines: [line; LINES],
            })
        })
    }

    fn line(&self, pa: u64) -> Option<&Line> {
        self.pages
            .get(&(pa / PAGE_BYTES))
            .map(|page| &page.lines[line(pa)])
    }

    /// The newest value of the word at `pa`; `None` if nobody has written it.
    pub(super) fn read(&self, pa: u64) -> Option<u64> {
        let page = self.pages.get(&(pa / PAGE_BYTES))?;
        page.known[word(pa)].then(|| page.words[word(pa)])
    }

    /// The words of the page at `pa`, if any of them has been written.
    pub(super) fn words(&self, pa: u64) -> Option<impl Iterator<Item = Option<u64>> + '_> {
        let page = self.pages.get(&(pa / PAGE_BYTES))?;
        let words = page.words.iter().zip(&page.known);
        Some(words.map(|(word, known)| known.then_some(*word)))
    }

    /// Writes a word, through the cache or past it, and returns what it was.
    pub(super) fn write(&mut self, pa: u64, value: u64, cached: bool) -> Option<u64> {
        let page = self.page(pa);
        let old = page.known[word(pa)].then(|| page.words[word(pa)]);
        page.words[word(pa)] = value;
        page.known[word(pa)] = true;
        page.lines[line(pa)].write(cached);
        old
    }

    /// Fills the page at `pa` through the cache.
    pub(super) fn fill(&mut self, pa: u64, value: u64) {
        let page = self.page(pa);
        page.words = [value; WORDS];
        page.known = [true; WORDS];
        page.lines.iter_mut().for_each(|line| line.write(true));
    }

    /// Whether a read past the caches may see an older value.
    pub(super) fn is_dirty(&self, pa: u64) -> bool {
        self.line(pa).is_some_and(|line| line.dirty)
    }

    /// Whether a read through the cache may see an older value.
    pub(super) fn is_bypassed(&self, pa: u64) -> bool {
        self.line(pa).is_some_and(|line| line.bypassed)
    }

    /// Whether a fetch through the caches on `cpu` may see an older value.
    pub(super) fn is_stale_code(&self, pa: u64, cpu: usize) -> bool {
        self.line(pa).is_none_or(|line| {
            line.behind_pou || line.bypassed || (line.stale_code >> cpu) & 1 != 0
        })
    }

    /// The line at `pa`, as an operation that is issued now finds it.
    pub(super) fn issue_clean(&self, pa: u64, clean: Clean) -> PendingClean {
        PendingClean {
            line: pa,
            version: self.line(pa).map_or(0, |line| line.version),
            clean,
        }
    }

    /// Completes `pending` by a DSB of `domain`. What was written since it was issued is not covered.
    pub(super) fn complete_clean(&mut self, pending: PendingClean, domain: Domain) {
        let repeat = self.repeat_clean;
        let line = &mut self.page(pending.line).lines[line(pending.line)];
        if line.version != pending.version || domain < Domain::Ish {
            return;
        }
        line.behind_pou = false;
        // An access with the MMU off is an Outer Shareable observer.
        if pending.clean != Clean::ToPou && domain >= Domain::Osh {
            if repeat && !core::mem::replace(&mut line.cleaned_once, true) {
                return;
            }
            line.dirty = false;
            if pending.clean == Clean::AndInvalidate {
                line.bypassed = false;
            }
        }
    }

    /// What was written to the page at `pa` is at the PoU, with no clean.
    pub(super) fn unify(&mut self, pa: u64) {
        let lines = &mut self.page(pa).lines;
        lines.iter_mut().for_each(|line| line.behind_pou = false);
    }

    /// The lines whose old contents an IC that is issued now gets rid of: those that are clean to the PoU.
    pub(super) fn issue_flush(&self) -> PendingFlush {
        let mut lines = Vec::new();
        for (number, page) in &self.pages {
            for (place, line) in page.lines.iter().enumerate() {
                if line.stale_code != 0 && !line.behind_pou {
                    let pa = number * PAGE_BYTES + place as u64 * LINE_BYTES;
                    lines.push((pa, line.version));
                }
            }
        }
        PendingFlush { lines }
    }

    /// The same of an IC for the line at `pa` alone.
    pub(super) fn issue_flush_of(&self, pa: u64) -> PendingFlush {
        let found = self.line(pa).filter(|line| !line.behind_pou);
        PendingFlush {
            lines: found.map(|line| (pa, line.version)).into_iter().collect(),
        }
    }

    /// No instruction cache of `cpus` holds old contents of the lines any more.
    pub(super) fn complete_flush(&mut self, pending: &PendingFlush, cpus: CpuMask) {
        for (pa, version) in &pending.lines {
            let line = &mut self.page(*pa).lines[line(*pa)];
            if line.version == *version {
                line.stale_code &= !cpus;
            }
        }
    }
}

impl Line {
    fn write(&mut self, cached: bool) {
        self.version = self.version.wrapping_add(1);
        self.behind_pou = cached;
        self.cleaned_once = false;
        self.stale_code = CpuMask::MAX;
        if cached {
            self.dirty = true;
        } else {
            self.bypassed = true;
        }
    }
}
