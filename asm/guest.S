// SPDX-License-Identifier: GPL-2.0-only
//
// EL2 image: the switch between the host and a guest.
//
// A guest has vectors of its own, so neither side pays for telling the other's exceptions from its own. SP_EL2 stays the
// address of this CPU's struct common::abi::CpuContext; its `guest` (struct GuestSlot) keeps the host's registers while the
// guest's are in the CPU, and `loaded` tells whether they are. The host's x18-x30, SP_EL0, ELR and SPSR are kept in `host`,
// as for every call, so a fault finds them there. x0-x17 are the caller's to lose.
//
// The guest's vectors are in guest_vectors.S, the optional registers in guest_extra.S. Here and in the latter x1 = VcpuContext
// of the guest, x8 = its flags, x16 = GuestSlot, x17 = exit reason, wherever they are live.
//
// Everything runs at EL2h with DAIF masked and the MMU on (runtime PGD). EL2's own translation regime is never touched:
// what is switched is EL1&0's, which is out of context at EL2 (Arm ARM D8.2.5, R_LFHQG).
//
// Brought in by global_asm! of rust/hyp/guest.rs, which gives the names in braces.

	.pushsection .text.eltwo_guest, "ax"
	// The crate is compiled without FP/SIMD; the guest's registers are switched here all the same.
	.arch_extension fp
	.arch_extension simd

