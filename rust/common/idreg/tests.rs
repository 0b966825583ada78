// SPDX-License-Identifier: GPL-2.0-only

//! The table of ID registers, and what becomes of their fields.

use super::{
    table,
    *, //
};

#[test]
fn registers_are_described_once_and_fields_do_not_overlap() {
    for (place, register) in table::all().iter().enumerate() {
        let again = table::all()
            .iter()
            .skip(place + 1)
            .any(|other| other.encoding == register.encoding);
        assert!(!again, "{:?}", register.encoding);
        let mut seen = 0;
        for field in register.fields {
            assert_eq!(seen & field.mask(), 0, "{:?} {field:?}", register.encoding);
            seen |= field.mask();
        }
    }
}

#[test]
fn index_covers_the_range_and_nothing_else() {
    assert_eq!(index(FIRST), Some(0));
    assert_eq!(index(Encoding::new(3, 0, 0, 7, 7)), Some(COUNT - 1));
    assert_eq!(index(MIDR), None);
    assert_eq!(index(CTR), None);
    for place in 0..COUNT {
        assert_eq!(index(at(place).unwrap()), Some(place));
    }
    assert_eq!(at(COUNT), None);
}

#[test]
fn lower_field_may_go_down_but_not_up() {
    // ID_AA64ISAR0_EL1.ATOMIC.
    let register = find(Encoding::new(3, 0, 0, 6, 0)).unwrap();
    let limit = 0x2 << 20;
    assert!(register.accepts(0, limit));
    assert!(register.accepts(1 << 20, limit));
    assert!(register.accepts(limit, limit));
    assert!(!register.accepts(3 << 20, limit));
}

#[test]
fn signed_field_counts_all_ones_as_less_than_zero() {
    // ID_AA64MMFR0_EL1.TGRAN4: 0xf says that there are no such pages, 1 is 52 bits.
    let register = find(Encoding::new(3, 0, 0, 7, 0)).unwrap();
    let tgran4 = |value: u64| value << 28;
    assert!(register.accepts(tgran4(0xf), tgran4(0)));
    assert!(register.accepts(tgran4(0), tgran4(1)));
    assert!(!register.accepts(tgran4(0), tgran4(0xf)));
}

#[test]
fn exact_field_takes_the_limit_or_the_safe_value() {
    // ID_AA64MMFR0_EL1.TGRAN4_2: safe is 1.
    let register = find(Encoding::new(3, 0, 0, 7, 0)).unwrap();
    let tgran4_2 = |value: u64| value << 40;
    assert!(register.accepts(tgran4_2(1), tgran4_2(2)));
    assert!(register.accepts(tgran4_2(2), tgran4_2(2)));
    assert!(!register.accepts(tgran4_2(0), tgran4_2(2)));
}

#[test]
fn higher_field_may_go_up_only() {
    // ID_AA64MMFR1_EL1.SpecSEI.
    let register = find(Encoding::new(3, 0, 0, 7, 1)).unwrap();
    assert!(register.accepts(1 << 24, 0));
    assert!(!register.accepts(0, 1 << 24));
}

#[test]
fn granules_of_ctr_may_be_larger_or_untold() {
    let field = Field {
        shift: 24,
        width: 4,
        signed: false,
        rule: Rule::HigherOrZero,
    };
    let cwg = |value: u64| value << 24;
    assert!(field.is_safe(cwg(5), cwg(4)));
    assert!(field.is_safe(0, cwg(4)));
    assert!(!field.is_safe(cwg(3), cwg(4)));
    assert!(!field.is_safe(cwg(3), 0));
}

#[test]
fn bits_that_are_not_writable_must_stay() {
    // ID_AA64PFR0_EL1: FP (19:16) is not writable, nor is a bit that is in no field.
    let register = find(AA64PFR0).unwrap();
    let limit = 0x11_0022;
    assert!(register.accepts(limit, limit));
    assert!(!register.accepts(limit & !(0xf << 16), limit));
    let register = find(Encoding::new(3, 0, 0, 6, 3)).unwrap();
    assert!(!register.accepts(1 << 40, 0));
}

#[test]
fn limit_takes_away_what_no_guest_has() {
    let all = u64::MAX;
    let pfr0 = limit(AA64PFR0, all);
    // EL0..EL3, FP, AdvSIMD, RAS stay; GIC, SVE, MPAM, AMU go; CSV2 and CSV3 are 1.
    assert_eq!(pfr0, 0x11ff_00f0_f0ff_ffff);
    assert_eq!(limit(AA64MMFR3, all), 0);
    let dfr0 = limit(AA64DFR0, all);
    assert_eq!(field(dfr0, 0), 0xa);
    assert_eq!(field(dfr0, 8), 0);
    assert_eq!(field(dfr0, 12), 0xf);
    // What is below the limit already stays.
    assert_eq!(limit(AA64DFR0, 0x1_0000_0056), 0x6);
    let isar0 = Encoding::new(3, 0, 0, 6, 0);
    assert_eq!(limit(isar0, 0x1234), 0x1234);
}

#[test]
fn limit_is_accepted_by_its_own_register() {
    for register in table::all() {
        for host in [0, u64::MAX, 0x1111_1111_1111_1111] {
            let limit = limit(register.encoding, host);
            assert!(register.accepts(limit, limit));
        }
    }
}

#[test]
fn adjusted_refuses_what_no_guest_can_be() {
    assert_eq!(adjusted(AA64DFR0, 0x5, 0), None);
    assert_eq!(adjusted(AA64DFR0, 0xf06, 0), Some(0x6));
    assert_eq!(adjusted(DFR0, 0x0100_0006, 0), None);
    assert_eq!(adjusted(DFR0, 0x0f00_0006, 0), Some(6));
    assert_eq!(adjusted(AA64PFR0, 0x10, 0), None);
    assert_eq!(adjusted(CTR, 0x4000, 0), None);
    assert_eq!(adjusted(CTR, 0x8000, 0), Some(0x8000));
}

#[test]
fn adjusted_forgives_what_older_kernels_told() {
    let mpam = 1 << 40;
    assert_eq!(adjusted(AA64PFR0, mpam | 0x11, mpam), Some(0x11));
    assert_eq!(adjusted(AA64PFR0, mpam | 0x11, 0), Some(mpam | 0x11));
}

#[test]
fn clidr_goes_with_ctr() {
    const IDC: u64 = 1 << 28;
    const DIC: u64 = 1 << 29;
    for ctr in [0, IDC, DIC, IDC | DIC] {
        assert!(clidr_accepts(clidr(ctr), ctr), "{ctr:#x}");
    }
    // Separate caches, LoUIS = LoC = LoUU = 1.
    assert_eq!(clidr(0), 0x0920_0003);
    // An instruction cache in front of a unified one, LoC = 2.
    assert_eq!(clidr(IDC), 0x0200_0021);
    assert_eq!(clidr(IDC | DIC), 0x0100_0004);
    assert!(!clidr_accepts(0, 0));
    assert!(!clidr_accepts((1 << 63) | clidr(0), 0));
}

#[test]
fn ccsidr_has_the_line_of_the_cache_that_csselr_selects() {
    // DminLine = 16 words, IminLine = 8 words.
    let ctr = (4 << 16) | 3;
    assert_eq!(ccsidr(ctr, 0), 2);
    assert_eq!(ccsidr(ctr, 1), 1);
    assert!(ccsidr_accepts(2, ctr, 0));
    assert!(!ccsidr_accepts(1, ctr, 0));
    assert!(ccsidr_accepts(1, ctr, 1));
}
