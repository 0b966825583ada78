// SPDX-License-Identifier: GPL-2.0-only

//! Pairs for stage 2: VMIDs, the order of the two stages, and what must be done before registers of EL1 change.

use std::sync::atomic::{
    AtomicBool,
    Ordering, //
};

use super::{
    super::{
        Domain,
        El,
        Injector,
        Instruction,
        Kind,
        Reg,
        Rule,
        Tlbi, //
    },
    broken,
    rules::{
        as_it_is,
        is_tlbi,
        outcome,
        replace,
        without, //
    },
    scene::{
        Scene,
        HOST_TCR,
        VMID, //
    },
    subject::{
        Shape,
        Step, //
    },
};
use crate::common::{
    addr::Granule,
    pgtable::{
        Blocks,
        Stage2, //
    },
};

const SHAPE: Shape = (Granule::K4, 39, 40, false);
const BLOCK: u64 = 512;
const DSB_ISH: Instruction = Instruction::Dsb(Domain::Ish, Kind::Full);
const PAGES: Step = Step::Map {
    first: 0,
    pages: 4,
    to: 8 * BLOCK,
    attr: 0,
    blocks: Blocks::PagesOnly,
};
const UNMAP_ONE: Step = Step::Unmap { first: 1, pages: 1 };
const UNMAP_ALL: Step = Step::Unmap { first: 0, pages: 4 };
const HCR_VM: u64 = 1;
const HCR_FWB: u64 = 1 << 46;

fn unmap(edit: impl Fn(Instruction) -> Vec<Instruction> + Send + Sync + 'static) -> Vec<Rule> {
    outcome::<Stage2>(&[PAGES], UNMAP_ONE, edit)
}

fn is_ipas2(instruction: Instruction) -> bool {
    matches!(
        instruction,
        Instruction::Tlbi(Tlbi::Ipas2e1 { .. } | Tlbi::Ipas2le1 { .. })
    )
}

fn is_vmalle1(instruction: Instruction) -> bool {
    matches!(instruction, Instruction::Tlbi(Tlbi::Vmalle1 { .. }))
}

fn is_vttbr(instruction: Instruction) -> bool {
    matches!(instruction, Instruction::Msr(Reg::VttbrEl2, _))
}

#[test]
fn stage2_unmap_good_sequence_passes() {
    assert_eq!(unmap(as_it_is), []);
}

#[test]
fn stage2_unmap_bad_without_ipas2_is_caught() {
    assert_eq!(unmap(replace(is_ipas2, None)), [Rule::StaleTranslation]);
}

#[test]
fn stage2_unmap_bad_without_vmalle1_is_caught() {
    assert_eq!(unmap(replace(is_vmalle1, None)), [Rule::StaleTranslation]);
}

#[test]
fn stage2_unmap_bad_vmalle1_before_ipas2_is_caught() {
    // Exchanges the two.
    let edit = |instruction| {
        let operand = ((1 << 38) | 0x1000) >> 12;
        let is = true;
        if is_ipas2(instruction) {
            vec![Instruction::Tlbi(Tlbi::Vmalle1 { is })]
        } else if is_vmalle1(instruction) {
            vec![Instruction::Tlbi(Tlbi::Ipas2le1 { operand, is })]
        } else {
            vec![instruction]
        }
    };
    assert_eq!(unmap(edit), [Rule::StaleTranslation]);
}

#[test]
fn stage2_unmap_bad_vmalle1_before_ipas2_is_complete_is_caught() {
    // The DSB between the two comes late.
    let edit = |instruction| {
        if is_vmalle1(instruction) || instruction == DSB_ISH {
            return vec![];
        }
        if is_ipas2(instruction) {
            let both = Instruction::Tlbi(Tlbi::Vmalle1 { is: true });
            return vec![instruction, both, DSB_ISH];
        }
        match instruction {
            // The store must be visible before.
            Instruction::Msr(Reg::VttbrEl2, value) if value != 0 => vec![DSB_ISH, instruction],
            other => vec![other],
        }
    };
    assert_eq!(unmap(edit), [Rule::StaleTranslation]);
}

#[test]
fn stage2_unmap_good_vmalls12e1_alone_passes() {
    let edit = |instruction| {
        if is_vmalle1(instruction) {
            vec![]
        } else if is_ipas2(instruction) {
            vec![Instruction::Tlbi(Tlbi::Vmalls12e1 { is: true })]
        } else {
            vec![instruction]
        }
    };
    assert_eq!(unmap(edit), []);
}

#[test]
fn stage2_unmap_bad_under_the_hosts_vmid_is_caught() {
    assert_eq!(unmap(replace(is_vttbr, None)), [Rule::StaleTranslation]);
}

