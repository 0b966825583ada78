// SPDX-License-Identifier: GPL-2.0-only

//! The demo.

use std::process::ExitCode;

/// First half.
pub fn first_kernel() -> ExitCode {
    ExitCode::SUCCESS
}

/// Second half.
pub fn second_kernel() -> ExitCode {
    ExitCode::SUCCESS
}
