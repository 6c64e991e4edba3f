//! The one error type of the crate.
//!
//! ```
//! use wgpu_attention::{Dense, Error, Gpu};
//!
//! fn explain(gpu: &Gpu, problem: &Dense) -> String {
//!     match problem.plan(gpu) {
//!         Ok(plan) => plan.label().to_string(),
//!         Err(Error::Invalid { field, .. }) => format!("put `{field}` right"),
//!         Err(Error::Limit { limit, needed, .. }) => format!("request a device with `{limit}` of {needed}"),
//!         Err(other) => other.to_string(),
//!     }
//! }
//!
//! let error = Error::Invalid { field: "head_dim", value: "300".into(), allowed: "1 to 256".into() };
//! assert_eq!(error.to_string(), "`head_dim` is 300; allowed: 1 to 256");
//! ```

use std::fmt;

/// Everything that can go wrong, with the data a caller needs to put it right.
///
/// No user input panics and none reaches wgpu's own validation: what a plan accepted runs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A field of a problem has a value that is not allowed, alone or beside the other fields.
    Invalid {
        /// The field, as written in the problem.
        field: &'static str,
        /// What it was.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A tensor handed to `encode` does not fit the plan.
    Tensor {
        /// The tensor's name in the tensors struct.
        tensor: &'static str,
        /// What is wrong.
        found: String,
        /// What the plan needs.
        needed: String,
    },
    /// The contents of host data contradict the problem (lengths, ranges, order).
    Data {
        /// The input's name.
        input: &'static str,
        /// What is wrong.
        found: String,
        /// What is allowed.
        needed: String,
    },
    /// The device cannot serve the problem, even split into parts.
    Limit {
        /// What was asked for.
        what: String,
        /// How much of it the problem needs.
        needed: u64,
        /// The device limit, by its name in `wgpu::Limits`.
        limit: &'static str,
        /// The limit's value on this device.
        available: u64,
    },
    /// A caller's own WGSL does not parse, does not validate, or has the wrong signature.
    Snippet {
        /// `"score"` or `"mask"`, of linear attention `"feature"`.
        snippet: &'static str,
        /// Line in the caller's text, counted from 1; 0 where the message is about the whole snippet.
        line: u32,
        /// Column in that line, counted from 1; 0 as above.
        column: u32,
        /// The text of that line.
        source: String,
        /// What the WGSL front end said, or what is missing.
        message: String,
    },
    /// The requested tier, or the combination with it, is not available.
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why it is not to be had here, and what is.
        why: String,
    },
    /// No adapter matched.
    NoAdapter {
        /// What was asked for and what was found.
        message: String,
    },
    /// The device was lost, or refused an operation (out of memory, a driver's compiler error).
    Device {
        /// What the device said.
        message: String,
    },
    /// A file of this crate's, of cases or measured tiles, cannot be read or written, or contradicts itself.
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        message: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid { field, value, allowed } => {
                write!(f, "`{field}` is {value}; allowed: {allowed}")
            }
            Error::Tensor { tensor, found, needed } => {
                write!(f, "tensor `{tensor}`: {found}; needed: {needed}")
            }
            Error::Data { input, found, needed } => {
                write!(f, "input `{input}`: {found}; needed: {needed}")
            }
            Error::Limit {
                what,
                needed,
                limit,
                available,
            } => {
                write!(f, "{what} needs {needed}, but this device's `{limit}` is {available}")
            }
            Error::Snippet {
                snippet,
                line,
                column,
                source,
                message,
            } => {
                write!(f, "custom `{snippet}` code")?;
                if *line > 0 {
                    write!(f, ", line {line}, column {column}: `{}`", source.trim())?;
                }
                write!(f, ": {message}")
            }
            Error::Unsupported { what, why } => write!(f, "{what} is not supported here: {why}"),
            Error::NoAdapter { message } => write!(f, "no adapter: {message}"),
            Error::Device { message } => write!(f, "device: {message}"),
            Error::File { file, message } => write!(f, "file {file}: {message}"),
        }
    }
}

impl std::error::Error for Error {}

/// [`Error::Limit`] where more is needed than the device has.
pub(crate) fn check_limit(
    what: impl fmt::Display,
    needed: impl Into<u64>,
    limit: &'static str,
    available: impl Into<u64>,
) -> Result<()> {
    let (needed, available) = (needed.into(), available.into());
    if needed <= available {
        return Ok(());
    }
    Err(Error::Limit {
        what: what.to_string(),
        needed,
        limit,
        available,
    })
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
