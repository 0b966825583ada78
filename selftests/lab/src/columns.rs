// SPDX-License-Identifier: GPL-2.0-only

//! `make kvm-selftests`: the kernel's KVM selftests on the kernel's own KVM and on eltwo, in two columns.
//!
//! The programs of a column run one after the other in one VM. If the VM dies, the program that ran is to blame, and
//! another VM goes on behind it.

use std::{
    fmt,
    path::Path,
    thread,
    time::Duration, //
};

use anyhow::{
    anyhow,
    Result, //
};

use crate::{
    cmd,
    ktap::{
        self,
        TestResult, //
    },
    runs::{
        Pair,
        Run, //
    },
    session::Session,
    ui::Ui, //
};

/// Programs that eltwo need not pass although the kernel's own KVM does, with the reason.
const EXCEPTIONS: [(&str, &str); 9] = [
    ("arch_timer", "needs the in-kernel timer and GIC"),
    (
        "arm64/arch_timer_edge_cases",
        "needs the in-kernel timer and GIC",
    ),
    ("arm64/vcpu_width_config", "needs 32-bit guests"),
    ("arm64/vgic_init", "needs the in-kernel GIC"),
    ("arm64/vgic_irq", "needs the in-kernel GIC"),
    ("arm64/vgic_lpi_stress", "needs the in-kernel GIC"),
    ("arm64/vpmu_counter_access", "needs the PMU"),
    ("guest_memfd_test", "needs KVM_CREATE_GUEST_MEMFD"),
    ("irqfd_test", "needs the in-kernel GIC"),
];

/// The result that stands for the end of eltwo: that it can be unloaded and leaves nothing behind.
const UNLOAD: &str = "module_unloads";

/// The result that says that no program could be run.
const PRECONDITIONS: &str = "preconditions";

/// Columns of the table, in characters.
const NAME_WIDTH: usize = 34;
const CELL_WIDTH: usize = 19;
/// Longest reason that is printed.
const REASON_LENGTH: usize = 150;

/// How a program has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    Skip,
    Fail,
    TimeOut,
    /// The VM has died.
    Crash,
}

impl Verdict {
    const ALL: [Self; 5] = [
        Self::Pass,
        Self::Skip,
        Self::Fail,
        Self::TimeOut,
        Self::Crash,
    ];
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Fail => "FAIL",
            Self::TimeOut => "TIME-OUT",
            Self::Crash => "CRASH",
        })
    }
}

/// What a program gave.
#[derive(Clone, Debug)]
struct Outcome {
    name: String,
    verdict: Verdict,
    /// Why it did not pass; empty if it did.
    reason: String,
    /// How long it ran.
    took: Option<Duration>,
}

/// Reads the results of one VM.
#[derive(Debug, Default)]
struct Collector {
    outcomes: Vec<Outcome>,
    comments: Vec<String>,
    took: Option<Duration>,
    /// Why no program was run at all.
    refusal: Option<String>,
}

impl Collector {
    /// Reads one line of the VM. Results of programs are indented by one level.
    fn read(&mut self, line: &str) {
        let Some(text) = line.strip_prefix("  ") else {
            return;
        };
        if let Some(comment) = text.strip_prefix("# ") {
            match comment.strip_prefix("took ") {
                Some(took) => {
                    let seconds = took.trim_end_matches(" s").parse().ok();
                    self.took = seconds.map(Duration::from_secs_f32);
                }
                None if comment.starts_with("| ") => (),
                None => self.comments.push(comment.to_owned()),
            }
        } else if let Some(result) = ktap::parse_result(text) {
            self.result(&result);
        }
    }

    fn result(&mut self, result: &TestResult<'_>) {
        let reason = std::mem::take(&mut self.comments).join("; ");
        if result.name == PRECONDITIONS {
            self.refusal = Some(reason);
            return;
        }
        let (verdict, reason) = match result.skip_reason() {
            Some(why) => (Verdict::Skip, why.to_owned()),
            None if result.ok => (Verdict::Pass, String::new()),
            None if reason.starts_with("time-out: ") => (Verdict::TimeOut, reason),
            None => (Verdict::Fail, reason),
        };
        self.outcomes.push(Outcome {
            name: result.name.to_owned(),
            verdict,
            reason,
            took: self.took.take(),
        });
    }
}

/// What a column gave.
#[derive(Debug, Default)]
struct Column {
    /// One for each program, and those of the end of each VM.
    outcomes: Vec<Outcome>,
    /// What went wrong besides.
    trouble: Vec<String>,
}

impl Column {
    fn outcome(&self, name: &str) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.name == name)
    }

    /// The numbers of the programs by verdict, in words.
    fn sum(&self, names: &[String]) -> String {
        let count = |verdict: &Verdict| {
            let is_it = |name: &&String| {
                self.outcome(name)
                    .is_some_and(|outcome| outcome.verdict == *verdict)
            };
            names.iter().filter(is_it).count()
        };
        let counts = Verdict::ALL.iter().map(|verdict| (verdict, count(verdict)));
        let words: Vec<String> = counts
            .filter(|(_, count)| *count != 0)
            .map(|(verdict, count)| format!("{count} {verdict}"))
            .collect();
        words.join(", ")
    }
}

