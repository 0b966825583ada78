// SPDX-License-Identifier: GPL-2.0-only

//! Memory of other kinds behind a slot: a device that the process has mapped (VM_PFNMAP), and huge pages of the pool.

use std::{
    fs::{
        self,
        OpenOptions, //
    },
    path::Path,
    time::Duration, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY, //
};
use kvm_ioctls::Kvm;
use nix::{
    errno::Errno,
    sys::{
        mman::{
            MmapAdvise,
            ProtFlags, //
        },
        stat::{
            makedev,
            mknod,
            Mode,
            SFlag, //
        },
    },
};

use crate::{
    guest::{
        debugfs,
        page,
        poll, //
    },
    ktap::{
        note,
        Skip,
        Test, //
    },
    kvm::{
        host,
        image::{
            self,
            Program, //
        },
        machine::{
            Machine,
            BASE,
            EXTRA, //
        },
        ram::{
            huge_size,
            page_size,
            Ram, //
        },
        stats,
        vcpu::{
            Exit,
            Vcpu, //
        },
    },
};

/// How long it may take until there is room for huge pages.
const IN_A_ROW: Duration = Duration::from_secs(20);
/// Slot of the memory at [`EXTRA`].
const SLOT: u32 = 1;
/// The first virtio transport of QEMU's board, which no driver has claimed, and what its first register reads as: "virt".
const TRANSPORT: u64 = 0x0a00_0000;
const MAGIC: u64 = 0x7472_6976;
/// LDR w0, [x0] and STR wzr, [x0].
const LDR: u64 = 0xb940_0000;
const STR: u64 = 0xb900_001f;

pub fn test() -> Test {
    host::test()
        .case("device_is_read_by_the_guest", host::with(device))
        .case(
            "device_in_a_read_only_slot_is_not_written",
            host::with(not_written),
        )
        .case("device_is_not_executed", host::with(not_executed))
        .case("device_is_not_logged", host::with(not_logged))
        .case("device_follows_the_process", host::with(follows))
        .case("huge_pages_of_the_pool_are_blocks", host::with(pool))
        .case("huge_pages_at_odd_places_are_pages", host::with(odd))
        .case("huge_pages_are_given_back", host::with(given_back))
}

/// The device, mapped by this process.
fn map_device(access: ProtFlags) -> Result<Ram> {
    const MEM: &str = "/dev/mem";
    if !Path::new(MEM).exists() {
        mknod(
            MEM,
            SFlag::S_IFCHR,
            Mode::S_IRUSR | Mode::S_IWUSR,
            makedev(1, 1),
        )
        .context(MEM)?;
    }
    let write = access.contains(ProtFlags::PROT_WRITE);
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .open(MEM)
        .context(MEM)?;
    let ram =
        Ram::of_file(&file, TRANSPORT as i64, page_size(), access).context("mmap of /dev/mem")?;
    Ok(ram)
}

const READ_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

fn setup(kvm: &Kvm, ram: &Ram, gpa: u64) -> Result<(Machine, Vcpu)> {
    let machine = Machine::new(kvm)?;
    machine.add(SLOT, gpa, ram, 0)?;
    let vcpu = machine.vcpu(0)?;
    Ok((machine, vcpu))
}

/// Executes one instruction with x0 = [`EXTRA`].
fn start(vcpu: &mut Vcpu, instruction: u64) -> Result<()> {
    vcpu.start(Program::Execute, &[instruction, EXTRA, BASE + image::FREE])
}

/// The lines of debugfs about stage 2 at [`EXTRA`] and above; `None` for the stock KVM, which has no such file.
fn stage2() -> Result<Option<Vec<String>>> {
    if host::is_reference() {
        return Ok(None);
    }
    let text = debugfs::read("stage2")?;
    let from = format!("{EXTRA:#014x}");
    let lines = text
        .lines()
        .filter(|line| line.starts_with("0x") && **line >= *from);
    Ok(Some(lines.map(str::to_string).collect()))
}

fn device(kvm: &Kvm) -> Result<()> {
    let ram = map_device(READ_WRITE)?;
    let (_machine, mut vcpu) = setup(kvm, &ram, EXTRA)?;
    start(&mut vcpu, LDR)?;
    let got = vcpu.finish()?;
    ensure!(got == MAGIC, "the guest reads {got:#x}, not {MAGIC:#x}");
    ensure!(vcpu.channel().exceptions().0 == 0, "it took an exception");
    if let Some(lines) = stage2()? {
        let [line] = &lines[..] else {
            anyhow::bail!("stage 2 has {lines:?}");
        };
        ensure!(
            line.contains("device") && !line.contains('X') && line.contains("PAGE"),
            "mapped as {line}"
        );
        note(line);
    }
    // What the process may not write, the guest may not either: there is no memory for that.
    let ram = map_device(ProtFlags::PROT_READ)?;
    let (_machine, mut vcpu) = setup(kvm, &ram, EXTRA)?;
    start(&mut vcpu, LDR)?;
    ensure!(vcpu.finish()? == MAGIC, "read only: another value");
    start(&mut vcpu, STR)?;
    let exit = vcpu.run();
    ensure!(exit == Exit::Failed(Errno::EFAULT), "a write: {exit:x?}");
    Ok(())
}

