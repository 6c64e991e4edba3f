//! The operations. Each has a problem (what to compute), a plan (how), and a reference (the truth).
//!
//! ```no_run
//! use wgpu_attention::dense::reference;
//! use wgpu_attention::{Dense, DenseInputs, Gpu};
//! # fn f(gpu: &Gpu) -> wgpu_attention::Result<()> {
//! let problem = Dense { keys: 2, head_dim: 1, ..Default::default() };
//! let inputs = DenseInputs { q: &[1.0], k: &[0.0, 0.0], v: &[1.0, 3.0], ..Default::default() };
//! let plan = problem.plan(gpu)?;
//! assert_eq!(plan.run_blocking(&inputs)?.o, [2.0]);
//! assert_eq!(reference::dense(&problem, &inputs, &Default::default())?.o, [2.0]);
//! # Ok(())
//! # }
//! ```

pub(crate) mod call;
pub mod dense;
pub(crate) mod host;
pub mod linear;
pub mod merge;
pub(crate) mod parts;
pub mod selection;
pub mod topk;
