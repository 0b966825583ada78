// SPDX-License-Identifier: GPL-2.0-only

//! Guests compute the right thing while the host takes their memory and their CPUs away and gives them back.

use std::{
    fs,
    io::{
        Read,
        Write, //
    },
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
    thread,
    time::{
        Duration,
        Instant, //
    },
};

use anyhow::{
    anyhow,
    bail,
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::Kvm;
use nix::{
    libc,
    sched::{
        sched_setaffinity,
        CpuSet, //
    },
    sys::{
        mman::MmapAdvise,
        wait::{
            waitpid,
            WaitStatus, //
        },
    },
    unistd::{
        fork,
        ForkResult, //
    },
};

use super::needs_two_cpus;
use crate::{
    guest::{
        account::vmstat,
        cpu,
        disk,
        page,
        poll::patient, //
    },
    ktap::{
        note,
        Skip,
        Test, //
    },
    kvm::{
        compute::Compute,
        fleet::{
            compute_while,
            Fleet,
            Size, //
        },
        host,
        image::{
            self,
            Program, //
        },
        machine::{
            Machine,
            EXTRA, //
        },
        poll,
        ram::{
            page_size, //
            Ram,
        },
        runner::Runner,
        vcpu::Exit,
    },
};

/// Work of one VM with two vCPUs in 1 MiB.
const SIZE: Size = Size {
    machines: 1,
    vcpus: 2,
    words: 64 << 10,
    pause: 1_000_000,
};

pub fn test() -> Test {
    host::test()
        .case("computes_while_swapped_out", host::with(swap))
        .case("computes_while_ksm_merges", host::with(ksm))
        .case("computes_while_the_process_forks", host::with(forks))
        .case("dropped_memory_reads_as_zero", host::with(dropped))
        .case("freed_pages_are_out_of_reach", host::with(out_of_reach))
        .case("computes_while_pages_move", host::with(compaction))
        .case("computes_beside_fp_heavy_work", host::with(fp))
        .case("computes_while_cpus_go_and_come", host::with(hotplug))
        .case("four_vms_with_two_vcpus_on_two_cpus", host::with(crowded))
}

fn swap(kvm: &Kvm) -> Result<()> {
    /// How often all of the guest's memory is to go out, counted in pages.
    const TIMES: u64 = 2;
    /// Longest time for that, on a machine that has much else to do: every page that goes has all CPUs invalidate.
    const LONGEST: Duration = Duration::from_secs(180);
    let _swap = disk::MEMORY.attach()?.swap()?;
    let once = (SIZE.vcpus * SIZE.words * 8 / page_size()) as u64;
    let (out, back) = (vmstat("pswpout")?, vmstat("pswpin")?);
    let rounds = compute_while(kvm, SIZE, Ram::new, |fleet| {
        let end = Instant::now() + patient(LONGEST);
        while vmstat("pswpout")? - out < TIMES * once {
            ensure!(
                Instant::now() < end,
                "only {} pages went out within {} s",
                vmstat("pswpout")? - out,
                patient(LONGEST).as_secs()
            );
            for machine in &fleet.machines {
                machine.ram.advise(MmapAdvise::MADV_PAGEOUT)?;
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    })?;
    let (out, back) = (vmstat("pswpout")? - out, vmstat("pswpin")? - back);
    ensure!(back > once, "only {back} of {out} pages came back");
    note(format!(
        "{rounds} rounds, {out} pages swapped out, {back} in"
    ));
    Ok(())
}

/// KSM at full speed, for as long as this lives.
struct Ksm;

impl Ksm {
    fn on() -> Result<Self> {
        const DIR: &str = "/sys/kernel/mm/ksm";
        if !Path::new(DIR).exists() {
            return Skip::because("the kernel has no KSM");
        }
        fs::write(format!("{DIR}/pages_to_scan"), "5000")?;
        fs::write(format!("{DIR}/sleep_millisecs"), "2")?;
        fs::write(format!("{DIR}/run"), "1")?;
        Ok(Self)
    }

    fn sharing() -> u64 {
        let text = fs::read_to_string("/sys/kernel/mm/ksm/pages_sharing").unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

impl Drop for Ksm {
    fn drop(&mut self) {
        // 2: stop, and take all merged pages apart.
        let _ = fs::write("/sys/kernel/mm/ksm/run", "2");
        let _ = fs::write("/sys/kernel/mm/ksm/run", "0");
    }
}

/// Equal pages are merged under the guest; then the guest writes to each of them.
fn ksm(kvm: &Kvm) -> Result<()> {
    const PAGES: u64 = 256;
    let _ksm = Ksm::on()?;
    let extra = Arc::new(Ram::new(PAGES as usize * page_size())?);
    let read = [EXTRA, extra.len() as u64, page_size() as u64];
    let rounds = compute_while(kvm, SIZE, Ram::new, |fleet| {
        extra.advise(MmapAdvise::MADV_MERGEABLE)?;
        fleet.machines[0].ram.advise(MmapAdvise::MADV_MERGEABLE)?;
        let machine = &fleet.machines[0];
        machine.add(1, EXTRA, &extra, 0)?;
        let mut vcpu = machine.vcpu(SIZE.vcpus as u64)?;
        for turn in 1..=3 {
            for page in 0..PAGES {
                extra.set(page * page_size() as u64, 0x4b53_4d00 + turn);
            }
            let sum = PAGES * (0x4b53_4d00 + turn);
            poll(|| Ksm::sharing() >= PAGES / 2)
                .with_context(|| format!("KSM shares {} pages", Ksm::sharing()))?;
            let got = vcpu.call(Program::Read, &read)?;
            ensure!(got == sum, "merged pages: the guest reads {got:#x}");
            note(format!("{} pages shared", Ksm::sharing()));
            vcpu.call(Program::Write, &[read[0], read[1], read[2], turn])?;
            for page in 0..PAGES {
                let got = extra.get(page * page_size() as u64);
                ensure!(
                    got == turn + page,
                    "page {page} has {got:#x} after the write"
                );
            }
            extra.advise(MmapAdvise::MADV_UNMERGEABLE)?;
            extra.advise(MmapAdvise::MADV_MERGEABLE)?;
        }
        Ok(())
    })?;
    note(format!("{rounds} rounds"));
    Ok(())
}

/// Each fork makes all memory copy-on-write, and the guest goes on writing to it.
fn forks(kvm: &Kvm) -> Result<()> {
    const FORKS: u32 = 6;
    let rounds = compute_while(kvm, SIZE, Ram::new, |fleet| {
        for number in 0..FORKS {
            fork_once(fleet).with_context(|| format!("fork {number}"))?;
        }
        Ok(())
    })?;
    note(format!("{FORKS} forks, {rounds} rounds"));
    Ok(())
}

/// The last word of each page that the guest of [`SIZE`] writes in each round.
fn written(ram: &Ram) -> impl Iterator<Item = u64> + '_ {
    let start = image::FREE as usize;
    let ends = (start..start + SIZE.vcpus * SIZE.words * 8).step_by(page_size());
    ends.map(|page| ram.get((page + page_size() - 8) as u64))
}

/// The child has a copy of what the guest had written by then, and keeps it, whatever the guest writes after that.
fn fork_once(fleet: &Fleet) -> Result<()> {
    let ram = Arc::clone(&fleet.machines[0].ram);
    // Room for what each side sees, as the child must not allocate.
    let mut seen: Vec<u64> = written(&ram).collect();
    let (mut parents, mut childs) = UnixStream::pair()?;
    // SAFETY: The child only reads memory, writes to its own copy of `seen`, makes system calls and leaves, so it needs no
    // lock that a thread may hold.
    match unsafe { fork()? } {
        ForkResult::Child => {
            drop(parents);
            let code = keep(&ram, &mut seen, &mut childs);
            // SAFETY: The call needs no lock.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            drop(childs);
            let result = write_on(fleet, &ram, &mut parents);
            // If that has failed the child reads an end, and leaves.
            drop(parents);
            let status = waitpid(child, None)?;
            result?;
            ensure!(
                status == WaitStatus::Exited(child, 0),
                "the child's memory has changed, or it has failed: {status:?}"
            );
            Ok(())
        }
    }
}

/// The child: looks at the memory before the guest of the parent goes on and after that. Returns how to leave.
fn keep(ram: &Ram, seen: &mut [u64], parent: &mut UnixStream) -> i32 {
    for (place, word) in seen.iter_mut().zip(written(ram)) {
        *place = word;
    }
    if parent.write_all(&[1]).is_err() || parent.read_exact(&mut [0]).is_err() {
        return 2;
    }
    i32::from(!seen.iter().copied().eq(written(ram)))
}

/// The parent: lets the guest write to every page when the child has looked at all of them.
fn write_on(fleet: &Fleet, ram: &Ram, child: &mut UnixStream) -> Result<()> {
    child.read_exact(&mut [0]).context("the child")?;
    let before: Vec<u64> = written(ram).collect();
    fleet.advance(2)?;
    let same = before.iter().zip(written(ram)).filter(|(b, a)| *b == a);
    let same = same.count();
    ensure!(
        same == 0,
        "the guest has written to its memory, but {same} of {} pages are as before",
        before.len()
    );
    child.write_all(&[1]).context("the child")
}

/// What the host drops or maps anew is zero for the guest too, at once.
fn dropped(kvm: &Kvm) -> Result<()> {
    const PAGES: u64 = 256;
    let machine = Machine::new(kvm)?;
    let extra = Ram::new(PAGES as usize * page_size())?;
    machine.add(1, EXTRA, &extra, 0)?;
    let mut vcpu = machine.vcpu(0)?;
    let read = [EXTRA, extra.len() as u64, page_size() as u64];
    let expect = |vcpu: &mut crate::kvm::vcpu::Vcpu, sum: u64, what: &str| {
        let got = vcpu.call(Program::Read, &read)?;
        ensure!(got == sum, "{what}: the guest reads {got}, not {sum}");
        Ok(())
    };
    for turn in 1..=20 {
        vcpu.call(Program::Write, &[read[0], read[1], read[2], turn])?;
        let sum = |pages: u64| pages * turn + pages * (pages - 1) / 2;
        expect(&mut vcpu, sum(PAGES), "written")?;
        let half = extra.len() / 2;
        extra.advise_range(half as u64, half, MmapAdvise::MADV_DONTNEED)?;
        expect(&mut vcpu, sum(PAGES / 2), "half of it dropped")?;
        extra.replace(0, extra.len())?;
        expect(&mut vcpu, 0, "all mapped anew")?;
    }
    Ok(())
}

/// Pages that the host frees and uses for something else stay as that leaves them, although the slot comes and goes at
/// the same time and the guest writes to all of it without a break. That no order of these lets the guest at them is tried
/// on the host, in `rust/common/invalidation`; this is the same with real threads and tables.
fn out_of_reach(kvm: &Kvm) -> Result<()> {
    const PAGES: u64 = 256;
    const TURNS: u64 = 150;
    const CANARY: u64 = 0xca11_ab1e_0000_0000;
    let machine = Machine::new(kvm)?;
    let extra = Arc::new(Ram::new(PAGES as usize * page_size())?);
    machine.add(1, EXTRA, &extra, 0)?;
    let mut vcpu = machine.vcpu(0)?;
    vcpu.start(
        Program::WriteOn,
        &[EXTRA, extra.len() as u64, page_size() as u64],
    )?;
    let channel = vcpu.channel();
    let runner = Runner::start(vcpu, |vcpu| loop {
        match vcpu.run() {
            Exit::Done(_) => return Ok(()),
            // The slot is away.
            Exit::Read(..) | Exit::Write(..) => {}
            exit => bail!("{exit:x?}"),
        }
    })?;
    let memory = Arc::clone(&extra);
    let host = thread::spawn(move || {
        for turn in 0..TURNS {
            memory.replace(0, memory.len())?;
            // Most likely the pages that were just freed.
            let other = Ram::new(memory.len())?;
            let words = || (0..PAGES).map(|page| page * page_size() as u64);
            words().for_each(|at| other.set(at, CANARY + turn));
            thread::sleep(Duration::from_millis(1));
            for at in words() {
                let got = other.get(at);
                ensure!(
                    got == CANARY + turn,
                    "the guest wrote {got:#x} to a freed page"
                );
            }
        }
        Ok(())
    });
    let mut toggles = 0;
    while !host.is_finished() && !runner.is_finished() {
        machine.remove(1)?;
        machine.add(1, EXTRA, &extra, 0)?;
        toggles += 1;
    }
    channel.stop();
    let result = host.join().map_err(|_| anyhow!("a thread panicked"))?;
    runner.join()?;
    note(format!(
        "{TURNS} times freed, {toggles} times without the slot"
    ));
    result
}

/// The kernel moves pages of the guest to make room for large ones.
fn compaction(kvm: &Kvm) -> Result<()> {
    const TURNS: u32 = 10;
    /// It goes on as long as nothing has moved, but not for ever.
    const MOST_TURNS: u32 = 200;
    /// Bytes of memory that is free again when the guest has its own. Some of it is where the kernel moves pages to: behind
    /// what was allocated later or before what was allocated earlier, whichever way it goes.
    const GAP: usize = 64 << 20;
    let gap = Ram::new(GAP)?;
    for page in (0..GAP).step_by(page_size()) {
        gap.set(page as u64, 1);
    }
    let mut moved = 0;
    let rounds = compute_while(kvm, SIZE, Ram::new, |fleet| {
        drop(gap);
        let ram = &fleet.machines[0].ram;
        let mut places = ram.places()?;
        for turn in 1.. {
            page::compact()?;
            let now = ram.places()?;
            // A page that is just being moved is not there.
            let pairs = places.iter().zip(&now);
            let others = pairs.filter(
                |(before, now)| matches!((before, now), (Some(before), Some(now)) if before != now),
            );
            moved += others.count();
            places = now;
            fleet.advance(1)?;
            if (turn >= TURNS && moved != 0) || turn >= MOST_TURNS {
                break;
            }
        }
        Ok(())
    })?;
    note(format!("{moved} pages of the guest moved, {rounds} rounds"));
    ensure!(moved != 0, "no page of the guest moved");
    Ok(())
}

/// The host's own threads use the vector registers on the same CPUs.
fn fp(kvm: &Kvm) -> Result<()> {
    /// How long, and how many turns at least.
    const TIME: Duration = Duration::from_millis(1500);
    const TURNS: u32 = 2;
    let online = cpu::online()?.len();
    let size = Size { pause: 0, ..SIZE };
    let rounds = compute_while(kvm, size, Ram::new, |fleet| {
        let end = Instant::now() + TIME;
        let workers: Vec<_> = (0..online as u64)
            .map(|seed| {
                thread::spawn(move || {
                    let mut expected = None;
                    let mut turns = 0;
                    while turns < TURNS || Instant::now() < end {
                        let mut work = Compute::new(64, seed);
                        work.rounds(200);
                        if *expected.get_or_insert(work.result()) != work.result() {
                            return Err(anyhow!("the host's own result is wrong"));
                        }
                        turns += 1;
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        fleet.advance(2)
    })?;
    note(format!("{rounds} rounds beside {online} threads"));
    Ok(())
}

fn hotplug(kvm: &Kvm) -> Result<()> {
    const TURNS: usize = 8;
    needs_two_cpus()?;
    let secondaries = cpu::secondaries()?;
    let rounds = compute_while(kvm, SIZE, Ram::new, |fleet| {
        let threads = fleet.threads()?;
        for turn in 0..TURNS {
            let cpu = secondaries[turn % secondaries.len()];
            // Put the vCPUs there, so that they must leave.
            let mut set = CpuSet::new();
            set.set(cpu)?;
            for thread in &threads {
                sched_setaffinity(*thread, &set)?;
            }
            fleet.advance(1)?;
            cpu::set_online(cpu, false)?;
            fleet.advance(1)?;
            cpu::set_online(cpu, true)?;
        }
        Ok(())
    })?;
    note(format!("{TURNS} times a CPU away, {rounds} rounds"));
    Ok(())
}

fn crowded(kvm: &Kvm) -> Result<()> {
    const CROWD: Size = Size {
        machines: 4,
        vcpus: 2,
        words: 8 << 10,
        pause: 0,
    };
    needs_two_cpus()?;
    let mut set = CpuSet::new();
    for cpu in &cpu::online()?[..2] {
        set.set(*cpu)?;
    }
    let rounds = compute_while(kvm, CROWD, Ram::new, |fleet: &Fleet| {
        for thread in fleet.threads()? {
            sched_setaffinity(thread, &set)?;
        }
        fleet.advance(20)
    })?;
    note(format!("8 vCPUs on 2 CPUs, {rounds} rounds"));
    Ok(())
}
