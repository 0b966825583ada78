// SPDX-License-Identifier: GPL-2.0-only

//! Loading and unloading the module.

use std::{
    env,
    ffi::{
        CStr,
        CString, //
    },
    fmt::{
        self,
        Display, //
    },
    fs::{
        self,
        File, //
    },
    mem,
    path::Path,
};

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use nix::{
    errno::Errno,
    kmod::{
        delete_module,
        finit_module,
        DeleteModuleFlags,
        ModuleInitFlags, //
    },
};

use super::kmsg::Log;

/// Where the module is in the lab's initramfs. `ELTWO_KO` in the environment names another place.
const FILE: &str = "/eltwo.ko";

/// The module is loaded. Dropping this unloads it.
#[must_use]
pub struct Loaded {
    armed: bool,
}

/// insmod has failed.
#[derive(Debug)]
pub struct Refused {
    /// Why, for the caller.
    pub errno: Errno,
    /// What the module had to say in the kernel log.
    pub log: Vec<String>,
}

impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "insmod: {}; log: {:?}", self.errno, self.log)
    }
}

impl std::error::Error for Refused {}

/// The file with the module.
pub fn file() -> Result<File> {
    let path = env::var("ELTWO_KO").unwrap_or_else(|_| FILE.to_string());
    File::open(&path).context(path)
}

/// Loads the module with `parameters` (`name=value`, separated by blanks). What they do not say is said here: all registers
/// are compared each time that a CPU is given back.
///
/// The outer error is one of the test itself; the inner one is the module's.
pub fn try_load(parameters: &str) -> Result<Result<Loaded, Refused>> {
    let file = file()?;
    let mut log = Log::from_now()?;
    let parameters = match parameters.contains("selfcheck=") {
        true => CString::new(parameters)?,
        false => CString::new(format!("selfcheck=1 {parameters}"))?,
    };
    Ok(
        match finit_module(&file, &parameters, ModuleInitFlags::empty()) {
            Ok(()) => Ok(Loaded { armed: true }),
            Err(errno) => Err(Refused {
                errno,
                log: log.eltwo()?,
            }),
        },
    )
}

/// Loads the module with `parameters`, which must succeed.
pub fn load_with(parameters: &str) -> Result<Loaded> {
    let loaded = try_load(parameters)??;
    ensure!(
        is_loaded()?,
        "insmod succeeded but /proc/modules has no eltwo"
    );
    Ok(loaded)
}

/// Loads the module with its defaults, which must succeed.
pub fn load() -> Result<Loaded> {
    load_with("")
}

/// Loads the module, which must be refused with `errno`. Returns what it said.
pub fn expect_refusal(parameters: &str, errno: Errno) -> Result<Vec<String>> {
    match try_load(parameters)? {
        Ok(_loaded) => bail!("insmod with {parameters:?} succeeded, expected {errno}"),
        Err(refused) => {
            ensure!(refused.errno == errno, "expected {errno}: {refused}");
            nothing_left()?;
            Ok(refused.log)
        }
    }
}

impl Loaded {
    /// Unloads the module, which must succeed, and checks that nothing is left of it.
    pub fn unload(mut self) -> Result<()> {
        self.armed = false;
        unload()?;
        nothing_left()
    }

    /// Leaves the module loaded when the test ends.
    pub fn keep(mut self) {
        self.armed = false;
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.armed {
            // Whoever drops this has an error to report already; what is left behind is reported by the last case.
            let _ = unload();
        }
    }
}

/// rmmod.
pub fn unload() -> Result<()> {
    delete_module(c"eltwo", DeleteModuleFlags::O_NONBLOCK).context("rmmod eltwo")
}

/// rmmod, which `user` must keep from succeeding.
pub fn expect_busy(user: &str) -> Result<()> {
    let outcome = delete_module(c"eltwo", DeleteModuleFlags::O_NONBLOCK);
    ensure!(
        outcome == Err(Errno::EAGAIN),
        "rmmod with {user} open: {outcome:?}, expected EAGAIN"
    );
    Ok(())
}

/// Another module, from a file, for as long as this lives.
#[must_use]
pub struct Helper(&'static CStr);

impl Helper {
    /// Loads the module `name` from `path`.
    pub fn load(name: &'static CStr, path: &str) -> Result<Self> {
        Self::load_with(name, path, c"")
    }

    /// The same with `parameters`.
    pub fn load_with(name: &'static CStr, path: &str, parameters: &CStr) -> Result<Self> {
        let file = File::open(path).with_context(|| path.to_string())?;
        let loaded = finit_module(&file, parameters, ModuleInitFlags::empty());
        loaded.with_context(|| path.to_string())?;
        Ok(Self(name))
    }

    /// Leaves it loaded when the test ends.
    pub fn keep(self) {
        mem::forget(self);
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // If it stays, the next case cannot load it and says so.
        let _ = delete_module(self.0, DeleteModuleFlags::O_NONBLOCK);
    }
}

/// Is the module in `/proc/modules`?
pub fn is_loaded() -> Result<bool> {
    let modules = fs::read_to_string("/proc/modules")?;
    Ok(modules.lines().any(|line| line.starts_with("eltwo ")))
}

/// Fails if anything of the module is still there: the module itself, its files, hotplug states, mappings, devices.
pub fn nothing_left() -> Result<()> {
    ensure!(!is_loaded()?, "/proc/modules still has eltwo");
    for path in ["/sys/kernel/debug/eltwo", "/sys/module/eltwo"] {
        ensure!(!Path::new(path).exists(), "{path} is still there");
    }
    for file in [
        "/sys/devices/system/cpu/hotplug/states",
        "/proc/interrupts",
        "/proc/vmallocinfo",
        "/proc/misc",
        "/proc/devices",
        "/proc/iomem",
    ] {
        let text = fs::read_to_string(file).with_context(|| file.to_string())?;
        // Modules of tests may be there and are not ours.
        let of_us = |line: &&str| {
            let of_tests = ["eltwo_e2h", "eltwo_hooks", "eltwo_taken"];
            let names = of_tests.iter().map(|name| line.matches(name).count());
            line.matches("eltwo").count() > names.sum()
        };
        if let Some(line) = text.lines().find(of_us) {
            bail!("{file} still has {line:?}");
        }
    }
    Ok(())
}
