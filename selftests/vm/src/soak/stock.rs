// SPDX-License-Identifier: GPL-2.0-only

//! What the kernel has registered, counted, to find what is left behind.

use std::fs;

use anyhow::{
    ensure,
    Context,
    Result, //
};

use crate::{
    guest::cpu,
    hooks::helper::Hooks, //
};

/// The kernel's registrations.
#[derive(Debug, PartialEq, Eq)]
pub struct Stock {
    /// Lines of `/proc/interrupts`, without their counts.
    interrupts: Vec<String>,
    /// Hotplug states.
    hotplug: Vec<(u32, String)>,
    /// CPU PM notifiers, and syscore operations.
    notifiers: u64,
    syscore: u64,
    /// Devices of `/proc/misc` and `/proc/devices`.
    devices: Vec<String>,
    /// `/proc/modules`, names only.
    modules: Vec<String>,
}

impl Stock {
    /// Takes stock.
    pub fn take(hooks: &Hooks) -> Result<Self> {
        let counts = hooks.run(0, "chains")?;
        let (notifiers, syscore) = *counts.first().context("no counts")?;
        // The test module's own are among them.
        ensure!(notifiers > 1 && syscore > 1, "{counts:?}");
        let interrupts = lines("/proc/interrupts")?
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(number, rest)| {
                let is_count = |word: &&str| word.parse::<u64>().is_ok();
                let rest: Vec<&str> = rest.split_whitespace().skip_while(is_count).collect();
                format!("{} {}", number.trim(), rest.join(" "))
            })
            .collect();
        let mut devices = lines("/proc/misc")?;
        devices.extend(lines("/proc/devices")?);
        let modules = lines("/proc/modules")?
            .iter()
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_string)
            .collect();
        Ok(Self {
            interrupts,
            hotplug: cpu::hotplug_states()?,
            notifiers,
            syscore,
            devices,
            modules,
        })
    }

    /// Counts in one line.
    pub fn figures(&self) -> String {
        format!(
            "interrupts {}, hotplug states {}, CPU PM notifiers {}, syscore operations {}, devices {}",
            self.interrupts.len(),
            self.hotplug.len(),
            self.notifiers,
            self.syscore,
            self.devices.len()
        )
    }
}

fn lines(file: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| file.to_string())?;
    Ok(text.lines().map(str::to_string).collect())
}
