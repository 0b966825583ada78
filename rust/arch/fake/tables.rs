// SPDX-License-Identifier: GPL-2.0-only

//! What a store to a table, and a change of the root, does to the set of entries that TLBs may hold.

use super::{
    descriptor::{
        may_change_live,
        Entry, //
    },
    ghost::{
        Ghost,
        GhostId, //
    },
    memory::PAGE_BYTES,
    regime::{
        Root,
        HCR_VM,
        SCTLR_M, //
    },
    roots::{
        Item,
        Node,
        RootId,
        Top,
        Tree, //
    },
    types::{
        CpuMask,
        El,
        Reg, //
    },
    violation::{
        Checked,
        Rule, //
    },
    System,
};

/// A change of one descriptor.
pub(super) struct Change {
    pub(super) cpu: usize,
    pub(super) slot: u64,
    pub(super) old: Option<u64>,
    pub(super) new: u64,
    /// Stores before it in program order are visible before it is.
    pub(super) release: bool,
}

impl System {
    /// Follows up a store that has been made.
    pub(super) fn changed(&mut self, change: &Change) -> Checked<()> {
        let mut result = Ok(());
        let nodes: Vec<Node> = self.roots.nodes(change.slot).collect();
        for node in nodes {
            result = result.and(self.changed_live(change, &node));
        }
        if !self.ghosts.is_empty() {
            self.changed_below_ghosts(change);
        }
        self.cpus[change.cpu]
            .unpublished
            .insert(change.slot / PAGE_BYTES);
        result
    }

    /// The descriptor is part of a table that walks reach.
    fn changed_live(&mut self, change: &Change, node: &Node) -> Checked<()> {
        let root = *self.roots.get(node.root);
        let Some((first, last)) = node.covers(&root, change.slot) else {
            return Ok(());
        };
        let old = root.format.decode(node.level, change.old);
        let new = root.format.decode(node.level, Some(change.new));
        if old == new {
            return Ok(());
        }
        let item = |entry| Item {
            slot: change.slot,
            level: node.level,
            first,
            last,
            entry,
            parent: None,
        };
        let mut result = Ok(());
        if old.is_valid() && new.is_valid() && !may_change_live(old, new) {
            let detail = format!("{first:#x}: {old:x?} was replaced by {new:x?} without a break");
            result = result.and(self.broken(Rule::BreakBeforeMake, change.cpu, detail));
        }
        if new.is_valid() {
            result = result.and(self.check_make(change.cpu, node.root, &item(new)));
        }
        self.leave_behind(change, node.root, &item(old));
        if let Entry::Table(table) = new {
            result = result.and(self.attach(change, node, table, first));
        }
        result
    }

    /// A table has become reachable.
    fn attach(&mut self, change: &Change, node: &Node, table: u64, first: u64) -> Checked<()> {
        let top = Top {
            table,
            level: node.level + 1,
            first,
        };
        let tree = self.roots.below(node.root, &self.memory, &top);
        self.roots.attach(&tree);
        let own = &self.cpus[change.cpu].unpublished;
        if !change.release && tree.pages.iter().any(|(page, _)| own.contains(page)) {
            let detail = format!("{table:#x} was linked at {:#x}", change.slot);
            return self.broken(Rule::UnpublishedTable, change.cpu, detail);
        }
        if self.ghosts.is_empty() {
            return Ok(());
        }
        tree.items
            .iter()
            .try_for_each(|item| self.check_make(change.cpu, node.root, item))
    }

    /// Refuses an entry that a TLB could hold together with another one that differs.
    fn check_make(&mut self, cpu: usize, root: RootId, item: &Item) -> Checked<()> {
        let users = self.roots.cpus(root);
        let mut near = self.ghosts.overlapping(item.first, item.last);
        let clash = near.find(|(_, ghost)| {
            ghost.is_cached()
                && (ghost.cached | ghost.combined) & users | ghost.hidden_by != 0
                && self.roots.get(ghost.root).meets(self.roots.get(root))
                && !agree(ghost, root, item)
        });
        let detail = clash.map(|(_, ghost)| {
            format!(
                "{:#x}..={:#x}: {:x?} was made while {:x?} of {:#x}..={:#x} (event {}) may still be cached",
                item.first, item.last, item.entry, ghost.entry, ghost.first, ghost.last, ghost.born
            )
        });
        drop(near);
        match detail {
            Some(detail) => self.broken(Rule::BreakBeforeMake, cpu, detail),
            None => Ok(()),
        }
    }

