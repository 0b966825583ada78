// SPDX-License-Identifier: GPL-2.0-only

//! Common: both PGDs, as they are at load.
//!
//! The host builds them through its linear map before any TTBR leads to them; `cargo test` builds the same in memory of its
//! own. What they map, and why nothing else:
//!
//! | PGD | place | memory | access |
//! |---|---|---|---|
//! | boot | idmap, trampoline | first page of the image | RX |
//! | runtime | trampoline | first page of the image | RX |
//! | runtime | image | the image | RX, R, RW by part |
//! | runtime | slots | a stack and a context for each CPU | RW |
//! | runtime | linear window | the pool, or all of RAM, but for the pages above | RW |
//!
//! Source: behaviour as `arch/arm64/kvm/mmu.c` (`create_hyp_mappings`) and `arch/arm64/kvm/hyp/nvhe/setup.c`
//! (`recreate_hyp_mappings`) of Linux.

use super::{
    abi::ImageHeader,
    addr::{
        AddrRange,
        Address,
        HypVa,
        PhysAddr, //
    },
    layout::Layout,
    pgtable::{
        Blocks,
        Env,
        Error,
        Geometry,
        HypAccess,
        HypAttrs,
        NotLive,
        PageTable,
        Stage1,
        TableMemory, //
    },
    pool::{
        PageMeta,
        Pool,
        Use, //
    },
    shared::{
        MapMode,
        RamRange, //
    },
};

/// What the PGDs are made from.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The address space.
    pub layout: &'a Layout,
    /// The shape of the tables.
    pub geometry: Geometry,
    /// Where the image is.
    pub image: PhysAddr,
    /// Its parts.
    pub header: &'a ImageHeader,
    /// How RAM gets into the linear window.
    pub map: MapMode,
    /// RAM.
    pub ram: &'a [RamRange],
    /// The books of the pool. The image and the metadata are taken already.
    pub pool: &'a Pool,
    /// Its metadata.
    pub meta: &'a [PageMeta],
}

/// Both PGDs.
#[derive(Debug)]
pub struct Pgds {
    /// The idmap page and the trampoline. It never changes.
    pub boot: PageTable<Stage1>,
    /// What EL2 runs with.
    pub runtime: PageTable<Stage1>,
}

