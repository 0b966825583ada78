// SPDX-License-Identifier: GPL-2.0-only

//! Tests of the descriptors of both formats, against values made by hand from the manual.

use super::{
    super::format::{
        decode,
        encode_leaf,
        encode_table,
        Entry, //
    },
    *,
};

fn geometry1(wide: bool) -> Geometry {
    let output = Output::new(Granule::K4, 52, wide).unwrap();
    Geometry::stage1(Granule::K4, 48, output).unwrap()
}

fn hyp(attrs: HypAttrs, level: Level) -> u64 {
    encode_leaf(&Stage1, &geometry1(false), level, pa(0x4000_0000), attrs).unwrap()
}

#[test]
fn stage1_page_has_the_bits_of_the_manual() {
    // AF, SH = 3, AP[1] RES1, type page, valid: 0x743; AP[2] 0x80; XN bit 54.
    let rw = HypAttrs::normal(HypAccess::ReadWrite);
    assert_eq!(hyp(rw, Level::L3), 0x0040_0000_4000_0743);
    let ro = HypAttrs::normal(HypAccess::Read);
    assert_eq!(hyp(ro, Level::L3), 0x0040_0000_4000_07c3);
    let rx = HypAttrs::normal(HypAccess::ReadExecute);
    assert_eq!(hyp(rx, Level::L3), 0x0000_0000_4000_07c3);
    // AttrIndx 4.
    assert_eq!(
        hyp(HypAttrs::device(true), Level::L3),
        0x0040_0000_4000_0753
    );
    assert_eq!(
        hyp(HypAttrs::device(false), Level::L3),
        0x0040_0000_4000_07d3
    );
    let tagged = rw.with_tag(15).unwrap();
    assert_eq!(hyp(tagged, Level::L3), 0x07c0_0000_4000_0743);
}

#[test]
fn stage1_block_has_bit_1_clear() {
    let rw = HypAttrs::normal(HypAccess::ReadWrite);
    assert_eq!(hyp(rw, Level::L2), 0x0040_0000_4000_0741);
    assert_eq!(hyp(rw, Level::L1), 0x0040_0000_4000_0741);
}

#[test]
fn stage1_lpa2_page_has_no_shareability() {
    let rw = HypAttrs::normal(HypAccess::ReadWrite);
    let page = encode_leaf(
        &Stage1,
        &geometry1(true),
        Level::L3,
        pa(0x8_0000_0000_0000),
        rw,
    );
    assert_eq!(page, Ok(0x0040_0000_0000_0643));
}

#[test]
fn stage1_no_attributes_are_writable_and_executable() {
    for access in [
        HypAccess::Read,
        HypAccess::ReadWrite,
        HypAccess::ReadExecute,
    ] {
        let page = hyp(HypAttrs::normal(access), Level::L3);
        let writable = page & 0x80 == 0;
        let executable = page & (1 << 54) == 0;
        assert!(!(writable && executable));
    }
    // The same without the type system: such a descriptor is not one of ours.
    let page = hyp(HypAttrs::normal(HypAccess::ReadExecute), Level::L3) & !0x80;
    assert_eq!(
        decode(&Stage1, &geometry1(false), Level::L3, page),
        Err(Error::Corrupt)
    );
}

#[test]
fn stage1_device_memory_is_never_executable() {
    let device = HypAttrs::device(false);
    assert!(device.is_device());
    assert_eq!(device.with_access(HypAccess::ReadExecute), None);
    assert!(device.with_access(HypAccess::ReadWrite).is_some());
    let page = hyp(device, Level::L3) & !(1 << 54);
    assert_eq!(
        decode(&Stage1, &geometry1(false), Level::L3, page),
        Err(Error::Corrupt)
    );
}

