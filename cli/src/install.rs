//! `cyrus runner install`: has the system start the runner at login, and again
//! when it ends. Secrets stay out of what is written here: they lie in a file
//! beside it that only its owner can read.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use shared::config::{Env, home_folder};
use shared::wire::Missing;

use crate::Common;

/// What the file of variables says until somebody has filled it in.
const VARIABLES: &str = "\
# What `cyrus runner` needs beside config.json; a line each, NAME=value.
CYRUS_CONTROL_URL=
CYRUS_RUNNER_TOKEN=
GITHUB_TOKEN=
";

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Write the files instead of printing the service's
    #[arg(long)]
    write: bool,
}

/// How the runner is started.
struct Call<'a> {
    program: &'a Path,
    home: &'a Path,
    config: Option<&'a Path>,
    flags: &'a [String],
    /// A file of variables.
    variables: &'a Path,
    /// Where programs are looked for.
    path: &'a Path,
}

impl Call<'_> {
    /// All arguments of the program.
    fn arguments(&self) -> anyhow::Result<Vec<String>> {
        let mut all = vec!["--home".to_owned(), plain(self.home)?];
        if let Some(config) = self.config {
            all.extend(["--config".to_owned(), plain(config)?]);
        }
        all.push("runner".to_owned());
        all.extend_from_slice(self.flags);
        Ok(all)
    }
}

/// The service of a system, as a file.
struct Service {
    path: PathBuf,
    text: String,
    /// What starts it.
    next: String,
}

/// `flags`: what the runner is called with.
pub(crate) fn install(
    common: &Common,
    flags: &[String],
    options: &Options,
) -> anyhow::Result<ExitCode> {
    let env = Env::from_process();
    let user_home = env.get("HOME").map(PathBuf::from).ok_or(Missing {
        what: "HOME",
        remedy: "the service is installed for the user whose home it names",
    })?;
    let home = home_folder(&env, common.home.as_deref())?;
    let program = std::env::current_exe().context("find this program")?;
    let variables = home.join("runner.env");
    let config = common.config.as_deref().map(std::path::absolute);
    let config = config.transpose().context("find the configuration")?;
    let call = Call {
        program: &program,
        home: &home,
        config: config.as_deref(),
        flags,
        variables: &variables,
        // Git and the agent programs are found where they are found now.
        path: Path::new(env.get("PATH").unwrap_or_default()),
    };
    let service = if cfg!(target_os = "macos") {
        launchd(&user_home, &call)?
    } else {
        systemd(&user_home, &call)?
    };
    if !options.write {
        print!("{}", service.text);
        return Ok(ExitCode::SUCCESS);
    }
    fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
    if !variables.exists() {
        let mut file = OpenOptions::new();
        let file = file.write(true).create_new(true).mode(0o600);
        let mut file = file
            .open(&variables)
            .with_context(|| format!("make {}", variables.display()))?;
        file.write_all(VARIABLES.as_bytes())
            .with_context(|| format!("write {}", variables.display()))?;
    }
    if let Some(folder) = service.path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    fs::write(&service.path, &service.text)
        .with_context(|| format!("write {}", service.path.display()))?;
    println!(
        "wrote {}\nfill in {}, then: {}",
        service.path.display(),
        variables.display(),
        service.next
    );
    Ok(ExitCode::SUCCESS)
}

fn systemd(user_home: &Path, call: &Call<'_>) -> anyhow::Result<Service> {
    // As systemd reads a quoted text; `%` begins a specifier.
    let quoted = |text: &str| {
        let text = text.replace('%', "%%").replace('\\', "\\\\");
        format!("\"{}\"", text.replace('"', "\\\""))
    };
    // In a command `$` begins a variable.
    let argument = |text: &str| quoted(text).replace('$', "$$");
    let program = argument(&plain(call.program)?);
    let arguments = call.arguments()?;
    let arguments: Vec<String> = arguments.iter().map(|it| argument(it)).collect();
    let arguments = arguments.join(" ");
    // It takes the rest of the line, quotes and all, but for specifiers.
    let variables = plain(call.variables)?.replace('%', "%%");
    let search = quoted(&format!("PATH={}", plain(call.path)?));
    Ok(Service {
        path: user_home.join(".config/systemd/user/cyrus-runner.service"),
        text: format!(
            "[Unit]\n\
             Description=Cyrus runner\n\
             After=network-online.target\n\
             \n\
             [Service]\n\
             ExecStart={program} {arguments}\n\
             Environment={search}\n\
             EnvironmentFile=-{variables}\n\
             Restart=always\n\
             RestartSec=5\n\
             # Agents go on while the runner is started anew; it finds them again.\n\
             KillMode=process\n\
             \n\
             [Install]\n\
             WantedBy=default.target\n"
        ),
        next: "systemctl --user enable --now cyrus-runner && loginctl enable-linger".into(),
    })
}

