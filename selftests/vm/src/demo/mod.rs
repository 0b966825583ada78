// SPDX-License-Identifier: GPL-2.0-only

//! The demo: one journey from a stock kernel to EL2 on every CPU and back, told as a story on the console.
//!
//! Every line begins with `DEMO `. A line that begins with `DEMO FAILED` ends the story early.

mod first;
mod guest;
mod second;
mod text;

use std::process::ExitCode;

use anyhow::Result;

use text::{
    failed,
    line, //
};

/// A chapter of the story: its title, and what it does and tells.
type Chapter = (&'static str, fn() -> Result<()>);

const FIRST: [Chapter; 10] = [
    ("The machine", first::machine),
    ("insmod eltwo.ko", first::insmod),
    ("What is mapped at EL2", first::memory_map),
    ("Hypercalls", first::hypercalls),
    ("A page shared with EL2", first::shared_page),
    ("A guest", guest::chapter),
    ("CPU hotplug", first::hotplug),
    ("A fault at EL2", first::fault),
    ("rmmod eltwo", first::rmmod),
    ("kexec with the module loaded", first::kexec),
];

const SECOND: [Chapter; 2] = [
    ("The second kernel", second::machine),
    ("Once more", second::once_more),
];

/// The story up to the start of the second kernel.
pub fn first_kernel() -> ExitCode {
    line("eltwo: KVM for arm64 as a loadable kernel module");
    tell(&FIRST, 1)
}

/// The rest of it.
pub fn second_kernel() -> ExitCode {
    tell(&SECOND, FIRST.len() + 1)
}

fn tell(chapters: &[Chapter], first: usize) -> ExitCode {
    for (number, (title, chapter)) in chapters.iter().enumerate() {
        line("");
        line(&format!("{}. {title}", first + number));
        if let Err(error) = chapter() {
            failed(&error);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
