// SPDX-License-Identifier: GPL-2.0-only

//! What a VM run says: counts its results and decides whether it went as planned.

use crate::{
    ktap::{
        Document,
        Tally, //
    },
    owners::Owners,
    runs::{
        End,
        Run, //
    },
    vm::Line, //
};

/// What the first process of the VM prints when it starts.
const BOOT_BANNER: &str = "# eltwo-init: kernel ";

/// What it prints before it ends the machine.
const END_BANNER: &str = "# eltwo-init: end: ";

/// What it prints when it finds an image on the disk, before it has the kernel resume from there.
const RESUME_BANNER: &str = "# eltwo-init: resuming";

/// Most times that a machine may hibernate.
const MOST_RESUMES: usize = 8;

/// Kernel messages after which a run has failed, whatever its tests say.
const KERNEL_TROUBLE: [&str; 10] = [
    "Kernel panic",
    "Internal error",
    "Unable to handle",
    "BUG:",
    "WARNING:",
    "Call trace:",
    "rcu: INFO:",
    "possible circular locking",
    "soft lockup",
    "EL2 register image differs",
];

/// What the module adds to the last of these if a test has asked for it.
const ASKED_FOR: &str = "as fail_at asks for";

/// Reads the output of a run.
#[derive(Debug)]
pub struct Reader<'a> {
    run: &'a Run,
    document: Option<Document>,
    tally: Tally,
    finished: Vec<String>,
    boots: usize,
    starts: usize,
    resumes: usize,
    ends: Vec<String>,
    trouble: Option<String>,
    panicked: bool,
    owners: Owners,
}

impl<'a> Reader<'a> {
    /// A reader for `run`, which has not started yet.
    pub fn new(run: &'a Run) -> Self {
        Self {
            run,
            document: None,
            tally: Tally::default(),
            finished: Vec::new(),
            boots: 0,
            starts: 0,
            resumes: 0,
            ends: Vec::new(),
            trouble: None,
            panicked: false,
            owners: Owners::default(),
        }
    }

    /// Reads a line.
    pub fn read(&mut self, line: &Line) {
        let text = line.text();
        let must_panic = self.run.end == End::Kdump && self.boots < 2;
        if matches!(line, Line::Console(_)) && !must_panic {
            let is_trouble = KERNEL_TROUBLE.iter().any(|trouble| text.contains(trouble))
                && !text.contains(ASKED_FOR);
            if self.trouble.is_none() && is_trouble {
                self.trouble = Some(text.trim().to_owned());
            }
            self.panicked |= text.contains("Kernel panic");
        }
        if matches!(line, Line::Console(_)) {
            self.owners.read(text);
        }
        if text.starts_with(BOOT_BANNER) {
            self.boots += 1;
        } else if text.starts_with(RESUME_BANNER) {
            self.resumes += 1;
        } else if let Some(end) = text.strip_prefix(END_BANNER) {
            self.ends.push(end.trim().to_owned());
        } else if Document::starts_with(text) {
            self.close_document();
            self.document = Some(Document::default());
        } else if let Some(document) = &mut self.document {
            document.read(text);
        }
    }

    /// Whether there is nothing to wait for any more: a machine that was reset has come back, or it is dead.
    pub fn is_over(&self) -> bool {
        self.panicked || (self.run.end == End::Reboot && self.boots >= 2)
    }

    /// Whether the machine, which has ended, is to be started again: it hibernates.
    pub fn starts_again(&mut self) -> bool {
        let hibernates = self.run.end == End::Hibernate && self.ends.is_empty() && self.boots == 1;
        // Each start but the first must find an image.
        let again = hibernates && self.resumes == self.starts && self.starts < MOST_RESUMES;
        self.starts += usize::from(again);
        again
    }

