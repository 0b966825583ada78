// SPDX-License-Identifier: GPL-2.0-only
//
// EL2 image: the runtime vectors.
//
// SP_EL2 holds the address of this CPU's struct common::abi::CpuContext at all times, Rust runs on SP_EL0. An exception
// from EL2 selects SP_EL2 by itself, so its registers can be saved even if the stack has run into its guard page.
//
// Every path starts with DAIF masked and the MMU on (runtime PGD). HCR_EL2.IMO, FMO and AMO are 0 while the host runs,
// so IRQ, FIQ and SError go to EL1 and never come here.
//
// Brought in by global_asm! of rust/hyp/entry.rs, which gives the names in braces.

	.pushsection .text.eltwo_vectors, "ax"

	// An exception that must not happen: record it. Clobbers nothing but what it has saved.
	.macro	eltwo_fault_vector offset
	.balign	128
	stp	x0, x1, [sp, #({REPORT} + 0)]
	mov	x0, #\offset
	b	eltwo_fault
	.endm

	.balign	2048
	.global	eltwo_vectors
	.type	eltwo_vectors, %function
eltwo_vectors:
	eltwo_fault_vector 0x000	// Synchronous, EL2t: the EL2 code itself
	eltwo_fault_vector 0x080	// IRQ
	eltwo_fault_vector 0x100	// FIQ
	eltwo_fault_vector 0x180	// SError
	eltwo_fault_vector 0x200	// Synchronous, EL2h: this file
	eltwo_fault_vector 0x280
	eltwo_fault_vector 0x300
	eltwo_fault_vector 0x380

	.balign	128			// Synchronous, EL1 or EL0 with AArch64
	stp	x0, x1, [sp, #({HOST} + 0)]
	// HVC #1 has the shortest way. Everything else, traps included, is told apart behind this.
	mrs	x0, esr_el2
	movz	x1, #{HVC_RUN}
	movk	x1, #(({ESR_EC_HVC64} << ({ESR_EC_SHIFT} - 16)) | (1 << (25 - 16))), lsl #16
	cmp	x0, x1
	b.eq	eltwo_run_vcpu
	ldp	x0, x1, [sp, #({HOST} + 0)]
	b	eltwo_host_sync

	eltwo_fault_vector 0x480
	eltwo_fault_vector 0x500
	eltwo_fault_vector 0x580
	eltwo_fault_vector 0x600	// AArch32: the kernel is AArch64, so this is EL0
	eltwo_fault_vector 0x680
	eltwo_fault_vector 0x700
	eltwo_fault_vector 0x780
	.balign	128
	.purgem	eltwo_fault_vector
	.size	eltwo_vectors, . - eltwo_vectors

// eltwo_host_sync: a synchronous exception from the host. Saves all of its registers, whatever it wants, so that a fault
// on any path behind this one finds where to return to.
//   in        x0 and x1 are saved already
	.type	eltwo_host_sync, %function
eltwo_host_sync:
	eltwo_save_low sp, {HOST}
	eltwo_save_high sp, {HOST}, x6, x7

	mrs	x5, esr_el2
	lsr	x5, x5, #{ESR_EC_SHIFT}
	cmp	x5, #{ESR_EC_HVC64}
	b.ne	eltwo_trap
	cmp	x0, #{HVC_STUB_CALLS}
	b.lo	eltwo_stub_call
	movz	x5, #({CALL_RESET} & 0xffff)
	movk	x5, #({CALL_RESET} >> 16), lsl #16
	cmp	x0, x5
	b.ne	eltwo_call
	mov	x0, #{HVC_RESET_VECTORS}
	b	eltwo_stub_call
	.size	eltwo_host_sync, . - eltwo_host_sync

// eltwo_call: one of our hypercalls.
//   in        x0 = number, x1-x4 = arguments; all of the host's registers are saved
//   out       x0-x4 = results; all other registers as before
	.type	eltwo_call, %function
eltwo_call:
	mov	x0, sp
	ldr	x1, [sp, #{STACK_TOP}]
	msr	spsel, #0
	mov	sp, x1
	// The last frame record: a backtrace ends here.
	mov	x29, xzr
	mov	x30, xzr
	bl	{hypercall}

	msr	spsel, #1
	// Rust has preserved x19-x28.
	ldp	x30, x1, [sp, #({HOST} + 240)]
	msr	sp_el0, x1
	ldr	x29, [sp, #({HOST} + 232)]
	ldr	x18, [sp, #({HOST} + 144)]
	eltwo_load_low sp, {HOST}
	ldp	x0, x1, [sp, #({HOST} + 0)]
	eret
	// Straight-line speculation past the ERET stops here.
	dsb	nsh
	isb
	.size	eltwo_call, . - eltwo_call

// eltwo_stub_call: the kernel's stub ABI, answered at all times: it is all that kexec and kdump have.
//   in        x0 = number below HVC_STUB_CALLS, x1-x4 = arguments
//   out       as the stub would answer: an answer changes x0 and x1; a call that gives EL2 back may clobber x5-x17, as the
//             stub ABI allows
	.type	eltwo_stub_call, %function
eltwo_stub_call:
	cmp	x0, #{HVC_GET_ICH_VTR_EL2}
	b.eq	1f
	cmp	x0, #{HVC_FINALISE_EL2}
	b.eq	2f
	mov	x13, xzr
	b	eltwo_leave

1:	mrs	x5, id_aa64pfr0_el1
	ubfx	x5, x5, #24, #4		// GIC: 0 means no system register interface, and the MRS would be UNDEFINED
	cbz	x5, 2f
	mrs	x1, S3_4_C12_C11_1	// ICH_VTR_EL2
	mov	x0, xzr
	b	3f

2:	movz	x0, #({HVC_STUB_ERR} & 0xffff)
	movk	x0, #({HVC_STUB_ERR} >> 16), lsl #16
	// The kernel makes these as calls of SMCCC 1.1, by which only x0-x3 change.
3:	ldp	x6, x7, [sp, #({HOST} + 48)]
	ldr	x5, [sp, #({HOST} + 40)]
	eret
	dsb	nsh
	isb
	.size	eltwo_stub_call, . - eltwo_stub_call

// eltwo_leave: load what was found at init and take the way back (eltwo_reset in asm/idmap.S).
//   in        x0 = stub call, x1-x4 = its arguments, x13 = its answer
	.type	eltwo_leave, %function
eltwo_leave:
	add	x14, sp, #{SAVED}
	ldp	x5, x6, [x14, #0]
	ldp	x7, x8, [x14, #16]
	ldp	x9, x10, [x14, #32]
	ldr	x11, [sp, #{BOOT_TTBR_BOOT_CTX}]
	ldr	x12, [sp, #{BOOT_TRAMPOLINE_OFFSET_CTX}]
	ldr	x14, [sp, #{BOOT_RESET_VA_CTX}]
	br	x14
	.size	eltwo_leave, . - eltwo_leave

// eltwo_trap: the host trapped to EL2 with something that is no HVC. We set no trap, so it is one that the kernel or
// firmware left on; the stub would return to the same instruction for ever.
//   in        all of the host's registers are saved; x0 and x1 are live
	.type	eltwo_trap, %function
eltwo_trap:
	stp	x0, x1, [sp, #({REPORT} + 0)]
	ldp	x6, x7, [sp, #({HOST} + 48)]
	ldr	x5, [sp, #({HOST} + 40)]
	mov	x0, #0x400
	b	eltwo_fault
	.size	eltwo_trap, . - eltwo_trap

// eltwo_fault: record everything, then get out.
//   in        x0 = offset of the vector; x0 and x1 of the interrupted code are saved in the report
//   out       from EL2: the CPU is back at the kernel's stub and the host's call returns Status::Fault
//             from EL1 or EL0: the host gets an UNDEFINED exception on that instruction
	.type	eltwo_fault, %function
eltwo_fault:
	add	x1, sp, #{REPORT}
	eltwo_save_low x1, 0
	eltwo_save_high x1, 0, x2, x3
	mrs	x4, esr_el2
	mrs	x5, far_el2
	stp	x4, x5, [x1, #({REPORT_ESR} + 0)]
	mrs	x4, hpfar_el2
	stp	x4, x0, [x1, #({REPORT_ESR} + 16)]
	ldr	x5, [sp, #{GUEST_LOADED}]
	str	x5, [x1, #({REPORT_ESR} + 32)]
	// Whoever sees `valid`, on any CPU, sees the report.
	mov	x4, #1
	add	x6, x1, #({REPORT_ESR} + 40)
	stlr	x4, [x6]
	ldr	x4, [sp, #{FAULTS}]
	add	x4, x4, #1
	str	x4, [sp, #{FAULTS}]

	cmp	x0, #0x400
	b.hs	1f

	// A guest's registers, all or some, may be in the CPU: the host's come back first.
	cbz	x5, 2f
	bl	eltwo_abandon_guest
2:
	// The host is inside a call: its frame, saved by eltwo_host_sync, tells where to return to.
	eltwo_load_return sp, {HOST}, x2, x3
	eltwo_load_high sp, {HOST}, x1
	mov	x0, #{HVC_RESET_VECTORS}
	mov	x13, #{STATUS_FAULT}
	b	eltwo_leave

	// UNDEFINED exception to EL1: ESR_EL1.EC = 0 with IL set, the vector by where PSTATE says that it came from.
1:	msr	elr_el1, x2
	msr	spsr_el1, x3
	mov	x4, #(1 << 25)
	msr	esr_el1, x4
	mrs	x5, vbar_el1
	mov	x6, #0x600
	tbnz	x3, #4, 2f		// AArch32 EL0
	mov	x6, #0x400
	tst	x3, #0xc
	b.eq	2f			// AArch64 EL0
	mov	x6, #0x200
	tbnz	x3, #0, 2f		// EL1h
	mov	x6, xzr			// EL1t
2:	add	x5, x5, x6
	msr	elr_el2, x5
	// PSTATE as an exception to EL1 sets it: NZCV, DIT and PAN stay, PAN is set unless SCTLR_EL1.SPAN, SSBS is
	// SCTLR_EL1.DSSBS, EL1h and DAIF; the rest is 0 (TCO should be 1 with FEAT_MTE2: the kernel sets it itself).
	mrs	x4, sctlr_el1
	movz	x6, #0xf140, lsl #16
	and	x6, x3, x6
	tbnz	x4, #23, 3f
	orr	x6, x6, #(1 << 22)
3:	ubfx	x7, x4, #44, #1
	orr	x6, x6, x7, lsl #12
	mov	x7, #0x3c5
	orr	x6, x6, x7
	msr	spsr_el2, x6
	ldp	x2, x3, [x1, #16]
	ldp	x4, x5, [x1, #32]
	ldp	x6, x7, [x1, #48]
	ldp	x0, x1, [x1, #0]
	eret
	dsb	nsh
	isb
	.size	eltwo_fault, . - eltwo_fault

	.purgem	eltwo_save_low
	.purgem	eltwo_save_high
	.purgem	eltwo_load_return
	.purgem	eltwo_load_high
	.purgem	eltwo_load_low
	.purgem	eltwo_fp_pairs
	.popsection
