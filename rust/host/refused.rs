// SPDX-License-Identifier: GPL-2.0-only

//! Host: why the module could not be loaded: one line of the kernel's log, with cause and remedy.
//!
//! All that can fail while the module is loaded returns [`Refused`], which comes only with a line in the log: so nothing fails
//! silently, and nothing that has been told is told again.

use kernel::{
    alloc::AllocError,
    prelude::*, //
};

/// The log has the reason.
#[derive(Debug)]
pub(crate) struct Refused(Error);

impl Refused {
    /// For who has just logged a line that begins with `refused: `.
    pub(crate) fn told(errno: Error) -> Self {
        Self(errno)
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        refused.0
    }
}

/// Logs `refused: ` with the reason, and evaluates to a [`Refused`] with the errno.
macro_rules! refuse {
    ($errno:expr, $($reason:tt)+) => {{
        pr_err!("refused: {}\n", format_args!($($reason)+));
        $crate::host::refused::Refused::told($errno)
    }};
}
pub(crate) use refuse;

/// What a step of loading fails with.
pub(crate) trait Reason {
    /// Sees to it that the log says why `what` could not be made.
    fn tell(self, what: &str) -> Refused;
}

impl Reason for Refused {
    fn tell(self, _what: &str) -> Refused {
        self
    }
}

impl Reason for AllocError {
    fn tell(self, what: &str) -> Refused {
        Error::from(self).tell(what)
    }
}

impl Reason for Error {
    fn tell(self, what: &str) -> Refused {
        match self {
            ENOMEM => refuse!(ENOMEM, "no memory for {what}; free some, and load again"),
            error => refuse!(
                error,
                "{what}: error {}; please report this",
                error.to_errno()
            ),
        }
    }
}
