//! The program: everything it does stands in [`holdline::cli`].

use std::process::ExitCode;

/// The system's allocator gives memory back and takes it again with every commit; this one keeps it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // With pages of 2 MiB the kernel gives 50 MB more than what is asked for, also to a daemon at rest, and nothing is
    // quicker. A kernel that knows no such pages needs not be told.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    holdline::cli::main()
}