#[test]
fn stage2_unmap_bad_without_isb_behind_the_vmid_is_caught() {
    // The first of the sequence.
    let seen = AtomicBool::new(false);
    let edit = move |instruction| match instruction {
        Instruction::Isb if !seen.swap(true, Ordering::Relaxed) => vec![],
        other => vec![other],
    };
    assert_eq!(unmap(edit)[0], Rule::StaleTranslation);
}

#[test]
fn stage2_unmap_bad_without_isb_behind_the_hosts_vmid_is_caught() {
    assert!(unmap(without(Instruction::Isb)).contains(&Rule::Unsynchronised));
}

#[test]
fn stage2_unmap_bad_host_left_under_the_guests_vmid_is_caught() {
    let edit = |instruction| match instruction {
        Instruction::Msr(Reg::VttbrEl2, 0) => vec![],
        other => vec![other],
    };
    assert_eq!(unmap(edit), [Rule::WrongVmid]);
}

#[test]
fn stage2_unmap_bad_local_tlbis_are_caught() {
    let edit = |instruction| match instruction {
        Instruction::Tlbi(tlbi) => vec![Instruction::Tlbi(tlbi.local())],
        other => vec![other],
    };
    assert_eq!(unmap(edit), [Rule::StaleTranslation]);
}

#[test]
fn stage2_unmap_bad_el2_tlbi_is_caught() {
    let alle2 = Instruction::Tlbi(Tlbi::Alle2 { is: true });
    assert_eq!(
        unmap(replace(is_tlbi, Some(alle2))),
        [Rule::StaleTranslation]
    );
}

#[test]
fn stage2_unlink_good_ipas2e1_passes() {
    assert_eq!(outcome::<Stage2>(&[PAGES], UNMAP_ALL, as_it_is), []);
}

#[test]
fn stage2_unlink_bad_ipas2le1_for_a_table_is_caught() {
    let edit = |instruction| match instruction {
        Instruction::Tlbi(Tlbi::Ipas2e1 { operand, is }) => {
            vec![Instruction::Tlbi(Tlbi::Ipas2le1 { operand, is })]
        }
        other => vec![other],
    };
    let rules = outcome::<Stage2>(&[PAGES], UNMAP_ALL, edit);
    assert_eq!(rules[0], Rule::FreedTable);
}

#[test]
fn stage2_publish_good_dsb_passes() {
    assert_eq!(outcome::<Stage2>(&[], PAGES, as_it_is), []);
}

#[test]
fn stage2_publish_bad_without_dsb_is_caught() {
    let dsb = Instruction::Dsb(Domain::Ish, Kind::Stores);
    assert_eq!(
        outcome::<Stage2>(&[], PAGES, without(dsb)),
        [Rule::StaleTranslation]
    );
}

/// Unmaps for a guest on CPUs where walks can begin at any time.
fn unmap_under_erratum(
    host_tcr: Option<u64>,
    edit: impl Fn(Instruction) -> Vec<Instruction> + Send + Sync + 'static,
) -> Vec<Rule> {
    let mut scene = Scene::<Stage2>::new(SHAPE, 2, BLOCK);
    scene.step(PAGES).unwrap();
    scene.machine.with(|system| system.walks_speculatively());
    scene.host_tcr = host_tcr;
    let injector = Injector::editing(move |_, instruction| edit(instruction));
    let _ = scene.step_with(UNMAP_ONE, &injector);
    scene.check();
    broken(&scene.machine)
}

#[test]
fn speculative_at_good_walks_kept_off_passes() {
    assert_eq!(unmap_under_erratum(Some(HOST_TCR), as_it_is), []);
}

#[test]
fn speculative_at_bad_walks_not_kept_off_is_caught() {
    let rules = unmap_under_erratum(None, as_it_is);
    assert_eq!(rules.first(), Some(&Rule::MixedVmid));
}

#[test]
fn speculative_at_bad_without_isb_is_caught() {
    let rules = unmap_under_erratum(Some(HOST_TCR), without(Instruction::Isb));
    assert_eq!(rules.first(), Some(&Rule::MixedVmid));
}

#[test]
fn speculative_at_bad_host_without_its_tcr_is_caught() {
    let restore = Instruction::Msr(Reg::TcrEl1, HOST_TCR);
    let rules = unmap_under_erratum(Some(HOST_TCR), without(restore));
    assert_eq!(rules.first(), Some(&Rule::LostRegister));
}

