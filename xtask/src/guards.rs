//! `cargo xtask guards`: are the simulator and the stories honest? One guard of
//! the core after the other is switched off in a copy of the tree, and one of
//! them must break every time. Takes about a minute a guard; not part of `cargo xtask test`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::House;

/// Enough for the rarest of the races below.
const SEEDS: &str = "1500";

/// A guard, and the text without it.
struct Guard {
    name: &'static str,
    file: &'static str,
    with: &'static str,
    without: &'static str,
}

const GUARDS: &[Guard] = &[
    Guard {
        name: "a lapsed claim on a start is looked into",
        file: "shared/src/issue/owed.rs",
        with: "(self.doubt.is_some() || self.claimed.is_some())",
        without: "self.doubt.is_some()",
    },
    Guard {
        name: "a claim after a lapsed one remembers the doubt",
        file: "shared/src/issue/evolve.rs",
        with: "        owed.doubt.get_or_insert_default();\n    }\n    owed.claimed",
        without: "    }\n    owed.claimed",
    },
    Guard {
        name: "an outcome counts only under its own claim",
        file: "shared/src/issue/outcome.rs",
        with: "held.is_some_and(|it| it.seq == claim)",
        without: "held.is_some() || claim == 0",
    },
    Guard {
        name: "a process that slept through its claim does nothing",
        file: "shared/src/engine/call.rs",
        with: "if went_well && left.is_some_and(|it| it >= enough) {",
        without: "if went_well {",
    },
    Guard {
        name: "a session is taken in once",
        file: "shared/src/issue/understand.rs",
        with: "    if draft.issue.seen.contains(&opening.session.0) {\n        return;\n    }",
        without: "",
    },
    Guard {
        name: "a prompt is taken in once",
        file: "shared/src/issue/understand.rs",
        with: "if draft.issue.seen.contains(&activity) {",
        without: "if false {",
    },
    Guard {
        name: "an answer about another run is not this run's",
        file: "shared/src/issue/sight.rs",
        with: "    if ours != run {\n        return;\n    }",
        without: "",
    },
    Guard {
        name: "a task waits for what it depends on",
        file: "shared/src/issue/state.rs",
        with: ".all(|on| self.task(on).is_some_and(Task::achieved))",
        without: ".all(|_| true)",
    },
    Guard {
        name: "what runs for a cancelled issue is stopped",
        file: "shared/src/issue/advance.rs",
        with: "            } => stop(draft, &task, run),",
        without: "            } => {\n                let _ = run;\n            }",
    },
    Guard {
        name: "what a cancelled issue may have begun is only looked for",
        file: "shared/src/issue/evolve.rs",
        with: "            | Effect::Say { .. } => true,\n        };",
        without: "            | Effect::Say { .. } => false,\n        };",
    },
    Guard {
        name: "what may have begun is not dropped by a cancellation",
        file: "shared/src/issue/evolve.rs",
        with: "Effect::Start { .. } | Effect::Merge { .. } | Effect::Update { .. } => {\n                if untouched(owed) {",
        without: "Effect::Start { .. } | Effect::Merge { .. } | Effect::Update { .. } => {\n                if true {",
    },
    Guard {
        name: "a cancelled issue's merge is not made again",
        file: "shared/src/issue/owed.rs",
        with: "let unwanted_merge = self.withdrawn && matches!(self.effect, Effect::Merge { .. });",
        without: "let unwanted_merge = false;",
    },
    Guard {
        name: "a round ends when nothing is owed",
        file: "shared/src/issue/advance.rs",
        with: "if over && draft.issue.reported && draft.issue.owed.is_empty() {",
        without: "if over && draft.issue.reported {",
    },
    Guard {
        name: "what is found of one commit says nothing of the next",
        file: "shared/src/issue/judges.rs",
        with: "judge.finding.as_ref().filter(|it| it.sha == sha)",
        without: "judge.finding.as_ref().filter(|_| true)",
    },
    Guard {
        name: "a judge that is at work is asked again about another commit",
        file: "shared/src/issue/evolve.rs",
        with: "task.state = if task.subject.as_ref() == Some(&finding.sha) {",
        without: "task.state = if true {",
    },
    Guard {
        name: "a person approves of one commit",
        file: "shared/src/issue/verdict.rs",
        with: "it.sha == facts.head_sha && it.opinion == Opinion::Approves;",
        without: "it.opinion == Opinion::Approves;",
    },
    Guard {
        name: "after a merge the others are judged again",
        file: "shared/src/issue/evolve.rs",
        with: "if matches!(other.state, TaskState::Approved { .. }) {",
        without: "if false {",
    },
    Guard {
        name: "how a run ended before it was gone on with is not how it ends",
        file: "shared/src/issue/sight.rs",
        with: "Sight::Ended(_) if stale => {}",
        without: "Sight::Ended(_) if false && stale => {}",
    },
    Guard {
        name: "repairs are bounded",
        file: "shared/src/issue/validate.rs",
        with: "if task.repairs < policy.repairs_max && task.run.is_some() {",
        without: "if task.run.is_some() {",
    },
    Guard {
        name: "a runner that speaks under an old fence is not heard",
        file: "shared/src/runner/standing.rs",
        with: "self.fence == fence && self.lease",
        without: "self.lease",
    },
    Guard {
        name: "who speaks of another runner's job is not heard",
        file: "shared/src/runner/standing.rs",
        with: "lease.runner.as_ref().is_none_or(|it| it == runner)",
        without: "lease.runner.as_ref().is_none_or(|it| it == runner || true)",
    },
    Guard {
        name: "a job that a runner has is given to nobody else",
        file: "shared/src/runner/standing.rs",
        with: "!self.held(now) && !self.cancel",
        without: "!self.cancel",
    },
    Guard {
        name: "a runner is told to end what was stopped",
        file: "shared/src/runner/standing.rs",
        with: "_ if heard.cancel => Action::Cancel,",
        without: "_ if false => Action::Cancel,",
    },
    Guard {
        name: "an effect has one id, however often it is tried",
        file: "shared/src/engine/call.rs",
        with: "format!(\"{id}:{born}:{key}\")",
        without: "format!(\"{id}:{born}:{key}:{:?}\", std::time::Instant::now())",
    },
    Guard {
        name: "an append that goes over the limit of a day is refused",
        file: "shared/src/stats/account.rs",
        with: "} if *micros > 0 => Some(Limit {",
        without: "} if *micros < i64::MIN + 1 => Some(Limit {",
    },
    Guard {
        name: "a run that does not fit under the limit of an issue is not admitted",
        file: "shared/src/issue/money.rs",
        with: "            if left < need {",
        without: "            if left < need && scope != Scope::Issue {",
    },
    Guard {
        name: "a further run of a task fits under the limit of the task",
        file: "shared/src/issue/money.rs",
        with: "            if left < enough {",
        without: "            if false && left < enough {",
    },
    Guard {
        name: "what one decision admits counts for the next run in it",
        file: "shared/src/issue/money.rs",
        with: "        self.issue_reserved += need;",
        without: "",
    },
    Guard {
        name: "the switch is read again right before a start",
        file: "shared/src/engine/call.rs",
        with: "if self.pause().await?.is_some() {",
        without: "if false {",
    },
    Guard {
        name: "a start that is given up gives its money back",
        file: "shared/src/issue/evolve.rs",
        with: "            }\n            task.reserved = None;\n        } else if",
        without: "            }\n        } else if",
    },
    Guard {
        name: "what is not known to have cost less counts as all that was set aside",
        file: "shared/src/issue/sight.rs",
        with: "(reserved.map_or(0.0, |it| it.usd), true)",
        without: "(reserved.map_or(0.0, |it| it.usd / 2.0), true)",
    },
    Guard {
        name: "a cost that is none is not booked",
        file: "shared/src/issue/sight.rs",
        with: ".filter(|usd| (0.0..=COST_USD_MAX).contains(usd))",
        without: ".filter(|usd| *usd <= COST_USD_MAX)",
    },
    Guard {
        name: "a run that a pause has stopped does not count",
        file: "shared/src/issue/evolve.rs",
        with: "task.free_runs += 1;",
        without: "task.free_runs += 0;",
    },
    Guard {
        name: "local-only stays at home",
        file: "shared/src/issue/route.rs",
        with: "    if !strategy.may_move() {",
        without: "    if false {",
    },
];

