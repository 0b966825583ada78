// SPDX-License-Identifier: GPL-2.0-only

//! The chapters in the first kernel.

use std::{
    fs,
    io,
    path::Path,
    time::Instant, //
};

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use nix::{
    errno::Errno,
    sys::utsname::uname, //
};

use super::text::{
    fact,
    line,
    row,
    timed, //
};
use crate::{
    guest::{
        cpu,
        debugfs::{
            self,
            hypercall,
            Caller,
            PAR_F, //
        },
        fault,
        kmsg::{
            self,
            Log, //
        },
        module,
        page::Pages,
    },
    handover::End,
    ktap::Skip,
    second_kernel,
    tests::equal_images_on,
};

/// Round trips that are timed.
const TRIPS: u32 = 1000;

pub fn machine() -> Result<()> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib: u64 = memory
        .split_whitespace()
        .nth(1)
        .context("/proc/meminfo is empty")?
        .parse()?;
    let kernel = uname()?;
    let model = fs::read_to_string("/sys/firmware/devicetree/base/model").unwrap_or_default();
    fact(
        "kernel",
        format!("{}, stock, not patched", kernel.release().to_string_lossy()),
    );
    fact(
        "machine",
        format!(
            "{} CPUs, {} MiB, {}",
            cpu::online()?.len(),
            kib >> 10,
            model.trim_end_matches('\0')
        ),
    );
    fact("boot log", kmsg::boot_line("CPU: All CPU(s) started at")?);
    let kvm = Path::new("/dev/kvm").exists();
    fact(
        "KVM",
        if kvm {
            "built in and live"
        } else {
            "built in, switched off (kvm-arm.mode=none)"
        },
    );
    Ok(())
}

pub fn insmod() -> Result<()> {
    let (loaded, time) = timed(module::load)?;
    loaded.keep();
    debugfs::expect_online_are_hyp()?;
    fact("done", format!("in {time}; EL2 of every CPU is ours"));
    let pool = debugfs::pool()?;
    let get = |key: &str| pool.get(key).copied().unwrap_or_default();
    let kib = |pages: u64| (pages * get("granule_bytes")) >> 10;
    fact(
        "image",
        format!(
            "{} KiB, linked on its own, no symbol of the kernel in it",
            get("image_bytes") >> 10
        ),
    );
    fact(
        "pool",
        format!(
            "{} KiB reserved, {} in use: image {}, tables {}, stacks {}, contexts {}",
            kib(get("pages_total")),
            kib(get("pages_total") - get("pages_free")),
            kib(get("pages_image")),
            kib(get("pages_tables")),
            kib(get("pages_stacks")),
            kib(get("pages_contexts")),
        ),
    );
    fact(
        "tables",
        format!("{}-bit addresses, pages of {} KiB", get("va_bits"), kib(1)),
    );
    registers()
}

/// A table of what init has changed on each CPU: as found, and as it is now.
fn registers() -> Result<()> {
    const SHOWN: [&str; 3] = ["VBAR_EL2", "TTBR0_EL2", "SCTLR_EL2"];
    let registers = debugfs::registers()?;
    row("");
    row(format!(
        "CPU  {:<31} {:<27} {}",
        SHOWN[0], SHOWN[1], SHOWN[2]
    ));
    for cpu in cpu::online()? {
        let change = |name: &str| {
            let register = registers.iter().find(|r| r.cpu == cpu && r.name == name);
            let register = register.with_context(|| format!("no {name} of CPU {cpu}"))?;
            let now = register
                .now
                .with_context(|| format!("{name} of CPU {cpu} is not read"))?;
            anyhow::Ok(format!("{:#x} -> {now:#x}", register.before))
        };
        row(format!(
            "{cpu:<4} {:<31} {:<27} {}",
            change(SHOWN[0])?,
            change(SHOWN[1])?,
            change(SHOWN[2])?
        ));
    }
    let first: Vec<_> = registers
        .iter()
        .filter(|register| register.cpu == 0)
        .collect();
    let changed: Vec<_> = first
        .iter()
        .filter(|register| register.now != Some(register.before))
        .map(|register| register.name.trim_end_matches("_EL2"))
        .collect();
    row(format!(
        "changed: {}; the other {} registers that are watched stay as found",
        changed.join(", "),
        first.len() - changed.len()
    ));
    Ok(())
}