/// Changes VTTBR_EL2 after a trap from the guest.
fn trap_and_switch(dsb: Option<(Domain, Kind)>) -> Vec<Rule> {
    let scene = Scene::<Stage2>::new(SHAPE, 2, BLOCK);
    scene.machine.with(|system| {
        let mut cpu = system.cpu(1);
        cpu.exception().unwrap();
        if let Some((domain, kind)) = dsb {
            cpu.dsb(domain, kind).unwrap();
        }
        let _ = cpu.msr(Reg::VttbrEl2, 0);
    });
    broken(&scene.machine)
}

#[test]
fn regime_switch_good_after_dsb_nsh_passes() {
    assert_eq!(trap_and_switch(Some((Domain::Nsh, Kind::Full))), []);
}

#[test]
fn regime_switch_bad_while_walks_are_on_their_way_is_caught() {
    assert_eq!(trap_and_switch(None), [Rule::WalkInProgress]);
    let stores = Some((Domain::Ish, Kind::Stores));
    assert_eq!(trap_and_switch(stores), [Rule::WalkInProgress]);
}

/// CPU1 changes a register of a guest whose entries are in its TLB, and runs it again.
fn rerun(reg: Reg, value: u64, tlbi: Option<Tlbi>) -> Vec<Rule> {
    let mut scene = Scene::<Stage2>::new(SHAPE, 2, BLOCK);
    scene.step(PAGES).unwrap();
    scene.machine.with(|system| {
        let mut cpu = system.cpu(1);
        cpu.exception().unwrap();
        cpu.dsb(Domain::Nsh, Kind::Full).unwrap();
        if let Some(tlbi) = tlbi {
            cpu.tlbi(tlbi).unwrap();
            cpu.dsb(Domain::Ish, Kind::Full).unwrap();
        }
        let _ = cpu.msr(reg, value);
        let _ = cpu.eret(El::Guest);
    });
    broken(&scene.machine)
}

#[test]
fn fwb_good_change_after_vmalls12e1_passes() {
    let tlbi = Tlbi::Vmalls12e1 { is: true };
    assert_eq!(rerun(Reg::HcrEl2, HCR_VM | HCR_FWB, Some(tlbi)), []);
}

#[test]
fn fwb_bad_change_without_tlbi_is_caught() {
    let rules = rerun(Reg::HcrEl2, HCR_VM | HCR_FWB, None);
    assert_eq!(rules, [Rule::TlbConflict]);
}

/// CPU1 goes from one guest to another that has different tables, under `vmid`.
fn reuse(vmid: u16, tlbi: Option<Tlbi>) -> Vec<Rule> {
    let mut scene = Scene::<Stage2>::new(SHAPE, 2, BLOCK);
    scene.step(PAGES).unwrap();
    let other = 0x8000_0000;
    let block = |index: u64| (index << 30) | 0x7fd;
    scene.machine.with(|system| {
        for page in 0..2u64 {
            system
                .write_host(0, other + page * 4096, &[0; 4096])
                .unwrap();
        }
        let index = 1 << (38 - 30);
        system
            .write_host(0, other + index * 8, &block(9).to_le_bytes())
            .unwrap();
        system.cpu(0).dsb(Domain::Ish, Kind::Stores).unwrap();
    });
    rerun_on(&scene, other | (u64::from(vmid) << 48), tlbi)
}

fn rerun_on(scene: &Scene<Stage2>, vttbr: u64, tlbi: Option<Tlbi>) -> Vec<Rule> {
    scene.machine.with(|system| {
        let mut cpu = system.cpu(1);
        cpu.exception().unwrap();
        cpu.dsb(Domain::Nsh, Kind::Full).unwrap();
        if let Some(tlbi) = tlbi {
            cpu.tlbi(tlbi).unwrap();
            cpu.dsb(Domain::Ish, Kind::Full).unwrap();
        }
        let _ = cpu.msr(Reg::VttbrEl2, vttbr);
        let _ = cpu.eret(El::Guest);
    });
    broken(&scene.machine)
}

#[test]
fn vmid_good_another_one_needs_no_tlbi_passes() {
    assert_eq!(reuse(VMID + 1, None), []);
}

#[test]
fn vmid_good_reused_after_vmalls12e1_or_alle1_passes() {
    assert_eq!(reuse(VMID, Some(Tlbi::Vmalls12e1 { is: true })), []);
    assert_eq!(reuse(VMID, Some(Tlbi::Alle1 { is: true })), []);
}

#[test]
fn vmid_bad_reused_without_tlbi_is_caught() {
    assert_eq!(reuse(VMID, None), [Rule::TlbConflict]);
}

#[test]
fn vmid_bad_reused_after_vmalle1_is_caught() {
    assert_eq!(
        reuse(VMID, Some(Tlbi::Vmalle1 { is: true })),
        [Rule::TlbConflict]
    );
}
