//! The program: everything it does stands in [`holdline::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    holdline::cli::main()
}
