// SPDX-License-Identifier: GPL-2.0-only

//! The machine that the lab runs on: its tools, its privileges, and the mirror that its apt is configured with.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command, //
};

use anyhow::{
    Context as _,
    Result, //
};

use crate::{
    cache::Cache,
    cmd::{
        self,
        Failure, //
    },
    ui::Ui, //
};

/// Programs that the lab needs on the host, and the Debian package of each.
const TOOLS: [(&str, &str); 5] = [
    ("mmdebstrap", "mmdebstrap"),
    ("bwrap", "bubblewrap"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("xz", "xz-utils"),
];

/// The keyring that signs what the lab installs.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Names a mirror instead of the one that apt is configured with.
const MIRROR_VARIABLE: &str = "ELTWO_MIRROR";

/// The architecture of the host, of those that can run the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// An x86-64 host builds with a cross compiler.
    Amd64,
    /// An arm64 host builds natively.
    Arm64,
}

impl Arch {
    /// The architecture that this program was built for.
    pub fn of_host() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => Err(Failure::new(
                format!("the lab does not know how to cross-build from {other}"),
                "run it on an x86-64 or arm64 machine",
            )
            .into()),
        }
    }

    /// The name that Debian gives it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The prefix of the tools that make arm64 programs, as the kernel's build wants it.
    pub fn cross_compile(self) -> &'static str {
        match self {
            Self::Amd64 => "aarch64-linux-gnu-",
            Self::Arm64 => "",
        }
    }
}

