// SPDX-License-Identifier: GPL-2.0-only
//
// Work whose result says whether anything was lost: words in memory, all general and all vector registers, FPCR.
// `Compute` in compute.rs does the same sum.

// In: x1 = address and x2 = number (a multiple of 8) of the words, x3 = rounds (0: until user space says stop),
// x4 = seed, x5 = steps of doing nothing after each round. Each round: word = word * MULTIPLIER + seed + round, for each word, and every word is added to the sum; then
// each vector register is mixed with its neighbours, and a double x becomes r * (x * (1 - x)).
// Out: x0 = sum of all. The number of rounds done is the progress in the mailbox.
	program	compute
	ldr	x21, 8f
	mov	x20, x1
	mov	x19, x2
	mov	x22, x3
	mov	x23, x4
	mov	x26, x5
	mov	x24, #0			// sum
	mov	x25, #0			// round
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28
	add	x9, x23, #(\n * 3 + 1)
	fmov	d\n, x9
	mov	v\n\().d[1], x9
	.endr
	fmov	d29, #1.0
	and	w9, w23, #0xff
	add	w9, w9, #1
	ucvtf	d30, w9, #9
	ldr	d31, 9f
	mov	x9, #(1 << 24)		// FPCR.FZ: another value than the host's
	msr	fpcr, x9
1:	mov	x10, x20
	add	x11, x20, x19, lsl #3
	add	x12, x23, x25
2:	ldr	x9, [x10]
	madd	x9, x9, x21, x12
	str	x9, [x10], #8
	add	x24, x24, x9
	cmp	x10, x11
	b.lo	2b
	.irp	n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28
	add	v0.2d, v0.2d, v\n\().2d
	eor	v\n\().16b, v\n\().16b, v0.16b
	.endr
	fsub	d29, d29, d30
	fmul	d29, d29, d30
	fmul	d30, d29, d31
	fmov	d29, #1.0
	add	x25, x25, #1
	str	x25, [x27, #{PROGRESS}]
	mov	x9, x26
3:	cbz	x9, 4f
	sub	x9, x9, #1
	b	3b
4:	cmp	x25, x22
	b.eq	7f
	ldr	x9, [x27, #{STOP}]
	cbz	x9, 1b
7:	mov	x0, x24
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	fmov	x9, d\n
	add	x0, x0, x9
	.endr
	mov	x9, v28.d[1]
	add	x0, x0, x9
	mrs	x9, fpcr
	add	x0, x0, x9
	b	guest_finish
	.balign	8
8:	.quad	{MULTIPLIER}
9:	.double	3.9
