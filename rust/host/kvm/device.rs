// SPDX-License-Identifier: GPL-2.0-only

//! Host: `/dev/kvm`. (Owner: G2; being written.)
