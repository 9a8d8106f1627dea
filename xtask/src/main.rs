//! The project's chores. `cargo xtask test` is all that decides whether a
//! change is good; `cargo xtask bench store` measures the store.

mod guards;
mod infra;
mod package;
mod tools;

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Installs the pinned test tools, then runs every check and every test
    Test,
    /// Switches one guard of the core off at a time and sees that a test notices
    Guards,
    /// Judges template.yaml, and plants errors into it to see that they are noticed
    Infra,
    /// Builds the functions as they are deployed, and sees that none is too large
    Package,
    /// Measures something
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Durable steps per second, beside a store that commits each step alone
    Store,
    /// How much longer an issue takes than its work
    Overhead,
    /// What a runner elsewhere costs: time to an agent's start, processes, files, memory
    Runner,
    /// What an issue costs in capacity units of DynamoDB, per task and in all
    Units,
    /// How soon the functions start, beside the least that one can be, and their memory
    Functions,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = House::find().and_then(|house| match arguments.chore {
        Chore::Test => test(&house),
        Chore::Guards => guards::check(&house),
        Chore::Infra => infra::check(&house).map(tell),
        Chore::Package => package::check(&house).map(tell),
        Chore::Bench { what } => bench(&house, &what),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tell(outcome: Outcome) {
    if let Outcome::Skipped(why) = outcome {
        println!("xtask: SKIPPED: {why}");
    }
}

fn bench(house: &House, what: &Bench) -> Result<()> {
    let (package, name, profile) = match what {
        Bench::Store => ("tests", "store", "bench"),
        // These wait for others most of the time.
        Bench::Overhead => ("cyrus", "overhead", "dev"),
        Bench::Runner => ("cyrus", "runner", "bench"),
        Bench::Units => ("tests", "units", "dev"),
        Bench::Functions => ("tests", "functions", "dev"),
    };
    let bench = ["bench", "--package", package, "--bench", name];
    house.run("cargo", &[&bench[..], &["--profile", profile]].concat())
}

fn test(house: &House) -> Result<()> {
    let start = Instant::now();
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    let steps: [(&str, &dyn Fn() -> Result<Outcome>); 9] = [
        ("format", &|| {
            house.check("cargo", &["fmt", "--all", "--check"])
        }),
        ("packages", &|| tools::packages(house)),
        ("second emulator", &|| tools::second_emulator(house)),
        ("clippy", &|| house.check("cargo", &clippy)),
        ("dependencies", &|| tools::deny(house)),
        ("advisories", &|| tools::advisories(house)),
        ("template", &|| infra::check(house)),
        ("functions", &|| package::check(house)),
        ("tests", &|| {
            house.check("cargo", &["test", "--workspace", "--locked"])
        }),
    ];
    let mut skipped = Vec::new();
    for (name, step) in steps {
        println!("xtask: {name} …");
        let begun = Instant::now();
        let outcome = step().with_context(|| format!("the step `{name}`"))?;
        let seconds = begun.elapsed().as_secs_f64();
        match outcome {
            Outcome::Passed => println!("xtask: {name}: ok in {seconds:.1} s"),
            Outcome::Skipped(why) => {
                println!("xtask: {name}: SKIPPED: {why}");
                skipped.push(name);
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let skipped = match skipped.as_slice() {
        [] => String::new(),
        some => format!("; skipped: {}", some.join(", ")),
    };
    println!("xtask: all good in {seconds:.1} s{skipped}");
    Ok(())
}

/// What became of a step that did not fail.
enum Outcome {
    Passed,
    Skipped(String),
}

/// The repository on this machine.
struct House {
    root: PathBuf,
    /// A machine that lacks something must say so by failing.
    ci: bool,
}

impl House {
    fn find() -> Result<Self> {
        // Cargo sets it for `cargo run`, which is how this program is started.
        let package = env::var_os("CARGO_MANIFEST_DIR").context("start this as `cargo xtask`")?;
        let mut root = PathBuf::from(package);
        root.pop();
        Ok(Self {
            root,
            ci: env::var("CI").is_ok_and(|it| it == "true"),
        })
    }

    /// Where pinned tools live.
    fn tools(&self) -> PathBuf {
        self.root.join("target/tools")
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        if self.ci {
            // What is built once needs nothing by which to build it again: gigabytes.
            command.env("CARGO_INCREMENTAL", "0");
        }
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let status = self.command(program).args(arguments).status();
        let shown = format!("{program} {}", arguments.join(" "));
        if !status
            .with_context(|| format!("start `{shown}`"))?
            .success()
        {
            bail!("`{shown}` failed");
        }
        Ok(())
    }

    fn check(&self, program: &str, arguments: &[&str]) -> Result<Outcome> {
        self.run(program, arguments).map(|()| Outcome::Passed)
    }

    /// This machine lacks something: that is to be seen, and under `CI=true` it is a failure.
    fn lacks(&self, what: String) -> Result<Outcome> {
        if self.ci {
            bail!("{what}, and CI=true");
        }
        Ok(Outcome::Skipped(what))
    }
}
