// SPDX-License-Identifier: GPL-2.0-only

//! Running programs of the lab root.
//!
//! The lab root is mounted read-only; the cache and the checkout appear under their own paths, so that a path in a log
//! is a path on the host. The network is cut off unless a program needs it.

use std::{
    ffi::OsStr,
    path::{
        Path,
        PathBuf, //
    },
    process::Command, //
};

/// Host files that a program needs to reach the network: names, and the certificates that this machine trusts.
const NETWORK_FILES: [&str; 3] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/ssl/certs/ca-certificates.crt",
];

/// Environment variables that lead to the network.
const NETWORK_VARIABLES: [&str; 6] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// How to enter the lab root.
#[derive(Clone, Debug)]
pub struct Sandbox {
    root: PathBuf,
    read_only: Vec<PathBuf>,
    read_write: Vec<PathBuf>,
    network: bool,
}

impl Sandbox {
    /// A sandbox whose file system is the lab root at `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            read_only: Vec::new(),
            read_write: Vec::new(),
            network: false,
        }
    }

    /// Shows `path` of the host, read-only.
    pub fn with_input(mut self, path: &Path) -> Self {
        self.read_only.push(path.to_owned());
        self
    }

    /// Shows `path` of the host, to be written to.
    pub fn with_output(mut self, path: &Path) -> Self {
        self.read_write.push(path.to_owned());
        self
    }

    /// Leaves the network reachable.
    pub fn with_network(mut self) -> Self {
        self.network = true;
        self
    }

    /// A command that runs `program` in the sandbox, in the directory `dir`. Add its arguments to what is returned;
    /// use [`Sandbox::command_with`] to give it an environment.
    pub fn command(&self, dir: &Path, program: &str) -> Command {
        self.command_with(dir, &[], program)
    }

    /// The same, with environment variables.
    pub fn command_with(&self, dir: &Path, variables: &[(&str, &OsStr)], program: &str) -> Command {
        let mut command = Command::new("bwrap");
        command.args([
            "--die-with-parent",
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
        ]);
        command.args([
            "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/run",
        ]);
        for dir in ["usr", "etc"] {
            command
                .arg("--ro-bind")
                .arg(self.root.join(dir))
                .arg(format!("/{dir}"));
        }
        // Debian 13 has only these links where these directories were.
        for dir in ["bin", "sbin", "lib", "lib64"] {
            command.args(["--symlink", &format!("usr/{dir}"), &format!("/{dir}")]);
        }
        for path in &self.read_only {
            command.arg("--ro-bind").args([path, path]);
        }
        for path in &self.read_write {
            command.arg("--bind").args([path, path]);
        }
        command.args([
            "--clearenv",
            "--setenv",
            "HOME",
            "/tmp",
            "--setenv",
            "LC_ALL",
            "C.UTF-8",
        ]);
        command.args(["--setenv", "PATH", "/usr/sbin:/usr/bin"]);
        if let Some(terminal) = std::env::var_os("TERM") {
            command.args(["--setenv", "TERM"]).arg(terminal);
        }
        if self.network {
            self.add_network(&mut command);
        } else {
            command.arg("--unshare-net");
        }
        for (name, value) in variables {
            command.args(["--setenv", name]).arg(value);
        }
        command.arg("--chdir").arg(dir).arg(program);
        command
    }

    fn add_network(&self, command: &mut Command) {
        for file in NETWORK_FILES {
            // The lab root has an empty file wherever the host may have one: nothing can be created in it any more.
            if Path::new(file).exists() && self.root.join(&file[1..]).exists() {
                command.args(["--ro-bind", file, file]);
            }
        }
        for name in NETWORK_VARIABLES {
            if let Some(value) = std::env::var_os(name) {
                command.args(["--setenv", name]).arg(value);
            }
        }
    }
}
