// SPDX-License-Identifier: GPL-2.0-only

//! The tables that walks can reach now.
//!
//! Everything that a root in effect leads to may be in the TLBs of its CPUs at any time, used or not. That part of the
//! set is not stored: it is what the tables say. Here is what finds, for a word of memory, which entries it is.

use super::{
    descriptor::Entry,
    memory::{
        Memory,
        PAGE_BYTES, //
    },
    pages::Pages,
    regime::Root,
    types::CpuMask, //
};

/// Number of a root.
pub(super) type RootId = usize;

/// A page that is (part of) a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) root: RootId,
    pub(super) level: i8,
    /// The address that the first entry of the page translates.
    pub(super) first: u64,
    /// Number of entries in the page.
    pub(super) entries: u64,
}

/// An entry of a table and what it translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) slot: u64,
    pub(super) level: i8,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) entry: Entry,
    /// Place of the item that leads to its table, if that is not the top.
    pub(super) parent: Option<usize>,
}

/// All tables below one, and their valid entries.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) pages: Vec<(u64, Node)>,
    pub(super) items: Vec<Item>,
}

/// The roots that were ever in use, and the tables of those that are.
#[derive(Clone, Default)]
pub(super) struct Roots {
    roots: Vec<(Root, CpuMask)>,
    nodes: Pages<Vec<Node>>,
}

impl Node {
    /// The addresses that the entry at `slot` translates; `None` if it is no entry.
    pub(super) fn covers(&self, root: &Root, slot: u64) -> Option<(u64, u64)> {
        let index = slot % PAGE_BYTES / 8;
        let size = 1u64 << root.format.shift(self.level);
        (index < self.entries).then(|| {
            let first = self.first + index * size;
            (first, first + (size - 1))
        })
    }
}

impl Roots {
    /// The number of `root`.
    pub(super) fn number(&mut self, root: &Root) -> RootId {
        let known = self.roots.iter().position(|(known, _)| known == root);
        known.unwrap_or_else(|| {
            self.roots.push((*root, 0));
            self.roots.len() - 1
        })
    }

    /// The root with this number.
    pub(super) fn get(&self, number: RootId) -> &Root {
        &self.roots[number].0
    }

    /// CPUs that may walk through the root.
    pub(super) fn cpus(&self, number: RootId) -> CpuMask {
        self.roots[number].1
    }

    /// Lets a CPU walk through the root. Returns the tables if they were not known yet.
    pub(super) fn enter(&mut self, number: RootId, cpu: usize, memory: &Memory) {
        let before = self.roots[number].1;
        self.roots[number].1 |= 1 << cpu;
        if before == 0 {
            let tree = self.whole(number, memory);
            self.attach(&tree);
        }
    }

    /// Lets a CPU no longer walk through the root.
    pub(super) fn leave(&mut self, number: RootId, cpu: usize, memory: &Memory) {
        self.roots[number].1 &= !(1 << cpu);
        if self.roots[number].1 == 0 {
            let tree = self.whole(number, memory);
            self.detach(&tree);
        }
    }

    /// What the word at `slot` is an entry of.
    pub(super) fn nodes(&self, slot: u64) -> impl Iterator<Item = Node> + '_ {
        self.nodes
            .get(&(slot / PAGE_BYTES))
            .into_iter()
            .flatten()
            .copied()
    }

    /// Whether any walk reaches the page at `pa` by the tables as they stand.
    pub(super) fn reaches(&self, pa: u64) -> bool {
        self.nodes.contains_key(&(pa / PAGE_BYTES))
    }

    /// Adds tables that have become reachable.
    pub(super) fn attach(&mut self, tree: &Tree) {
        for (page, node) in &tree.pages {
            self.nodes.entry(*page).or_default().push(*node);
        }
    }

    /// Removes tables that are no longer reachable.
    pub(super) fn detach(&mut self, tree: &Tree) {
        for (page, node) in &tree.pages {
            if let Some(nodes) = self.nodes.get_mut(page) {
                if let Some(place) = nodes.iter().position(|known| known == node) {
                    nodes.swap_remove(place);
                }
                if nodes.is_empty() {
                    self.nodes.remove(page);
                }
            }
        }
    }

    /// All that the root leads to.
    pub(super) fn whole(&self, number: RootId, memory: &Memory) -> Tree {
        let root = self.get(number);
        let mut tree = Tree::default();
        match root.broken {
            Some(why) => tree.items.push(Item {
                slot: 0,
                level: root.start_level,
                first: 0,
                last: u64::MAX,
                entry: Entry::Junk(why),
                parent: None,
            }),
            None => {
                let top = Top {
                    table: root.base,
                    level: root.start_level,
                    first: 0,
                };
                self.collect(number, memory, &top, root.root_entries(), None, &mut tree);
            }
        }
        tree
    }

    /// All that a table of `root` leads to, the table included.
    pub(super) fn below(&self, number: RootId, memory: &Memory, top: &Top) -> Tree {
        let mut tree = Tree::default();
        let entries = self.get(number).table_entries();
        self.collect(number, memory, top, entries, None, &mut tree);
        tree
    }

    fn collect(
        &self,
        number: RootId,
        memory: &Memory,
        top: &Top,
        entries: u64,
        parent: Option<usize>,
        tree: &mut Tree,
    ) {
        let root = self.get(number);
        let size = 1u64 << root.format.shift(top.level);
        let in_page = PAGE_BYTES / 8;
        for page in 0..entries.div_ceil(in_page) {
            let node = Node {
                root: number,
                level: top.level,
                first: top.first + page * in_page * size,
                entries: (entries - page * in_page).min(in_page),
            };
            let base = top.table + page * PAGE_BYTES;
            tree.pages.push((base / PAGE_BYTES, node));
            for place in scan(root, memory, base, &node, parent, tree) {
                let item = tree.items[place];
                let Entry::Table(table) = item.entry else {
                    continue;
                };
                let below = Top {
                    table,
                    level: top.level + 1,
                    first: item.first,
                };
                self.collect(
                    number,
                    memory,
                    &below,
                    root.table_entries(),
                    Some(place),
                    tree,
                );
            }
        }
    }
}

/// Adds the valid entries of one page of a table and returns their places.
fn scan(
    root: &Root,
    memory: &Memory,
    base: u64,
    node: &Node,
    parent: Option<usize>,
    tree: &mut Tree,
) -> core::ops::Range<usize> {
    let start = tree.items.len();
    let size = 1u64 << root.format.shift(node.level);
    let mut add = |slot, first, last, entry| {
        tree.items.push(Item {
            slot,
            level: node.level,
            first,
            last,
            entry,
            parent,
        });
    };
    match memory.words(base) {
        None => {
            let last = node.first + (node.entries * size - 1);
            add(
                base,
                node.first,
                last,
                Entry::Junk("memory that nobody wrote"),
            );
        }
        Some(words) => {
            for (index, word) in (0..node.entries).zip(words) {
                // The common case, cheaply.
                if word == Some(0) {
                    continue;
                }
                let first = node.first + index * size;
                let entry = root.format.decode(node.level, word);
                if entry.is_valid() {
                    add(base + index * 8, first, first + (size - 1), entry);
                }
            }
        }
    }
    start..tree.items.len()
}

/// A table and its place.
pub(super) struct Top {
    pub(super) table: u64,
    pub(super) level: i8,
    pub(super) first: u64,
}