    /// The test that has started and not ended.
    fn running(&self) -> &'static str {
        let finished = self
            .document
            .as_ref()
            .map_or(0, |document| document.finished().len());
        match (self.boots, self.run.tests.get(finished)) {
            (0, _) => "boot",
            (1, Some(test)) => test,
            (1, None) => "end",
            _ => "second boot",
        }
    }

    fn close_document(&mut self) {
        let running = self.running();
        if let Some(document) = self.document.take() {
            self.finished.extend_from_slice(document.finished());
            self.tally.add(document.into_tally(running));
        }
    }

    /// The counts of the run, with a failure for whatever did not go as planned. `cut` says why the lab ended the
    /// machine, if it did.
    pub fn finish(mut self, cut: Option<String>) -> Tally {
        let running = self.running();
        let incomplete = self
            .document
            .as_ref()
            .is_none_or(|document| !document.is_complete());
        self.close_document();
        let problem = cut
            .or(self
                .trouble
                .take()
                .map(|line| format!("the kernel says: {line}")))
            .or_else(|| self.wrong_end(incomplete))
            .or_else(|| {
                self.owners
                    .wrong(self.run.loaded_at_end.then_some(self.run.cpus))
            });
        if let Some(problem) = problem {
            self.tally.failed.push(format!("{running}: {problem}"));
        }
        for test in self.missing() {
            self.tally.failed.push(format!("{test}: gave no result"));
        }
        self.judge_skips();
        self.tally.prefixed(self.run.name)
    }

    /// What is wrong with the way the run ended.
    fn wrong_end(&self, incomplete: bool) -> Option<String> {
        if !self.run.results {
            return None;
        }
        let (boots, words): (_, &[&str]) = match self.run.end {
            End::PowerOff | End::Hibernate => (1, &["poweroff"]),
            // The machine is ended when it has come back, with its tests about to start again.
            End::Reboot => (2, &["reboot"]),
            End::Kexec => (2, &["kexec", "poweroff"]),
            End::Kdump => (2, &["crash", "poweroff"]),
        };
        if self.boots != boots {
            return Some(format!(
                "user space started {} times, not {boots}",
                self.boots
            ));
        }
        if self.ends != words {
            return Some(format!(
                "the VM's last words were {:?}, not {words:?}",
                self.ends
            ));
        }
        if self.run.end == End::Hibernate && (self.starts == 0 || self.resumes != self.starts) {
            let (starts, resumes) = (self.starts, self.resumes);
            return Some(format!(
                "the machine was started again {starts} times and resumed {resumes} times"
            ));
        }
        (incomplete && self.run.end != End::Reboot)
            .then(|| "not all tests gave a result".to_owned())
    }

    /// Makes each skip a failure that the run does not allow: what the lab provides must be there.
    fn judge_skips(&mut self) {
        let Some(may_skip) = self.run.may_skip else {
            return;
        };
        let is_allowed = |skipped: &String| {
            let name = skipped.split(": ").next().unwrap_or_default();
            may_skip.iter().any(|allowed| name.ends_with(allowed))
        };
        let (allowed, others) = self.tally.skipped.drain(..).partition(is_allowed);
        self.tally.skipped = allowed;
        let others: Vec<String> = others;
        let failed = others.iter().map(|skipped| format!("skipped: {skipped}"));
        self.tally.failed.extend(failed);
    }

    /// Tests of the run that gave no result, though they should.
    fn missing(&self) -> Vec<&'static str> {
        if !self.run.results {
            return Vec::new();
        }
        let is_missing = |test: &&&str| !self.finished.iter().any(|finished| finished == **test);
        self.run.tests.iter().filter(is_missing).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::RUNS;

    fn run(tests: &'static [&'static str], end: End) -> Run {
        Run {
            name: "vm",
            tests,
            end,
            ..RUNS[0].clone()
        }
    }

    fn judge(run: &Run, results: &str, console: &str, cut: Option<&str>) -> Tally {
        let mut reader = Reader::new(run);
        results
            .lines()
            .for_each(|line| reader.read(&Line::Result(line.to_owned())));
        console
            .lines()
            .for_each(|line| reader.read(&Line::Console(line.to_owned())));
        reader.finish(cut.map(str::to_owned))
    }

    const GOOD: &str = "# eltwo-init: kernel x\nKTAP version 1\n1..2\nok 1 a\nok 2 b\n# eltwo-init: end: poweroff\n";

    #[test]
    fn good_run_passes() {
        let tally = judge(&run(&["a", "b"], End::PowerOff), GOOD, "[ 1.0] fine", None);
        assert_eq!((tally.passed, tally.failed.len()), (2, 0));
    }

    #[test]
    fn kernel_trouble_fails_a_run_whose_tests_pass() {
        let tally = judge(
            &run(&["a", "b"], End::PowerOff),
            GOOD,
            "[ 1.0] WARNING: CPU: 1",
            None,
        );
        assert_eq!(
            tally.failed,
            ["vm/end: the kernel says: [ 1.0] WARNING: CPU: 1"]
        );
    }

    #[test]
    fn time_out_names_the_running_test_and_those_without_result() {
        let results =
            "# eltwo-init: kernel x\nKTAP version 1\n1..3\nok 1 a\n  1..2\n  ok 1 inner\n";
        let tally = judge(
            &run(&["a", "b", "c"], End::PowerOff),
            results,
            "",
            Some("no end after 9 s"),
        );
        assert_eq!(tally.passed, 2);
        assert_eq!(
            tally.failed,
            [
                "vm/b: no end after 9 s",
                "vm/b: gave no result",
                "vm/c: gave no result"
            ]
        );
    }

    #[test]
    fn silent_machine_fails() {
        let tally = judge(&run(&["a"], End::PowerOff), "", "", None);
        assert_eq!(
            tally.failed[0],
            "vm/boot: user space started 0 times, not 1"
        );
    }

    #[test]
    fn kexec_needs_the_second_kernel() {
        let first =
            "# eltwo-init: kernel x\nKTAP version 1\n1..1\nok 1 kexec\n# eltwo-init: end: kexec\n";
        let second = "# eltwo-init: kernel x\nKTAP version 1\n1..1\nok 1 second\n# eltwo-init: end: poweroff\n";
        let kexec = run(&["kexec"], End::Kexec);
        let tally = judge(&kexec, &format!("{first}{second}"), "", None);
        assert_eq!((tally.passed, tally.failed), (2, Vec::new()));
        assert!(!judge(&kexec, first, "", None).failed.is_empty());
        // The first one must have come to its end, and its test to a result.
        let cut = first.replace("# eltwo-init: end: kexec\n", "");
        let silent = first.replace("ok 1 kexec\n", "");
        for first in [cut, silent] {
            let tally = judge(&kexec, &format!("{first}{second}"), "", None);
            assert_eq!(tally.failed.len(), 1, "{:?}", tally.failed);
        }
    }

    #[test]
    fn skip_that_is_not_allowed_fails() {
        let results = "# eltwo-init: kernel x\nKTAP version 1\n1..1\n  1..2\n  ok 1 one # SKIP old\n  ok 2 two # SKIP no x: y\nok 1 a\n# eltwo-init: end: poweroff\n";
        let run = Run {
            may_skip: Some(&["one"]),
            ..run(&["a"], End::PowerOff)
        };
        let tally = judge(&run, results, "", None);
        assert_eq!(tally.skipped, ["vm/a/one: old"]);
        assert_eq!(tally.failed, ["vm/skipped: a/two: no x: y"]);
    }

    #[test]
    fn register_that_differs_fails_unless_it_was_asked_for() {
        let run = run(&["a", "b"], End::PowerOff);
        let line = "[ 1.0] eltwo: CPU1: EL2 register image differs in 1 registers";
        assert_eq!(judge(&run, GOOD, line, None).failed.len(), 1);
        let asked = format!("{line}, {ASKED_FOR}");
        assert_eq!(judge(&run, GOOD, &asked, None).failed.len(), 0);
    }

    #[test]
    fn module_that_is_loaded_at_the_end_must_have_given_every_cpu_back() {
        let loaded = Run {
            loaded_at_end: true,
            cpus: 2,
            ..run(&["a", "b"], End::PowerOff)
        };
        let console = |owner: &str| {
            let line = |cpu, owner| format!("[ 1.0] eltwo_hooks: shutdown: CPU{cpu} {owner}\n");
            line(0, "stub") + &line(1, owner)
        };
        assert!(judge(&loaded, GOOD, &console("stub"), None)
            .failed
            .is_empty());
        for console in [console("eltwo"), String::new()] {
            let tally = judge(&loaded, GOOD, &console, None);
            assert_eq!(tally.failed.len(), 1, "{:?}", tally.failed);
        }
    }

    #[test]
    fn story_gives_no_results() {
        let story = Run {
            results: false,
            ..run(&["demo"], End::Kexec)
        };
        let told = "# eltwo-init: kernel x\nonce upon a time\n# eltwo-init: end: kexec\n";
        assert!(judge(&story, told, "", None).failed.is_empty());
        let panic = "[ 1.0] Kernel panic - not syncing";
        assert_eq!(judge(&story, told, panic, None).failed.len(), 1);
    }

    #[test]
    fn hibernation_needs_a_resume_for_each_start() {
        let hibernate = run(&["a"], End::Hibernate);
        let feed = |reader: &mut Reader<'_>, text: &str| {
            text.lines()
                .for_each(|line| reader.read(&Line::Result(line.to_owned())));
        };
        let rest = "ok 1 a\n# eltwo-init: end: poweroff\n";
        let mut reader = Reader::new(&hibernate);
        feed(
            &mut reader,
            "# eltwo-init: kernel x\nKTAP version 1\n1..1\n",
        );
        assert!(reader.starts_again());
        feed(&mut reader, "# eltwo-init: resuming\n");
        assert!(reader.starts_again());
        feed(&mut reader, "# eltwo-init: resuming\n");
        feed(&mut reader, rest);
        assert!(!reader.starts_again());
        let tally = reader.finish(None);
        assert_eq!((tally.passed, tally.failed), (1, Vec::new()));
        // One that finds no image is not started once more.
        let mut reader = Reader::new(&hibernate);
        feed(
            &mut reader,
            "# eltwo-init: kernel x\nKTAP version 1\n1..1\n",
        );
        assert!(reader.starts_again());
        assert!(!reader.starts_again());
        assert!(!reader.finish(None).failed.is_empty());
        // One that never hibernates has not been tested.
        assert!(!judge(
            &hibernate,
            "# eltwo-init: kernel x\nKTAP version 1\n1..1\nok 1 a\n# eltwo-init: end: poweroff\n",
            "",
            None
        )
        .failed
        .is_empty());
    }

    #[test]
    fn kdump_panics_once() {
        let kdump = run(&["kdump"], End::Kdump);
        let panic = Line::Console("[ 1.0] Kernel panic - not syncing".to_owned());
        let boot = Line::Result("# eltwo-init: kernel x".to_owned());
        let mut reader = Reader::new(&kdump);
        for line in [&boot, &panic] {
            reader.read(line);
        }
        assert!(!reader.is_over());
        for line in [&boot, &panic] {
            reader.read(line);
        }
        assert!(reader.is_over());
    }

    #[test]
    fn reboot_is_over_when_the_machine_is_back() {
        let reboot = run(&["reboot"], End::Reboot);
        let boot = "# eltwo-init: kernel x";
        let mut reader = Reader::new(&reboot);
        let lines = [
            boot,
            "KTAP version 1",
            "1..1",
            "ok 1 reboot",
            "# eltwo-init: end: reboot",
        ];
        lines
            .iter()
            .for_each(|line| reader.read(&Line::Result((*line).to_owned())));
        assert!(!reader.is_over());
        reader.read(&Line::Result(boot.to_owned()));
        assert!(reader.is_over());
        let tally = reader.finish(None);
        assert_eq!((tally.passed, tally.failed), (1, Vec::new()));
    }
}
