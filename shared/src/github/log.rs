//! The end of what a check has printed, fit for a person and an agent to read.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use tokio::time::timeout;

use super::http::Gap;
use super::json::CheckRunReply;
use super::slug::Slug;
use super::{Client, REQUEST_SECONDS};
use crate::issue::{Fault, LOG_BYTES_MAX};
use crate::net::{Http, chain, check_private, is_loopback};
use crate::ports::LogAsk;

/// So much of a log is let pass by until its end is there.
const READ_BYTES_MAX: usize = 64 * 1024 * 1024;
/// So much of the end is kept before colours and times are taken out.
const RAW_BYTES_MAX: usize = 8 * LOG_BYTES_MAX;
/// `2026-11-20T10:00:00.1234567Z ` before every line of GitHub Actions.
const TIME_BYTES: usize = 28;

impl Client {
    pub(super) async fn log_of(&self, ask: &LogAsk) -> Result<String, Fault> {
        let slug = Slug::parse(&ask.repository.slug)?;
        let id = ask.check.to_string();
        // A job of GitHub Actions has the number of its check run. Of other checks
        // there is no log, nor of old ones; then it is what they say of themselves.
        let path = slug.path(&["actions", "jobs", &id, "logs"]);
        let answer = self.http.call(Method::GET, &path, &[], None).await?;
        match answer.status {
            status if status.is_redirection() => {
                if let Some(target) = &answer.location
                    && let Some(raw) = self.fetch(target).await?
                {
                    return Ok(readable(&raw));
                }
            }
            status if status.is_success() => return Ok(readable(&answer.text())),
            status if status.is_server_error() || answer.is_limited() => {
                return Err(answer.fault(slug.as_str()));
            }
            _ => {}
        }
        let path = slug.path(&["check-runs", &id]);
        let answer = self.http.call(Method::GET, &path, &[], None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(String::new());
        }
        if !answer.status.is_success() {
            return Err(answer.fault(slug.as_str()));
        }
        let run: CheckRunReply = answer.json()?;
        Ok(readable(
            &run.output.map(|it| it.whole()).unwrap_or_default(),
        ))
    }

    /// The end of what lies somewhere else; `None` if it cannot be had there. The
    /// address carries its own permission, and whoever has it does not get our token.
    async fn fetch(&self, target: &str) -> Result<Option<String>, Fault> {
        if check_private(target).is_err() || (is_loopback(target) && !self.near) {
            return Ok(None);
        }
        let http = Http::new("cyrus", target);
        let lost = |why| Fault::from(Gap::ReplyLost(format!("the log could not be read: {why}")));
        let client = http.client().map_err(lost)?;
        let read = async {
            let mut response = client.get(target).send().await.map_err(chain)?;
            if response.status().is_server_error() {
                return Err(format!("status {}", response.status().as_u16()));
            }
            if !response.status().is_success() {
                return Ok(None);
            }
            let (mut tail, mut read) = (VecDeque::new(), 0);
            while let Some(chunk) = response.chunk().await.map_err(chain)? {
                read += chunk.len();
                if read > READ_BYTES_MAX {
                    return Ok(None);
                }
                tail.extend(chunk);
                let over = tail.len().saturating_sub(RAW_BYTES_MAX);
                tail.drain(..over);
            }
            let tail: Vec<u8> = tail.into();
            Ok(Some(String::from_utf8_lossy(&tail).into_owned()))
        };
        let limit = Duration::from_secs(REQUEST_SECONDS);
        match timeout(limit, read).await {
            Ok(read) => read.map_err(lost),
            Err(_) => Err(lost("operation timed out".into())),
        }
    }
}

/// The end of a log without colours and times, cut between two characters.
fn readable(raw: &str) -> String {
    let plain = without_control(raw);
    let lines: Vec<&str> = plain
        .lines()
        .map(|it| without_time(it).trim_end())
        .collect();
    let text = lines.join("\n");
    let text = text.trim();
    let mut from = text.len().saturating_sub(LOG_BYTES_MAX);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}

/// Takes out what is meant for a terminal.
fn without_control(raw: &str) -> String {
    let mut plain = String::with_capacity(raw.len());
    let mut rest = raw.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => match rest.next() {
                // `ESC [ … letter`, which is nearly all of them.
                Some('[') => {
                    while rest.next_if(|it| !('@'..='~').contains(it)).is_some() {}
                    rest.next();
                }
                // `ESC ] … BEL`, or `ESC ] … ESC \`: titles and links.
                Some(']') => {
                    while rest
                        .next_if(|it| !matches!(it, '\u{7}' | '\u{1b}' | '\n'))
                        .is_some()
                    {}
                    if rest.next_if_eq(&'\u{1b}').is_some() {
                        rest.next_if_eq(&'\\');
                    }
                }
                _ => {}
            },
            '\r' if rest.peek() == Some(&'\n') => {}
            // A line that was written over.
            '\r' => plain.push('\n'),
            '\n' | '\t' => plain.push(c),
            '\u{feff}' => {}
            _ if c.is_control() => {}
            _ => plain.push(c),
        }
    }
    plain
}

fn without_time(line: &str) -> &str {
    let Some((time, rest)) = line.split_at_checked(TIME_BYTES) else {
        return line;
    };
    let is_time = time.ends_with('Z')
        && time.as_bytes()[10] == b'T'
        && time.get(..4).is_some_and(|it| it.parse::<u16>().is_ok());
    match rest.strip_prefix(' ') {
        Some(rest) if is_time => rest,
        None if is_time && rest.is_empty() => rest,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::{LOG_BYTES_MAX, readable};

    #[test]
    fn colours_and_times_are_taken_out() {
        let raw = "\u{feff}2026-11-20T10:00:00.1234567Z \u{1b}[36;1mcargo test\u{1b}[0m\r\n\
                   2026-11-20T10:00:01.1234567Z test api ... \u{1b}[31mFAILED\u{1b}[0m\n\
                   2026-11-20T10:00:01.1234567Z\n\
                   \u{1b}]0;a title\u{7}10%\r100%\n\
                   half an escape \u{1b}[3";
        assert_eq!(
            readable(raw),
            "cargo test\ntest api ... FAILED\n\n10%\n100%\nhalf an escape"
        );
        assert_eq!(readable(""), "");
    }

    #[test]
    fn the_end_is_kept_and_no_character_is_cut() {
        let raw = format!("begin\n{}end", "é".repeat(LOG_BYTES_MAX));
        let log = readable(&raw);
        assert!(log.len() <= LOG_BYTES_MAX && log.len() > LOG_BYTES_MAX - 4);
        assert!(log.starts_with('é') && log.ends_with("end"), "{log}");
    }
}