impl Plan<'_> {
    /// Builds both, one after the other.
    ///
    /// # Errors
    ///
    /// As [`Self::boot`].
    pub fn build<M: TableMemory>(&self, memory: &M) -> Result<Pgds, Error> {
        Ok(Pgds {
            boot: self.boot(memory)?,
            runtime: self.runtime(memory)?,
        })
    }

    /// Takes the pages of stacks and contexts.
    fn take_private(&self) -> Result<(), Error> {
        let granule = self.layout.granule();
        for cpu in 0..self.layout.cpus() {
            let stack = self.layout.stack(cpu).ok_or(Error::InputRange)?;
            for _ in 0..stack.size_bytes().wrapping_shr(granule.shift()) {
                self.take(Use::Stack)?;
            }
            self.take(Use::Context)?;
        }
        Ok(())
    }

    fn take(&self, kind: Use) -> Result<(), Error> {
        match self.pool.take(self.meta, kind) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::NoMemory),
        }
    }

    /// Builds the boot PGD, which is the first, and takes the pages of stacks and contexts. `memory` takes its tables from the
    /// pool. On an error the pool is as good as lost: it is given back as a whole.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`]: the pool has no page left. Anything else is a bug.
    pub fn boot<M: TableMemory>(&self, memory: &M) -> Result<PageTable<Stage1>, Error> {
        // Before any table, so that these pages and the image stand together: one gap in the linear window, not many.
        self.take_private()?;
        let mut table = PageTable::create(Stage1, self.geometry, memory)?;
        for place in [self.layout.idmap(), self.layout.trampoline()] {
            let attrs = HypAttrs::normal(HypAccess::ReadExecute);
            let env = Env::new(memory, &NotLive);
            table.map(&env, place, self.image, attrs, Blocks::PagesOnly)?;
        }
        Ok(table)
    }

    /// Builds the runtime PGD, behind the boot PGD.
    ///
    /// # Errors
    ///
    /// As [`Self::boot`].
    pub fn runtime<M: TableMemory>(&self, memory: &M) -> Result<PageTable<Stage1>, Error> {
        let mut table = PageTable::create(Stage1, self.geometry, memory)?;
        let env = Env::new(memory, &NotLive);
        let mut map = |place, pa, access, blocks| {
            table.map(&env, place, pa, HypAttrs::normal(access), blocks)
        };
        let pages = Blocks::PagesOnly;
        let trampoline = self.layout.trampoline();
        map(trampoline, self.image, HypAccess::ReadExecute, pages)?;
        for (from, to, access) in [
            (0, self.header.rodata, HypAccess::ReadExecute),
            (self.header.rodata, self.header.data, HypAccess::Read),
            (
                self.header.data,
                self.header.image_bytes,
                HypAccess::ReadWrite,
            ),
        ] {
            if let Some((place, pa)) = self.image_part(from, to)? {
                map(place, pa, access, pages)?;
            }
        }
        for (place, pa) in self.private_pages() {
            map(place, pa, HypAccess::ReadWrite, pages)?;
        }
        self.fill_window(|place, pa, blocks| map(place, pa, HypAccess::ReadWrite, blocks))?;
        Ok(table)
    }

    /// Where the bytes of the image from offset `from` to `to` go, and where they are; `None` for no bytes.
    fn image_part(
        &self,
        from: u32,
        to: u32,
    ) -> Result<Option<(AddrRange<HypVa>, PhysAddr)>, Error> {
        let Some(bytes) = to.checked_sub(from).filter(|bytes| *bytes != 0) else {
            return Ok(None);
        };
        let place = self
            .layout
            .image()
            .first()
            .checked_add(from.into())
            .and_then(|first| AddrRange::new(first, bytes.into()))
            .ok_or(Error::InputRange)?;
        let pa = self
            .image
            .checked_add(from.into())
            .ok_or(Error::OutputRange)?;
        Ok(Some((place, pa)))
    }

    /// Each page of each stack, and each context, with a page for it. Which page is whose does not matter.
    fn private_pages(&self) -> impl Iterator<Item = (AddrRange<HypVa>, PhysAddr)> + '_ {
        let granule = self.layout.granule();
        let page_of = move |place: AddrRange<HypVa>, number: u64| {
            let first = place.first().checked_add(granule.times(number)?)?;
            AddrRange::new(first, granule.size())
        };
        let stacks = (0..self.layout.cpus())
            .filter_map(|cpu| self.layout.stack(cpu))
            .flat_map(move |stack| {
                let pages = stack.size_bytes().wrapping_shr(granule.shift());
                (0..pages).filter_map(move |number| page_of(stack, number))
            });
        let contexts = (0..self.layout.cpus()).filter_map(|cpu| self.layout.context(cpu));
        let pages = |kind| self.pool.pages_of(self.meta, kind);
        stacks
            .zip(pages(Use::Stack))
            .chain(contexts.zip(pages(Use::Context)))
    }

    /// Calls `map` for each part of the linear window that is mapped at load.
    ///
    /// On demand, that is the pool: EL2 writes tables there. Page by page, as it is small and its pages become tables one by
    /// one. Linear, it is all of RAM with the largest blocks: the answer to "blocks or pages?" is the number of TLB entries
    /// and of tables, and nothing in the window is ever unmapped, so no block is ever split. The host's no-map memory is not
    /// among its RAM; speculation would reach it.
    fn fill_window(
        &self,
        mut map: impl FnMut(AddrRange<HypVa>, PhysAddr, Blocks) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut fill = |range, blocks| -> Result<(), Error> {
            for part in self.pool.window_parts(self.meta, range) {
                let place = self
                    .layout
                    .linear_va(part.first())
                    .and_then(|first| AddrRange::new(first, part.size_bytes()))
                    .ok_or(Error::InputRange)?;
                // A free page that becomes a table by this stays one that may be in the window.
                map(place, part.first(), blocks)?;
            }
            Ok(())
        };
        match self.map {
            MapMode::OnDemand => {
                for chunk in self.pool.chunk_ranges() {
                    fill(chunk, Blocks::PagesOnly)?;
                }
            }
            MapMode::Linear => {
                for piece in self.ram.iter().filter_map(|piece| piece.range()) {
                    fill(piece, Blocks::Allowed)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