// \action for each pair of the registers that are switched, in the order of common::guest::SysReg: SCTLR_EL1 and TCR_EL1 stand
// before these. \base + \at is the address of the first one.
	.macro	eltwo_sys_pairs action, base, at
	\action	cpacr_el1, ttbr0_el1, \base, \at, 1
	\action	ttbr1_el1, esr_el1, \base, \at, 2
	\action	afsr0_el1, afsr1_el1, \base, \at, 3
	\action	far_el1, mair_el1, \base, \at, 4
	\action	vbar_el1, contextidr_el1, \base, \at, 5
	\action	amair_el1, cntkctl_el1, \base, \at, 6
	\action	par_el1, tpidr_el0, \base, \at, 7
	\action	tpidrro_el0, tpidr_el1, \base, \at, 8
	\action	sp_el1, elr_el1, \base, \at, 9
	\action	spsr_el1, mdscr_el1, \base, \at, 10
	\action	cntv_cval_el0, cntv_ctl_el0, \base, \at, 11
	.endm

	.macro	eltwo_save_pair first, second, base, at, pair
	mrs	x2, \first
	mrs	x3, \second
	stp	x2, x3, [\base, #(\at + 16 * \pair)]
	.endm

	.macro	eltwo_load_pair first, second, base, at, pair
	ldp	x2, x3, [\base, #(\at + 16 * \pair)]
	msr	\first, x2
	msr	\second, x3
	.endm

// PAR_EL1 is about to be read, by the host's save or the guest's. The DSB that follows both is the barrier behind the read.
	.macro	eltwo_par_barrier
	tbz	x8, #{FLAG_PAR_BARRIER}, 1f
	dmb	sy
1:
	.endm

// TCR_EL1.EPD0 and EPD1 in \reg: no walk can start.
	.macro	eltwo_no_walks reg
	orr	\reg, \reg, #(1 << 7)
	orr	\reg, \reg, #(1 << 23)
	.endm

// SPECULATIVE_AT: an AT that is executed speculatively walks with what is in the registers at that moment, also at EL2. No
// mixture of the host's and a guest's may be walkable, so no walk can start from here on; and with the MMU on, whoever had it
// off, nothing is taken for a flat mapping. Clobbers x2.
	.macro	eltwo_shut_walks
	mrs	x2, tcr_el1
	eltwo_no_walks x2
	msr	tcr_el1, x2
	isb
	mrs	x2, sctlr_el1
	orr	x2, x2, #1
	msr	sctlr_el1, x2
	isb
	.endm

// The end of that: SCTLR_EL1 = x4 and only after it TCR_EL1 = x5. What was written before, VTTBR_EL2 included, holds with the
// same ISB: up to it no walk can start.
	.macro	eltwo_open_walks
	msr	sctlr_el1, x4
	isb
	msr	tcr_el1, x5
	.endm

// eltwo_run_vcpu: HVC_RUN of the host.
//   in        x1 of the host, saved by the vector: hyp VA of the VcpuContext
//   out       to the host: x0 = status, x1 = exit reason; x2-x17 clobbered, and FP/SIMD if the guest has it
	.global	eltwo_run_vcpu
	.type	eltwo_run_vcpu, %function
eltwo_run_vcpu:
	ldr	x1, [sp, #({HOST} + 8)]
	add	x16, sp, #{SLOT}
	// What is not admitted is not touched. A page that was unshared since may have been this one.
	ldp	x2, x3, [x16, #{SLOT_ADMITTED}]
	ldr	x4, [sp, #{SHARED_VA}]
	ldr	x4, [x4, #{SHARED_UNSHARES}]
	cmp	x1, x2
	ccmp	x3, x4, #0, eq
	b.ne	eltwo_run_not_admitted
	// What is pending would end the guest's run before its first instruction; an SError that is the host's would be taken
	// for the guest's.
	mrs	x5, isr_el1
	cbnz	x5, eltwo_run_interrupted

	// Before the first access to the vCPU's page: should that be an exception of ours, the host is resumed by this frame.
	eltwo_save_high sp, {HOST}, x2, x3
	ldp	x6, x7, [x1, #({VCPU_REGS} + 256)]
	ldr	x8, [x1, #{VCPU_FLAGS}]
	// PSTATE.M may be EL0t, EL1t or EL1h. Anything else would make the ERET an illegal return, or one to EL2.
	and	x9, x7, #0x1f
	mov	x10, #((1 << 0) | (1 << 4) | (1 << 5))
	// AArch32 User, where it exists.
	ubfx	x11, x8, #{FLAG_AARCH32_EL0}, #1
	orr	x10, x10, x11, lsl #16
	lsr	x10, x10, x9
	tbz	x10, #0, eltwo_run_illegal

	mrs	x4, sctlr_el1
	mrs	x5, tcr_el1
	stp	x4, x5, [x16, #{SLOT_SYS}]
	eltwo_par_barrier
	eltwo_sys_pairs eltwo_save_pair, x16, {SLOT_SYS}
	tbnz	x8, #{FLAG_EXTRA}, eltwo_extra_save
eltwo_extra_saved:

	// From here on a fault has to put the host's registers back, the optional ones included: all are saved.
	str	x1, [x16, #{SLOT_LOADED}]
	tbnz	x8, #{FLAG_EXTRA}, eltwo_extra_enter
eltwo_extra_entered:
	// Walks that the host's last instructions have started are done before any register changes that they read.
	dsb	nsh

	ldp	x4, x5, [x1, #{VCPU_SYS}]
	tbnz	x8, #{FLAG_SPECULATIVE_AT}, eltwo_enter_no_walks
	msr	sctlr_el1, x4
	msr	tcr_el1, x5
eltwo_enter_walks_known:
	eltwo_sys_pairs eltwo_load_pair, x1, {VCPU_SYS}

	add	x9, x1, #{VCPU_CONFIG}
	ldp	x10, x11, [x9, #0]		// HCR, MDCR
	ldr	x2, [x16, #{SLOT_EL2_MDCR}]
	bfxil	x11, x2, #0, #5			// HPMN: the CPU's own
	msr	mdcr_el2, x11
	ldp	x2, x3, [x9, #16]
	msr	cptr_el2, x2
	msr	hstr_el2, x3
	ldp	x2, x3, [x9, #32]
	msr	vttbr_el2, x2
	msr	vtcr_el2, x3
	ldp	x2, x3, [x9, #48]
	msr	cntvoff_el2, x2
	msr	cnthctl_el2, x3
	ldp	x2, x3, [x9, #64]
	msr	vpidr_el2, x2
	msr	vmpidr_el2, x3
	adr	x2, eltwo_guest_vectors
	msr	vbar_el2, x2
	// Some cores lose a write of HCR_EL2 that memory accesses overlap with (Linux: AMPERE_ERRATUM_AC04_CPU_23): a DSB before
	// and an ISB behind it. The ISB also makes all of the above hold before the TLBIs and SCTLR_EL1 below.
	dsb	nsh
	msr	hcr_el2, x10
	isb
	tbnz	x8, #{FLAG_SPECULATIVE_AT}, eltwo_enter_allow_walks
eltwo_enter_walks_allowed:
	tbnz	x8, #{FLAG_FLUSH}, eltwo_enter_flush
eltwo_enter_flushed:
	tbnz	x8, #{FLAG_RAS}, eltwo_enter_ras
eltwo_enter_ras_done:
	tbnz	x8, #{FLAG_FP}, eltwo_enter_fp
eltwo_enter_fp_done:
	msr	elr_el2, x6
	msr	spsr_el2, x7
	eltwo_load_high x1, {VCPU_REGS}, x2
	eltwo_load_low x1, {VCPU_REGS}
	ldp	x0, x1, [x1, #({VCPU_REGS} + 0)]
	// A context synchronization event (SCTLR_EL2.EOS = 1): every register above holds for the guest.
	eret
	// Straight-line speculation past the ERET stops here.
	dsb	nsh
	isb

// SPECULATIVE_AT (see eltwo_shut_walks; the host has its MMU on): first no walks at all, then everything but SCTLR_EL1 and
// TCR_EL1, then, with stage 2 on, these.
eltwo_enter_no_walks:
	mov	x2, x5
	eltwo_no_walks x2
	msr	tcr_el1, x2
	isb
	b	eltwo_enter_walks_known

eltwo_enter_allow_walks:
	ldp	x4, x5, [x1, #{VCPU_SYS}]
	eltwo_open_walks
	b	eltwo_enter_walks_allowed

// Another vCPU of this VM ran here: what it left under the same VMID and ASIDs may mean something else for this one. The
// instruction cache may be tagged by VMID and ASID in the same way. Local, as only this CPU's copies matter.
// Or stage 2 allows this vCPU something that a cached entry still forbids: hence both stages.
eltwo_enter_flush:
	tbnz	x8, #{FLAG_PROVOKE_ENTERING}, eltwo_provoke_entering
eltwo_enter_flush_wanted:
	bic	x2, x8, #(1 << {FLAG_FLUSH})
	str	x2, [x1, #{VCPU_FLAGS}]
	tlbi	vmalls12e1
	ic	iallu
	// Completes both; the ERET is the context synchronization event that they need.
	dsb	nsh
	b	eltwo_enter_flushed

eltwo_enter_ras:
	ldr	x2, [x1, #{VCPU_DISR}]
	msr	S3_4_C12_C1_1, x2	// VDISR_EL2: what the guest has in DISR_EL1
	ldr	x2, [x1, #{VCPU_VSESR}]
	msr	S3_4_C5_C2_3, x2	// VSESR_EL2
	b	eltwo_enter_ras_done

eltwo_enter_fp:
	add	x9, x1, #{VCPU_FP}
	eltwo_fp_pairs ldp, x9
	add	x9, x9, #512
	ldp	x2, x3, [x9]
	msr	fpsr, x2
	msr	fpcr, x3
	b	eltwo_enter_fp_done

eltwo_run_not_admitted:
	mov	x0, #{STATUS_NOT_FOUND}
	eret
	dsb	nsh
	isb

eltwo_run_interrupted:
	mov	x0, xzr
	mov	x1, #{EXIT_IRQ}
	eret
	dsb	nsh
	isb

eltwo_run_illegal:
	mov	x0, xzr
	mov	x1, #{EXIT_ILLEGAL}
	eret
	dsb	nsh
	isb
	.size	eltwo_run_vcpu, . - eltwo_run_vcpu

// The host's EL2 registers and stage 1, after the guest's registers are saved, or given up.
//   in        x16
//   out       the host's regime; SCTLR_EL1 and TCR_EL1 too, unless \speculative_at: then x4, x5 = their values, TCR_EL1
//             allows no walk, and eltwo_host_walks must follow
//   clobbers  x2-x5
	.macro	eltwo_host_state
	add	x5, x16, #{SLOT_EL2}
	ldp	x4, x2, [x5, #0]		// HCR, MDCR
	msr	mdcr_el2, x2
	ldp	x2, x3, [x5, #16]
	msr	cptr_el2, x2
	msr	hstr_el2, x3
	ldp	x2, x3, [x5, #48]
	msr	cntvoff_el2, x2
	msr	cnthctl_el2, x3
	ldp	x2, x3, [x5, #64]
	msr	vpidr_el2, x2
	msr	vmpidr_el2, x3
	adr	x2, eltwo_vectors
	msr	vbar_el2, x2
	// Stage 2 off, by the sequence that eltwo_run_vcpu explains; only then does VTTBR_EL2 change.
	dsb	nsh
	msr	hcr_el2, x4
	isb
	ldp	x2, x3, [x5, #32]
	msr	vttbr_el2, x2
	msr	vtcr_el2, x3
	eltwo_sys_pairs eltwo_load_pair, x16, {SLOT_SYS}
	ldp	x4, x5, [x16, #{SLOT_SYS}]
	.endm

// eltwo_guest_exit: an exception from the guest.
//   in        x0 = exit reason; the guest's x0 and x1 are saved in the host's frame, whose x0 and x1 are dead
	.type	eltwo_guest_exit, %function
eltwo_guest_exit:
	ldr	x1, [sp, #({SLOT} + {SLOT_LOADED})]
	eltwo_save_low x1, {VCPU_REGS}
	eltwo_save_high x1, {VCPU_REGS}, x6, x7
	ldp	x2, x3, [sp, #({HOST} + 0)]
	stp	x2, x3, [x1, #({VCPU_REGS} + 0)]
	mov	x17, x0
	add	x16, sp, #{SLOT}
	ldr	x8, [x1, #{VCPU_FLAGS}]
	tbnz	x8, #{FLAG_UNLEARN}, eltwo_exit_unlearn
eltwo_exit_unlearned:
	cbz	x17, eltwo_exit_recorded	// an interrupt: there is nothing else to know

	add	x5, x1, #{VCPU_EXIT}
	mrs	x2, esr_el2
	mrs	x3, far_el2
	stp	x2, x3, [x5, #0]
	// Instruction and data aborts from below: 0x20 and 0x24.
	lsr	x4, x2, #{ESR_EC_SHIFT}
	and	x4, x4, #~4
	cmp	x4, #0x20
	b.eq	eltwo_exit_abort
eltwo_exit_recorded:
	tbz	x8, #{FLAG_RAS}, eltwo_exit_flush_serror
	mrs	x3, S3_4_C12_C1_1	// VDISR_EL2
	str	x3, [x1, #{VCPU_DISR}]
	// The ESB of the vector has deferred an SError of the guest's, if there was one.
	mrs	x2, S3_0_C12_C1_1	// DISR_EL1
	cbnz	x2, eltwo_exit_deferred_serror
eltwo_exit_serror_done:
	mrs	x4, sctlr_el1
	mrs	x5, tcr_el1
	stp	x4, x5, [x1, #{VCPU_SYS}]
	eltwo_par_barrier
	eltwo_sys_pairs eltwo_save_pair, x1, {VCPU_SYS}
	ldr	x2, [x1, #{VCPU_CONFIG}]
	tbnz	x2, #{HCR_VSE_SHIFT}, eltwo_exit_vse
eltwo_exit_vse_done:
	tbnz	x8, #{FLAG_FP}, eltwo_exit_fp
eltwo_exit_fp_done:
	// As at entry: walks of the guest's are done before any register changes that they read.
	dsb	nsh
	tbnz	x8, #{FLAG_SPECULATIVE_AT}, eltwo_exit_no_walks
eltwo_exit_walks_known:
	eltwo_host_state
	tbnz	x8, #{FLAG_SPECULATIVE_AT}, eltwo_exit_allow_walks
	msr	sctlr_el1, x4
	msr	tcr_el1, x5
eltwo_exit_walks_allowed:
	tbnz	x8, #{FLAG_EXTRA}, eltwo_exit_extra
eltwo_exit_extra_done:
	str	xzr, [x16, #{SLOT_LOADED}]
	eltwo_load_return sp, {HOST}, x2, x3
	eltwo_load_high sp, {HOST}, x2
	mov	x1, x17
	mov	x0, xzr
	eret
	dsb	nsh
	isb

// The guest may have trained the branch predictor for what the host, or we, execute next. Up to here there was no branch
// whose target is predicted from its history.
//   in        x1 = context; x6-x8, x16, x17 are kept (SMCCC 1.1: the call changes x0-x3)
eltwo_exit_unlearn:
	tbnz	x8, #{FLAG_PROVOKE_LEAVING}, eltwo_provoke_leaving
eltwo_exit_unlearn_wanted:
	ldr	x0, [x1, #{VCPU_UNLEARN}]
	// That many taken branches are all that is left in the history of the cores that are known for it.
	ubfx	x9, x0, #32, #8
	cbz	x9, 2f
1:	b	. + 4
	subs	x9, x9, #1
	b.ne	1b
2:	ubfx	x0, x0, #0, #32
	cbz	x0, 3f
	smc	#0
	ldr	x1, [x16, #{SLOT_LOADED}]
	// CLRBHB, a NOP where it does not exist. Either way holds for branches behind a DSB and a context synchronization event:
	// those around HCR_EL2 in eltwo_host_state, which come before any whose target is predicted.
3:	hint	#22
	b	eltwo_exit_unlearned

// HPFAR_EL2 has the IPA for translation, access flag and address size faults, and for all faults of a stage-1 walk (Arm ARM,
// R_FKLWR). For the rest it is found as the CPU would find it.
//   in        x1 = context, x2 = ESR_EL2, x3 = FAR_EL2, x5 = GuestExit
eltwo_exit_abort:
	and	x4, x2, #0x3f			// FSC
	cmp	x4, #0x08
	b.lo	1f
	cmp	x4, #0x0c
	b.lo	2f				// access flag
	cmp	x4, #0x2b			// translation at level -1
	b.eq	2f
	cmp	x4, #0x29			// address size at level -1
	b.eq	2f
	cmp	x4, #0x10
	b.hs	3f
	tbnz	x2, #7, 2f			// permission, S1PTW
	b	4f
1:	cmp	x4, #0x04			// address size below, translation from here on
	b.lo	2f
	// A fault of the walk itself is what it says; and the AT would meet it again, each time.
	tbnz	x2, #7, 2f			// S1PTW
	tbnz	x8, #{FLAG_HPFAR_UNSURE}, 4f
2:	mrs	x4, hpfar_el2
	str	x4, [x5, #16]
	b	eltwo_exit_recorded

	// External aborts: 0x10 with a valid FAR_EL2 can be translated; the aborts of walks (0x12-0x17, 0x1a-0x1f) cannot.
3:	cmp	x4, #0x12
	b.lo	5f
	cmp	x4, #0x20
	b.lo	6f
	b	4f
5:	tbnz	x2, #10, 6f			// FnV
4:	// The guest's stage 1 and 2 are still in place, and so is its PAR_EL1. The DMBs are eltwo_par_barrier's, unasked: the walk
	// may load, too. Behind the second read comes the DSB that is behind all.
	dmb	sy
	mrs	x4, par_el1
	dmb	sy
	// An external abort of this walk is ours, not the guest's (Arm ARM, AArch64.AT): the vector knows the address.
eltwo_translation:
	at	s1e1r, x3
	// Makes the result of the AT visible to the read.
	isb
	dmb	sy
	mrs	x3, par_el1
	msr	par_el1, x4
	// Somebody has changed the tables since: the guest will fault again, or not.
	tbnz	x3, #0, 7f
	// PA[51:12] to FIPA.
	and	x3, x3, #0x000ffffffffff000
	lsr	x3, x3, #8
	str	x3, [x5, #16]
	b	eltwo_exit_recorded
6:	mov	x4, #-1
	str	x4, [x5, #16]
	b	eltwo_exit_recorded
7:	mov	x17, #{EXIT_AGAIN}
	b	eltwo_exit_recorded

// The memory of the guest's tables is broken: the guest meets it again by itself.
eltwo_translation_failed:
	msr	par_el1, x4
	b	7b

// Without FEAT_RAS: an SError that an access of the guest's caused may still be on its way. The DSB waits for it, the ISB
// keeps ISR_EL1 from being read early. What is pending is taken here, while it is clear whose it is.
eltwo_exit_flush_serror:
	dsb	sy
	isb
	mrs	x2, isr_el1
	tbz	x2, #8, eltwo_exit_serror_done
	msr	daifclr, #4
	// It is taken at the latest at the ISB. The vector knows the two addresses.
eltwo_serror_window:
	isb
	msr	daifset, #4
	b	eltwo_exit_serror_done
eltwo_exit_serror_taken:
	add	x5, x1, #{VCPU_EXIT}
	mrs	x2, esr_el2
	b	1f

// DISR_EL1 has the syndrome in the form of an SError's ESR. An HVC had completed before the SError came in: the guest will
// have to do it again, as this exit is reported for the SError.
eltwo_exit_deferred_serror:
	msr	S3_0_C12_C1_1, xzr
	add	x5, x1, #{VCPU_EXIT}
	and	x2, x2, #0x1ffffff
	mov	x3, #0x2f
	bfi	x2, x3, #{ESR_EC_SHIFT}, #6
1:	cmp	x17, #{EXIT_SYNC}
	b.ne	2f
	ldr	x3, [x5, #0]
	lsr	x3, x3, #{ESR_EC_SHIFT}
	cmp	x3, #{ESR_EC_HVC64}
	b.ne	2f
	sub	x6, x6, #4
	str	x6, [x1, #({VCPU_REGS} + 256)]
2:	str	x2, [x5, #0]
	mov	x17, #{EXIT_SERROR}
	b	eltwo_exit_serror_done

// A virtual SError was pending: hardware has cleared the bit if the guest has taken it.
eltwo_exit_vse:
	mrs	x3, hcr_el2
	and	x3, x3, #(1 << {HCR_VSE_SHIFT})
	and	x2, x2, #~(1 << {HCR_VSE_SHIFT})
	orr	x2, x2, x3
	str	x2, [x1, #{VCPU_CONFIG}]
	b	eltwo_exit_vse_done

eltwo_exit_fp:
	add	x9, x1, #{VCPU_FP}
	eltwo_fp_pairs stp, x9
	add	x9, x9, #512
	mrs	x2, fpsr
	mrs	x3, fpcr
	stp	x2, x3, [x9]
	b	eltwo_exit_fp_done

// SPECULATIVE_AT, the way back, in exactly the opposite order.
eltwo_exit_no_walks:
	eltwo_shut_walks
	b	eltwo_exit_walks_known

eltwo_exit_allow_walks:
	eltwo_open_walks
	b	eltwo_exit_walks_allowed

eltwo_exit_extra:
	bl	eltwo_extra_leave
	b	eltwo_exit_extra_done
	.size	eltwo_guest_exit, . - eltwo_guest_exit

// The containment test: an exception of ours in the middle of the switch, with the guest's vectors in place.
//   in        x1 = context, x2-x5, x9, x10, x29, x30 free; the host's SP_EL0, or the guest's, is saved
eltwo_provoke_entering:
	adr	x10, eltwo_enter_flush_wanted
	b	eltwo_provoke_in_switch
eltwo_provoke_leaving:
	adr	x10, eltwo_exit_unlearn_wanted
	.type	eltwo_provoke_in_switch, %function
eltwo_provoke_in_switch:
	// Who has not asked for it at load does not get it.
	ldr	x9, [sp, #{SHARED_VA}]
	ldrb	w9, [x9, #{FACTS_PROVOKE}]
	cbz	w9, 1f
	ldr	x2, [sp, #{STACK_TOP}]
	mov	x0, sp
	ldr	x1, [x1, #{VCPU_PROVOKE}]
	// The model takes no provoked exception, so no mutant dies here. In a VM SP_EL2 would be lost with this, and the fault with it.
	msr	spsel, #0
	mov	sp, x2
	mov	x29, xzr
	mov	x30, xzr
	bl	{provoke_in_switch}
	// The protection that should have stopped it is missing, and so is what the switch had in its registers.
	brk	#{BRK_PROVOKED}
1:	br	x10
	.size	eltwo_provoke_in_switch, . - eltwo_provoke_in_switch

// eltwo_abandon_guest: a fault of our own while a guest's registers are in the CPU, all or some. The guest is lost; the
// host's registers go back, by the order that is right for every CPU. The vCPU's page is not touched: it may be the cause.
//   in        SP = CpuContext; x30 = return address
//   clobbers  x2-x5, x9, x16
	.global	eltwo_abandon_guest
	.type	eltwo_abandon_guest, %function
eltwo_abandon_guest:
	add	x16, sp, #{SLOT}
	dsb	nsh
	eltwo_shut_walks
	eltwo_host_state
	eltwo_open_walks
	str	xzr, [x16, #{SLOT_LOADED}]
	b	eltwo_extra_leave
	.size	eltwo_abandon_guest, . - eltwo_abandon_guest

	.purgem	eltwo_host_state
	.purgem	eltwo_no_walks
	.purgem	eltwo_shut_walks
	.purgem	eltwo_open_walks
	.purgem	eltwo_par_barrier
	.purgem	eltwo_sys_pairs
	.purgem	eltwo_save_pair
	.purgem	eltwo_load_pair

	.popsection
