pub(crate) fn play() -> std::process::ExitCode { std::process::ExitCode::SUCCESS }
