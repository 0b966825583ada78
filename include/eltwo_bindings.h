/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the host side needs from the kernel and `kernel::bindings` does not have.
 *
 * bindgen reads this file. It generates exactly the items that are named in the lines below that start with "//!",
 * each by a regular expression over the whole name (kinds: file, function, type, var). A type that these use and that is not
 * named comes from `kernel::bindings`. A function must be exported to modules and be no static inline.
 */

/* CPU power management: a CPU comes back from a deep idle state with EL2 reset. */
#include <linux/cpu_pm.h>
//! function cpu_pm_(un)?register_notifier
//! type cpu_pm_event

/* Suspend, and the way to kexec and reboot once the other CPUs are down. */
#include <linux/syscore_ops.h>
//! function (un)?register_syscore
//! type syscore(_ops)?

/* The linear map. bindgen evaluates an initialiser, and no value above LONG_MAX, so the address is signed here. */
#include <asm/memory.h>
//! var ELTWO_PAGE_OFFSET
static const long ELTWO_PAGE_OFFSET = (long)PAGE_OFFSET;
