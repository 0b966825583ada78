// SPDX-License-Identifier: GPL-2.0-only

//! The machine beside its model.

use std::{
    collections::BTreeMap,
    mem::take,
    path::Path,
    time::Duration, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use nix::libc;

use super::{
    helper::{
        Hooks,
        Owner, //
    },
    model::{
        Model,
        State, //
    },
    table::Hook,
    vms::Guest,
};
use crate::{
    guest::{
        cpu,
        debugfs::{
            self,
            hypercall, //
        },
        fault,
        kmsg::Log,
        module,
        poll, //
    },
    tests::equal_images,
};

/// How long the release of a closed VM may take.
const RELEASE: Duration = Duration::from_secs(10);

/// What all worlds of a test have in common.
pub struct Ground {
    /// The test module.
    pub hooks: Hooks,
    /// VBAR_EL2 of the stub, by CPU.
    pub vbar: BTreeMap<usize, u64>,
    /// ICH_VTR_EL2, by CPU, and how the stub answers.
    pub ich_vtr: BTreeMap<usize, (u64, u64)>,
}

impl Ground {
    /// Loads the test module, and looks at EL2 under the stub.
    pub fn prepare() -> Result<Self> {
        let hooks = Hooks::load()?;
        let mut ich_vtr = BTreeMap::new();
        for cpu in cpu::online()? {
            let answers = hooks.run(cpu, "call:4:0")?;
            ich_vtr.insert(cpu, answers[0]);
        }
        let loaded = fault::load()?;
        let registers = debugfs::registers()?;
        let vbar = registers
            .iter()
            .filter(|register| register.name == "VBAR_EL2")
            .map(|register| (register.cpu, register.before))
            .collect();
        loaded.unload()?;
        Ok(Self {
            hooks,
            vbar,
            ich_vtr,
        })
    }
}

/// How closely the machine is looked at after a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// At everything.
    Close,
    /// Not through eltwo, which could notice something by being asked.
    FromAfar,
}

/// The machine beside its model.
pub struct World<'a> {
    /// What all have in common.
    pub ground: &'a Ground,
    /// What must be.
    pub model: Model,
    /// The guest, if there is one.
    pub guest: Option<Guest>,
    log: Log,
}

impl<'a> World<'a> {
    /// The machine as it is, without the module and with all CPUs online.
    pub fn new(ground: &'a Ground) -> Result<Self> {
        let cpus = cpu::present()?;
        cpu::expect_online(&cpus)?;
        Ok(Self {
            ground,
            model: Model::new(cpus.len()),
            guest: None,
            log: Log::from_now()?,
        })
    }

    /// The CPU that hooks of one CPU happen to: the last that is online.
    pub fn target(&self) -> usize {
        let online = self.model.cpus.iter().rposition(|cpu| cpu.online);
        online.unwrap_or_default()
    }

    /// The CPU that goes and comes.
    pub fn last(&self) -> usize {
        self.model.cpus.len() - 1
    }

    /// Makes `hook` happen, and compares the machine with the model.
    pub fn step(&mut self, hook: &Hook, look: Look) -> Result<()> {
        self.step_on(self.target(), hook, look)
    }

    /// As [`Self::step`]; a hook of one CPU happens to `target`, which is online.
    pub fn step_on(&mut self, target: usize, hook: &Hook, look: Look) -> Result<()> {
        (hook.make)(self, target).with_context(|| format!("making {} happen", hook.name))?;
        (hook.expect)(&mut self.model, target);
        self.check(look)
            .with_context(|| format!("after {} on CPU {target}", hook.name))
    }

