//! The caller's own feature map.

use crate::error::Result;
use crate::shader;
use crate::shader::snippet::{self, Hook};

/// Checks the code by itself, and inside each of the kernels' modules that will run it.
pub(super) fn check(text: &str, modules: &[String]) -> Result<()> {
    let prelude = format!("{}\n", shader::text("linear/channel"));
    let hook = Hook {
        op: "linear",
        name: "feature",
        signature: "fn feature(x: f32, at: Channel) -> f32",
        arguments: &["f32", "Channel"],
        result: "f32",
        known: &["feature", "Channel"],
        prelude: &prelude,
        arrays: 0,
        arrays_come: "",
    };
    hook.check(text)?;
    for module in modules {
        snippet::check_module("feature", "the kernel uses that name itself", module)?;
    }
    Ok(())
}
