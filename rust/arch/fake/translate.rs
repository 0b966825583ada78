// SPDX-License-Identifier: GPL-2.0-only

//! Translation: what an access may find, and whether that is one thing.

use super::{
    descriptor::{
        Attr,
        Entry,
        Stage, //
    },
    ghost::Ghost,
    regime::{
        SCTLR_C,
        SCTLR_I,
        SCTLR_M, //
    },
    roots::{
        RootId,
        Top, //
    },
    types::{
        Access,
        CpuMask,
        Reg,
        Translation, //
    },
    violation::{
        Checked,
        Rule, //
    },
    System,
};

/// One thing that an access may find.
#[derive(Clone, Debug)]
struct Candidate {
    found: Found,
    /// The number of the event that made it stale; `None` if the tables say so.
    stale_since: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Found {
    /// The MMU is off.
    Flat,
    Leaf {
        pa: u64,
        level: i8,
        attr: Attr,
        wxn: bool,
    },
    Nothing,
    Junk(&'static str),
}

impl System {
    /// What an access of `cpu` at EL2 to `va` finds.
    ///
    /// # Errors
    ///
    /// The rule that is broken if it may find this or that.
    pub(super) fn translate(
        &mut self,
        cpu: usize,
        va: u64,
        access: Access,
    ) -> Checked<Translation> {
        let sctlr = self.cpus[cpu].possible(Reg::SctlrEl2);
        // With the MMU off no TLB is looked at.
        let mut candidates = if sctlr.iter().any(|sctlr| sctlr & SCTLR_M != 0) {
            self.candidates(cpu, Stage::Hyp, va, false)
        } else {
            Vec::new()
        };
        if sctlr.iter().any(|sctlr| sctlr & SCTLR_M == 0) {
            candidates.push(Candidate {
                found: Found::Flat,
                stale_since: None,
            });
        }
        let cache = match access {
            Access::Execute => SCTLR_I,
            Access::Read | Access::Write => SCTLR_C,
        };
        let cache_on = sctlr.iter().any(|sctlr| sctlr & cache != 0);
        let cache_off = sctlr.iter().any(|sctlr| sctlr & cache == 0);
        let outcome = |found: &Found| outcome(found, va, access, cache_on, cache_off);
        self.agree(cpu, va, &candidates, outcome)
    }

    /// What an access of the guest on `cpu` under the stage 2 in effect finds at `ipa`.
    pub(super) fn translate_guest(
        &mut self,
        cpu: usize,
        ipa: u64,
        access: Access,
    ) -> Checked<Translation> {
        let roots = self.cpus[cpu].roots.clone();
        let stage = roots
            .iter()
            .map(|root| self.roots.get(*root).format.stage)
            .find(|stage| *stage != Stage::Hyp);
        let Some(stage) = stage else {
            let detail = format!("no stage 2 for {ipa:#x}");
            return self.broken(Rule::Unsupported, cpu, detail);
        };
        let candidates = self.candidates(cpu, stage, ipa, true);
        self.agree(cpu, ipa, &candidates, |found| {
            guest_outcome(found, ipa, access)
        })
    }

    /// Everything that an access to `address` may find in tables and TLBs.
    fn candidates(&self, cpu: usize, stage: Stage, address: u64, guest: bool) -> Vec<Candidate> {
        let bit: CpuMask = 1 << cpu;
        let mut candidates = Vec::new();
        for number in &self.cpus[cpu].roots {
            let root = self.roots.get(*number);
            if root.format.stage != stage {
                continue;
            }
            let top = Top {
                table: root.base,
                level: root.start_level,
                first: 0,
            };
            candidates.push(Candidate {
                found: match root.broken {
                    Some(why) => Found::Junk(why),
                    None if address >> root.input_bits != 0 => Found::Nothing,
                    None => self.walk(*number, &top, address),
                },
                stale_since: None,
            });
        }
        for (_, ghost) in self.ghosts.overlapping(address, address) {
            let root = self.roots.get(ghost.root);
            // Entries of a foreign owner may have any VMID.
            let meets = match (root.format.stage, stage) {
                (Stage::Guest { .. }, Stage::Guest { .. }) if ghost.slot.is_none() => true,
                (of, stage) => of == stage,
            };
            let held = ghost.cached | ghost.combined | if guest { 0 } else { ghost.unsynced };
            let walked = ghost.hidden_by != 0 && self.cpus[cpu].roots.contains(&ghost.root);
            if meets && (held & bit != 0 || walked) {
                candidates.push(Candidate {
                    found: self.haunted(ghost, address),
                    stale_since: Some(ghost.born),
                });
            }
        }
        candidates
    }

    /// What a walk from `top` on finds in memory.
    fn walk(&self, number: RootId, top: &Top, address: u64) -> Found {
        let root = self.roots.get(number);
        let shift = root.format.shift(top.level);
        let mut index = address >> shift;
        if top.level != root.start_level {
            index %= root.table_entries();
        }
        let slot = top.table + index * 8;
        // A walk past the caches sees only what was cleaned.
        if !root.cacheable_walks && self.memory.is_dirty(slot) {
            return Found::Junk("a descriptor that is not at the PoC");
        }
        if root.cacheable_walks && self.memory.is_bypassed(slot) {
            return Found::Junk("a descriptor that a cached line hides");
        }
        match root.format.decode(top.level, self.memory.read(slot)) {
            Entry::Invalid => Found::Nothing,
            Entry::Junk(why) => Found::Junk(why),
            Entry::Leaf { pa, attr } => Found::Leaf {
                pa: pa | address & ((1 << shift) - 1),
                level: top.level,
                attr,
                wxn: root.wxn,
            },
            Entry::Table(table) => {
                let below = Top {
                    table,
                    level: top.level + 1,
                    first: 0,
                };
                self.walk(number, &below, address)
            }
        }
    }

    /// What a ghost leads to.
    fn haunted(&self, ghost: &Ghost, address: u64) -> Found {
        let root = self.roots.get(ghost.root);
        match ghost.entry {
            Entry::Invalid => Found::Nothing,
            Entry::Junk(why) => Found::Junk(why),
            Entry::Leaf { pa, attr } => Found::Leaf {
                pa: pa + (address - ghost.first),
                level: ghost.level,
                attr,
                wxn: root.wxn,
            },
            Entry::Table(table) => {
                let below = Top {
                    table,
                    level: ghost.level + 1,
                    first: 0,
                };
                self.walk(ghost.root, &below, address)
            }
        }
    }

    /// Boils the candidates down to what all of them have in common.
    fn agree(
        &mut self,
        cpu: usize,
        address: u64,
        candidates: &[Candidate],
        outcome: impl Fn(&Found) -> Result<Translation, &'static str>,
    ) -> Checked<Translation> {
        let mut common: Option<(Translation, Option<i8>)> = None;
        let mut problem: Option<(Rule, String)> = None;
        for candidate in candidates {
            let stale = candidate.stale_since.is_some();
            let level = match candidate.found {
                Found::Leaf { level, .. } => Some(level),
                _ => None,
            };
            let this = match outcome(&candidate.found) {
                Ok(this) => this,
                Err(why) => {
                    let rule = if stale {
                        Rule::StaleTranslation
                    } else {
                        Rule::UnknownMemory
                    };
                    problem = problem.or(Some((rule, why.into())));
                    continue;
                }
            };
            common = match common {
                None => Some((this, level)),
                Some((known, known_level)) => match join(known, this) {
                    Some(_) if known_level.is_some() && level.is_some() && level != known_level => {
                        let detail = "leaves of two sizes".into();
                        problem = problem.or(Some((Rule::TlbConflict, detail)));
                        common
                    }
                    Some(joined) => Some((joined, known_level.or(level))),
                    None => {
                        let rule = match candidate.stale_since {
                            Some(_) => Rule::StaleTranslation,
                            None => Rule::Unsynchronised,
                        };
                        problem = problem.or(Some((rule, "no agreement".into())));
                        common
                    }
                },
            };
        }
        match (problem, common) {
            (Some((rule, why)), _) => {
                let detail = format!("{address:#x}: {why}: {candidates:x?}");
                self.broken(rule, cpu, detail)
            }
            (None, Some((translation, _))) => Ok(translation),
            (None, None) => Ok(Translation::Fault),
        }
    }
}

/// What an access at EL2 makes of what it found.
fn outcome(
    found: &Found,
    va: u64,
    access: Access,
    cache_on: bool,
    cache_off: bool,
) -> Result<Translation, &'static str> {
    match *found {
        Found::Junk(why) => Err(why),
        Found::Nothing => Ok(Translation::Fault),
        // Data accesses are Device accesses. Fetches are cacheable if I is set.
        Found::Flat => Ok(Translation::Mapped {
            pa: va,
            cacheable: access == Access::Execute && cache_on,
            uncached: access != Access::Execute || cache_off,
        }),
        Found::Leaf { pa, attr, wxn, .. } => {
            let allowed = match access {
                Access::Read => attr.read,
                Access::Write => attr.write,
                Access::Execute => attr.no_exec == 0 && !(wxn && attr.write) && !attr.is_device(),
            };
            if !attr.accessed {
                return Ok(Translation::Fault);
            }
            if !allowed {
                return Ok(Translation::Denied);
            }
            Ok(Translation::Mapped {
                pa,
                cacheable: cache_on && attr.is_cacheable(),
                uncached: cache_off || !attr.is_cacheable(),
            })
        }
    }
}

/// What an access of a guest makes of what it found.
fn guest_outcome(found: &Found, ipa: u64, access: Access) -> Result<Translation, &'static str> {
    match *found {
        Found::Leaf { attr, .. } if !attr.accessed => Ok(Translation::Fault),
        Found::Leaf { attr, .. } if access == Access::Read && !attr.read => Ok(Translation::Denied),
        Found::Leaf { attr, .. } if access == Access::Write && !attr.write => {
            Ok(Translation::Denied)
        }
        // XN[1:0]: nobody may execute.
        Found::Leaf { attr, .. } if access == Access::Execute && attr.no_exec == 0b10 => {
            Ok(Translation::Denied)
        }
        Found::Leaf { pa, attr, .. } => Ok(Translation::Mapped {
            pa,
            cacheable: attr.memory & 0b1100 != 0,
            uncached: attr.memory & 0b1100 == 0,
        }),
        _ => outcome(found, ipa, access, true, false),
    }
}

/// Both, if they are compatible.
fn join(one: Translation, other: Translation) -> Option<Translation> {
    match (one, other) {
        (
            Translation::Mapped {
                pa,
                cacheable,
                uncached,
            },
            Translation::Mapped {
                pa: other_pa,
                cacheable: other_cacheable,
                uncached: other_uncached,
            },
        ) => (pa == other_pa).then_some(Translation::Mapped {
            pa,
            cacheable: cacheable || other_cacheable,
            uncached: uncached || other_uncached,
        }),
        _ => (one == other).then_some(one),
    }
}
