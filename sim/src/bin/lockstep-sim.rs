//! The simulator's program: it hands the command line to the library and ends with its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    lockstep_sim::program::main(option_env!("LOCKSTEP_COMMIT"))
}