/// Runs `names` in as many VMs as it takes.
fn run_column(session: &Session<'_>, run: &Run, names: &[String], news: impl Fn(&str)) -> Column {
    let mut column = Column::default();
    let mut rest = names;
    while !rest.is_empty() {
        let mut collector = Collector::default();
        let choice = format!("eltwo.kvm_selftests={}", rest.join(","));
        let tally = session.run_with(run, &choice, |line| {
            let before = collector.outcomes.len();
            collector.read(line.text());
            if let Some(outcome) = collector.outcomes.get(before) {
                news(&outcome.name);
            }
        });
        let troubles = match tally {
            Ok(tally) => tally.failed,
            Err(error) => vec![format!("{error:#}")],
        };
        // Failures of programs are in the table already.
        let own = format!("{}/{}/", run.name, run.tests.join(","));
        let mut troubles = troubles
            .into_iter()
            .filter(|trouble| !trouble.starts_with(&own));
        if let Some(reason) = collector.refusal {
            let failed = |name: &String| Outcome {
                name: name.clone(),
                verdict: Verdict::Fail,
                reason: reason.clone(),
                took: None,
            };
            column.outcomes.extend(rest.iter().map(failed));
            break;
        }
        let done = collector.outcomes.len().min(rest.len());
        let dead = done < rest.len();
        column.outcomes.append(&mut collector.outcomes);
        if !dead {
            column.trouble.extend(troubles);
            break;
        }
        let reason = troubles.next().unwrap_or_else(|| "no result".to_owned());
        column.outcomes.push(Outcome {
            name: rest[done].clone(),
            verdict: Verdict::Crash,
            reason: reason.clone(),
            took: None,
        });
        column.trouble.push(format!("{}: {reason}", rest[done]));
        column.trouble.extend(console(&session.vm_dir(run.name)));
        // A VM that does not even begin does not begin the next time either.
        let begun = done != 0 || rest.len() < names.len();
        rest = if begun { &rest[done + 1..] } else { &[] };
    }
    column
}

/// The end of what a VM said.
fn console(dir: &Path) -> impl Iterator<Item = String> {
    let lines = cmd::tail(&dir.join("console.log"), 30);
    lines.into_iter().map(|line| format!("| {line}"))
}

/// Runs the programs `all` on both, prints the table, and returns whether eltwo does what the kernel's own KVM does, but
/// for the named exceptions. With `only`, these programs run and no others.
pub fn run(
    ui: &Ui,
    session: &Session<'_>,
    all: &[String],
    pair: &Pair,
    only: &[String],
) -> Result<bool> {
    if let Some(name) = only.iter().find(|name| !all.contains(name)) {
        return Err(anyhow!(
            "there is no program {name}; there are {}",
            all.join(", ")
        ));
    }
    let names = if only.is_empty() { all } else { only };
    let column = |run: &Run| {
        ui.busy(run.name, |step| {
            Ok(run_column(session, run, names, |name| step.news(name)))
        })
    };
    let (stock, eltwo) = thread::scope(|scope| {
        let stock = scope.spawn(|| column(&pair.stock));
        let eltwo = column(&pair.eltwo);
        let stock = stock
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the thread of the kernel's own KVM panicked")));
        (stock, eltwo)
    });
    Ok(print(ui, pair.stock.cpu, names, &stock?, &eltwo?))
}

/// Prints the table of the programs `names` on the CPU model `cpu`, and returns whether all is well.
fn print(ui: &Ui, cpu: &str, names: &[String], stock: &Column, eltwo: &Column) -> bool {
    let titles = ["the kernel's KVM", "eltwo"];
    let [left, right] = titles;
    let on = format!("on {cpu}");
    ui.line(format_args!("{on:NAME_WIDTH$} {left:CELL_WIDTH$} {right}"));
    let mut regressions = 0;
    for name in names {
        let row = Row::new(name, stock, eltwo);
        regressions += usize::from(row.is_regression());
        ui.line(row);
    }
    let unloads = eltwo
        .outcome(UNLOAD)
        .is_some_and(|outcome| outcome.verdict == Verdict::Pass);
    ui.line(format_args!(
        "{} programs. {left}: {}. {right}: {}.",
        names.len(),
        stock.sum(names),
        eltwo.sum(names)
    ));
    for (title, column) in titles.iter().zip([stock, eltwo]) {
        for line in &column.trouble {
            ui.line(format_args!("{title}: {line}"));
        }
    }
    if !unloads {
        ui.line("eltwo: it was not unloaded");
    }
    ui.line(format_args!(
        "{regressions} programs without a named exception do not give on eltwo what they give on the kernel's KVM"
    ));
    regressions == 0 && unloads && stock.trouble.is_empty() && eltwo.trouble.is_empty()
}

/// A row of the table.
struct Row<'a> {
    name: &'a str,
    stock: Option<&'a Outcome>,
    eltwo: Option<&'a Outcome>,
}

