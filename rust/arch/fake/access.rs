// SPDX-License-Identifier: GPL-2.0-only

//! Loads, stores and fetches.

use super::{
    cpu::Cpu,
    memory::PAGE_BYTES,
    tables::Change,
    types::{
        Access,
        El,
        Fetched,
        Translation, //
    },
    violation::{
        Checked,
        Event,
        Rule, //
    },
    System,
};

/// Where an access goes.
#[derive(Clone, Copy)]
struct Target {
    pa: u64,
    cacheable: bool,
    uncached: bool,
}

impl Cpu<'_> {
    /// What an access to `va` at EL2 would find. A plain fault is no violation.
    pub fn probe(&mut self, va: u64, access: Access) -> Checked<Translation> {
        self.system.translate(self.number, va, access)
    }

    /// What an access of the guest that runs on this CPU would find at `ipa`.
    pub fn probe_guest(&mut self, ipa: u64, access: Access) -> Checked<Translation> {
        self.system.translate_guest(self.number, ipa, access)
    }

    /// Records a violation that the user of the model has found.
    pub fn report(&mut self, rule: Rule, detail: String) {
        // It is recorded in the system.
        let _ = self.broken::<()>(rule, detail);
    }

    fn broken<T>(&mut self, rule: Rule, detail: String) -> Checked<T> {
        self.system.broken(rule, self.number, detail)
    }

    /// Translates `address` for an access that must succeed. At EL1 it is a PA.
    fn target(&mut self, address: u64, access: Access) -> Checked<Target> {
        if self.el() != El::Hyp {
            return Ok(Target {
                pa: address,
                cacheable: true,
                uncached: false,
            });
        }
        match self.probe(address, access)? {
            Translation::Mapped {
                pa,
                cacheable,
                uncached,
            } => Ok(Target {
                pa,
                cacheable,
                uncached,
            }),
            Translation::Fault => {
                self.broken(Rule::NotMapped, format!("{access:?} of {address:#x}"))
            }
            Translation::Denied => {
                let rule = match access {
                    Access::Read | Access::Write => Rule::WriteProtected,
                    Access::Execute => Rule::NotExecutable,
                };
                self.broken(rule, format!("{access:?} of {address:#x}"))
            }
        }
    }

    /// The PA of `address`, for maintenance by address.
    pub(super) fn locate(&mut self, address: u64) -> Checked<u64> {
        self.target(address, Access::Read).map(|target| target.pa)
    }

    /// Fetches the instruction at `pc`.
    pub fn fetch(&mut self, pc: u64) -> Checked<Fetched> {
        let target = self.target(pc, Access::Execute)?;
        let pa = target.pa;
        if target.uncached && self.system.memory.is_dirty(pa) {
            return self.broken(Rule::UncleanedRead, format!("fetch from {pa:#x}"));
        }
        if target.cacheable && self.system.memory.is_stale_code(pa, self.number) {
            return self.broken(Rule::StaleInstruction, format!("fetch from {pa:#x}"));
        }
        let word = self.known(pa)?;
        Ok(Fetched {
            word: (word >> (pa % 8 * 8)) as u32,
            pa,
        })
    }

    /// Loads `bytes` bytes, 1, 2, 4 or 8. Unaligned is an error with the MMU off, and not modelled otherwise.
    pub fn load(&mut self, address: u64, bytes: u64) -> Checked<u64> {
        self.check_aligned(address, bytes)?;
        self.lower_access()?;
        let target = self.target(address, Access::Read)?;
        let pa = target.pa;
        if target.uncached && self.system.memory.is_dirty(pa) {
            return self.broken(Rule::UncleanedRead, format!("load from {pa:#x}"));
        }
        if target.cacheable && self.system.memory.is_bypassed(pa) {
            return self.broken(Rule::HiddenStore, format!("load from {pa:#x}"));
        }
        let word = self.known(pa)?;
        self.system.observe(self.number, pa & !7);
        Ok((word >> (pa % 8 * 8)) & mask(bytes))
    }

    /// Stores `bytes` bytes, 1, 2, 4 or 8.
    pub fn store(&mut self, address: u64, bytes: u64, value: u64) -> Checked<()> {
        self.store_with(address, bytes, value, false)
    }

    fn store_with(&mut self, address: u64, bytes: u64, value: u64, release: bool) -> Checked<()> {
        self.check_aligned(address, bytes)?;
        self.lower_access()?;
        let target = self.target(address, Access::Write)?;
        let pa = target.pa;
        if target.uncached && self.system.memory.is_dirty(pa) {
            let detail = format!("store to {pa:#x} past a dirty line");
            return self.broken(Rule::HiddenStore, detail);
        }
        if target.cacheable && target.uncached {
            let detail = format!("store to {pa:#x} may be cacheable or not");
            return self.broken(Rule::Unsynchronised, detail);
        }
        let word = pa & !7;
        let new = if bytes == 8 {
            value
        } else {
            let shift = pa % 8 * 8;
            let rest = self.system.memory.read(word).unwrap_or(0) & !(mask(bytes) << shift);
            rest | ((value & mask(bytes)) << shift)
        };
        self.system
            .store_word(self.number, word, new, target.cacheable, release)
    }

    /// Loads a doubleword.
    pub fn load64(&mut self, address: u64) -> Checked<u64> {
        self.load(address, 8)
    }

    /// Stores a doubleword.
    pub fn store64(&mut self, address: u64, value: u64) -> Checked<()> {
        self.store(address, 8, value)
    }

    /// Stores a doubleword with release ordering: a walk that sees it sees all stores before it.
    pub fn store_release64(&mut self, address: u64, value: u64) -> Checked<()> {
        self.store_with(address, 8, value, true)
    }

    fn check_aligned(&mut self, address: u64, bytes: u64) -> Checked<()> {
        if address % bytes != 0 {
            let detail = format!("access of {bytes} bytes at {address:#x}");
            return self.broken(Rule::Unsupported, detail);
        }
        Ok(())
    }

    fn known(&mut self, pa: u64) -> Checked<u64> {
        match self.system.memory.read(pa & !7) {
            Some(word) => Ok(word),
            None => self.broken(Rule::UnknownMemory, format!("{pa:#x}")),
        }
    }
}

