// SPDX-License-Identifier: GPL-2.0-only

//! Running other programs: everything they say goes to a log, and a failure says what to do about it.

use std::{
    error::Error,
    fmt,
    fs::{
        self,
        File, //
    },
    io::{
        BufRead as _,
        BufReader,
        Write as _, //
    },
    path::{
        Path,
        PathBuf, //
    },
    process::{
        Command,
        Stdio, //
    }, //
};

use anyhow::{
    Context as _,
    Result, //
};

/// Lines of a log that are shown when a step fails.
const TAIL_LINES: usize = 25;

/// A failure that the user can do something about.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub cause: String,
    /// What the user can do.
    pub remedy: String,
    /// The log with the details.
    pub log: Option<PathBuf>,
}

impl Failure {
    /// A failure without a log.
    pub fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            remedy: remedy.into(),
            log: None,
        }
    }

    /// The same failure, pointing at `log`.
    pub fn with_log(self, log: &Path) -> Self {
        Self {
            log: Some(log.to_owned()),
            ..self
        }
    }

    /// Remedy, tail of the log and its path, as printed below the cause.
    pub fn details(&self) -> String {
        let mut text = String::new();
        if let Some(log) = &self.log {
            for line in tail(log, TAIL_LINES) {
                text += &format!("  | {line}\n");
            }
            text += &format!("log: {}\n", log.display());
        }
        text + &format!("remedy: {}", self.remedy)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl Error for Failure {}

/// The last `count` lines of `log`; none if it cannot be read.
pub fn tail(log: &Path, count: usize) -> Vec<String> {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.trim_end_matches('\r'))
        .collect();
    lines[lines.len().saturating_sub(count)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// Runs `command` to its end. Its output (both streams, in order) is appended to `log`, and each line is shown to
/// `on_line`. An unsuccessful end is a [`Failure`] with `remedy`.
pub fn run(
    mut command: Command,
    log: &Path,
    remedy: &str,
    mut on_line: impl FnMut(&str),
) -> Result<()> {
    let program = program_of(&command);
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot open the log {}", log.display()))?;
    writeln!(file, "+ {}", shell_words(&command))?;
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    // The command holds the writing ends: without this the reader would never see the end.
    drop(command);
    let mut reader = BufReader::new(File::from(reader));
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? != 0 {
        file.write_all(&line)?;
        on_line(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("{program} failed ({status})"), remedy)
        .with_log(log)
        .into())
}

/// Runs `command` and returns its standard output; standard error goes into the error message.
pub fn capture(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("{program} failed ({}): {}", output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether `program` is found along the search path, or in the directories of the superuser.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

/// The program that a command is about: what it runs in the sandbox, if it does.
fn program_of(command: &Command) -> String {
    let mut words = std::iter::once(command.get_program()).chain(command.get_args());
    let first = words.next().unwrap_or_default();
    // The sandbox puts the directory last, and the program behind it.
    let inner = words.skip_while(|word| *word != "--chdir").nth(2);
    inner.unwrap_or(first).to_string_lossy().into_owned()
}

/// The command as one could type it, for the log.
fn shell_words(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%^".contains(c);
            if !word.is_empty() && word.chars().all(plain) {
                word.into_owned()
            } else {
                format!("'{}'", word.replace('\'', r"'\''"))
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_words_with_blanks_are_quoted() {
        let mut command = Command::new("make");
        command.args(["-C", "a b", "X=it's", ""]);
        assert_eq!(shell_words(&command), r"make -C 'a b' 'X=it'\''s' ''");
    }

    #[test]
    fn run_failing_command_reports_its_log() {
        let log = std::env::temp_dir().join(format!("eltwo-lab-test-{}.log", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let mut seen = Vec::new();
        let error = run(command, &log, "try again", |line| {
            seen.push(line.to_owned())
        })
        .unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!(seen, ["out", "err"]);
        assert!(failure.details().contains("  | err\n"));
        assert!(failure.details().ends_with("remedy: try again"));
        fs::remove_file(log).unwrap();
    }
}
