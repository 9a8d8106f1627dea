//! A machine for the runner: a home, a bare remote, a clone, a forge that
//! remembers what it opened, and an agent that the test writes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::SignedDuration;
use runner::{LocalExecutor, Options};
use shared::issue::{
    AgentPolicy, Ending, Failure, FailureClass, Fault, Repository, RunId, RunResult, Sight,
    TaskKind, Time,
};
use shared::ports::{Clock, Executor, Job, Message, OpenAsk, Opened, Publisher, Started, Told};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long anything may take on a slow and busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// The last line of an agent that is content.
pub(crate) const CONTENT: &str = r#"echo '{"type":"result","subtype":"success","is_error":false,"result":"All done.","total_cost_usd":0.25}'"#;

/// The first line of an agent whose session is to be known.
pub(crate) const INIT: &str = r#"echo '{"type":"system","subtype":"init","session_id":"s-1"}'
echo '{"type":"assistant","message":{"content":[{"type":"text","text":"I am at it."}]}}'"#;

/// What every agent does first: it reads what it was told, which is one line,
/// and leaves a note of how it was started.
const BEGINS: &str = r#"#!/bin/sh
echo run >> "$HOME/runs"
echo "$*" | tr '\n' ' ' >> "$HOME/args"; echo >> "$HOME/args"
IFS= read -r said
printf '%s\n' "$said" >> "$HOME/said"
"#;

/// The named pipes in an agent's home. Opening one waits for the other side.
const GATES: [&str; 3] = ["started", "go", "orphan"];

pub(crate) struct Machine {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) forge: Arc<Pulls>,
    pub(crate) agent_env: BTreeMap<String, String>,
    pub(crate) claude: PathBuf,
    pub(crate) codex: PathBuf,
    pub(crate) concurrency: usize,
    pub(crate) setup_script: Option<PathBuf>,
    pub(crate) keep: bool,
    pub(crate) clock: Arc<Now>,
}

