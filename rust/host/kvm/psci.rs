// SPDX-License-Identifier: GPL-2.0-only

//! Host: PSCI. (Owner: G3; being written.)

use super::vcpu::Active;

/// Takes over `Power::reset`, if there is one.
pub(crate) fn apply_reset(_active: &mut Active<'_>) {}
