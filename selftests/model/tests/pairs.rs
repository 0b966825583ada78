// SPDX-License-Identifier: GPL-2.0-only

//! What is easily done wrong in the code that changes the address space, each beside the way that is right.
//!
//! The good half of each pair is `sequence_as_linked_is_clean`, or stands beside the bad one. The list is that of the
//! review of the first patches that tore KVM down for kexec on arm64, and of `hyp-init.S` since.

mod common;

use common::{
    assert_caught,
    find,
    image,
    replace,
    without, //
};
use eltwo_model::{
    elf::Image,
    insn::NOP,
    scenario::{
        drive::{
            self,
            Leave, //
        },
        single::there_and_back, //
    },
    world::{
        Change,
        Ground,
        World, //
    },
};

const WAYS: [Leave; 4] = [
    Leave::Reset,
    Leave::ResetVectors,
    Leave::SetVectors,
    Leave::SoftRestart,
];

fn run(image: &Image) -> anyhow::Result<()> {
    there_and_back(image, &Ground::default(), &[], Leave::Reset)
}

fn run_changed(changes: &[Change]) -> anyhow::Result<()> {
    there_and_back(&image(), &Ground::default(), changes, Leave::Reset)
}

/// The same instructions with those at `places`, offsets from the start of the function, put in the order of `order`.
fn reordered(image: &Image, function: &str, first: &str, order: &[usize]) -> Image {
    let start = find(image, function, first, 0);
    let words: Vec<u32> = (0..order.len() as u64)
        .map(|number| image.word(start + number * 4).unwrap())
        .collect();
    order
        .iter()
        .enumerate()
        .fold(image.clone(), |image, (place, from)| {
            image.patched(start + place as u64 * 4, words[*from])
        })
}

#[test]
fn sequence_as_linked_is_clean() {
    for way in WAYS {
        there_and_back(&image(), &Ground::default(), &[], way).unwrap();
    }
}

#[test]
fn init_without_tlbi_of_el2_is_caught() {
    let image = without(&image(), "eltwo_init", "tlbi alle2", 0);
    assert_caught(run(&image), "TlbConflict");
}

#[test]
fn init_without_tlbi_of_el1_is_caught() {
    let image = without(&image(), "eltwo_init", "tlbi alle1", 0);
    assert_caught(run(&image), "StaleTranslation");
}

#[test]
fn init_without_dsb_behind_tlbi_is_caught() {
    let image = without(&image(), "eltwo_init", "dsb nsh", 0);
    assert_caught(run(&image), "TlbConflict");
}

#[test]
fn init_that_turns_mmu_on_before_invalidation_of_icache_is_caught() {
    let image = without(&image(), "eltwo_init", "ic iallu", 0);
    let run = there_and_back(
        &image,
        &Ground::default(),
        &[Change::CleanLeast],
        Leave::Reset,
    );
    assert_caught(run, "StaleInstruction");
}

#[test]
fn init_without_isb_between_registers_and_mmu_is_caught() {
    let image = without(&image(), "eltwo_init", "isb", 0);
    assert_caught(run(&image), "TlbConflict");
}

/// "Invalidating the TLBs before switching TTBR0_EL2 is unlikely to have the effect you want."
#[test]
fn init_with_tlbi_before_switch_is_caught() {
    // msr, isb, tlbi, dsb -> tlbi, dsb, msr, isb
    let image = reordered(&image(), "eltwo_init", "msr ttbr0_el2, x4", &[2, 3, 0, 1]);
    assert_caught(run(&image), "StaleTranslation");
}

#[test]
fn reset_with_tlbi_before_switch_is_caught() {
    // msr, isb, tlbi, dsb, isb -> tlbi, dsb, isb, msr, isb
    let order = [2, 3, 4, 0, 1];
    let image = reordered(&image(), "eltwo_reset", "msr ttbr0_el2, x11", &order);
    assert_caught(run(&image), "StaleTranslation");
}

#[test]
fn reset_without_tlbi_with_mmu_off_is_caught() {
    let image = without(&image(), "eltwo_reset", "tlbi alle2", 1);
    assert_caught(run(&image), "StaleTranslation");
}

/// Invalidated while the MMU is on, entries come back.
#[test]
fn reset_with_tlbi_before_mmu_off_is_caught() {
    // msr sctlr, isb, msr vbar, tlbi, dsb -> tlbi, dsb, (isb), msr sctlr, msr vbar
    let image = reordered(
        &image(),
        "eltwo_reset",
        "msr sctlr_el2, x5",
        &[3, 4, 1, 0, 2],
    );
    assert_caught(run(&image), "TlbConflict");
}

