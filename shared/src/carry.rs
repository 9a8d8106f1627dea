//! Logs carried from one store to another, and heads made again from their logs.
//!
//! An export is lines of JSON: a header, the configuration, then issue by issue
//! its records, and a last line that says how much there was. Secrets, breakers
//! and jobs stay where they are. Memory is taken for one issue at a time.

use std::io::{BufRead, Read as _, Write};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::issue::{Issue, IssueId, Record, Seq, Time, evolve};
use crate::ports::{Append, AppendError, Head, Log, Place, RegisterWrite, Registers};
use crate::{config, stats, view};

/// The version of the format; another one is refused.
const VERSION: u32 = 1;
/// Heads that are read at once.
const HEADS_PER_PAGE: usize = 100;
/// The longest line that is read. An event is far shorter.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The events of one append, and their bytes: what an engine's step writes is
/// written at once again, within what every store takes.
const APPEND_EVENTS_MAX: usize = 50;
const APPEND_BYTES_MAX: usize = 512 * 1024;
/// How often a head is made again because its log has moved on.
const CONFLICTS_MAX: usize = 20;
/// Comes after every id, in the order of places.
const AFTER_ALL_IDS: char = char::MAX;

/// One line of an export.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Export { version: u32, at: Time },
    Register { name: String, value: Value },
    Issue(Title),
    Record(Record),
    End { issues: usize, records: Seq },
}

/// The beginning of an issue's records.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Title {
    id: IssueId,
    identifier: String,
    records: Seq,
}

/// What was carried.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Carried {
    pub issues: usize,
    pub records: Seq,
    /// Issues that were there already, as far as the export tells them.
    pub skipped: usize,
    /// What could not be carried, and why; all else was.
    pub refused: Vec<String>,
}

/// Writes all issues and the configuration of a store. `tell` hears of each
/// issue when it is done.
pub async fn export(
    log: &dyn Log,
    registers: &dyn Registers,
    out: &mut (dyn Write + Send),
    now: Time,
    tell: &mut (dyn FnMut(&str) + Send),
) -> anyhow::Result<Carried> {
    let mut write = |line: &Line| -> anyhow::Result<()> {
        serde_json::to_writer(&mut *out, line)?;
        Ok(out.write_all(b"\n")?)
    };
    write(&Line::Export {
        version: VERSION,
        at: now,
    })?;
    for register in registers.list(config::SHELF, now).await? {
        let (name, value) = (register.name, register.value);
        write(&Line::Register { name, value })?;
    }
    let mut carried = Carried::default();
    let mut after: Option<Place> = None;
    loop {
        let heads = log.heads(after.as_ref(), HEADS_PER_PAGE).await?;
        let Some(last) = heads.last() else { break };
        after = Some(last.place());
        for head in heads {
            let records = match read_whole(log, &head.issue).await {
                Ok(records) => records,
                Err(error) => {
                    let why = format!("{} ({}): {error:#}", head.identifier, head.issue);
                    carried.refused.push(why);
                    continue;
                }
            };
            let title = Title {
                id: head.issue,
                identifier: head.identifier.clone(),
                records: records.len() as Seq,
            };
            carried.issues += 1;
            carried.records += title.records;
            write(&Line::Issue(title))?;
            for record in records {
                write(&Line::Record(record))?;
            }
            tell(&head.identifier);
        }
    }
    write(&Line::End {
        issues: carried.issues,
        records: carried.records,
    })?;
    out.flush()?;
    Ok(carried)
}

/// Writes what an export holds into a store, as it was written at first: with
/// its times, its heads and its statistics. What is there already is passed
/// over, so an import that broke off is taken up by importing again.
///
/// Until an issue is whole its head rests, so that nobody acts on half of it.
pub async fn import(
    log: &dyn Log,
    registers: &dyn Registers,
    input: &mut (dyn BufRead + Send),
    now: Time,
    tell: &mut (dyn FnMut(&str) + Send),
) -> anyhow::Result<Carried> {
    let mut carried = Carried::default();
    let mut told = Carried::default();
    let mut coming: Option<Coming> = None;
    let mut lines = Lines { input, number: 0 };
    let Some(Line::Export { version, .. }) = lines.next()? else {
        bail!("this is no export of cyrus: it begins with no header");
    };
    ensure!(
        version == VERSION,
        "this export has version {version}, this program reads {VERSION}: use the program that wrote it, or a newer one"
    );
    while let Some(line) = lines.next()? {
        if let (Some(one), false) = (&coming, matches!(line, Line::Record(_))) {
            let Title {
                identifier,
                records,
                ..
            } = &one.title;
            bail!(
                "line {}: `{identifier}` should have {records} records",
                lines.number
            );
        }
        match line {
            Line::Export { .. } => bail!("line {}: a second header", lines.number),
            Line::Register { name, value } => {
                if let Err(why) = take_register(registers, &name, value, now).await? {
                    carried.refused.push(why);
                }
            }
            Line::Issue(title) if title.records > 0 => {
                coming = Some(Coming::begin(log, title).await?);
            }
            Line::Issue(_) => {}
            Line::Record(record) => {
                let what = || format!("line {}", lines.number);
                let one = coming.as_mut().with_context(what)?;
                one.take(log, record).await.with_context(what)?;
                if one.issue.seq == one.title.records {
                    told.issues += 1;
                    told.records += one.title.records;
                    tell(&one.title.identifier);
                    if let Some(one) = coming.take() {
                        one.conclude(&mut carried);
                    }
                }
            }
            Line::End { issues, records } => {
                ensure!(
                    (issues, records) == (told.issues, told.records),
                    "this export should have {issues} issues with {records} records, and has {} \
                     with {}: export again",
                    told.issues,
                    told.records
                );
                return Ok(carried);
            }
        }
    }
    bail!(
        "this export breaks off after line {}: what it holds was imported, export again for the rest",
        lines.number
    )
}

