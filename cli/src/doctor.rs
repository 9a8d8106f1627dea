//! `cyrus doctor`: is everything there that the service needs, and if not, what to do?
//! On the machine of a runner: is everything there that the runner needs?

mod control;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use runner::{agent_env, check_repository, find_program, git_env, installed, locate};
use serde::Serialize;
use shared::config::{self, Env, Settings, StorePlace};
use shared::issue::{PROGRAM, Repository, Strategy};
use shared::ports::{Clock as _, Registers as _};
use shared::store::memory::MemoryLog;
use shared::wire::{self, Store, SystemClock};

use crate::start::agent_programs;
use crate::{Common, EXIT_FAILED, reach};

/// The version of git from which on worktrees and partial output behave as the runner needs.
const GIT_MIN: (u32, u32) = (2, 25);

const STORE: &str = "store";

/// What one look found.
#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    ok: bool,
    /// What is so, or what is wrong and how to mend it.
    text: String,
}

impl Finding {
    fn of(check: &str, result: Result<String, String>) -> Self {
        let ok = result.is_ok();
        let (Ok(text) | Err(text)) = result;
        Self {
            check: check.to_owned(),
            ok,
            text,
        }
    }
}

pub(crate) async fn doctor(common: &Common) -> anyhow::Result<ExitCode> {
    let env = Env::from_process();
    let mut findings = Vec::new();
    let store = store(&common.store_place(&env)?, &mut findings).await;
    // Every secret is looked up, wherever it lies; one that is not there is the end.
    let (live, warnings) = common.live(&env, &store).await?;
    let settings = &live.settings();
    findings.push(Finding {
        check: "configuration".into(),
        ok: true,
        text: settings.place.clone(),
    });
    findings.extend(warnings.iter().map(|warning| Finding {
        check: "configuration".into(),
        ok: true,
        text: format!("note: {warning}"),
    }));
    if control::runs_agents_only(settings) {
        // The control plane has the store.
        findings.retain(|it| it.check != STORE);
    } else {
        services(settings, &store, &mut findings).await;
    }
    findings.extend(control::control(settings).await);
    repositories(settings, &env, &store, &mut findings).await;
    tools(settings, &env, &mut findings).await;
    let well = findings.iter().all(|it| it.ok);
    if common.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&serde_json::json!({ "ok": well, "checks": findings }))?
        );
    } else {
        for Finding { check, ok, text } in &findings {
            println!("{} {check}: {text}", if *ok { "ok  " } else { "BAD " });
        }
    }
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_FAILED)
    })
}

/// Opens the store, and says what is wrong with it. Where it cannot be opened,
/// all else is looked at with an empty one.
async fn store(place: &StorePlace, findings: &mut Vec<Finding>) -> Store {
    let mut found = |ok, text| {
        findings.push(Finding {
            check: STORE.into(),
            ok,
            text,
        });
    };
    let opened = match place {
        StorePlace::Sqlite(path) => {
            found(true, path.display().to_string());
            reach::store_to_read(place).await
        }
        StorePlace::Dynamodb(name) => {
            let table = Arc::new(wire::table(name).await);
            match table.check().await {
                Ok(wrong) if wrong.is_empty() => found(true, format!("the table {name}")),
                Ok(wrong) => {
                    wrong.into_iter().for_each(|it| found(false, it));
                    let now = SystemClock.now();
                    if table.list(config::SHELF, now).await.is_err() {
                        return Arc::new(MemoryLog::default()).into();
                    }
                }
                Err(error) => {
                    found(false, format!("{error:#}"));
                    return Arc::new(MemoryLog::default()).into();
                }
            }
            Ok(table.into())
        }
    };
    opened.unwrap_or_else(|error| {
        found(false, format!("{error:#}"));
        Arc::new(MemoryLog::default()).into()
    })
}

async fn services(settings: &Settings, store: &Store, findings: &mut Vec<Finding>) {
    let mut found = |check: &str, result| findings.push(Finding::of(check, result));
    let signed = wire::linear_secrets(settings).map(|_| "LINEAR_WEBHOOK_SECRET is set".to_owned());
    found("webhooks", signed.map_err(|it| it.to_string()));
    let linear = match wire::check_linear(settings) {
        Ok(()) => {
            let client = wire::linear(settings, &store.registers);
            client.viewer().await.map_err(|it| it.to_string())
        }
        Err(missing) => Err(missing.to_string()),
    };
    found(
        "Linear",
        linear.map(|it| format!("{} in {}", it.name, it.organization)),
    );
    match (&settings.codegen, wire::codegen(settings)) {
        (None, _) | (_, Ok(None)) => {}
        (Some(_), Ok(Some(client))) => {
            found("Codegen", client.check().await.map_err(|it| it.to_string()))
        }
        (Some(_), Err(error)) => found("Codegen", Err(error.to_string())),
    }
    if settings.codegen.is_none() && settings.strategy != Strategy::LocalOnly {
        let strategy = settings.strategy;
        found(
            "Codegen",
            Err(format!(
                "the strategy {strategy} needs it: add a `codegen` section, or choose local-only"
            )),
        );
    }
}

