//! The functions as they are deployed: `sam build` makes all three, for Lambda's
//! machines, and none is too large. Nothing here talks to AWS.

use std::env;
use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::tools;
use crate::{House, Outcome};

/// What the template calls them.
const FUNCTIONS: [&str; 3] = ["webhook", "orchestrator", "poller"];
/// What is fetched before a function can start, in bytes.
const ZIP_BYTES_MAX: usize = 4_000_000;
/// Lambda's machines.
const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Where SAM puts what it builds.
const FOLDER: &str = "target/sam";

/// Builds the functions as `docs/deploy-aws.md` says.
pub(crate) fn check(house: &House) -> Result<Outcome> {
    let Some(venv) = tools::python(house, "sam")? else {
        return house.lacks("SAM needs Python 3.11 and its index".into());
    };
    let mut target = house.command("rustup");
    target.args(["target", "add", TARGET]);
    if !target.status().is_ok_and(|it| it.success()) {
        // It comes over the network, and no network is no fault of the functions.
        return Ok(Outcome::Skipped(format!("rustup cannot install {TARGET}")));
    }
    let mut build = house.command(venv.program("sam"));
    build.args(["build", "--build-dir", FOLDER]);
    // It finds cargo-lambda and zig by PATH.
    let mut path = OsString::from(venv.bin());
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    build.env("PATH", path).env("SAM_CLI_TELEMETRY", "0");
    if !build.status().context("start sam")?.success() {
        bail!("`sam build` failed");
    }
    for name in FUNCTIONS {
        let program = house.root.join(FOLDER).join(name).join("bootstrap");
        let bytes = deflated(house, &program)?;
        println!("xtask: {name} is {bytes} bytes packed");
        ensure!(
            bytes <= ZIP_BYTES_MAX,
            "{name} is over {ZIP_BYTES_MAX} bytes"
        );
    }
    Ok(Outcome::Passed)
}

/// The size of a file as a zip holds it, in bytes.
fn deflated(house: &House, program: &Path) -> Result<usize> {
    let mut gzip = house.command("gzip");
    let packed = gzip.arg("-c").arg(program).output().context("start gzip")?;
    ensure!(packed.status.success(), "no {}", program.display());
    Ok(packed.stdout.len())
}
