//! Which paths a pattern means, and which look as if they held a secret.

use fast_glob::glob_match;

/// Names that are meant for everybody to read.
const EXAMPLES: [&str; 4] = ["example", "sample", "template", "dist"];
/// Files that hold keys or passwords, by their whole name, in lower case …
const SECRET_NAMES: [&str; 10] = [
    ".env",
    ".netrc",
    ".pgpass",
    ".htpasswd",
    ".git-credentials",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "credentials.json",
];
/// … and by their ends.
const SECRET_ENDS: [&str; 8] = [
    ".pem",
    ".key",
    ".p12",
    ".pfx",
    ".jks",
    ".keystore",
    ".kdbx",
    ".ppk",
];
/// What lies in these folders is the secret of whoever works here.
const SECRET_FOLDERS: [&str; 3] = [".ssh/", ".aws/", ".gnupg/"];

/// Does one of these globs mean the path? One without a wildcard means a file, or
/// all that is in a folder.
pub(super) fn any_matches(globs: &[String], path: &str) -> bool {
    globs.iter().any(|glob| {
        let glob = glob.trim().trim_start_matches("./").trim_start_matches('/');
        let below = glob.trim_end_matches('/');
        glob_match(glob, path)
            || (!below.is_empty()
                && path
                    .strip_prefix(below)
                    .is_some_and(|it| it.starts_with('/')))
    })
}

/// Does it look as if it held a secret? By its name alone: what is in it is not read.
pub(super) fn looks_secret(path: &str) -> bool {
    let path = path.to_lowercase();
    let name = path.rsplit('/').next().unwrap_or_default();
    if SECRET_FOLDERS
        .iter()
        .any(|it| path.starts_with(it) || path.contains(&format!("/{it}")))
    {
        return true;
    }
    if let Some(kind) = name.strip_prefix(".env.") {
        return !EXAMPLES.iter().any(|it| kind.contains(it));
    }
    SECRET_NAMES.contains(&name) || SECRET_ENDS.iter().any(|it| name.ends_with(it))
}

#[cfg(test)]
mod tests {
    use super::{any_matches, looks_secret};

    #[test]
    fn a_glob_means_what_people_mean_by_it() {
        for (glob, path, is) in [
            ("src/api/**", "src/api/v1/users.rs", true),
            ("src/api/**", "src/apis/users.rs", false),
            ("src/*.rs", "src/lib.rs", true),
            ("src/*.rs", "src/a/lib.rs", false),
            ("**/*.md", "docs/a/b.md", true),
            ("**/*.md", "README.md", true),
            ("docs", "docs/a.md", true),
            ("docs/", "docs/a/b.md", true),
            ("docs", "docs2/a.md", false),
            ("./src/lib.rs", "src/lib.rs", true),
            ("/src/lib.rs", "src/lib.rs", true),
            (".github/workflows/**", ".github/workflows/ci.yml", true),
            (".github/workflows/**", ".github/dependabot.yml", false),
            ("*.{ts,tsx}", "app.tsx", true),
            ("", "src/lib.rs", false),
            ("src/[", "src/lib.rs", false),
        ] {
            assert_eq!(any_matches(&[glob.to_owned()], path), is, "{glob} {path}");
        }
    }

    #[test]
    fn what_looks_like_a_secret() {
        for path in [
            ".env",
            "deploy/.env.production",
            "server.pem",
            "config/Master.KEY",
            ".ssh/config",
            "home/.aws/credentials",
            "id_rsa",
            "credentials.json",
            "release.keystore",
        ] {
            assert!(looks_secret(path), "{path}");
        }
        for path in [
            ".env.example",
            ".env.local.sample",
            "src/env.rs",
            "docs/keys.md",
            "id_rsa.pub",
            "src/key.rs",
            "monkey",
            "environment.ts",
        ] {
            assert!(!looks_secret(path), "{path}");
        }
    }
}
