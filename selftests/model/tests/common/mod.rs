// SPDX-License-Identifier: GPL-2.0-only

//! The image under test, and ways to spoil it.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    env,
    path::Path, //
};

use eltwo_model::{
    elf::Image,
    insn::{
        self,
        NOP, //
    },
};

/// The image that `ELTWO_HYP_ELF` names.
pub fn image() -> Image {
    let path = env::var_os("ELTWO_HYP_ELF")
        .expect("ELTWO_HYP_ELF must name the linked EL2 image, hyp/eltwo_hyp.elf of a build");
    Image::read(Path::new(&path)).unwrap()
}

/// The offset of instruction number `nth` with this text in a function.
pub fn find(image: &Image, function: &str, text: &str, nth: usize) -> u64 {
    let range = image.function(function).unwrap().range.clone();
    let is_it = |offset: &u64| insn::disassemble(image.word(*offset).unwrap()) == text;
    let found = range.step_by(4).filter(is_it).nth(nth);
    found.unwrap_or_else(|| panic!("{function} has no {text} number {nth}"))
}

/// The image with another instruction in that place.
pub fn replace(image: &Image, function: &str, text: &str, nth: usize, word: u32) -> Image {
    image.patched(find(image, function, text, nth), word)
}

/// The image without that instruction.
pub fn without(image: &Image, function: &str, text: &str, nth: usize) -> Image {
    replace(image, function, text, nth, NOP)
}

/// Fails unless the run ended in a violation that tells of `reason`.
#[track_caller]
pub fn assert_caught(run: anyhow::Result<()>, reason: &str) {
    let error = run.expect_err("it must be caught");
    let text = error.to_string();
    let first = text.lines().next().unwrap_or("");
    assert!(first.contains(reason), "caught for another reason: {first}");
}
