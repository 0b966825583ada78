// SPDX-License-Identifier: GPL-2.0-only

//! Hypercalls through debugfs: the good ones on every CPU, and what bad ones are answered.

use anyhow::{
    bail,
    ensure,
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
            Caller,
            Status, //
        },
        module, //
    },
    ktap::{
        note,
        Test, //
    },
};

pub fn test() -> Test {
    standard()
        .case("version_is_the_same_on_every_cpu", version)
        .case("ping_echoes_on_every_cpu", ping)
        .case("cpu_info_tells_each_cpu", cpu_info)
        .case("cpu_info_counts_calls", counts)
        .case("pool_info_agrees_with_pool", pool_info)
        .case("unknown_number_not_supported", unknown)
        .case("stub_numbers_refused_by_the_file", stub_numbers)
        .case("malformed_text_einval", malformed)
        .case("reset_takes_the_cpu_to_the_stub", reset)
}

fn version() -> Result<()> {
    let loaded = module::load()?;
    let mut answers = Vec::new();
    for cpu in cpu::online()? {
        answers.push(cpu::on(cpu, || hypercall("version")?.ok())?);
    }
    let [version, image, ..] = answers[0];
    note(format!("ABI version {version}, image {image:#x}"));
    ensure!(version >= 1, "version {version}");
    ensure!(
        answers.iter().all(|x| x[..2] == answers[0][..2]),
        "the CPUs disagree: {answers:x?}"
    );
    loaded.unload()
}

fn ping() -> Result<()> {
    let loaded = module::load()?;
    let patterns = [
        [0, 0, 0, 0],
        [1, 2, 3, 4],
        [u64::MAX; 4],
        [
            0x0123_4567_89ab_cdef,
            0xfedc_ba98_7654_3210,
            1 << 63,
            0xdead_beef,
        ],
    ];
    for cpu in cpu::online()? {
        cpu::on(cpu, || {
            for pattern in patterns {
                let [a, b, c, d] = pattern;
                let got = hypercall(&format!("ping {a:#x} {b} {c:#x} {d:#x}"))?.ok()?;
                ensure!(got == pattern, "sent {pattern:x?}, got {got:x?}");
            }
            Ok(())
        })?;
    }
    loaded.unload()
}

fn cpu_info() -> Result<()> {
    let loaded = module::load()?;
    for cpu in cpu::online()? {
        let [number, _, vbar, ttbr0] = cpu::on(cpu, || hypercall("cpu_info")?.ok())?;
        let row = debugfs::cpu(cpu)?;
        ensure!(
            number == cpu as u64,
            "CPU {cpu} says that it is CPU {number}"
        );
        ensure!(
            (Some(vbar), Some(ttbr0)) == (row.vbar, row.ttbr0),
            "CPU {cpu} says {vbar:#x} and {ttbr0:#x}, cpus has {row:x?}"
        );
    }
    loaded.unload()
}

/// Calls of this CPU are counted, those of others are not.
fn counts() -> Result<()> {
    let loaded = module::load()?;
    for cpu in cpu::online()? {
        cpu::on(cpu, || {
            let mut caller = Caller::open()?;
            let shown = debugfs::cpu(cpu)?.calls;
            let before = caller.call("cpu_info")?.ok()?[1];
            for _ in 0..10 {
                caller.call("ping")?.ok()?;
            }
            let after = caller.call("cpu_info")?.ok()?[1];
            ensure!(
                after - before == 11,
                "{} calls counted, 11 made",
                after - before
            );
            // Reading `cpus` makes calls of its own.
            let shown_after = debugfs::cpu(cpu)?.calls;
            ensure!(
                shown_after >= shown + 12,
                "cpus shows {shown}, then {shown_after} calls"
            );
            Ok(())
        })?;
    }
    loaded.unload()
}

fn pool_info() -> Result<()> {
    let loaded = module::load()?;
    let [total, free, ..] = hypercall("pool_info")?.ok()?;
    let pool = debugfs::pool()?;
    ensure!(
        (Some(&total), Some(&free)) == (pool.get("pages_total"), pool.get("pages_free")),
        "EL2 says {total} pages, {free} free; pool has {pool:?}"
    );
    loaded.unload()
}

fn unknown() -> Result<()> {
    let loaded = module::load()?;
    for cpu in cpu::online()? {
        cpu::on(cpu, || {
            for number in [
                5,
                6,
                0xff,
                0x8400_0000, // PSCI_VERSION
                0x8600_ff01, // a vendor hypervisor call
                0xc600_0000, // the first of KVM's
                0x0e12_0fff, // in our own range
                0x0bad_ca11, // the stub's own error value
                0xffff_ffff,
                0x1_0000_0000,
                u64::MAX,
            ] {
                hypercall(&format!("{number:#x} 1 2 3 4"))?.expect(Status::NotSupported)?;
            }
            hypercall("ping 7")?.ok().map(|_| ())
        })?;
    }
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

/// The stub ABI is for the kernel. Through this file it would tear EL2 down behind the module's back.
fn stub_numbers() -> Result<()> {
    let loaded = module::load()?;
    for number in ["0", "1", "2", "3", "4", "0x0", "0x2", "0x0000000000000004"] {
        match debugfs::write("hypercall", number) {
            Ok(()) => bail!("stub call {number} was accepted"),
            Err(error) => {
                ensure!(
                    error.raw_os_error() == Some(libc::EPERM),
                    "stub call {number}: {error}"
                );
            }
        }
    }
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

fn malformed() -> Result<()> {
    let loaded = module::load()?;
    let long = format!("ping {}", "1 ".repeat(3000));
    for text in [
        " ",
        "\n",
        "pong",
        "PING",
        "ping x",
        "ping 0x",
        "ping -1",
        "ping 1 2 3 4 5",
        "ping 0x10000000000000000",
        "ping 18446744073709551616",
        "ping,1",
        "0xe12000g",
        "ping \0",
        "p\u{ef}ng",
        &long,
    ] {
        match debugfs::write("hypercall", text) {
            Ok(()) => bail!("{text:?} was accepted"),
            Err(error) => {
                ensure!(
                    error.raw_os_error() == Some(libc::EINVAL),
                    "{text:.20?}: {error}"
                );
            }
        }
    }
    let got = hypercall("ping 0x5a\n")?.ok()?;
    ensure!(got[0] == 0x5a, "a trailing newline: {got:x?}");
    loaded.unload()
}

/// After `reset` the CPU is at the stub, the others are not, and rmmod copes.
fn reset() -> Result<()> {
    let loaded = module::load()?;
    let online = cpu::online()?;
    let Some(&last) = online.last() else {
        bail!("no CPU");
    };
    cpu::on(last, || {
        hypercall("reset")?.ok()?;
        let error = match debugfs::Caller::open()?.write("ping 1") {
            Ok(()) => bail!("a hypercall works after reset"),
            Err(error) => error,
        };
        ensure!(
            error.raw_os_error() == Some(libc::EBUSY),
            "ping after reset: {error}"
        );
        Ok(())
    })?;
    for row in debugfs::cpus()? {
        let wanted = if row.cpu == last { "stub" } else { "hyp" };
        ensure!(
            row.state == wanted || !online.contains(&row.cpu),
            "CPU {} is {}, expected {wanted}",
            row.cpu,
            row.state
        );
    }
    loaded.unload()
}
