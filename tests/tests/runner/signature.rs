//! The signature by itself.

use secrecy::SecretString;
use shared::issue::Time;
use shared::runner::signature::{SKEW_SECONDS_MAX, Signed, Unauthorized, check, sign};

const AT: i64 = 1_800_000_000;
const BODY: &[u8] = br#"{"runner":"mac-1"}"#;

fn token(text: &str) -> SecretString {
    SecretString::from(text)
}

fn lease() -> Signed<'static> {
    Signed {
        method: "POST",
        path: "/runner/v1/lease",
        body: BODY,
    }
}

fn checked(token_there: &str, at: &str, signature: &str, now: i64) -> Result<(), Unauthorized> {
    let now = Time::from_second(now).expect("a time");
    check(&token(token_there), Some(at), Some(signature), lease(), now)
}

/// The digests are openssl's.
#[test]
fn it_is_the_hmac_that_the_contract_says() {
    assert_eq!(
        sign(&token("the token"), AT, lease()),
        "v1=fbd38793e9efbeab823e43fed64326c22f47c7708342a5641be227fc8d36e530"
    );
    let heartbeat = Signed {
        method: "POST",
        path: "/runner/v1/jobs/ab/heartbeat",
        body: b"",
    };
    assert_eq!(
        sign(&token("the token"), AT, heartbeat),
        "v1=55056692676cfb82148194138484ddb78834a2de63b8988466197ce379820d6e"
    );
}

#[test]
fn it_holds_for_this_request_alone() {
    let signature = sign(&token("the token"), AT, lease());
    let now = Time::from_second(AT).expect("a time");
    let at = AT.to_string();
    let check = |request| {
        check(
            &token("the token"),
            Some(&at),
            Some(&signature),
            request,
            now,
        )
    };
    assert_eq!(check(lease()), Ok(()));
    let wrong = Err(Unauthorized::Wrong);
    assert_eq!(
        check(Signed {
            method: "PUT",
            ..lease()
        }),
        wrong
    );
    assert_eq!(
        check(Signed {
            path: "/runner/v1/leases",
            ..lease()
        }),
        wrong
    );
    assert_eq!(
        check(Signed {
            body: b"{}",
            ..lease()
        }),
        wrong
    );
    assert_eq!(checked("another", &at, &signature, AT), wrong);
    let later = (AT + 1).to_string();
    assert_eq!(
        checked("the token", &later, &signature, AT),
        wrong,
        "the time is signed"
    );
}

#[test]
fn it_holds_for_five_minutes() {
    let skew = i64::try_from(SKEW_SECONDS_MAX).expect("a number");
    let signature = sign(&token("the token"), AT, lease());
    for (off, expected) in [
        (0, Ok(())),
        (skew, Ok(())),
        (-skew, Ok(())),
        (skew + 1, Err(Unauthorized::Skewed)),
        (-skew - 1, Err(Unauthorized::Skewed)),
    ] {
        let told = checked("the token", &AT.to_string(), &signature, AT + off);
        assert_eq!(told, expected, "{off} seconds off");
    }
}

#[test]
fn what_is_no_signature_is_wrong() {
    let good = sign(&token("the token"), AT, lease());
    let at = AT.to_string();
    let bare = good.trim_start_matches("v1=");
    for bad in [
        "",
        "v1=",
        "v1=zz",
        bare,
        &format!("v2={bare}"),
        &good[..good.len() - 2],
    ] {
        assert_eq!(
            checked("the token", &at, bad, AT),
            Err(Unauthorized::Wrong),
            "{bad}"
        );
    }
    // Signed by who knows that nobody set a token.
    let empty = sign(&token(""), AT, lease());
    assert_eq!(checked("", &at, &empty, AT), Err(Unauthorized::Wrong));
    for at in ["", "soon", "99999999999999999999"] {
        assert!(checked("the token", at, &good, AT).is_err(), "{at}");
    }
    let now = Time::from_second(AT).expect("a time");
    let missing = Err(Unauthorized::Missing);
    assert_eq!(check(&token("t"), None, Some(&good), lease(), now), missing);
    assert_eq!(check(&token("t"), Some(&at), None, lease(), now), missing);
}
