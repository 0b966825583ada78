/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The flattened EL2 image and the names of its functions, as read-only data of the module.
 *
 * It ends after the last byte of initialised data; the zeroed rest of the image is only counted in its header. The
 * module copies it to memory of its own and never runs it here.
 */

#include <linux/linkage.h>

	.section .rodata, "a"
	.balign	16
SYM_DATA_START(eltwo_blob_start)
	.incbin	"hyp/eltwo_hyp.bin"
SYM_DATA_END_LABEL(eltwo_blob_start, SYM_L_GLOBAL, eltwo_blob_end)

SYM_DATA_START(eltwo_syms_start)
	.incbin	"hyp/eltwo_hyp.syms"
SYM_DATA_END_LABEL(eltwo_syms_start, SYM_L_GLOBAL, eltwo_syms_end)
