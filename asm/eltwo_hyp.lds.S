/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Linker script of the EL2 image.
 *
 * Linked at 0 and run wherever the loader maps it. Each of the four parts has its own access rights and so begins on a
 * page of the kernel's granule:
 *
 *   .hyp.idmap  R X  the image header, then the code that runs with VA = PA; one 4 KiB page at most, whatever the
 *                    granule; the runtime PGD has it at the trampoline VA, not among the rest of the image
 *   .text       R X
 *   .rodata     R    begins with the R_AARCH64_RELATIVE table that the loader applies
 *   .data       RW   with .bss, which the flattened image does not hold
 *
 * The linker refuses a section that is not named here, and code that can panic: see /DISCARD/.
 */

#include <asm-generic/vmlinux.lds.h>
#include <asm/page.h>

OUTPUT_ARCH(aarch64)

/* Nothing is entered by the ELF file's entry point; the linkers want one. */
ENTRY(__hyp_image_start)

PHDRS
{
	text	PT_LOAD FLAGS(5);
	rodata	PT_LOAD FLAGS(4);
	data	PT_LOAD FLAGS(6);
}

SECTIONS
{
	/*
	 * A panicking path is an error of the link: "... referenced in section X: defined in discarded section Y". X
	 * is the function to look at. The panic handler refers to an undefined symbol for what gets past the patterns.
	 */
	/DISCARD/ : {
		*(.text*_4core9panicking*)
		*(.text*_4core6option13expect_failed* .text*_4core6option13unwrap_failed*)
		*(.text*_4core6result13unwrap_failed*)
		*(.text*_4core5slice5index*_fail* .text*_4core5slice*len_mismatch_fail*)
		*(.text*_4core3str16slice_error_fail*)
		*(.text*_4core4cell*panic_already*)
	}

	. = 0;
	PROVIDE(__hyp_image_start = .);

	.hyp.idmap : {
		__hyp_idmap_start = .;
		KEEP(*(.hyp.idmap .hyp.idmap.*))
		__hyp_idmap_end = .;
	} :text

	. = ALIGN(PAGE_SIZE);
	.text : {
		__hyp_text_start = .;
		*(.text .text.*)
		. = ALIGN(PAGE_SIZE);
	} :text

	.rela.dyn : {
		__hyp_rodata_start = .;
		__hyp_rela_start = .;
		*(.rela .rela.*)
		__hyp_rela_end = .;
	} :rodata

	/* The linker fills in the reserved entries of the first two. The build checks that there is no other relocation. */
	.got : { *(.got) } :rodata
	.got.plt : { *(.got.plt) } :rodata
	.plt : { *(.plt .iplt .igot .igot.plt) } :rodata

	/* The linker's hash of the image, behind the note's head of 16 bytes. It tells which eltwo_hyp.elf has the symbols. */
	.note.gnu.build-id : {
		__hyp_build_id = . + 16;
		KEEP(*(.note.gnu.build-id))
	} :rodata

	.rodata : {
		*(.rodata .rodata.*)
		*(.data.rel.ro .data.rel.ro.*)
		. = ALIGN(PAGE_SIZE);
	} :rodata

	.data : {
		__hyp_data_start = .;
		*(.data .data.*)
		. = ALIGN(16);
	} :data

	.bss (NOLOAD) : ALIGN(16) {
		*(.bss .bss.* .dynbss)
		*(COMMON)
		. = ALIGN(PAGE_SIZE);
		__hyp_image_end = .;
	} :data

	DWARF_DEBUG
	.debug_gdb_scripts 0 : { *(.debug_gdb_scripts) }
	ELF_DETAILS

	/DISCARD/ : {
		*(.interp .dynamic .dynsym .dynstr .hash .gnu.hash .gnu.version*)
		*(.note.* .eh_frame .rela.eh_frame)
	}
}

ASSERT(SIZEOF(.note.gnu.build-id) == 16 + 20, "the build ID is not a SHA-1")
ASSERT(__hyp_image_start == 0, "the image header must be at offset 0")
ASSERT(SIZEOF(.hyp.idmap) != 0, "the image has no header")
ASSERT(__hyp_idmap_end - __hyp_idmap_start <= 4096, "the identity mapped part does not fit in 4 KiB")
