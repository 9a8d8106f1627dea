//! What operators do, and what befalls executors as a whole: limits are raised,
//! all is paused and goes on, a provider is down, refuses the token or the
//! credit, and heals.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use jiff::SignedDuration;
use shared::issue::{
    Approval, ExecutorKind, FailureClass, Fault, Pause, Rules, Strategy, Time, Wait, utc_day,
};
use shared::pause;
use shared::store::memory::MemoryLog;

use crate::world::World;

/// A pause lasts at most this long.
const PAUSE_SECONDS_MAX: i64 = 1_800;
/// So does an outage.
const OUTAGE_SECONDS_MAX: i64 = 900;
/// Runs are asked to stop within this, once an operator wants it.
const STOP_SECONDS_MAX: i64 = 900;
/// No limit of a task is raised beyond this, none of an issue or a day beyond
/// many times as much.
const LIMIT_USD_MAX: f64 = 1_000.0;
/// In fair weather somebody minds what waits at such a step: a chance in a thousand.
const MINDS: u32 = 60;

/// So often the next day is waited for: the end of a job is kept for two weeks, and
/// no call that is under way may outlast that.
const NIGHTS_MAX: u32 = 7;

#[derive(Debug)]
pub(crate) struct Office {
    /// The part of the configuration that holds at once. Limits are only raised.
    pub(crate) rules: Rules,
    /// What the kill switch says, and since when.
    pub(crate) paused: Option<(Pause, Time)>,
    resumes_at: Time,
    down: BTreeMap<ExecutorKind, (Down, Time)>,
    /// The local executor has a breaker, too.
    pub(crate) guards_local: bool,
    /// The places on the local machine, where that tells.
    pub(crate) slots: Option<usize>,
    /// Chances in a thousand at each passing of time.
    pauses: u32,
    outages: u32,
    raises: u32,
    nights: u32,
}

/// How an executor is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Down {
    /// Nobody answers there, or only with a 5xx.
    Refused,
    /// It does what it is asked, and says so too late.
    Slow,
    Token,
    Credit,
    /// It knows itself that it can do nothing.
    NobodyThere,
}

impl Down {
    /// What a start is answered, where it is refused.
    pub(crate) fn refusal(self) -> Option<Fault> {
        let refused = |class, why: &str| Fault::Permanent {
            class,
            why: why.into(),
        };
        Some(match self {
            Self::Slow => return None,
            Self::Refused => Fault::Transient {
                why: "connection refused".into(),
            },
            Self::Token => refused(FailureClass::Auth, "401: the token is not good"),
            Self::Credit => refused(FailureClass::Quota, "402: the credit is used up"),
            Self::NobodyThere => Fault::Down {
                why: "no runner was heard of for a while".into(),
            },
        })
    }
}

impl Office {
    /// Each world has its own rules: some with tight limits, some with none.
    pub(crate) fn draw(rng: &mut fastrand::Rng) -> Self {
        let strategy = Strategy::ALL[rng.usize(0..Strategy::ALL.len())];
        // In many worlds money is no object, and all the rest can be seen better.
        let careful = rng.u8(0..5) < 3;
        let mut limit = |cents: std::ops::RangeInclusive<u32>| {
            (careful && rng.bool()).then(|| f64::from(rng.u32(cents)) / 100.0)
        };
        let cost_per_task_max = limit(30..=200);
        let cost_per_issue_max = limit(50..=600);
        let cost_per_day_max = limit(50..=800);
        let approval = match rng.u8(0..8) {
            0 => Approval::Always,
            1 | 2 => Approval::Over(f64::from(rng.u8(0..=20)) / 10.0),
            _ => Approval::Never,
        };
        let mut chance = |max: u32| if rng.bool() { rng.u32(0..=max) } else { 0 };
        Self {
            rules: Rules {
                strategy,
                cost_per_task_max,
                cost_per_issue_max,
                cost_per_day_max,
                cost_per_run: 0.4,
                approval,
            },
            paused: None,
            resumes_at: Time::MIN,
            down: BTreeMap::new(),
            pauses: chance(10),
            outages: chance(25),
            raises: chance(20),
            nights: 0,
            guards_local: rng.bool(),
            slots: rng.bool().then(|| rng.usize(1..=3)),
        }
    }

    pub(crate) fn down(&self, kind: ExecutorKind, now: Time) -> Option<Down> {
        let down = self.down.get(&kind).filter(|(_, until)| now < *until);
        down.map(|(how, _)| *how)
    }

    /// All limits become so many times what they were.
    fn raise(&mut self, times: f64) {
        let rules = &mut self.rules;
        for (limit, max) in [
            (&mut rules.cost_per_task_max, LIMIT_USD_MAX),
            (&mut rules.cost_per_issue_max, LIMIT_USD_MAX * 1e2),
            (&mut rules.cost_per_day_max, LIMIT_USD_MAX * 1e4),
        ] {
            *limit = limit.map(|usd| (usd * times).min(max));
        }
    }
}

