// SPDX-License-Identifier: GPL-2.0-only

//! Pairs for the caches: what is read with the MMU off, what is written with it off, and what is executed.

use super::super::{
    Checked,
    Clean,
    Cpu,
    Domain,
    Kind,
    Rule,
    System, //
};

/// A line that the host writes.
const PA: u64 = 0x8000_0000;

/// Runs `scene` on CPU0 and returns the rule that it breaks.
fn rule<R>(scene: impl FnOnce(&mut Cpu<'_>) -> Checked<R>) -> Option<Rule> {
    let mut system = System::new(2);
    scene(&mut system.cpu(0))
        .map(|_| ())
        .map_err(|violation| violation.rule)
        .err()
}

/// The host writes a line, cleans it with `clean` and `dsb`, and reads it at EL2 with the MMU off.
fn read_with_mmu_off(clean: Option<Clean>, dsb: Option<(Domain, Kind)>) -> Option<Rule> {
    rule(|cpu| {
        cpu.store64(PA, 5)?;
        if let Some(clean) = clean {
            cpu.dc(clean, PA)?;
        }
        if let Some((domain, kind)) = dsb {
            cpu.dsb(domain, kind)?;
        }
        cpu.hvc()?;
        assert_eq!(cpu.load64(PA)?, 5);
        Ok(())
    })
}

const DSB_SY: Option<(Domain, Kind)> = Some((Domain::Sy, Kind::Full));

#[test]
fn mmu_off_read_good_after_dc_civac_and_dsb_sy_passes() {
    assert_eq!(read_with_mmu_off(Some(Clean::AndInvalidate), DSB_SY), None);
    assert_eq!(read_with_mmu_off(Some(Clean::ToPoc), DSB_SY), None);
}

#[test]
fn mmu_off_read_bad_of_an_uncleaned_line_is_caught() {
    let caught = Some(Rule::UncleanedRead);
    assert_eq!(read_with_mmu_off(None, None), caught);
    // A barrier is no clean.
    assert_eq!(read_with_mmu_off(None, DSB_SY), caught);
}

#[test]
fn mmu_off_read_bad_clean_to_the_pou_is_caught() {
    let caught = Some(Rule::UncleanedRead);
    assert_eq!(read_with_mmu_off(Some(Clean::ToPou), DSB_SY), caught);
}

#[test]
fn mmu_off_read_bad_without_dsb_is_caught() {
    let caught = Some(Rule::UncleanedRead);
    assert_eq!(read_with_mmu_off(Some(Clean::AndInvalidate), None), caught);
}

#[test]
fn mmu_off_read_bad_weak_dsb_is_caught() {
    let caught = Some(Rule::UncleanedRead);
    for weak in [(Domain::Ish, Kind::Full), (Domain::Sy, Kind::Stores)] {
        let clean = Some(Clean::AndInvalidate);
        assert_eq!(read_with_mmu_off(clean, Some(weak)), caught, "{weak:?}");
    }
}

#[test]
fn mmu_off_read_bad_store_after_the_clean_is_caught() {
    let found = rule(|cpu| {
        cpu.store64(PA, 5)?;
        cpu.dc_civac(PA)?;
        // Another word of the line.
        cpu.store64(PA + 8, 6)?;
        cpu.dsb(Domain::Sy, Kind::Full)?;
        cpu.hvc()?;
        cpu.load64(PA)
    });
    assert_eq!(found, Some(Rule::UncleanedRead));
}

/// EL2 stores with the MMU off to memory that is clean, or not; the host reads it, after DC CIVAC or not.
fn store_with_mmu_off(clean: bool, invalidate: bool) -> Option<Rule> {
    rule(|cpu| {
        cpu.store64(PA, 5)?;
        if clean {
            cpu.dc_civac(PA)?;
            cpu.dsb(Domain::Sy, Kind::Full)?;
        }
        cpu.hvc()?;
        cpu.store64(PA, 6)?;
        cpu.eret(super::super::El::Host)?;
        if invalidate {
            cpu.dc_civac(PA)?;
            cpu.dsb(Domain::Sy, Kind::Full)?;
        }
        assert_eq!(cpu.load64(PA)?, 6);
        Ok(())
    })
}

#[test]
fn mmu_off_store_good_invalidated_before_it_is_read_passes() {
    assert_eq!(store_with_mmu_off(true, true), None);
}

#[test]
fn mmu_off_store_bad_hidden_by_a_cached_line_is_caught() {
    assert_eq!(store_with_mmu_off(true, false), Some(Rule::HiddenStore));
}

#[test]
fn mmu_off_store_bad_undone_by_a_dirty_line_is_caught() {
    assert_eq!(store_with_mmu_off(false, true), Some(Rule::HiddenStore));
}

/// What makes a page of text: `None` leaves a step out.
struct Text {
    clean: bool,
    dsb_of_clean: bool,
    flush: Option<bool>,
    dsb_of_flush: bool,
    isb: bool,
}

const GOOD: Text = Text {
    clean: true,
    dsb_of_clean: true,
    flush: Some(true),
    dsb_of_flush: true,
    isb: true,
};

/// CPU0 writes text; `cpu` executes it through its caches, with the MMU off and I = 1.
fn execute(text: &Text, number: usize) -> Option<Rule> {
    use super::super::Reg;
    let mut system = System::new(2);
    let write = |cpu: &mut Cpu<'_>| -> Checked<()> {
        cpu.store(PA, 4, 0xd503_201f)?;
        if text.clean {
            cpu.dc_civac(PA)?;
        }
        if text.dsb_of_clean {
            cpu.dsb(Domain::Sy, Kind::Full)?;
        }
        match text.flush {
            Some(true) => cpu.ic_ialluis()?,
            Some(false) => cpu.ic_iallu()?,
            None => {}
        }
        if text.dsb_of_flush {
            cpu.dsb(Domain::Ish, Kind::Full)?;
        }
        if text.isb {
            cpu.isb()?;
        }
        Ok(())
    };
    write(&mut system.cpu(0)).unwrap();
    let mut cpu = system.cpu(number);
    let sctlr = cpu.mrs(Reg::SctlrEl2);
    cpu.preset(Reg::SctlrEl2, sctlr | (1 << 12)).unwrap();
    // The exception would be the ISB on CPU0.
    cpu.system.cpus[number].el = super::super::El::Hyp;
    match cpu.fetch(PA) {
        Ok(fetched) => {
            assert_eq!((fetched.word, fetched.pa), (0xd503_201f, PA));
            None
        }
        Err(violation) => Some(violation.rule),
    }
}

