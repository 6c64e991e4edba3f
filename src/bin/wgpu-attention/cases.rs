//! Case files: finding them, running one, and what came of it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use wgpu_attention::case::Case;
use wgpu_attention::compare::Tolerance;
use wgpu_attention::{Error, Gpu, Tier};

use crate::Failure;
use crate::ops::{Errors, Planned, Problem, Solution};

/// The project's own cases: `tests/cases` of the checkout that the working directory is in, or of the one that this
/// program was built in.
pub fn of_project() -> Option<PathBuf> {
    let here = std::env::current_dir().unwrap_or_default();
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .chain([built])
        .map(|root| root.join("tests").join("cases"))
        .find(|cases| cases.join("dense").is_dir())
}

/// A case file and what to call it.
#[derive(Clone, Debug)]
pub struct CaseFile {
    pub name: String,
    pub path: PathBuf,
}

/// The case files at a path: the file itself, or all below a directory, in the order of their names.
pub fn find(at: &Path) -> Result<Vec<CaseFile>, Failure> {
    let mut found = Vec::new();
    if at.is_dir() {
        walk(at, &mut found)?;
        found.sort();
    } else if at.exists() {
        found.push(at.to_path_buf());
    } else {
        return Err(Failure::Message(format!("{}: no such file or directory", at.display())));
    }
    let named = |path: PathBuf| {
        let short = path.strip_prefix(at).ok().filter(|p| !p.as_os_str().is_empty());
        let name = short.unwrap_or(&path).with_extension("").display().to_string();
        CaseFile { name, path }
    };
    Ok(found.into_iter().map(named).collect())
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let unreadable = |error| Failure::Message(format!("{}: {error}", directory.display()));
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        // Links to directories are not followed: they can form circles.
        if entry.file_type().map_err(unreadable)?.is_dir() {
            walk(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "safetensors") {
            found.push(path);
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed,
    Unsupported,
}

/// What came of a case.
pub struct Outcome {
    pub file: CaseFile,
    pub verdict: Verdict,
    /// Errors, where it ran.
    pub errors: Option<Errors>,
    /// Seconds from problem to a judged result on the host: planning (compiling, the first time), upload, run, read
    /// back, comparison.
    pub seconds: Option<f64>,
    /// The tier of its kernels, where it was planned.
    pub tier: Option<Tier>,
    /// Why, where it did not pass.
    pub note: Option<String>,
}

/// Runs a case and judges it.
pub fn check(gpu: &Gpu, file: CaseFile) -> Outcome {
    let mut outcome = Outcome {
        file,
        verdict: Verdict::Failed,
        errors: None,
        seconds: None,
        tier: None,
        note: None,
    };
    let case = match Case::load(&outcome.file.path) {
        Ok(case) => case,
        Err(error) => {
            outcome.note = Some(error.to_string());
            return outcome;
        }
    };
    let problem = match Problem::of(&case) {
        Ok(problem) => problem,
        Err(why) => {
            outcome.verdict = Verdict::Unsupported;
            outcome.note = Some(why);
            return outcome;
        }
    };
    let start = Instant::now();
    let planned = problem.plan(gpu);
    outcome.tier = planned.as_ref().ok().map(Planned::tier);
    match planned.and_then(|plan| plan.run(&Tolerance::for_dtype(case.dtype))) {
        Ok(Solution { errors, .. }) => {
            outcome.seconds = Some(start.elapsed().as_secs_f64());
            if errors.passed() {
                outcome.verdict = Verdict::Passed;
            } else {
                outcome.note = Some(errors.to_string());
            }
            outcome.errors = Some(errors);
        }
        Err(error) => {
            if matches!(error, Error::Limit { .. } | Error::Unsupported { .. }) {
                outcome.verdict = Verdict::Unsupported;
            }
            outcome.note = Some(error.to_string());
        }
    }
    outcome
}
