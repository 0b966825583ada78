// SPDX-License-Identifier: GPL-2.0-only

//! Who owns EL2 of each CPU when the kernel goes down: the test module `eltwo_hooks` says so on the console, after eltwo's turn.

/// What stands before the number of a CPU and its owner.
const PREFIX: &str = "eltwo_hooks: shutdown: CPU";

/// The owner that every CPU must have.
const STUB: &str = "stub";

/// What is said of a CPU that is not online: there is nobody to ask.
const OFFLINE: &str = "offline";

/// All that was said, as (CPU, owner).
#[derive(Debug, Default)]
pub struct Owners(Vec<(u32, String)>);

impl Owners {
    /// Reads a line of the console.
    pub fn read(&mut self, line: &str) {
        let said = line
            .split_once(PREFIX)
            .and_then(|(_, rest)| rest.trim().split_once(' '));
        if let Some((cpu, owner)) = said {
            if let Ok(cpu) = cpu.parse() {
                self.0.push((cpu, owner.to_owned()));
            }
        }
    }

    /// What is wrong with what was said. With `due` each of so many CPUs must have been found at the stub, once.
    pub fn wrong(&self, due: Option<u32>) -> Option<String> {
        let allowed: &[&str] = match due {
            Some(_) => &[STUB],
            None => &[STUB, OFFLINE],
        };
        let others = self
            .0
            .iter()
            .filter(|(_, owner)| !allowed.contains(&owner.as_str()));
        let others: Vec<_> = others
            .map(|(cpu, owner)| format!("CPU{cpu} {owner}"))
            .collect();
        if !others.is_empty() {
            return Some(format!(
                "EL2 was not the stub's when the kernel went down: {}; see the module's syscore operation `shutdown`",
                others.join(", ")
            ));
        }
        let times = |cpu: u32| self.0.iter().filter(|said| said.0 == cpu).count();
        let odd: Vec<_> = (0..due?)
            .filter(|cpu| times(*cpu) != 1)
            .map(|cpu| format!("CPU{cpu} {} times", times(cpu)))
            .collect();
        (!odd.is_empty()).then(|| {
            format!(
                "the owner of EL2 was to be named once for each CPU when the kernel went down, and was: {}; see whether the \
                 test loads eltwo_hooks and whether console.log has the lines \"{PREFIX}...\"",
                odd.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(owners: &[&str]) -> Owners {
        let mut all = Owners::default();
        all.read("[    1.0] eltwo: loaded");
        for (cpu, owner) in owners.iter().enumerate() {
            all.read(&format!("[    2.0][    T1] {PREFIX}{cpu} {owner}"));
        }
        all.read("[    3.0] reboot: Restarting system");
        all
    }

    #[test]
    fn every_cpu_at_the_stub_is_right() {
        assert_eq!(owners(&["stub", "stub"]).wrong(Some(2)), None);
    }

    #[test]
    fn another_owner_is_named_in_every_run() {
        for due in [None, Some(2)] {
            let wrong = owners(&["stub", "eltwo"]).wrong(due).unwrap();
            assert!(wrong.contains("went down: CPU1 eltwo;"), "{wrong}");
        }
    }

    #[test]
    fn silence_is_wrong_only_where_it_is_due() {
        assert_eq!(owners(&[]).wrong(None), None);
        assert!(owners(&[]).wrong(Some(1)).is_some());
    }

    #[test]
    fn cpu_that_is_missing_or_offline_is_wrong_where_it_is_due() {
        let wrong = owners(&["stub"]).wrong(Some(2)).unwrap();
        assert!(wrong.contains("and was: CPU1 0 times;"), "{wrong}");
        let offline = owners(&["stub", "offline"]);
        assert!(offline.wrong(Some(2)).is_some());
        assert_eq!(offline.wrong(None), None);
    }

    #[test]
    fn cpu_that_is_named_twice_is_wrong() {
        let mut twice = owners(&["stub"]);
        twice.read(&format!("{PREFIX}0 stub"));
        assert!(twice.wrong(Some(1)).is_some());
    }
}
