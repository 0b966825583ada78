// SPDX-License-Identifier: GPL-2.0-only

//! `make coverage`: which lines of the page-table and layout code the tests on the host execute.
//!
//! The tests are built with `-C instrument-coverage` by the compiler of the lab root, and its LLVM tools read what they
//! leave behind.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{
        Path,
        PathBuf, //
    },
};

use anyhow::{
    Context as _,
    Result, //
};

use crate::{
    cache::{
        self,
        Cache,
        Lock, //
    },
    cmd,
    module::Cargo,
    setup::Lab,
    ui::Ui, //
};

/// The code that must be covered, as folders of the checkout.
const FOLDERS: [&str; 2] = ["rust/common/layout", "rust/common/pgtable"];

/// Percentage of the lines of each folder that must be covered.
const WANTED: f64 = 95.0;

/// Lines by number, with how often each was executed.
type Lines = BTreeMap<u32, u64>;

/// What coverage needs to know.
pub struct Coverage<'a> {
    /// What the user sees.
    pub ui: &'a Ui,
    /// The cache.
    pub cache: &'a Cache,
    /// The lab.
    pub lab: &'a Lab,
    /// The checkout.
    pub checkout: &'a Path,
}

impl Coverage<'_> {
    /// Measures, prints a line for each file, and returns whether enough is covered. The lock shows that nobody else does
    /// so in the same directory.
    pub fn run(&self, _lock: &Lock) -> Result<bool> {
        let cargo = Cargo {
            lab: self.lab,
            cache: self.cache,
            checkout: self.checkout,
        };
        let dir = cargo.target_dir().join("coverage");
        let profiles = dir.join("profiles");
        cache::remove_tree(&profiles)?;
        fs::create_dir_all(&profiles)?;
        let program = self.ui.step("tests, built to count lines", |step| {
            let raw = profiles.join("%p.profraw");
            let variables: [(&str, &OsStr); 3] = [
                ("CARGO_TARGET_DIR", dir.as_os_str()),
                ("RUSTFLAGS", OsStr::new("-Cinstrument-coverage")),
                ("LLVM_PROFILE_FILE", raw.as_os_str()),
            ];
            let log = self.cache.fresh_log("coverage")?;
            let mut command = cargo.command("", &variables)?;
            command.args(["test", "--locked", "--lib"]);
            let mut program = None;
            let remedy = "mend the test, or what it tests";
            cmd::run(command, &log, remedy, |line| {
                step.news(line);
                program = test_program(line).or(program.take());
            })?;
            program.context("cargo did not say which program has the tests")
        })?;
        let files = self
            .ui
            .step("reading the counts", |_| self.counts(&program, &profiles))?;
        Ok(self.report(&files))
    }

    /// How often each line of each file was executed. Paths of the checkout are relative to it.
    fn counts(&self, program: &Path, profiles: &Path) -> Result<BTreeMap<PathBuf, Lines>> {
        let sandbox = self.lab.root.sandbox();
        let sandbox = sandbox
            .with_input(self.checkout)
            .with_input(program)
            .with_output(profiles);
        let merged = profiles.join("merged");
        let mut merge = sandbox.command(profiles, "llvm-profdata");
        merge.args(["merge", "-sparse", "-o"]).arg(&merged);
        for entry in fs::read_dir(profiles)? {
            let path = entry?.path();
            if path.extension() == Some(OsStr::new("profraw")) {
                merge.arg(path);
            }
        }
        cmd::capture(&mut merge)?;
        let mut export = sandbox.command(profiles, "llvm-cov");
        export.args(["export", "--format=lcov"]);
        export.arg(format!("--instr-profile={}", merged.display()));
        export.arg(program);
        Ok(read_lcov(&cmd::capture(&mut export)?, self.checkout))
    }

    /// Prints a line for each file and for each folder; returns whether each folder has what is wanted.
    fn report(&self, files: &BTreeMap<PathBuf, Lines>) -> bool {
        let mut enough = true;
        self.ui.line("");
        self.ui.line(format_args!(
            "{:<40} {:>6} {:>8} {:>8}  lines without",
            "file", "lines", "covered", "percent"
        ));
        for folder in FOLDERS {
            let mut total = Count::default();
            for (path, lines) in files {
                if !path.starts_with(folder) || is_test(path) {
                    continue;
                }
                let count = Count::of(lines);
                let name = path.display().to_string();
                let missing = ranges(lines);
                self.ui.line(
                    format_args!("{name:<40} {count}  {missing}")
                        .to_string()
                        .trim_end(),
                );
                total.add(&count);
            }
            let good = total.percent() > WANTED;
            let verdict = if good { "" } else { "  TOO LOW" };
            let name = format!("all of {folder}");
            self.ui.line(format_args!("{name:<40} {total}{verdict}"));
            self.ui.line("");
            enough &= good;
        }
        self.ui
            .line(format_args!("more than {WANTED} % of each are called for"));
        enough
    }
}

