// SPDX-License-Identifier: GPL-2.0-only
//
// EL2 image: the header, and the one page of code that runs while the address space of EL2 changes.
//
// The page is mapped three times (behaviour as in Marc Zyngier's dual-step HYP init):
//
//   boot PGD     VA = PA ("idmap")      MMU going on or off
//   boot PGD     trampoline VA          before and after the switch of TTBR0_EL2
//   runtime PGD  trampoline VA          after and before it
//
// Boot and runtime PGD have no other VA in common, so a switch of TTBR0_EL2 from the trampoline followed by a TLBI is
// break-before-make for the whole address space: no translation of the one can be used under the other.
//
// The code is position independent and keeps everything in registers. With the MMU off, data accesses are
// Device-nGnRnE: what is read here has been cleaned to the PoC by the host, nothing is stored, and no line that the host
// holds in its cache can hide a store of ours.
//
// Brought in by global_asm! of rust/hyp/entry.rs, which gives the names in braces.

	.pushsection .hyp.idmap, "ax"
	.balign	4096

// struct common::abi::ImageHeader, at offset 0 of the image.
eltwo_header:
	.word	{IMAGE_MAGIC}
	.word	{ABI_VERSION}
	.word	__hyp_image_end - eltwo_header
	.word	__hyp_idmap_end - eltwo_header
	.word	__hyp_text_start - eltwo_header
	.word	__hyp_rodata_start - eltwo_header
	.word	__hyp_data_start - eltwo_header
	.word	__hyp_rela_start - eltwo_header
	.word	__hyp_rela_end - eltwo_header
	.word	eltwo_init - eltwo_header
	.word	eltwo_stub_read_reg - eltwo_header
	.word	eltwo_reset - eltwo_header
	.word	eltwo_vectors - eltwo_header
	.word	__hyp_build_id - eltwo_header

// eltwo_init: from the kernel's stub to our runtime address space.
//
// Entered by HVC_SOFT_RESTART at its PA.
//   MMU       off; DAIF masked by the exception; stack: none
//   in        x0 = PA of struct BootParams
//   out       x0 = 0, at EL1 behind the HVC, the CPU in its runtime address space
//   clobbers  x0-x8
	.balign	16
	.global	eltwo_init
	.type	eltwo_init, %function