pub(crate) fn check(house: &House) -> Result<()> {
    let copy = house.root.join("target/guards/tree");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    let listed = Command::new("git")
        .arg("ls-files")
        .current_dir(&house.root)
        .output()?;
    for file in String::from_utf8(listed.stdout)?.lines() {
        let to = copy.join(file);
        fs::create_dir_all(to.parent().context("a file in a folder")?)?;
        fs::copy(house.root.join(file), to).with_context(|| format!("copy {file}"))?;
    }
    ensure!(simulate(&copy)?, "the tests break with all guards on");
    let mut unnoticed = Vec::new();
    for Guard {
        name,
        file,
        with,
        without,
    } in GUARDS
    {
        let path = copy.join(file);
        let text = fs::read_to_string(&path)?;
        ensure!(
            text.contains(with),
            "the guard `{name}` is not in {file} any more: mend the list"
        );
        fs::write(&path, text.replacen(with, without, 1))?;
        let passed = simulate(&copy)?;
        fs::write(&path, text)?;
        println!(
            "{} {name}",
            if passed { "NOT NOTICED" } else { "noticed    " }
        );
        if passed {
            unnoticed.push(*name);
        }
    }
    if !unnoticed.is_empty() {
        bail!("nobody misses: {}", unnoticed.join("; "));
    }
    println!("{} guards, each is missed when it is off", GUARDS.len());
    Ok(())
}

/// Does the simulator pass on this tree? A tree that doesn't build is an error.
fn simulate(tree: &Path) -> Result<bool> {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        command
            .args([
                "test",
                "--quiet",
                "--package",
                "tests",
                "--test",
                "sim",
                "--test",
                "stories",
            ])
            .args(arguments);
        command
            .current_dir(tree)
            .env("CARGO_TARGET_DIR", tree.with_file_name("target"));
        command.env("SIM_SEEDS", SEEDS).output()
    };
    let built = cargo(&["--no-run"])?;
    ensure!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    Ok(cargo(&[])?.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guard_stands_where_it_is_said_to_stand() {
        for guard in GUARDS {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
            let text = fs::read_to_string(format!("{path}/{}", guard.file)).expect("the file");
            assert_eq!(text.matches(guard.with).count(), 1, "{}", guard.name);
        }
    }
}