/// A number of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    lines: usize,
    covered: usize,
}

impl Count {
    fn of(lines: &Lines) -> Self {
        Self {
            lines: lines.len(),
            covered: lines.values().filter(|count| **count != 0).count(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.lines += other.lines;
        self.covered += other.covered;
    }

    /// Nothing is covered of nothing: a folder without lines is a mistake.
    fn percent(&self) -> f64 {
        match self.lines {
            0 => 0.0,
            lines => 100.0 * self.covered as f64 / lines as f64,
        }
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = self.percent();
        write!(f, "{:>6} {:>8} {percent:>8.2}", self.lines, self.covered)
    }
}

/// Whether a file holds tests and not what they test.
fn is_test(path: &Path) -> bool {
    path.components()
        .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

/// The program with the tests, if cargo names it: `Running unittests rust/lib.rs (/path/of/eltwo-0123)`.
fn test_program(line: &str) -> Option<PathBuf> {
    let rest = line.trim().strip_prefix("Running unittests ")?;
    let (_, path) = rest.split_once(" (")?;
    Some(PathBuf::from(path.strip_suffix(')')?))
}

/// Reads the format of lcov: `SF:path` starts a file, `DA:line,count` is a line.
fn read_lcov(text: &str, checkout: &Path) -> BTreeMap<PathBuf, Lines> {
    let mut files: BTreeMap<PathBuf, Lines> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            let path = Path::new(path);
            current = Some(path.strip_prefix(checkout).unwrap_or(path).to_owned());
        } else if let (Some(path), Some((number, count))) = (
            &current,
            line.strip_prefix("DA:")
                .and_then(|rest| rest.split_once(',')),
        ) {
            if let (Ok(number), Ok(count)) = (number.parse::<u32>(), count.parse::<u64>()) {
                let lines = files.entry(path.clone()).or_default();
                *lines.entry(number).or_insert(0) += count;
            }
        }
    }
    files
}

/// The lines that were never executed, as `12-14 20`.
fn ranges(lines: &Lines) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    let mut open = false;
    for (number, count) in lines {
        match ranges.last_mut() {
            _ if *count != 0 => open = false,
            Some(range) if open => range.1 = *number,
            _ => {
                ranges.push((*number, *number));
                open = true;
            }
        }
    }
    let texts: Vec<String> = ranges
        .into_iter()
        .map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        })
        .collect();
    texts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lcov_is_counted_by_file_and_line() {
        let text = "SF:/top/rust/a.rs\nFN:1,f\nDA:1,2\nDA:2,0\nDA:3,0\nDA:5,0\nDA:7,1\nDA:9,0\n\
                    end_of_record\nSF:/elsewhere/b.rs\nDA:1,0\nend_of_record\n";
        let files = read_lcov(text, Path::new("/top"));
        let lines = &files[Path::new("rust/a.rs")];
        let count = Count::of(lines);
        assert_eq!((count.lines, count.covered), (6, 2));
        assert_eq!(ranges(lines), "2-5 9");
        assert!((Count::default().percent() - 0.0).abs() < f64::EPSILON);
    }

    #[test]
    fn program_and_tests_are_known_by_name() {
        let line = "     Running unittests rust/lib.rs (/c/debug/deps/eltwo-01ab)";
        assert_eq!(
            test_program(line).unwrap(),
            Path::new("/c/debug/deps/eltwo-01ab")
        );
        assert_eq!(test_program("running 3 tests"), None);
        for (path, test) in [
            ("a/tests/b.rs", true),
            ("a/tests.rs", true),
            ("a/b.rs", false),
        ] {
            assert_eq!(is_test(Path::new(path)), test);
        }
    }
}