eltwo_init:
	ldr	x1, [x0, #{BOOT_MAIR}]
	ldr	x2, [x0, #{BOOT_TCR}]
	ldr	x3, [x0, #{BOOT_TTBR_BOOT}]
	ldr	x4, [x0, #{BOOT_TTBR_RUNTIME}]
	ldr	x5, [x0, #{BOOT_SCTLR}]
	ldr	x6, [x0, #{BOOT_VBAR}]
	ldr	x7, [x0, #{BOOT_CONTEXT_VA}]
	ldr	x8, [x0, #{BOOT_TRAMPOLINE_OFFSET}]

	msr	mair_el2, x1
	msr	tcr_el2, x2
	msr	ttbr0_el2, x3
	// EL2 entries of a previous owner or of firmware: our VAs mean something else. EL1&0 entries of all VMIDs: a
	// previous owner may have run guests under VMIDs that we hand out again. Local is enough, as every CPU does this.
	tlbi	alle2
	tlbi	alle1
	// Lines that the instruction cache holds for this memory from what it was before: the fetches behind the write of
	// SCTLR_EL2 are cacheable, so it is done before. With the MMU off fetches are Non-cacheable and come from the PoC,
	// to which the host has cleaned the image, so none can come back.
	ic	iallu
	// Completes all three before the MMU or the I-cache can use what they removed. NSH: only this PE was addressed.
	dsb	nsh
	// MAIR, TCR and TTBR0 are in effect before M is set: no walk may start with a mixture of old and new. And what
	// follows is fetched behind the DSB.
	isb

	msr	sctlr_el2, x5
	// M, C and I take effect here, while PC is in the idmap page: VA = PA.
	isb

	adr	x1, 1f
	add	x1, x1, x8
	br	x1

1:	// Trampoline VA, boot PGD.
	msr	ttbr0_el2, x4
	// Walks use the runtime PGD from here. An ISB before the TLBI: an entry that was walked through the boot PGD after
	// the TLBI would survive it.
	isb
	tlbi	alle2
	// Completes the TLBI: entries of the boot PGD (the idmap page) are gone before anything else is translated. No ISB:
	// what is in flight was fetched from this very page, at the same VA and PA in both, and touches no other.
	dsb	nsh

	mov	sp, x7
	msr	vbar_el2, x6
	mov	x0, xzr
	// The exception return is a context synchronization event (SCTLR_EL2.EOS = 1), so the next exception uses VBAR_EL2
	// as written above.
	eret
	// Straight-line speculation past the ERET stops here.
	dsb	nsh
	isb
	.size	eltwo_init, . - eltwo_init

// eltwo_reset: from our runtime address space to the state that was found at init.
//
// Branched to at its trampoline VA from the vectors.
//   MMU       on, runtime PGD; SP_EL2 = CpuContext; stack: none
//   in        x0      = the stub call that asked for it: SET_VECTORS, SOFT_RESTART, or RESET_VECTORS;
//             x1-x4   = arguments of that call, passed through
//             x5      = SCTLR_EL2    x6 = VBAR_EL2    x7 = TTBR0_EL2    x8 = TCR_EL2    x9 = MAIR_EL2    x10 = SP_EL2, as found
//             x11     = TTBR0_EL2 of the boot PGD
//             x12     = trampoline VA minus PA of this page
//             x13     = x0 of the answer
//             ELR_EL2, SPSR_EL2 = where to return to (not for SOFT_RESTART)
//   out       as the stub call says
//   clobbers  x0-x17
	.balign	16
	.global	eltwo_reset
	.type	eltwo_reset, %function
eltwo_reset:
	msr	ttbr0_el2, x11
	// As in eltwo_init: first the boot PGD is in use, then what the runtime PGD left in the TLB goes.
	isb
	tlbi	alle2
	dsb	nsh
	isb

	adr	x14, 1f
	sub	x14, x14, x12
	br	x14

1:	// Idmap VA, boot PGD. Falkor erratum E1041 wants an ISB directly before an MSR that turns the MMU off, or what was
	// fetched speculatively may be translated wrongly.
	isb
	msr	sctlr_el2, x5
	// M = 0 from here, PC is a PA now.
	isb
	msr	vbar_el2, x6
	// Our tables go back to the kernel: no entry of them may be left for the next owner of EL2, who may set M = 1
	// without a TLBI of its own. With M = 0 no walk can make a new one behind this TLBI. No ISB: with M = 0 nothing in
	// flight was translated, and each way out below is a context synchronization event.
	tlbi	alle2
	dsb	nsh

	msr	ttbr0_el2, x7
	msr	tcr_el2, x8
	msr	mair_el2, x9
	mov	sp, x10

	cmp	x0, #{HVC_SOFT_RESTART}
	b.eq	2f
	cmp	x0, #{HVC_SET_VECTORS}
	b.ne	3f
	msr	vbar_el2, x1
3:	mov	x0, x13
	// Context synchronization by the exception return, for the registers written above.
	eret
	dsb	nsh
	isb

2:	// The target runs at EL2 and may rely on any register written above.
	isb
	mov	x16, x1
	mov	x0, x2
	mov	x1, x3
	mov	x2, x4
	br	x16
	.size	eltwo_reset, . - eltwo_reset

// eltwo_stub_read_reg: the register image, one register a call, with nothing touched.
//
// Entered by HVC_SOFT_RESTART at its PA, MMU off.
//   in        x0 = place in common::regs::IMAGE; the host asks only for registers that this CPU has
//   out       x0 = value, at EL1 behind the HVC
//   clobbers  x0-x3
	.balign	16
	.global	eltwo_stub_read_reg
	.type	eltwo_stub_read_reg, %function
eltwo_stub_read_reg:
	mov	x3, x30
	bl	eltwo_read_reg
	mov	x30, x3
	eret
	dsb	nsh
	isb
	.size	eltwo_stub_read_reg, . - eltwo_stub_read_reg

// eltwo_read_reg: fn(place: u64) -> u64, also called from Rust. Clobbers x0-x2.
	.balign	16
	.global	eltwo_read_reg
	.type	eltwo_read_reg, %function
eltwo_read_reg:
	cmp	x0, #{IMAGE_LEN}
	b.hs	8f
	adr	x1, 9f
	add	x1, x1, x0, lsl #3
	br	x1
8:	mov	x0, xzr
	ret
	// SP_EL2 has no MRS at EL2: select it, read it, select what was selected.
7:	mrs	x1, spsel
	msr	spsel, #1
	mov	x0, sp
	msr	spsel, x1
	ret

	.macro	eltwo_reg name
	mrs	x0, \name
	ret
	.endm
9:	eltwo_reg	sctlr_el2
	eltwo_reg	vbar_el2
	eltwo_reg	ttbr0_el2
	eltwo_reg	tcr_el2
	eltwo_reg	mair_el2
	b	7b
	nop
	eltwo_reg	hcr_el2
	eltwo_reg	actlr_el2
	eltwo_reg	mdcr_el2
	eltwo_reg	cptr_el2
	eltwo_reg	hstr_el2
	eltwo_reg	hacr_el2
	eltwo_reg	vttbr_el2
	eltwo_reg	vtcr_el2
	eltwo_reg	amair_el2
	eltwo_reg	afsr0_el2
	eltwo_reg	afsr1_el2
	eltwo_reg	tpidr_el2
	eltwo_reg	cnthctl_el2
	eltwo_reg	cntvoff_el2
	eltwo_reg	cnthp_cval_el2
	eltwo_reg	vpidr_el2
	eltwo_reg	vmpidr_el2
	eltwo_reg	S3_4_C12_C9_5	// ICC_SRE_EL2
	eltwo_reg	S3_4_C12_C11_0	// ICH_HCR_EL2
	eltwo_reg	S3_4_C13_C0_1	// CONTEXTIDR_EL2
	eltwo_reg	S3_4_C2_C0_1	// TTBR1_EL2
	eltwo_reg	S3_4_C1_C2_2	// HCRX_EL2
	eltwo_reg	S3_4_C1_C1_4	// HFGRTR_EL2
	eltwo_reg	S3_4_C1_C1_5	// HFGWTR_EL2
	eltwo_reg	S3_4_C1_C1_6	// HFGITR_EL2
	eltwo_reg	S3_4_C3_C1_4	// HDFGRTR_EL2
	eltwo_reg	S3_4_C3_C1_5	// HDFGWTR_EL2
	eltwo_reg	S3_4_C1_C2_0	// ZCR_EL2
	eltwo_reg	S3_4_C1_C2_6	// SMCR_EL2
	.purgem	eltwo_reg
	.size	eltwo_read_reg, . - eltwo_read_reg

	.popsection