pub fn memory_map() -> Result<()> {
    struct Line {
        start: u64,
        bytes: u64,
        ranges: usize,
        access: String,
    }
    let mut lines: Vec<((String, String), Line)> = Vec::new();
    for mapping in debugfs::mappings()? {
        ensure!(
            !(mapping.allows('W') && mapping.allows('X')),
            "writable and executable: {mapping:x?}"
        );
        let bytes = mapping.end - mapping.start;
        let key = (mapping.table, mapping.region);
        match lines.iter_mut().find(|(known, _)| *known == key) {
            Some((_, line)) => {
                line.bytes += bytes;
                line.ranges += 1;
            }
            None => lines.push((
                key,
                Line {
                    start: mapping.start,
                    bytes,
                    ranges: 1,
                    access: mapping.access,
                },
            )),
        }
    }
    for ((table, region), line) in &lines {
        let ranges = match line.ranges {
            1 => String::new(),
            ranges => format!(" in {ranges} ranges"),
        };
        row(format!(
            "{table:<8} {:>#14x} {:>5} KiB  {}  {region}{ranges}",
            line.start,
            line.bytes >> 10,
            line.access
        ));
    }
    row("The trampoline is the only address in both tables: to go from one to the other is to");
    row("break before make, for the whole address space. Nothing is writable and executable.");
    Ok(())
}

pub fn hypercalls() -> Result<()> {
    let [version, image, ..] = hypercall("version")?.ok()?;
    fact("version", format!("ABI {version}, image {image:#x}"));
    let last = *cpu::online()?.last().context("no CPU")?;
    let echo = cpu::on(last, || hypercall("ping 0xcafe 0xf00d")?.ok())?;
    fact(
        "ping",
        format!(
            "0xcafe 0xf00d to EL2 of CPU {last}, {:#x} {:#x} back",
            echo[0], echo[1]
        ),
    );
    let mut caller = Caller::open()?;
    let start = Instant::now();
    for _ in 0..TRIPS {
        caller.write("ping 1")?;
    }
    let each = start.elapsed() / TRIPS;
    fact(
        "time",
        format!(
            "{} us a call, system call and emulation included",
            each.as_micros()
        ),
    );
    Ok(())
}

