//! The supervisor alone, for the runner's own tests; users have `cyrus job`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(folder) => runner::supervise(Path::new(&folder)),
        None => ExitCode::from(2),
    }
}
