// SPDX-License-Identifier: GPL-2.0-only
//
// EL2 image: macros of vectors.S and guest.S that save and load a struct common::abi::Frame, and FP/SIMD registers.
//
// \base + \at is the address of the frame, within the reach of LDP and STP. x0 and x1 are up to the user, as are the registers
// that hold SP_EL0, ELR_EL2 and SPSR_EL2 on their way.

	.macro	eltwo_save_low base, at
	stp	x2, x3, [\base, #(\at + 16)]
	stp	x4, x5, [\base, #(\at + 32)]
	stp	x6, x7, [\base, #(\at + 48)]
	stp	x8, x9, [\base, #(\at + 64)]
	stp	x10, x11, [\base, #(\at + 80)]
	stp	x12, x13, [\base, #(\at + 96)]
	stp	x14, x15, [\base, #(\at + 112)]
	stp	x16, x17, [\base, #(\at + 128)]
	.endm

	// x18-x30, SP_EL0; and ELR_EL2 and SPSR_EL2, which are left in \elr and \spsr.
	.macro	eltwo_save_high base, at, elr, spsr
	stp	x18, x19, [\base, #(\at + 144)]
	stp	x20, x21, [\base, #(\at + 160)]
	stp	x22, x23, [\base, #(\at + 176)]
	stp	x24, x25, [\base, #(\at + 192)]
	stp	x26, x27, [\base, #(\at + 208)]
	stp	x28, x29, [\base, #(\at + 224)]
	mrs	\elr, sp_el0
	stp	x30, \elr, [\base, #(\at + 240)]
	mrs	\elr, elr_el2
	mrs	\spsr, spsr_el2
	stp	\elr, \spsr, [\base, #(\at + 256)]
	.endm

	// ELR_EL2 and SPSR_EL2.
	.macro	eltwo_load_return base, at, elr, spsr
	ldp	\elr, \spsr, [\base, #(\at + 256)]
	msr	elr_el2, \elr
	msr	spsr_el2, \spsr
	.endm

	// x18-x30 and SP_EL0.
	.macro	eltwo_load_high base, at, sp
	ldp	x30, \sp, [\base, #(\at + 240)]
	msr	sp_el0, \sp
	ldp	x28, x29, [\base, #(\at + 224)]
	ldp	x26, x27, [\base, #(\at + 208)]
	ldp	x24, x25, [\base, #(\at + 192)]
	ldp	x22, x23, [\base, #(\at + 176)]
	ldp	x20, x21, [\base, #(\at + 160)]
	ldp	x18, x19, [\base, #(\at + 144)]
	.endm

	.macro	eltwo_load_low base, at
	ldp	x16, x17, [\base, #(\at + 128)]
	ldp	x14, x15, [\base, #(\at + 112)]
	ldp	x12, x13, [\base, #(\at + 96)]
	ldp	x10, x11, [\base, #(\at + 80)]
	ldp	x8, x9, [\base, #(\at + 64)]
	ldp	x6, x7, [\base, #(\at + 48)]
	ldp	x4, x5, [\base, #(\at + 32)]
	ldp	x2, x3, [\base, #(\at + 16)]
	.endm

// V0-V31: \op is LDP or STP.
	.macro	eltwo_fp_pairs op, base
	\op	q0, q1, [\base, #0]
	\op	q2, q3, [\base, #32]
	\op	q4, q5, [\base, #64]
	\op	q6, q7, [\base, #96]
	\op	q8, q9, [\base, #128]
	\op	q10, q11, [\base, #160]
	\op	q12, q13, [\base, #192]
	\op	q14, q15, [\base, #224]
	\op	q16, q17, [\base, #256]
	\op	q18, q19, [\base, #288]
	\op	q20, q21, [\base, #320]
	\op	q22, q23, [\base, #352]
	\op	q24, q25, [\base, #384]
	\op	q26, q27, [\base, #416]
	\op	q28, q29, [\base, #448]
	\op	q30, q31, [\base, #480]
	.endm