impl<'a> Row<'a> {
    fn new(name: &'a str, stock: &'a Column, eltwo: &'a Column) -> Self {
        Self {
            name,
            stock: stock.outcome(name),
            eltwo: eltwo.outcome(name),
        }
    }

    fn exception(&self) -> Option<&'static str> {
        let found = EXCEPTIONS.iter().find(|(name, _)| *name == self.name);
        found.map(|(_, reason)| *reason)
    }

    /// Whether the kernel's own KVM passes and eltwo does not.
    fn falls_short(&self) -> bool {
        let passes =
            |outcome: Option<&Outcome>| outcome.is_some_and(|one| one.verdict == Verdict::Pass);
        passes(self.stock) && !passes(self.eltwo)
    }

    fn is_regression(&self) -> bool {
        self.falls_short() && self.exception().is_none()
    }

    /// What there is to say about the row: the exception, and why a program did not pass.
    fn remark(&self) -> String {
        let reason = |outcome: Option<&Outcome>| {
            outcome.map_or_else(|| "not run".to_owned(), |outcome| outcome.reason.clone())
        };
        let (stock, eltwo) = (reason(self.stock), reason(self.eltwo));
        let text = match self.exception().filter(|_| self.falls_short()) {
            Some(exception) if eltwo.is_empty() => exception.to_owned(),
            Some(exception) => format!("{exception} ({eltwo})"),
            None if eltwo.is_empty() => stock,
            None => eltwo,
        };
        text.chars().take(REASON_LENGTH).collect()
    }
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |outcome: Option<&Outcome>| {
            let Some(Outcome { verdict, took, .. }) = outcome else {
                return "-".to_owned();
            };
            let took = took.map_or_else(String::new, |took| format!("{:.1} s", took.as_secs_f32()));
            format!("{verdict:8} {took:>8}")
        };
        let (stock, eltwo) = (cell(self.stock), cell(self.eltwo));
        let mark = if self.is_regression() { "!" } else { " " };
        let line = format!(
            "{:NAME_WIDTH$} {stock:CELL_WIDTH$} {eltwo:CELL_WIDTH$}{mark} {}",
            self.name,
            self.remark()
        );
        f.write_str(line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(text: &str) -> Column {
        let mut collector = Collector::default();
        text.lines().for_each(|line| collector.read(line));
        Column {
            outcomes: collector.outcomes,
            trouble: Vec::new(),
        }
    }

    const STOCK: &str = "1..1\n  1..4\n  # took 0.5 s\n  ok 1 a\n  ok 2 arm64/b\n  ok 3 irqfd_test\n  ok 4 c # SKIP no EL2\n\
                         ok 1 kvm_selftests\n";

    #[test]
    fn collector_reads_all_verdicts() {
        let column = column(
            "  # /dev/kvm is answered by eltwo\n  ok 1 a\n  # | noise\n  # took 2.0 s\n  # x.c:3: no: what\n  not ok 2 b\n\
             \x20 # time-out: no end after 9 s\n  not ok 3 c\n  ok 4 d # SKIP why\n",
        );
        let verdicts: Vec<_> = column
            .outcomes
            .iter()
            .map(|outcome| &outcome.verdict)
            .collect();
        assert_eq!(
            verdicts,
            [
                &Verdict::Pass,
                &Verdict::Fail,
                &Verdict::TimeOut,
                &Verdict::Skip
            ]
        );
        assert_eq!(column.outcomes[1].reason, "x.c:3: no: what");
        assert_eq!(column.outcomes[1].took, Some(Duration::from_secs(2)));
        assert_eq!(column.outcomes[3].reason, "why");
    }

    #[test]
    fn row_falls_short_unless_it_passes_or_is_an_exception() {
        let stock = column(STOCK);
        let eltwo =
            column("  # bad\n  not ok 1 a\n  ok 2 arm64/b\n  ok 3 irqfd_test # SKIP no GIC\n");
        let row = |name| Row::new(name, &stock, &eltwo);
        assert!(row("a").is_regression());
        assert!(row("a").to_string().ends_with("! bad"));
        assert!(!row("arm64/b").is_regression());
        assert!(!row("irqfd_test").is_regression());
        assert!(row("irqfd_test")
            .to_string()
            .contains("needs the in-kernel GIC (no GIC)"));
        assert!(
            !row("c").is_regression(),
            "the kernel's own KVM skips it too"
        );
    }

    #[test]
    fn collector_tells_why_nothing_ran() {
        let mut collector = Collector::default();
        let text = "  1..1\n  # eltwo makes no /dev/kvm\n  not ok 1 preconditions\n";
        text.lines().for_each(|line| collector.read(line));
        assert!(collector.outcomes.is_empty());
        assert_eq!(
            collector.refusal.as_deref(),
            Some("eltwo makes no /dev/kvm")
        );
    }

    #[test]
    fn row_without_result_on_eltwo_is_a_regression() {
        let (stock, nothing) = (column(STOCK), Column::default());
        assert!(Row::new("a", &stock, &nothing).is_regression());
        assert_eq!(
            stock.sum(&["a".to_owned(), "c".to_owned()]),
            "1 pass, 1 skip"
        );
    }
}
