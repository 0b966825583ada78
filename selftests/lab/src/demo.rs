// SPDX-License-Identifier: GPL-2.0-only

//! `make demo`: the journey of the module, told by a program in the VM, with the times at which things happened.

use std::{
    fs,
    time::Instant, //
};

use anyhow::{
    Context as _,
    Result, //
};

use crate::{
    cmd::{
        self,
        Failure, //
    },
    image::Sizes,
    runs::Run,
    session::Session,
    ui::Ui, //
};

/// How the program in the VM marks the lines of its story.
const MARK: &str = "DEMO ";

/// How such a line starts if something did not go as it should.
const FAILED: &str = "FAILED";

/// How its last line starts.
const END: &str = "That was the whole journey";

/// Lines of the console that are shown if the journey ends badly.
const CONSOLE_TAIL: usize = 40;

/// Shows the demo.
pub fn run(ui: &Ui, session: &Session<'_>, run: &Run) -> Result<()> {
    let products = session.products(run.flavour)?;
    let data = fs::read(&products.image).context("cannot read the EL2 image")?;
    ui.line("");
    ui.line(format_args!("EL2 image:  {}", Sizes::read(&data)?));
    let module_bytes = fs::metadata(&products.module)?.len();
    ui.line(format_args!(
        "module:     {module_bytes} bytes, without debug information"
    ));
    ui.line(format_args!(
        "machine:    QEMU virt with EL2, {}; stock Debian kernel, its own KVM off",
        run.description()
    ));
    ui.line("");
    let start = Instant::now();
    let mut wrong = Vec::new();
    let mut last = String::new();
    let tally = session.run(run, |line| {
        if let Some(story) = line.text().strip_prefix(MARK) {
            if story.starts_with(FAILED) {
                wrong.push(story.to_owned());
            }
            ui.line(format_args!(
                "{:>7.2} s  {story}",
                start.elapsed().as_secs_f64()
            ));
            story.clone_into(&mut last);
        }
    })?;
    ui.line("");
    wrong.extend(tally.failed);
    if !last.starts_with(END) {
        wrong.push(format!("the story breaks off after: {last}"));
    }
    if wrong.is_empty() {
        ui.line(format_args!(
            "the journey took {:.1} s",
            start.elapsed().as_secs_f64()
        ));
        return Ok(());
    }
    let console = session.vm_dir(run.name).join("console.log");
    for line in cmd::tail(&console, CONSOLE_TAIL) {
        ui.line(format_args!("| {line}"));
    }
    let cause = format!("the journey did not go as planned: {}", wrong.join("; "));
    Err(Failure::new(
        cause,
        "see the console above; `make check` tests each part by itself",
    )
    .with_log(&console)
    .into())
}
