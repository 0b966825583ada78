// SPDX-License-Identifier: GPL-2.0-only

//! An apt of the lab's own, for arm64 packages that are unpacked and never installed.
//!
//! It shares nothing with the host's apt but the mirror and the way to the network, needs no privileges, and can work
//! while the lab root is still being made.

use std::{
    fs,
    path::{
        Path,
        PathBuf, //
    },
    process::Command,
    sync::OnceLock, //
};

use anyhow::Result;

use crate::{
    cache::Cache,
    cmd::{
        self,
        Failure, //
    },
    host::Mirror,
    root::SUITES,
    ui::Step, //
};

const NETWORK_REMEDY: &str =
    "check the network and the mirror (the log names it), then run the command again";

/// The lab's own apt.
#[derive(Debug)]
pub struct Apt {
    dir: PathBuf,
    config: PathBuf,
    log: PathBuf,
    updated: OnceLock<()>,
}

impl Apt {
    /// Prepares its directories in the cache. Nothing is fetched before it is needed.
    pub fn new(cache: &Cache) -> Result<Self> {
        let dir = cache.join("apt");
        Ok(Self {
            config: dir.join("apt.conf"),
            log: cache.fresh_log("apt")?,
            dir,
            updated: OnceLock::new(),
        })
    }

    /// The log of all that this apt did.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // The host's configuration is read after this file, from the directory that the file names: there is none.
        command
            .env("APT_CONFIG", &self.config)
            .env("LC_ALL", "C.UTF-8");
        command
    }

    /// Fetches the package indexes, once per run of the lab.
    fn update(&self, step: &Step) -> Result<()> {
        if self.updated.get().is_some() {
            return Ok(());
        }
        let mirror = Mirror::of_host()?;
        for sub in ["lists/partial", "cache/archives/partial", "etc"] {
            fs::create_dir_all(self.dir.join(sub))?;
        }
        fs::write(self.dir.join("status"), "")?;
        fs::write(
            self.dir.join("etc/sources.list"),
            mirror.sources(&SUITES).join("\n") + "\n",
        )?;
        let dir = self.dir.display();
        let mut config = format!(
            "Dir \"{dir}\";\nDir::State \"{dir}\";\nDir::State::lists \"lists\";\n\
             Dir::State::status \"{dir}/status\";\nDir::Cache \"{dir}/cache\";\nDir::Etc \"{dir}/etc\";\n\
             APT::Architecture \"arm64\";\nAPT::Architectures {{ \"arm64\"; }};\n\
             APT::Sandbox::User \"{}\";\nAPT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\n",
            if crate::host::is_root() { "root" } else { "" }
        );
        for line in mirror.acquire() {
            config += line;
            config.push('\n');
        }
        fs::write(&self.config, config)?;
        let mut update = self.command("apt-get");
        update.args(["update", "--error-on=any"]);
        cmd::run(update, &self.log, NETWORK_REMEDY, |line| step.news(line))?;
        let _ = self.updated.set(());
        Ok(())
    }

    /// The versions of `package` that the archive has, newest first.
    pub fn versions(&self, step: &Step, package: &str) -> Result<Vec<String>> {
        self.update(step)?;
        let table = cmd::capture(self.command("apt-cache").args(["madison", package]))?;
        Ok(table
            .lines()
            .filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned()))
            .collect())
    }

    /// Downloads `packages` (a name, or `name=version`) and unpacks them into `into`.
    pub fn unpack(&self, step: &Step, packages: &[String], into: &Path) -> Result<()> {
        self.unpack_with(step, packages, into, &["download"])
    }

    /// The same, with all that they depend on.
    pub fn unpack_closure(&self, step: &Step, packages: &[String], into: &Path) -> Result<()> {
        self.unpack_with(step, packages, into, &["install", "--download-only", "-y"])
    }

    fn unpack_with(
        &self,
        step: &Step,
        packages: &[String],
        into: &Path,
        action: &[&str],
    ) -> Result<()> {
        self.update(step)?;
        fs::create_dir_all(into)?;
        let debs = into.join(".debs");
        fs::create_dir_all(debs.join("partial"))?;
        let mut fetch = self.command("apt-get");
        // `download` leaves the files in the current directory, `install` in the archive directory.
        fetch
            .current_dir(&debs)
            .arg("-o")
            .arg(format!("Dir::Cache::archives={}", debs.display()));
        fetch.args(action).args(packages);
        cmd::run(fetch, &self.log, NETWORK_REMEDY, |line| step.news(line))?;
        for entry in fs::read_dir(&debs)? {
            let deb = entry?.path();
            if deb.extension().is_none_or(|extension| extension != "deb") {
                continue;
            }
            step.news(&format!("unpacking {}", deb.display()));
            let mut extract = Command::new("dpkg-deb");
            extract.arg("-x").arg(&deb).arg(into);
            let remedy = "check that the disk is not full, then run the command again";
            cmd::run(extract, &self.log, remedy, |_| ())?;
        }
        crate::cache::remove_tree(&debs)
    }

    /// An error about something that the archive does not have.
    pub fn missing(&self, what: &str) -> anyhow::Error {
        Failure::new(
            format!("the mirror has no {what}"),
            "use another mirror (variable ELTWO_MIRROR), or an eltwo that knows a newer kernel",
        )
        .with_log(&self.log)
        .into()
    }
}