/// An issue that is being imported.
struct Coming {
    title: Title,
    /// What the store had of it.
    there: Vec<Record>,
    /// As far as it was read.
    issue: Issue,
    /// As it was before the group.
    before: Issue,
    /// What goes into the next append.
    group: Vec<Record>,
    bytes: usize,
    written: Seq,
    /// Why nothing more of it is written.
    refused: Option<String>,
}

impl Coming {
    async fn begin(log: &dyn Log, title: Title) -> anyhow::Result<Self> {
        Ok(Self {
            there: log.read(&title.id, 0).await?,
            issue: Issue::unknown(title.id.clone()),
            before: Issue::unknown(title.id.clone()),
            title,
            group: Vec::new(),
            bytes: 0,
            written: 0,
            refused: None,
        })
    }

    async fn take(&mut self, log: &dyn Log, record: Record) -> anyhow::Result<()> {
        let seq = self.issue.seq + 1;
        ensure!(
            record.seq == seq,
            "record {} of `{}` should be {seq}",
            record.seq,
            self.title.identifier
        );
        let known = self.there.get(seq as usize - 1);
        let is_new = known.is_none();
        if known.is_some_and(|it| *it != record) {
            self.refuse(seq, "is another there");
        }
        let bytes = serde_json::to_string(&record.event)?.len();
        let full = self.group.len() >= APPEND_EVENTS_MAX
            || self.bytes + bytes > APPEND_BYTES_MAX
            || self.group.last().is_some_and(|it| it.at != record.at);
        if is_new && full {
            self.append(log).await?;
        }
        let goes_in = is_new && self.refused.is_none();
        if goes_in && self.group.is_empty() {
            self.before = self.issue.clone();
        }
        evolve(&mut self.issue, &record);
        if goes_in {
            self.bytes += bytes;
            self.group.push(record);
        }
        if seq == self.title.records {
            self.append(log).await?;
        }
        Ok(())
    }

    async fn append(&mut self, log: &dyn Log) -> anyhow::Result<()> {
        let group = std::mem::take(&mut self.group);
        self.bytes = 0;
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            return Ok(());
        };
        let (first, last, at) = (first.seq, last.seq, last.at);
        let events: Vec<_> = group.into_iter().map(|it| it.event).collect();
        let mut head = view::head(&self.issue);
        if last < self.title.records {
            head.park("only a part of it is here: run `cyrus import` again");
        }
        let mut entries = stats::entries(&stats::facts(&self.before, &events, at), at);
        // What was spent was spent: no limit of today takes it back.
        entries.iter_mut().for_each(|it| it.limit = None);
        let append = Append {
            issue: self.title.id.clone(),
            after: first - 1,
            at,
            events,
            head,
            entries,
        };
        match log.append(append).await {
            Ok(()) => self.written += last + 1 - first,
            Err(AppendError::Conflict) => {
                self.refuse(first, "was written by somebody else meanwhile")
            }
            Err(error) => {
                return Err(error).with_context(|| format!("write `{}`", self.title.identifier));
            }
        }
        Ok(())
    }

    fn refuse(&mut self, seq: Seq, why: &str) {
        let Title { id, identifier, .. } = &self.title;
        let why =
            format!("{identifier} ({id}): its event {seq} {why}, so its log was left as it is");
        self.refused.get_or_insert(why);
    }

    fn conclude(self, carried: &mut Carried) {
        match self.refused {
            Some(why) => carried.refused.push(why),
            None if self.written == 0 => carried.skipped += 1,
            None => {
                carried.issues += 1;
                carried.records += self.written;
            }
        }
    }
}

/// The lines of an export.
struct Lines<'a> {
    input: &'a mut (dyn BufRead + Send),
    number: usize,
}