    /// Keeps what was valid in `item`, and below it, as ghosts. An invalid one is kept too: it may be seen for a while.
    fn leave_behind(&mut self, change: &Change, root: RootId, item: &Item) {
        let cpus = self.roots.cpus(root);
        let ghost = self.ghost(root, item, cpus, 1 << change.cpu);
        let parent = self.ghosts.add(ghost);
        let Entry::Table(table) = item.entry else {
            return;
        };
        let top = Top {
            table,
            level: item.level + 1,
            first: item.first,
        };
        let tree = self.roots.below(root, &self.memory, &top);
        self.roots.detach(&tree);
        self.haunt(root, &tree, cpus, 1 << change.cpu, Some(parent));
    }

    /// Makes ghosts of all entries of `tree`.
    fn haunt(
        &mut self,
        root: RootId,
        tree: &Tree,
        cpus: CpuMask,
        hidden_by: CpuMask,
        top: Option<GhostId>,
    ) {
        let mut ids = Vec::new();
        for item in &tree.items {
            let mut ghost = self.ghost(root, item, cpus, hidden_by);
            ghost.parent = item.parent.map(|place| ids[place]).or(top);
            ids.push(self.ghosts.merge(ghost));
        }
    }

    pub(super) fn ghost(
        &self,
        root: RootId,
        item: &Item,
        cpus: CpuMask,
        hidden_by: CpuMask,
    ) -> Ghost {
        let cached = if item.entry.is_valid() { cpus } else { 0 };
        let two_stages = !self.is_hyp(root);
        Ghost {
            root,
            level: item.level,
            first: item.first,
            last: item.last,
            slot: Some(item.slot),
            entry: item.entry,
            cached,
            combined: if two_stages { cached } else { 0 },
            hidden_by,
            unsynced: 0,
            parent: None,
            pending: Vec::new(),
            once: (0, 0),
            born: self.trace.now(),
        }
    }

    /// The descriptor is part of a table that only a stale walk reaches: what is stored there may be cached as well.
    fn changed_below_ghosts(&mut self, change: &Change) {
        let mut fresh = Vec::new();
        for (id, ghost) in self.ghosts.tables() {
            let Entry::Table(table) = ghost.entry else {
                continue;
            };
            let root = self.roots.get(ghost.root);
            let inside = change.slot.wrapping_sub(table) < root.table_entries() * 8;
            if !inside || !ghost.is_cached() {
                continue;
            }
            let size = 1u64 << root.format.shift(ghost.level + 1);
            let first = ghost.first + (change.slot - table) / 8 * size;
            let entry = root.format.decode(ghost.level + 1, Some(change.new));
            if entry.is_valid() {
                fresh.push((
                    id,
                    Item {
                        slot: change.slot,
                        level: ghost.level + 1,
                        first,
                        last: first + (size - 1),
                        entry,
                        parent: None,
                    },
                ));
            }
        }
        for (id, item) in fresh {
            self.derive(id, &item);
        }
    }

    /// A walk that starts at ghost `id` can find `item`.
    fn derive(&mut self, id: GhostId, item: &Item) {
        let Some(parent) = self.ghosts.get(id) else {
            return;
        };
        // The invalidations that the parent waits for happen after all that it leads to was found.
        let ghost = Ghost {
            parent: Some(id),
            entry: item.entry,
            level: item.level,
            first: item.first,
            last: item.last,
            slot: Some(item.slot),
            born: self.trace.now(),
            ..parent.clone()
        };
        let (root, cpus, hidden_by) = (parent.root, parent.cached, parent.hidden_by);
        let id = self.ghosts.add(ghost);
        if let Entry::Table(table) = item.entry {
            let top = Top {
                table,
                level: item.level + 1,
                first: item.first,
            };
            let tree = self.roots.below(root, &self.memory, &top);
            self.haunt(root, &tree, cpus, hidden_by, Some(id));
        }
    }

    /// Brings the roots that `cpu` may walk through in line with its registers.
    pub(super) fn update_roots(&mut self, cpu: usize) -> Checked<()> {
        let mut now: Vec<RootId> = Vec::new();
        for root in self.possible_roots(cpu) {
            let number = self.roots.number(&root);
            if !now.contains(&number) {
                now.push(number);
            }
        }
        let before = core::mem::replace(&mut self.cpus[cpu].roots, now.clone());
        for number in before.iter().filter(|number| !now.contains(number)) {
            let tree = self.roots.whole(*number, &self.memory);
            self.roots.leave(*number, cpu, &self.memory);
            self.haunt(*number, &tree, 1 << cpu, 0, None);
        }
        let mut result = Ok(());
        for number in now.iter().filter(|number| !before.contains(number)) {
            self.roots.enter(*number, cpu, &self.memory);
            result = result.and(self.check_enter(cpu, *number));
        }
        result
    }