#[test]
fn stage1_attributes_round_trip() {
    for wide in [false, true] {
        for attrs in Stage1::attrs() {
            let geometry = geometry1(wide);
            let page = encode_leaf(&Stage1, &geometry, Level::L3, pa(0x1234_5000), attrs).unwrap();
            assert_eq!(
                decode(&Stage1, &geometry, Level::L3, page),
                Ok(Entry::Leaf {
                    pa: pa(0x1234_5000),
                    attrs
                })
            );
            assert!(!Stage1.needs_break(attrs, attrs));
        }
    }
    let [rw, ro, rx, device] = Stage1::attrs()[..] else {
        panic!("four attributes");
    };
    assert_eq!(rw.access(), HypAccess::ReadWrite);
    assert!(!Stage1.needs_break(rw, ro) && !Stage1.needs_break(ro, rx));
    assert!(Stage1.needs_break(rw, device));
}

#[test]
fn stage1_foreign_bits_are_corrupt() {
    let page = hyp(HypAttrs::normal(HypAccess::Read), Level::L3);
    let geometry = geometry1(false);
    assert!(decode(&Stage1, &geometry, Level::L3, page).is_ok());
    // AttrIndx 1, NS, AF clear, AP[1] clear, SH 2, DBM, contiguous, PXN.
    for flip in [
        1 << 2,
        1 << 5,
        1 << 10,
        1 << 6,
        1 << 8,
        1 << 51,
        1 << 52,
        1 << 53,
    ] {
        assert_eq!(
            decode(&Stage1, &geometry, Level::L3, page ^ flip),
            Err(Error::Corrupt),
            "{flip:#x}"
        );
    }
}

#[test]
fn descriptor_reserved_type_is_corrupt() {
    let geometry = geometry1(false);
    let page = hyp(HypAttrs::normal(HypAccess::Read), Level::L3);
    // Valid, but bit 1 clear at level 3; and a block at level 0 without FEAT_LPA2.
    assert_eq!(
        decode(&Stage1, &geometry, Level::L3, page & !2),
        Err(Error::Corrupt)
    );
    let block = page & !2 & !0x7f_ffff_f000;
    assert_eq!(
        decode(&Stage1, &geometry, Level::L0, block),
        Err(Error::Corrupt)
    );
    assert!(decode(&Stage1, &geometry, Level::L1, block).is_ok());
}

#[test]
fn descriptor_level_that_the_granule_lacks_is_corrupt() {
    let output = Output::new(Granule::K64, 48, false).unwrap();
    let geometry = Geometry::stage1(Granule::K64, 48, output).unwrap();
    assert_eq!(
        decode(&Stage1, &geometry, Level::L0, 3),
        Err(Error::Corrupt)
    );
}

#[test]
fn descriptor_unaligned_block_is_corrupt() {
    let geometry = geometry1(false);
    let block = hyp(HypAttrs::normal(HypAccess::Read), Level::L2);
    assert!(decode(&Stage1, &geometry, Level::L2, block).is_ok());
    assert_eq!(
        decode(&Stage1, &geometry, Level::L2, block | 0x1000),
        Err(Error::Corrupt)
    );
}

#[test]
fn table_descriptor_has_only_address_and_type() {
    let geometry = geometry1(false);
    let table = encode_table(&geometry, pa(0x4000_1000)).unwrap();
    assert_eq!(table, 0x4000_1003);
    assert_eq!(
        decode(&Stage1, &geometry, Level::L0, table),
        Ok(Entry::Table(pa(0x4000_1000)))
    );
}

#[test]
fn table_descriptor_foreign_bits_are_corrupt() {
    let geometry = geometry1(false);
    // XNTable and APTable restrict what is below; we never set them.
    for flip in [1 << 60, 1 << 61, 1 << 62, 1 << 2] {
        assert_eq!(
            decode(&Stage1, &geometry, Level::L0, 0x4000_1003 | flip),
            Err(Error::Corrupt)
        );
    }
    assert_eq!(
        encode_table(&geometry, pa(0x1_0000_0000_0000)),
        Err(Error::OutputRange)
    );
}

#[test]
fn invalid_descriptor_is_invalid_whatever_its_other_bits_say() {
    for descriptor in [0, 2, !1] {
        assert_eq!(
            decode(&Stage1, &geometry1(false), Level::L2, descriptor),
            Ok(Entry::Invalid)
        );
    }
}

fn geometry2(wide: bool) -> Geometry {
    let output = Output::new(Granule::K4, 52, wide).unwrap();
    Geometry::stage2(Granule::K4, 48, output).unwrap()
}

