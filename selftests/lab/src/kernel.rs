// SPDX-License-Identifier: GPL-2.0-only

//! The stock kernel: its source, its image, and a prepared tree to build modules against.
//!
//! Debian's header packages carry no Rust metadata. The metadata is made here from the source package of the same
//! version, with the configuration and the symbol versions of the stock kernel; then every Rust symbol that the
//! prepared tree promises to modules is looked up in the stock kernel's list of exports.

use std::{
    ffi::OsStr,
    fs,
    path::{
        Path,
        PathBuf, //
    },
    process::Command, //
};

use anyhow::{
    Context as _,
    Result, //
};

use crate::{
    apt::Apt,
    cache::{
        Artefact,
        Cache,
        Key,
        Lock, //
    },
    cmd::{
        self,
        Failure, //
    },
    host::Arch,
    root::Root,
    symvers::Symvers,
    ui::{
        Step,
        Ui, //
    }, //
};

/// The kernel version that the lab works with. If the archive has lost it, the newest one of the series is taken.
pub const VERSION: &str = "7.2.12";

/// What Debian adds to the version of a backported kernel.
const SUFFIX: &str = "+deb13";

/// One of Debian's kernels: a version, and a flavour such as `arm64` or `arm64-16k`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Upstream version, for example `7.2.12`.
    pub version: String,
    /// Debian's flavour.
    pub flavour: String,
}

impl Spec {
    /// Reads a kernel release as `uname -r` prints it; `None` unless it is one of Debian's backported arm64 kernels.
    pub fn parse_release(release: &str) -> Option<Self> {
        let (version, flavour) = release.split_once(&format!("{SUFFIX}-"))?;
        let numeric = version.split('.').all(|part| part.parse::<u32>().is_ok());
        (numeric && flavour.contains("arm64")).then(|| Self {
            version: version.to_owned(),
            flavour: flavour.to_owned(),
        })
    }
}

/// The source package of the series that `version` belongs to.
fn source_package(version: &str) -> String {
    let series: Vec<&str> = version.split('.').take(2).collect();
    format!("linux-source-{}", series.join("."))
}

/// The source tree of a kernel.
#[derive(Debug)]
pub struct Source {
    artefact: Artefact,
    /// Version of the Debian package, for example `7.2.12-1~bpo13+1`.
    package_version: String,
}

impl Source {
    /// Fetches and unpacks the source, if that has not been done.
    pub fn ensure(ui: &Ui, cache: &Cache, lock: &Lock, apt: &Apt, wanted: &str) -> Result<Self> {
        let package = source_package(wanted);
        let key = Key::new().with("version", wanted);
        let artefact = cache.artefact(lock, "source", &key, |dir| {
            ui.step(&format!("kernel source: {package} {wanted}"), |step| {
                let version = choose_version(&apt.versions(step, &package)?, wanted)
                    .ok_or_else(|| apt.missing(&package))?;
                let deb = dir.join("deb");
                apt.unpack(step, &[format!("{package}={version}")], &deb)?;
                step.news("unpacking the source");
                unpack_source(
                    &deb.join(format!("usr/src/{package}.tar.xz")),
                    dir,
                    apt.log(),
                )?;
                crate::cache::remove_tree(&deb)?;
                Ok(fs::write(dir.join("version"), version)?)
            })
        })?;
        let package_version = fs::read_to_string(artefact.join("version"))?;
        let source = Self {
            artefact,
            package_version,
        };
        if source.upstream() != wanted {
            let found = source.upstream();
            ui.notice(format_args!(
                "the archive has no kernel {wanted} any more; using {found}"
            ));
        }
        Ok(source)
    }

    /// The top of the source tree.
    pub fn path(&self) -> PathBuf {
        self.artefact.join("linux")
    }

    /// Upstream version of what was found.
    pub fn upstream(&self) -> &str {
        self.package_version.split('-').next().unwrap_or_default()
    }

    /// The release of the stock kernel of this version in `flavour`.
    fn release(&self, flavour: &str) -> String {
        format!("{}{SUFFIX}-{flavour}", self.upstream())
    }
}

