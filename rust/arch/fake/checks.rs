// SPDX-License-Identifier: GPL-2.0-only

//! Checks of the whole state: at the end of an operation, before memory is given back, before EL2 changes hands.

use super::{
    descriptor::{
        Entry,
        Stage, //
    },
    ghost::Ghost,
    memory::PAGE_BYTES,
    regime::Root,
    roots::{
        Item,
        RootId, //
    },
    types::{
        CpuMask,
        Reg, //
    },
    violation::{
        Checked,
        Event,
        Rule, //
    },
    System, POISON,
};

impl System {
    /// Fills the TLBs of `cpu` with the entries of a previous owner of EL2: any, for each address and VMID.
    pub fn fill_with_previous_owner(&mut self, cpu: usize) {
        let why = "an entry of a previous owner";
        for stage in [Stage::Hyp, Stage::Guest { vmid: 0 }] {
            let number = self.roots.number(&Root::broken(stage, why));
            let item = Item {
                slot: 0,
                level: 0,
                first: 0,
                last: u64::MAX,
                entry: Entry::Junk(why),
                parent: None,
            };
            let mut ghost = self.ghost(number, &item, 1 << cpu, 0);
            ghost.slot = None;
            self.ghosts.add(ghost);
        }
    }

    /// `bytes` bytes at `pa` go back to whoever they came from, who reuses them at once.
    pub fn release(&mut self, cpu: usize, pa: u64, bytes: u64) -> Checked<()> {
        self.trace.push(cpu, Event::Free(pa));
        let end = pa + bytes;
        let mut result = Ok(());
        for page in (pa..end).step_by(PAGE_BYTES as usize) {
            if self.roots.reaches(page) {
                let detail = format!("walks reach {page:#x}");
                result = result.and(self.broken(Rule::FreedTable, cpu, detail));
            }
        }
        let seen = self.ghosts.tables().map(|(_, ghost)| ghost).find(|ghost| {
            let size = self.roots.get(ghost.root).table_entries() * 8;
            match ghost.entry {
                Entry::Table(table) => ghost.is_cached() && table < end && pa < table + size,
                _ => false,
            }
        });
        if let Some(ghost) = seen {
            let detail = format!(
                "a walk of {:#x}..={:#x} may still use {:x?}, cut off at event {}",
                ghost.first, ghost.last, ghost.entry, ghost.born
            );
            result = result.and(self.broken(Rule::FreedTable, cpu, detail));
        }
        self.fill(cpu, pa, bytes, POISON);
        result
    }

    /// Checks that an operation of `cpu` on tables is complete: whatever they no longer say is out of all TLBs, what
    /// they say is visible to all walkers, and `cpu` is sure of it.
    pub fn assert_settled(&mut self, cpu: usize) -> Checked<()> {
        let bit: CpuMask = 1 << cpu;
        let stale = self.ghosts.iter().map(|(_, ghost)| ghost).find(|ghost| {
            let unsure = ghost.unsynced & bit != 0 && self.is_hyp(ghost.root);
            let held = ghost.cached | ghost.combined | ghost.hidden_by != 0;
            ghost.slot.is_some() && (held || unsure) && !self.is_current(ghost)
        });
        if let Some(ghost) = stale {
            let detail = format!(
                "{:#x}..={:#x} may be {:x?} until event {} is complete: {ghost:x?}",
                ghost.first, ghost.last, ghost.entry, ghost.born
            );
            return self.broken(Rule::StaleTranslation, cpu, detail);
        }
        for reg in [Reg::VttbrEl2, Reg::Ttbr0El2, Reg::TcrEl2, Reg::SctlrEl2] {
            self.cpu(cpu).certain(reg)?;
        }
        Ok(())
    }

    /// Whether the tables still say what a ghost says.
    fn is_current(&self, ghost: &Ghost) -> bool {
        match (ghost.slot, self.found(ghost.root, ghost)) {
            (Some(slot), Some((at, entry))) => at == slot && entry == ghost.entry,
            _ => false,
        }
    }

    /// The descriptor of `root` that is in the place of a ghost, and where it is.
    fn found(&self, root: RootId, ghost: &Ghost) -> Option<(u64, Entry)> {
        let root = self.roots.get(root);
        if root.broken.is_some() || root.start_level > ghost.level {
            return None;
        }
        let (mut table, mut level) = (root.base, root.start_level);
        loop {
            let mut index = ghost.first >> root.format.shift(level);
            if level != root.start_level {
                index %= root.table_entries();
            }
            let at = table + index * 8;
            let entry = root.format.decode(level, self.memory.read(at));
            if level == ghost.level {
                return Some((at, entry));
            }
            let Entry::Table(below) = entry else {
                return None;
            };
            (table, level) = (below, level + 1);
        }
    }

    /// Checks that all that the TLBs of `cpu` hold for EL2 is what the tables in use say: no entry of another root is left.
    pub fn el2_tlb_current(&mut self, cpu: usize) -> Checked<()> {
        let bit: CpuMask = 1 << cpu;
        let roots = &self.cpus[cpu].roots;
        let says = |root: &RootId, ghost: &Ghost| {
            self.found(*root, ghost)
                .is_some_and(|(_, entry)| entry == ghost.entry)
        };
        let foreign = self.ghosts.iter().map(|(_, ghost)| ghost).find(|ghost| {
            self.is_hyp(ghost.root)
                && (ghost.cached | ghost.unsynced) & bit != 0
                && !roots.iter().any(|root| says(root, ghost))
        });
        let Some(ghost) = foreign else {
            return Ok(());
        };
        let detail = format!(
            "{:#x}..={:#x} may be {:x?} of another root (event {})",
            ghost.first, ghost.last, ghost.entry, ghost.born
        );
        self.broken(Rule::StaleTranslation, cpu, detail)
    }

    /// Checks that nothing of EL2 is in the TLBs of `cpu`, so that the next owner need not care.
    pub fn el2_tlb_clean(&mut self, cpu: usize) -> Checked<()> {
        self.clean_of(cpu, true)
    }

    /// Checks that nothing of EL1&0 is in the TLBs of `cpu`, under any VMID.
    pub fn el1_tlb_clean(&mut self, cpu: usize) -> Checked<()> {
        self.clean_of(cpu, false)
    }

    fn clean_of(&mut self, cpu: usize, hyp: bool) -> Checked<()> {
        let bit: CpuMask = 1 << cpu;
        let walked = self.cpus[cpu]
            .roots
            .iter()
            .find(|root| self.is_hyp(**root) == hyp);
        if let Some(root) = walked {
            let detail = format!("{:x?} is still in use", self.roots.get(*root));
            return self.broken(Rule::StaleTranslation, cpu, detail);
        }
        let held = self.ghosts.iter().map(|(_, ghost)| ghost).find(|ghost| {
            self.is_hyp(ghost.root) == hyp
                && (ghost.cached | ghost.combined | ghost.unsynced) & bit != 0
        });
        let Some(ghost) = held else {
            return Ok(());
        };
        let detail = format!(
            "{:#x}..={:#x} is still {:x?} (event {})",
            ghost.first, ghost.last, ghost.entry, ghost.born
        );
        self.broken(Rule::StaleTranslation, cpu, detail)
    }
}
