// SPDX-License-Identifier: GPL-2.0-only

//! A virtual machine: QEMU's `virt` board with an emulated CPU that has EL2.
//!
//! The machine has two serial ports. The kernel's console is the first one; test results come through the second, so
//! that no kernel message can cut a result line in two. QEMU writes both to files, which are followed here: what was
//! said stays, however the machine ends.

use std::{
    collections::VecDeque,
    fs::{
        self,
        File, //
    },
    io::Read as _,
    path::{
        Path,
        PathBuf, //
    },
    process::{
        Child,
        Command,
        ExitStatus,
        Stdio, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};

use anyhow::{
    Context as _,
    Result, //
};

use crate::{
    high::{
        self,
        High, //
    },
    idle,
    sandbox::Sandbox, //
};

/// How often the output of the machine is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Name of the file with the file system of a machine, in its directory.
pub const INITRD: &str = "initrd";

/// Name of the file with the disk of a machine, in its directory.
pub const DISK: &str = "disk";

/// The interrupt controller of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// A GICv2: no system registers, at most eight CPUs.
    V2,
    /// A GICv3.
    V3,
}

impl Gic {
    /// Its version, as QEMU counts.
    pub fn version(self) -> u32 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

/// A machine to be built.
#[derive(Clone, Debug)]
pub struct Spec {
    /// QEMU's name of the CPU model.
    pub cpu: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Where the memory is that the kernel gets, if not where the board has it.
    pub ram_base: Option<u64>,
    /// Whether the machine's PMU counts instructions, and nothing in it is random or depends on the host's time: what it
    /// counts is the same each time.
    pub counting: bool,
    /// Whether the machine has EL2.
    pub el2: bool,
    /// Its interrupt controller.
    pub gic: Gic,
    /// Whether the CPUs have an idle state in which they are powered down, see [`idle`]. That wants a GICv2: the kernel switches a
    /// GICv3 off with the CPU, and QEMU wakes none from there.
    pub idle_states: bool,
    /// Whether the interrupt controller is a GICv3 with an ITS. A kernel that is started by kexec without EFI must not find one: LPIs
    /// cannot be switched off again, so it takes over the table of LPI properties where the first kernel has put it,
    /// and fills it, although its own text may be there by then.
    pub its: bool,
    /// The kernel's command line.
    pub command_line: String,
    /// Whether a reset starts the machine again; otherwise it ends it.
    pub reboot: bool,
    /// Size of the machine's disk in MiB, if it has one. It is empty at first, and stays when the machine is started again.
    pub disk_mib: Option<u64>,
    /// Whether a debugger can look in from outside: QEMU listens at the sockets `gdb.sock` and `qmp.sock` of the
    /// machine's directory.
    pub debug: bool,
}

impl Spec {
    /// QEMU with its arguments, `serial` among them: a board without its second serial port has another device tree.
    fn command(
        &self,
        files: &Files,
        sandbox: &Sandbox,
        kernel: &Path,
        serial: &[&str],
    ) -> Result<Command> {
        let board = |more: &str| {
            let mut command = files.command(sandbox, kernel);
            command.args(serial);
            self.board(&mut command, more);
            files.add_disk(self, &mut command);
            command
        };
        let mut command = board("");
        if self.idle_states {
            let tree = escape(&files.dir.join(idle::TREE));
            let mut dump = board(&format!(",dumpdtb={tree}"));
            idle::add(&mut dump, &mut command, self.cpus, &files.dir)?;
        }
        let Some(high) = self.high() else {
            self.kernel(&mut command, kernel, &files.initrd, "");
            return Ok(command);
        };
        let tree = escape(&files.dir.join(high::TREE));
        let mut dump = board(&format!(",dumpdtb={tree}"));
        let words = high.words(&files.initrd)?;
        self.kernel(&mut dump, kernel, &files.initrd, &words);
        for command in [&mut dump, &mut command] {
            high.firmware(command, &files.dir)?;
        }
        high.load(&mut dump, &mut command, (kernel, &files.initrd), &files.dir)?;
        Ok(command)
    }

    /// The memory module, if there is one.
    fn high(&self) -> Option<High> {
        self.ram_base.map(|base| High {
            base,
            size_mib: self.memory_mib,
        })
    }

