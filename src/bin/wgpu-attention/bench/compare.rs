//! Several runs side by side.

use std::io::Write;

use super::format::Run;
use crate::Failure;

pub fn print(runs: &[Run], out: &mut dyn Write) -> Result<(), Failure> {
    for run in runs {
        writeln!(out, "{}", run.label())?;
    }
    Ok(())
}