fn launchd(user_home: &Path, call: &Call<'_>) -> anyhow::Result<Service> {
    let log = plain(&call.home.join("runner.log"))?;
    let program = plain(call.program)?;
    let (variables, search) = (plain(call.variables)?, plain(call.path)?);
    // It knows no file of variables, so a shell reads it; what follows is handed on.
    let script = "set -a; PATH=$1; . \"$2\"; shift 2; exec \"$@\"";
    let shell = ["/bin/sh", "-c", script, "sh", &search, &variables, &program];
    let arguments = call.arguments()?;
    let arguments: String = shell
        .into_iter()
        .chain(arguments.iter().map(String::as_str))
        .map(|it| format!("    <string>{}</string>\n", escaped(it)))
        .collect();
    let file = user_home.join("Library/LaunchAgents/dev.cyrus.runner.plist");
    let next = format!("launchctl load -w {}", file.display());
    let log = escaped(&log);
    Ok(Service {
        path: file,
        text: format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
             <plist version=\"1.0\">\n\
             <dict>\n  \
             <key>Label</key><string>dev.cyrus.runner</string>\n  \
             <key>ProgramArguments</key>\n  \
             <array>\n{arguments}  </array>\n  \
             <key>RunAtLoad</key><true/>\n  \
             <key>KeepAlive</key><true/>\n  \
             <key>AbandonProcessGroup</key><true/>\n  \
             <key>StandardErrorPath</key><string>{log}</string>\n\
             </dict>\n\
             </plist>\n"
        ),
        next,
    })
}

/// A path as a line of text.
fn plain(path: &Path) -> anyhow::Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("the path {} is no text", path.display()))?;
    ensure!(!text.contains('\n'), "the path `{text}` has a line break");
    Ok(text.to_owned())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_special_in_a_path_stays_a_path() {
        let (home, program) = (
            Path::new("/home/ann"),
            Path::new("/opt/50% $off/a \"b\"/cyrus"),
        );
        let folder = Path::new("/home/ann/.cyrus");
        let variables = folder.join("runner.env");
        let path = Path::new("/usr/bin:/o$/bin");
        let flags = ["--listen", "0.0.0.0:7000"].map(str::to_owned);
        let call = |program| Call {
            program,
            home: folder,
            config: Some(Path::new("/etc/cyrus.json")),
            flags: &flags,
            variables: &variables,
            path,
        };
        let unit = systemd(home, &call(program)).expect("a unit");
        let start = "ExecStart=\"/opt/50%% $$off/a \\\"b\\\"/cyrus\" \"--home\" \
                     \"/home/ann/.cyrus\" \"--config\" \"/etc/cyrus.json\" \"runner\" \"--listen\" \
                     \"0.0.0.0:7000\"\n";
        assert!(unit.text.contains(start), "{}", unit.text);
        let search = "Environment=\"PATH=/usr/bin:/o$/bin\"\n";
        assert!(unit.text.contains(search), "{}", unit.text);
        assert_eq!(
            unit.path,
            home.join(".config/systemd/user/cyrus-runner.service")
        );
        let odd = Path::new("/Users/ann & bob/cyrus");
        let plist = launchd(home, &call(odd)).expect("a plist");
        assert!(
            plist
                .text
                .contains("<string>/Users/ann &amp; bob/cyrus</string>")
        );
        systemd(home, &call(Path::new("/a\nExecStop=b")))
            .err()
            .expect("no line may be added");
    }
}
