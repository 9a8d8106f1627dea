//! Tools at pinned versions, installed into `target/tools` and nowhere else.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::{House, Outcome};

const DENY_VERSION: &str = "0.20.2";
/// Files of `tests/tools` that say exactly what is installed.
const PACKAGE: [&str; 2] = ["package.json", "package-lock.json"];

/// Installs the agent program that the tests drive.
pub(crate) fn agent_program(house: &House) -> Result<Outcome> {
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

/// Licences, banned crates and sources.
pub(crate) fn deny(house: &House) -> Result<Outcome> {
    if !installed_deny(house) {
        install_deny(house)?;
    }
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

fn installed_deny(house: &House) -> bool {
    let output = house
        .command(house.tools().join("bin/cargo-deny"))
        .arg("--version")
        .output();
    output.is_ok_and(|it| {
        String::from_utf8_lossy(&it.stdout).trim() == format!("cargo-deny {DENY_VERSION}")
    })
}

/// Built without optimisation: it runs for a second, and building it well takes minutes.
fn install_deny(house: &House) -> Result<()> {
    let tools = house.tools();
    let mut cargo = house.command("cargo");
    cargo.args([
        "install",
        "cargo-deny",
        "--version",
        DENY_VERSION,
        "--locked",
        "--debug",
    ]);
    cargo
        .args(["--config", "profile.dev.debug=false", "--root"])
        .arg(&tools);
    cargo.arg("--target-dir").arg(tools.join("build"));
    if !cargo.status().context("start cargo")?.success() {
        bail!("cargo-deny {DENY_VERSION} cannot be installed");
    }
    // A gigabyte that nobody needs any more.
    fs::remove_dir_all(tools.join("build")).context("clear away the build of cargo-deny")
}

fn run_deny(house: &House, arguments: &[&str]) -> Result<()> {
    let program = house.tools().join("bin/cargo-deny");
    let status = house.command(&program).args(arguments).status();
    if !status.context("start cargo-deny")?.success() {
        bail!("`cargo deny {}` failed", arguments.join(" "));
    }
    Ok(())
}
