//! The `fencepost` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: a guard is this same program, and must not go on as a second worker.
    if let Some(code) = fencepost::handler::guard::run_if_guard() {
        return code;
    }
    fencepost::commands::main()
}