fn unpack_source(tarball: &Path, into: &Path, log: &Path) -> Result<()> {
    let linux = into.join("linux");
    fs::create_dir(&linux)?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(tarball).arg("-C").arg(&linux);
    tar.args(["--strip-components=1", "--no-same-owner"]);
    cmd::run(
        tar,
        log,
        "check that the disk is not full, then run the command again",
        |_| (),
    )
    .context("cannot unpack the kernel source")
}

/// The package version to take: that of upstream version `wanted`, else the newest. `versions` is newest first.
fn choose_version(versions: &[String], wanted: &str) -> Option<String> {
    let is_wanted = |version: &&String| {
        version
            .strip_prefix(wanted)
            .is_some_and(|rest| rest.starts_with('-'))
    };
    versions
        .iter()
        .find(is_wanted)
        .or(versions.first())
        .cloned()
}

/// The binary packages of one flavour of the kernel, unpacked.
#[derive(Debug)]
pub struct Stock {
    artefact: Artefact,
    release: String,
}

impl Stock {
    /// Fetches and unpacks the packages, if that has not been done.
    pub fn ensure(
        ui: &Ui,
        cache: &Cache,
        lock: &Lock,
        apt: &Apt,
        source: &Source,
        flavour: &str,
    ) -> Result<Self> {
        let release = source.release(flavour);
        let key = Key::new()
            .with("version", &source.package_version)
            .with("flavour", flavour);
        let artefact = cache.artefact(lock, &format!("stock-{flavour}"), &key, |dir| {
            ui.step(&format!("stock kernel: {release}"), |step| {
                let packages = ["linux-binary", "linux-headers"]
                    .map(|kind| format!("{kind}-{release}={}", source.package_version));
                apt.unpack(step, &packages, dir)
            })
        })?;
        Ok(Self { artefact, release })
    }

    /// The kernel's image.
    pub fn image(&self) -> PathBuf {
        self.artefact
            .join(format!("usr/lib/modules/{}/vmlinuz", self.release))
    }

    /// A file of the headers package.
    fn header(&self, name: &str) -> PathBuf {
        self.artefact
            .join(format!("usr/src/linux-headers-{}/{name}", self.release))
    }

    /// The kernel's release, as `uname -r` prints it.
    pub fn release(&self) -> &str {
        &self.release
    }
}

/// A kernel tree with Rust metadata, ready for `make M=`.
#[derive(Debug)]
pub struct Prepared {
    artefact: Artefact,
}

impl Prepared {
    /// Prepares the tree, if that has not been done.
    pub fn ensure(
        ui: &Ui,
        cache: &Cache,
        lock: &Lock,
        (arch, root): (Arch, &Root),
        source: &Source,
        stock: &Stock,
    ) -> Result<Self> {
        let key = Key::new()
            .with(
                "source",
                source.artefact.path().as_os_str().as_encoded_bytes(),
            )
            .with("release", stock.release())
            .with("config", fs::read(stock.header(".config"))?)
            .with("symbols", fs::read(stock.header("Module.symvers"))?)
            .with("arch", arch.debian());
        let flavour = stock
            .release()
            .rsplit_once('+')
            .map_or("", |(_, flavour)| flavour);
        let artefact = cache.artefact(lock, &format!("kdir-{flavour}"), &key, |dir| {
            let log = cache.fresh_log(&format!("kdir-{flavour}"))?;
            let sandbox = root
                .sandbox()
                .with_input(source.artefact.path())
                .with_output(dir);
            let make = |goal: &str, step: &Step| {
                let mut make = sandbox.command(&source.path(), "make");
                make.args(["ARCH=arm64", "LOCALVERSION="]);
                make.arg(format!("O={}", dir.display()));
                make.arg(format!("CROSS_COMPILE={}", arch.cross_compile()));
                make.arg(format!("KERNELRELEASE={}", stock.release()));
                make.arg(format!("-j{}", jobs())).arg(goal);
                let remedy = "see the log; `make clean` removes the kernel tree for a fresh start";
                cmd::run(make, &log, remedy, |line| step.news(line))
            };
            ui.step(
                &format!("kernel tree: Rust metadata for {}", stock.release()),
                |step| {
                    fs::copy(stock.header(".config"), dir.join(".config"))?;
                    make("olddefconfig", step)?;
                    make("modules_prepare", step)?;
                    fs::copy(stock.header("Module.symvers"), dir.join("Module.symvers"))?;
                    check_rust_exports(dir).map_err(|failure| failure.with_log(&log).into())
                },
            )
        })?;
        Ok(Self { artefact })
    }

