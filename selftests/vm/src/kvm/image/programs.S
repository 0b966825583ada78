// SPDX-License-Identifier: GPL-2.0-only
//
// The programs of the guests. Each begins with x1..x6 = its arguments, x27 = its mailbox, x28 = the MMIO page, the MMU on,
// and ends in guest_finish with its result in x0. None of them uses a stack.

// Declares a program, so that user space can find it.
	.macro	program name
	.balign	16
	.globl	guest_\name
	.hidden	guest_\name
guest_\name:
	.endm

// Prints a line.
	program	hello
	adr	x0, 1f
	bl	guest_puts
	mov	x0, #0x600d
	b	guest_finish
1:	.asciz	"Hello from EL1 of a guest.\n"
	.balign	4

// Makes one call of the SMCCC. x1 = function, x2..x5 = its arguments; result: x0. x0..x3 go to the mailbox.
	program	hvc
	mov	x0, x1
	mov	x1, x2
	mov	x2, x3
	mov	x3, x4
	mov	x4, x5
	hvc	#0
	stp	x0, x1, [x27, #{RESULTS}]
	stp	x2, x3, [x27, #({RESULTS} + 16)]
	b	guest_finish

// As hvc, by SMC.
	program	smc
	mov	x0, x1
	mov	x1, x2
	mov	x2, x3
	mov	x3, x4
	mov	x4, x5
	smc	#0
	stp	x0, x1, [x27, #{RESULTS}]
	stp	x2, x3, [x27, #({RESULTS} + 16)]
	b	guest_finish

// Loads from the MMIO address x1 in every size, signed and unsigned, into both widths of registers; reports each
// register. The register is all ones before, so that bits that are not written show.
	.macro	load_and_report instruction, register
	mov	x0, #-1
	\instruction	\register, [x1]
	str	x0, [x28, #{REPORT}]
	.endm
	program	mmio_loads
	load_and_report	ldrb, w0
	load_and_report	ldrh, w0
	load_and_report	ldr, w0
	load_and_report	ldr, x0
	load_and_report	ldrsb, w0
	load_and_report	ldrsb, x0
	load_and_report	ldrsh, w0
	load_and_report	ldrsh, x0
	load_and_report	ldrsw, x0
	mov	x0, #0
	b	guest_finish

// Stores x2 to the MMIO address x1 in every size, and the zero register too.
	program	mmio_stores
	strb	w2, [x1]
	strh	w2, [x1]
	str	w2, [x1]
	str	x2, [x1]
	strb	wzr, [x1]
	strh	wzr, [x1]
	str	wzr, [x1]
	str	xzr, [x1]
	mov	x0, #0
	b	guest_finish

// Executes the instruction x1 once, with exceptions skipped and x0 = x2 before it. Result: x0 after it.
// It is written to x3, a place in memory for two instructions.
	program	execute
	mov	x9, #1
	str	x9, [x27, #{SKIP}]
	str	w1, [x3]
	adr	x9, 1f
	ldr	w9, [x9]
	str	w9, [x3, #4]
	dc	cvau, x3
	dsb	ish
	ic	ivau, x3
	dsb	ish
	isb
	mov	x0, x2
	blr	x3
	b	guest_finish
1:	ret

// Reads 8 bytes at x1 and then every x3 bytes below x1 + x2. Result: the sum.
	program	read
	mov	x0, #0
	add	x2, x2, x1
1:	ldr	x9, [x1]
	add	x0, x0, x9
	add	x1, x1, x3
	cmp	x1, x2
	b.lo	1b
	b	guest_finish

// As read, but writes x4, x4 + 1, ... there. Result: the number of writes.
	program	write
	mov	x0, #0
	add	x2, x2, x1
1:	add	x9, x4, x0
	str	x9, [x1]
	add	x0, x0, #1
	add	x1, x1, x3
	cmp	x1, x2
	b.lo	1b
	b	guest_finish

// Counts in the mailbox until user space asks it to stop. Result: the count.
	program	spin
	mov	x0, #0
1:	add	x0, x0, #1
	str	x0, [x27, #{PROGRESS}]
	ldr	x9, [x27, #{STOP}]
	cbz	x9, 1b
	b	guest_finish

// As read, over and over, until user space asks it to stop; counts the rounds. Result: the sum of the last round.
	program	read_on
	add	x2, x2, x1
1:	mov	x0, #0
	mov	x10, x1
2:	ldr	x9, [x10]
	add	x0, x0, x9
	add	x10, x10, x3
	cmp	x10, x2
	b.lo	2b
	ldr	x9, [x27, #{PROGRESS}]
	add	x9, x9, #1
	str	x9, [x27, #{PROGRESS}]
	ldr	x9, [x27, #{STOP}]
	cbz	x9, 1b
	b	guest_finish

// As read_on, but adds one to each of the words; those begin at zero. Result: the number of rounds.
	program	write_on
	add	x2, x2, x1
	mov	x0, #0
1:	add	x0, x0, #1
	mov	x10, x1
2:	ldr	x9, [x10]
	add	x9, x9, #1
	str	x9, [x10]
	add	x10, x10, x3
	cmp	x10, x2
	b.lo	2b
	str	x0, [x27, #{PROGRESS}]
	ldr	x9, [x27, #{STOP}]
	cbz	x9, 1b
	b	guest_finish

// Waits for an interrupt, once. Result: 1.
	program	wfi
	str	x28, [x28, #{REPORT}]
	wfi
	mov	x0, #1
	b	guest_finish

// Writes to the MMIO address x1, with write-back of the address: no syndrome says what it does.
	program	mmio_no_syndrome
	str	x2, [x1], #8
	mov	x0, #1
	b	guest_finish

// Reports MPIDR_EL1, CurrentEL and the address of its mailbox. Result: MPIDR_EL1.
	program	identity
	mrs	x0, mpidr_el1
	str	x0, [x28, #{REPORT}]
	mrs	x9, currentel
	str	x9, [x28, #{REPORT}]
	str	x27, [x28, #{REPORT}]
	b	guest_finish

// Lets interrupts in and waits for one, after a report. Result: ISR_EL1 as its handler saw it; 0 if none came.
	program	interrupt_taken
	str	x28, [x28, #{REPORT}]
	msr	daifclr, #3
	isb
	wfi
	isb
	msr	daifset, #3
	ldr	x0, [x27, #{INTERRUPT}]
	b	guest_finish

// Lets SErrors in. Result: 1, if none comes.
	program	serror
	msr	daifclr, #4
	isb
	nop
	mov	x0, #1
	b	guest_finish

// Reads CNTVCT_EL0 and CNTPCT_EL0, which go to the mailbox. Result: 1.
	program	counters
	isb
	mrs	x0, cntvct_el0
	mrs	x9, cntpct_el0
	stp	x0, x9, [x27, #{RESULTS}]
	mov	x0, #1
	b	guest_finish

// Goes to the address x1.
	program	jump
	br	x1

// Goes to EL0 in AArch32, at the address x1, with r0..r3 = x3..x6 and PSTATE = x2. What ends that is an exception.
	program	aarch32
	msr	spsr_el1, x2
	msr	elr_el1, x1
	mov	x0, x3
	mov	x1, x4
	mov	x2, x5
	mov	x3, x6
	eret
