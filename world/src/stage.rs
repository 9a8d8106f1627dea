//! A whole small world on loopback: Linear, GitHub over a real bare repository,
//! Codegen, and a team's machine with a clone, a configuration and variables.
//! The demo and the end-to-end tests play on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use apollo_compiler::Schema;
use apollo_compiler::validation::Valid;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::codegen::{self, Codegen, Script};
use crate::faults::Faults;
use crate::github::{self, Bare, Change, Ci, GitHub};
use crate::linear::{self, Delivery, Linear, NewIssue};
use crate::serve::Server;

/// The repository on stage.
pub const SLUG: &str = "acme/app";
/// Its base branch.
pub const BASE: &str = "main";
const LINEAR_TOKEN: &str = "lin_oauth_of_the_stage";
const GITHUB_TOKEN: &str = "ghp_of_the_stage";
const CODEGEN_TOKEN: &str = "codegen-of-the-stage";
/// What signs the webhooks.
pub const WEBHOOK_SECRET: &str = "lin_wh_of_the_stage";
const ORGANIZATION: i64 = 11;

/// The world, up and running; it ends when dropped.
pub struct Stage {
    pub linear: Arc<Mutex<Linear>>,
    pub github: github::Shared,
    pub codegen: codegen::Shared,
    pub linear_faults: Faults,
    pub github_faults: Faults,
    pub codegen_faults: Faults,
    folder: PathBuf,
    linear_server: Server,
    github_server: Server,
    codegen_server: Server,
}

impl Stage {
    /// Sets it up in an empty folder. `script`: what Codegen's runs do; `checks`: the
    /// repository's own, which begin on every new head.
    pub async fn build(
        folder: &Path,
        schema: &'static Valid<Schema>,
        script: impl Script + 'static,
        checks: Vec<Ci>,
    ) -> anyhow::Result<Self> {
        let (remote, clone) = (folder.join("remote.git"), folder.join("app"));
        let first = Change {
            message: "The beginning".into(),
            files: vec![(
                "README.md".into(),
                "# App\n\nAn app that wants to grow.\n".into(),
            )],
        };
        let bare = Bare::init(&remote, BASE, &first, Timestamp::now())?;
        let cloned = Command::new("git")
            .args(["clone", "--quiet"])
            .arg(&remote)
            .arg(&clone)
            .output();
        let cloned = cloned.context("run git")?;
        anyhow::ensure!(
            cloned.status.success(),
            "git clone: {}",
            String::from_utf8_lossy(&cloned.stderr)
        );
        let mut github = GitHub::new(GITHUB_TOKEN);
        github.add(SLUG, bare);
        for ci in checks {
            github.add_ci(SLUG, ci)?;
        }
        let github = github::Shared::now(github);
        let mut codegen = Codegen::new(ORGANIZATION, CODEGEN_TOKEN, script);
        codegen.connect(SLUG);
        let codegen = codegen::Shared::new(codegen, github.clone());
        let mut linear = Linear::new();
        linear.access.accept(LINEAR_TOKEN);
        let linear = Arc::new(Mutex::new(linear));
        let (linear_faults, github_faults, codegen_faults) =
            (Faults::default(), Faults::default(), Faults::default());
        Ok(Self {
            linear_server: Server::start(linear::router(
                Arc::clone(&linear),
                schema,
                linear_faults.clone(),
            ))
            .await?,
            github_server: Server::start(github::router(github.clone(), github_faults.clone()))
                .await?,
            codegen_server: Server::start(codegen::router(codegen.clone(), codegen_faults.clone()))
                .await?,
            linear,
            github,
            codegen,
            linear_faults,
            github_faults,
            codegen_faults,
            folder: folder.to_owned(),
        })
    }

    /// Where the service keeps what is its own.
    pub fn home(&self) -> PathBuf {
        self.folder.join("home/.cyrus")
    }

    /// The bare repository.
    pub fn remote(&self) -> Bare {
        Bare::at(&self.folder.join("remote.git"))
    }

    /// What a team would write into `config.json`.
    pub fn config(&self, strategy: &str, merge: &str) -> Value {
        json!({
            "repositories": [{
                "id": "app",
                "name": "app",
                "repositoryPath": self.folder.join("app"),
                "baseBranch": BASE,
                "workspaceBaseDir": self.folder.join("worktrees"),
                "githubUrl": format!("https://github.com/{SLUG}"),
                "merge": { "mode": merge },
                "validate": { "requiredChecks": ["ci"] },
            }],
            "claudeDefaultModel": "claude-sonnet-4-5",
            "codegen": { "orgId": ORGANIZATION, "strategy": strategy },
        })
    }

    /// Writes it down.
    pub fn configure(&self, config: &Value) -> anyhow::Result<()> {
        std::fs::create_dir_all(self.home())?;
        std::fs::write(self.home().join("config.json"), config.to_string())?;
        Ok(())
    }

    /// The variables of the team's machine, and nothing of the one that we are on but its `PATH`.
    pub fn variables(&self, claude: &Path) -> BTreeMap<String, String> {
        let home = self.folder.join("home");
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let variables = [
            ("PATH", std::env::var("PATH").unwrap_or_default()),
            ("HOME", text(&home)),
            ("CYRUS_HOME", text(&self.home())),
            ("CYRUS_LISTEN", "127.0.0.1:0".into()),
            (
                "LINEAR_API_URL",
                format!("{}/graphql", self.linear_server.url()),
            ),
            ("LINEAR_API_TOKEN", LINEAR_TOKEN.into()),
            ("LINEAR_WEBHOOK_SECRET", WEBHOOK_SECRET.into()),
            ("GITHUB_API_URL", self.github_server.url()),
            ("GITHUB_TOKEN", GITHUB_TOKEN.into()),
            ("CODEGEN_API_URL", self.codegen_server.url()),
            ("CODEGEN_API_TOKEN", CODEGEN_TOKEN.into()),
            ("CLAUDE_BIN", text(claude)),
        ];
        variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// A person writes an issue and delegates it: its identifier, the session,
    /// and what Linear sends of it.
    pub fn hand_over(&self, new: NewIssue) -> anyhow::Result<(String, String, Vec<Delivery>)> {
        let mut linear = self.linear();
        let id = linear
            .add_issue(new)
            .map_err(|it| anyhow::anyhow!(it.message()))?;
        let (session, deliveries) = linear
            .delegate(&id, Timestamp::now())
            .map_err(|it| anyhow::anyhow!(it.message()))?;
        let identifier = linear
            .issue(&id)
            .map_err(|it| anyhow::anyhow!(it.message()))?
            .identifier
            .clone();
        Ok((identifier, session, deliveries))
    }

    pub fn linear(&self) -> MutexGuard<'_, Linear> {
        self.linear.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
