// SPDX-License-Identifier: GPL-2.0-only

//! Tests of the decisions that need no machine: the table of states, and the admission of a CPU. Orders of events, on one CPU
//! and on several, are the business of `selftests/lifecycle`.

use std::string::ToString;

use super::{
    admission::{
        compare,
        Chosen,
        Ids,
        Refusal, //
    },
    Event,
    Gate,
    State, //
};
use crate::common::{
    addr::Granule,
    regs::sctlr, //
};

const EVENTS: [Event; 8] = [
    Event::Begin,
    Event::Taken,
    Event::Refuse,
    Event::Fault,
    Event::Reset,
    Event::Nap,
    Event::Forget,
    Event::Lost,
];

#[test]
fn state_after_each_event_is_as_the_picture_says() {
    use State::{
        Asleep,
        Boot,
        Faulted,
        Hyp,
        Refused,
        Stub, //
    };
    let ways = [
        (Stub, Event::Begin, Boot),
        (Refused, Event::Begin, Boot),
        (Asleep, Event::Begin, Boot),
        (Boot, Event::Taken, Hyp),
        (Boot, Event::Refuse, Refused),
        (Boot, Event::Fault, Faulted),
        (Hyp, Event::Fault, Faulted),
        (Hyp, Event::Reset, Stub),
        (Hyp, Event::Lost, Stub),
        (Hyp, Event::Nap, Asleep),
        (Asleep, Event::Forget, Stub),
    ];
    for state in State::ALL {
        for event in EVENTS {
            let way = ways
                .iter()
                .find(|(from, by, _)| (*from, *by) == (state, event));
            assert_eq!(
                state.after(event),
                way.map(|(_, _, to)| *to),
                "{state:?} {event:?}"
            );
        }
    }
}

#[test]
fn state_numbers_are_read_back() {
    for state in State::ALL {
        assert_eq!(State::from_number(state as u32), Some(state));
    }
    assert_eq!(State::from_number(6), None);
}

#[test]
fn gate_after_a_fault_is_closed_failed_and_unsettled() {
    let gate = Gate::from_bits(Gate::FAULT.bits());
    assert!(gate.is_closed() && gate.has_failed() && gate.is_unsettled());
    assert!(Gate::CLOSED.is_closed() && !Gate::CLOSED.has_failed());
    assert!(!Gate::OPEN.is_closed() && !Gate::OPEN.has_failed() && !Gate::OPEN.is_unsettled());
}

/// 48 bits of PA, all granules at stage 1, LPA2 with 4K and 16K.
const MMFR0: u64 = 6 | (2 << 20) | (1 << 28);
/// 16-bit VMIDs.
const MMFR1: u64 = 2 << 4;
/// Four list registers.
const VTR: u64 = 0x9000_0003;

fn chosen(granule: Granule) -> Chosen {
    Chosen {
        granule,
        pa_size: 5,
        lpa2: false,
        lpa2_stage2: false,
        va_bits: 48,
        vmid_bits: 16,
        list_registers: Some(4),
    }
}

fn ids() -> Ids {
    Ids {
        mmfr0: MMFR0,
        mmfr1: MMFR1,
        mmfr2: 0,
        ich_vtr: Some(VTR),
        sctlr: 0,
    }
}

/// `edit` makes the CPU differ, and it is refused for `refusal`, by name.
fn refused(chosen: Chosen, edit: impl FnOnce(&mut Ids), refusal: Refusal, words: &str) {
    let mut differing = ids();
    assert_eq!(compare(&chosen, &differing), Ok(()));
    edit(&mut differing);
    assert_eq!(compare(&chosen, &differing), Err(refusal));
    let text = refusal.to_string();
    assert!(text.contains(words), "{text:?} does not say {words:?}");
}

#[test]
fn admission_of_a_cpu_that_has_more_passes() {
    let mut more = ids();
    more.mmfr0 = 6 | (2 << 20) | (1 << 28) | (3 << 32) | (2 << 36) | (3 << 40);
    more.ich_vtr = Some(15);
    for granule in Granule::ALL {
        assert_eq!(compare(&chosen(granule), &ids()), Ok(()));
        assert_eq!(compare(&chosen(granule), &more), Ok(()));
    }
}