    /// Compares the machine with the model.
    pub fn check(&mut self, look: Look) -> Result<()> {
        let online = self.model.online_cpus();
        cpu::expect_online(&online)?;
        ensure!(
            module::is_loaded()? == self.model.loaded,
            "the module is{} loaded",
            if self.model.loaded { " not" } else { "" }
        );
        ensure!(
            Path::new("/sys/kernel/debug/eltwo").exists() == self.model.loaded,
            "debugfs shows otherwise"
        );
        for &cpu in &online {
            let model = &self.model.cpus[cpu];
            let owner = match model.state {
                State::Hyp => Owner::Eltwo,
                State::Stub | State::Faulted => Owner::Stub,
            };
            self.ground
                .hooks
                .expect_owner(cpu, owner)
                .with_context(|| format!("expected is {model:?}"))?;
        }
        if look == Look::FromAfar {
            return self.check_log();
        }
        if self.model.loaded {
            self.check_states()?;
            for &cpu in &online {
                self.check_ping(cpu)?;
            }
        }
        // Looking has found out, if nothing else has.
        self.model.see_all();
        self.check_log()?;
        match &self.guest {
            Some(guest) if !self.model.closed => guest.advance().context("the guest"),
            _ => Ok(()),
        }
    }

    /// Each CPU's line in debugfs.
    fn check_states(&self) -> Result<()> {
        let rows = debugfs::cpus()?;
        ensure!(rows.len() == self.model.cpus.len(), "{rows:x?}");
        for (row, cpu) in rows.iter().zip(&self.model.cpus) {
            let state = match cpu.online {
                true => cpu.state.name(),
                false => "absent",
            };
            ensure!(
                row.state == state
                    && (row.inits, row.resets, row.faults) == (cpu.inits, cpu.resets, cpu.faults),
                "debugfs shows {row:x?}, expected is {cpu:?}"
            );
            if row.state == "hyp" {
                debugfs::expect_hyp(row)?;
            } else {
                ensure!(row.vbar.is_none(), "{row:x?}");
            }
        }
        Ok(())
    }

    /// A hypercall on `cpu` works or is refused.
    fn check_ping(&self, cpu: usize) -> Result<()> {
        cpu::on(cpu, || match self.model.cpus[cpu].state {
            State::Hyp => {
                let echo = hypercall("ping 5 6 7 8")?.ok()?;
                ensure!(echo == [5, 6, 7, 8], "ping gives {echo:?}");
                Ok(())
            }
            _ => {
                let error = debugfs::write("hypercall", "ping 1").err();
                let errno = error.as_ref().and_then(std::io::Error::raw_os_error);
                ensure!(errno == Some(libc::EBUSY), "ping gives {error:?}");
                Ok(())
            }
        })
    }

    /// The register image was compared, and found equal, on the CPUs on which that was due.
    pub fn check_log(&mut self) -> Result<()> {
        let lines = self.log.eltwo()?;
        let compared = equal_images(&lines)?;
        let wanted = take(&mut self.model.compared);
        let missing = wanted.iter().find(|cpu| !compared.contains_key(*cpu));
        let surplus = compared
            .keys()
            .find(|cpu| !wanted.contains(cpu) && !self.model.may_be_compared(**cpu));
        ensure!(
            missing.is_none() && surplus.is_none(),
            "register images were compared on CPUs {:?}, expected {wanted:?}: {lines:?}",
            compared.keys()
        );
        self.model.note_compared(|cpu| compared.contains_key(&cpu));
        let trouble = lines.iter().find(|line| line.contains("not given back"));
        ensure!(trouble.is_none(), "{trouble:?}");
        Ok(())
    }

    /// Reads the log where nobody can tell on which CPUs register images were compared. None may differ.
    pub fn skip_log(&mut self) -> Result<()> {
        equal_images(&self.log.eltwo()?).map(drop)
    }

    /// Ends the guest, unloads the module and brings all CPUs online, all of which must work.
    pub fn finish(&mut self) -> Result<()> {
        if let Some(guest) = self.guest.take() {
            guest.end(self.model.closed)?;
            self.model.guest = false;
        }
        if self.model.loaded {
            poll::until(RELEASE, module::unload)?;
            self.model.rmmod();
            module::nothing_left()?;
        }
        for cpu in 0..self.model.cpus.len() {
            if !self.model.cpus[cpu].online {
                cpu::set_online(cpu, true)?;
                self.model.online(cpu);
            }
        }
        self.check(Look::Close).context("at the end")
    }
}
