//! Attention kernels in WGSL for every GPU that wgpu reaches.
#![warn(missing_docs)]

pub mod error;
pub mod ops;
pub mod tensor;

pub use error::{Error, Result};
pub use ops::dense::{self, Bias, Broadcast, Custom, CustomData, CustomElement, Dense, DenseInputs, DenseOutput, Weighting};
pub use tensor::{DType, Layout, Strides, Tensor};