impl Lines<'_> {
    fn next(&mut self) -> anyhow::Result<Option<Line>> {
        let mut text = String::new();
        self.number += 1;
        let what = || format!("read line {}", self.number);
        let mut bounded = (&mut *self.input).take(LINE_BYTES_MAX);
        if bounded.read_line(&mut text).with_context(what)? == 0 {
            self.number -= 1;
            return Ok(None);
        }
        if !text.ends_with('\n') {
            // Whoever wrote it was interrupted, or it is no export at all.
            ensure!(
                (text.len() as u64) < LINE_BYTES_MAX,
                "line {} is too long",
                self.number
            );
            self.number -= 1;
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&text).with_context(what)?))
    }
}

/// The configuration of the export, unless the store has one of its own.
async fn take_register(
    registers: &dyn Registers,
    name: &str,
    value: Value,
    now: Time,
) -> anyhow::Result<Result<(), String>> {
    let write = RegisterWrite {
        shelf: config::SHELF.into(),
        name: name.into(),
        value: Some(value.clone()),
        expires_at: None,
    };
    match registers.put(write, 0, now).await {
        Ok(()) => return Ok(Ok(())),
        Err(AppendError::Conflict) => {}
        Err(error) => return Err(error).context("write the configuration"),
    }
    let there = registers.get(config::SHELF, name, now).await?;
    if there.is_some_and(|it| it.value == value) {
        return Ok(Ok(()));
    }
    Ok(Err(format!(
        "the configuration (`{name}`): this store has another, which was left as it is"
    )))
}

// ───────────────────────────── repair ─────────────────────────────

/// A head that was made again.
#[derive(Debug, PartialEq, Serialize)]
pub struct Repaired {
    pub id: IssueId,
    pub identifier: String,
    /// The last event of its log.
    pub seq: Seq,
    /// What the head says otherwise now; nothing, if it was right.
    pub changes: Vec<Change>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Change {
    pub what: String,
    pub was: Value,
    pub is: Value,
}

/// Why a head cannot be made again.
#[derive(Debug, thiserror::Error)]
pub enum Beyond {
    #[error("no issue `{0}` is known here")]
    Unknown(String),
    /// What is missing cannot be made up.
    #[error(
        "issue {issue} cannot be repaired: {why}. Bring the log back from a backup of the store, \
         or from an export"
    )]
    Torn { issue: IssueId, why: String },
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// Makes an issue's head again by replay of its log, and says what it changed.
pub async fn repair(log: &dyn Log, name: &str) -> Result<Repaired, Beyond> {
    // Where the head is gone the issue is not listed, and still has a log.
    let id = log.find(name).await?.unwrap_or_else(|| name.into());
    for _ in 0..CONFLICTS_MAX {
        let records = match read_whole(log, &id).await {
            Ok(records) => records,
            Err(error) => {
                let why = format!("{error:#}");
                return Err(Beyond::Torn { issue: id, why });
            }
        };
        if records.is_empty() {
            return Err(Beyond::Unknown(name.into()));
        }
        let mut issue = Issue::unknown(id.clone());
        for record in &records {
            evolve(&mut issue, record);
        }
        let head = view::head(&issue);
        let changes = changes(listed(log, &head).await?.as_ref(), &head)?;
        let (identifier, seq) = (head.identifier.clone(), head.seq);
        match log.rebuild(head).await {
            Ok(()) => {
                return Ok(Repaired {
                    id,
                    identifier,
                    seq,
                    changes,
                });
            }
            Err(AppendError::Conflict) => {}
            Err(error) => return Err(anyhow::Error::from(error).into()),
        }
    }
    Err(anyhow::anyhow!("the log of issue {id} kept moving for {CONFLICTS_MAX} tries").into())
}

/// The head as the list shows it. `None`: it is not there, or not in its place.
async fn listed(log: &dyn Log, head: &Head) -> anyhow::Result<Option<Head>> {
    let mut before = head.place();
    before.issue.0.push(AFTER_ALL_IDS);
    let found = log.heads(Some(&before), 1).await?.pop();
    Ok(found.filter(|it| it.issue == head.issue))
}

fn changes(was: Option<&Head>, is: &Head) -> anyhow::Result<Vec<Change>> {
    let was = was.map_or(Ok(Value::Null), serde_json::to_value)?;
    let is = serde_json::to_value(is)?;
    let figures = is.as_object().into_iter().flatten();
    let changed = figures.filter(|(name, is)| was[name.as_str()] != **is);
    Ok(changed
        .map(|(name, is)| Change {
            what: name.clone(),
            was: was[name.as_str()].clone(),
            is: is.clone(),
        })
        .collect())
}

/// The records of an issue, if none is missing.
async fn read_whole(log: &dyn Log, issue: &IssueId) -> anyhow::Result<Vec<Record>> {
    let records = log.read(issue, 0).await?;
    for (seq, record) in (1..).zip(&records) {
        ensure!(record.seq == seq, "its log has a gap after {}", seq - 1);
    }
    Ok(records)
}
