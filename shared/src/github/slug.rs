//! Names that become parts of an address, checked before they do.

use std::fmt;

use crate::issue::{FailureClass, Fault};

/// Bytes of an owner or of a repository's name.
const NAME_BYTES_MAX: usize = 100;
/// Bytes of a branch's name, as git has it at most.
const BRANCH_BYTES_MAX: usize = 255;
/// Hex digits of a commit: SHA-1 or SHA-256.
const COMMIT_DIGITS: [usize; 2] = [40, 64];

/// `owner/name`, safe as two segments of a path.
pub(super) struct Slug {
    text: String,
    slash: usize,
}

impl Slug {
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let slash = text
            .find('/')
            .filter(|&at| is_name(&text[..at]) && is_name(&text[at + 1..]));
        match slash {
            Some(slash) => Ok(Self {
                text: text.to_owned(),
                slash,
            }),
            None => Err(Fault::Permanent {
                class: FailureClass::Invalid,
                why: format!(
                    "`{}` names no GitHub repository: it must be `owner/name`, as in the \
                     repository's address",
                    crate::issue::clip(text, NAME_BYTES_MAX)
                ),
            }),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn owner(&self) -> &str {
        &self.text[..self.slash]
    }

    pub(super) fn name(&self) -> &str {
        &self.text[self.slash + 1..]
    }

    /// The segments of a path below this repository.
    pub(super) fn path<'a>(&'a self, below: &[&'a str]) -> Vec<&'a str> {
        let mut path = vec!["repos", self.owner(), self.name()];
        path.extend(below);
        path
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A commit's name, or a fault that says that it is none.
pub(super) fn commit(sha: &str) -> Result<&str, Fault> {
    if COMMIT_DIGITS.contains(&sha.len()) && sha.bytes().all(|it| it.is_ascii_hexdigit()) {
        return Ok(sha);
    }
    Err(Fault::Permanent {
        class: FailureClass::Invalid,
        why: format!("`{}` is no commit", crate::issue::clip(sha, NAME_BYTES_MAX)),
    })
}

/// The parts of a branch's name between its slashes, safe as segments of a path,
/// or a fault that says that it is no such name.
pub(super) fn branch(name: &str) -> Result<Vec<&str>, Fault> {
    let parts: Vec<&str> = name.split('/').collect();
    let is_part = |it: &&str| !it.is_empty() && *it != "." && *it != "..";
    if parts.iter().all(is_part) && name.len() <= BRANCH_BYTES_MAX {
        return Ok(parts);
    }
    Err(Fault::Permanent {
        class: FailureClass::Invalid,
        why: format!(
            "`{}` is no name of a branch",
            crate::issue::clip(name, NAME_BYTES_MAX)
        ),
    })
}

/// `owner/name` of a repository's address: `https://…`, `ssh://…` and
/// `git@host:…`, with or without `.git`, on any host. `None`: it is no such address.
pub fn slug_of(url: &str) -> Option<String> {
    let url = url.trim();
    let path = match url.split_once("://") {
        Some((scheme, rest)) => {
            if !["https", "http", "ssh", "git"].contains(&scheme) {
                return None;
            }
            let (host, path) = rest.split_once('/')?;
            (!host.is_empty()).then_some(path)?
        }
        // scp's form: the first colon ends the host, and no slash stands before it.
        None => {
            let (host, path) = url.split_once(':')?;
            (!host.is_empty() && !host.contains('/')).then_some(path)?
        }
    };
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    Slug::parse(path).ok().map(|it| it.text)
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text != "."
        && text != ".."
        && text
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || b"-_.".contains(&it))
}

#[cfg(test)]
mod tests {
    use super::{Slug, branch, commit, slug_of};

    #[test]
    fn every_form_of_address_names_the_same_repository() {
        for url in [
            "https://github.com/acme/shop",
            "https://github.com/acme/shop.git",
            "https://github.com/acme/shop/",
            "http://git.acme.example:8080/acme/shop.git",
            "https://user:secret@github.com/acme/shop.git",
            "git@github.com:acme/shop.git",
            "git@git.acme.example:acme/shop",
            "ssh://git@github.com/acme/shop.git",
            "ssh://git@git.acme.example:2222/acme/shop.git",
            " https://github.com/acme/shop\n",
        ] {
            assert_eq!(slug_of(url).as_deref(), Some("acme/shop"), "{url}");
        }
        assert_eq!(
            slug_of("https://github.com/a.b/c.d_e").as_deref(),
            Some("a.b/c.d_e")
        );
    }

    #[test]
    fn what_is_no_address_names_none() {
        for url in [
            "",
            "acme/shop",
            "https://github.com",
            "https://github.com/acme",
            "https://github.com/acme/shop/tree/main",
            "https://github.com/acme/..",
            "https://github.com/acme/sh%2fop",
            "https:///acme/shop",
            "file:///srv/git/shop.git",
            "/srv/git/shop.git",
            "git@github.com:shop.git",
        ] {
            assert_eq!(slug_of(url), None, "{url}");
        }
    }

    #[test]
    fn nothing_but_a_name_becomes_a_path() {
        for text in [
            "", "a", "a/b/c", "../b", "a/..", "a/b?c", "a/b#c", "a b/c", "ä/b", "/b", "a/",
        ] {
            assert!(Slug::parse(text).is_err(), "{text}");
        }
        assert_eq!(branch("cyrus/eng-42").ok(), Some(vec!["cyrus", "eng-42"]));
        for text in ["", "/", "a//b", "a/", "a/../b", "./a", &"a".repeat(256)] {
            assert!(branch(text).is_err(), "{text}");
        }
        assert!(commit(&"a".repeat(40)).is_ok());
        for text in ["", "main", "../../x", &"g".repeat(40)] {
            assert!(commit(text).is_err(), "{text}");
        }
    }
}
