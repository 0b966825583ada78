// SPDX-License-Identifier: GPL-2.0-only

//! Building the module with the EL2 image in it, and the programs for the VM.

use std::{
    ffi::{
        OsStr,
        OsString, //
    },
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
    cache::{
        Cache,
        Key,
        Lock, //
    },
    cmd::{
        self,
        Failure, //
    },
    debug_kernel,
    host::Arch,
    kernel,
    sandbox::Sandbox,
    setup::{
        Kernel,
        Lab, //
    },
    symvers::Symvers,
    ui::Step, //
};

/// The target of the programs for the VM.
pub const GUEST_TARGET: &str = "aarch64-unknown-linux-gnu";

/// Modules that only tests load.
const TEST_MODULES: [&str; 6] = [
    "brd.ko",
    "eltwo_e2h.ko",
    "eltwo_hooks.ko",
    "eltwo_panic.ko",
    "eltwo_taken.ko",
    "virtio_blk.ko",
];

/// What is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The module, with the EL2 image in it.
    Module,
    /// Modules that only tests load.
    TestModules,
}

impl Source {
    /// Its directory in the checkout.
    fn dir(self) -> &'static str {
        match self {
            Self::Module => "",
            Self::TestModules => "selftests/kmod",
        }
    }

    /// Its name in the cache.
    fn name(self) -> &'static str {
        match self {
            Self::Module => "module",
            Self::TestModules => "test-modules",
        }
    }
}

/// What a build of the module leaves behind.
#[derive(Debug)]
pub struct Products {
    /// The module, without debug information, as distributions ship theirs: the kernel reads the whole file when it loads it,
    /// and keeps none of that.
    pub module: PathBuf,
    /// The same module with its debug information.
    pub with_debug: PathBuf,
    /// The EL2 image with its symbols.
    pub image: PathBuf,
    /// The names of the image's functions, as the module has them.
    pub names: PathBuf,
    /// Number of symbols that the module takes from the kernel.
    pub kernel_symbols: usize,
}

/// How a build is done.
#[derive(Debug)]
pub struct Build<'a> {
    /// The checkout.
    pub checkout: &'a Path,
    /// What of it is built.
    pub source: Source,
    /// The kernel tree to build against.
    pub kdir: &'a Path,
    /// The architecture of the host.
    pub arch: Arch,
    /// Whether to build with clang and lld.
    pub by_clang: bool,
    /// Where the compilers are; without a sandbox those of the host are used.
    pub sandbox: Option<Sandbox>,
    /// Whether to run the linter, for which a warning is an error.
    pub lint: bool,
}

impl<'a> Build<'a> {
    /// A build with the lab's compilers against one of its kernels.
    pub fn in_lab(lab: &Lab, checkout: &'a Path, kernel: &'a Kernel, source: Source) -> Self {
        let kdir = kernel.tree();
        let sandbox = lab.root.sandbox();
        let sandbox = sandbox
            .with_input(checkout)
            .with_input(kdir)
            .with_input(&lab.source.path());
        Self {
            checkout,
            source,
            kdir,
            arch: lab.arch,
            by_clang: kernel.by_clang(),
            sandbox: Some(sandbox),
            lint: false,
        }
    }

    /// Name of the build: of its log, and of its directory in the cache.
    fn name(&self) -> String {
        let lint = if self.lint { "-lint" } else { "" };
        format!("{}{lint}", self.source.name())
    }

    /// Where the output goes: a directory of the cache for each checkout, kernel and kind of build.
    fn output(&self, cache: &Cache) -> PathBuf {
        let key = Key::new()
            .with("checkout", self.checkout.as_os_str().as_encoded_bytes())
            .with("kdir", self.kdir.as_os_str().as_encoded_bytes());
        cache
            .join("build")
            .join(format!("{}-{}", self.name(), key.digits()))
    }

    fn command(&self, output: &Path) -> Command {
        let mut make = match &self.sandbox {
            Some(sandbox) => sandbox.clone().with_output(output).command(output, "make"),
            None => Command::new("make"),
        };
        make.arg("-C").arg(self.kdir);
        make.arg(format!(
            "M={}",
            self.checkout.join(self.source.dir()).display()
        ));
        make.arg(format!("MO={}", output.display()));
        make.arg("ARCH=arm64").arg(format!("-j{}", kernel::jobs()));
        if self.by_clang {
            make.args(debug_kernel::VARIABLES);
        } else if self.own_tool("CROSS_COMPILE").is_none() && self.own_tool("LLVM").is_none() {
            make.arg(format!("CROSS_COMPILE={}", self.arch.cross_compile()));
        }
        if self.lint {
            make.args(["CLIPPY=1", "KRUSTFLAGS=-Dwarnings"]);
        }
        make.arg("modules");
        make
    }

    /// A tree of the user's own may have been configured for other tools than ours: a variable of theirs that says which.
    fn own_tool(&self, name: &str) -> Option<OsString> {
        match self.sandbox {
            Some(_) => None,
            None => std::env::var_os(name),
        }
    }

