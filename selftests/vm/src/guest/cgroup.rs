// SPDX-License-Identifier: GPL-2.0-only

//! A control group, to which the kernel charges what its processes make it allocate. When the last of them is gone, what is
//! still charged is lost: to the byte, and without anybody else's allocations.
//!
//! A group cannot tell that itself. Objects are charged in whole pages, and what is left of a page when its objects are freed on
//! different CPUs is kept in pieces, of a page or more together, until the group has no objects and is removed
//! (`obj_cgroup_release` of `mm/memcontrol.c`). So the processes are in a group within the group: when the inner one is removed
//! its charges are the outer one's, and they come to zero if, and only if, its last object is freed.
//!
//! Source: `Documentation/admin-guide/cgroup-v2.rst` of Linux.

use std::{
    fs,
    path::{
        Path,
        PathBuf, //
    },
};

use anyhow::{
    Context,
    Result, //
};
use nix::mount::{
    mount,
    MsFlags, //
};

use super::cpu;
use crate::ktap::Skip;

const ROOT: &str = "/sys/fs/cgroup";
/// Writing 1 to it has every CPU put the pages that it has gathered on their lists (`lru_add_drain_all`), too.
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";
/// Which controllers the groups within a group have.
const SUBTREE: &str = "cgroup.subtree_control";

/// A group below the root with one in it, for as long as this lives.
pub struct Group(PathBuf);

impl Group {
    /// A new group with this name, without processes.
    pub fn new(name: &str) -> Result<Self> {
        let root = Path::new(ROOT);
        if !root.join("cgroup.controllers").exists() {
            mount(
                Some("cgroup2"),
                ROOT,
                Some("cgroup2"),
                MsFlags::empty(),
                None::<&str>,
            )
            .with_context(|| format!("mount cgroup2 on {ROOT}"))?;
        }
        let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
        if !controllers.split_whitespace().any(|name| name == "memory") {
            return Skip::because("the kernel does not charge memory to groups");
        }
        let group = Self(root.join(name));
        fs::write(root.join(SUBTREE), "+memory")?;
        for path in [&group.0, &group.inner()] {
            fs::create_dir(path).with_context(|| format!("{path:?}"))?;
        }
        group.write(SUBTREE, "+memory")?;
        Ok(group)
    }

    fn inner(&self) -> PathBuf {
        self.0.join("inner")
    }

    /// Puts the calling process in the inner group.
    pub fn enter(&self) -> Result<()> {
        let path = self.inner().join("cgroup.procs");
        fs::write(&path, "0").with_context(|| format!("{path:?}"))
    }

    /// Removes the inner group, which has no processes any more: what is still charged to it is the outer one's.
    pub fn leave(&self) -> Result<()> {
        let path = self.inner();
        fs::remove_dir(&path).with_context(|| format!("{path:?}"))
    }

    /// Bytes that are charged, without what CPUs keep for later.
    pub fn charged(&self) -> Result<u64> {
        // A CPU gathers pages before it puts them on lists, and pages that were freed meanwhile stay among them.
        fs::write(DROP_CACHES, "1").context(DROP_CACHES)?;
        // When this limit is set the kernel returns what CPUs have charged in advance, reclaims what it can, and kills nobody. It
        // is set on each CPU, as an idle one keeps the `mm_struct` of the process that it ran last (lazy TLB).
        for cpu in cpu::online()? {
            cpu::on(cpu, || self.write("memory.high", "0"))?;
        }
        let bytes = self.read("memory.current")?.trim().parse()?;
        self.write("memory.high", "max")?;
        Ok(bytes)
    }

    /// What the kernel says the charged memory is, the lines that are not zero.
    pub fn details(&self) -> Result<String> {
        const BYTES: [&str; 10] = [
            "anon",
            "file",
            "kernel",
            "kernel_stack",
            "pagetables",
            "sec_pagetables",
            "percpu",
            "vmalloc",
            "slab_reclaimable",
            "slab_unreclaimable",
        ];
        let text = self.read("memory.stat")?;
        let lines = text.lines().filter(|line| {
            line.split_once(' ')
                .is_some_and(|(name, value)| BYTES.contains(&name) && value != "0")
        });
        Ok(lines.collect::<Vec<_>>().join(", "))
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        fs::read_to_string(&path).with_context(|| format!("{path:?}"))
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, text).with_context(|| format!("{path:?}"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It fails while a process is left, and then that is what the test has failed for.
        let _ = fs::remove_dir(self.inner());
        let _ = fs::remove_dir(&self.0);
    }
}