#[test]
fn admission_with_fewer_pa_bits_is_refused() {
    let refusal = Refusal::PaRange {
        has: 44,
        chosen: 48,
    };
    refused(
        chosen(Granule::K4),
        |ids| ids.mmfr0 = (ids.mmfr0 & !0xf) | 4,
        refusal,
        "44 bits of physical address, the others 48; keep it offline",
    );
}

#[test]
fn admission_with_fewer_vmid_bits_is_refused() {
    let refusal = Refusal::VmidBits { has: 8, chosen: 16 };
    refused(
        chosen(Granule::K4),
        |ids| ids.mmfr1 = 0,
        refusal,
        "8 bits, those of the others 16",
    );
}

#[test]
fn admission_without_the_granule_is_refused_at_each_stage() {
    for (granule, shift, none, shift2) in [
        (Granule::K4, 28, 0xf, 40),
        (Granule::K16, 20, 0, 32),
        (Granule::K64, 24, 0xf, 36),
    ] {
        let kib = granule.size() / 1024;
        refused(
            chosen(granule),
            |ids| ids.mmfr0 = (ids.mmfr0 & !(0xf << shift)) | (none << shift),
            Refusal::Granule(granule),
            &format!("its EL2 has no pages of {kib} KiB"),
        );
        refused(
            chosen(granule),
            |ids| ids.mmfr0 |= 1 << shift2,
            Refusal::GranuleStage2(granule),
            &format!("its stage 2 has no pages of {kib} KiB"),
        );
    }
}

#[test]
fn admission_without_lpa2_is_refused_at_each_stage() {
    for (granule, shift, only, shift2) in [(Granule::K4, 28, 0, 40), (Granule::K16, 20, 1, 32)] {
        let wide = Chosen {
            lpa2: true,
            va_bits: 52,
            ..chosen(granule)
        };
        let wide2 = Chosen {
            lpa2_stage2: true,
            ..wide
        };
        refused(
            wide,
            |ids| ids.mmfr0 = (ids.mmfr0 & !(0xf << shift)) | (only << shift),
            Refusal::Lpa2,
            "its EL2 has no 52-bit descriptors",
        );
        refused(
            wide2,
            |ids| ids.mmfr0 |= 2 << shift2,
            Refusal::Lpa2Stage2,
            "its stage 2 has no 52-bit descriptors",
        );
    }
}

#[test]
fn admission_with_fewer_va_bits_is_refused() {
    let large = Chosen {
        va_bits: 52,
        ..chosen(Granule::K64)
    };
    let mut with = ids();
    with.mmfr2 = 1 << 16;
    assert_eq!(compare(&large, &with), Ok(()));
    let refusal = Refusal::VaBits {
        has: 48,
        chosen: 52,
    };
    assert_eq!(compare(&large, &ids()), Err(refusal));
    let text = refusal.to_string();
    assert!(text.contains("48 bits of virtual address, the others 52"));
}

#[test]
fn admission_with_fewer_list_registers_is_refused() {
    let refusal = |has| Refusal::ListRegisters { has, chosen: 4 };
    let words = "list registers, those of the others 4";
    let two = |ids: &mut Ids| ids.ich_vtr = Some(1);
    refused(chosen(Granule::K4), two, refusal(2), words);
    let none = |ids: &mut Ids| ids.ich_vtr = None;
    refused(chosen(Granule::K4), none, refusal(0), words);
}

#[test]
fn admission_with_el2_in_use_is_refused() {
    let all = chosen(Granule::K4);
    // Found before the rest is read, so not by `compare`.
    assert!(Refusal::E2h.to_string().contains("HCR_EL2.E2H=1"));
    let mmu = |ids: &mut Ids| ids.sctlr |= sctlr::M;
    refused(all, mmu, Refusal::MmuOn, "the MMU of its EL2 is on");
}