    /// The tool that changes object files.
    fn objcopy(&self) -> OsString {
        if self.own_tool("LLVM").is_some() {
            return "llvm-objcopy".into();
        }
        let own = self.own_tool("CROSS_COMPILE");
        let mut tool = own.unwrap_or_else(|| self.arch.cross_compile().into());
        tool.push("objcopy");
        tool
    }

    /// Writes the file `to`: the module `from` without its debug information.
    fn strip(&self, output: &Path, from: &Path, to: &Path, log: &Path) -> Result<()> {
        fs::create_dir_all(to.parent().context("the file has no directory")?)?;
        let tool = self.objcopy();
        let mut objcopy = match &self.sandbox {
            Some(sandbox) => {
                let sandbox = sandbox.clone().with_output(output);
                sandbox.command(output, &tool.to_string_lossy())
            }
            None => Command::new(tool),
        };
        objcopy.arg("--strip-debug").arg(from).arg(to);
        cmd::run(objcopy, log, "see the log", |_| ())
    }

    /// Builds, and returns the directory with the output.
    pub fn make(&self, cache: &Cache, _lock: &Lock, step: &Step) -> Result<PathBuf> {
        let output = self.output(cache);
        fs::create_dir_all(&output)?;
        let log = cache.fresh_log(&self.name())?;
        let remedy = "mend what the log reports; `make clean` first if the kernel tree has changed";
        cmd::run(self.command(&output), &log, remedy, |line| step.news(line))?;
        Ok(output)
    }

    /// Builds the module and checks that the kernel exports all that it needs.
    pub fn module(&self, cache: &Cache, lock: &Lock, step: &Step) -> Result<Products> {
        let output = self.make(cache, lock, step)?;
        let with_debug = output.join("eltwo.ko");
        let kernel_symbols = self.check_symbols(&with_debug)?;
        let module = output.join("stripped/eltwo.ko");
        let log = cache.fresh_log("strip")?;
        self.strip(&output, &with_debug, &module, &log)?;
        Ok(Products {
            module,
            with_debug,
            image: output.join("hyp/eltwo_hyp.elf"),
            names: output.join("hyp/eltwo_hyp.syms"),
            kernel_symbols,
        })
    }

    /// Builds the modules that only tests load.
    pub fn test_modules(&self, cache: &Cache, lock: &Lock, step: &Step) -> Result<Vec<PathBuf>> {
        let output = self.make(cache, lock, step)?;
        Ok(TEST_MODULES.iter().map(|name| output.join(name)).collect())
    }

    fn check_symbols(&self, module: &Path) -> Result<usize> {
        let symvers = Symvers::read(&self.kdir.join("Module.symvers"))?;
        let data = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
        let (needed, missing) = symvers.check_module(&data)?;
        if missing.is_empty() {
            return Ok(needed);
        }
        let cause = format!(
            "the kernel does not export what the module needs: {}",
            missing.join(", ")
        );
        Err(Failure::new(
            cause,
            "use exported symbols only, or build against another kernel (KDIR)",
        )
        .into())
    }
}

/// A cargo of the lab root, for the packages of the checkout.
#[derive(Debug)]
pub struct Cargo<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// The cache, which holds what cargo downloads and builds.
    pub cache: &'a Cache,
    /// The checkout.
    pub checkout: &'a Path,
}

impl Cargo<'_> {
    /// A cargo command in the package at `package`, a path inside the checkout, with some variables in its environment.
    /// It can read what has been built.
    pub fn command(&self, package: &str, variables: &[(&str, &OsStr)]) -> Result<Command> {
        let target = self.target_dir();
        let home = self.cache.join("cargo");
        fs::create_dir_all(&target)?;
        fs::create_dir_all(&home)?;
        let sandbox = self.lab.root.sandbox().with_network();
        let sandbox = sandbox
            .with_input(self.checkout)
            .with_input(&self.cache.join("build"));
        let sandbox = sandbox.with_output(&target).with_output(&home);
        let linker = format!("{}gcc", self.lab.arch.cross_compile());
        let own: [(&str, &OsStr); 4] = [
            ("CARGO_HOME", home.as_os_str()),
            ("CARGO_TARGET_DIR", target.as_os_str()),
            (
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
                OsStr::new(&linker),
            ),
            (
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
                OsStr::new("-Ctarget-feature=+crt-static"),
            ),
        ];
        let variables = [&own, variables].concat();
        Ok(sandbox.command_with(&self.checkout.join(package), &variables, "cargo"))
    }

    /// Where cargo puts what it builds of this checkout.
    pub fn target_dir(&self) -> PathBuf {
        let key = Key::new().with("checkout", self.checkout.as_os_str().as_encoded_bytes());
        self.cache.join(format!("build/cargo-{}", key.digits()))
    }

    /// Builds the program that is `/init` and all tests of the VM.
    pub fn guest_init(&self, _lock: &Lock, step: &Step) -> Result<PathBuf> {
        let log = self.cache.fresh_log("guest")?;
        let mut build = self.command("selftests/vm", &[])?;
        build.args(["build", "--release", "--locked", "--target", GUEST_TARGET]);
        let remedy = "mend what the log reports; if it is a download, check the network";
        cmd::run(build, &log, remedy, |line| step.news(line))?;
        Ok(self.target_dir().join(GUEST_TARGET).join("release/init"))
    }
}
