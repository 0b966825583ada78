// SPDX-License-Identifier: GPL-2.0-only

//! What is easily done wrong in a switch between the host and guests, each beside the way that is right. That no instruction of
//! it can go is for `mutants.rs`.

mod common;

use common::{
    assert_caught,
    find,
    image,
    without, //
};
use eltwo_model::{
    elf::Image,
    scenario::{
        self,
        guest::vcpus_in_turn, //
    },
};

fn run(image: &Image, name: &str) -> anyhow::Result<()> {
    let all = scenario::ALL.iter();
    let scenario = all.filter(|scenario| scenario.name == name).last();
    scenario.expect("there is such a scenario").run(image)
}

/// The image with two instructions of `function` in each other's place: the first ones with these texts behind `from`.
fn swapped(image: &Image, function: &str, from: u64, texts: [&str; 2]) -> Image {
    let range = image.function(function).unwrap().range.clone();
    let [one, other] = texts.map(|text| {
        (0..)
            .map(|nth| find(image, function, text, nth))
            .find(|offset| *offset >= range.start + from)
            .unwrap()
    });
    let words = [one, other].map(|offset| image.word(offset).unwrap());
    image.patched(one, words[1]).patched(other, words[0])
}

#[test]
fn vcpus_good_with_flush_between_pass() {
    vcpus_in_turn(&image(), true).unwrap();
}

#[test]
fn vcpus_bad_without_flush_is_caught() {
    assert_caught(vcpus_in_turn(&image(), false), "StaleTranslation");
}

#[test]
fn vcpus_bad_flush_of_tlb_alone_is_caught() {
    let image = without(&image(), "eltwo_run_vcpu", "ic iallu", 0);
    assert_caught(vcpus_in_turn(&image, true), "StaleInstruction");
}

#[test]
fn walks_good_sctlr_before_tcr_passes() {
    run(&image(), "guest_speculative_at").unwrap();
}

#[test]
fn walks_bad_tcr_before_sctlr_is_caught() {
    let image = image();
    let range = image.function("eltwo_run_vcpu").unwrap().range.clone();
    let behind = find(&image, "eltwo_run_vcpu", "msr hcr_el2, x10", 0) - range.start;
    let texts = ["msr sctlr_el1, x4", "msr tcr_el1, x5"];
    let image = swapped(&image, "eltwo_run_vcpu", behind, texts);
    assert_caught(run(&image, "guest_speculative_at"), "MixedVmid");
}

#[test]
fn buffers_good_drained_before_closed_passes() {
    run(&image(), "guest_extras").unwrap();
}

#[test]
fn buffers_bad_closed_before_drained_is_caught() {
    let texts = ["dsb nsh", "msr pmblimitr_el1, xzr"];
    let image = swapped(&image(), "eltwo_extra_enter", 0, texts);
    assert_caught(run(&image, "guest_extras"), "Buffer");
}
