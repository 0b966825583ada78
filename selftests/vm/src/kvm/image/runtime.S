// SPDX-License-Identifier: GPL-2.0-only
//
// The runtime that all programs of the guests share: entry, MMU, exceptions, console, end.
//
// The image is position independent and stands at the start of the guest's memory. While a program runs,
//   x27 = the mailbox of this vCPU, x28 = the page of MMIO registers that user space answers,
// and no program changes them. Sources: Arm ARM DDI 0487, D8 (translation), D1.4 (vectors), C5.2.

	.section .rodata.guest_image, "a"
	.balign	4096
	.globl	guest_image
	.hidden	guest_image
guest_image:

// Entry of every vCPU, from KVM_ARM_VCPU_INIT and from CPU_ON alike: switches the MMU on and jumps to the program.
// In: x0 = address of the mailbox. MMU off, PSTATE EL1h with all exceptions masked.
	.globl	guest_boot
	.hidden	guest_boot
guest_boot:
	mov	x27, x0
	movz	x28, #{MMIO_HIGH}, lsl #16
	msr	tpidr_el1, x27
	adr	x1, guest_vectors
	msr	vbar_el1, x1
	adr	x1, guest_image
	add	x1, x1, #{TABLE}
	msr	ttbr0_el1, x1
	ldr	x1, 1f
	msr	mair_el1, x1
	ldr	x1, 2f
	mrs	x2, id_aa64mmfr0_el1	// PARange is the low field of both, bits [2:0] fit TCR_EL1.IPS
	ubfx	x2, x2, #0, #3
	bfi	x1, x2, #32, #3
	msr	tcr_el1, x1
	movz	x1, #0x333, lsl #16	// CPACR_EL1.FPEN, ZEN, SMEN: no trap of ours, so that what is trapped is EL2's
	msr	cpacr_el1, x1
	isb
	tlbi	vmalle1
	dsb	nsh
	isb
	ldr	x1, 3f
	msr	sctlr_el1, x1
	isb
	ldr	x16, [x27, #{PROGRAM}]
	ldp	x1, x2, [x27, #({ARGUMENTS} + 0)]
	ldp	x3, x4, [x27, #({ARGUMENTS} + 16)]
	ldp	x5, x6, [x27, #({ARGUMENTS} + 32)]
	br	x16
	.balign	8
1:	.quad	0x00ff			// MAIR_EL1: 0 = write-back, 1 = Device-nGnRnE
2:	.quad	0x80803519		// TCR_EL1: T0SZ 25, write-back walks, inner shareable, 4 KiB, TTBR1 off
3:	.quad	0x30d0199d		// SCTLR_EL1: M, C, I, SA, SA0 and RES1

// Ends the program. In: x0 = its result. Comes back only if user space runs the vCPU on, and then ends again.
guest_finish:
	str	x0, [x28, #{DONE}]
	b	guest_finish

// Prints a string that ends with a zero byte. In: x0 = address. Clobbers x0, x1.
guest_puts:
	ldrb	w1, [x0], #1
	cbz	w1, 1f
	strb	w1, [x28, #{CONSOLE}]
	b	guest_puts
1:	ret

// Every exception: notes ESR_EL1, ELR_EL1 and FAR_EL1 in the mailbox and counts. If the program has asked for it, the
// instruction is skipped; otherwise user space is told, for good. Clobbers TPIDR_EL0.
guest_exception:
	msr	tpidr_el0, x0
	mrs	x0, tpidr_el1
	stp	x1, x2, [x0, #{SCRATCH}]
	mrs	x1, esr_el1
	mrs	x2, elr_el1
	stp	x1, x2, [x0, #{ESR}]
	mrs	x1, far_el1
	str	x1, [x0, #{FAR}]
	ldr	x1, [x0, #{TAKEN}]
	add	x1, x1, #1
	str	x1, [x0, #{TAKEN}]
	ldr	x1, [x0, #{SKIP}]
	cbz	x1, 1f
	add	x2, x2, #4
	msr	elr_el1, x2
	ldp	x1, x2, [x0, #{SCRATCH}]
	mrs	x0, tpidr_el0
	eret
1:	movz	x1, #{MMIO_HIGH}, lsl #16
	ldr	x2, [x0, #{ESR}]
	str	x2, [x1, #{FAULT}]
	b	1b

// An interrupt, IRQ or FIQ: notes ISR_EL1 in the mailbox and goes on with both masked, as the line stays up. Clobbers
// TPIDR_EL0.
guest_interrupt:
	msr	tpidr_el0, x0
	mrs	x0, tpidr_el1
	stp	x1, x2, [x0, #{SCRATCH}]
	mrs	x1, isr_el1
	str	x1, [x0, #{INTERRUPT}]
	mrs	x1, spsr_el1
	orr	x1, x1, #0xc0
	msr	spsr_el1, x1
	ldp	x1, x2, [x0, #{SCRATCH}]
	mrs	x0, tpidr_el0
	eret

	.balign	2048
guest_vectors:
	.rept	5
	.balign	128
	b	guest_exception
	.endr
	.rept	2			// IRQ and FIQ from EL1h
	.balign	128
	b	guest_interrupt
	.endr
	.rept	9
	.balign	128
	b	guest_exception
	.endr
	.balign	128