/// "Reach the idmap before M = 0."
#[test]
fn reset_that_stays_in_trampoline_is_caught() {
    let image = without(&image(), "eltwo_reset", "sub x14, x14, x12", 0);
    assert_caught(run(&image), "Unsynchronised");
}

#[test]
fn reset_without_isb_before_mmu_off_is_caught() {
    let isb_before = find(&image(), "eltwo_reset", "msr sctlr_el2, x5", 0) - 4;
    assert_caught(run(&image().patched(isb_before, NOP)), "E1041");
}

#[test]
fn reset_without_isb_behind_mmu_off_is_caught() {
    let isb_behind = find(&image(), "eltwo_reset", "msr sctlr_el2, x5", 0) + 4;
    assert_caught(run(&image().patched(isb_behind, NOP)), "TlbConflict");
}

/// A SCTLR_EL2 that is computed, and computed wrongly, instead of the one that was found.
#[test]
fn reset_with_another_sctlr_is_caught() {
    // and x5, x5, #~4096 has no room; x13 is 0: the answer of RESET_VECTORS.
    let msr_sctlr_x13 = 0xd51c_100d;
    let image = replace(
        &image(),
        "eltwo_reset",
        "msr sctlr_el2, x5",
        0,
        msr_sctlr_x13,
    );
    assert_caught(run(&image), "SCTLR_EL2");
}

#[test]
fn reset_that_keeps_vectors_is_caught() {
    let image = without(&image(), "eltwo_reset", "msr vbar_el2, x6", 0);
    assert_caught(run(&image), "VBAR_EL2");
}

/// Trap bits go back to the host as they were: a stray write of HCR_EL2 shows.
#[test]
fn reset_that_touches_trap_bits_is_caught() {
    // In place of the second comparison, of which this way does not depend. x13 is 0.
    let msr_hcr_x13 = 0xd51c_110d;
    let image = replace(
        &image(),
        "eltwo_reset",
        "subs xzr, x0, #0x0",
        0,
        msr_hcr_x13,
    );
    assert_caught(run(&image), "HCR_EL2");
}

#[test]
fn soft_restart_without_isb_is_caught() {
    let last = find(&image(), "eltwo_reset", "orr x16, xzr, x1", 0) - 4;
    let image = image().patched(last, NOP);
    let run = there_and_back(&image, &Ground::default(), &[], Leave::SoftRestart);
    assert_caught(run, "Unsynchronised");
}

/// The stub is the only one who knows whether a CPU has been reset: a second reset is a call that it does not know.
#[test]
fn reset_of_cpu_at_stub_is_refused_by_stub() {
    let mut world = World::new(&image(), &Ground::default(), &[]).unwrap();
    drive::bring_up(&mut world, 0).unwrap();
    drive::take_down(&mut world, 0, Leave::Reset).unwrap();
    let exit = world.hvc(0, Leave::Reset.call()).unwrap();
    assert_eq!(exit, drive::BACK);
    assert_eq!(world.cores[0].x[0], eltwo::common::abi::HVC_STUB_ERR);
    drive::check_down(&mut world, 0, &[]).unwrap();
}

#[test]
fn context_that_is_not_cleaned_is_caught() {
    assert_caught(run_changed(&[Change::SkipCleanOfContext]), "UncleanedRead");
}

#[test]
fn image_that_is_not_cleaned_is_caught() {
    assert_caught(run_changed(&[Change::SkipCleanOfImage]), "UncleanedRead");
}

/// With SCTLR_EL2.I found set even the first instruction comes out of the instruction cache.
#[test]
fn image_that_is_not_invalidated_is_caught() {
    let ground = Ground {
        icache_on: true,
        ..Ground::default()
    };
    let changes = [Change::SkipInvalidateOfCode];
    let run = there_and_back(&image(), &ground, &changes, Leave::Reset);
    assert_caught(run, "StaleInstruction");
}

#[test]
fn exception_return_without_speculation_barrier_is_caught() {
    let image = without(&image(), "eltwo_call", "dsb nsh", 0);
    assert_caught(run(&image), "speculation past ERET");
}

#[test]
fn branch_to_a_page_of_somebody_else_is_caught() {
    // add x1, x1, x8 -> add x1, x1, #1, lsl #12: the page behind the idmap page.
    let next_page = 0x9140_0421;
    let image = replace(&image(), "eltwo_init", "add x1, x1, x8", 0, next_page);
    assert_caught(run(&image), "NotMapped");
}
