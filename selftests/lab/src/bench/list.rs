// SPDX-License-Identifier: GPL-2.0-only

//! The benches: their machines, and the cells that their tables must have.

use std::time::Duration;

use super::{
    table::{
        Cells,
        Ratio, //
    },
    Bench,
};
use crate::runs::{
    self,
    Run, //
};

/// Has the kernel's own KVM in the mode in which its EL2 code is apart from the kernel, as that of eltwo is.
const STOCK: &[&str] = &["kvm-arm.mode=nvhe"];

/// The machine of the bench of both ways to map memory at EL2.
const MAPS: Run = Run {
    name: "bench-maps",
    cpus: 1,
    counting: true,
    tests: &["bench_maps"],
    timeout: Duration::from_secs(900),
    ..runs::BASE
};

/// The machine of the bench of guests, with the kernel's own KVM.
const GUESTS_STOCK: Run = Run {
    name: "bench-guests-stock",
    words: STOCK,
    ..GUESTS
};

/// The machine of the bench of guests, with eltwo.
const GUESTS: Run = Run {
    name: "bench-guests",
    cpus: 1,
    counting: true,
    tests: &["bench_guests"],
    ..runs::BASE
};

/// The machines of the bench of the life cycle. Where the CPU is one with Spectre vectors, the kernel's own KVM warns when a
/// CPU comes online.
const LIFECYCLE: [Run; 7] = [
    lifecycle("bench-lifecycle-1", 1, runs::CPU_HAS_NO_VHE),
    lifecycle("bench-lifecycle-2", 2, runs::CPU_HAS_NO_VHE),
    lifecycle("bench-lifecycle-stock-2", 2, STOCK),
    lifecycle("bench-lifecycle-4", 4, runs::CPU_HAS_NO_VHE),
    lifecycle("bench-lifecycle-stock-4", 4, STOCK),
    lifecycle("bench-lifecycle-8", 8, runs::CPU_HAS_NO_VHE),
    lifecycle("bench-lifecycle-stock-8", 8, STOCK),
];

const fn lifecycle(name: &'static str, cpus: u32, words: &'static [&'static str]) -> Run {
    Run {
        name,
        cpu: "cortex-a53",
        cpus,
        counting: true,
        words,
        tests: &["bench_lifecycle"],
        timeout: Duration::from_secs(1800),
        ..runs::BASE
    }
}

/// What both ways to map memory cost.
const MAPS_CELLS: Cells = Cells {
    cpus: &[],
    rows: &[
        "insmod",
        "rmmod",
        "hypercall through debugfs",
        "memory in EL2's linear window, after insmod",
        "share and unshare, lone page",
        "table pages, after insmod",
        "table pages, 2 MiB shared",
        "hypercalls per share",
        "TLB invalidations per share",
        "memory in EL2's linear window, 2 MiB shared",
        "descriptors read by a walk of the MMU",
        "share and unshare, page beside shared ones",
        "EL2 looks a page up and reads a word of it",
        "TLB invalidations per unshare",
    ],
    columns: &["map=ondemand", "map=linear"],
};

const GUESTS_CELLS: Cells = Cells {
    cpus: &[],
    rows: &[
        "HVC that the hypervisor answers",
        "MMIO exit to user space and back",
        "stage-2 fault, page of 4 KiB",
        "stage-2 fault, block of 2 MiB",
    ],
    columns: &["stock KVM", "eltwo"],
};

/// The stock KVM is built in, and one CPU cannot go offline.
const LIFECYCLE_CELLS: [Cells; 4] = [
    Cells {
        cpus: &[1, 2, 4, 8],
        rows: &["insmod", "rmmod"],
        columns: &["eltwo bare", "eltwo checked"],
    },
    Cells {
        cpus: &[1],
        rows: &["reset alone"],
        columns: &["eltwo bare", "eltwo checked"],
    },
    Cells {
        cpus: &[2, 4, 8],
        rows: &["offline", "online"],
        columns: &["no KVM", "stock KVM", "eltwo bare", "eltwo checked"],
    },
    Cells {
        cpus: &[2, 4, 8],
        rows: &["init", "reset"],
        columns: &["stock KVM", "eltwo bare", "eltwo checked"],
    },
];

/// All benches.
pub const BENCHES: [Bench; 3] = [
    Bench {
        name: "maps",
        title: "What EL2 maps: on demand, or all of RAM",
        notes: &[],
        runs: &[MAPS],
        columns: &[],
        cells: &[MAPS_CELLS],
        ratios: &[],
    },
    Bench {
        name: "guests",
        title: "What an exit of a guest costs: the kernel's own KVM, and eltwo",
        notes: &[],
        runs: &[GUESTS_STOCK, GUESTS],
        columns: &[],
        cells: &[GUESTS_CELLS],
        ratios: &[Ratio {
            title: "eltwo/stock",
            of: "eltwo",
            to: "stock KVM",
            limits: &[("", 1.0)],
        }],
    },
    Bench {
        name: "lifecycle",
        title: "What it costs to take EL2 over and to give it back",
        notes: &[
            "All CPUs together, from the start of the system call to its end; idle CPUs execute none.",
            "One machine and kernel, booted with kvm-arm.mode=nvhe (stock KVM) or none (all else).",
            "init, reset: what the hypervisor does in online and offline. reset alone: a hypercall.",
            "There the stock KVM also switches its timers' and its GIC's interrupts, which eltwo has not.",
            "bare: selfcheck=0, as the stock KVM compares no registers. checked: selfcheck=1, the default.",
        ],
        runs: &LIFECYCLE,
        columns: &["no KVM", "stock KVM", "eltwo bare", "eltwo checked"],
        cells: &LIFECYCLE_CELLS,
        ratios: &[
            ratio("stock/none", "stock KVM", "no KVM", &[]),
            // The whole of hotplug, in which CPUs wait for each other, differs by some % from one machine to the next.
            ratio("bare/none", "eltwo bare", "no KVM", &[("offline", 1.1), ("online", 1.05)]),
            // Init reads all registers, each by a stub call, and keeps them; the stock KVM keeps none.
            ratio(
                "bare/stock",
                "eltwo bare",
                "stock KVM",
                &[(": init", 2.5), (": reset", 1.0)],
            ),
            // And reads them again, and says in the log that they are equal.
            ratio(
                "checked/stock",
                "eltwo checked",
                "stock KVM",
                &[(": init", 2.5), (": reset", 8.0)],
            ),
        ],
    },
];

const fn ratio(
    title: &'static str,
    of: &'static str,
    to: &'static str,
    limits: &'static [(&'static str, f64)],
) -> Ratio {
    Ratio {
        title,
        of,
        to,
        limits,
    }
}
