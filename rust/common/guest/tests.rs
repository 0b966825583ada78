// SPDX-License-Identifier: GPL-2.0-only

//! What a CPU records by itself, by its own ID register.

use std::cell::Cell;

use super::extra::{recorders, BRBCR, PMSCR, PMUSERENR, RECORDERS, TRBLIMITR, TRFCR};

/// Fields of ID_AA64DFR0_EL1.
const PMU_VER: u64 = 1 << 8;
const PMS_VER: u64 = 1 << 32;
const TRACE_FILT: u64 = 1 << 40;
const TRACE_BUFFER: u64 = 1 << 44;
const BRBE: u64 = 1 << 52;
/// All bits of them.
const ALL: u64 = (PMU_VER + PMS_VER + TRACE_FILT + TRACE_BUFFER + BRBE) * 0xf;
/// PMBIDR_EL1.P, TRBIDR_EL1.P.
const P: u64 = 1 << 4;

/// The bits, and which of PMBIDR_EL1 and TRBIDR_EL1 were read.
fn ask(dfr0: u64, pmbidr: u64, trbidr: u64) -> (u64, [bool; 2]) {
    let (spe, trbe) = (Cell::new(false), Cell::new(false));
    let bits = recorders(
        dfr0,
        || {
            spe.set(true);
            pmbidr
        },
        || {
            trbe.set(true);
            trbidr
        },
    );
    (bits, [spe.get(), trbe.get()])
}

#[test]
fn a_cpu_without_recorders_has_no_register_of_theirs_read() {
    // All else that the register may say: debug, break points, double lock, external trace, MTPMU, HPMN0.
    assert_eq!(ask(!ALL, 0, 0), (0, [false, false]));
    assert_eq!(ask(0, 0, 0), (0, [false, false]));
}

#[test]
fn each_recorder_is_found_by_its_own_field() {
    assert_eq!(ask(PMU_VER, 0, 0), (1 << PMUSERENR, [false, false]));
    assert_eq!(ask(PMS_VER, 0, 0), (1 << PMSCR, [true, false]));
    assert_eq!(ask(TRACE_FILT, 0, 0), (1 << TRFCR, [false, false]));
    assert_eq!(ask(BRBE, 0, 0), (1 << BRBCR, [false, false]));
    let (bits, read) = ask(TRACE_FILT | TRACE_BUFFER, 0, 0);
    assert_eq!(bits, (1 << TRFCR) | (1 << TRBLIMITR));
    assert_eq!(read, [false, true]);
    assert_eq!(ask(ALL - 14 * PMU_VER, 0, 0).0, RECORDERS);
}

#[test]
fn a_pmu_of_another_architecture_has_no_register_of_ours() {
    assert_eq!(ask(15 * PMU_VER, 0, 0).0, 0);
    assert_eq!(ask(14 * PMU_VER, 0, 0).0, 1 << PMUSERENR);
}

#[test]
fn a_buffer_of_a_higher_exception_level_is_left_alone() {
    assert_eq!(ask(PMS_VER, P, 0), (0, [true, false]));
    let (bits, _) = ask(TRACE_FILT | TRACE_BUFFER, 0, P);
    assert_eq!(bits, 1 << TRFCR);
    // Without the filter there is no way to stop it.
    assert_eq!(ask(TRACE_BUFFER, 0, 0), (0, [false, false]));
}
