// SPDX-License-Identifier: GPL-2.0-only

//! Reading tables: one address, every leaf of a range, or runs of leaves for a dump.
//!
//! Domain: common. All of it may run beside [`PageTable::map_concurrent`].

use super::{
    error::Error,
    format::{
        Entry,
        Format, //
    },
    geometry::Level,
    memory::TableMemory,
    walk::{
        Next,
        Visit,
        Visitor, //
    },
    PageTable,
};
use crate::common::addr::{
    AddrRange,
    Address,
    PhysAddr, //
};

/// One leaf, or several that follow each other in input and output and are otherwise equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping<F: Format> {
    /// Input addresses: all that the leaves translate.
    pub range: AddrRange<F::Input>,
    /// Output address of the first byte of `range`.
    pub pa: PhysAddr,
    /// Level of the leaves.
    pub level: Level,
    /// Attributes of the leaves.
    pub attrs: F::Attrs,
}

impl<F: Format> Mapping<F> {
    /// The output address for an address in `range`; `None` outside of it.
    pub fn translate(&self, at: F::Input) -> Option<PhysAddr> {
        if !self.range.contains(at) {
            return None;
        }
        self.pa.checked_add(at.offset_from(self.range.first())?)
    }

    /// Both as one run, if `next` continues this one.
    fn join(&self, next: &Self) -> Option<Self> {
        let continues = self.range.end() == Some(next.range.first())
            && self.pa.checked_add(self.range.size_bytes()) == Some(next.pa)
            && self.level == next.level
            && self.attrs == next.attrs;
        let range = AddrRange::from_bounds(self.range.first(), next.range.last())?;
        continues.then_some(Self { range, ..*self })
    }
}

impl<F: Format> PageTable<F> {
    /// The leaf that translates `at`.
    ///
    /// # Errors
    ///
    /// [`Error::InputRange`] if the table cannot translate it.
    pub fn lookup<M: TableMemory>(
        &self,
        memory: &M,
        at: F::Input,
    ) -> Result<Option<Mapping<F>>, Error> {
        let mut found = None;
        self.visit(memory, AddrRange::point(at), |leaf| found = Some(leaf))?;
        Ok(found)
    }

    /// Whether all of `range` is mapped, by one leaf or by several, to the memory from `pa` on. Attributes play no part.
    ///
    /// # Errors
    ///
    /// [`Error::InputRange`] if the table cannot translate all of `range`.
    pub fn leads_to<M: TableMemory>(
        &self,
        memory: &M,
        range: AddrRange<F::Input>,
        pa: PhysAddr,
    ) -> Result<bool, Error> {
        let mut bytes: u64 = 0;
        self.visit(memory, range, |leaf| {
            let part = leaf.range.intersection(&range).filter(|part| {
                let offset = part.first().offset_from(range.first());
                let wanted = offset.and_then(|offset| pa.checked_add(offset));
                wanted.is_some() && leaf.translate(part.first()) == wanted
            });
            // Leaves are disjoint, so their parts add up to at most the range.
            bytes = bytes.wrapping_add(part.map_or(0, |part| part.size_bytes()));
        })?;
        Ok(bytes == range.size_bytes())
    }

    /// Calls `leaf` for each leaf that translates part of `range`, in ascending order.
    ///
    /// # Errors
    ///
    /// [`Error::InputRange`] if the table cannot translate all of `range`.
    pub fn visit<M: TableMemory, L: FnMut(Mapping<F>)>(
        &self,
        memory: &M,
        range: AddrRange<F::Input>,
        mut leaf: L,
    ) -> Result<(), Error> {
        self.visit_while(memory, range, |found| {
            leaf(found);
            true
        })
    }

    /// As [`Self::visit`], until `leaf` returns false. Of the tables behind that one nothing is read, but of those that led there
    /// the rest.
    ///
    /// # Errors
    ///
    /// As [`Self::visit`].
    pub fn visit_while<M: TableMemory, L: FnMut(Mapping<F>) -> bool>(
        &self,
        memory: &M,
        range: AddrRange<F::Input>,
        leaf: L,
    ) -> Result<(), Error> {
        match self.geometry.input_range() {
            Some(all) if AddrRange::contains_range(&all, &range) => {}
            _ => return Err(Error::InputRange),
        }
        let mut leaves = Leaves {
            leaf,
            goes_on: true,
        };
        self.walk(memory, range, &mut leaves)
    }

    /// Calls `run` for all that is mapped, in ascending order, leaves that continue each other taken together.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`].
    pub fn runs<M: TableMemory, R: FnMut(Mapping<F>)>(
        &self,
        memory: &M,
        mut run: R,
    ) -> Result<(), Error> {
        let all = self.geometry.input_range().ok_or(Error::InputRange)?;
        let mut current: Option<Mapping<F>> = None;
        let result = self.visit(memory, all, |leaf| {
            let joined = current.as_ref().and_then(|run| run.join(&leaf));
            if joined.is_none() {
                current.take().map(&mut run);
            }
            current = Some(joined.unwrap_or(leaf));
        });
        current.map(run);
        result
    }

    /// Number of granules that the tables take, the root included.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`].
    pub fn table_granules<M: TableMemory>(&self, memory: &M) -> Result<u64, Error> {
        let all = self.geometry.input_range().ok_or(Error::InputRange)?;
        let mut tables = Tables(self.geometry.root_granules());
        self.walk(memory, all, &mut tables)?;
        Ok(tables.0)
    }
}

struct Leaves<L> {
    leaf: L,
    goes_on: bool,
}

impl<F: Format, L: FnMut(Mapping<F>) -> bool> Visitor<F> for Leaves<L> {
    fn visit(&mut self, at: &Visit<F>) -> Result<Next, Error> {
        match at.entry {
            Entry::Table(child) if self.goes_on => return Ok(Next::Descend(child)),
            Entry::Leaf { pa, attrs } if self.goes_on => {
                self.goes_on = (self.leaf)(Mapping {
                    range: at.covers,
                    pa,
                    level: at.level,
                    attrs,
                });
            }
            _ => {}
        }
        Ok(Next::Proceed)
    }
}

struct Tables(u64);

impl<F: Format> Visitor<F> for Tables {
    fn leave(&mut self, _at: &Visit<F>, _child: PhysAddr) -> Result<(), Error> {
        self.0 = self.0.saturating_add(1);
        Ok(())
    }
}
