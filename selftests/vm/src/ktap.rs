// SPDX-License-Identifier: GPL-2.0-only

//! KTAP: what a test is made of and how its results are printed.
//!
//! Source: `Documentation/dev-tools/ktap.rst` and `tools/testing/selftests/kselftest.h` of Linux (exit codes).

use std::{
    cell::OnceCell,
    error::Error,
    fmt::{
        self,
        Display, //
    },
    io::{
        self,
        Write, //
    },
    process::ExitCode,
    rc::Rc,
    time::{
        Duration,
        Instant, //
    },
};

use anyhow::Result;

/// Exit code of a test of which nothing could be run, as `KSFT_SKIP`.
pub const EXIT_SKIP: u8 = 4;
/// Exit code of a test that failed, as `KSFT_FAIL`.
pub const EXIT_FAIL: u8 = 1;
/// A case that takes longer says how long.
const LONG: Duration = Duration::from_secs(5);

/// An error that says that a case cannot be run here.
#[derive(Debug)]
pub struct Skip(String);

impl Skip {
    /// Skips the case, because of `reason`.
    pub fn because<T>(reason: impl Into<String>) -> Result<T> {
        Err(Skip(reason.into()).into())
    }
}

impl Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Skip {}

type Body = Box<dyn FnOnce() -> Result<()>>;

/// What the cases of a test have in common: made for the first that wants it, dropped after the last that holds it.
pub struct Shared<T>(Rc<OnceCell<T>>);

impl<T> Shared<T> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self(Rc::default())
    }

    /// The value. If `make` fails, the next case tries again.
    pub fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<&T> {
        if let Some(value) = self.0.get() {
            return Ok(value);
        }
        let value = make()?;
        Ok(self.0.get_or_init(|| value))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

/// One case: a name and what it does.
pub struct Case {
    name: String,
    body: Body,
}

/// A test: a list of cases, with what it needs and what it promises to leave behind.
pub struct Test {
    needs: Vec<fn() -> Result<()>>,
    cases: Vec<Case>,
    after_each: Option<fn() -> Result<()>>,
    last: Option<Case>,
}

impl Test {
    /// A test without cases.
    pub fn new() -> Self {
        Self {
            needs: Vec::new(),
            cases: Vec::new(),
            after_each: None,
            last: None,
        }
    }

    /// Adds a condition. If it returns [`Skip`], the whole test is skipped.
    pub fn needs(mut self, condition: fn() -> Result<()>) -> Self {
        self.needs.push(condition);
        self
    }

    /// Adds a case.
    pub fn case(
        mut self,
        name: impl Into<String>,
        body: impl FnOnce() -> Result<()> + 'static,
    ) -> Self {
        self.cases.push(Case {
            name: name.into(),
            body: Box::new(body),
        });
        self
    }

    /// Runs `check` after each case. Its error fails a case that had passed.
    pub fn after_each(mut self, check: fn() -> Result<()>) -> Self {
        self.after_each = Some(check);
        self
    }

    /// Adds the case that runs last.
    pub fn finally(mut self, name: &str, body: impl FnOnce() -> Result<()> + 'static) -> Self {
        self.last = Some(Case {
            name: name.into(),
            body: Box::new(body),
        });
        self
    }

    /// Runs the test and prints its KTAP document.
    pub fn run(self) -> ExitCode {
        line("KTAP version 1");
        for condition in &self.needs {
            match condition() {
                Ok(()) => {}
                Err(error) if error.is::<Skip>() => {
                    line(&format!("1..0 # SKIP {error}"));
                    return EXIT_SKIP.into();
                }
                Err(error) => {
                    line("1..1");
                    diagnose(&error);
                    line("not ok 1 preconditions");
                    return EXIT_FAIL.into();
                }
            }
        }
        let after_each = self.after_each.unwrap_or(|| Ok(()));
        let cases: Vec<Case> = self.cases.into_iter().chain(self.last).collect();
        line(&format!("1..{}", cases.len()));
        let mut totals = Totals::default();
        for (index, case) in cases.into_iter().enumerate() {
            let start = Instant::now();
            let mut result = (case.body)();
            let after = after_each();
            if result.is_ok() {
                result = after;
            } else if let Err(error) = after {
                diagnose(&error);
            }
            totals.count(&result);
            let took = start.elapsed();
            if took > LONG {
                note(format!("{:.0} s", took.as_secs_f64()));
            }
            if let Err(error) = &result {
                if !error.is::<Skip>() {
                    diagnose(error);
                }
            }
            line(&result_line(index + 1, &case.name, &result));
        }
        line(&totals.to_string());
        totals.exit_code()
    }
}

/// Numbers of results by kind.
#[derive(Default)]
pub struct Totals {
    pass: u32,
    fail: u32,
    skip: u32,
}

impl Totals {
    /// Counts one result.
    pub fn count(&mut self, result: &Result<()>) {
        match result {
            Ok(()) => self.pass += 1,
            Err(error) if error.is::<Skip>() => self.skip += 1,
            Err(_) => self.fail += 1,
        }
    }

    fn exit_code(&self) -> ExitCode {
        if self.fail != 0 {
            EXIT_FAIL.into()
        } else if self.pass == 0 {
            EXIT_SKIP.into()
        } else {
            ExitCode::SUCCESS
        }
    }
}

impl Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pass, fail, skip } = self;
        write!(
            f,
            "# Totals: pass:{pass} fail:{fail} xfail:0 xpass:0 skip:{skip} error:0"
        )
    }
}

/// The result line of case `number`, without indentation.
pub fn result_line(number: usize, name: &str, result: &Result<()>) -> String {
    match result {
        Ok(()) => format!("ok {number} {name}"),
        Err(error) if error.is::<Skip>() => format!("ok {number} {name} # SKIP {error}"),
        Err(_) => format!("not ok {number} {name}"),
    }
}

/// Prints `text` as one diagnostic line for each of its lines.
pub fn note(text: impl Display) {
    for part in text.to_string().lines() {
        line(&format!("# {part}"));
    }
}

/// Prints an error with its causes.
fn diagnose(error: &anyhow::Error) {
    note(format!("{error:#}"));
}

/// Prints one line with one `write`, so that lines of other writers cannot cut it.
pub fn line(text: &str) {
    let mut out = io::stdout().lock();
    // Without a reader there is nobody to tell.
    let _ = out
        .write_all(format!("{text}\n").as_bytes())
        .and_then(|()| out.flush());
}
