//! What agents say they have cost, and what the legs of a job come to.

use serde::{Deserialize, Serialize};

/// What an agent says it has cost, USD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// This process alone, so far.
    pub(crate) own: f64,
    /// The whole session, the processes before it included; `None`: the program
    /// keeps no such count.
    pub(crate) session: Option<f64>,
    /// It has worked on since it said so, and may have cost more.
    pub(crate) grows: bool,
    /// So much more, as its tokens tell. An estimate: of the turn that it was in
    /// nothing is known.
    #[serde(default)]
    pub(crate) guess: f64,
}

impl Cost {
    /// The same without what the session had cost before, USD.
    pub(crate) fn since(self, before: Option<f64>) -> Self {
        let before = before.unwrap_or_default();
        Self {
            session: self.session.map(|it| (it - before).max(0.0)),
            ..self
        }
    }
}

/// What the legs of a job have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Spent {
    /// All that is known of, USD; `None`: nothing is.
    pub(crate) usd: Option<f64>,
    /// No leg has cost more than that.
    pub(crate) whole: bool,
    /// What they may have cost, but for the turns in which they were cut off;
    /// `None`: nobody knows.
    pub(crate) perhaps: Option<f64>,
}

/// Adds up the legs of a job, in their order; `None` is a leg of whose cost
/// nothing is known. Never counts one twice, and never too little where it
/// says `whole`.
///
/// A session's own count may hold what a leg could not say any more: Claude Code
/// that is terminated writes it down, one that is killed does not. So the
/// greater of both counts holds, and what is not known stays unknown.
pub(crate) fn spent(legs: impl IntoIterator<Item = Option<Cost>>) -> Spent {
    let mut own: Option<f64> = None;
    let mut session: Option<f64> = None;
    let (mut whole, mut known, mut guess) = (true, true, 0.0);
    for leg in legs {
        let Some(cost) = leg else {
            (whole, known) = (false, false);
            continue;
        };
        whole &= !cost.grows;
        guess += cost.guess;
        own = Some(own.unwrap_or_default() + cost.own);
        session = cost.session.map_or(session, |it| {
            Some(session.map_or(it, |before| before.max(it)))
        });
    }
    let usd = own.map(|it| session.map_or(it, |all| it.max(all)));
    Spent {
        usd,
        whole,
        perhaps: usd.filter(|_| known).map(|it| it + guess),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn leg(own: f64, session: Option<f64>) -> Option<Cost> {
        Some(Cost {
            own,
            session,
            grows: false,
            guess: 0.0,
        })
    }

    fn check(legs: &[Option<Cost>], usd: Option<f64>, whole: bool) {
        let sum = spent(legs.iter().copied());
        assert_eq!((sum.usd, sum.whole), (usd, whole), "{legs:?}");
    }

    #[test]
    fn no_leg_is_counted_twice() {
        check(&[], None, true);
        check(&[leg(0.5, None)], Some(0.5), true);
        // Each process for itself …
        check(&[leg(0.5, None), leg(0.25, None)], Some(0.75), true);
        // … or the session in one count: the same sum.
        let counted = [leg(0.5, Some(0.5)), leg(0.25, Some(0.75))];
        check(&counted, Some(0.75), true);
    }

    #[test]
    fn what_a_leg_could_not_say_is_taken_from_the_session_or_stays_unknown() {
        // The session's count holds what the leg in between has cost …
        let told = [leg(0.5, Some(0.5)), None, leg(0.25, Some(1.0))];
        check(&told, Some(1.0), false);
        // … or does not.
        let lost = [leg(0.5, Some(0.5)), None, leg(0.25, Some(0.75))];
        check(&lost, Some(0.75), false);
        // A count that was begun anew takes nothing away.
        check(
            &[leg(0.5, Some(0.5)), leg(0.25, Some(0.25))],
            Some(0.75),
            true,
        );
        check(&[None], None, false);
    }

    #[test]
    fn what_still_grows_is_not_the_whole() {
        let cut = Cost {
            own: 0.5,
            session: None,
            grows: true,
            guess: 0.25,
        };
        check(&[Some(cut)], Some(0.5), false);
        assert_eq!(spent([Some(cut), leg(0.5, None)]).perhaps, Some(1.25));
        assert_eq!(spent([Some(cut), None]).perhaps, None, "nobody knows");
    }
}
