//! What `cyrus doctor` finds of the control plane where this machine is a runner.

use std::sync::Arc;

use runner::far::{Reached, reach};
use shared::config::Settings;
use shared::net::check_private;
use shared::runner::signature::SKEW_SECONDS_MAX;
use shared::wire::SystemClock;

use super::Finding;

/// Does a runner live here and nothing else? Then what only the control plane
/// needs is none of our business.
pub(super) fn runs_agents_only(settings: &Settings) -> bool {
    let linear = &settings.linear;
    settings.runner.control_url.is_some()
        && linear.token().is_none()
        && linear.client.is_none()
        && linear.webhook_secret.is_none()
}

/// Does the control plane answer, and would it take us?
pub(super) async fn control(settings: &Settings) -> Vec<Finding> {
    let Some(url) = &settings.runner.control_url else {
        return Vec::new();
    };
    if let Err(why) = check_private(url) {
        return vec![Finding::of("control plane", Err(why))];
    }
    let Some(token) = &settings.runner.token else {
        let why = "is not set: give it the same value as at the control plane".to_owned();
        return vec![Finding::of("CYRUS_RUNNER_TOKEN", Err(why))];
    };
    match reach(url, token.0.clone(), Arc::new(SystemClock)).await {
        Ok(reached) => judge(url, reached),
        Err(why) => {
            let remedy = "see that it runs, and that CYRUS_CONTROL_URL is its address";
            vec![Finding::of(
                "control plane",
                Err(format!("{url}: {why}; {remedy}")),
            )]
        }
    }
}

fn judge(url: &str, reached: Reached) -> Vec<Finding> {
    let Reached {
        ahead_seconds,
        admitted,
    } = reached;
    let mut findings = vec![Finding::of("control plane", Ok(format!("{url} answers")))];
    let mut skewed = false;
    if let Some(ahead) = ahead_seconds {
        let off = ahead.unsigned_abs();
        let side = if ahead < 0 { "behind" } else { "ahead of" };
        skewed = off > SKEW_SECONDS_MAX;
        let clock = if skewed {
            Err(format!(
                "it is {off} seconds {side} the control plane's, and more than \
                 {SKEW_SECONDS_MAX} are refused: set the clocks (have NTP run on both)"
            ))
        } else if off <= 1 {
            Ok("it agrees with the control plane's".to_owned())
        } else {
            Ok(format!("it is {off} seconds {side} the control plane's"))
        };
        findings.push(Finding::of("clock", clock));
    }
    let token = match admitted {
        Ok(()) => Ok("the control plane takes it".to_owned()),
        // Without the right time no token is looked at.
        Err(_) if skewed => Err("it cannot be checked before the clock is right".to_owned()),
        Err(why) => Err(why),
    };
    findings.push(Finding::of("CYRUS_RUNNER_TOKEN", token));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ahead_seconds: Option<i64>, admitted: Result<(), String>) -> Vec<(bool, String)> {
        let reached = Reached {
            ahead_seconds,
            admitted,
        };
        let findings = judge("https://c.example", reached);
        findings.into_iter().map(|it| (it.ok, it.text)).collect()
    }

    #[test]
    fn a_clock_that_is_off_is_told_by_how_much() {
        let well: Vec<bool> = found(Some(-300), Ok(())).iter().map(|it| it.0).collect();
        assert_eq!(well, [true, true, true]);
        assert!(
            found(Some(-300), Ok(()))[1]
                .1
                .contains("300 seconds behind")
        );
        let refused = Err("the control plane answers 401".to_owned());
        let off = found(Some(301), refused.clone());
        assert!(
            !off[1].0 && off[1].1.contains("301 seconds ahead of"),
            "{off:?}"
        );
        assert!(
            !off[2].0 && off[2].1.contains("before the clock"),
            "{off:?}"
        );
        let wrong = found(Some(0), refused);
        assert!(wrong[1].0 && !wrong[2].0, "{wrong:?}");
        assert!(wrong[2].1.contains("401"), "{wrong:?}");
        assert_eq!(found(None, Ok(())).len(), 2);
    }
}
