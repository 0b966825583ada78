// SPDX-License-Identifier: GPL-2.0-only

//! The test module `eltwo_hooks`: CPU PM, and calls of EL2, on a chosen CPU.

use std::{
    fs,
    path::Path, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};

use crate::{
    guest::{
        cpu,
        module::Helper, //
    },
    ktap::Skip, //
};

const MODULE: &str = "/eltwo_hooks.ko";
const RUN: &str = "/sys/kernel/debug/eltwo_hooks/run";

/// Who owns EL2 of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The kernel's stub.
    Stub,
    /// Eltwo.
    Eltwo,
}

/// What the stub answers in x0 to a call that it does not know.
pub const STUB_ERR: u64 = 0x0bad_ca11;
/// x0 and x1 of eltwo's answer to `ask`: done, version 1.
pub const ELTWO: (u64, u64) = (0, 1);

/// Skips where the module is not at hand.
pub fn needed() -> Result<()> {
    if !Path::new(MODULE).exists() {
        return Skip::because(format!("no {MODULE}"));
    }
    Ok(())
}

/// The module is loaded for as long as this lives.
pub struct Hooks(Helper);

impl Hooks {
    /// Loads it.
    pub fn load() -> Result<Self> {
        Ok(Self(Helper::load(c"eltwo_hooks", MODULE)?))
    }

    /// Leaves it loaded when the test ends.
    pub fn keep(self) {
        self.0.keep();
    }

    /// Takes `steps` on `cpu` with interrupts off, and returns the two numbers that each gave.
    pub fn run(&self, cpu: usize, steps: &str) -> Result<Vec<(u64, u64)>> {
        fs::write(RUN, format!("{cpu} {steps}"))
            .with_context(|| format!("{steps} on CPU {cpu}"))?;
        let text = fs::read_to_string(RUN)?;
        let answers: Vec<(u64, u64)> = text
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace().skip(1);
                let mut number = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
                Some((number()?, number()?))
            })
            .collect();
        ensure!(
            answers.len() == steps.split_whitespace().count(),
            "{steps} on CPU {cpu} gave {text:?}"
        );
        Ok(answers)
    }

    /// Fails unless EL2 of `cpu` is `owner`'s, by what it answers to a call that only eltwo knows.
    pub fn expect_owner(&self, cpu: usize, owner: Owner) -> Result<()> {
        let answers = self.run(cpu, "ask")?;
        let answer = *answers.first().context("no answer")?;
        let found = match answer {
            ELTWO => Some(Owner::Eltwo),
            (STUB_ERR, _) => Some(Owner::Stub),
            _ => None,
        };
        ensure!(
            found == Some(owner),
            "EL2 of CPU {cpu} answers {answer:x?}, so its owner is {found:?}, expected {owner:?}"
        );
        Ok(())
    }

    /// The same for every CPU that is online.
    pub fn expect_owner_of_all(&self, owner: Owner) -> Result<()> {
        for cpu in cpu::online()? {
            self.expect_owner(cpu, owner)?;
        }
        Ok(())
    }
}