impl Machine {
    /// A machine whose agent is this shell script.
    pub(crate) fn new(agent: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("home")).expect("a home");
        // Where the real one would lie: so it is spoken to while it works.
        fs::create_dir(at("home/claude-code")).expect("a folder");
        let script = at("home/claude-code/claude");
        write_script(&script, &format!("{BEGINS}{agent}\n"), 0o755);
        for gate in GATES {
            let made = Command::new("mkfifo").arg(at("home").join(gate)).status();
            assert!(made.expect("mkfifo runs").success());
        }
        let path = std::env::var("PATH").expect("a PATH");
        let agent_env = BTreeMap::from([
            ("PATH".into(), path),
            ("HOME".into(), at("home").to_string_lossy().into_owned()),
            ("ANTHROPIC_API_KEY".into(), "sk-ant-test".into()),
        ]);
        let machine = Self {
            folder,
            forge: Arc::default(),
            agent_env,
            claude: script,
            codex: "no-codex-here".into(),
            concurrency: 2,
            setup_script: None,
            keep: false,
            clock: Arc::default(),
        };
        machine.git(
            "home",
            &["init", "--quiet", "--bare", "-b", "main", "../remote.git"],
        );
        machine.git("home", &["clone", "--quiet", "../remote.git", "../clone"]);
        fs::write(machine.at("clone/README.md"), "hello\n").expect("a file");
        machine.publish();
        machine
    }

    /// Commits all that is in the clone, and pushes it.
    pub(crate) fn publish(&self) {
        let who = ["-c", "user.name=T", "-c", "user.email=t@localhost"];
        self.git("clone", &["add", "--all"]);
        let commit = ["commit", "--quiet", "--message", "more"];
        self.git("clone", &[&who[..], &commit[..]].concat());
        let push = ["push", "--quiet", "origin", "HEAD:refs/heads/main"];
        self.git("clone", &push);
    }

    /// A script of the repository, committed and pushed.
    pub(crate) fn script(&self, name: &str, body: &str) {
        let text = format!("#!/bin/bash\n{body}\n");
        write_script(&self.at("clone").join(name), &text, 0o755);
        self.publish();
    }

    /// What a file in the agent's home says.
    pub(crate) fn noted(&self, name: &str) -> String {
        fs::read_to_string(self.at("home").join(name)).unwrap_or_default()
    }

    /// What the agents were told, one text for each.
    pub(crate) fn said(&self) -> Vec<String> {
        self.noted("said").lines().map(told).collect()
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What git prints in one of the machine's folders; it must succeed.
    pub(crate) fn git(&self, folder: &str, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(args)
            .current_dir(self.at(folder))
            .env_clear()
            .envs(self.git_env())
            .output()
            .expect("git runs");
        assert!(
            output.status.success(),
            "git {args:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout).trim().to_owned()
    }

    fn git_env(&self) -> BTreeMap<String, String> {
        runner::git_env(self.agent_env.clone())
    }

    /// The executor, as a fresh start of the service would make it.
    pub(crate) fn executor(&self) -> Watched {
        let (wakes, woken) = watch::channel(());
        let executor = LocalExecutor::new(Options {
            home: self.at("cyrus"),
            concurrency: self.concurrency,
            supervisor: vec![env!("CARGO_BIN_EXE_cyrus-job-supervisor").into()],
            setup_script: self.setup_script.clone(),
            keep: self.keep,
            agents: BTreeMap::from([
                ("claude".into(), self.claude.clone()),
                ("codex".into(), self.codex.clone()),
            ]),
            agent_env: runner::agent_env(self.agent_env.clone(), &[]),
            git_env: self.git_env(),
            forge: self.forge.clone(),
            clock: self.clock.clone(),
            wake: Arc::new(move |_| {
                wakes.send_replace(());
            }),
        });
        Watched { executor, woken }
    }

    pub(crate) fn job(&self, key: &str, kind: TaskKind) -> Job {
        let path = |name: &str| self.at(name).to_string_lossy().into_owned();
        Job {
            key: key.into(),
            issue: "5e1c".into(),
            identifier: "ENG-1".into(),
            issue_title: "An issue".into(),
            issue_url: "https://linear.example/ENG-1".into(),
            task: "api".into(),
            kind,
            title: "Say hello".into(),
            prompt: "Write hello.txt.\n\"quoted\" $HOME `x`".into(),
            answer_schema: None,
            repository: Repository {
                id: "main".into(),
                path: path("clone"),
                workspace_dir: path("worktrees"),
                base_branch: "main".into(),
                slug: "o/r".into(),
            },
            branch: "cyrus/eng-1/api".into(),
            agent: AgentPolicy::default(),
            cost_max: None,
            seconds_max: 300,
            patience_seconds: None,
            commit: None,
            commands: Vec::new(),
            repair: None,
        }
    }

    /// How often an agent was started on this machine.
    pub(crate) fn runs(&self) -> usize {
        fs::read_to_string(self.at("home/runs")).map_or(0, |it| it.lines().count())
    }

    /// Branches of the remote beside `main`.
    pub(crate) fn pushed(&self) -> Vec<String> {
        let all = self.git(
            "remote.git",
            &["for-each-ref", "--format=%(refname:lstrip=2)"],
        );
        all.lines()
            .filter(|it| *it != "main")
            .map(str::to_owned)
            .collect()
    }

    /// The worktrees there are.
    pub(crate) fn worktrees(&self) -> usize {
        fs::read_dir(self.at("worktrees")).map_or(0, Iterator::count)
    }

    /// One of the named pipes in the agent's home, held open from now on.
    pub(crate) fn gate(&self, name: &str) -> Gate {
        Gate::open(&self.at("home").join(name))
    }
}

/// An executor, and the news of it.
pub(crate) struct Watched {
    pub(crate) executor: LocalExecutor,
    woken: watch::Receiver<()>,
}

impl Watched {
    pub(crate) async fn start(&self, job: &Job) -> Started {
        self.executor.start(job).await.expect("accepted")
    }

    pub(crate) async fn sight(&self, key: &str) -> Sight {
        let mut sights = self.executor.observe(&[RunId::from(key)]).await;
        sights.remove(0).expect("observed")
    }

    /// Asks for the end of a run, which may have ended already.
    pub(crate) async fn stop(&self, key: &str) {
        let asked = self.executor.stop(&RunId::from(key)).await;
        asked.expect("accepted");
    }

    pub(crate) async fn tell(&self, key: &str, id: &str, text: &str) -> Told {
        let message = Message {
            id: id.into(),
            text: text.into(),
        };
        let told = self.executor.tell(&RunId::from(key), &message).await;
        told.expect("it can be told")
    }

    /// Waits until the worktrees of ended runs are gone.
    pub(crate) async fn tidied(&mut self, machine: &Machine) {
        let wait = async {
            loop {
                self.woken.mark_unchanged();
                if machine.worktrees() == 0 {
                    return;
                }
                self.woken.changed().await.expect("the executor lives");
            }
        };
        timeout(LONG, wait).await.expect("the worktrees go");
    }

    /// Waits for the end of a run.
    pub(crate) async fn ended(&mut self, key: &str) -> Ending {
        let wait = async {
            loop {
                self.woken.mark_unchanged();
                if let Sight::Ended(ending) = self.sight(key).await {
                    return ending;
                }
                self.woken.changed().await.expect("the executor lives");
            }
        };
        timeout(LONG, wait).await.expect("the run ends")
    }

    pub(crate) async fn succeeded(&mut self, key: &str) -> RunResult {
        self.ended(key).await.result.expect("a success")
    }

    pub(crate) async fn failed(&mut self, key: &str) -> Failure {
        self.ended(key).await.result.expect_err("a failure")
    }

    pub(crate) async fn failed_as(&mut self, key: &str, class: FailureClass) {
        let failure = self.failed(key).await;
        assert_eq!(failure.class, class, "{failure:?}");
    }
}

/// A named pipe between the test and an agent.
pub(crate) struct Gate {
    from: BufReader<pipe::Receiver>,
    to: pipe::Sender,
}

impl Gate {
    fn open(path: &Path) -> Self {
        let open = || pipe::OpenOptions::new().read_write(true).clone();
        let from = BufReader::new(open().open_receiver(path).expect("a pipe"));
        Self {
            from,
            to: open().open_sender(path).expect("a pipe"),
        }
    }

    /// The next line that the agent writes into it.
    pub(crate) async fn hear(&mut self) -> String {
        let mut line = String::new();
        timeout(LONG, self.from.read_line(&mut line))
            .await
            .expect("a line")
            .expect("read");
        line.trim().to_owned()
    }

    /// A line for the agent to read.
    pub(crate) async fn tell(&mut self) {
        self.to.write_all(b"go\n").await.expect("written");
    }
}

/// A forge that opens pull requests and remembers them.
#[derive(Default)]
pub(crate) struct Pulls {
    pub(crate) opened: Mutex<Vec<OpenAsk>>,
    /// The next call never comes back, though it does what was asked.
    pub(crate) swallow: Mutex<Option<tokio::sync::oneshot::Sender<()>>>,
}

#[async_trait]
impl Publisher for Pulls {
    async fn open(&self, ask: &OpenAsk) -> Result<Opened, Fault> {
        let number = {
            let mut opened = self.opened.lock().expect("no poison");
            let at = opened
                .iter()
                .position(|it| it.branch == ask.branch)
                .unwrap_or_else(|| {
                    opened.push(ask.clone());
                    opened.len() - 1
                });
            at as u64 + 1
        };
        let swallow = self.swallow.lock().expect("no poison").take();
        if let Some(told) = swallow {
            told.send(()).expect("somebody listens");
            std::future::pending::<()>().await;
        }
        Ok(Opened {
            number,
            url: format!("https://forge.example/o/r/pull/{number}"),
        })
    }
}

/// The clock of the machine, which can be set ahead.
#[derive(Default)]
pub(crate) struct Now {
    ahead_seconds: AtomicI64,
}

impl Now {
    pub(crate) fn advance(&self, seconds: i64) {
        self.ahead_seconds.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for Now {
    fn now(&self) -> Time {
        let ahead = self.ahead_seconds.load(Ordering::Relaxed);
        Time::now() + SignedDuration::from_secs(ahead)
    }
}

/// Does a process live?
pub(crate) fn lives(pid: &str) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // One that is dead and only not taken note of does not.
    state
        .rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn write_script(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("a script");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode is set");
}

/// The text of a line that an agent was told.
pub(crate) fn told(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let text = line["message"]["content"].as_str().expect("a text");
    text.to_owned()
}
