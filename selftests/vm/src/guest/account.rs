// SPDX-License-Identifier: GPL-2.0-only

//! Memory accounts of the kernel, to find what is taken and not given back.
//!
//! What is in use cannot be read exactly at one moment: free pages sit on per-CPU lists, counters lag behind on each
//! CPU, free objects wait in per-CPU sheaves (dozens of them count as used at a time) or for RCU or a worker. All of it
//! only ever makes the numbers too large. So the caches are shrunk and the counters folded before each look, per-CPU lists
//! count as free, the memory of programs is left out, and the least of several looks is what counts. What is only late
//! or cached drops out of that minimum; what has leaked never does.
//!
//! On the debug kernel a freed object waits in KASAN's quarantine, counted as in use, each object and each stack trace has more
//! objects that describe it, and a stack is twice as large. There kmemleak looks for objects and per-CPU memory that are lost, and
//! what is counted here is only what it does not see and nothing blurs: areas of vmalloc.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::Path,
    time::{
        Duration,
        Instant, //
    },
};

use anyhow::{
    bail,
    Context,
    Result, //
};
use nix::unistd::sync;

use super::{
    cpu,
    page,
    poll::patient, //
};

/// Where the debug kernel reports objects that nothing points to any more.
pub const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";
/// Pages by zone, node and CPU.
const ZONEINFO: &str = "/proc/zoneinfo";
/// Objects and slabs, by cache.
const SLABINFO: &str = "/proc/slabinfo";
/// How long deferred frees may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Looks for a first account.
const LOOKS: u32 = 8;
/// How many accounts are named that have grown.
const MOST_NAMED: usize = 4;
/// Looks after which a growth is real, if the time is over too.
const MOST_LOOKS: u32 = 40;

/// Rounds over which memory is compared, `usual` on an ordinary kernel: what is lost in each must stand out from what other parts of
/// the kernel do meanwhile. The debug kernel, where each round takes long and nothing else is counted, makes a quarter of them.
pub fn rounds(usual: u32) -> u32 {
    if Path::new(KMEMLEAK).exists() {
        usual.div_ceil(4)
    } else {
        usual
    }
}

/// Numbers by name. All count things in use, so that a leak makes one grow.
#[derive(Clone, Debug, Default)]
pub struct Account(BTreeMap<String, i64>);

impl Account {
    /// Takes stock.
    pub fn take() -> Result<Self> {
        still_damon()?;
        let mut account = Self::look()?;
        for _ in 1..LOOKS {
            account.lower(Self::look()?);
        }
        Ok(account)
    }

    /// One look, from CPU 0, so that what the looking itself takes is the same each time.
    fn look() -> Result<Self> {
        cpu::on(0, || {
            shrink()?;
            let mut account = Self::default();
            account.vmalloc()?;
            if !Path::new(KMEMLEAK).exists() {
                account.meminfo()?;
                account.slabs()?;
                account.pages()?;
            }
            Ok(account)
        })
    }

    /// Keeps the lesser of each number. A cache that is not in `other` has no objects there.
    fn lower(&mut self, other: Self) {
        self.0.retain(|name, _| other.0.contains_key(name));
        for (name, value) in other.0 {
            let least = self.0.entry(name).or_insert(0);
            *least = value.min(*least);
        }
    }

    /// Pages that the kernel has for itself: all but those elsewhere.
    fn pages(&mut self) -> Result<()> {
        let managed = zones_sum(&fs::read_to_string(ZONEINFO)?, "managed");
        // Pages move while this looks, and what has moved from here to there is in neither or in both. So the less of two looks is
        // what counts of each: too few of them make the number too large, as everything here does.
        let (first, second) = (pages_elsewhere()?, pages_elsewhere()?);
        let elsewhere: i64 = first.iter().zip(second).map(|(a, b)| *a.min(&b)).sum();
        self.0.insert("kernel pages".into(), managed - elsewhere);
        Ok(())
    }

    /// What the kernel has taken for one purpose or another, in pages: it takes no less than one.
    fn meminfo(&mut self) -> Result<()> {
        for key in ["PageTables", "Percpu", "KernelStack"] {
            self.0.insert(format!("{key} pages"), meminfo_pages(key)?);
        }
        Ok(())
    }

    fn vmalloc(&mut self) -> Result<()> {
        let text = fs::read_to_string("/proc/vmallocinfo")?;
        // What is freed already waits here until enough of it has come together. Each CPU keeps stacks of tasks that have ended;
        // whose they are by name depends on what the compiler has made of `alloc_thread_stack_node`. Per-CPU memory is counted
        // by itself.
        let left_out = [
            "unpurged vm_area",
            "copy_process+",
            "kernel_clone+",
            "pcpu_get_vm_areas+",
        ];
        let in_use = |line: &&str| left_out.iter().all(|words| !line.contains(words));
        let areas = text.lines().filter(in_use).count();
        self.0.insert("vmalloc areas".into(), areas.try_into()?);
        Ok(())
    }

    /// Objects in use, by slab cache.
    fn slabs(&mut self) -> Result<()> {
        let text = fs::read_to_string(SLABINFO)?;
        for line in text.lines().skip(2) {
            let mut words = line.split_whitespace();
            let (Some(name), Some(active)) = (words.next(), words.next()) else {
                bail!("{SLABINFO}: {line:?}");
            };
            // These describe areas of vmalloc, freed ones too, which are counted by themselves.
            if name != "vmap_area" {
                self.0.insert(format!("slab {name}"), active.parse()?);
            }
        }
        Ok(())
    }

