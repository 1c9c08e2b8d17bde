//! The client's program: it hands the command line to the library and ends with its exit code.

use std::process::ExitCode;

use lockstep::ctl;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = ctl::program_name(args.next());
    ExitCode::from(ctl::run(&program, args))
}
