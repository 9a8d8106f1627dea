//! `cyrus export` and `cyrus import`: all issues from one store to another.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, IsTerminal as _, Write, stderr, stdin, stdout};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use shared::carry::{self, Carried};
use shared::config::{Env, StorePlace};
use shared::wire;

use crate::{Common, EXIT_FAILED};

/// Issues between two lines about the progress, where nobody watches.
const TOLD_EVERY: usize = 100;

pub(crate) async fn export(common: &Common, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let place = common.store_place(&Env::from_process())?;
    if let StorePlace::Sqlite(path) = &place {
        ensure!(path.exists(), "there is no store at {}", path.display());
    }
    let store = wire::open(&place).await?;
    let mut out: Box<dyn Write + Send> = match file {
        Some(file) => Box::new(private(file).with_context(|| format!("make {}", file.display()))?),
        None => Box::new(stdout()),
    };
    let mut out = BufWriter::new(&mut out);
    let mut progress = Progress::default();
    let (log, registers) = (store.log.as_ref(), store.registers.as_ref());
    let now = Timestamp::now();
    let carried = carry::export(log, registers, &mut out, now, &mut |it| progress.tell(it)).await?;
    progress.end();
    Ok(conclude(
        common.json && file.is_some(),
        "exported",
        &carried,
    ))
}

pub(crate) async fn import(common: &Common, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let store = wire::open(&common.store_place(&Env::from_process())?).await?;
    let mut input: BufReader<Box<dyn std::io::Read + Send>> = BufReader::new(match file {
        Some(file) => {
            Box::new(File::open(file).with_context(|| format!("open {}", file.display()))?)
        }
        None => Box::new(stdin()),
    });
    let mut progress = Progress::default();
    let (log, registers) = (store.log.as_ref(), store.registers.as_ref());
    let now = Timestamp::now();
    let carried =
        carry::import(log, registers, &mut input, now, &mut |it| progress.tell(it)).await?;
    progress.end();
    Ok(conclude(common.json, "imported", &carried))
}

fn conclude(json: bool, done: &str, carried: &Carried) -> ExitCode {
    let Carried {
        issues,
        records,
        skipped,
        refused,
    } = carried;
    if json {
        println!("{}", serde_json::json!(carried));
    }
    eprintln!("cyrus: {done} {issues} issues with {records} events; {skipped} were there already");
    for why in refused {
        eprintln!("cyrus: not {done}: {why}");
    }
    if refused.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_FAILED)
    }
}

/// A file that only its owner can read: it holds what people wrote.
fn private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)
}

/// How far it is, on stderr: one line that changes, or one now and then.
#[derive(Default)]
struct Progress {
    issues: usize,
}

impl Progress {
    fn tell(&mut self, identifier: &str) {
        self.issues += 1;
        if stderr().is_terminal() {
            eprint!("\r{} issues, {identifier}\x1b[K", self.issues);
        } else if self.issues.is_multiple_of(TOLD_EVERY) {
            eprintln!("{} issues, {identifier}", self.issues);
        }
    }

    fn end(&self) {
        if stderr().is_terminal() && self.issues > 0 {
            eprintln!();
        }
    }
}
