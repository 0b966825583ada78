// SPDX-License-Identifier: GPL-2.0-only
//
// EL2 image: the vectors while a guest's registers are in the CPU. The first eight are EL2's own faults, in the switch (guest.S).
//
// Entered with DAIF masked, the MMU on (runtime PGD) and SP_EL2 = this CPU's CpuContext; all other registers are as the exception
// found them. Each saves x0 and x1 in CpuContext and changes no other.
//
// Brought in by global_asm! of rust/hyp/guest.rs, which gives the names in braces.

	.pushsection .text.eltwo_guest, "ax"

	.macro	eltwo_switch_fault offset
	.balign	128
	stp	x0, x1, [sp, #({REPORT} + 0)]
	mov	x0, #\offset
	b	eltwo_fault
	.endm

	// The ESB (a NOP without FEAT_RAS) defers an SError of the guest's to DISR_EL1.
	.macro	eltwo_exit_vector reason
	.balign	128
	hint	#16
	stp	x0, x1, [sp, #({HOST} + 0)]
	mov	x0, #\reason
	b	eltwo_guest_exit
	.endm

	.balign	2048
	.type	eltwo_guest_vectors, %function
eltwo_guest_vectors:
	eltwo_switch_fault 0x000
	eltwo_switch_fault 0x080
	eltwo_switch_fault 0x100
	eltwo_switch_fault 0x180

	.balign	128			// Synchronous, EL2h: an external abort of the one AT is no fault of ours
	stp	x0, x1, [sp, #({REPORT} + 0)]
	mrs	x0, elr_el2
	adr	x1, eltwo_translation
	cmp	x0, x1
	b.ne	1f
	// Same class as any data abort without a change of level, and DFSC is an external one (0x10, 0x13-0x17).
	mrs	x0, esr_el2
	ubfx	x1, x0, #{ESR_EC_SHIFT}, #6
	cmp	x1, #0x25
	b.ne	1f
	tbz	x0, #4, 1f
	tbnz	x0, #5, 1f
	ldp	x0, x1, [sp, #({REPORT} + 0)]
	b	eltwo_translation_failed
1:	mov	x0, #0x200
	b	eltwo_fault

	eltwo_switch_fault 0x280
	eltwo_switch_fault 0x300

	.balign	128			// SError, EL2h: wanted in the window, and there only
	stp	x0, x1, [sp, #({REPORT} + 0)]
	mrs	x0, elr_el2
	adr	x1, eltwo_serror_window
	sub	x0, x0, x1
	cmp	x0, #4
	b.ls	1f
	mov	x0, #0x380
	b	eltwo_fault
1:	ldp	x0, x1, [sp, #({REPORT} + 0)]
	b	eltwo_exit_serror_taken

	eltwo_exit_vector {EXIT_SYNC}		// AArch64
	eltwo_exit_vector {EXIT_IRQ}
	eltwo_exit_vector {EXIT_IRQ}		// FIQ
	eltwo_exit_vector {EXIT_SERROR}
	eltwo_exit_vector {EXIT_SYNC}		// AArch32, EL0
	eltwo_exit_vector {EXIT_IRQ}
	eltwo_exit_vector {EXIT_IRQ}
	eltwo_exit_vector {EXIT_SERROR}
	.balign	128
	.purgem	eltwo_switch_fault
	.purgem	eltwo_exit_vector
	.size	eltwo_guest_vectors, . - eltwo_guest_vectors

	.popsection
