use super::*;

/// Says every line after the other.
struct Echo;

impl Agent for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }
    fn binary(&self) -> &'static str {
        "echo"
    }
    fn variable(&self) -> &'static str {
        "ECHO_BIN"
    }
    fn remedy(&self) -> &'static str {
        ""
    }
    fn env_prefixes(&self) -> &'static [&'static str] {
        &[]
    }
    fn env(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }
    fn args(&self, _: &shared::ports::Job, _: &super::super::Leg) -> Vec<String> {
        Vec::new()
    }
    fn listens(&self) -> bool {
        false
    }
    fn said(&self, _: &str, text: &str) -> Vec<u8> {
        text.into()
    }
    fn read(&self, line: &[u8], seen: &mut Seen) {
        seen.events += 1;
        let before = seen.error.take().unwrap_or_default();
        seen.set_error(&format!("{before}|{}", String::from_utf8_lossy(line)));
    }
    fn judge(
        &self,
        _: &Seen,
        _: i32,
        _: &str,
        _: bool,
    ) -> Result<shared::issue::RunResult, super::super::Blame> {
        Ok(shared::issue::RunResult::default())
    }
}

fn heard(pieces: &[&[u8]]) -> (usize, String) {
    let (mut ear, mut seen) = (Ear::default(), Seen::default());
    for piece in pieces {
        ear.hear(&Echo, piece, &mut seen);
    }
    ear.end(&Echo, &mut seen);
    (seen.events, seen.error.unwrap_or_default())
}

#[test]
fn lines_are_the_same_in_whatever_pieces_they_come() {
    let whole = b"one\ntwo\n\nthree";
    let expected = (3, "|one|two|three".to_owned());
    assert_eq!(heard(&[whole]), expected);
    for at in 0..whole.len() {
        assert_eq!(heard(&[&whole[..at], &whole[at..]]), expected, "{at}");
    }
    let bytes: Vec<&[u8]> = whole.chunks(1).collect();
    assert_eq!(heard(&bytes), expected);
}

#[test]
fn a_line_that_is_too_long_is_passed_over_and_the_next_one_is_not() {
    let long = vec![b'x'; LINE_BYTES_MAX + 1];
    assert_eq!(heard(&[b"a\n", &long, b"\nb\n"]), (2, "|a|b".into()));
    let piece = vec![b'x'; LINE_BYTES_MAX / 4 + 1];
    let pieces = [&piece[..], &piece, &piece, &piece, b"tail\nb"];
    assert_eq!(heard(&pieces), (1, "|b".into()));
    // One that just fits is a line.
    assert_eq!(heard(&[&long[1..], b"\n"]).0, 1);
}

#[test]
fn a_note_is_one_short_line() {
    let mut seen = Seen::default();
    seen.set_note("  \n\t ");
    assert_eq!(seen.note, None);
    seen.set_note(" a\n\n b\u{7}c \r d");
    assert_eq!(seen.note.as_deref(), Some("a b c d"));
    seen.set_note(&"ä ".repeat(10_000));
    assert!(seen.note.is_some_and(|it| it.len() <= NOTE_BYTES_MAX));
}

#[test]
fn a_session_that_could_be_a_flag_or_a_path_is_none() {
    let mut seen = Seen::default();
    for bad in [
        "",
        "--resume",
        "-p",
        "a b",
        "a/b",
        "../x",
        "a\n",
        &"a".repeat(200),
    ] {
        seen.set_session(bad);
        assert_eq!(seen.session, None, "{bad}");
    }
    seen.set_session("0f3c-7_1.a");
    assert_eq!(seen.session.as_deref(), Some("0f3c-7_1.a"));
}

#[test]
fn an_agent_is_idle_when_it_rests_and_nothing_waits() {
    let mut seen = Seen::default();
    assert!(!seen.idle, "it has not even begun");
    seen.queued("a");
    assert!(!seen.idle);
    seen.taken("a");
    seen.at_work();
    seen.queued("b");
    seen.rests();
    assert!(!seen.idle, "one waits");
    seen.taken("b");
    seen.at_work();
    assert!(!seen.idle);
    seen.rests();
    assert!(seen.idle);
    for message in 0..2 * QUEUE_MAX {
        seen.queued(&message.to_string());
    }
    assert_eq!(seen.queue.len(), QUEUE_MAX);
}
