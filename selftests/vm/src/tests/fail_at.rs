// SPDX-License-Identifier: GPL-2.0-only

//! Every step of loading fails once, on request: insmod reports it, the log has one line that says what has failed, nothing is
//! left behind, and the next insmod works.

use std::{
    cell::Cell,
    collections::BTreeSet,
    ops::RangeInclusive,
    rc::Rc, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use nix::errno::Errno;

use super::standard;
use crate::{
    guest::{
        account::{
            rounds,
            Account, //
        },
        cpu,
        debugfs,
        kmsg::Log,
        module,
        page,
        steps, //
    },
    ktap::{
        note,
        Test, //
    },
};

/// What insmod returns when the step with this number fails, the first one being 1, and what the module says then. The steps are
/// `Step` and `CpuStep` in `rust/host/inject.rs`.
const STEPS: [(Errno, &str); 15] = [
    (Errno::ENOMEM, "of contiguous memory for the first chunk of"),
    (Errno::ENOMEM, "of contiguous memory for a further chunk of"),
    (Errno::EIO, "the map of RAM: error -5; please report this"),
    (Errno::EIO, "the EL2 image: error -5; please report this"),
    (
        Errno::EIO,
        "the layout of EL2's addresses: error -5; please",
    ),
    (Errno::ENOMEM, "no page left for the boot PGD; load with a"),
    (Errno::ENOMEM, "no page left for the runtime PGD; load with"),
    (
        Errno::ENOMEM,
        "no memory for the contexts of the CPUs; free",
    ),
    (Errno::EIO, "the registration for CPU power management: err"),
    (Errno::ENOMEM, "no memory for the registration for suspend"),
    (Errno::ENODEV, "it has no EL2, as the others have; keep it"),
    (Errno::ENODEV, "its EL2 runs with HCR_EL2.E2H=1"),
    (Errno::EIO, "its EL2 answered 0xbadca11; please report this"),
    (Errno::EIO, "its EL2 answered 0xffffffffffffffff; please"),
    (
        Errno::ENOMEM,
        "no memory for the files in debugfs; free some",
    ),
];
/// Those that each CPU takes.
const OF_A_CPU: RangeInclusive<usize> = 11..=14;
/// The last number that is tried: above [`STEPS`] there must be no step.
const LAST: usize = 20;
/// Loading has fewer steps that the kernel may refuse.
const MOST: u32 = 200;
/// Rounds of all failures over which memory is compared. What grows once, whatever their number, must be less than half of them: six
/// dentries that the kernel keeps were seen.
const ROUNDS: u32 = 20;

pub fn test() -> Test {
    let found = Rc::new(Cell::new(0));
    let again = Rc::clone(&found);
    standard()
        .case("each_step_fails_and_is_undone", each_step)
        .case("each_step_on_each_cpu_is_undone", each_cpu)
        .case("each_fallible_step_fails_and_is_undone", move || {
            each_fallible(&found)
        })
        .case("failed_loads_lose_no_memory", move || no_leak(again.get()))
}

/// A load that has failed on request.
#[derive(Debug)]
struct Failure {
    errno: Errno,
    /// The name of the step, as fault injection has it; a step of a CPU has none.
    step: Option<String>,
    /// What the module says has failed.
    cause: String,
}

/// Loads with this failure. `None` if there is no such step.
fn load(failure: &str) -> Result<Option<Failure>> {
    let before = cpu::hotplug_states()?;
    let mut log = Log::from_now()?;
    // A pool of more than one chunk, so that the step that reserves the second one exists.
    let parameters = format!("{failure} pool_kib=8192");
    let outcome = module::try_load(&parameters)?;
    let lines = log.eltwo()?;
    let refused = match outcome {
        Ok(loaded) => {
            let failed = lines
                .iter()
                .any(|line| steps::requested(line).is_some() || line.starts_with("refused: "));
            ensure!(!failed, "{parameters}: insmod succeeded although {lines:?}");
            loaded.unload()?;
            return Ok(None);
        }
        Err(refused) => refused,
    };
    module::nothing_left().context(parameters.clone())?;
    ensure!(
        cpu::hotplug_states()? == before,
        "{parameters}: hotplug states differ"
    );
    super::load_unload::equal_images(&lines).context(parameters.clone())?;
    let failure = read(refused.errno, &lines);
    failure
        .with_context(|| format!("{parameters}: {refused}"))
        .map(Some)
}

/// Reads what the log has to say: one line with the cause, besides that of fault injection.
fn read(errno: Errno, lines: &[String]) -> Result<Failure> {
    let requested = lines.iter().find_map(|line| steps::requested(line));
    let causes: Vec<&String> = lines
        .iter()
        .filter(|line| line.starts_with("refused: ") && steps::requested(line).is_none())
        .collect();
    let [cause] = causes[..] else {
        anyhow::bail!("not one line that says what has failed: {causes:?}");
    };
    Ok(Failure {
        errno,
        step: requested.map(str::to_string),
        cause: cause.clone(),
    })
}

/// The step with this number fails (on that CPU), and is told as it should be.
fn fails(number: usize, cpu: usize) -> Result<()> {
    let failure = load(&format!("fail_at={number} fail_cpu={cpu}"))?;
    let Some((errno, words)) = STEPS.get(number - 1) else {
        ensure!(failure.is_none(), "step {number}: {failure:?}");
        return Ok(());
    };
    let failure = failure.with_context(|| format!("step {number} does not fail on CPU {cpu}"))?;
    let of_cpu = format!("refused: CPU{cpu}: ");
    let expected = failure.errno == *errno
        && failure.cause.contains(words)
        && failure.cause.starts_with(&of_cpu) == OF_A_CPU.contains(&number);
    ensure!(
        expected,
        "step {number} on CPU {cpu}: {failure:?}, not {errno} and {words:?}"
    );
    Ok(())
}

fn works() -> Result<()> {
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

fn each_step() -> Result<()> {
    for number in 1..=LAST {
        fails(number, 0)?;
        works()?;
    }
    Ok(())
}

/// Steps that a CPU takes can fail on any CPU, with others done before it and others still to come.
fn each_cpu() -> Result<()> {
    for cpu in cpu::secondaries()? {
        for number in 1..=STEPS.len() {
            fails(number, cpu)?;
        }
        works()?;
    }
    Ok(())
}

/// The steps that may fail, found by counting: every allocation, every registration, every step of every CPU.
fn each_fallible(found: &Cell<u32>) -> Result<()> {
    // How many steps there are depends on the number of pieces that the pool comes in.
    page::compact()?;
    let (mut names, mut of_cpus) = (BTreeSet::new(), 0);
    for nth in 1..MOST {
        let Some(failure) = load(&format!("fail_nth={nth}"))? else {
            found.set(nth - 1);
            break;
        };
        let cause = &failure.cause;
        match &failure.step {
            Some(name) => ensure!(cause.contains(name), "step {nth}: {failure:?}"),
            None => ensure!(cause.starts_with("refused: CPU"), "step {nth}: {failure:?}"),
        }
        of_cpus += usize::from(failure.step.is_none());
        names.extend(failure.step);
    }
    works()?;
    let (steps, cpus) = (found.get(), cpu::online()?.len());
    ensure!(steps != 0, "no end of steps");
    ensure!(
        of_cpus == OF_A_CPU.count() * cpus,
        "{of_cpus} steps of {cpus} CPUs"
    );
    steps::expect_all(steps::LOADING, &names)?;
    note(format!("{steps} steps, {of_cpus} of CPUs, and {names:?}"));
    Ok(())
}

fn no_leak(steps: u32) -> Result<()> {
    ensure!(steps != 0, "the steps were not found");
    page::compact()?;
    let before = Account::take()?;
    let rounds = rounds(ROUNDS);
    for _ in 0..rounds {
        for nth in 1..=steps {
            let failure = load(&format!("fail_nth={nth}"))?;
            ensure!(failure.is_some(), "step {nth} does not fail");
        }
    }
    // A step that loses one unit each time would lose as many as there are rounds.
    let now = before.expect_back_at(i64::from(rounds) / 2)?;
    note(before.compare(&now));
    Ok(())
}
