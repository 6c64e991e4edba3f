//! The caller's own WGSL: checked by itself first, so that an error shows the caller's line.

use std::fmt::Write;

use crate::error::{Error, Result};
use crate::ops::dense::variant::FIRST_CUSTOM_BINDING;
use crate::ops::dense::{Custom, CustomElement};
use crate::shader;
use crate::shader::snippet::Hook;

/// The custom code as it stands in the module: the data's declarations, then the snippets.
pub(crate) fn module_text(custom: &Custom) -> String {
    let mut text = declarations(custom);
    for snippet in [&custom.score, &custom.mask].into_iter().flatten() {
        text.push_str(snippet);
        text.push('\n');
    }
    text
}

fn declarations(custom: &Custom) -> String {
    let mut text = String::new();
    for (n, data) in custom.data.iter().enumerate() {
        let element = match data.element {
            CustomElement::F32 => "f32",
            CustomElement::U32 => "u32",
            CustomElement::I32 => "i32",
        };
        let binding = FIRST_CUSTOM_BINDING + n as u32;
        let _ = writeln!(
            text,
            "@group(0) @binding({binding}) var<storage, read> {}: array<{element}>;",
            data.name
        );
    }
    text
}

/// Checks what the custom part of a problem consists of. Its code is [`check_code`]'s affair.
pub(crate) fn check(custom: &Custom) -> Result<()> {
    if custom.score.is_none() && custom.mask.is_none() {
        return Err(Error::Invalid {
            field: "custom",
            value: "neither a score nor a mask".into(),
            allowed: "at least one of `Custom::score` and `Custom::mask`, or no `custom` at all".into(),
        });
    }
    for (n, data) in custom.data.iter().enumerate() {
        let valid = data.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && data.name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !valid || custom.data[..n].iter().any(|d| d.name == data.name) {
            return Err(Error::Invalid {
                field: "custom.data",
                value: format!("an array named `{}`", data.name),
                allowed: "names of ASCII letters, digits and _, each once, starting with a letter".into(),
            });
        }
    }
    Ok(())
}

/// Checks each snippet by itself. Slow beside the rest of planning: for code that is not known to be right.
pub(crate) fn check_code(custom: &Custom) -> Result<()> {
    let prelude = format!("{}\n{}", shader::text("dense/position"), declarations(custom));
    let hook = |name, signature, arguments| Hook {
        op: "dense",
        name,
        signature,
        arguments,
        result: if name == "score" { "f32" } else { "bool" },
        known: &["score", "mask", "Position"],
        prelude: &prelude,
        arrays: custom.data.len(),
        arrays_come: "; arrays come through `Custom::data`",
    };
    if let Some(text) = &custom.score {
        hook("score", "fn score(s: f32, at: Position) -> f32", &["f32", "Position"]).check(text)?;
    }
    if let Some(text) = &custom.mask {
        hook("mask", "fn mask(at: Position) -> bool", &["Position"]).check(text)?;
    }
    Ok(())
}

/// Looks for what only the whole module shows.
pub(crate) fn check_module(custom: &Custom, module_source: &str) -> Result<()> {
    let name = if custom.score.is_some() { "score" } else { "mask" };
    shader::snippet::check_module(
        name,
        "the kernel uses that name itself, or score and mask both declare it",
        module_source,
    )
}
