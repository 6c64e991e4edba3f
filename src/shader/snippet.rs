//! The caller's own WGSL: checked by itself first, so that an error shows the caller's line.

use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::error::{Error, Result};
use crate::shader;

/// A function that a kernel calls and a caller may write.
pub(crate) struct Hook<'a> {
    /// The op whose kernels call it.
    pub op: &'static str,
    /// The function's name, which is the snippet's.
    pub name: &'static str,
    /// What it must look like.
    pub signature: &'static str,
    /// Types of its arguments.
    pub arguments: &'static [&'static str],
    /// Type of its result.
    pub result: &'static str,
    /// Names that it may declare, or find, although kernels use them.
    pub known: &'static [&'static str],
    /// What stands before the snippet: types and arrays that it can use.
    pub prelude: &'a str,
    /// Arrays among it.
    pub arrays: usize,
    /// Where arrays come from, for the message about module-scope variables.
    pub arrays_come: &'static str,
}

impl Hook<'_> {
    /// Checks a snippet.
    ///
    /// # Errors
    /// [`Error::Snippet`] with the caller's line.
    pub fn check(&self, text: &str) -> Result<()> {
        let source = format!("{}{text}\n", self.prelude);
        let lines_before = self.prelude.lines().count() as u32;
        let error = |location: Option<(u32, u32)>, message: String| {
            // A location past the end of the text means "unexpected end".
            let (line, column) = location.map_or((0, 0), |(l, c)| (l.saturating_sub(lines_before), c));
            let last = text.lines().count() as u32;
            let line = line.min(last);
            Error::Snippet {
                snippet: self.name,
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
        validator(Capabilities::empty()).validate(&module).map_err(|e| {
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
        if module.global_variables.len() > self.arrays {
            return Err(error(
                None,
                format!("module-scope variables are not allowed here{}", self.arrays_come),
            ));
        }
        if let Some(barrier) = BARRIERS.into_iter().find(|name| calls(text, name)) {
            return Err(error(
                None,
                format!("`{barrier}` is not allowed here: not every invocation of a workgroup comes by"),
            ));
        }
        if let Some(name) = declared(&module)
            .filter(|name| !self.known.contains(name))
            .chain(constants(text))
            .find(|name| used_by_kernels(self.op, name))
        {
            return Err(error(
                None,
                format!("the kernels use the name `{name}` themselves: choose another"),
            ));
        }
        self.check_signature(&module).map_err(|message| error(None, message))
    }

    fn check_signature(&self, module: &naga::Module) -> std::result::Result<(), String> {
        let (name, signature) = (self.name, self.signature);
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
        if arguments != self.arguments || returned.as_deref() != Some(self.result) {
            return Err(format!("`{name}` must be `{signature}`"));
        }
        Ok(())
    }
}

const BARRIERS: [&str; 3] = ["workgroupBarrier", "storageBarrier", "textureBarrier"];

/// Names that the snippet adds to the module's scope.
fn declared(module: &naga::Module) -> impl Iterator<Item = &str> {
    let functions = module.functions.iter().filter_map(|(_, f)| f.name.as_deref());
    let constants = module.constants.iter().filter_map(|(_, c)| c.name.as_deref());
    let types = module.types.iter().filter_map(|(_, t)| t.name.as_deref());
    functions.chain(constants).chain(types)
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
fn used_by_kernels(op: &str, name: &str) -> bool {
    let constant = !name.contains(|c: char| c.is_ascii_lowercase());
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let code = |line: &'static str| line.split("//").next().unwrap_or("");
    let mentions = |text: &'static str| {
        let mut words = text.lines().flat_map(|line| code(line).split(|c| !is_word(c)));
        words.any(|word| word == name)
    };
    let own = |source: &str| source.starts_with("shared/") || source.starts_with("merge/") || source.starts_with(op);
    let mut sources = shader::SOURCES.iter().filter(|(source, _)| own(source));
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

fn validator(more: Capabilities) -> Validator {
    // Conversions between packed f16 and f32 are core WGSL.
    let capabilities = Capabilities::default() | Capabilities::SHADER_FLOAT16_IN_FLOAT32 | more;
    Validator::new(ValidationFlags::all(), capabilities)
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

/// Looks for what only the whole module shows: names that the custom code and the kernel both declare (`clash` says how
/// that can be), and code that may not stand where the kernel calls it.
pub(crate) fn check_module(snippet: &'static str, clash: &str, module_source: &str) -> Result<()> {
    let error = |message: String| Error::Snippet {
        snippet,
        line: 0,
        column: 0,
        source: String::new(),
        message,
    };
    let module = naga::front::wgsl::parse_str(module_source)
        .map_err(|parse| error(format!("{}; {clash}: choose another", parse.message())))?;
    // What kernels of any tier use. The snippet by itself was held against core WGSL before.
    let kernels = Capabilities::SUBGROUP
        | Capabilities::SUBGROUP_BARRIER
        | Capabilities::SHADER_FLOAT16
        | Capabilities::COOPERATIVE_MATRIX;
    validator(kernels)
        .validate(&module)
        .map_err(|e| error(format!("inside the kernel: {}", chain(&e.into_inner()))))?;
    Ok(())
}