pub fn shared_page() -> Result<()> {
    const MESSAGE: &[u8; 24] = b"Good morning from EL0!\0\0";
    let mut page = Pages::new(1)?;
    for (index, word) in MESSAGE.chunks_exact(8).enumerate() {
        page.set(index, u64::from_le_bytes(word.try_into()?));
    }
    let pa = page.pa(0)?;
    let [va, ..] = hypercall(&format!("share {pa:#x}"))?.ok()?;
    fact(
        "share",
        format!("a page of this program, PA {pa:#x}, is now hyp VA {va:#x}"),
    );
    let mut bytes = Vec::new();
    for index in 0..3 {
        let word = hypercall(&format!("read {:#x}", va + 8 * index))?.ok()?[0];
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let text = String::from_utf8_lossy(&bytes);
    ensure!(bytes == MESSAGE, "EL2 reads {text:?}");
    fact(
        "read",
        format!("EL2 finds there: \"{}\"", text.trim_end_matches('\0')),
    );
    hypercall(&format!("unshare {pa:#x}"))?.ok()?;
    let par = hypercall(&format!("at {va:#x} 0"))?.ok()?[0];
    ensure!(par & PAR_F != 0, "still mapped: PAR_EL1 {par:#x}");
    fact(
        "unshare",
        format!("EL2's own translation of it now fails: PAR_EL1 {par:#x}"),
    );
    Ok(())
}

pub fn hotplug() -> Result<()> {
    let last = *cpu::secondaries()?.last().context("only one CPU")?;
    let mut log = Log::from_now()?;
    let (_, time) = timed(|| cpu::set_online(last, false))?;
    let equal = equal_images_on(&log.eltwo()?, &[last])?;
    let registers = equal
        .get(&last)
        .context("no report of the register image")?;
    fact(
        "offline",
        format!(
            "CPU {last} in {time}; its EL2 is the kernel's again, {registers} registers as found"
        ),
    );
    let (_, time) = timed(|| cpu::set_online(last, true))?;
    let row = debugfs::cpu(last)?;
    debugfs::expect_hyp(&row)?;
    fact(
        "online",
        format!(
            "CPU {last} in {time}; {} again, VBAR_EL2 {:#x}",
            row.state,
            row.vbar.unwrap_or(0)
        ),
    );
    Ok(())
}

pub fn fault() -> Result<()> {
    module::unload()?;
    fault::load()?.keep();
    fact("load", "again, with provoke=1, which allows this");
    let online = cpu::online()?;
    let victim = online[online.len() / 2];
    cpu::on(victim, || match debugfs::write("provoke", "write-text") {
        Ok(()) => bail!("EL2 could write to its own text"),
        Err(error) => {
            fact(
                "provoke",
                format!(
                    "EL2 of CPU {victim} writes to its own text; the call fails: {}",
                    reason(&error)
                ),
            );
            Ok(())
        }
    })?;
    let log = debugfs::read("log")?;
    let value = |name: &str| {
        let mut words = log.split_whitespace().skip_while(|word| *word != name);
        words.nth(1).unwrap_or("?").to_string()
    };
    fact("report", log.lines().next().unwrap_or_default());
    fact(
        "",
        format!("ESR_EL2 {}  FAR_EL2 {}", value("ESR_EL2"), value("FAR_EL2")),
    );
    for (at, frame) in fault::backtrace(&log)?.iter().enumerate() {
        let title = if at == 0 { "backtrace" } else { "" };
        fact(title, frame.function.as_deref().unwrap_or("?"));
    }
    let states: Vec<_> = debugfs::cpus()?.into_iter().map(|row| row.state).collect();
    fact("host", format!("lives; CPUs are {}", states.join(", ")));
    let (_, time) = timed(|| {
        module::unload()?;
        module::load()?.keep();
        debugfs::expect_online_are_hyp()
    })?;
    fact(
        "recover",
        format!("rmmod and insmod in {time}; every CPU is ours again"),
    );
    Ok(())
}

/// An error of a system call, without its number.
fn reason(error: &io::Error) -> &'static str {
    error
        .raw_os_error()
        .map_or("?", |code| Errno::from_raw(code).desc())
}

pub fn rmmod() -> Result<()> {
    let mut log = Log::from_now()?;
    let (_, time) = timed(module::unload)?;
    fact("done", format!("in {time}"));
    let equal = equal_images_on(&log.eltwo()?, &cpu::online()?)?;
    let cpus: Vec<_> = equal.keys().map(|cpu| format!("CPU {cpu}")).collect();
    let registers = equal.values().min().context("no registers compared")?;
    fact(
        "registers",
        format!(
            "all {registers} equal to what was found, on {}",
            cpus.join(", ")
        ),
    );
    module::nothing_left()?;
    fact(
        "left",
        "nothing: no file, no hotplug state, no vmalloc area",
    );
    Ok(())
}

pub fn kexec() -> Result<()> {
    if let Err(error) = second_kernel::needed() {
        if error.is::<Skip>() {
            fact("skipped", error);
            line("");
            line("The journey ends here, without a second kernel.");
            return Ok(());
        }
        return Err(error);
    }
    let (loaded, time) = timed(module::load)?;
    debugfs::expect_online_are_hyp()?;
    fact("insmod", format!("again, in {time}"));
    second_kernel::load("demo_second")?;
    fact(
        "kexec",
        "a second kernel is loaded; it starts now, while EL2 is still ours",
    );
    End::Kexec.request()?;
    loaded.keep();
    Ok(())
}
