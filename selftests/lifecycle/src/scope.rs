// SPDX-License-Identifier: GPL-2.0-only

//! How far a search goes.

use crate::world::World;

/// How much may happen in one history. What has begun is always followed to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope {
    /// CPUs.
    pub cpus: usize,
    /// Processes that start, of any kind, at any time, next to each other.
    pub processes: u8,
    /// Naps of any CPU.
    pub naps: u8,
    /// Things that go wrong: faults at EL2, CPUs and registrations that are refused, stub calls that take a CPU from us.
    pub faults: u8,
}

impl Scope {
    /// Where the histories begin: the module loaded or not, all CPUs online or all but one.
    pub fn begin(self) -> Vec<World> {
        let mut begin = Vec::new();
        for loaded in [false, true] {
            let whole = World::new(self.cpus, loaded);
            begin.push(whole.clone().without(self.cpus - 1));
            begin.push(whole);
        }
        for world in &mut begin {
            (world.starts, world.naps, world.faults) = (self.processes, self.naps, self.faults);
        }
        begin
    }
}
