// SPDX-License-Identifier: GPL-2.0-only
//
// Loops whose time tells what one exit costs. The clock is CNTVCT_EL0.

// Calls the function x1 by HVC x2 times. Result: ticks.
	program	bench_hvc
	mov	x20, x1
	mov	x21, x2
	isb
	mrs	x22, cntvct_el0
1:	mov	x0, x20
	mov	x1, #0
	mov	x2, #0
	mov	x3, #0
	hvc	#0
	subs	x21, x21, #1
	b.ne	1b
	isb
	mrs	x0, cntvct_el0
	sub	x0, x0, x22
	b	guest_finish

// Writes to the MMIO address x1, x2 times. Result: ticks.
	program	bench_mmio
	isb
	mrs	x22, cntvct_el0
1:	str	xzr, [x1]
	subs	x2, x2, #1
	b.ne	1b
	isb
	mrs	x0, cntvct_el0
	sub	x0, x0, x22
	b	guest_finish

// Writes 8 bytes at x1 and then every x3 bytes below x1 + x2. Result: ticks.
	program	bench_touch
	add	x2, x2, x1
	isb
	mrs	x22, cntvct_el0
1:	str	x1, [x1]
	add	x1, x1, x3
	cmp	x1, x2
	b.lo	1b
	isb
	mrs	x0, cntvct_el0
	sub	x0, x0, x22
	b	guest_finish