const PLAIN: Stage2 = Stage2 {
    fwb: false,
    xnx: false,
};

fn guest(format: Stage2, attrs: GuestAttrs) -> Result<u64, Error> {
    encode_leaf(
        &format,
        &geometry2(false),
        Level::L3,
        pa(0x4000_0000),
        attrs,
    )
}

#[test]
fn stage2_page_has_the_bits_of_the_manual() {
    // AF, SH = 3, S2AP = 3, MemAttr 0b1111, page, valid.
    assert_eq!(guest(PLAIN, GuestAttrs::RAM), Ok(0x4000_07ff));
    // MemAttr 0b0001, XN[1].
    assert_eq!(guest(PLAIN, GuestAttrs::DEVICE), Ok(0x0040_0000_4000_07c7));
    let clean = GuestAttrs {
        write: false,
        accessed: false,
        tag: 5,
        ..GuestAttrs::RAM
    };
    assert_eq!(guest(PLAIN, clean), Ok(0x0280_0000_4000_037f));
}

#[test]
fn stage2_forced_write_back_has_its_own_encoding() {
    let fwb = Stage2 {
        fwb: true,
        xnx: false,
    };
    assert_eq!(guest(fwb, GuestAttrs::RAM), Ok(0x4000_07db));
    // The encoding of the other mode is not ours.
    assert_eq!(
        decode(&fwb, &geometry2(false), Level::L3, 0x4000_07ff),
        Err(Error::Corrupt)
    );
    assert_eq!(
        decode(&PLAIN, &geometry2(false), Level::L3, 0x4000_07db),
        Err(Error::Corrupt)
    );
}

#[test]
fn stage2_execute_for_one_level_needs_xnx() {
    let xnx = Stage2 {
        fwb: false,
        xnx: true,
    };
    for (execute, bits) in [
        (GuestExecute::El0, 1u64 << 53),
        (GuestExecute::El1, 3 << 53),
    ] {
        let attrs = GuestAttrs {
            execute,
            ..GuestAttrs::RAM
        };
        assert_eq!(guest(xnx, attrs), Ok(0x4000_07ff | bits));
        assert_eq!(guest(PLAIN, attrs), Err(Error::Attributes));
        assert_eq!(
            decode(&PLAIN, &geometry2(false), Level::L3, 0x4000_07ff | bits),
            Err(Error::Corrupt)
        );
    }
}

#[test]
fn stage2_tag_beyond_four_bits_is_refused() {
    let attrs = GuestAttrs {
        tag: 16,
        ..GuestAttrs::RAM
    };
    assert_eq!(guest(PLAIN, attrs), Err(Error::Attributes));
}

#[test]
fn stage2_attributes_round_trip() {
    let xnx = Stage2::format();
    for wide in [false, true] {
        let geometry = geometry2(wide);
        for attrs in Stage2::attrs() {
            for execute in [
                GuestExecute::All,
                GuestExecute::El0,
                GuestExecute::Nobody,
                GuestExecute::El1,
            ] {
                let attrs = GuestAttrs { execute, ..attrs };
                let page = encode_leaf(&xnx, &geometry, Level::L3, pa(0x5000), attrs).unwrap();
                let entry = Entry::Leaf {
                    pa: pa(0x5000),
                    attrs,
                };
                assert_eq!(decode(&xnx, &geometry, Level::L3, page), Ok(entry));
            }
        }
    }
    assert!(xnx.needs_break(GuestAttrs::RAM, GuestAttrs::DEVICE));
    assert!(!xnx.needs_break(Stage2::attrs()[0], Stage2::attrs()[1]));
}

#[test]
fn error_text_is_a_sentence_without_an_end() {
    for error in [
        Error::Unaligned,
        Error::InputRange,
        Error::OutputRange,
        Error::NoMemory,
        Error::AlreadyMapped,
        Error::BreakBeforeMake,
        Error::NotMapped,
        Error::Attributes,
        Error::Contended,
        Error::Corrupt,
    ] {
        let text = std::format!("{error}");
        assert!(text.len() > 10 && !text.ends_with('.'));
    }
}