/// Whether the program runs with all privileges; otherwise it needs user namespaces.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes sure that the host tools are there: installs what is missing, if it may, or says what to install.
pub fn ensure_tools(ui: &Ui, cache: &Cache) -> Result<()> {
    let mut packages: Vec<&str> = TOOLS
        .iter()
        .filter(|(program, _)| !cmd::is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if !Path::new(KEYRING).exists() {
        packages.push("debian-archive-keyring");
    }
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    let remedy = format!("as root: apt-get update && apt-get install {list}");
    if !is_root() || !cmd::is_installed("apt-get") {
        let cause = format!("programs are missing on this machine: {list}");
        return Err(Failure::new(cause, remedy).into());
    }
    let log = cache.fresh_log("host-tools")?;
    ui.step(&format!("host: apt-get install {list}"), |step| {
        let mut update = Command::new("apt-get");
        update.arg("update");
        cmd::run(update, &log, &remedy, |line| step.news(line))?;
        let mut install = Command::new("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive");
        install.args(["install", "-y", "--no-install-recommends"]);
        install.args(&packages);
        cmd::run(install, &log, &remedy, |line| step.news(line))
    })
}

/// Checks that programs can be put into a file system tree of their own.
pub fn ensure_namespaces() -> Result<()> {
    let mut probe = Command::new("bwrap");
    probe.args([
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "true",
    ]);
    let Err(error) = cmd::capture(&mut probe) else {
        return Ok(());
    };
    let remedy = if is_root() {
        "run it where root may mount (in a container: with the capability CAP_SYS_ADMIN)"
    } else {
        "run it as root, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, \
         and kernel.apparmor_restrict_unprivileged_userns=0 where it exists) and give the user a range of \
         subordinate ids (/etc/subuid, /etc/subgid; package uidmap)"
    };
    Err(Failure::new(
        format!("this machine allows no mount namespaces: {error:#}"),
        remedy,
    )
    .into())
}

/// Where Debian packages come from, as the host's apt is configured.
#[derive(Debug)]
pub struct Mirror {
    /// Address of the archive, without a slash at the end.
    uri: String,
    /// Lines of apt configuration about the network: proxies, retries, checks of dates.
    acquire: Vec<String>,
}

impl Mirror {
    /// Asks apt, or takes the address in the variable `ELTWO_MIRROR`.
    pub fn of_host() -> Result<Self> {
        let acquire = network_options(&cmd::capture(Command::new("apt-config").arg("dump"))?);
        if let Some(uri) = std::env::var(MIRROR_VARIABLE)
            .ok()
            .filter(|uri| !uri.is_empty())
        {
            return Ok(Self { uri, acquire });
        }
        let format = "$(REPO_URI)|$(COMPONENT)|$(ORIGIN)|$(LABEL)";
        let targets = cmd::capture(Command::new("apt-get").args([
            "indextargets",
            "--format",
            format,
            "Identifier: Packages",
        ]))
        .context("cannot ask apt for its sources")?;
        let uri = choose_mirror(&targets).ok_or_else(|| {
            Failure::new(
                "apt is configured with no mirror of Debian's component main",
                format!("name one in the variable {MIRROR_VARIABLE}"),
            )
        })?;
        Ok(Self { uri, acquire })
    }

    /// The lines of a `sources.list` for the given suites.
    pub fn sources(&self, suites: &[&str]) -> Vec<String> {
        suites
            .iter()
            .map(|suite| format!("deb [signed-by={KEYRING}] {} {suite} main", self.uri))
            .collect()
    }

    /// Lines of apt configuration about the network.
    pub fn acquire(&self) -> &[String] {
        &self.acquire
    }
}

/// The address that most of the index files of Debian proper come from. `targets` has one line per index file:
/// address, component, and, once the index has been fetched, origin and label.
fn choose_mirror(targets: &str) -> Option<String> {
    let mut votes = BTreeMap::<&str, usize>::new();
    for line in targets.lines() {
        let mut fields = line.split('|');
        let (Some(uri), Some("main")) = (fields.next(), fields.next()) else {
            continue;
        };
        // Before the first update apt leaves what it does not know empty, or as it stands in the format.
        let unknown_or_debian =
            |field: &str| field.is_empty() || field.starts_with('$') || field == "Debian";
        if fields.all(unknown_or_debian) && !uri.contains("security") {
            *votes.entry(uri.trim_end_matches('/')).or_default() += 1;
        }
    }
    let (uri, _) = votes.into_iter().max_by_key(|(_, count)| *count)?;
    Some(uri.to_owned())
}

/// The lines of `apt-config dump` that say how to reach the network.
fn network_options(dump: &str) -> Vec<String> {
    let about_network = |line: &&str| {
        let Some(option) = line.strip_prefix("Acquire::") else {
            return false;
        };
        let topic = option.split([':', ' ']).next().unwrap_or_default();
        [
            "http",
            "https",
            "ftp",
            "Retries",
            "Check-Valid-Until",
            "Check-Date",
        ]
        .contains(&topic)
            && !option.contains("Detect")
            && !option.ends_with("\"\";")
    };
    dump.lines()
        .filter(about_network)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choose_mirror_prefers_debian_main() {
        let targets = "\
            http://a.example/vendor/|main|Vendor|Vendor\n\
            http://b.example/debian/|main|Debian|Debian\n\
            http://b.example/debian/|main|Debian|Debian\n\
            http://b.example/debian-security/|main|Debian|Debian-Security\n\
            http://c.example/debian/|contrib|Debian|Debian\n";
        assert_eq!(
            choose_mirror(targets).as_deref(),
            Some("http://b.example/debian")
        );
    }

    #[test]
    fn choose_mirror_works_before_the_first_update() {
        let targets = "http://b.example/debian-security/|main||\n\
            http://b.example/debian/|main|$(ORIGIN)|$(LABEL)\n";
        assert_eq!(
            choose_mirror(targets).as_deref(),
            Some("http://b.example/debian")
        );
        assert_eq!(
            choose_mirror("http://a.example/x/|universe|Other|Other\n"),
            None
        );
    }

    #[test]
    fn network_options_keep_proxies_and_drop_the_rest() {
        let dump = "APT::Architecture \"amd64\";\n\
            Acquire::http \"\";\n\
            Acquire::http::Proxy \"http://proxy.example:3128\";\n\
            Acquire::http::Proxy-Auto-Detect \"/usr/bin/detect\";\n\
            Acquire::Languages \"none\";\n\
            Acquire::Check-Date \"false\";\n";
        let kept = network_options(dump);
        assert_eq!(kept.len(), 2);
        assert!(kept[0].contains("proxy.example") && kept[1].contains("Check-Date"));
    }
}
