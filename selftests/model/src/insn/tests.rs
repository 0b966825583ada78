// SPDX-License-Identifier: GPL-2.0-only

//! Instructions of the image, and what becomes of them.

use super::*;

#[test]
fn decode_of_arithmetic_gives_operands() {
    // mov sp, x7; cmp x0, #33; add x1, x1, x0, lsl #3; tst x3, #0xc; lsr x5, x5, #26; ubfx x5, x5, #24, #4
    let add = |rd, rn, source| Insn::Arith {
        op: Arith::Add,
        flags: false,
        rd,
        rn,
        source,
    };
    assert_eq!(decode(0x9100_00ff), Ok(add(31, 7, Source::Imm(0))));
    assert_eq!(decode(0x8b00_0c21), Ok(add(1, 1, Source::Shifted(0, 3))));
    assert_eq!(
        decode(0xf100_841f),
        Ok(Insn::Arith {
            op: Arith::Sub,
            flags: true,
            rd: 31,
            rn: 0,
            source: Source::Imm(33)
        })
    );
    assert_eq!(
        decode(0xf27e_047f),
        Ok(Insn::Logic {
            op: Logic::And,
            flags: true,
            rd: 31,
            rn: 3,
            source: Source::Imm(0xc)
        })
    );
    let extract = |lsb, msb| Insn::Extract {
        rd: 5,
        rn: 5,
        lsb,
        msb,
    };
    assert_eq!(decode(0xd35a_fca5), Ok(extract(26, 63)));
    assert_eq!(decode(0xd358_6ca5), Ok(extract(24, 27)));
}

#[test]
fn decode_of_branches_gives_signed_offsets() {
    let back = Insn::Branch {
        offset: -0x3c,
        link: false,
    };
    assert_eq!(decode(0x17ff_fff1), Ok(back));
    let near = Insn::BranchTest {
        rt: 3,
        test: Test::Bit(0),
        if_zero: false,
        offset: 8,
    };
    assert_eq!(decode(0x3700_0043), Ok(near));
}

#[test]
fn decode_of_unused_instruction_names_it() {
    // ldxr x0, [x1]
    let error = decode(0xc85f_7c20).unwrap_err();
    assert!(error.to_string().contains("ldxr"), "{error}");
    // ldr w0, [x1]
    assert!(decode(0xb940_0020).is_err());
}

#[test]
fn disassembly_of_system_instruction_has_its_name() {
    assert_eq!(disassemble(0xd50c_871f), "tlbi alle2");
    assert_eq!(disassemble(0xd508_751f), "ic iallu");
    assert_eq!(disassemble(0xd51c_a201), "msr mair_el2, x1");
}

#[test]
fn decode_of_bit_fields_gives_place_and_width() {
    // bfxil x11, x2, #0, #5; bfi x2, x3, #26, #6
    let insert = |rd, rn, to, width| Insn::Insert {
        rd,
        rn,
        lsb: 0,
        to,
        width,
    };
    assert_eq!(decode(0xb340_104b), Ok(insert(11, 2, 0, 5)));
    assert_eq!(decode(0xb366_1462), Ok(insert(2, 3, 26, 6)));
}

#[test]
fn maintenance_is_what_does_something() {
    // nop; psb csync; dmb sy; at s1e1r, x3; mrs x2, isr_el1; msr daifclr, #4
    let words = [
        NOP,
        0xd503_223f,
        0xd503_3fbf,
        0xd508_7803,
        0xd538_c102,
        0xd503_44ff,
    ];
    assert_eq!(
        words.map(is_maintenance),
        [false, true, true, true, false, true]
    );
}
