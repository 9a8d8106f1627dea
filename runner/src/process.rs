//! Finding and killing processes: what an agent leaves behind. Knows nothing
//! of jobs.
//!
//! Agents put their tools into sessions of their own, so a group or a session
//! is not enough: on Linux the tree is walked over `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use rustix::process::{Pid, Signal};

use crate::folder::Begun;

/// One process, as `/proc` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: i32,
    session: i32,
    /// Ticks since boot.
    started: u64,
    /// Dead already, and only not taken note of.
    zombie: bool,
}

/// Sends a signal to a process group; one that is gone is none of our worry.
pub(crate) fn signal_group(group: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(group).filter(|_| group > 1) {
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

/// Kills every descendant of this very process; true when there is none left.
///
/// As child subreaper we are the parent of all whose own parent has ended.
pub(crate) fn kill_descendants() -> bool {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    // The dead stay in the list until somebody takes note of them.
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
    let left = descendants(&all(), &BTreeSet::from([own]));
    kill(left.iter().copied());
    left.is_empty()
}

/// Kills what is left of a process whose supervisor has died. To be asked again
/// with the same `doomed` until it says that all are gone.
pub(crate) fn kill_left_behind(begun: &Begun, doomed: &mut Doomed) -> bool {
    if begun.boot != boot() {
        return true;
    }
    let processes = all();
    if processes.is_empty() {
        // No `/proc`: the group alone, if it is still in the session it was in.
        let session = begun
            .group
            .and_then(Pid::from_raw)
            .map(|it| rustix::process::getsid(Some(it)));
        if let (Some(group), Some(Ok(session))) = (begun.group, session)
            && session.as_raw_nonzero().get() == begun.session
        {
            signal_group(group, Signal::KILL);
        }
        return true;
    }
    // As long as a member of the session lives, nobody else gets its number; a
    // leader that started at another time leads another session.
    let leader = processes.get(&begun.session);
    if leader.is_none_or(|it| Some(it.started) == begun.session_started) {
        let members: BTreeSet<i32> = processes
            .iter()
            .filter(|(_, it)| it.session == begun.session)
            .map(|(pid, _)| *pid)
            .collect();
        for pid in descendants(&processes, &members).into_iter().chain(members) {
            doomed.0.insert(pid, processes[&pid].started);
        }
    }
    doomed.0.retain(|pid, started| {
        processes
            .get(pid)
            .is_some_and(|it| it.started == *started && !it.zombie)
    });
    kill(doomed.0.keys().copied());
    doomed.0.is_empty()
}

/// Processes that are to be killed: by number and start, for numbers come again.
/// Their tree is known only until the first of them dies.
#[derive(Debug, Default)]
pub(crate) struct Doomed(BTreeMap<i32, u64>);

/// When this very process started, in ticks since boot.
pub(crate) fn own_start() -> Option<u64> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    read(own).map(|it| it.started)
}

/// Which boot of the machine this is.
pub(crate) fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .map(|it| it.trim().to_owned())
}

fn kill(pids: impl Iterator<Item = i32>) {
    for pid in pids.filter(|it| *it > 1).filter_map(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

fn descendants(processes: &BTreeMap<i32, Process>, of: &BTreeSet<i32>) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        found.extend(
            processes
                .iter()
                .filter(|(pid, it)| {
                    !of.contains(pid) && (of.contains(&it.parent) || found.contains(&it.parent))
                })
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        if found.len() == before {
            return found;
        }
    }
}

/// Every process there is; empty where there is no `/proc`.
fn all() -> BTreeMap<i32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, read(pid)?)))
        .collect()
}

fn read(pid: i32) -> Option<Process> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(stat: &str) -> Option<Process> {
    // The second field is the program's name in parentheses, and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        zombie: *fields.first()? == "Z",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_program_is_called() {
        let stat = "42 (a) b) (c) S 7 42 40 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 123456 1 1";
        assert_eq!(
            parse(stat),
            Some(Process {
                parent: 7,
                session: 40,
                started: 123_456,
                zombie: false,
            })
        );
        assert_eq!(parse("42 (cut) S 7"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn grandchildren_are_found_and_strangers_are_not() {
        let process = |parent| Process {
            parent,
            session: 0,
            started: 0,
            zombie: false,
        };
        let all = BTreeMap::from([
            (1, process(0)),
            (5, process(1)),
            (3, process(5)),
            (9, process(3)),
            (7, process(1)),
        ]);
        assert_eq!(
            descendants(&all, &BTreeSet::from([5])),
            BTreeSet::from([3, 9])
        );
    }
}