    /// QEMU's arguments for the board, with further options of the machine in `more`.
    fn board(&self, command: &mut Command, more: &str) {
        match self.high() {
            Some(high) => high.board(command),
            None => {
                command.arg("-m").arg(format!("{}M", self.memory_mib));
            }
        }
        let [el2, its] = [self.el2, self.its].map(|there| if there { "on" } else { "off" });
        let gic = self.gic.version();
        command.arg("-M").arg(format!(
            "virt,virtualization={el2},gic-version={gic},its={its}{more}"
        ));
        if self.counting {
            command.args(["-accel", "tcg,thread=single"]);
            command.args(["-icount", "shift=0,sleep=off"]);
            command.args(["-rtc", "clock=vm,base=2000-01-01", "-seed", "1"]);
        } else {
            command.args(["-accel", "tcg,thread=multi"]);
        }
        command.args(["-cpu", &self.cpu, "-smp", &self.cpus.to_string()]);
        command.args(["-nic", "none", "-nodefaults", "-display", "none"]);
        if !self.reboot {
            command.arg("-no-reboot");
        }
    }

    /// QEMU's arguments for what it loads, with more words for the kernel's command line.
    fn kernel(&self, command: &mut Command, kernel: &Path, initrd: &Path, words: &str) {
        command.arg("-kernel").arg(kernel);
        command.arg("-initrd").arg(initrd);
        let line = format!("{}{words}", self.command_line);
        command.args(["-append", &line]);
    }
}

/// A line that the machine printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// On the kernel's console.
    Console(String),
    /// On the port for results.
    Result(String),
}

impl Line {
    /// The text of the line.
    pub fn text(&self) -> &str {
        match self {
            Self::Console(text) | Self::Result(text) => text,
        }
    }
}

/// What a machine does next.
#[derive(Debug)]
pub enum Event {
    /// It printed a line.
    Line(Line),
    /// It ended, and all that it printed has been reported.
    Exit(ExitStatus),
    /// Nothing happened before the deadline.
    Deadline,
}

/// A running machine. Dropping it ends it.
#[derive(Debug)]
pub struct Vm {
    command: Command,
    child: Child,
    console: Follower,
    results: Follower,
    pending: VecDeque<Line>,
}

impl Vm {
    /// Starts a machine whose files (initramfs, logs, sockets) are in `dir`.
    pub fn start(
        sandbox: &Sandbox,
        spec: &Spec,
        kernel: &Path,
        initrd: &[u8],
        dir: &Path,
    ) -> Result<Self> {
        let files = Files::make(dir, initrd)?;
        files.make_disk(spec)?;
        // A machine that is started again goes on in the same files.
        let [console, results] = [("console", &files.console), ("results", &files.results)]
            .map(|(id, path)| format!("file,id={id},append=on,path={}", escape(path)));
        let [first, second] = ["chardev:console", "chardev:results"];
        let serial = [
            "-chardev", &console, "-serial", first, "-chardev", &results, "-serial", second,
        ];
        let mut command = spec.command(&files, sandbox, kernel, &serial)?;
        files.add_debug(spec, &mut command);
        let log = File::create(dir.join("qemu.log"))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("cannot start QEMU")?;
        Ok(Self {
            command,
            child,
            console: Follower::new(&files.console)?,
            results: Follower::new(&files.results)?,
            pending: VecDeque::new(),
        })
    }

    /// Starts the machine again, which has ended. Its disk is as it was.
    pub fn start_again(&mut self) -> Result<()> {
        self.child = self.command.spawn().context("cannot start QEMU again")?;
        Ok(())
    }

