//! Tools at pinned versions, installed into `target/tools` and nowhere else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{House, Outcome};

const DENY_VERSION: &str = "0.20.2";
const GUARD_VERSION: &str = "3.2.1";
/// Files of `tests/tools` that say exactly what is installed.
const PACKAGE: [&str; 2] = ["package.json", "package-lock.json"];

/// Installs the agent programs that the tests drive, and GitHub's examples of its deliveries.
pub(crate) fn packages(house: &House) -> Result<Outcome> {
    let from = house.root.join("tests/tools");
    let to = house.tools();
    if !from.join(PACKAGE[1]).exists() {
        return house.lacks("tests/tools has no package-lock.json".into());
    }
    // Written last, so that it is there only after an installation that went well.
    let stamp = to.join("installed-package-lock.json");
    let wanted = fs::read(from.join(PACKAGE[1]))?;
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(Outcome::Passed);
    }
    let npm = house.command("npm").arg("--version").output();
    if !npm.is_ok_and(|it| it.status.success()) {
        return house.lacks("npm is not installed".into());
    }
    fs::create_dir_all(&to).with_context(|| format!("make `{}`", to.display()))?;
    for file in PACKAGE {
        fs::copy(from.join(file), to.join(file)).with_context(|| format!("copy {file}"))?;
    }
    let mut npm = house.command("npm");
    npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(&to);
    if !npm.status().context("start npm")?.success() {
        return house.lacks("`npm ci` in target/tools failed".into());
    }
    fs::write(stamp, wanted)?;
    Ok(Outcome::Passed)
}

/// What `tests/tools/requirements-NAME.txt` lists, in an environment of its own,
/// `target/tools/venv/NAME`. None: this machine lacks Python, or its index.
pub(crate) fn python(house: &House, name: &str) -> Result<Option<Venv>> {
    let requirements = format!("tests/tools/requirements-{name}.txt");
    let wanted_file = house.root.join(&requirements);
    let wanted = fs::read(&wanted_file).with_context(|| format!("read {requirements}"))?;
    let venv = Venv(house.tools().join("venv").join(name));
    // Written last, as above.
    let stamp = venv.0.join("installed-requirements.txt");
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(Some(venv));
    }
    let mut python = house.command("python3");
    python.args(["-m", "venv", "--clear"]).arg(&venv.0);
    if !python.status().is_ok_and(|it| it.success()) {
        return Ok(None);
    }
    let mut pip = house.command(venv.program("python3"));
    // All that is needed is named, so nothing needs to be worked out.
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps"]);
    pip.args(["--disable-pip-version-check", "--requirement"])
        .arg(&wanted_file);
    if !pip.status().context("start pip")?.success() {
        return Ok(None);
    }
    fs::write(stamp, wanted)?;
    Ok(Some(venv))
}

/// An environment of Python.
pub(crate) struct Venv(PathBuf);

impl Venv {
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin().join(name)
    }

    pub(crate) fn bin(&self) -> PathBuf {
        self.0.join("bin")
    }
}

/// cfn-guard, which judges a template by the rules of this project.
pub(crate) fn guard(house: &House) -> Result<PathBuf> {
    install(house, "cfn-guard", GUARD_VERSION)?;
    Ok(house.tools().join("bin/cfn-guard"))
}

/// Installs the second emulator of DynamoDB.
pub(crate) fn second_emulator(house: &House) -> Result<Outcome> {
    match python(house, "moto")? {
        Some(_) => Ok(Outcome::Passed),
        None => house.lacks("moto needs Python 3.11 and its index".into()),
    }
}

/// Licences, banned crates and sources.
pub(crate) fn deny(house: &House) -> Result<Outcome> {
    install(house, "cargo-deny", DENY_VERSION)?;
    run_deny(
        house,
        &[
            "check",
            "--hide-inclusion-graph",
            "bans",
            "licenses",
            "sources",
        ],
    )?;
    Ok(Outcome::Passed)
}

/// Known holes. Their list comes over the network, and no network is no hole.
pub(crate) fn advisories(house: &House) -> Result<Outcome> {
    if run_deny(house, &["fetch", "db"]).is_err() {
        return Ok(Outcome::Skipped(
            "the list of known holes cannot be fetched".into(),
        ));
    }
    run_deny(house, &["check", "--disable-fetch", "advisories"])?;
    Ok(Outcome::Passed)
}

fn is_installed(program: &Path, name: &str, version: &str) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).trim() == format!("{name} {version}"))
}

/// Built without optimisation: it runs for a second, and building it well takes minutes.
fn install(house: &House, name: &str, version: &str) -> Result<()> {
    let tools = house.tools();
    if is_installed(&tools.join("bin").join(name), name, version) {
        return Ok(());
    }
    let build = tools.join(format!("build-{name}"));
    let mut cargo = house.command("cargo");
    cargo.args(["install", name, "--version", version]);
    cargo.args(["--locked", "--debug", "--force"]);
    cargo
        .args(["--config", "profile.dev.debug=false", "--root"])
        .arg(&tools);
    cargo.arg("--target-dir").arg(&build);
    if !cargo.status().context("start cargo")?.success() {
        bail!("{name} {version} cannot be installed");
    }
    // A gigabyte that nobody needs any more.
    fs::remove_dir_all(&build).with_context(|| format!("clear away the build of {name}"))
}

fn run_deny(house: &House, arguments: &[&str]) -> Result<()> {
    let program = house.tools().join("bin/cargo-deny");
    let status = house.command(&program).args(arguments).status();
    if !status.context("start cargo-deny")?.success() {
        bail!("`cargo deny {}` failed", arguments.join(" "));
    }
    Ok(())
}
