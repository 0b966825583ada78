// SPDX-License-Identifier: GPL-2.0-only

//! What the image must do right: each scenario is a story that ends without a violation, with all registers as they
//! should be.
//!
//! Every story begins with TLBs full of the entries of a previous owner, of EL2 and of guests under all VMIDs, with
//! instruction caches that hold what the memory was before, and with all that the host wrote in the data cache.

pub mod drive;
mod faults;
pub mod guest;
pub mod several;
pub mod single;
pub mod translate;

use anyhow::Result;

use crate::elf::Image;

/// One story.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Name.
    pub name: &'static str,
    run: fn(&Image) -> Result<()>,
}

impl Scenario {
    /// Plays it with `image`.
    ///
    /// # Errors
    ///
    /// The violation, with the trace that led there.
    pub fn run(&self, image: &Image) -> Result<()> {
        (self.run)(image)
    }
}

/// Every story.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "init_hypercall_reset",
        run: single::init_hypercall_reset,
    },
    Scenario {
        name: "least_clean",
        run: single::least_clean,
    },
    Scenario {
        name: "icache_on",
        run: single::icache_on,
    },
    Scenario {
        name: "reset_vectors",
        run: single::reset_vectors,
    },
    Scenario {
        name: "set_vectors",
        run: single::set_vectors,
    },
    Scenario {
        name: "soft_restart",
        run: single::soft_restart,
    },
    Scenario {
        name: "refused_stub_calls",
        run: single::refused_stub_calls,
    },
    Scenario {
        name: "read_reg_from_stub",
        run: single::read_reg_from_stub,
    },
    Scenario {
        name: "read_reg_from_rust",
        run: single::read_reg_from_rust,
    },
    Scenario {
        name: "translate_of_va",
        run: translate::translate_of_va,
    },
    Scenario {
        name: "fault_at_el2",
        run: faults::fault_at_el2,
    },
    Scenario {
        name: "fault_in_vectors",
        run: faults::fault_in_vectors,
    },
    Scenario {
        name: "trap_of_host",
        run: faults::trap_of_host,
    },
    Scenario {
        name: "loaded_twice",
        run: several::loaded_twice,
    },
    Scenario {
        name: "cpus_in_turn",
        run: several::cpus_in_turn,
    },
    Scenario {
        name: "cpus_from_the_last",
        run: several::cpus_from_the_last,
    },
    Scenario {
        name: "cpus_in_step",
        run: several::cpus_in_step,
    },
    Scenario {
        name: "other_address_spaces",
        run: several::other_address_spaces,
    },
    Scenario {
        name: "guest_visits",
        run: guest::guest_visits,
    },
    Scenario {
        name: "guest_extras",
        run: guest::guest_extras,
    },
    Scenario {
        name: "guest_speculative_at",
        run: guest::guest_speculative_at,
    },
    Scenario {
        name: "guest_par_barrier",
        run: guest::guest_par_barrier,
    },
    Scenario {
        name: "guest_unlearn",
        run: guest::guest_unlearn,
    },
    Scenario {
        name: "guest_virtual_serror",
        run: guest::guest_virtual_serror,
    },
    Scenario {
        name: "guest_vcpus_in_turn",
        run: guest::guest_vcpus_in_turn,
    },
    Scenario {
        name: "guest_stage2_relaxed",
        run: guest::guest_stage2_relaxed,
    },
    Scenario {
        name: "guest_refused",
        run: guest::guest_refused,
    },
    Scenario {
        name: "guest_aborts",
        run: guest::guest_aborts,
    },
    Scenario {
        name: "guest_serrors",
        run: guest::guest_serrors,
    },
    Scenario {
        name: "guest_serrors_with_ras",
        run: guest::guest_serrors_with_ras,
    },
    Scenario {
        name: "guest_faults",
        run: guest::guest_faults,
    },
    Scenario {
        name: "guest_vectors",
        run: guest::guest_vectors,
    },
];
