// SPDX-License-Identifier: GPL-2.0-only

//! The table of hooks.

use std::{
    fs,
    path::Path,
    time::Duration, //
};

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use nix::{
    errno::Errno,
    libc,
    sys::{
        time::TimeSpec,
        timerfd::{
            ClockId,
            Expiration,
            TimerFd,
            TimerFlags,
            TimerSetTimeFlags, //
        },
    },
};

use super::{
    helper::{
        ELTWO,
        STUB_ERR, //
    },
    model::{
        Model,
        State, //
    },
    vms::Guest,
    world::World, //
};
use crate::{
    guest::{
        cpu,
        debugfs,
        fault,
        module,
        poll, //
    },
    ktap::Skip, //
};

/// One hook.
pub struct Hook {
    /// Its name.
    pub name: &'static str,
    /// Whether the module must be loaded for it to happen at all.
    pub needs_module: bool,
    /// Whether the whole machine goes to sleep, which takes seconds.
    pub sleeps: bool,
    /// Whether it happens to the one CPU that [`Self::make`] is told.
    pub of_one_cpu: bool,
    /// Whether it leaves that CPU in another state than the others, or in the same by another way.
    pub sets_apart: bool,
    /// Makes it happen: to one CPU, where it is a hook of one.
    pub make: fn(&mut World<'_>, usize) -> Result<()>,
    /// What it does to the state of every CPU.
    pub expect: fn(&mut Model, usize),
}

/// A hook that needs nothing and is quick.
pub const fn hook(
    name: &'static str,
    make: fn(&mut World<'_>, usize) -> Result<()>,
    expect: fn(&mut Model, usize),
) -> Hook {
    Hook {
        name,
        needs_module: false,
        sleeps: false,
        of_one_cpu: false,
        sets_apart: false,
        make,
        expect,
    }
}

/// The same, for a hook of one CPU.
const fn of_one_cpu(
    name: &'static str,
    make: fn(&mut World<'_>, usize) -> Result<()>,
    expect: fn(&mut Model, usize),
) -> Hook {
    Hook {
        of_one_cpu: true,
        ..hook(name, make, expect)
    }
}

/// A stub call that hands EL2 back, of which eltwo is not told.
const fn hand_back(name: &'static str, make: fn(&mut World<'_>, usize) -> Result<()>) -> Hook {
    Hook {
        sets_apart: true,
        ..of_one_cpu(name, make, Model::handed_back)
    }
}

/// All hooks that leave the kernel running.
pub static HOOKS: [Hook; 18] = [
    hook("insmod", insmod, |model, _| model.insmod()),
    Hook {
        needs_module: true,
        ..hook("rmmod", rmmod, |model, _| model.rmmod())
    },
    hook("offline", offline, |model, _| {
        model.offline(model.cpus.len() - 1)
    }),
    hook("online", online, |model, _| {
        model.online(model.cpus.len() - 1)
    }),
    of_one_cpu("cpu_pm", cpu_pm, Model::nap),
    of_one_cpu("cpu_pm_failed", cpu_pm_failed, Model::nap),
    of_one_cpu("cpu_pm_nested", cpu_pm_nested, Model::nap),
    of_one_cpu("cluster_pm", cluster_pm, Model::nap),
    hand_back("stub_0", stub_0),
    hand_back("stub_1", stub_1),
    hand_back("stub_2", stub_2),
    of_one_cpu("stub_3", stub_3, |_, _| {}),
    of_one_cpu("stub_4", stub_4, |_, _| {}),
    of_one_cpu("stub_unknown", stub_unknown, |_, _| {}),
    Hook {
        needs_module: true,
        sets_apart: true,
        ..of_one_cpu("fault", fault, |model, target| {
            if model.loaded {
                model.fault(target);
            }
        })
    },
    Hook {
        needs_module: true,
        ..of_one_cpu("guest", guest, |model, _| model.start_guest())
    },
    Hook {
        sleeps: true,
        ..hook("suspend_to_idle", suspend_to_idle, |_, _| {})
    },
    Hook {
        sleeps: true,
        ..hook("syscore", syscore, |model, _| model.system_nap())
    },
];

/// The hook with this name.
pub fn named(name: &str) -> Result<&'static Hook> {
    let mut all = HOOKS.iter();
    all.find(|hook| hook.name == name)
        .with_context(|| format!("no hook {name}"))
}

fn insmod(world: &mut World<'_>, _: usize) -> Result<()> {
    match (module::try_load(fault::PARAMETERS)?, world.model.loaded) {
        (Ok(loaded), false) => loaded.keep(),
        (Err(refused), true) => ensure!(refused.errno == Errno::EEXIST, "{refused}"),
        (Ok(_), true) => bail!("a second insmod succeeded"),
        (Err(refused), false) => return Err(refused.into()),
    }
    Ok(())
}

fn rmmod(world: &mut World<'_>, _: usize) -> Result<()> {
    let wanted = match (world.model.loaded, world.model.guest) {
        (false, _) => Some(Errno::ENOENT),
        (true, true) => Some(Errno::EAGAIN),
        (true, false) => None,
    };
    let errno = match module::unload() {
        Ok(()) => None,
        Err(error) => Some(*error.downcast_ref::<Errno>().context("no errno")?),
    };
    ensure!(
        errno == wanted,
        "rmmod gives {errno:?}, expected {wanted:?}"
    );
    Ok(())
}

fn offline(world: &mut World<'_>, _: usize) -> Result<()> {
    cpu::set_online(world.last(), false)
}

fn online(world: &mut World<'_>, _: usize) -> Result<()> {
    cpu::set_online(world.last(), true)
}

/// Takes `steps` on `cpu` and fails unless the answers are `wanted`.
fn expect(world: &World<'_>, cpu: usize, steps: &str, wanted: &[(u64, u64)]) -> Result<()> {
    let answers = world.ground.hooks.run(cpu, steps)?;
    ensure!(
        answers == wanted,
        "{steps} on CPU {cpu} gives {answers:x?}, expected {wanted:x?}"
    );
    Ok(())
}

/// Who answers on `cpu` in the middle of a nap: the stub, always. It leaves x1 as the call had it.
const STUB: (u64, u64) = (STUB_ERR, 0);
const OK: (u64, u64) = (0, 0);

fn owner(world: &World<'_>, cpu: usize) -> (u64, u64) {
    match world.model.cpus[cpu].state {
        State::Hyp => ELTWO,
        _ => STUB,
    }
}

fn cpu_pm(world: &mut World<'_>, target: usize) -> Result<()> {
    let after = owner(world, target);
    let steps = "enter ask exit ask";
    expect(world, target, steps, &[OK, STUB, OK, after])
}

/// The chain had told eltwo to give the CPU up before another notifier refused.
fn cpu_pm_failed(world: &mut World<'_>, target: usize) -> Result<()> {
    let refused = (i64::from(-libc::EPERM) as u64, STUB_ERR);
    let after = owner(world, target);
    expect(world, target, "fail ask", &[refused, after])
}

/// Told twice, and told of an end without a beginning.
fn cpu_pm_nested(world: &mut World<'_>, target: usize) -> Result<()> {
    let after = owner(world, target);
    let steps = "exit enter enter ask exit exit ask";
    expect(world, target, steps, &[OK, OK, OK, STUB, OK, OK, after])
}

fn cluster_pm(world: &mut World<'_>, target: usize) -> Result<()> {
    let after = owner(world, target);
    let steps = "enter cluster-enter ask cluster-exit exit ask";
    expect(world, target, steps, &[OK, OK, STUB, OK, OK, after])
}

/// SET_VECTORS, with the stub's own.
fn stub_0(world: &mut World<'_>, target: usize) -> Result<()> {
    let vbar = world.ground.vbar[&target];
    let steps = format!("call:0:{vbar:x} ask");
    expect(world, target, &steps, &[(0, vbar), STUB])
}

/// SOFT_RESTART: the code that it goes to finds the MMU off, as it does under the stub.
fn stub_1(world: &mut World<'_>, target: usize) -> Result<()> {
    const SCTLR_M: u64 = 1;
    let answers = world.ground.hooks.run(target, "restart ask")?;
    let (mark, sctlr) = answers[0];
    ensure!(
        mark == 0x5a && sctlr & SCTLR_M == 0 && answers[1] == STUB,
        "SOFT_RESTART on CPU {target} gives {answers:x?}"
    );
    Ok(())
}

/// RESET_VECTORS, twice.
fn stub_2(world: &mut World<'_>, target: usize) -> Result<()> {
    expect(
        world,
        target,
        "call:2:0 ask call:2:0 ask",
        &[OK, STUB, OK, STUB],
    )
}

/// FINALISE_EL2, which is for a CPU that has just been started.
fn stub_3(world: &mut World<'_>, target: usize) -> Result<()> {
    let after = owner(world, target);
    let answers = world.ground.hooks.run(target, "call:3:0 ask")?;
    ensure!(
        answers[0].0 == STUB_ERR && answers[1] == after,
        "FINALISE_EL2 on CPU {target} gives {answers:x?}"
    );
    Ok(())
}

/// GET_ICH_VTR_EL2.
fn stub_4(world: &mut World<'_>, target: usize) -> Result<()> {
    let ich_vtr = world.ground.ich_vtr[&target];
    ensure!(ich_vtr.0 == 0, "the stub gave {ich_vtr:x?}");
    let after = owner(world, target);
    expect(world, target, "call:4:0 ask", &[ich_vtr, after])
}

/// The first number that is no stub call, and one of another hypervisor.
fn stub_unknown(world: &mut World<'_>, target: usize) -> Result<()> {
    const NOT_SUPPORTED: u64 = u64::MAX;
    let after = owner(world, target);
    let x0 = match after {
        ELTWO => NOT_SUPPORTED,
        _ => STUB_ERR,
    };
    let answers = world
        .ground
        .hooks
        .run(target, "call:5:0 call:86000000:0 ask")?;
    ensure!(
        answers[0].0 == x0 && answers[1].0 == x0 && answers[2] == after,
        "unknown calls on CPU {target} give {answers:x?}"
    );
    Ok(())
}

fn fault(world: &mut World<'_>, target: usize) -> Result<()> {
    provoke(world, target, "brk")
}

/// Asks `target` for an exception at EL2 of this kind, which a CPU takes whose EL2 is eltwo's.
pub fn provoke(world: &World<'_>, target: usize, kind: &str) -> Result<()> {
    let wanted = match (world.model.loaded, world.model.cpus[target].state) {
        (false, _) => libc::ENOENT,
        (true, State::Hyp) => libc::EIO,
        (true, _) => libc::EBUSY,
    };
    let error = cpu::on(target, || Ok(debugfs::write("provoke", kind).err()))?;
    let errno = error.as_ref().and_then(std::io::Error::raw_os_error);
    ensure!(
        errno == Some(wanted),
        "the provoked fault gives {error:?}, expected {}",
        Errno::from_raw(wanted)
    );
    Ok(())
}

/// A guest that goes on running. After a fault there can be none, and without the module there is no `/dev/kvm`.
fn guest(world: &mut World<'_>, target: usize) -> Result<()> {
    if let Some(guest) = &world.guest {
        return match world.model.closed {
            true => Ok(()),
            false => guest.advance(),
        };
    }
    let started = Guest::start(target);
    if !world.model.loaded || world.model.closed {
        ensure!(started.is_err(), "a guest runs");
        return Ok(());
    }
    let guest = started?;
    let refused = world.model.cpus[target].state != State::Hyp;
    ensure!(
        !refused || guest.has_moved(),
        "a vCPU ran on CPU {target}, whose EL2 is not eltwo's"
    );
    world.guest = Some(guest);
    Ok(())
}

const STATE: &str = "/sys/power/state";
const WAKEUPS: &str = "/sys/power/wakeup_count";
const CLOCKS: &str = "/sys/class/rtc";
const SUSPENDED: &str = "/sys/power/suspend_stats/success";
const FAILED_DEVICE: &str = "/sys/power/suspend_stats/last_failed_dev";
/// How the name of the device starts that the kernel gives its alarm timers, below the clock that they set.
const ALARM_DEVICE: &str = "alarmtimer";
const TEST: &str = "/sys/power/pm_test";
const TEST_DELAY: &str = "/sys/module/hibernate/parameters/pm_test_delay";

/// The first period of alarms. The kernel does not go to sleep less than 2 s before one (`alarmtimer_suspend`).
const PERIOD: Duration = Duration::from_millis(2300);
/// Periods that are tried, each twice as long as the one before.
const PERIODS: u32 = 5;
/// How long events may keep coming that wake the machine.
const LIMIT: Duration = Duration::from_secs(20);

/// Skips where the machine cannot go to sleep, or cannot be woken.
pub fn can_sleep() -> Result<()> {
    for file in [STATE, TEST, TEST_DELAY] {
        if !Path::new(file).exists() {
            return Skip::because(format!("no {file}"));
        }
    }
    if !has_alarm()? {
        return Skip::because(format!("no clock of {CLOCKS} has an alarm that wakes"));
    }
    let states = fs::read_to_string(STATE)?;
    for state in ["freeze", "disk"] {
        if !states.contains(state) {
            return Skip::because(format!("this kernel does not know the sleep state {state}"));
        }
    }
    Ok(())
}

/// Has the kernel found a clock that it can set for its alarm timers?
fn has_alarm() -> Result<bool> {
    for clock in fs::read_dir(CLOCKS).context(CLOCKS)? {
        for entry in fs::read_dir(clock?.path())? {
            let name = entry?.file_name();
            if name.to_string_lossy().starts_with(ALARM_DEVICE) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Alarms that wake the machine, until this is dropped. They come again and again: one that goes off before the machine sleeps
/// does not wake it, however long that takes on a busy host.
fn alarms(period: Duration) -> Result<TimerFd> {
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME_ALARM, TimerFlags::empty())?;
    let again = Expiration::Interval(TimeSpec::from_duration(period));
    timer.set(again, TimerSetTimeFlags::empty())?;
    Ok(timer)
}

/// Goes to sleep in `state` until an alarm of the clock.
pub fn sleep(state: &str) -> Result<()> {
    let count = || -> Result<u64> { Ok(fs::read_to_string(SUSPENDED)?.trim().parse()?) };
    let before = count()?;
    for attempt in 0..PERIODS {
        let _alarms = alarms(PERIOD * 2_u32.pow(attempt))?;
        let wakeups = heed_wakeups()?;
        match fs::write(STATE, state) {
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && comes_too_soon(&wakeups)? => {}
            result => {
                result.with_context(|| format!("sleep state {state}"))?;
                ensure!(count()? == before + 1, "{SUSPENDED} has not moved on");
                return Ok(());
            }
        }
    }
    bail!("sleep state {state}: refused {PERIODS} times for an alarm that comes too soon")
}

/// Has the kernel not sleep, or wake up, for an event that comes from now on: the alarm may go off on the way to sleep, where it is no
/// interrupt that wakes, and then nothing would. Returns the number of events so far.
///
/// Source: `Documentation/ABI/testing/sysfs-power` of Linux.
fn heed_wakeups() -> Result<String> {
    poll::until(LIMIT, || {
        let count = fs::read_to_string(WAKEUPS).context(WAKEUPS)?;
        // Refused if there was one in between.
        fs::write(WAKEUPS, count.trim()).context(WAKEUPS)?;
        Ok(count)
    })
}

/// Was it an alarm, and nothing else, for which the kernel has refused to sleep? It is near, or went off, if freezing has taken long.
fn comes_too_soon(wakeups: &str) -> Result<bool> {
    let device = fs::read_to_string(FAILED_DEVICE).context(FAILED_DEVICE)?;
    let now = fs::read_to_string(WAKEUPS).context(WAKEUPS)?;
    Ok(device.starts_with(ALARM_DEVICE) || now != wakeups)
}

fn suspend_to_idle(_: &mut World<'_>, _: usize) -> Result<()> {
    sleep("freeze")
}

/// Hibernation up to where the image would be made, and back: all CPUs but one go, syscore is suspended and resumed.
pub fn hibernate_up_to_core() -> Result<()> {
    fs::write(TEST_DELAY, "0").context(TEST_DELAY)?;
    fs::write(TEST, "core").context(TEST)?;
    let result = fs::write(STATE, "disk").context("hibernation");
    fs::write(TEST, "none").context(TEST)?;
    result
}

fn syscore(_: &mut World<'_>, _: usize) -> Result<()> {
    hibernate_up_to_core()
}
