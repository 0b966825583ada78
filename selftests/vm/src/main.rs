// SPDX-License-Identifier: GPL-2.0-only

//! Tests of eltwo that run inside the virtual machine, and the init that runs them.
//!
//! All programs are one static binary, as they share most of their code and live in an initramfs. The name that it is
//! called by says what it does: `init` is process 1, any other name is a test of `tests/`. `init list` prints the
//! names, `init NAME` runs one.

mod bench;
mod crash;
mod demo;
mod guest;
mod handover;
mod hibernation;
mod hooks;
mod init;
mod ktap;
mod kvm;
mod second_kernel;
mod soak;
mod tests;

use std::{
    env,
    path::Path,
    process::{
        self,
        ExitCode, //
    },
};

fn main() -> ExitCode {
    let mut arguments = env::args();
    let called = arguments.next().unwrap_or_default();
    let name = Path::new(&called)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if process::id() == 1 {
        init::run();
    }
    let name = if name == "init" {
        arguments.next().unwrap_or_else(|| "list".into())
    } else {
        name
    };
    match name.as_str() {
        "list" => {
            for program in tests::PROGRAMS {
                println!("{}", program.name);
            }
            ExitCode::SUCCESS
        }
        "demo" => demo::first_kernel(),
        "demo_second" => demo::second_kernel(),
        name => match tests::find(name) {
            Some(program) => (program.test)().run(),
            None => {
                eprintln!("there is no test {name:?}; `init list` prints the names");
                ExitCode::FAILURE
            }
        },
    }
}
