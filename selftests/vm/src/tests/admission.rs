// SPDX-License-Identifier: GPL-2.0-only

//! A CPU that differs from the others is refused with its reason, and the module goes on without it. The CPUs of an emulated
//! machine are alike, so the module is told false values of one's ID registers (`fake_id`, `fake_value`, `fail_cpu`).

use anyhow::{
    ensure,
    Context,
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

/// What the CPUs of this machine have.
struct Have {
    /// EL2's tables have 52-bit descriptors (LPA2).
    lpa2: bool,
    /// VMIDs have 16 bits.
    wide_vmids: bool,
}

impl Have {
    /// Asks the module.
    fn read() -> Result<Self> {
        let loaded = module::load()?;
        let have = Self {
            lpa2: debugfs::pool_value("lpa2")? == 1,
            wide_vmids: debugfs::vms("vmid_space")? > 1 << 8,
        };
        loaded.unload()?;
        Ok(have)
    }
}

/// A CPU that differs: the register that says so, its value, and words of the refusal.
struct Differs {
    name: &'static str,
    register: u32,
    value: u64,
    /// Whether a machine minds: else its CPUs have no more.
    matters: fn(&Have) -> bool,
    words: &'static str,
}

/// ID_AA64MMFR0_EL1.PARange: 52 bits.
const PA_52: u64 = 6;
/// All pages at stage 1, without 52-bit descriptors: TGRAN16; TGRAN4 and TGRAN64 are 0. Stage 2 is the same if it is 0.
const NARROW: u64 = 1 << 20;
/// All pages at stage 1, with them.
const LPA2: u64 = (2 << 20) | (1 << 28);
/// All pages at stage 2, without them: TGRAN16_2, TGRAN64_2, TGRAN4_2.
const NARROW_2: u64 = (2 << 32) | (2 << 36) | (2 << 40);
/// All pages at stage 2, with them.
const LPA2_2: u64 = (3 << 32) | (2 << 36) | (3 << 40);

/// What a row of [`DIFFERS`] has unless it says otherwise.
const ROW: Differs = Differs {
    name: "PARange",
    register: 1,
    // 32 bits.
    value: NARROW,
    matters: |_| true,
    words: "it reaches 32 bits of physical address",
};

/// Each refusal of `rust/common/lifecycle/admission.rs` but for the bits of virtual addresses, which say something of their own
/// with pages of 64 KiB only.
const DIFFERS: [Differs; 9] = [
    ROW,
    // No page size at stage 1.
    Differs {
        name: "TGRAN",
        value: PA_52 | (0xf << 24) | (0xf << 28),
        words: "its EL2 has no pages of",
        ..ROW
    },
    // None at stage 2.
    Differs {
        name: "TGRAN_2",
        value: PA_52 | LPA2 | (1 << 32) | (1 << 36) | (1 << 40),
        words: "its stage 2 has no pages of",
        ..ROW
    },
    Differs {
        name: "LPA2",
        value: PA_52 | NARROW | LPA2_2,
        matters: |have| have.lpa2,
        words: "its EL2 has no 52-bit descriptors (LPA2)",
        ..ROW
    },
    Differs {
        name: "LPA2 at stage 2",
        value: PA_52 | LPA2 | NARROW_2,
        matters: |have| have.lpa2,
        words: "its stage 2 has no 52-bit descriptors (LPA2)",
        ..ROW
    },
    // ID_AA64MMFR1_EL1.VMIDBits.
    Differs {
        name: "VMIDBits",
        register: 2,
        value: 0,
        matters: |have| have.wide_vmids,
        words: "its VMIDs have 8 bits, those of the others 16",
    },
    // ICH_VTR_EL2: one list register.
    Differs {
        name: "ListRegs",
        register: 4,
        value: 0,
        words: "its GIC has 1 list registers",
        ..ROW
    },
    // HCR_EL2.
    Differs {
        name: "E2H",
        register: 5,
        value: 1 << 34,
        words: "its EL2 runs with HCR_EL2.E2H=1",
        ..ROW
    },
    // SCTLR_EL2.M.
    Differs {
        name: "MMU",
        register: 6,
        value: 1,
        words: "the MMU of its EL2 is on under the stub",
        ..ROW
    },
];

pub fn test() -> Test {
    standard()
        .needs(needs_two_cpus)
        .case("late_cpu_that_differs_is_refused", || {
            let have = Have::read()?;
            DIFFERS.iter().try_for_each(|differs| late(differs, &have))
        })
        .case("insmod_with_a_cpu_that_differs_is_refused", || {
            let have = Have::read()?;
            DIFFERS
                .iter()
                .try_for_each(|differs| all_or_nothing(differs, &have))
        })
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
fn late(differs: &Differs, have: &Have) -> Result<()> {
    let late = last_cpu()?;
    cpu::set_online(late, false)?;
    let others = cpu::online()?;
    let loaded = module::load_with(&parameters(differs, late))?;
    if (differs.matters)(have) {
        for _ in 0..2 {
            let mut log = Log::from_now()?;
            let came = cpu::set_online(late, true);
            ensure!(came.is_err(), "{}: CPU {late} came online", differs.name);
            expect_words(&log.eltwo()?, late, differs)?;
            others_serve(&others)?;
        }
        let row = debugfs::cpu(late)?;
        ensure!(row.inits == 0, "a CPU that was refused shows {row:?}");
    } else {
        cpu::set_online(late, true).context(differs.name)?;
        others_serve(&cpu::present()?)?;
        cpu::set_online(late, false)?;
    }
    loaded.unload()?;
    // The value was false, so without it the CPU is as good as any.
    cpu::set_online(late, true)?;
    let loaded = module::load()?;
    others_serve(&cpu::present()?)?;
    loaded.unload()
}

/// A CPU that is online at insmod cannot serve: then nobody does.
fn all_or_nothing(differs: &Differs, have: &Have) -> Result<()> {
    let all = cpu::online()?;
    for cpu in [all[0], last_cpu()?] {
        if (differs.matters)(have) {
            let lines = module::expect_refusal(&parameters(differs, cpu), Errno::ENODEV)?;
            expect_words(&lines, cpu, differs)?;
            super::equal_images(&lines)?;
        } else {
            module::load_with(&parameters(differs, cpu))?.unload()?;
        }
    }
    cpu::expect_online(&all)?;
    let loaded = module::load()?;
    others_serve(&all)?;
    loaded.unload()
}

/// More than the others have does no harm.
fn own_values() -> Result<()> {
    let late = last_cpu()?;
    cpu::set_online(late, false)?;
    let value = PA_52 | LPA2 | LPA2_2;
    let loaded = module::load_with(&format!("fake_id=1 fake_value={value:#x} fail_cpu={late}"))?;
    cpu::set_online(late, true)?;
    others_serve(&cpu::present()?)?;
    loaded.unload()
}
