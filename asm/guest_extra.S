// SPDX-License-Identifier: GPL-2.0-only
//
// EL2 image: the part of the switch to a guest (guest.S) for registers that not every CPU has, and for the buffers that the
// CPU fills by itself with the host's tables: profiling (SPE) and trace (TRBE).
//
// x1, x8 and x16 are as there. x9 = bits of common::guest::extra, which are places, too.
//
// Brought in by global_asm! of rust/hyp/guest.rs, which gives the names in braces.

	.pushsection .text.eltwo_guest, "ax"

// Keeps \reg in its place in the slot.
	.macro	eltwo_extra_keep reg, place
	mrs	x2, \reg
	str	x2, [x16, #({SLOT_EL2_EXTRA} + 8 * \place)]
	.endm

// The five registers of FEAT_FGT, from \base on. Clobbers x2 and x3.
	.macro	eltwo_extra_traps base
	ldp	x2, x3, [\base, #(8 * {EXTRA_HFGRTR})]
	msr	S3_4_C1_C1_4, x2	// HFGRTR_EL2
	msr	S3_4_C1_C1_5, x3	// HFGWTR_EL2
	ldp	x2, x3, [\base, #(8 * {EXTRA_HFGRTR} + 16)]
	msr	S3_4_C1_C1_6, x2	// HFGITR_EL2
	msr	S3_4_C3_C1_4, x3	// HDFGRTR_EL2
	ldr	x2, [\base, #(8 * {EXTRA_HFGRTR} + 32)]
	msr	S3_4_C3_C1_5, x2	// HDFGWTR_EL2
	.endm

// eltwo_extra_save: those that belong to EL1, and so change. Nothing is written, so that a fault up to here needs no way back.
//   in        x1, x16 as above
//   clobbers  x2, x9
	.type	eltwo_extra_save, %function
eltwo_extra_save:
	ldr	x9, [x1, #{VCPU_EXTRA_PRESENT}]
	str	x9, [x16, #{SLOT_EXTRA_PRESENT}]
	tbz	x9, #{EXTRA_PMUSERENR}, 1f
	eltwo_extra_keep pmuserenr_el0, {EXTRA_PMUSERENR}
1:	tbz	x9, #{EXTRA_BRBCR}, 1f
	eltwo_extra_keep S2_1_C9_C0_0, {EXTRA_BRBCR}		// BRBCR_EL1
1:	tbz	x9, #{EXTRA_PMSCR}, 1f
	eltwo_extra_keep S3_0_C9_C9_0, {EXTRA_PMSCR}		// PMSCR_EL1
	eltwo_extra_keep S3_0_C9_C10_0, {EXTRA_PMBLIMITR}	// PMBLIMITR_EL1
1:	tbz	x9, #{EXTRA_TRFCR}, 1f
	eltwo_extra_keep S3_0_C1_C2_1, {EXTRA_TRFCR}		// TRFCR_EL1
	tbz	x9, #{EXTRA_TRBLIMITR}, 1f
	eltwo_extra_keep S3_0_C9_C11_0, {EXTRA_TRBLIMITR}	// TRBLIMITR_EL1
1:	b	eltwo_extra_saved
	.size	eltwo_extra_save, . - eltwo_extra_save

// eltwo_extra_enter: closes the buffers and puts the guest's registers in place.
//   in        x1, x16 as above
//   clobbers  x2-x4, x9
	.type	eltwo_extra_enter, %function
eltwo_extra_enter:
	// Buffers first, before anything that can fault: the way back of a fault changes the registers that they are written by.
	ldr	x9, [x16, #{SLOT_EXTRA_PRESENT}]
	tbz	x9, #{EXTRA_BRBCR}, 1f
	msr	S2_1_C9_C0_0, xzr	// BRBCR_EL1
1:	tbz	x9, #{EXTRA_PMSCR}, 1f
	ldr	x3, [x16, #({SLOT_EL2_EXTRA} + 8 * {EXTRA_PMBLIMITR})]
	tbz	x3, #0, 1f		// E: the buffer is not in use
	msr	S3_0_C9_C9_0, xzr	// PMSCR_EL1
	// No new samples; then those that there are go to memory, with the host's tables; then the buffer is closed.
	isb
	hint	#17			// PSB CSYNC
	dsb	nsh
	msr	S3_0_C9_C10_0, xzr	// PMBLIMITR_EL1
	isb
1:	tbz	x9, #{EXTRA_TRFCR}, 1f
	msr	S3_0_C1_C2_1, xzr	// TRFCR_EL1
	tbz	x9, #{EXTRA_TRBLIMITR}, 1f
	ldr	x3, [x16, #({SLOT_EL2_EXTRA} + 8 * {EXTRA_TRBLIMITR})]
	tbz	x3, #0, 1f		// E
	isb
	hint	#18			// TSB CSYNC
	dsb	nsh
	msr	S3_0_C9_C11_0, xzr	// TRBLIMITR_EL1
	// Some cores need the trace to be drained again (Linux: ARM64_WORKAROUND_2064142). The DSB for it is the one that comes
	// before any register of the guest's, also on the way back of a fault.
	hint	#18
	isb

1:	add	x4, x1, #{VCPU_EXTRA}
	tbz	x9, #{EXTRA_PMUSERENR}, 1f
	ldr	x2, [x4, #(8 * {EXTRA_PMUSERENR})]
	msr	pmuserenr_el0, x2
1:	tbz	x9, #{EXTRA_HCRX}, 1f
	ldr	x2, [x4, #(8 * {EXTRA_HCRX})]
	msr	S3_4_C1_C2_2, x2	// HCRX_EL2
1:	tbz	x9, #{EXTRA_HFGRTR}, 1f
	eltwo_extra_traps x4
1:	tbz	x9, #{EXTRA_MPAM2}, 1f
	ldr	x2, [x4, #(8 * {EXTRA_MPAM2})]
	msr	S3_4_C10_C5_0, x2	// MPAM2_EL2
1:	tbz	x9, #{EXTRA_MPAMHCR}, 1f
	ldr	x2, [x4, #(8 * {EXTRA_MPAMHCR})]
	msr	S3_4_C10_C4_0, x2	// MPAMHCR_EL2
1:	tbz	x9, #{EXTRA_ICH_HCR}, 1f
	ldr	x2, [x4, #(8 * {EXTRA_ICH_HCR})]
	msr	S3_4_C12_C11_0, x2	// ICH_HCR_EL2
	// Without Enable, ICC_SRE_EL1 traps: the host's interface is not for the guest to switch.
	ldr	x2, [x16, #({SLOT_EL2_EXTRA} + 8 * {EXTRA_ICC_SRE})]
	bic	x2, x2, #8
	msr	S3_4_C12_C9_5, x2	// ICC_SRE_EL2
1:	b	eltwo_extra_entered
	.size	eltwo_extra_enter, . - eltwo_extra_enter

// eltwo_extra_leave: undoes eltwo_extra_enter. The host's tables are in place.
//   in        x16
//   clobbers  x2-x4, x9, x30 is the return address
	.type	eltwo_extra_leave, %function
eltwo_extra_leave:
	add	x4, x16, #{SLOT_EL2_EXTRA}
	ldr	x9, [x16, #{SLOT_EXTRA_PRESENT}]
	tbz	x9, #{EXTRA_HCRX}, 1f
	ldr	x2, [x4, #(8 * {EXTRA_HCRX})]
	msr	S3_4_C1_C2_2, x2	// HCRX_EL2
1:	tbz	x9, #{EXTRA_HFGRTR}, 1f
	eltwo_extra_traps x4
1:	tbz	x9, #{EXTRA_MPAM2}, 1f
	ldr	x2, [x4, #(8 * {EXTRA_MPAM2})]
	msr	S3_4_C10_C5_0, x2	// MPAM2_EL2
1:	tbz	x9, #{EXTRA_MPAMHCR}, 1f
	ldr	x2, [x4, #(8 * {EXTRA_MPAMHCR})]
	msr	S3_4_C10_C4_0, x2	// MPAMHCR_EL2
1:	tbz	x9, #{EXTRA_ICH_HCR}, 1f
	ldp	x2, x3, [x4, #(8 * {EXTRA_ICH_HCR})]
	msr	S3_4_C12_C9_5, x3	// ICC_SRE_EL2
	msr	S3_4_C12_C11_0, x2	// ICH_HCR_EL2
1:	tbz	x9, #{EXTRA_PMUSERENR}, 1f
	ldr	x2, [x4, #(8 * {EXTRA_PMUSERENR})]
	msr	pmuserenr_el0, x2
1:	tbz	x9, #{EXTRA_PMSCR}, 1f
	ldp	x3, x2, [x4, #(8 * {EXTRA_PMSCR})]
	tbz	x2, #0, 1f
	// The buffer is reached with the host's tables, which must hold before it is opened, and it is open before a sample.
	isb
	msr	S3_0_C9_C10_0, x2	// PMBLIMITR_EL1
	isb
	msr	S3_0_C9_C9_0, x3	// PMSCR_EL1
1:	tbz	x9, #{EXTRA_TRBLIMITR}, 1f
	ldr	x2, [x4, #(8 * {EXTRA_TRBLIMITR})]
	tbz	x2, #0, 1f
	isb
	msr	S3_0_C9_C11_0, x2	// TRBLIMITR_EL1
	// Twice, for cores that need more time (Linux: ARM64_WORKAROUND_2038923).
	isb
	isb
1:	tbz	x9, #{EXTRA_TRFCR}, 1f
	ldr	x2, [x4, #(8 * {EXTRA_TRFCR})]
	msr	S3_0_C1_C2_1, x2	// TRFCR_EL1
1:	tbz	x9, #{EXTRA_BRBCR}, 1f
	ldr	x2, [x4, #(8 * {EXTRA_BRBCR})]
	msr	S2_1_C9_C0_0, x2	// BRBCR_EL1
1:	ret
	.size	eltwo_extra_leave, . - eltwo_extra_leave

	.purgem	eltwo_extra_keep
	.purgem	eltwo_extra_traps
	.purgem	eltwo_save_low
	.purgem	eltwo_save_high
	.purgem	eltwo_load_return
	.purgem	eltwo_load_high
	.purgem	eltwo_load_low
	.purgem	eltwo_fp_pairs
	.popsection
