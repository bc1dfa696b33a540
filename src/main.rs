//! The program: everything it does stands in [`holdline::cli`].

use std::ffi::c_long;
use std::process::ExitCode;

/// The system's allocator gives memory back and takes it again with every commit; this one keeps it, for [`KEPT`].
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long memory that is free is kept for the next who needs it, in milliseconds. By default it is given back so soon
/// that each commit gets pages anew, which the kernel must clear first: 5 % of what an event costs.
const KEPT: c_long = 10_000;
/// `mi_option_purge_delay` in mimalloc.h, which the bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    // SAFETY: sets a number that the allocator reads whenever memory becomes free.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, KEPT) };
    holdline::cli::main()
}
