// SPDX-License-Identifier: GPL-2.0-only

//! Hyp: assertions.
//!
//! Nothing in this image panics: a path to a panic is an error of its link. What must hold and cannot be an error of the
//! caller's is claimed by [`hyp_assert`]: if it does not, this CPU takes an exception that is contained as any other, and the
//! host's report has the text, the file and the line.

/// Claims that a condition holds.
macro_rules! hyp_assert {
    ($condition:expr, $text:literal) => {
        if !$condition {
            static INFO: $crate::common::abi::AssertInfo =
                $crate::common::abi::AssertInfo::new($text, file!(), line!());
            $crate::arch::el2::assertion_failed(&INFO)
        }
    };
}

pub(super) use hyp_assert;
