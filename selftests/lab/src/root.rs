// SPDX-License-Identifier: GPL-2.0-only

//! The lab root: a Debian 13 of its own with the compilers, QEMU and the checkers, always the same versions whatever
//! the host has.

use std::{
    path::Path,
    process::{
        Command,
        Stdio, //
    }, //
};

use anyhow::{
    Context as _,
    Result, //
};

use crate::{
    cache::{
        Artefact,
        Cache,
        Key,
        Lock, //
    },
    cmd,
    host::{
        Arch,
        Mirror, //
    },
    sandbox::Sandbox,
    ui::Ui, //
};

/// Suites that packages come from. The kernel is one of backports.
pub const SUITES: [&str; 3] = ["trixie", "trixie-updates", "trixie-backports"];

/// Packages on every host.
const PACKAGES: [&str; 28] = [
    // The kernel's build, and the module's.
    "bc",
    "bindgen",
    "bison",
    "flex",
    "gcc",
    "kmod",
    "libc6-dev",
    "libelf-dev",
    "libssl-dev",
    "make",
    "pahole",
    "perl",
    "python3",
    "rust-src",
    "rustc",
    // Kernels with sanitizers are built with these.
    "clang",
    "lld",
    "llvm",
    // Tests on the host, linters, programs for the VM.
    "ca-certificates",
    "cargo",
    "libstd-rust-dev:arm64",
    "rust-clippy",
    "rustfmt",
    // The VM, and a look into it.
    "busybox-static",
    "file",
    "gdb-multiarch",
    "qemu-system-arm",
    "xz-utils",
];

/// Packages that build arm64 programs on another machine.
const CROSS_PACKAGES: [&str; 2] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];

/// Settings of dpkg: nobody reads documentation in the lab root, and a half-written root does not count anyway.
const DPKG_OPTIONS: [&str; 5] = [
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/info/*",
];

/// Files that the sandbox mounts over, so they must exist.
const MOUNT_POINTS: [&str; 3] = [
    "etc/resolv.conf",
    "etc/hosts",
    "etc/ssl/certs/ca-certificates.crt",
];

const REMEDY: &str = "see the log; check the network, the mirror and the space on the disk, then run the command again";

/// The lab root.
#[derive(Debug)]
pub struct Root {
    artefact: Artefact,
}

impl Root {
    /// Returns the lab root, after making it if there is none.
    pub fn ensure(ui: &Ui, cache: &Cache, lock: &Lock, arch: Arch) -> Result<Self> {
        let packages = packages(arch);
        let key = Key::new()
            .with("arch", arch.debian())
            .with_list("suite", SUITES)
            .with_list("package", &packages)
            .with_list("dpkg", DPKG_OPTIONS)
            .with_list("mount point", MOUNT_POINTS);
        let artefact = cache.artefact(lock, "root", &key, |dir| {
            let mirror = Mirror::of_host()?;
            let log = cache.fresh_log("root")?;
            ui.step(
                "lab root: Debian 13 with compilers and QEMU (mmdebstrap)",
                |step| {
                    let mut unpacked = 0;
                    make(dir, arch, &packages, &mirror, &log, |line| {
                        unpacked += usize::from(line.starts_with("Setting up "));
                        step.news(&format!("{unpacked} packages set up; {line}"));
                    })
                },
            )
        })?;
        Ok(Self { artefact })
    }

    /// The directory of the root, whose name stands for the versions of all that is in it.
    pub fn path(&self) -> &Path {
        self.artefact.path()
    }

    /// A sandbox in this root.
    pub fn sandbox(&self) -> Sandbox {
        Sandbox::new(self.artefact.path())
    }
}

fn packages(arch: Arch) -> Vec<&'static str> {
    let cross: &[&str] = match arch {
        Arch::Amd64 => &CROSS_PACKAGES,
        Arch::Arm64 => &[],
    };
    PACKAGES.iter().chain(cross).copied().collect()
}

fn make(
    dir: &Path,
    arch: Arch,
    packages: &[&str],
    mirror: &Mirror,
    log: &Path,
    on_line: impl FnMut(&str),
) -> Result<()> {
    let root = crate::host::is_root();
    // As root, mmdebstrap mounts /dev, /proc and /sys into the new root. In a mount namespace of its own they go with it
    // even when it is killed; on the host they would stay, and whoever removed the cache would remove through them.
    let mut debootstrap = if root {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation=private", "mmdebstrap"]);
        unshare
    } else {
        Command::new("mmdebstrap")
    };
    debootstrap
        .arg("--variant=apt")
        .arg(format!("--include={}", packages.join(",")));
    debootstrap.arg(match arch {
        Arch::Amd64 => "--architectures=amd64,arm64",
        Arch::Arm64 => "--architectures=arm64",
    });
    debootstrap.arg("--aptopt=APT::Install-Recommends \"false\"");
    debootstrap.args(
        mirror
            .acquire()
            .iter()
            .map(|option| format!("--aptopt={option}")),
    );
    debootstrap.args(DPKG_OPTIONS.map(|option| format!("--dpkgopt={option}")));
    for file in MOUNT_POINTS {
        debootstrap.arg(format!("--customize-hook=touch \"$1/{file}\""));
    }
    if root {
        debootstrap
            .args(["--mode=root", "--format=directory", SUITES[0]])
            .arg(dir);
        debootstrap.args(mirror.sources(&SUITES));
        return cmd::run(debootstrap, log, REMEDY, on_line);
    }
    // Without privileges the files would belong to subordinate ids, which nobody could remove with ease: go through a
    // tarball, so that they belong to the user.
    let tarball = dir.join("root.tar");
    debootstrap
        .args(["--mode=unshare", "--format=tar", SUITES[0]])
        .arg(&tarball);
    debootstrap.args(mirror.sources(&SUITES));
    cmd::run(debootstrap, log, REMEDY, on_line)?;
    let status = Command::new("tar")
        .args(["--no-same-owner", "--exclude=./dev/*", "-xf"])
        .arg(&tarball)
        .current_dir(dir)
        .stdin(Stdio::null())
        .status()
        .context("cannot run tar")?;
    anyhow::ensure!(
        status.success(),
        "tar failed ({status}) to unpack {}",
        tarball.display()
    );
    Ok(std::fs::remove_file(tarball)?)
}
