//! The operations. Each has a problem (what to compute), a plan (how), and a reference (the truth).

pub mod dense;