/// The process may write the device. The slot is read-only, so the guest may not: user space gets what it writes.
fn not_written(kvm: &Kvm) -> Result<()> {
    let ram = map_device(READ_WRITE)?;
    let machine = Machine::new(kvm)?;
    machine.add(SLOT, EXTRA, &ram, KVM_MEM_READONLY)?;
    let mut vcpu = machine.vcpu(0)?;
    for mapped_before in [false, true] {
        start(&mut vcpu, STR)?;
        let exit = vcpu.run();
        ensure!(
            exit == Exit::Write(EXTRA, vec![0; 4]),
            "mapped before: {mapped_before}: {exit:x?}"
        );
        vcpu.finish()?;
        start(&mut vcpu, LDR)?;
        ensure!(vcpu.finish()? == MAGIC, "another value");
    }
    Ok(())
}

/// The fetch gets the external abort that the bus would give it.
fn not_executed(kvm: &Kvm) -> Result<()> {
    /// ESR_EL1 of an instruction abort at EL1, 32 bits long; and of a synchronous external abort.
    const ABORT: u64 = (0x21 << 26) | (1 << 25);
    const EXTERNAL: u64 = 0x10;
    let ram = map_device(READ_WRITE)?;
    let (_machine, mut vcpu) = setup(kvm, &ram, EXTRA)?;
    for mapped_before in [false, true] {
        if mapped_before {
            start(&mut vcpu, LDR)?;
            vcpu.finish()?;
        }
        vcpu.start(Program::Jump, &[EXTRA])?;
        let exit = vcpu.run();
        let Exit::Fault(esr) = exit else {
            anyhow::bail!("mapped before: {mapped_before}: {exit:x?}");
        };
        ensure!(
            esr & !0x200 == ABORT | EXTERNAL,
            "mapped before: {mapped_before}: ESR_EL1 {esr:#x}"
        );
    }
    Ok(())
}

fn not_logged(kvm: &Kvm) -> Result<()> {
    let ram = map_device(READ_WRITE)?;
    let machine = Machine::new(kvm)?;
    let is_refused = |flags: u32| {
        let result = machine.add(SLOT, EXTRA, &ram, flags);
        let errno = result
            .err()
            .and_then(|error| error.downcast::<Errno>().ok());
        errno == Some(Errno::EINVAL)
    };
    ensure!(
        is_refused(KVM_MEM_LOG_DIRTY_PAGES),
        "a new slot with a log was not refused"
    );
    machine.add(SLOT, EXTRA, &ram, KVM_MEM_READONLY)?;
    ensure!(
        is_refused(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY),
        "a log for a slot that is there was not refused"
    );
    Ok(())
}

/// When the process has the device no longer, the guest has not either.
fn follows(kvm: &Kvm) -> Result<()> {
    let ram = map_device(READ_WRITE)?;
    let (_machine, mut vcpu) = setup(kvm, &ram, EXTRA)?;
    start(&mut vcpu, LDR)?;
    ensure!(vcpu.finish()? == MAGIC, "another value");
    let address = ram.address();
    drop(ram);
    if let Some(lines) = stage2()? {
        ensure!(lines.is_empty(), "still mapped: {lines:?}");
    }
    start(&mut vcpu, LDR)?;
    let exit = vcpu.run();
    ensure!(
        exit == Exit::Failed(Errno::EFAULT),
        "{address:#x} is unmapped: {exit:x?}"
    );
    Ok(())
}

/// Huge pages in the pool, for as long as this lives.
struct Pool(String);

impl Pool {
    fn of(pages: usize) -> Result<Self> {
        let dir = format!(
            "/sys/kernel/mm/hugepages/hugepages-{}kB",
            huge_size() / 1024
        );
        if !Path::new(&dir).exists() {
            return Skip::because("the kernel has no pool of huge pages");
        }
        let pool = Self(dir);
        poll::until(IN_A_ROW, || {
            page::compact()?;
            pool.set("nr_hugepages", pages)?;
            let got = pool.get("nr_hugepages")?;
            ensure!(got == pages, "{got} of {pages} huge pages");
            Ok(())
        })?;
        Ok(pool)
    }

