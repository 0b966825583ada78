// SPDX-License-Identifier: GPL-2.0-only

//! A control group, to which the kernel charges what its processes make it allocate. When the last of them is gone, what is
//! still charged is lost: to the byte, and without anybody else's allocations.
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

use crate::ktap::Skip;

const ROOT: &str = "/sys/fs/cgroup";

/// A group below the root, for as long as this lives.
pub struct Group(PathBuf);

impl Group {
    /// A new group with this name, without processes.
    pub fn new(name: &str) -> Result<Self> {
        if !Path::new(ROOT).join("cgroup.controllers").exists() {
            mount(
                Some("cgroup2"),
                ROOT,
                Some("cgroup2"),
                MsFlags::empty(),
                None::<&str>,
            )
            .with_context(|| format!("mount cgroup2 on {ROOT}"))?;
        }
        let controllers = fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"))?;
        if !controllers.split_whitespace().any(|name| name == "memory") {
            return Skip::because("the kernel does not charge memory to groups");
        }
        fs::write(Path::new(ROOT).join("cgroup.subtree_control"), "+memory")?;
        let path = Path::new(ROOT).join(name);
        fs::create_dir(&path).with_context(|| format!("{path:?}"))?;
        Ok(Self(path))
    }

    /// Puts the calling process in the group.
    pub fn enter(&self) -> Result<()> {
        self.write("cgroup.procs", "0")
    }

    /// Bytes that are charged to the group, which has no processes: all that can be given back has been asked for, and what
    /// CPUs had charged in advance is returned.
    pub fn charged(&self) -> Result<u64> {
        // The kernel makes a group keep to its limit when that is set, with all means.
        self.write("memory.max", "0")?;
        let bytes = self.read("memory.current")?.trim().parse()?;
        self.write("memory.max", "max")?;
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
        let _ = fs::remove_dir(&self.0);
    }
}
