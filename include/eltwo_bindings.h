/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the host side needs from the kernel and `kernel::bindings` does not have.
 *
 * bindgen reads this file. It generates exactly the items that are named in the lines below that start with "//!",
 * each by a regular expression over the whole name (kinds: file, function, type, var). A type that these use and that is not
 * named comes from `kernel::bindings`. A function must be exported to modules and be no static inline.
 */

/* No CPU comes or goes. */
#include <linux/cpuhplock.h>
//! function cpus_read_(un)?lock

/* CPU power management: a CPU comes back from a deep idle state with EL2 reset. */
#include <linux/cpu_pm.h>
//! function cpu_pm_(un)?register_notifier
//! type cpu_pm_event

/* Suspend, and the way to kexec and reboot once the other CPUs are down. */
#include <linux/syscore_ops.h>
//! function (un)?register_syscore
//! type syscore(_ops)?

/* The linear map. bindgen evaluates an initialiser, and no value above LONG_MAX, so the address is signed here. */
#include <linux/mm_types.h>
#include <asm/memory.h>
//! var ELTWO_PAGE_OFFSET
static const long ELTWO_PAGE_OFFSET = (long)PAGE_OFFSET;
//! var ELTWO_VMEMMAP_START
static const long ELTWO_VMEMMAP_START = (long)VMEMMAP_START;

/* Which counter the kernel reads, by the name of the function that does. */
#include <clocksource/arm_arch_timer.h>
#include <linux/kallsyms.h>
//! var arch_timer_read_counter
//! function sprint_symbol_no_offset
//! var ELTWO_KSYM_SYMBOL_LEN
static const unsigned int ELTWO_KSYM_SYMBOL_LEN = KSYM_SYMBOL_LEN;

/* The KVM uAPI: structures and constants. Ioctl numbers are expressions; they are made with kernel::ioctl. */
#include <uapi/linux/kvm.h>
//! file .*/uapi/(linux|asm)/kvm\.h

/* File descriptors of VMs and vCPUs. */
#include <linux/anon_inodes.h>
//! function anon_inode_get(fd|file_fmode)

/* Signals, rescheduling and task work before a guest is entered. */
#include <linux/entry-virt.h>
//! function xfer_to_guest_mode_handle_work

/* put_page(), which is inline, by a function that does just that. */
#include <linux/pipe_fs_i.h>
//! function generic_pipe_buf_release
//! type pipe_buf(fer|_operations)

/* FP/SIMD registers of the host's user space. */
#include <asm/neon.h>
//! function kernel_neon_(begin|end)

/* Accounting of guest time, and RCU. */
#include <linux/context_tracking.h>
//! var context_tracking_key
//! var context_tracking
//! type context_tracking
//! function __ct_user_(enter|exit)

/* Lockdep's books about interrupts, where the kernel keeps them. */
#include <linux/irqflags.h>
//! function trace_hardirqs_(on|off)

/* Random numbers, and the wall clock with the counter it was read at, for guests that ask. */
#include <linux/random.h>
#include <linux/timekeeping.h>
//! function get_random_bytes
//! function ktime_get_snapshot_id
//! type system_time_snapshot
//! type clocksource_ids

/* Whether a guest that waits by WFE keeps others from running. */
#include <linux/sched/stat.h>
//! function single_task_running

/* The erratum whose TLBIs are done twice. Its name is another one since Linux 7.3. */
#include <asm/cpucap-defs.h>
//! var ELTWO_REPEAT_TLBI
#ifdef ARM64_WORKAROUND_REPEAT_TLBI_SYNC
static const unsigned int ELTWO_REPEAT_TLBI = ARM64_WORKAROUND_REPEAT_TLBI_SYNC;
#else
static const unsigned int ELTWO_REPEAT_TLBI = ARM64_WORKAROUND_REPEAT_TLBI;
#endif
