// SPDX-License-Identifier: GPL-2.0-only

//! A reader of KTAP, the test protocol of the kernel (`Documentation/dev-tools/ktap.rst`).
//!
//! Leaves are counted: a result line that closes a group of results stands for the group, and counts itself only if it
//! reports a failure that none of its members did. Plans are checked at every level, so that a test which dies half-way
//! is a failure, whatever was printed before.

use std::collections::BTreeMap;

/// What a number of tests gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of tests that passed.
    pub passed: usize,
    /// Names of those that failed, with what they said.
    pub failed: Vec<String>,
    /// Names of those that were skipped, with their reasons.
    pub skipped: Vec<String>,
}

impl Tally {
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }

    /// The same counts with `prefix` before each name.
    pub fn prefixed(self, prefix: &str) -> Self {
        let prefixed = |names: Vec<String>| {
            names
                .into_iter()
                .map(|name| format!("{prefix}/{name}"))
                .collect()
        };
        Self {
            passed: self.passed,
            failed: prefixed(self.failed),
            skipped: prefixed(self.skipped),
        }
    }
}

/// Results at one level of nesting, since the last result of the level above.
#[derive(Debug, Default)]
struct Level {
    plan: Option<usize>,
    results: usize,
    tally: Tally,
    /// Comments since the last result, which explain the next one.
    comments: Vec<String>,
}

/// Comments that are kept to explain a failure.
const COMMENTS: usize = 5;

/// A result line without its number.
#[derive(Debug, PartialEq, Eq)]
pub struct TestResult<'a> {
    /// Whether the test passed or was skipped.
    pub ok: bool,
    /// Its name.
    pub name: &'a str,
    /// What follows the `#`: `SKIP why`, `TIMEOUT ...`; empty if there is none.
    directive: &'a str,
}

impl TestResult<'_> {
    /// The reason of a skip.
    pub fn skip_reason(&self) -> Option<&str> {
        let word = self.directive.get(..4)?;
        (self.ok && word.eq_ignore_ascii_case("skip")).then(|| self.directive[4..].trim())
    }

    /// The name, with the directive if there is one.
    fn described(&self) -> String {
        match self.directive {
            "" => self.name.to_owned(),
            directive => format!("{} ({directive})", self.name),
        }
    }
}

/// One KTAP document, read line by line.
#[derive(Debug, Default)]
pub struct Document {
    levels: BTreeMap<usize, Level>,
    names: Vec<String>,
}

impl Document {
    /// Whether `line` starts a document of its own.
    pub fn starts_with(line: &str) -> bool {
        line.starts_with("KTAP version ") || line.starts_with("TAP version ")
    }

    /// Reads one line; what is not KTAP is ignored.
    pub fn read(&mut self, line: &str) {
        let text = line.trim_start_matches(' ');
        let depth = (line.len() - text.len()) / 2;
        if let Some(plan) = text
            .strip_prefix("1..")
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        {
            self.levels.entry(depth).or_default().plan = Some(plan);
        } else if let Some(result) = parse_result(text) {
            self.result(depth, &result);
        } else if let Some(comment) = text.strip_prefix("# ") {
            let comments = &mut self.levels.entry(depth).or_default().comments;
            // Behind a bar stands what another program has printed: it is for the log.
            let tells = !comment.starts_with("Totals:") && !comment.starts_with("| ");
            if comments.len() < COMMENTS && tells {
                comments.push(comment.trim().to_owned());
            }
        }
    }

    fn result(&mut self, depth: usize, result: &TestResult<'_>) {
        let mut inner = self.close_below(depth).prefixed(result.name);
        let is_group = inner != Tally::default();
        let level = self.levels.entry(depth).or_default();
        let comments = std::mem::take(&mut level.comments);
        if let Some(reason) = result.skip_reason() {
            inner.skipped.push(format!("{}: {reason}", result.name));
        } else if !result.ok && inner.failed.is_empty() {
            let why = comments.iter().map(|comment| format!(": {comment}"));
            inner
                .failed
                .push(result.described() + &why.collect::<String>());
        } else if !is_group {
            inner.passed += 1;
        }
        if depth == 0 {
            self.names.push(result.name.to_owned());
        }
        level.results += 1;
        level.tally.add(inner);
    }

    /// Takes the results of all levels below `depth`.
    fn close_below(&mut self, depth: usize) -> Tally {
        let mut tally = Tally::default();
        for (_, level) in self.levels.split_off(&(depth + 1)) {
            tally.add(level.tally);
            if let Some(plan) = level.plan.filter(|plan| *plan != level.results) {
                tally.failed.push(format!(
                    "{plan} tests were planned, {} gave a result",
                    level.results
                ));
            }
        }
        tally
    }