    /// All combinations of register values that may be in effect.
    fn possible_roots(&self, cpu: usize) -> Vec<Root> {
        let of = |reg| self.cpus[cpu].possible(reg);
        let mut roots = Vec::new();
        for sctlr in of(Reg::SctlrEl2) {
            if sctlr & SCTLR_M == 0 {
                continue;
            }
            for ttbr in of(Reg::Ttbr0El2) {
                for tcr in of(Reg::TcrEl2) {
                    for mair in of(Reg::MairEl2) {
                        roots.push(Root::hyp(sctlr, ttbr, tcr, mair));
                    }
                }
            }
        }
        // At EL2 no walk of the EL1&0 regime begins, and those on their way end with a DSB.
        let walks_el1 = self.cpus[cpu].el != El::Hyp || self.cpus[cpu].walks_of_el1;
        if !walks_el1 {
            return roots;
        }
        for hcr in of(Reg::HcrEl2) {
            if hcr & HCR_VM == 0 {
                continue;
            }
            for vttbr in of(Reg::VttbrEl2) {
                for vtcr in of(Reg::VtcrEl2) {
                    roots.push(Root::guest(hcr, vttbr, vtcr));
                }
            }
        }
        roots
    }

    /// Checks a root that `cpu` has begun to use against what its TLB may hold.
    fn check_enter(&mut self, cpu: usize, number: RootId) -> Checked<()> {
        let tree = self.roots.whole(number, &self.memory);
        // Where another CPU walks through it already, what is hidden has ghosts.
        let first = self.roots.cpus(number) == 1 << cpu;
        let hidden = first
            && tree
                .pages
                .iter()
                .any(|(page, _)| self.cpus.iter().any(|cpu| cpu.unpublished.contains(page)));
        let mut result = Ok(());
        if hidden {
            let detail = format!("root {:#x}", self.roots.get(number).base);
            result = self.broken(Rule::UnpublishedTable, cpu, detail);
        }
        let mut leaves: Vec<Item> = tree.items;
        leaves.retain(|item| !matches!(item.entry, Entry::Table(_)));
        leaves.sort_by_key(|item| item.first);
        let mut clash = None;
        for ghost in self.ghosts.iter().map(|(_, ghost)| ghost) {
            let here = ((ghost.cached | ghost.combined) >> cpu) & 1 != 0;
            let meets = self.roots.get(ghost.root).meets(self.roots.get(number));
            if !here || !meets || matches!(ghost.entry, Entry::Table(_)) {
                continue;
            }
            let other = (ghost.first, ghost.last, ghost.level, ghost.entry);
            clash = clash.or_else(|| differs(&leaves, other));
        }
        for other in self.cpus[cpu]
            .roots
            .iter()
            .filter(|other| **other != number)
        {
            if !self.roots.get(*other).meets(self.roots.get(number)) {
                continue;
            }
            for item in self.roots.whole(*other, &self.memory).items {
                if !matches!(item.entry, Entry::Table(_)) {
                    let other = (item.first, item.last, item.level, item.entry);
                    clash = clash.or_else(|| differs(&leaves, other));
                }
            }
        }
        match clash {
            Some((mine, theirs)) => {
                let detail = format!(
                    "{:#x}: {:x?} of the new root meets {theirs:x?} in the TLB",
                    mine.first, mine.entry
                );
                result.and(self.broken(Rule::TlbConflict, cpu, detail))
            }
            None => result,
        }
    }
}

/// Whether a ghost and a new entry of `root` whose ranges overlap may be used together.
fn agree(ghost: &Ghost, root: RootId, item: &Item) -> bool {
    match (ghost.entry, item.entry) {
        // Tables of two roots: what they lead to is checked by what they lead to.
        (Entry::Table(_), _) | (_, Entry::Table(_)) if ghost.root != root => true,
        // A cached table above the new entry: it was cut off, and the new entry is not in it.
        (Entry::Table(_), _) if ghost.level < item.level => true,
        // A leaf of the old tree below a new table is checked when that table's entries are.
        (Entry::Leaf { .. }, Entry::Table(_)) if ghost.level > item.level => true,
        _ => {
            ghost.level == item.level
                && ghost.first == item.first
                && may_change_live(ghost.entry, item.entry)
        }
    }
}

type Leaf = (u64, u64, i8, Entry);

/// The first of `leaves`, which are in order, that overlaps `other` and is not the same.
fn differs(leaves: &[Item], other: Leaf) -> Option<(Item, Leaf)> {
    let (first, last, level, entry) = other;
    let start = leaves.partition_point(|leaf| leaf.last < first);
    leaves[start..]
        .iter()
        .take_while(|leaf| leaf.first <= last)
        .find(|leaf| {
            leaf.first != first || leaf.level != level || !may_change_live(entry, leaf.entry)
        })
        .map(|leaf| (*leaf, other))
}
