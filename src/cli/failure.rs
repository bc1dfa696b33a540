//! Failures of a command and their exit codes.

/// The message says what went wrong and what to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The operation failed. Exit code 1.
    Operation(String),
    /// The arguments or the configuration are wrong. Exit code 2.
    Usage(String),
    /// The daemon does not respond. Exit code 3.
    Unreachable(String),
    /// The reader closed the output, as `head` does. Exit code 0; nothing is printed.
    OutputClosed,
}

impl Failure {
    pub fn code(&self) -> u8 {
        match self {
            Self::Operation(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::OutputClosed => 0,
        }
    }

    /// An error of the operating system or of a library; `what` is the failed action.
    pub fn io(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self::Operation(format!("{what}: {error}"))
    }
}

/// An error of the daemon or of a library is a failed operation; the message contains all its causes.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Operation(format!("{error:#}"))
    }
}
