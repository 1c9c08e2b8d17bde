//! The simulator's program: it hands the command line to the library and ends with its exit code.

use std::process::ExitCode;

// Worlds are made of small pieces that come and go: it saves a sixth of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lockstep_sim::program::main(option_env!("LOCKSTEP_COMMIT"))
}
