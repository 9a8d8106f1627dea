//! The gate before the template: is `template.yaml` valid, is what SAM makes of
//! it, does it keep this project's rules? And would the gate notice if not?
//! Nothing here talks to AWS.

mod planted;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::tools::{self, Venv};
use crate::{House, Outcome};

/// Any one will do: cfn-lint wants to know where.
const REGION: &str = "eu-west-1";
/// The suppressions of checkov, each with its reason.
const CHECKOV: &str = "infra/checkov.yaml";

/// Installs the linters, and lets them judge the template and the planted errors.
pub(crate) fn check(house: &House) -> Result<Outcome> {
    let Some(linters) = Linters::install(house)? else {
        return house.lacks("the linters of the template need Python 3.11 and its index".into());
    };
    suppressions_have_reasons(house)?;
    let begun = Instant::now();
    linters.validate()?;
    let template = linters.place("template")?;
    fs::copy(house.root.join("template.yaml"), &template).context("copy the template")?;
    linters.transform(&[&template])?;
    let transformed = template.with_extension("json");
    for found in [
        linters.lint(&[&transformed])?,
        linters.guard(&transformed)?,
        linters.checkov(&transformed)?,
    ] {
        if !found.is_empty() {
            bail!("the template is refused:\n{}", found.join("\n"));
        }
    }
    let gate = begun.elapsed().as_secs_f64();
    planted::check(house, &linters)?;
    let all = begun.elapsed().as_secs_f64();
    println!(
        "xtask: the gate took {gate:.1} s, planting {} errors {:.1} s",
        planted::ERRORS.len(),
        all - gate
    );
    Ok(Outcome::Passed)
}

/// A suppression without a reason is a check that somebody switched off.
fn suppressions_have_reasons(house: &House) -> Result<()> {
    let text = fs::read_to_string(house.root.join(CHECKOV)).context("read the suppressions")?;
    let mut reason = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("- CKV") && !reason {
            bail!("{CHECKOV}: `{line}` has no reason: write it into the line above");
        }
        reason = line.starts_with('#');
    }
    Ok(())
}

/// The programs that judge a template. What they answer are their objections,
/// one a line; a program that cannot judge is an error.
struct Linters<'a> {
    house: &'a House,
    sam: Venv,
    checkov: Venv,
    guard: PathBuf,
}

impl<'a> Linters<'a> {
    fn install(house: &'a House) -> Result<Option<Self>> {
        let (Some(sam), Some(checkov)) = (
            tools::python(house, "sam")?,
            tools::python(house, "checkov")?,
        ) else {
            return Ok(None);
        };
        let guard = tools::guard(house)?;
        Ok(Some(Self {
            house,
            sam,
            checkov,
            guard,
        }))
    }

    /// A file to work on.
    fn place(&self, name: &str) -> Result<PathBuf> {
        let folder = self.house.root.join("target/infra");
        fs::create_dir_all(&folder).context("make target/infra")?;
        Ok(folder.join(format!("{name}.yaml")))
    }

    /// SAM's own opinion, its linter included.
    fn validate(&self) -> Result<()> {
        let mut sam = self.house.command(self.sam.program("sam"));
        sam.args(["validate", "--lint", "--region", REGION]);
        sam.env("SAM_CLI_TELEMETRY", "0");
        let (good, said) = run(sam)?;
        if !good {
            bail!("`sam validate` refuses the template:\n{said}");
        }
        Ok(())
    }

    /// Writes what SAM makes of each template beside it. What cannot be transformed gets no JSON.
    fn transform(&self, templates: &[&Path]) -> Result<()> {
        for template in templates {
            // What an earlier run left must not pass for this one's.
            let _ = fs::remove_file(template.with_extension("json"));
        }
        let mut python = self.house.command(self.sam.program("python3"));
        python.arg("infra/transform.py").args(templates);
        let (good, said) = run(python)?;
        if !good {
            bail!("{said}");
        }
        Ok(())
    }

    fn lint(&self, transformed: &[&Path]) -> Result<Vec<String>> {
        let mut lint = self.house.command(self.sam.program("cfn-lint"));
        lint.args(["--format", "parseable", "--regions", REGION, "--"]);
        lint.args(transformed);
        let (good, said) = run(lint)?;
        let found: Vec<_> = said.lines().map(str::to_owned).collect();
        if !good && found.is_empty() {
            bail!("cfn-lint failed and does not say why");
        }
        Ok(found)
    }

    fn guard(&self, transformed: &Path) -> Result<Vec<String>> {
        let mut guard = self.house.command(&self.guard);
        guard.args(["validate", "--rules", "infra/rules.guard"]);
        guard
            .args(["--show-summary", "fail", "--data"])
            .arg(transformed);
        let (good, said) = run(guard)?;
        if good {
            return Ok(Vec::new());
        }
        if !said.contains("Status = FAIL") {
            bail!("cfn-guard cannot judge:\n{said}");
        }
        Ok(said.lines().map(str::to_owned).collect())
    }

    fn checkov(&self, transformed: &Path) -> Result<Vec<String>> {
        let mut checkov = self.house.command(self.checkov.program("checkov"));
        checkov
            .args(["--config-file", CHECKOV, "--file"])
            .arg(transformed);
        let (good, said) = run(checkov)?;
        if good {
            // It judged something, or it judged nothing at all.
            if !said.contains("Passed checks: ") || said.contains("Passed checks: 0,") {
                bail!("checkov has judged nothing:\n{said}");
            }
            return Ok(Vec::new());
        }
        Ok(said.lines().map(str::to_owned).collect())
    }
}

/// Whether it went well, and all that was said.
fn run(mut command: Command) -> Result<(bool, String)> {
    let shown = format!("{:?}", command.get_program());
    let output = command.output().with_context(|| format!("start {shown}"))?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).trim().to_owned(),
    ))
}