    /// What has grown against `self` by more than `tolerance` objects, areas or pages.
    fn grown(&self, now: &Self, tolerance: i64) -> BTreeMap<String, i64> {
        now.0
            .iter()
            .map(|(name, value)| (name.clone(), value - self.0.get(name).unwrap_or(&0)))
            .filter(|(_, growth)| *growth > tolerance)
            .collect()
    }

    /// Looks until nothing has grown against `self` by more than `tolerance`.
    ///
    /// It gives up only after both a time and a number of looks, as a slow machine does not get many into the time.
    pub fn expect_back_at(&self, tolerance: i64) -> Result<Self> {
        let deadline = Instant::now() + patient(LIMIT);
        let mut now = Self::look()?;
        for looks in 1.. {
            let grown = self.grown(&now, tolerance);
            if grown.is_empty() {
                return Ok(now);
            }
            if looks >= MOST_LOOKS && Instant::now() >= deadline {
                bail!("grown by more than {tolerance} in {looks} looks: {grown:?}");
            }
            now.lower(Self::look()?);
        }
        bail!("no end of looks")
    }

    /// What has grown most against `self`, in one line.
    pub fn most_grown(&self, now: &Self) -> String {
        let mut grown: Vec<_> = self.grown(now, 0).into_iter().collect();
        grown.sort_by_key(|(_, growth)| Reverse(*growth));
        let named = |(name, growth): &(String, i64)| format!("{name} by {growth}");
        let most: Vec<String> = grown.iter().take(MOST_NAMED).map(named).collect();
        match most.is_empty() {
            true => "nothing has grown".into(),
            false => format!("grown most: {}", most.join(", ")),
        }
    }

    /// One line that compares two accounts in what matters most.
    pub fn compare(&self, now: &Self) -> String {
        let mut text = String::new();
        for name in [
            "kernel pages",
            "vmalloc areas",
            "Percpu pages",
            "PageTables pages",
        ] {
            let (Some(before), Some(after)) = (self.0.get(name), now.0.get(name)) else {
                continue;
            };
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "{}{name} {before} -> {after}",
                if text.is_empty() { "" } else { ", " }
            );
        }
        text
    }
}

/// A counter of `/proc/vmstat`.
pub fn vmstat(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/vmstat")?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .with_context(|| format!("/proc/vmstat has no {name}"))?;
    Ok(value.parse()?)
}

/// Pages that are free (some of them on a CPU's list), a program's, of a file, or counted by themselves: as such, or as objects or
/// areas. How many slabs the objects lie in is chance, and each CPU keeps some stacks of tasks that have ended among the areas.
fn pages_elsewhere() -> Result<[i64; 8]> {
    // Each CPU keeps differences to the counters of its own; this adds them up. Else pages that a CPU has just put on its list count
    // as free there and in the zone.
    fs::write("/proc/sys/vm/stat_refresh", "1")?;
    let zones = fs::read_to_string(ZONEINFO)?;
    Ok([
        zones_sum(&zones, "pages free"),
        zones_sum(&zones, "count:"),
        zones_sum(&zones, "nr_anon_pages"),
        zones_sum(&zones, "nr_file_pages"),
        meminfo_pages("PageTables")?,
        meminfo_pages("Percpu")?,
        meminfo_pages("VmallocUsed")?,
        slab_pages()?,
    ])
}

/// The sum of a number of each zone, node or CPU.
fn zones_sum(zones: &str, key: &str) -> i64 {
    let numbers = zones
        .lines()
        .filter_map(|line| line.trim().strip_prefix(key)?.trim().parse::<i64>().ok());
    numbers.sum()
}

/// A line of `/proc/meminfo`, in pages.
fn meminfo_pages(key: &str) -> Result<i64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib: i64 = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("/proc/meminfo has no {key}"))?;
    Ok(kib / i64::try_from(page::size_bytes()? >> 10)?)
}

/// Pages of all slabs. Large allocations of kmalloc are in none.
fn slab_pages() -> Result<i64> {
    let text = fs::read_to_string(SLABINFO)?;
    let mut pages = 0;
    for line in text.lines().skip(2) {
        let words: Vec<&str> = line.split_whitespace().collect();
        // name, active and all objects, size, objects and pages of a slab, ..., "slabdata", active and all slabs, ...
        let (Some(each), Some(slabs)) = (words.get(5), words.get(14)) else {
            bail!("{SLABINFO}: {line:?}");
        };
        pages += each.parse::<i64>()? * slabs.parse::<i64>()?;
    }
    Ok(pages)
}

/// Stops the kernel's access monitor, which is on by default (`CONFIG_DAMON_STAT_ENABLED_DEFAULT`): it splits and merges
/// regions as the machine's memory is used, up to a thousand, which count as objects in use.
fn still_damon() -> Result<()> {
    const ENABLED: &str = "/sys/module/damon_stat/parameters/enabled";
    if Path::new(ENABLED).exists() {
        fs::write(ENABLED, "N").context(ENABLED)?;
    }
    Ok(())
}

/// Gives back what is only cached: page cache, dentries, inodes and empty slabs.
fn shrink() -> Result<()> {
    sync();
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    for cache in fs::read_dir("/sys/kernel/slab").context("/sys/kernel/slab")? {
        let path = cache?.path();
        // Merged caches are links to one that is in the list anyway.
        if !path.is_symlink() {
            // A cache may go away between the listing and the write.
            let _ = fs::write(path.join("shrink"), "1");
        }
    }
    Ok(())
}
