//! `cyrus runner`: only the local runner, for a control plane that runs elsewhere.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use ::runner::far::{self, FarOptions, Home, host_name};
use anyhow::Context as _;
use shared::config::{ConfigError, Env, Problem};
use shared::net::check_private;
use shared::store::memory::MemoryLog;
use shared::wire::{self, Missing, Store};
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::start::{agent_programs, shutdown};
use crate::{Common, install, log_to_stderr};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Where the control plane is [default: CYRUS_CONTROL_URL]
    #[arg(long, value_name = "URL")]
    control: Option<String>,
    /// Take jobs that are pushed to this address, instead of asking for them
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Keep the worktrees of finished jobs
    #[arg(long)]
    keep: bool,
    /// What this runner calls itself [default: the host's name and a number kept in its home]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(subcommand)]
    chore: Option<Chore>,
}

impl Options {
    /// The same as arguments.
    fn flags(&self) -> Vec<String> {
        let listen = self.listen.map(|it| it.to_string());
        let named = [
            ("--control", self.control.clone()),
            ("--listen", listen),
            ("--name", self.name.clone()),
        ];
        let named = named
            .into_iter()
            .filter_map(|(flag, it)| Some([flag.to_owned(), it?]));
        let keep = self.keep.then(|| "--keep".to_owned());
        named.flatten().chain(keep).collect()
    }
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Chore {
    /// Print the service that has the system run `cyrus runner` at all times
    Install(install::Options),
}

pub(crate) async fn runner(common: &Common, options: &Options) -> anyhow::Result<ExitCode> {
    if let Some(Chore::Install(install)) = &options.chore {
        let flags = options.flags();
        return install::install(common, &flags, install);
    }
    log_to_stderr("info");
    let env = Env::from_process();
    // The control plane has the store; here only the file and the variables count.
    let store = Store::from(Arc::new(MemoryLog::default()));
    let (live, warnings) = common.live(&env, &store).await?;
    for warning in &warnings {
        warn!("{warning}");
    }
    let settings = live.settings();
    let token = settings.runner.token.clone().ok_or(Missing {
        what: "CYRUS_RUNNER_TOKEN",
        remedy: "give it the same value as at the control plane; it signs all that is said",
    })?;
    let (key, place, control_url) = match (&options.control, &settings.runner.control_url) {
        (Some(url), _) => (
            "--control",
            "the command line",
            url.trim_end_matches('/').to_owned(),
        ),
        (None, Some(url)) => ("CYRUS_CONTROL_URL", "the environment", url.clone()),
        (None, None) => {
            return Err(Missing {
                what: "CYRUS_CONTROL_URL",
                remedy: "say where the control plane is, by it or by `--control`",
            }
            .into());
        }
    };
    check_private(&control_url).map_err(|what| misuse(key, place, what))?;
    if settings.runner.concurrency == 0 {
        let what = "is 0, so that no agent would ever run here: raise it".into();
        return Err(misuse("runner.concurrency", &settings.place, what).into());
    }
    let agent_env = ::runner::agent_env(env.0.clone(), &settings.runner.agent_env);
    let programs = agent_programs(&settings);
    let agents = ::runner::installed(&programs, agent_env.path());
    if agents.is_empty() {
        return Err(Missing {
            what: "CLAUDE_BIN",
            remedy: "no agent program was found: install Claude Code, or name it there",
        }
        .into());
    }
    let active = settings.repositories.iter().filter(|it| it.active);
    let repositories: Vec<_> = active.map(|it| it.ground()).collect();
    if repositories.is_empty() {
        warn!("no repository is configured here, so there will be no work: see `repositories`");
    }
    if let Err(missing) = wire::check_github(&settings) {
        warn!("{missing}");
    }
    let home = Home::open(&settings.home)?;
    let name = match &options.name {
        Some(name) => name.clone(),
        None => home
            .name(&host_name(), fastrand::u32(1000..10_000_000))
            .context("keep the runner's number")?,
    };
    let this_program = std::env::current_exe().context("find this program")?;
    let slots = settings.runner.concurrency;
    let listener = match options.listen {
        Some(address) => {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("listen on {address} (--listen)"))?;
            let here = listener.local_addr()?;
            info!(
                name,
                slots, "cyrus runner takes jobs of {control_url} on http://{here}/jobs"
            );
            Some(listener)
        }
        None => {
            info!(name, slots, "cyrus runner asks {control_url} for work");
            None
        }
    };
    let local = ::runner::Options {
        home: home.path().to_path_buf(),
        concurrency: settings.runner.concurrency,
        supervisor: vec![this_program.into(), "job".into()],
        setup_script: settings.runner.setup_script.clone(),
        keep: options.keep,
        agents: programs,
        agent_env,
        git_env: ::runner::git_env(env.0.clone()),
        forge: Arc::new(wire::forge(&settings, &store.registers)?),
        clock: Arc::new(wire::SystemClock),
        wake: Arc::new(|_| ()),
    };
    let options = FarOptions {
        local,
        home,
        control_url,
        token: token.0,
        name,
        repositories,
        agents,
        heartbeat: settings.runner.heartbeat,
        listener,
        random: fastrand::f64,
    };
    far::run(options, shutdown()).await?;
    Ok(ExitCode::SUCCESS)
}

fn misuse(key: &str, place: &str, what: String) -> ConfigError {
    ConfigError {
        problems: vec![Problem {
            key: Some(key.to_owned()),
            place: place.to_owned(),
            what,
        }],
    }
}