    /// Waits for the next thing that the machine does.
    pub fn next(&mut self, deadline: Instant) -> Result<Event> {
        loop {
            // The status is asked for first: what was printed before the end is then surely read.
            let status = self.child.try_wait()?;
            self.console.read(&mut self.pending, Line::Console)?;
            self.results.read(&mut self.pending, Line::Result)?;
            if let Some(line) = self.pending.pop_front() {
                return Ok(Event::Line(line));
            }
            if let Some(status) = status {
                return Ok(Event::Exit(status));
            }
            if Instant::now() >= deadline {
                return Ok(Event::Deadline);
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a machine whose console is the user's terminal, until it ends.
pub fn interactive(
    sandbox: &Sandbox,
    spec: &Spec,
    kernel: &Path,
    initrd: &[u8],
    dir: &Path,
) -> Result<ExitStatus> {
    let files = Files::make(dir, initrd)?;
    let stdio = "stdio,id=console,mux=on,signal=off";
    let serial = ["-chardev", stdio, "-serial", "chardev:console"];
    let monitor = ["-mon", "chardev=console,mode=readline", "-serial", "null"];
    let all = [serial, monitor].concat();
    let mut command = spec.command(&files, sandbox, kernel, &all)?;
    files.add_debug(spec, &mut command);
    command.status().context("cannot start QEMU")
}

/// The files of a machine.
struct Files {
    dir: PathBuf,
    initrd: PathBuf,
    console: PathBuf,
    results: PathBuf,
}

impl Files {
    fn make(dir: &Path, initrd: &[u8]) -> Result<Self> {
        crate::cache::remove_tree(dir)?;
        fs::create_dir_all(dir)?;
        let files = Self {
            dir: dir.to_owned(),
            initrd: dir.join(INITRD),
            console: dir.join("console.log"),
            results: dir.join("results.log"),
        };
        fs::write(&files.initrd, initrd)?;
        File::create(&files.console)?;
        File::create(&files.results)?;
        Ok(files)
    }

    fn command(&self, sandbox: &Sandbox, kernel: &Path) -> Command {
        let sandbox = sandbox.clone().with_output(&self.dir).with_input(kernel);
        sandbox.command(&self.dir, "qemu-system-aarch64")
    }

    fn disk(&self) -> PathBuf {
        self.dir.join(DISK)
    }

    /// Makes the disk, which takes room only as it is written to.
    fn make_disk(&self, spec: &Spec) -> Result<()> {
        if let Some(mib) = spec.disk_mib {
            File::create(self.disk())?.set_len(mib << 20)?;
        }
        Ok(())
    }

    fn add_disk(&self, spec: &Spec, command: &mut Command) {
        if spec.disk_mib.is_some() {
            let path = escape(&self.disk());
            let drive = format!("if=none,id=disk,format=raw,cache=unsafe,file={path}");
            command.args(["-drive", &drive]);
            command.args(["-device", "virtio-blk-pci,drive=disk,num-queues=1"]);
        }
    }

    fn add_debug(&self, spec: &Spec, command: &mut Command) {
        if !spec.debug {
            return;
        }
        for protocol in ["gdb", "qmp"] {
            let socket = escape(&self.dir.join(format!("{protocol}.sock")));
            command
                .arg(format!("-{protocol}"))
                .arg(format!("unix:{socket},server=on,wait=off"));
        }
    }
}

/// A path as a part of a list of options of QEMU, where a comma is written twice.
pub fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Follows a file that somebody else writes to, line by line.
#[derive(Debug)]
struct Follower {
    file: File,
    partial: Vec<u8>,
}

impl Follower {
    fn new(path: &Path) -> Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            partial: Vec::new(),
        })
    }

    /// Appends the lines that have been completed since the last time.
    fn read(&mut self, lines: &mut VecDeque<Line>, kind: impl Fn(String) -> Line) -> Result<()> {
        self.file.read_to_end(&mut self.partial)?;
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line);
            lines.push_back(kind(text.trim_end_matches(['\r', '\n']).to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn follower_reports_whole_lines_only() {
        let path = std::env::temp_dir().join(format!("eltwo-lab-follow-{}", std::process::id()));
        let mut writer = File::create(&path).unwrap();
        let mut follower = Follower::new(&path).unwrap();
        let mut lines = VecDeque::new();
        for (written, seen) in [("ok 1", 0), (" one\r\nok 2 ", 1), ("two\n\n", 3)] {
            writer.write_all(written.as_bytes()).unwrap();
            follower.read(&mut lines, Line::Result).unwrap();
            assert_eq!(lines.len(), seen);
        }
        assert_eq!(lines[0].text(), "ok 1 one");
        assert_eq!(lines[1], Line::Result("ok 2 two".to_owned()));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn commas_in_paths_are_escaped() {
        assert_eq!(escape(Path::new("/a,b/c")), "/a,,b/c");
    }
}
