//! `version`: of this program and of the API it speaks. It asks no server.

use crate::ctl::{API_VERSION, Context, Failure, emit, version};

pub fn run(context: &mut Context) -> Result<(), Failure> {
    let program = &context.program;
    emit(format!("{program} version: {}\nAPI version: {API_VERSION}\n", version(program)).as_bytes());
    Ok(())
}
