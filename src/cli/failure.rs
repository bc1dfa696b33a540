//! How a command ends when it does not succeed, and the exit code that says so.

use crate::cli::output;
use std::process::ExitCode;

/// Each holds what is printed: what went wrong, and what to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The operation failed. Exit code 1.
    Operation(String),
    /// The arguments or the configuration are wrong. Exit code 2.
    Usage(String),
    /// The daemon does not answer. Exit code 3.
    Unreachable(String),
    /// The output was closed by its reader, as `head` does. Exit code 0, in silence.
    OutputClosed,
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Operation(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::OutputClosed => 0,
        }
    }

    /// Prints it to stderr and returns the exit code.
    pub fn report(&self) -> ExitCode {
        if let Self::Operation(text) | Self::Usage(text) | Self::Unreachable(text) = self {
            // a closed stderr must not change the exit code
            output::note(&format!("holdline: {text}"));
        }
        ExitCode::from(self.code())
    }

    /// An error of the operating system or of a library, after `what` was tried.
    pub fn io(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self::Operation(format!("{what}: {error}"))
    }
}

/// What the daemon or a library reports ends as a failed operation, with all its causes.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Operation(format!("{error:#}"))
    }
}
