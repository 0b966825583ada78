// SPDX-License-Identifier: GPL-2.0-only

//! What becomes of the machine after the tests: a test may ask init for another end than switching it off.

use std::fs;

use anyhow::{
    Context,
    Result, //
};
use nix::sys::reboot::{
    reboot,
    RebootMode, //
};

use crate::{
    crash::Panic,
    guest::{
        debugfs,
        module::{
            self,
            Loaded, //
        },
    },
    hooks::helper::Hooks,
};

const FILE: &str = "/run/eltwo-handover";

/// An end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Switch the machine off.
    PowerOff,
    /// Restart the machine.
    Reboot,
    /// Start the kernel that has been loaded by kexec.
    Kexec,
    /// Panic, so that the crash kernel starts.
    Crash,
}

impl End {
    const ALL: [End; 4] = [End::PowerOff, End::Reboot, End::Kexec, End::Crash];

    /// As init announces it.
    pub fn name(self) -> &'static str {
        match self {
            End::PowerOff => "poweroff",
            End::Reboot => "reboot",
            End::Kexec => "kexec",
            End::Crash => "crash",
        }
    }

    /// Does it. Returns only if that fails.
    pub fn go(self) -> anyhow::Error {
        let mode = match self {
            End::PowerOff => RebootMode::RB_POWER_OFF,
            End::Reboot => RebootMode::RB_AUTOBOOT,
            End::Kexec => RebootMode::RB_KEXEC,
            End::Crash => return Panic::ordered().map_or_else(|error| error, Panic::go),
        };
        match reboot(mode) {
            Ok(never) => match never {},
            Err(error) => error.into(),
        }
    }

    /// Asks init for this end.
    pub fn request(self) -> Result<()> {
        fs::write(FILE, self.name()).context(FILE)
    }

    /// The end that was asked for last.
    pub fn requested() -> Self {
        let asked = fs::read_to_string(FILE).unwrap_or_default();
        Self::ALL
            .into_iter()
            .find(|end| end.name() == asked)
            .unwrap_or(End::PowerOff)
    }
}

/// Eltwo is loaded and stays so while the kernel goes down. The test module then says on the console who owns EL2 of each CPU,
/// which is for the lab to judge.
#[must_use]
pub struct GoingDown {
    witness: Hooks,
    loaded: Loaded,
}

impl GoingDown {
    /// Loads both; every CPU is at EL2 with us.
    pub fn load() -> Result<Self> {
        // The first to come is the last whose turn it is at shutdown.
        let witness = Hooks::load()?;
        let loaded = module::load()?;
        debugfs::expect_online_are_hyp()?;
        Ok(Self { witness, loaded })
    }

    /// Ends the test with both loaded and every CPU at EL2. init goes on with `end`.
    pub fn go(self, end: End) -> Result<()> {
        debugfs::expect_online_are_hyp()?;
        end.request()?;
        self.loaded.keep();
        self.witness.keep();
        Ok(())
    }
}
