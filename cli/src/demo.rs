pub(crate) mod agent;
#[derive(clap::Args)]
pub(crate) struct Options {}
pub(crate) fn is_agent() -> bool { false }
pub(crate) async fn demo(_o: &Options) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("x") }
