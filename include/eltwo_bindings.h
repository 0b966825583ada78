/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the host side needs from the kernel and `kernel::bindings` does not have.
 *
 * bindgen reads this file. It generates exactly the items that are named in the lines below that start with "//!",
 * by a regular expression over the whole name; a type that they use and that is not named comes from
 * `kernel::bindings`.
 */

#include <linux/cpu_pm.h>
//! function cpu_pm_(un)?register_notifier
