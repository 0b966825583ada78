// SPDX-License-Identifier: GPL-2.0-only

//! What `rust/arch` needs of `rust/common`.

#[path = "../../rust/common/hwdebug.rs"]
pub(crate) mod hwdebug;
#[path = "../../rust/common/upkeep.rs"]
pub(crate) mod upkeep;