async fn repositories(settings: &Settings, env: &Env, store: &Store, findings: &mut Vec<Finding>) {
    findings.extend(app(settings, store).await);
    if settings.repositories.is_empty() {
        let text = format!(
            "none is configured: add one under `repositories` in {}",
            settings.place
        );
        findings.push(Finding {
            check: "repositories".into(),
            ok: false,
            text,
        });
    }
    let git_env = git_env(env.0.clone());
    let forge = wire::forge(settings, &store.registers);
    for configured in &settings.repositories {
        let check = format!("repository {}", configured.name);
        let repository = configured.ground();
        let Repository { path, slug, .. } = &repository;
        let clone = check_repository(&repository, &git_env).await;
        findings.push(Finding {
            check: check.clone(),
            ok: clone.is_ok(),
            text: clone.map_or_else(|it| it.message, |()| format!("{path} can be worked in")),
        });
        let access = match (wire::check_github(settings), &forge) {
            _ if slug.is_empty() => {
                Err("its `githubUrl` is not set, and its clone has no origin that tells it".into())
            }
            (Err(missing), _) => Err(missing.to_string()),
            (Ok(()), Ok(forge)) => forge.check_access(slug).await.map_err(|it| it.to_string()),
            (Ok(()), Err(error)) => Err(format!("{error:#}")),
        };
        findings.push(Finding {
            check: format!("GitHub {slug}"),
            ok: access.is_ok(),
            text: access.map_or_else(|it| it, |()| "can be read and written".into()),
        });
    }
}

/// Is GitHub's App what it should be, where there is one?
async fn app(settings: &Settings, store: &Store) -> Vec<Finding> {
    let found = |result| Finding::of("GitHub App", result);
    let mut findings = match wire::github_app(settings, &store.registers) {
        Ok(None) => Vec::new(),
        Ok(Some(app)) => vec![found(app.check().await.map_err(|it| it.to_string()))],
        Err(error) => vec![found(Err(format!("{error:#}")))],
    };
    if !findings.is_empty() && settings.github.token.is_some() {
        let note = "note: GITHUB_TOKEN is set, and goes with all calls in place of the App's own \
                    token: unset it to act as the App";
        findings.push(found(Ok(note.into())));
    }
    findings
}

async fn tools(settings: &Settings, env: &Env, findings: &mut Vec<Finding>) {
    let path = env.get("PATH").unwrap_or_default();
    let git = match find_program(Path::new("git"), path) {
        Some(git) => version(&git).await,
        None => Err("it is not on PATH: install it".into()),
    };
    let git = git.and_then(|it| {
        if is_recent(&it) {
            Ok(it)
        } else {
            Err(format!("{it} is too old: 2.25 or newer is needed"))
        }
    });
    findings.push(Finding::of("git", git));
    if settings.runner.concurrency > 0 {
        agents(settings, env, findings).await;
    }
}

/// The agent programs that are there, and those that should be.
async fn agents(settings: &Settings, env: &Env, findings: &mut Vec<Finding>) {
    let agent_env = agent_env(env.0.clone(), &settings.runner.agent_env);
    let programs = agent_programs(settings);
    let installed = installed(&programs, agent_env.path());
    for (name, place) in &programs {
        let check = match name.as_str() {
            PROGRAM => "Claude Code".to_owned(),
            other => format!("agent program {other}"),
        };
        let named = place.as_os_str() != name.as_str();
        let wanted = named || (installed.is_empty() && name == PROGRAM);
        if !wanted && !installed.contains(name) {
            continue;
        }
        let found = match locate(name, &programs, agent_env.path()) {
            Ok(program) => version(&program).await,
            Err(failure) => Err(failure.message),
        };
        let there = found.is_ok();
        findings.push(Finding::of(&check, found));
        if !there {
            continue;
        }
        let access = match agent_env.access_of(name)[..] {
            [] => "note: no variable gives it access to its model: it must be logged in by itself"
                .to_owned(),
            ref variables => format!("its model is reached by {}", variables.join(", ")),
        };
        findings.push(Finding::of(&check, Ok(access)));
    }
}

async fn version(program: &Path) -> Result<String, String> {
    let answer = tokio::process::Command::new(program)
        .arg("--version")
        .output()
        .await;
    match answer {
        Ok(answer) if answer.status.success() => Ok(String::from_utf8_lossy(&answer.stdout)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()),
        Ok(answer) => Err(format!(
            "`{} --version` ended with {}",
            program.display(),
            answer.status
        )),
        Err(error) => Err(format!("`{}` cannot be run: {error}", program.display())),
    }
}

fn is_recent(version: &str) -> bool {
    let numbers: Vec<u32> = version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|it| it.parse().ok())
        .collect();
    matches!(numbers[..], [major, minor, ..] if (major, minor) >= GIT_MIN)
}
