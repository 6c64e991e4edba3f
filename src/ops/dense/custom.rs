//! The caller's own WGSL: checked by itself first, so that an error shows the caller's line.

use std::fmt::Write;

use crate::error::{Error, Result};
use crate::ops::dense::variant::FIRST_CUSTOM_BINDING;
use crate::ops::dense::{Custom, CustomElement};
use crate::shader;

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
    if let Some(text) = &custom.score {
        check_snippet("score", text, custom)?;
    }
    if let Some(text) = &custom.mask {
        check_snippet("mask", text, custom)?;
    }
    Ok(())
}

fn check_snippet(snippet: &'static str, text: &str, custom: &Custom) -> Result<()> {
    let prelude = format!("{}\n{}", shader::text("dense/position"), declarations(custom));
    let source = format!("{prelude}{text}\n");
    let lines_before = prelude.lines().count() as u32;
    let error = |location: Option<(u32, u32)>, message: String| {
        // A location past the end of the text means "unexpected end".
        let (line, column) = location.map_or((0, 0), |(l, c)| (l.saturating_sub(lines_before), c));
        let last = text.lines().count() as u32;
        let line = line.min(last);
        Error::Snippet {
            snippet,
            line,
            column,
            source: text.lines().nth(line.saturating_sub(1) as usize).unwrap_or("").into(),
            message,
        }
    };
    let module = naga::front::wgsl::parse_str(&source).map_err(|e| {
        let at = e.location(&source).map(|l| (l.line_number, l.line_position));
        error(at, e.message().to_string())
    })?;
    validator().validate(&module).map_err(|e| {
        // Of a function, a statement and an expression, the last shows the place best.
        let ranges = e
            .spans()
            .filter_map(|(span, _)| Some((span.to_range()?.len(), span.location(&source))));
        let at = ranges
            .min_by_key(|(len, _)| *len)
            .map(|(_, l)| (l.line_number, l.line_position));
        error(at, chain(&e.into_inner()))
    })?;
    if !module.entry_points.is_empty() {
        return Err(error(
            None,
            "entry points are not allowed here, only functions and constants".into(),
        ));
    }
    if module.global_variables.len() > custom.data.len() {
        return Err(error(
            None,
            "module-scope variables are not allowed here; arrays come through `Custom::data`".into(),
        ));
    }
    if let Some(barrier) = BARRIERS.into_iter().find(|name| calls(text, name)) {
        return Err(error(
            None,
            format!("`{barrier}` is not allowed here: not every invocation of a workgroup comes by"),
        ));
    }
    if let Some(name) = declared(&module)
        .chain(constants(text))
        .find(|name| used_by_kernels(name))
    {
        return Err(error(
            None,
            format!("the kernels use the name `{name}` themselves: choose another"),
        ));
    }
    check_signature(snippet, &module).map_err(|message| error(None, message))
}

const BARRIERS: [&str; 3] = ["workgroupBarrier", "storageBarrier", "textureBarrier"];

/// Names that the snippet adds to the module's scope.
fn declared(module: &naga::Module) -> impl Iterator<Item = &str> {
    let functions = module.functions.iter().filter_map(|(_, f)| f.name.as_deref());
    let constants = module.constants.iter().filter_map(|(_, c)| c.name.as_deref());
    let types = module.types.iter().filter_map(|(_, t)| t.name.as_deref());
    let all = functions.chain(constants).chain(types);
    all.filter(|name| !matches!(*name, "score" | "mask" | "Position"))
}

/// Names that follow `const` in the text: naga drops constants of abstract type from its module.
fn constants(text: &str) -> impl Iterator<Item = &str> {
    let words = |line| str::split(line, |c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty());
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or(""));
    lines
        .flat_map(move |line| words(line).zip(words(line).skip(1)))
        .filter_map(|(first, second)| (first == "const").then_some(second))
}

/// Whether any kernel calls this name, be it a function of its own or a built-in one, which a function of the same
/// name would replace without a word; or whether it is a constant of any kernel, so that what is allowed does not
/// depend on the kernel the planner chooses.
fn used_by_kernels(name: &str) -> bool {
    let constant = !name.contains(|c: char| c.is_ascii_lowercase());
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let code = |line: &'static str| line.split("//").next().unwrap_or("");
    let mentions = |text: &'static str| {
        let mut words = text.lines().flat_map(|line| code(line).split(|c| !is_word(c)));
        words.any(|word| word == name)
    };
    let mut sources = shader::SOURCES.iter();
    sources.any(|(_, text)| calls(text, name) || (constant && mentions(text)))
}

fn calls(text: &str, name: &str) -> bool {
    let call = format!("{name}(");
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.lines().any(|line| {
        let code = line.split("//").next().unwrap_or("");
        let mut found = code.match_indices(&call);
        found.any(|(at, _)| !code[..at].ends_with(is_word))
    })
}

fn validator() -> naga::valid::Validator {
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    // Conversions between packed f16 and f32 are core WGSL.
    let capabilities = Capabilities::default() | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    Validator::new(ValidationFlags::all(), capabilities)
}

/// `fn score(f32, Position) -> f32` and `fn mask(Position) -> bool`.
fn check_signature(name: &str, module: &naga::Module) -> std::result::Result<(), String> {
    let signature = match name {
        "score" => "fn score(s: f32, at: Position) -> f32",
        _ => "fn mask(at: Position) -> bool",
    };
    let wanted: &[&str] = if name == "score" {
        &["f32", "Position"]
    } else {
        &["Position"]
    };
    let result = if name == "score" { "f32" } else { "bool" };
    let Some((_, function)) = module.functions.iter().find(|(_, f)| f.name.as_deref() == Some(name)) else {
        return Err(format!("there is no `{signature}`"));
    };
    let type_name = |handle: naga::Handle<naga::Type>| -> String {
        let ty = &module.types[handle];
        match (&ty.name, &ty.inner) {
            (Some(name), _) => name.clone(),
            (None, naga::TypeInner::Scalar(s)) if *s == naga::Scalar::F32 => "f32".into(),
            (None, naga::TypeInner::Scalar(s)) if *s == naga::Scalar::BOOL => "bool".into(),
            (None, other) => format!("{other:?}"),
        }
    };
    let arguments: Vec<_> = function.arguments.iter().map(|a| type_name(a.ty)).collect();
    let returned = function.result.as_ref().map(|r| type_name(r.ty));
    if arguments != wanted || returned.as_deref() != Some(result) {
        return Err(format!("`{name}` must be `{signature}`"));
    }
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(inner) = next {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        next = inner.source();
    }
    text
}

/// Looks for what only the whole module shows: names that the custom code and the kernel both declare, and code that
/// may not stand where the kernel calls it.
pub(crate) fn check_module(custom: &Custom, module_source: &str) -> Result<()> {
    let error = |message: String| Error::Snippet {
        snippet: if custom.score.is_some() { "score" } else { "mask" },
        line: 0,
        column: 0,
        source: String::new(),
        message,
    };
    let module = naga::front::wgsl::parse_str(module_source).map_err(|parse| {
        error(format!(
            "{}; the kernel uses that name itself, or score and mask both declare it: choose another",
            parse.message()
        ))
    })?;
    validator()
        .validate(&module)
        .map_err(|e| error(format!("inside the kernel: {}", chain(&e.into_inner()))))?;
    Ok(())
}
