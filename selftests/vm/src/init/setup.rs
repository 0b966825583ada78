// SPDX-License-Identifier: GPL-2.0-only

//! File systems, links to the tests, and the place where results go.

use std::{
    fs::{
        self,
        File,
        OpenOptions, //
    },
    io::Write,
    os::unix::fs::{
        symlink,
        OpenOptionsExt, //
    },
    path::Path,
    process::{
        Command,
        Stdio, //
    },
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use nix::{
    libc,
    mount::{
        mount,
        MsFlags, //
    },
    sys::termios::{
        cfmakeraw,
        tcdrain,
        tcgetattr,
        tcsetattr,
        SetArg, //
    },
};

use crate::tests;

/// Where programs are found.
pub const PATH: &str = "/bin:/sbin:/usr/bin:/usr/sbin";

/// The second UART carries results only, so that the kernel's messages on the first cannot cut a line.
const RESULTS: &str = "/dev/ttyAMA1";
const CONSOLE: &str = "/dev/console";

/// File systems that every test may count on: type, place.
const FILE_SYSTEMS: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("debugfs", "/sys/kernel/debug"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
];

/// Mounts [`FILE_SYSTEMS`].
pub fn mount_all() -> Result<()> {
    for (kind, place) in FILE_SYSTEMS {
        fs::create_dir_all(place).with_context(|| place.to_string())?;
        mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mount {kind} on {place}"))?;
    }
    Ok(())
}

/// Makes `/tests/NAME` for every program that is in this binary.
pub fn link_tests() -> Result<()> {
    fs::create_dir_all("/tests")?;
    let names = tests::PROGRAMS.iter().map(|program| program.name);
    for name in names.chain(["demo", "demo_second"]) {
        let link = format!("/tests/{name}");
        if !Path::new(&link).exists() {
            symlink("/init", &link).context(link)?;
        }
    }
    Ok(())
}

/// Makes the links to busybox that shell scripts count on, if there is a busybox.
pub fn install_busybox() -> Result<()> {
    const BUSYBOX: &str = "/bin/busybox";
    if Path::new(BUSYBOX).exists() && !Path::new("/bin/sh").exists() {
        let status = Command::new(BUSYBOX)
            .args(["--install", "-s", "/bin"])
            .status()?;
        ensure!(status.success(), "busybox --install: {status}");
    }
    Ok(())
}

/// Where results go.
pub struct Results(File);

impl Results {
    /// Opens the channel. If it is the console, the kernel is asked to be quiet there, unless `verbose`.
    pub fn open(verbose: bool) -> Result<Self> {
        let path = if Path::new(RESULTS).exists() {
            RESULTS
        } else {
            CONSOLE
        };
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(path)
            .context(path)?;
        if path == RESULTS {
            let mut settings = tcgetattr(&file)?;
            cfmakeraw(&mut settings);
            tcsetattr(&file, SetArg::TCSANOW, &settings)?;
        } else if !verbose {
            // Only emergencies; an oops raises the level by itself.
            fs::write("/proc/sys/kernel/printk", "2")?;
        }
        Ok(Self(file))
    }

    /// Prints one line with one `write`.
    pub fn line(&self, text: &str) {
        // There is no other place to complain to.
        let _ = (&self.0).write_all(format!("{text}\n").as_bytes());
    }

    /// The channel as the standard output of another process.
    pub fn for_child(&self) -> Result<Stdio> {
        Ok(self.0.try_clone()?.into())
    }

    /// Waits until everything has been sent.
    pub fn drain(&self) {
        let _ = tcdrain(&self.0);
    }
}
