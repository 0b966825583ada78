// SPDX-License-Identifier: GPL-2.0-only

//! Host: memory slots. (Owner: G2; being written.)