    /// Names of the tests of the outermost level that have given a result.
    pub fn finished(&self) -> &[String] {
        &self.names
    }

    /// Whether all tests that the outermost plan announces have given a result.
    pub fn is_complete(&self) -> bool {
        self.levels
            .get(&0)
            .is_some_and(|level| level.plan == Some(level.results))
    }

    /// The counts so far. Results of a test that has not ended are counted under the name `running`.
    pub fn into_tally(mut self, running: &str) -> Tally {
        let mut inner = Tally::default();
        for (_, level) in self.levels.split_off(&1) {
            inner.add(level.tally);
        }
        let mut tally = self.levels.remove(&0).unwrap_or_default().tally;
        tally.add(inner.prefixed(running));
        tally
    }
}

/// Reads `ok 1 - name # directive`; number and dash may be missing.
pub fn parse_result(text: &str) -> Option<TestResult<'_>> {
    let (ok, rest) = match text.strip_prefix("not ok") {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix("ok")?),
    };
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    let rest = rest
        .trim_start()
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .trim_start();
    let rest = rest.strip_prefix("- ").unwrap_or(rest);
    let (name, directive) = match rest.split_once("# ") {
        Some((name, directive)) => (name, directive),
        None => (rest, ""),
    };
    Some(TestResult {
        ok,
        name: name.trim(),
        directive: directive.trim(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Document {
        let mut document = Document::default();
        text.lines().for_each(|line| document.read(line));
        document
    }

    #[test]
    fn parse_result_knows_all_forms() {
        let result = |ok, name, directive| {
            Some(TestResult {
                ok,
                name,
                directive,
            })
        };
        assert_eq!(parse_result("ok 1 regs"), result(true, "regs", ""));
        assert_eq!(
            parse_result("not ok 2 - a b # TIMEOUT 9 seconds"),
            result(false, "a b", "TIMEOUT 9 seconds")
        );
        assert_eq!(parse_result("ok"), result(true, "", ""));
        assert_eq!(parse_result("okay, then"), None);
        assert_eq!(parse_result("# ok 1 comment"), None);
    }

    #[test]
    fn leaves_are_counted_and_groups_are_not() {
        let document = read(
            "KTAP version 1\n1..3\n  KTAP version 1\n  1..2\n  ok 1 one\n  ok 2 two # SKIP no bash\nok 1 group\n\
             ok 2 leaf\nok 3 other # SKIP not here\n",
        );
        assert!(document.is_complete());
        assert_eq!(document.finished(), ["group", "leaf", "other"]);
        let tally = document.into_tally("");
        assert_eq!(tally.passed, 2);
        assert_eq!(tally.skipped, ["group/two: no bash", "other: not here"]);
        assert!(tally.failed.is_empty());
    }

    #[test]
    fn failing_group_with_failing_member_counts_once() {
        let tally =
            read("1..1\n  1..2\n  not ok 1 one\n  ok 2 two\nnot ok 1 group\n").into_tally("");
        assert_eq!(
            (tally.passed, tally.failed),
            (1, vec!["group/one".to_owned()])
        );
    }

    #[test]
    fn failing_group_with_passing_members_is_a_failure() {
        let tally = read("1..1\n  1..1\n  ok 1 one\nnot ok 1 group # TIMEOUT 9\n").into_tally("");
        assert_eq!(
            (tally.passed, tally.failed),
            (1, vec!["group (TIMEOUT 9)".to_owned()])
        );
    }

    #[test]
    fn failure_is_explained_by_the_comments_before_it() {
        let tally = read("1..2\n# x\nok 1 a\n# no\n# such file\n# Totals: pass:1\nnot ok 2 b\n")
            .into_tally("");
        assert_eq!(tally.failed, ["b: no: such file"]);
    }

    #[test]
    fn group_that_ran_less_than_its_plan_is_a_failure() {
        let tally = read("1..1\n  1..3\n  ok 1 one\nok 1 group\n").into_tally("");
        assert_eq!(
            tally.failed,
            ["group/3 tests were planned, 1 gave a result"]
        );
    }

    #[test]
    fn group_of_skips_is_no_pass() {
        let tally = read("1..1\n  1..1\n  ok 1 one # SKIP why\nok 1 group\n").into_tally("");
        assert_eq!((tally.passed, tally.skipped.len()), (0, 1));
    }

    #[test]
    fn document_without_all_results_is_incomplete() {
        let document = read("1..2\nok 1 one\n  1..2\n  ok 1 inner\n");
        assert!(!document.is_complete());
        assert_eq!(document.finished(), ["one"]);
        assert_eq!(document.into_tally("two").passed, 2);
        assert!(!read("").is_complete());
    }
}
