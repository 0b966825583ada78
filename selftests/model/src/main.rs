// SPDX-License-Identifier: GPL-2.0-only

//! Command line of the model.

use std::{
    path::PathBuf,
    process::ExitCode, //
};

use anyhow::Result;
use clap::{
    Parser,
    Subcommand, //
};
use eltwo_model::{
    elf::Image,
    mutants::{
        self,
        Mutant,
        Verdict, //
    },
    scenario, //
};

/// Runs the EL2 image of eltwo on a hostile model of the machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Play all scenarios, or one.
    Run {
        /// The linked image, eltwo_hyp.elf.
        #[arg(long)]
        elf: PathBuf,
        /// Only this scenario.
        #[arg(long)]
        only: Option<String>,
    },
    /// Take each maintenance instruction out in turn: a scenario must fail each time.
    Mutants {
        /// The linked image, eltwo_hyp.elf.
        #[arg(long)]
        elf: PathBuf,
        /// Only instructions of the image whose place, function and distance, has this in it.
        #[arg(long)]
        only: Option<String>,
    },
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Run { elf, only } => run(&Image::read(&elf)?, only.as_deref()),
        Command::Mutants { elf, only } => mutate(&Image::read(&elf)?, only.as_deref()),
    }
}

fn run(image: &Image, only: Option<&str>) -> Result<ExitCode> {
    let mut failed = 0;
    for scenario in scenario::ALL {
        if only.is_some_and(|only| only != scenario.name) {
            continue;
        }
        match scenario.run(image) {
            Ok(()) => println!("ok      {}", scenario.name),
            Err(error) => {
                failed += 1;
                println!("FAILED  {}: {error:#}", scenario.name);
            }
        }
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn mutate(image: &Image, only: Option<&str>) -> Result<ExitCode> {
    let mutants = match only {
        None => mutants::run(image)?,
        Some(only) => mutants::of_image(image, only)?,
    };
    mutants.iter().for_each(show);
    let left: Vec<_> = mutants
        .iter()
        .filter(|mutant| !mutant.is_killed())
        .collect();
    if !left.is_empty() {
        println!("\nnot killed:");
        left.iter().copied().for_each(show);
    }
    let not_reached = mutants::not_reached(image);
    for (function, instructions) in &not_reached {
        println!("NOT REACHED: {instructions} instructions of {function}");
    }
    println!(
        "mutants: killed {} of {}",
        mutants.len() - left.len(),
        mutants.len()
    );
    let settled = left.iter().all(|mutant| mutant.is_argued());
    Ok(if settled && not_reached.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One line of the table.
fn show(mutant: &Mutant) {
    let verdict = match &mutant.verdict {
        Verdict::Killed { by, reason } => format!("killed by {by}: {reason}"),
        Verdict::Argued(reason) => format!("argued: {reason}"),
        Verdict::Survived => "SURVIVED".into(),
    };
    println!(
        "{:<26} {:<20} {:<26} {verdict}",
        mutant.place, mutant.line, mutant.text
    );
}
