// SPDX-License-Identifier: GPL-2.0-only

//! What the pages of a scene must be, and what the CPUs find there.

use super::{
    super::{
        Access,
        Cpu,
        Rule,
        Translation, //
    },
    scene::Scene,
    subject::{
        Step,
        Subject, //
    },
};
use crate::common::addr::Address;

impl<F: Subject> Scene<F> {
    pub(super) fn expect(&mut self, step: Step) {
        let part = |first: u64, pages: u64| first as usize..(first + pages) as usize;
        match step {
            Step::Map {
                first,
                pages,
                to,
                attr,
                ..
            }
            | Step::MapConcurrent {
                first,
                pages,
                to,
                attr,
                ..
            } => {
                for (page, place) in self.expected[part(first, pages)].iter_mut().enumerate() {
                    *place = Some((to + page as u64, attr));
                }
            }
            Step::Unmap { first, pages } => self.expected[part(first, pages)].fill(None),
            Step::Protect { first, pages, attr } => {
                for place in self.expected[part(first, pages)].iter_mut().flatten() {
                    place.1 = attr;
                }
            }
            Step::Split { .. } | Step::Merge { .. } => {}
        }
    }

    /// Whether `step` must succeed, by what the pages are.
    pub fn allows(&self, step: Step) -> bool {
        let part =
            |first: u64, pages: u64| &self.expected[first as usize..(first + pages) as usize];
        match step {
            Step::Map { first, pages, .. } => part(first, pages).iter().all(Option::is_none),
            Step::MapConcurrent {
                first,
                pages,
                to,
                attr,
                ..
            } => {
                let mut pages = (to..).zip(part(first, pages));
                pages.all(|(to, page)| page.is_none_or(|page| page == (to, attr)))
            }
            Step::Protect { first, pages, .. } => part(first, pages).iter().all(Option::is_some),
            Step::Unmap { .. } | Step::Split { .. } | Step::Merge { .. } => true,
        }
    }

    /// Checks that a step has left nothing stale, and what all CPUs find.
    pub fn check(&self) {
        self.settle();
        self.machine.with(|system| {
            if !system.violations().is_empty() {
                return;
            }
            for cpu in 0..self.cpus {
                if F::IS_GUEST && cpu == 0 {
                    continue;
                }
                self.check_cpu(&mut system.cpu(cpu));
            }
        });
    }

    /// Probes the ends of each run of pages.
    fn check_cpu(&self, cpu: &mut Cpu<'_>) {
        let follows = |page: usize| {
            let (before, here) = (self.expected[page - 1], self.expected[page]);
            match (before, here) {
                (Some((pa, attr)), Some(here)) => here == (pa + 1, attr),
                (None, None) => true,
                _ => false,
            }
        };
        let last = self.expected.len() - 1;
        for page in 0..=last {
            let inner = page != 0 && page != last && follows(page) && follows(page + 1);
            if inner {
                continue;
            }
            let address = self.range(page as u64, 1).first().raw();
            for access in [Access::Read, Access::Write, Access::Execute] {
                let found = if F::IS_GUEST {
                    cpu.probe_guest(address, access)
                } else {
                    cpu.probe(address, access)
                };
                // A violation is recorded in the system.
                let Ok(found) = found else { return };
                let wanted = self.wanted(page, access);
                if found != wanted {
                    cpu.report(
                        Rule::WrongTranslation,
                        std::format!("{access:?} of page {page}: {found:x?}"),
                    );
                    return;
                }
            }
        }
    }

    fn wanted(&self, page: usize, access: Access) -> Translation {
        let Some((to, attr)) = self.expected[page] else {
            return Translation::Fault;
        };
        let allowed = match access {
            Access::Read => true,
            Access::Write => attr == 0 || attr == 3,
            Access::Execute => attr == 2,
        };
        if !allowed {
            return Translation::Denied;
        }
        Translation::Mapped {
            pa: self.pa(to).raw(),
            cacheable: attr != 3,
            uncached: attr == 3,
        }
    }
}