/// The lowest `bytes` bytes.
const fn mask(bytes: u64) -> u64 {
    u64::MAX >> (64 - bytes * 8)
}

impl System {
    /// Stores a word and follows up what that does to tables.
    pub(super) fn store_word(
        &mut self,
        cpu: usize,
        pa: u64,
        new: u64,
        cached: bool,
        release: bool,
    ) -> Checked<()> {
        let old = self.memory.write(pa, new, cached);
        self.cpus[cpu].loads_ahead = true;
        self.trace.push(cpu, Event::Store { pa, old, new });
        self.changed(&Change {
            cpu,
            slot: pa,
            old,
            new,
            release,
        })
    }

    /// `cpu` has seen the newest value at `slot`, so its next DSB makes sure that walks do.
    pub(super) fn observe(&mut self, cpu: usize, slot: u64) {
        self.ghosts.observe(slot, cpu);
    }

    /// The host writes `bytes` at `pa`, at EL1 and through the cache. Both ends are multiples of 8.
    pub fn write_host(&mut self, cpu: usize, pa: u64, bytes: &[u8]) -> Checked<()> {
        for (pa, chunk) in (pa..).step_by(8).zip(bytes.chunks(8)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.store_word(cpu, pa, u64::from_le_bytes(word), true, false)?;
        }
        Ok(())
    }

    /// Fills whole pages at EL1, through the cache. They are no tables.
    pub(super) fn fill(&mut self, cpu: usize, pa: u64, bytes: u64, value: u64) {
        for page in (pa..pa + bytes).step_by(PAGE_BYTES as usize) {
            self.memory.fill(page, value);
            self.cpus[cpu].unpublished.insert(page / PAGE_BYTES);
        }
    }
}
