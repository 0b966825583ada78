// SPDX-License-Identifier: GPL-2.0-only

//! Host: where in the guest's own tables a walk has failed.

use super::vcpu::Active;

/// The level of the stage-1 table whose address is that of the fault which stopped the guest. `None` if its tables do not
/// lead there.
pub(super) fn level_of_fault(_active: &Active<'_>) -> Option<i8> {
    None
}
