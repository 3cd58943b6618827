//! The `fencepost` command.

use std::process::ExitCode;

/// Gives the memory of large rows back once they are done: the system's own keeps most of it [214].
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // First of all: a guard is this same program, and must not go on as a second worker.
    if let Some(code) = fencepost::handler::guard::run_if_guard() {
        return code;
    }
    fencepost::commands::main()
}
