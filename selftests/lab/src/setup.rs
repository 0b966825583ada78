// SPDX-License-Identifier: GPL-2.0-only

//! The whole set-up: host tools, lab root, kernels, programs for the VM. What is already there is not made again.

use std::{
    collections::BTreeMap,
    path::{
        Path,
        PathBuf, //
    },
    thread, //
};

use anyhow::{
    anyhow,
    Context as _,
    Result, //
};

use crate::{
    apt::Apt,
    cache::{
        Cache,
        Lock, //
    },
    debug_kernel::{
        self,
        DebugKernel, //
    },
    guest::Userland,
    host::{
        self,
        Arch, //
    },
    kernel::{
        self,
        Prepared,
        Source,
        Stock, //
    },
    root::Root,
    ui::Ui, //
};

/// One flavour of the kernel, ready to be built against and to be booted.
#[derive(Debug)]
pub enum Kernel {
    /// One of Debian's: its packages, and the tree to build modules against.
    Debian(Stock, Prepared),
    /// The one that is built here.
    Debug(DebugKernel),
}

impl Kernel {
    /// Its image.
    pub fn image(&self) -> PathBuf {
        match self {
            Self::Debian(stock, _) => stock.image(),
            Self::Debug(kernel) => kernel.image(),
        }
    }

    /// The tree to build modules against.
    pub fn tree(&self) -> &Path {
        match self {
            Self::Debian(_, prepared) => prepared.path(),
            Self::Debug(kernel) => kernel.path(),
        }
    }

    /// Whether clang has built it, and must build its modules.
    pub fn by_clang(&self) -> bool {
        matches!(self, Self::Debug(_))
    }
}

/// All that the other commands work with.
#[derive(Debug)]
pub struct Lab {
    /// The architecture of the host.
    pub arch: Arch,
    /// The lab root.
    pub root: Root,
    /// The kernel's source.
    pub source: Source,
    /// Programs for the VM.
    pub userland: Userland,
    kernels: BTreeMap<String, Kernel>,
}

impl Lab {
    /// Makes what is missing of the lab for kernels of `version` in each of `flavours`.
    pub fn ensure(
        ui: &Ui,
        cache: &Cache,
        lock: &Lock,
        version: &str,
        flavours: &[&str],
    ) -> Result<Self> {
        let apt = Apt::new(cache)?;
        let source = || Source::ensure(ui, cache, lock, &apt, version).context("kernel source");
        Self::with_source(ui, cache, lock, &apt, source, flavours)
    }

    /// The same for the newest kernel that the archive has; `None` if that is not newer than [`kernel::VERSION`].
    pub fn ensure_newest(
        ui: &Ui,
        cache: &Cache,
        lock: &Lock,
        flavours: &[&str],
    ) -> Result<Option<Self>> {
        let apt = Apt::new(cache)?;
        let source = Source::newest(ui, cache, lock, &apt, kernel::VERSION)
            .context("source of the newest kernel")?;
        source
            .map(|source| Self::with_source(ui, cache, lock, &apt, || Ok(source), flavours))
            .transpose()
    }

    /// The lab root and the kernel packages need only the network in common: they are made at the same time.
    fn with_source(
        ui: &Ui,
        cache: &Cache,
        lock: &Lock,
        apt: &Apt,
        source: impl FnOnce() -> Result<Source>,
        flavours: &[&str],
    ) -> Result<Self> {
        let arch = Arch::of_host()?;
        host::ensure_tools(ui, cache)?;
        host::ensure_namespaces()?;
        let (root, packages) = thread::scope(|scope| {
            let root = scope.spawn(|| Root::ensure(ui, cache, lock, arch).context("lab root"));
            let packages =
                source().and_then(|source| fetch(ui, cache, lock, apt, source, flavours));
            let root = root
                .join()
                .unwrap_or_else(|_| Err(anyhow!("the thread that made the lab root panicked")));
            (root, packages)
        });
        let (root, (source, userland, stocks)) = (root?, packages?);
        let mut kernels = BTreeMap::new();
        for (flavour, stock) in stocks {
            let prepared = Prepared::ensure(ui, cache, lock, (arch, &root), &source, &stock)
                .with_context(|| format!("kernel tree of {}", stock.release()))?;
            kernels.insert(flavour, Kernel::Debian(stock, prepared));
        }
        if flavours.contains(&debug_kernel::FLAVOUR) {
            let kernel =
                DebugKernel::ensure(ui, cache, lock, &root, &source).context("debug kernel")?;
            kernels.insert(debug_kernel::FLAVOUR.to_owned(), Kernel::Debug(kernel));
        }
        Ok(Self {
            arch,
            root,
            source,
            userland,
            kernels,
        })
    }

    /// The kernel of one of the flavours that the lab was set up for.
    pub fn kernel(&self, flavour: &str) -> Result<&Kernel> {
        self.kernels
            .get(flavour)
            .with_context(|| format!("the lab was not set up for flavour {flavour}"))
    }
}

type Packages = (Source, Userland, Vec<(String, Stock)>);

/// Fetches everything else that comes from arm64 packages.
fn fetch(
    ui: &Ui,
    cache: &Cache,
    lock: &Lock,
    apt: &Apt,
    source: Source,
    flavours: &[&str],
) -> Result<Packages> {
    let stocks = flavours
        .iter()
        .filter(|flavour| **flavour != debug_kernel::FLAVOUR)
        .map(|flavour| {
            let stock = Stock::ensure(ui, cache, lock, apt, &source, flavour);
            Ok((
                (*flavour).to_owned(),
                stock.with_context(|| format!("stock kernel {flavour}"))?,
            ))
        })
        .collect::<Result<_>>()?;
    let userland = Userland::ensure(ui, cache, lock, apt).context("programs for the VM")?;
    Ok((source, userland, stocks))
}
