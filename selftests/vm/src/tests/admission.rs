// SPDX-License-Identifier: GPL-2.0-only

//! A CPU that differs from the others is refused with its reason, and the module goes on without it. The CPUs of an emulated
//! machine are alike, so the module is told false values of one's ID registers (`fake_id`, `fake_value`, `fail_cpu`).

use anyhow::{
    ensure,
    Result, //
};
use nix::errno::Errno;

use super::{
    needs_two_cpus,
    standard, //
};
use crate::{
    guest::{
        cpu,
        debugfs::{
            self,
            hypercall, //
        },
        kmsg::Log,
        module, //
    },
    ktap::Test,
};

/// A CPU that differs: the register that says so, its value, and words of the refusal.
struct Differs {
    name: &'static str,
    register: u32,
    value: u64,
    words: &'static str,
}

/// All pages at both stages, but 32 bits of physical address. ID_AA64MMFR0_EL1.
const PA_RANGE: Differs = Differs {
    name: "PARange",
    register: 1,
    value: 1 << 20,
    words: "it reaches 32 bits of physical address",
};

const DIFFERS: [Differs; 4] = [
    PA_RANGE,
    // 48 bits of physical address, and no page size at stage 1.
    Differs {
        name: "TGRAN",
        register: 1,
        value: 6 | (0xf << 24) | (0xf << 28),
        words: "its EL2 has no pages of",
    },
    // The same at stage 2.
    Differs {
        name: "TGRAN_2",
        register: 1,
        value: 6 | (2 << 20) | (1 << 28) | (1 << 32) | (1 << 36) | (1 << 40),
        words: "its stage 2 has no pages of",
    },
    // ICH_VTR_EL2: one list register.
    Differs {
        name: "ListRegs",
        register: 4,
        value: 0,
        words: "its GIC has 1 list registers",
    },
];

pub fn test() -> Test {
    standard()
        .needs(needs_two_cpus)
        .case("late_cpu_that_differs_is_refused", || {
            DIFFERS.iter().try_for_each(late)
        })
        .case("insmod_with_a_cpu_that_differs_is_refused", all_or_nothing)
        .case(
            "narrow_vmids_are_refused_where_others_are_wide",
            narrow_vmids,
        )
        .case("values_of_our_own_are_admitted", own_values)
}

fn last_cpu() -> Result<usize> {
    let secondaries = cpu::secondaries()?;
    Ok(secondaries[secondaries.len() - 1])
}

fn parameters(differs: &Differs, cpu: usize) -> String {
    let Differs {
        register, value, ..
    } = differs;
    format!("fake_id={register} fake_value={value:#x} fail_cpu={cpu}")
}

/// `lines` refuse `cpu`, and nobody else, with the words of `differs`.
fn expect_words(lines: &[String], cpu: usize, differs: &Differs) -> Result<()> {
    let refusals: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("refused: "))
        .collect();
    let name = format!("refused: CPU{cpu}: ");
    let mut named = refusals
        .iter()
        .filter(|line| line.contains(&name) && line.contains(differs.words));
    ensure!(
        refusals.len() == 1 && named.next().is_some(),
        "{}: {lines:?}",
        differs.name
    );
    Ok(())
}

/// Everybody who is online is ours, and answers.
fn others_serve(cpus: &[usize]) -> Result<()> {
    cpu::expect_online(cpus)?;
    debugfs::expect_online_are_hyp()?;
    for &cpu in cpus {
        cpu::on(cpu, || {
            let echo = hypercall("ping 1 2 3 4")?.ok()?;
            ensure!(echo == [1, 2, 3, 4], "ping gives {echo:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// A CPU that is offline at insmod comes, and cannot serve.
fn late(differs: &Differs) -> Result<()> {
    let late = last_cpu()?;
    cpu::set_online(late, false)?;
    let others = cpu::online()?;
    let loaded = module::load_with(&parameters(differs, late))?;
    for _ in 0..2 {
        let mut log = Log::from_now()?;
        ensure!(
            cpu::set_online(late, true).is_err(),
            "{}: CPU {late} came online",
            differs.name
        );
        expect_words(&log.eltwo()?, late, differs)?;
        others_serve(&others)?;
    }
    let row = debugfs::cpu(late)?;
    ensure!(row.inits == 0, "a CPU that was refused shows {row:?}");
    loaded.unload()?;
    // The value was false, so without it the CPU is as good as any.
    cpu::set_online(late, true)?;
    let loaded = module::load()?;
    others_serve(&cpu::present()?)?;
    loaded.unload()
}

/// A CPU that is online at insmod cannot serve: then nobody does.
fn all_or_nothing() -> Result<()> {
    let all = cpu::online()?;
    for differs in &DIFFERS {
        for cpu in [all[0], last_cpu()?] {
            let lines = module::expect_refusal(&parameters(differs, cpu), Errno::ENODEV)?;
            expect_words(&lines, cpu, differs)?;
            super::equal_images(&lines)?;
        }
    }
    cpu::expect_online(&all)?;
    let loaded = module::load()?;
    others_serve(&all)?;
    loaded.unload()
}

/// ID_AA64MMFR1_EL1.VMIDBits = 0 is a difference where the CPUs have 16 bits, and none where they have 8. How many they have the
/// kernel's own register says, by which VMIDs are given out.
fn narrow_vmids() -> Result<()> {
    let late = last_cpu()?;
    let all = cpu::online()?;
    cpu::set_online(late, false)?;
    let loaded = module::load_with(&format!("fake_id=2 fake_value=0 fail_cpu={late}"))?;
    let wide = debugfs::vms("vmid_space")? > 1 << 8;
    let mut log = Log::from_now()?;
    let came = cpu::set_online(late, true).is_ok();
    let lines = log.eltwo()?;
    let said = lines
        .iter()
        .any(|line| line.contains("its VMIDs have 8 bits, those of the others 16"));
    ensure!(
        (came, said) == (!wide, wide),
        "VMIDs of 16 bits: {wide}; CPU {late} came: {came}, with {lines:?}"
    );
    debugfs::expect_online_are_hyp()?;
    loaded.unload()?;
    cpu::bring_online(&all)
}

/// More than the others have does no harm.
fn own_values() -> Result<()> {
    let late = last_cpu()?;
    cpu::set_online(late, false)?;
    // 52 bits of physical address, all pages at both stages with 52-bit descriptors.
    let value = 6u64 | (2 << 20) | (1 << 28) | (3 << 32) | (2 << 36) | (3 << 40);
    let loaded = module::load_with(&format!("fake_id=1 fake_value={value:#x} fail_cpu={late}"))?;
    cpu::set_online(late, true)?;
    others_serve(&cpu::present()?)?;
    loaded.unload()
}