/// Time has passed: operators do something, perhaps.
pub(crate) fn operate(log: &Arc<MemoryLog>, world: &mut World, calm: bool) {
    let now = world.now;
    let (pauses, outages, raises) = (
        world.office.pauses,
        world.office.outages,
        world.office.raises,
    );
    let begins = !calm && world.office.paused.is_none() && world.dice(pauses);
    match world.office.paused {
        Some(_) if calm || world.office.resumes_at <= now => {
            turn(log, world, None);
            world.note("an operator lets work go on".into());
        }
        Some((pause, since)) => {
            let late = now.duration_since(since).as_secs() > STOP_SECONDS_MAX;
            if pause.stop_runs && late {
                check_stopped(world);
            }
        }
        None if begins => {
            let pause = Pause {
                stop_runs: world.rng.bool(),
                merges: world.rng.bool(),
            };
            turn(log, world, Some(pause));
            world.office.resumes_at = now + world.seconds(0..=PAUSE_SECONDS_MAX);
            world.note(format!("an operator pauses all: {pause:?}"));
            world.visit("all was paused");
        }
        None => {}
    }
    for kind in ExecutorKind::ALL {
        if calm {
            world.office.down.remove(kind);
        } else if world.dice(outages) && world.office.down(*kind, now).is_none() {
            let how = outage(world, *kind);
            let until = now + world.seconds(0..=OUTAGE_SECONDS_MAX);
            world.office.down.insert(*kind, (how, until));
            world.note(format!("{kind} is down until {until}: {how:?}"));
        }
    }
    let wanted = waits_for_money(world);
    let minded = calm && wanted && world.dice(MINDS);
    let sleeps = minded && {
        let World { office, rng, .. } = &mut *world;
        office.sleeps_over_it(rng)
    };
    if minded && !sleeps {
        // Without one of its own a run of unknown cost takes a part of the others.
        let task_max = &mut world.office.rules.cost_per_task_max;
        task_max.get_or_insert(LIMIT_USD_MAX);
        world.office.raise(2.0);
        world.note("an operator doubles all limits".into());
    } else if minded {
        to_tomorrow(world);
    } else if world.dice(raises) && wanted && !calm {
        let times = 1.0 + f64::from(world.rng.u8(1..=10)) / 10.0;
        world.office.raise(times);
        world.note("an operator raises all limits".into());
        world.visit("an operator raised the limits");
    }
}

impl Office {
    /// Now and then the next day is waited for.
    fn sleeps_over_it(&mut self, rng: &mut fastrand::Rng) -> bool {
        let sleeps = self.rules.cost_per_day_max.is_some() && rng.u8(0..3) == 0;
        let again = self.nights < NIGHTS_MAX;
        self.nights += u32::from(sleeps && again);
        sleeps && again
    }
}

fn outage(world: &mut World, kind: ExecutorKind) -> Down {
    if kind == ExecutorKind::Local && !world.office.guards_local {
        return Down::NobodyThere;
    }
    let all = [
        Down::Refused,
        Down::Refused,
        Down::Slow,
        Down::Token,
        Down::Credit,
    ];
    all[world.rng.usize(0..all.len())]
}

fn turn(log: &Arc<MemoryLog>, world: &mut World, to: Option<Pause>) {
    let now = world.now;
    let turned = match to {
        Some(pause) => pause::pause(log.as_ref(), pause, now).now_or_never(),
        None => pause::resume(log.as_ref(), now).now_or_never(),
    };
    turned.and_then(Result::ok).expect("memory answers at once");
    world.office.paused = to.map(|it| (it, now));
}

/// What an operator wants stopped was asked to stop, whatever the weather.
fn check_stopped(world: &mut World) {
    let now = world.now;
    let neglected = world
        .runs
        .iter()
        .find(|run| run.holder.is_none() && run.alive(now) && run.stopped.is_none());
    let early =
        |run: &crate::run::Run| now.duration_since(run.created).as_secs() > STOP_SECONDS_MAX;
    if let Some(run) = neglected.filter(|it| early(it)) {
        let what = format!("{} goes on although all runs were to stop", run.id);
        world.broke(what);
    }
}

fn waits_for_money(world: &World) -> bool {
    let waits = |on: &Wait| matches!(on, Wait::Money(_));
    world
        .books
        .issues()
        .any(|it| it.active() && it.waits.keys().any(waits))
}

/// Nothing happens until the next day, if nothing is under way.
fn to_tomorrow(world: &mut World) {
    let idle = world.runs.iter().all(|it| !it.alive(world.now)) && world.cancelled.is_empty();
    let tomorrow = utc_day(world.now).tomorrow();
    let midnight = tomorrow.and_then(|it| it.to_zoned(jiff::tz::TimeZone::UTC));
    if let (true, Ok(midnight)) = (idle, midnight) {
        let by = midnight.timestamp().duration_since(world.now);
        world.pass(by + SignedDuration::from_secs(1));
        world.note("the next day".into());
    }
}
