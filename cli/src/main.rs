//! The command. Wiring and words only: what a command does stands in the file
//! of its name, what the service does in `shared`.

mod carry;
mod config;
mod decide;
mod demo;
mod doctor;
mod explain;
mod forecast;
mod install;
mod pause;
mod reach;
mod repair;
mod runner;
mod show;
mod start;
mod stats;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::TypedValueParser as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use shared::config::{ConfigError, Configuration, Env, Live, StorePlace, place_of_store};
use shared::stats::Period;
use shared::wire::{self, Store};
use tracing_subscriber::EnvFilter;

use self::decide::Decision;

/// The thing asked for failed.
const EXIT_FAILED: u8 = 1;
/// Wrong usage or configuration.
const EXIT_MISUSED: u8 = 2;

/// From a Linear issue to a merged change: plans it, hands its tasks to coding
/// agents, judges what they make, and merges it in order.
#[derive(Parser)]
#[command(name = "cyrus", version, propagate_version = true)]
struct Cyrus {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Args, Clone, Debug)]
struct Common {
    /// The configuration file [default: CYRUS_CONFIG, else config.json in the home folder]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The home folder [default: CYRUS_HOME, else ~/.cyrus]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Where the service listens [default: CYRUS_URL, else the local one]
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole service on this machine (what `cyrus` alone does)
    Start,
    /// Play one issue from webhook to merge, with nothing but this program and git
    Demo(demo::Options),
    /// Run agents on this machine, for a service that runs elsewhere
    Runner(runner::Options),
    /// List the issues
    Issues,
    /// Show one issue with its tasks
    Show {
        /// Linear's identifier (ENG-42) or id
        issue: String,
    },
    /// Say why each decision about an issue was taken
    Explain {
        /// Linear's identifier (ENG-42) or id
        issue: String,
    },
    /// Say what an issue's plan will cost and how long it will take
    Forecast {
        /// Linear's identifier (ENG-42) or id
        issue: String,
    },
    /// Approve the plan of an issue that waits for it
    Approve {
        /// Linear's identifier (ENG-42) or id
        issue: String,
    },
    /// Cancel an issue: what runs is stopped
    Cancel {
        /// Linear's identifier (ENG-42) or id
        issue: String,
    },
    /// Give what failed or was skipped fresh attempts
    Retry {
        /// Linear's identifier (ENG-42) or id
        issue: String,
        /// One task, with what it depends on and what depends on it [default: all]
        task: Option<String>,
    },
    /// Show executors and their health, strategy, budget and what runs now
    Status,
    /// Show what the last days came to: tasks, shares, time saved, cost
    Stats {
        /// The days up to today
        #[arg(long, default_value = "week", value_parser = period())]
        period: Period,
    },
    /// Start no new run of any kind until `cyrus resume`
    Pause(pause::Options),
    /// Take a pause back
    Resume,
    /// Check every configured service, key and tool
    Doctor,
    /// Show and change the configuration
    Config {
        #[command(subcommand)]
        action: config::Action,
    },
    /// Write all issues as lines of JSON, for another store
    Export {
        /// [default: stdout]
        file: Option<PathBuf>,
    },
    /// Take over what `cyrus export` wrote
    Import {
        /// [default: stdin]
        file: Option<PathBuf>,
    },
    /// Make the head of a parked issue again from its log
    Repair {
        /// Linear's identifier (ENG-42) or id
        issue: String,
    },
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
    /// Supervise one agent (started by the service itself)
    #[command(hide = true)]
    Job { folder: PathBuf },
}

fn main() -> ExitCode {
    if demo::is_agent() {
        return demo::agent::play();
    }
    let cyrus = Cyrus::parse();
    let common = cyrus.common;
    let command = cyrus.command.unwrap_or(Command::Start);
    if matches!(command, Command::Start | Command::Runner(_)) {
        // Agents will run as the same user.
        ::runner::hide();
    }
    let result = match command {
        // The supervisor outlives the service and brings its own runtime.
        Command::Job { folder } => return ::runner::supervise(&folder),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cyrus::command(),
                "cyrus",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Start => run(async { start::start(&common).await }),
        Command::Demo(options) => run(async { demo::demo(&options, common.json).await }),
        Command::Runner(options) => run(async { runner::runner(&common, &options).await }),
        Command::Issues => run(async { show::issues(&common).await }),
        Command::Show { issue } => run(async { show::show(&common, &issue).await }),
        Command::Explain { issue } => run(async { explain::explain(&common, &issue).await }),
        Command::Forecast { issue } => run(async { forecast::forecast(&common, &issue).await }),
        Command::Approve { issue } => {
            run(async { decide::decide(&common, &issue, Decision::Approve).await })
        }
        Command::Cancel { issue } => {
            run(async { decide::decide(&common, &issue, Decision::Cancel).await })
        }
        Command::Retry { issue, task } => {
            run(async { decide::decide(&common, &issue, Decision::Retry(task)).await })
        }
        Command::Config { action } => run(async { config::config(&common, action).await }),
        Command::Export { file } => run(async { carry::export(&common, file.as_deref()).await }),
        Command::Import { file } => run(async { carry::import(&common, file.as_deref()).await }),
        Command::Repair { issue } => run(async { repair::repair(&common, &issue).await }),
        Command::Status => run(async { status::status(&common).await }),
        Command::Stats { period } => run(async { stats::stats(&common, period).await }),
        Command::Pause(options) => run(async { pause::pause(&common, &options).await }),
        Command::Resume => run(async { pause::resume(&common).await }),
        Command::Doctor => run(async { doctor::doctor(&common).await }),
    };
    result.unwrap_or_else(|error| {
        eprintln!("cyrus: {error:#}");
        let misused = error.is::<ConfigError>()
            || error.is::<wire::Missing>()
            || error.is::<reach::Misused>();
        ExitCode::from(if misused { EXIT_MISUSED } else { EXIT_FAILED })
    })
}

fn run(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn period() -> impl clap::builder::TypedValueParser<Value = Period> {
    let words = Period::ALL.iter().map(|it| it.word());
    clap::builder::PossibleValuesParser::new(words).try_map(|it| it.parse::<Period>())
}

/// Logs go to stderr, as `RUST_LOG` says, else from `default` on.
fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

impl Common {
    fn store_place(&self, env: &Env) -> Result<StorePlace, ConfigError> {
        place_of_store(env, self.home.as_deref())
    }

    /// Where the configuration is.
    fn configuration(&self, env: &Env, store: &Store) -> Configuration {
        wire::configuration(env, self.home.as_deref(), self.config.as_deref(), store)
    }

    /// The settings of now, and what their author should know.
    async fn live(&self, env: &Env, store: &Store) -> anyhow::Result<(Arc<Live>, Vec<String>)> {
        wire::live(env, self.home.as_deref(), self.config.as_deref(), store).await
    }
}
