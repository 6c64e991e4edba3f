//! `verify`: runs case files and holds the results against the expected ones.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::builder::styling::AnsiColor;
use serde_json::{Value, json};
use wgpu_attention::{Gpu, Tier};

use crate::cases::{self, CaseFile, Outcome, Verdict};
use crate::device::{self, GpuArgs};
use crate::ops::Errors;
use crate::progress::Progress;
use crate::{Failure, complain, duration, status};

/// Run case files, a line each, and compare with the answers they hold.
///
/// A line gives the errors of the output (RMS and maximum, relative) and the time from problem to result on the host,
/// compiling included, and the tier of the kernels. The exit status is 1 if a result is wrong, a file unreadable, or no case found.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Case files, or directories of them [default: tests/cases of the project, in a checkout of it]
    #[arg(value_name = "DIR")]
    paths: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gpu: GpuArgs,
}

pub fn verify(args: &VerifyArgs, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let files = files(&args.paths)?;
    let tiers = args.gpu.request_tiers()?;
    let mut right = true;
    let mut all_json = vec![];
    for (n, gpu) in tiers.iter().enumerate() {
        let summary = if args.json {
            let summary = run_all(gpu, files.clone(), |_| Ok(()))?;
            let mut json = summary.to_json();
            json["adapter"] = device::to_json(gpu.info());
            json["tier"] = gpu.forced_tier().map(Tier::name).into();
            all_json.push(json);
            summary
        } else {
            let gap = if n > 0 { "\n" } else { "" };
            writeln!(out, "{gap}{}{}", device::describe(gpu.info()), device::forced(gpu))?;
            print_all(gpu, files.clone(), out)?
        };
        right &= summary.status() == ExitCode::SUCCESS;
    }
    match (all_json.len(), args.json) {
        (_, false) => {}
        (1, true) => writeln!(out, "{:#}", all_json[0])?,
        (_, true) => writeln!(out, "{:#}", json!({ "tiers": all_json }))?,
    }
    Ok(status(right))
}

/// The case files to run.
fn files(paths: &[PathBuf]) -> Result<Vec<CaseFile>, Failure> {
    if paths.is_empty() {
        let project = cases::of_project().ok_or_else(|| {
            let message = "no case files given, and this is no checkout of the project, which has some in tests/cases; \
                           give a directory with case files (*.safetensors)";
            Failure::Message(message.into())
        })?;
        return cases::find(&project);
    }
    let mut files = Vec::new();
    for path in paths {
        files.extend(cases::find(path)?);
    }
    Ok(files)
}

/// What came of many cases.
pub struct Summary {
    outcomes: Vec<Outcome>,
}

/// Runs all files; each outcome goes to `each` as soon as it is there.
pub fn run_all(
    gpu: &Gpu,
    files: Vec<CaseFile>,
    mut each: impl FnMut(&Outcome) -> Result<(), Failure>,
) -> Result<Summary, Failure> {
    let progress = Progress::new();
    let total = files.len();
    let mut outcomes = Vec::with_capacity(total);
    for (n, file) in files.into_iter().enumerate() {
        progress.show(format_args!("[{}/{total}] {}", n + 1, file.name));
        let outcome = cases::check(gpu, file);
        progress.clear();
        each(&outcome)?;
        outcomes.push(outcome);
    }
    Ok(Summary { outcomes })
}

/// [`run_all`] with a line for each case and one for all.
pub fn print_all(gpu: &Gpu, files: Vec<CaseFile>, out: &mut dyn Write) -> Result<Summary, Failure> {
    let width = files.iter().map(|f| f.name.chars().count()).max().unwrap_or(0);
    let summary = run_all(gpu, files, |outcome| print(outcome, width, out))?;
    writeln!(
        out,
        "{} passed, {} failed, {} unsupported",
        summary.count(Verdict::Passed),
        summary.count(Verdict::Failed),
        summary.count(Verdict::Unsupported)
    )?;
    Ok(summary)
}

fn print(outcome: &Outcome, width: usize, out: &mut dyn Write) -> Result<(), Failure> {
    let (word, colour) = match outcome.verdict {
        Verdict::Passed => ("ok", AnsiColor::Green),
        Verdict::Failed => ("FAILED", AnsiColor::Red),
        Verdict::Unsupported => ("unsupported", AnsiColor::Yellow),
    };
    let colour = colour.on_default();
    write!(out, "{:width$}  {colour}{word:11}{colour:#}", outcome.file.name)?;
    if let Some(o) = outcome.errors.as_ref().and_then(Errors::o) {
        write!(out, "  rms {:.1e}  max {:.1e}", o.rms, o.max)?;
    }
    if let Some(seconds) = outcome.seconds {
        write!(out, "  {:>9}", duration(seconds))?;
    }
    if let Some(tier) = outcome.tier {
        write!(out, "  {:11}", tier.name())?;
    }
    if let Some(note) = &outcome.note {
        write!(out, "  {note}")?;
    }
    Ok(writeln!(out)?)
}

impl Summary {
    pub fn count(&self, verdict: Verdict) -> usize {
        self.outcomes.iter().filter(|o| o.verdict == verdict).count()
    }

    pub fn right(&self) -> bool {
        !self.outcomes.is_empty() && self.count(Verdict::Failed) == 0
    }

    fn status(&self) -> ExitCode {
        if self.outcomes.is_empty() {
            complain("no case files (*.safetensors) found");
        }
        status(self.right())
    }

    pub fn to_json(&self) -> Value {
        let outcomes: Vec<_> = self.outcomes.iter().map(outcome_json).collect();
        json!({
            "cases": outcomes,
            "passed": self.count(Verdict::Passed),
            "failed": self.count(Verdict::Failed),
            "unsupported": self.count(Verdict::Unsupported),
        })
    }
}

fn outcome_json(outcome: &Outcome) -> Value {
    let verdict = match outcome.verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "failed",
        Verdict::Unsupported => "unsupported",
    };
    json!({
        "name": outcome.file.name,
        "file": outcome.file.path.display().to_string(),
        "verdict": verdict,
        "errors": outcome.errors.as_ref().map(Errors::to_json),
        "seconds": outcome.seconds,
        "tier": outcome.tier.map(Tier::name),
        "note": outcome.note,
    })
}