    fn get(&self, name: &str) -> Result<usize> {
        Ok(fs::read_to_string(format!("{}/{name}", self.0))?
            .trim()
            .parse()?)
    }

    fn set(&self, name: &str, value: usize) -> Result<()> {
        fs::write(format!("{}/{name}", self.0), value.to_string()).context("hugepages")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // What is left in use shows as such: the cases look.
        let _ = self.set("nr_hugepages", 0);
    }
}

/// Writes a word to each small page, lets the guest add them up, and returns the exits for that.
fn read_all(vcpu: &mut Vcpu, ram: &Ram, gpa: u64) -> Result<u64> {
    let step = page_size() as u64;
    let pages = ram.len() as u64 / step;
    (0..pages).for_each(|page| ram.set(page * step, page + 1));
    let exits = |vcpu: &Vcpu| stats::counter(&vcpu.fd, "exits")?.context("no counter of exits");
    let before = exits(vcpu)?;
    let sum = vcpu.call(Program::Read, &[gpa, ram.len() as u64, step])?;
    let exits = exits(vcpu)? - before;
    ensure!(sum == pages * (pages + 1) / 2, "the guest reads {sum}");
    Ok(exits)
}

fn pool(kvm: &Kvm) -> Result<()> {
    const PAGES: usize = 2;
    let _pool = Pool::of(PAGES)?;
    let ram = Ram::hugetlb(PAGES * huge_size())?;
    let (machine, mut vcpu) = setup(kvm, &ram, EXTRA)?;
    let exits = read_all(&mut vcpu, &ram, EXTRA)?;
    let small = (ram.len() / page_size()) as u64;
    ensure!(exits < small / 4, "{exits} exits for {PAGES} huge pages");
    if let Some(lines) = stage2()? {
        ensure!(
            !lines.is_empty() && lines.iter().all(|line| line.contains("L2 BLOCK")),
            "mapped as {lines:?}"
        );
        note(lines.join("; "));
    }
    // A log is of small pages: the blocks go, and come back without it.
    machine.add(SLOT, EXTRA, &ram, KVM_MEM_LOG_DIRTY_PAGES)?;
    let at = EXTRA + 3 * page_size() as u64;
    vcpu.call(Program::Write, &[at, 8, 8, 7])?;
    let log = machine
        .vm
        .get_dirty_log(SLOT, ram.len())
        .context("KVM_GET_DIRTY_LOG")?;
    ensure!(
        log[0] == 1 << 3 && log[1..].iter().all(|word| *word == 0),
        "dirty are {log:x?}"
    );
    machine.add(SLOT, EXTRA, &ram, 0)?;
    read_all(&mut vcpu, &ram, EXTRA)?;
    Ok(())
}

/// Guest and process do not have the memory at the same offset in a block, so that no block can map it.
fn odd(kvm: &Kvm) -> Result<()> {
    let _pool = Pool::of(1)?;
    let ram = Ram::hugetlb(huge_size())?;
    let gpa = EXTRA + page_size() as u64;
    let (_machine, mut vcpu) = setup(kvm, &ram, gpa)?;
    let exits = read_all(&mut vcpu, &ram, gpa)?;
    let small = (ram.len() / page_size()) as u64;
    ensure!(exits >= small, "{exits} exits for {small} pages");
    if let Some(lines) = stage2()? {
        ensure!(
            lines.iter().all(|line| line.contains("PAGE")),
            "mapped as {lines:?}"
        );
    }
    Ok(())
}

/// What the process drops is fresh for the guest, and nothing keeps a page of the pool when all is closed.
fn given_back(kvm: &Kvm) -> Result<()> {
    let pool = Pool::of(2)?;
    let ram = Ram::hugetlb(2 * huge_size())?;
    {
        let (_machine, mut vcpu) = setup(kvm, &ram, EXTRA)?;
        read_all(&mut vcpu, &ram, EXTRA)?;
        ensure!(pool.get("free_hugepages")? == 0, "the pages are not in use");
        ram.advise_range(0, huge_size(), MmapAdvise::MADV_DONTNEED)?;
        ensure!(
            pool.get("free_hugepages")? == 1,
            "the dropped page is still in use"
        );
        let step = page_size() as u64;
        let sum = vcpu.call(Program::Read, &[EXTRA, huge_size() as u64, step])?;
        ensure!(sum == 0, "dropped memory reads as {sum:#x}");
        drop(ram);
        ensure!(
            pool.get("free_hugepages")? == 2,
            "a page is in use though the process has unmapped it"
        );
    }
    Ok(())
}
