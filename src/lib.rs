//! Attention kernels in WGSL for every GPU that wgpu reaches.
#![warn(missing_docs)]

#[cfg(feature = "cases")]
pub mod case;
pub mod compare;
pub mod error;
pub mod gpu;
pub mod measure;
pub mod ops;
pub mod shader;
pub mod tensor;

pub use error::{Error, Result};
pub use gpu::{Gpu, GpuOptions};
pub use ops::dense::{
    self, Bias, Broadcast, Custom, CustomData, CustomElement, Dense, DenseInputs, DenseOutput, DensePlan, DenseTensors,
    Weighting,
};
pub use ops::merge::{Merge, MergePlan, MergeTensors};
pub use tensor::{DType, Layout, Strides, Tensor};
