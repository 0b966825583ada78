// SPDX-License-Identifier: GPL-2.0-only

//! An exception at EL2 is contained: the host lives, is told, and can unload the module and load it again.
//!
//! With guests: `guest_fault`.

use std::path::Path;

use anyhow::{
    ensure,
    Context,
    Result, //
};
use nix::libc;

use super::standard;
use crate::{
    guest::{
        cpu,
        debugfs::{
            self,
            hypercall,
            Status, //
        },
        fault::{
            self,
            Kind,
            Place,
            KINDS, //
        },
        kmsg::Log,
        module, //
    },
    hooks::helper::{
        self,
        Hooks,
        Owner, //
    },
    ktap::{
        note,
        Shared,
        Test, //
    },
};

pub fn test() -> Test {
    let hooks = Shared::new();
    let mut test = standard().needs(helper::needed);
    for kind in KINDS {
        let name = format!("{}_is_contained_on_every_cpu", kind.name);
        let hooks = hooks.clone();
        test = test.case(name, move || {
            let hooks = hooks.get(Hooks::load)?;
            for cpu in cpu::online()? {
                contained(kind, cpu, hooks)
                    .with_context(|| format!("{} on CPU {cpu}", kind.name))?;
            }
            Ok(())
        });
    }
    test.case("hotplug_works_after_a_fault", move || {
        hotplug_after_fault(hooks.get(Hooks::load)?)
    })
    .case("unknown_way_einval", unknown_way)
    .case("without_provoke_no_way", no_way)
}

/// A fault on `cpu` of a fresh module.
fn contained(kind: Kind, cpu: usize, hooks: &Hooks) -> Result<()> {
    let loaded = fault::load()?;
    debugfs::expect_online_are_hyp()?;
    cpu::on(cpu, || hypercall("ping 1")?.ok().map(|_| ()))?;
    ensure!(
        debugfs::read("log")?.is_empty(),
        "the log is not empty at first"
    );
    let mut kernel_log = Log::from_now()?;
    kind.provoke(cpu)?;
    let lines = kernel_log.eltwo()?;
    fault::expect_contained(cpu, &lines, hooks)?;
    let report = kind.check_report(cpu, Place::Call, &lines)?;
    if cpu == 0 {
        note(&report);
    }
    loaded.unload()
}

/// CPUs still come and go, the one that has faulted too; none of them is ours until the module is loaded again.
fn hotplug_after_fault(hooks: &Hooks) -> Result<()> {
    super::needs_two_cpus()?;
    let loaded = fault::load()?;
    let secondaries = cpu::secondaries()?;
    let first = secondaries[0];
    KINDS[0].provoke(first)?;
    for cpu in secondaries {
        cpu::set_online(cpu, false)?;
        cpu::set_online(cpu, true)?;
        ensure!(
            debugfs::cpu(cpu)?.state != "hyp",
            "CPU {cpu} was taken after the fault"
        );
        hooks.expect_owner_of_all(Owner::Stub)?;
    }
    loaded.unload()?;
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

fn unknown_way() -> Result<()> {
    let loaded = fault::load()?;
    for text in [
        "nonsense",
        "",
        " ",
        "brk brk",
        "brk call call",
        "read_unmapped",
    ] {
        match debugfs::write("provoke", text) {
            // Nothing was written, so the file was never called.
            Ok(()) => ensure!(text.is_empty(), "{text:?} was accepted"),
            Err(error) => ensure!(
                error.raw_os_error() == Some(libc::EINVAL),
                "{text:?}: {error}"
            ),
        }
    }
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

/// Without the parameter there is no file, and EL2 knows no such call.
fn no_way() -> Result<()> {
    let loaded = module::load()?;
    let file = Path::new("/sys/kernel/debug/eltwo/provoke");
    ensure!(!file.exists(), "{} is there", file.display());
    for cpu in cpu::online()? {
        for way in 0..KINDS.len() {
            cpu::on(cpu, || {
                hypercall(&format!("provoke {way}"))?.expect(Status::NotSupported)
            })?;
        }
    }
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}
