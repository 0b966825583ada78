// SPDX-License-Identifier: GPL-2.0-only

//! Host: stage 2 of a VM. (Owner: G2; being written.)