    /// The directory to give to the build as `KDIR`.
    pub fn path(&self) -> &Path {
        self.artefact.path()
    }
}

/// Number of jobs that a build runs at a time.
pub fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Whether `kdir` can build Rust modules: it has the metadata of the `kernel` crate.
pub fn has_rust_metadata(kdir: &Path) -> bool {
    kdir.join("rust/libkernel.rmeta").exists()
}

/// Checks that each Rust symbol that the prepared tree promises is exported by the stock kernel.
fn check_rust_exports(kdir: &Path) -> Result<(), Failure> {
    let mismatch = |cause: String| {
        Failure::new(
            cause,
            "the compiler differs from the one that built the stock kernel; report it with the log",
        )
    };
    let symvers = Symvers::read(&kdir.join("Module.symvers"))
        .map_err(|error| mismatch(format!("{error:#}")))?;
    let mut promised = 0;
    let mut missing = Vec::new();
    let entries = fs::read_dir(kdir.join("rust")).map_err(|error| mismatch(error.to_string()))?;
    for entry in entries.flatten() {
        if entry.path().extension() != Some(OsStr::new("h")) {
            continue;
        }
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        for symbol in exported_symbols(&text) {
            promised += 1;
            if !symvers.exports(symbol) {
                missing.push(symbol.to_owned());
            }
        }
    }
    if promised == 0 {
        return Err(mismatch(
            "the prepared kernel tree exports no Rust symbol".to_owned(),
        ));
    }
    if !missing.is_empty() {
        return Err(mismatch(format!(
            "{} of {promised} Rust symbols are not in the stock kernel, the first is {}",
            missing.len(),
            missing[0]
        )));
    }
    Ok(())
}

/// The symbols of a generated list of exports.
fn exported_symbols(header: &str) -> impl Iterator<Item = &str> {
    header
        .lines()
        .filter_map(|line| {
            line.strip_prefix("EXPORT_SYMBOL_RUST_GPL(")?
                .split_once(')')
        })
        .map(|(symbol, _)| symbol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choose_version_takes_the_pinned_one_or_the_newest() {
        let versions =
            ["7.2.13-1~bpo13+1", "7.2.12-2~bpo13+1", "7.2.1-1~bpo13+1"].map(str::to_owned);
        assert_eq!(
            choose_version(&versions, "7.2.12").as_deref(),
            Some("7.2.12-2~bpo13+1")
        );
        assert_eq!(
            choose_version(&versions, "7.2.11").as_deref(),
            Some("7.2.13-1~bpo13+1")
        );
        assert_eq!(choose_version(&[], "7.2.12"), None);
    }

    #[test]
    fn parse_release_knows_debian_kernels() {
        let spec = Spec::parse_release("7.2.12+deb13-arm64-16k").unwrap();
        assert_eq!(
            (spec.version.as_str(), spec.flavour.as_str()),
            ("7.2.12", "arm64-16k")
        );
        assert_eq!(source_package(&spec.version), "linux-source-7.2");
        assert_eq!(Spec::parse_release("6.1.0-37-arm64"), None);
        assert_eq!(Spec::parse_release("7.2.12+deb13-amd64"), None);
    }

    #[test]
    fn exported_symbols_are_read_from_the_generated_header() {
        let header =
            "EXPORT_SYMBOL_RUST_GPL(_R4core);\n/* x */\nEXPORT_SYMBOL_RUST_GPL(_R6kernel);\n";
        assert_eq!(
            exported_symbols(header).collect::<Vec<_>>(),
            ["_R4core", "_R6kernel"]
        );
    }
}
