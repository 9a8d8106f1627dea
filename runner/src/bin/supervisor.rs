//! For this crate's tests only: the supervisor as a program of its own, since no
//! other binary is built for them. It is not installed; users have `cyrus job`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(folder) => runner::supervise(Path::new(&folder)),
        None => ExitCode::from(2),
    }
}
