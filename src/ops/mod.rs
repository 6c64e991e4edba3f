//! The operations. Each has a problem (what to compute), a plan (how), and a reference (the truth).

pub(crate) mod call;
pub mod dense;
pub(crate) mod host;
pub mod merge;
pub(crate) mod parts;
