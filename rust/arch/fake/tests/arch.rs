// SPDX-License-Identifier: GPL-2.0-only

//! The model executes what `rust/arch/el2.rs` and `rust/arch/debug.rs` execute.

use super::super::{
    debug_instruction,
    instruction, //
};
use crate::common::{
    hwdebug::{
        self,
        Bank, //
    },
    pgtable::tlb::{
        Op,
        Tlbi, //
    },
};

const EL2: &str = include_str!("../../el2.rs");
const DEBUG: &str = include_str!("../../debug.rs");

const OPS: [Op; 14] = [
    Op::DsbIshst,
    Op::DsbIsh,
    Op::Isb,
    Op::WriteVttbr(0),
    Op::WriteVtcr(0),
    Op::WriteTcrEl1(0),
    Op::Tlbi(Tlbi::Vae2is(0)),
    Op::Tlbi(Tlbi::Vale2is(0)),
    Op::Tlbi(Tlbi::Alle2is),
    Op::Tlbi(Tlbi::Alle1is),
    Op::Tlbi(Tlbi::Ipas2e1is(0)),
    Op::Tlbi(Tlbi::Ipas2le1is(0)),
    Op::Tlbi(Tlbi::Vmalle1is),
    Op::Tlbi(Tlbi::Vmalls12e1is),
];

/// The name of the innermost variant.
fn variant(op: Op) -> String {
    let text = match op {
        Op::Tlbi(tlbi) => format!("Op::Tlbi(Tlbi::{tlbi:?}"),
        op => format!("Op::{op:?}"),
    };
    text.trim_end_matches(['(', ')', '0']).into()
}

/// The instruction that `source` has in the arm for `op`.
fn issued(source: &str, op: Op) -> Option<&str> {
    arm(source, &variant(op))
}

/// The instruction in the arm whose pattern begins with `variant`.
fn arm<'a>(source: &'a str, variant: &str) -> Option<&'a str> {
    source.lines().find_map(|line| {
        let rest = line.trim().strip_prefix(variant)?;
        // The whole name, not the start of another one.
        let (pattern, code) = rest.split_once("=>")?;
        pattern.starts_with(['(', ')', ' ', ',']).then_some(())?;
        code.split('"').nth(1)
    })
}

#[test]
fn arch_each_operation_is_the_instruction_of_the_model() {
    for op in OPS {
        let name = instruction(op).name();
        assert_eq!(issued(EL2, op), Some(name.as_str()), "{op:?}");
    }
    // None is left out above.
    let arms = EL2.lines().filter(|line| line.trim().starts_with("Op::"));
    assert_eq!(arms.count(), OPS.len());
}

#[test]
fn arch_each_operation_on_debug_registers_is_the_instruction_of_the_model() {
    let write = |bank| {
        let op = hwdebug::Op::Write(bank, 0, 0);
        (format!("Op::Write(Bank::{bank:?}"), op)
    };
    let others = [
        ("Op::Isb".to_owned(), hwdebug::Op::Isb),
        ("Op::WriteMdscr".to_owned(), hwdebug::Op::WriteMdscr(0)),
    ];
    let ops: Vec<_> = others.into_iter().chain(Bank::ALL.map(write)).collect();
    for (pattern, op) in &ops {
        let stem = debug_instruction(*op).stem();
        assert_eq!(arm(DEBUG, pattern), Some(stem.as_str()), "{op:?}");
    }
    // None is left out above.
    let arms = DEBUG.lines().filter(|line| line.trim().starts_with("Op::"));
    assert_eq!(arms.count(), ops.len());
    // And the macro puts the number where the assembler wants it.
    let third = debug_instruction(hwdebug::Op::Write(Bank::Wcr, 3, 0));
    assert_eq!(third.name(), "msr dbgwcr3_el1");
    assert!(DEBUG.contains("concat!($instruction, $known, \"_el1, {}\")"));
}

#[test]
fn arch_other_instruction_is_caught() {
    let source = "Op::DsbIsh => plain!(\"dsb ishst\"),";
    let name = instruction(Op::DsbIsh).name();
    assert_ne!(issued(source, Op::DsbIsh), Some(name.as_str()));
    assert_eq!(issued(source, Op::DsbIshst), None);
}
