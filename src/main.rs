//! The program: everything it does stands in [`holdline::cli`].

use std::process::ExitCode;

/// The system's allocator gives memory back and takes it again with every commit; this one keeps it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    holdline::cli::main()
}