#[test]
fn text_good_clean_and_flush_passes() {
    assert_eq!(execute(&GOOD, 0), None);
    assert_eq!(execute(&GOOD, 1), None);
}

#[test]
fn text_bad_without_clean_is_caught() {
    let bad = Text {
        clean: false,
        ..GOOD
    };
    assert_eq!(execute(&bad, 0), Some(Rule::StaleInstruction));
}

#[test]
fn text_bad_without_dsb_between_clean_and_flush_is_caught() {
    let bad = Text {
        dsb_of_clean: false,
        ..GOOD
    };
    assert_eq!(execute(&bad, 0), Some(Rule::StaleInstruction));
}

#[test]
fn text_bad_without_flush_is_caught() {
    let bad = Text {
        flush: None,
        ..GOOD
    };
    assert_eq!(execute(&bad, 0), Some(Rule::StaleInstruction));
}

#[test]
fn text_bad_without_dsb_after_the_flush_is_caught() {
    let bad = Text {
        dsb_of_flush: false,
        ..GOOD
    };
    assert_eq!(execute(&bad, 0), Some(Rule::StaleInstruction));
}

#[test]
fn text_bad_without_isb_is_caught() {
    let bad = Text { isb: false, ..GOOD };
    assert_eq!(execute(&bad, 0), Some(Rule::StaleInstruction));
}

#[test]
fn text_bad_local_flush_for_another_cpu_is_caught() {
    let local = Text {
        flush: Some(false),
        ..GOOD
    };
    assert_eq!(execute(&local, 0), None);
    assert_eq!(execute(&local, 1), Some(Rule::StaleInstruction));
}

#[test]
fn unknown_memory_bad_read_is_caught() {
    assert_eq!(rule(|cpu| cpu.load64(PA)), Some(Rule::UnknownMemory));
}
