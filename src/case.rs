//! Case files: one attention problem with its expected answer, in one safetensors file (feature `cases`).
//!
//! Golden tests, the `verify` command and bug reports use this format, `wgpu-attention-case/1`. String metadata:
//! `format`, `op`, `params` (a JSON object), `dtype` (storage type of the main inputs), `source` (where the answer
//! comes from); other entries are a writer's notes and are not read. Inputs are contiguous tensors under their own
//! names, expected outputs f32 tensors under `expected.`. An unknown op, params key or tensor, a wrong type, and a
//! shape or value that contradicts the rest are errors that name the file and the fault; nothing is ever ignored.
//!
//! # Op `linear`
//!
//! Params: `scale` (1), `causal` (true), `feature_map` `identity`, `silu`, `relu` or `elu1` (`identity`), `normalize`
//! (false) and with it `epsilon` (1e-6), `state_only` (false). Tensors, beside q, k and v as [`Linear`] has them;
//! inputs of floating type may be f32, f16 or bf16:
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `log_decay` | `[H]`, `[B, H, N]` or `[B, H, N, D]` | |
//! | `cu_seqlens` | i32 `[S + 1]` | packed documents, B = 1 |
//! | `initial_state` | `[B\|S, H, D, Dv]` | one a batch entry, or a document |
//! | `initial_normalizer` | `[B\|S, H, D]` | z of `initial_state`, where outputs are normalised |
//! | `o` | `[B, H, N, Dv]` | what `state_only` adds to |
//! | `expected.o` | `[B, H, N, Dv]` | |
//! | `expected.final_state` | `[B\|S, H, D, Dv]` | optional |
//! | `expected.final_normalizer` | `[B\|S, H, D]` | optional even with a final state; z is then not judged |
//! | `expected.total_decay` | `[B\|S, H]`, or `[B\|S, H, D]` for a decay by channel | optional |
//!
//! On the device and in [`LinearInputs`] the numbers of z lie behind each head's state, in the same tensor.
//!
//! # Op `topk`
//!
//! Params: `granularity` `token` or `block`, `top_k`, `block_size` (for blocks), and of this library's own `score`
//! `keys`, `mean` or `bound` (`keys` for tokens, `mean` for blocks), `query_block` (1), `shared` (false; whether the query
//! heads of a KV head share a list), `first` (0), `last` (0), `diagonal` (false) and `room` (0), as [`TopK`] has them.
//! Params and tensors of `dense` may stand beside them, and:
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `pooled` | `[B, Hkv, ⌈Nk/block_size⌉, P]` | what stands for each block ([`Pool`](crate::Pool)), optional |
//! | `expected.o` | `[B, H, Nq, Dv]` | |
//! | `expected.lse` | `[B, H, Nq]` | optional |
//! | `expected.selected` | u8 `[B, H, Nq, Nk]` | 1 for the keys that a row attends to |
//!
//! # Example
//!
//! ```
//! use wgpu_attention::case::{Case, Op};
//! use wgpu_attention::compare::{self, Tolerance};
//! use wgpu_attention::dense::reference::{Hooks, dense};
//!
//! let case = Case::load("tests/cases/dense/softmax_masked_rows_offset.safetensors")?;
//! let Op::Dense(attention) = &case.op else { panic!("not a dense problem") };
//! let output = dense(&attention.problem, &attention.inputs(), &Hooks::default())?;
//! let o: Vec<f32> = output.o.iter().map(|&o| o as f32).collect();
//! assert!(compare::output(&o, &attention.expected().o, &Tolerance::for_dtype(case.dtype)).passed());
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

mod dense;
mod linear;
mod reader;
mod topk;
mod writer;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use linear::{LinearCase, LinearCaseInputs};
pub use topk::TopKCase;

use crate::error::{Error, Result};
use crate::ops::dense::{Dense, DenseInputs, DenseOutput};
use crate::ops::linear::{Linear, LinearInputs, LinearOutput};
use crate::ops::topk::{TopK, TopKInputs, TopKOutput};
use crate::tensor::DType;
use reader::Reader;
use writer::Writer;

/// The format that this module reads and writes.
pub const FORMAT: &str = "wgpu-attention-case/1";

/// One case file.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The file's name without directory and extension.
    pub name: String,
    /// The problem with its inputs and expected outputs.
    pub op: Op,
    /// Storage type of the main inputs; sets the error bounds
    /// ([`Tolerance::for_dtype`](crate::compare::Tolerance::for_dtype)).
    pub dtype: DType,
    /// Where the expected outputs come from.
    pub source: String,
}

/// What a case computes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(
    clippy::large_enum_variant,
    reason = "one a file, and the variants to come are as large"
)]
pub enum Op {
    /// Op `dense`.
    Dense(DenseCase),
    /// Op `linear`.
    Linear(LinearCase),
    /// Op `topk`.
    TopK(TopKCase),
}

/// A dense attention problem, its inputs and what it should give.
///
/// What a file cannot express has one reading: layouts are contiguous `[B, H, N, D]`, the output has the inputs'
/// storage type, `kv_heads` and `value_dim` are `None` where they equal `heads` and `head_dim`, and a broadcast
/// flag is false where the dimension is 1.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseCase {
    /// The problem; `lse` is true where the file has an expected one.
    pub problem: Dense,
    /// The inputs.
    pub tensors: DenseCaseInputs,
    /// `[B, H, Nq, Dv]`
    pub expected_o: Vec<f32>,
    /// `[B, H, Nq]`
    pub expected_lse: Option<Vec<f32>>,
}

/// The inputs of a dense problem, owned; 16-bit ones widened to f32, exactly. Shapes as in [`DenseInputs`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DenseCaseInputs {
    /// `[B, H, Nq, D]`
    pub q: Vec<f32>,
    /// `[B, Hkv, Nk, D]`
    pub k: Vec<f32>,
    /// `[B, Hkv, Nk, Dv]`
    pub v: Vec<f32>,
    /// `[B|1, H|1, Nq|1, Nk]`
    pub bias: Option<Vec<f32>>,
    /// `[B|1, H|1, Nq|1, Nk]`
    pub mask: Option<Vec<u8>>,
    /// `[B]`
    pub kv_len: Option<Vec<i32>>,
    /// `[S + 1]`
    pub cu_seqlens_q: Option<Vec<i32>>,
    /// `[S + 1]`
    pub cu_seqlens_k: Option<Vec<i32>>,
    /// `[H]`
    pub alibi_slopes: Option<Vec<f32>>,
    /// `[H]`
    pub sinks: Option<Vec<f32>>,
}

impl DenseCaseInputs {
    /// Borrows them as inputs.
    pub fn inputs(&self) -> DenseInputs<'_> {
        DenseInputs {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            bias: self.bias.as_deref(),
            mask: self.mask.as_deref(),
            kv_len: self.kv_len.as_deref(),
            cu_seqlens_q: self.cu_seqlens_q.as_deref(),
            cu_seqlens_k: self.cu_seqlens_k.as_deref(),
            alibi_slopes: self.alibi_slopes.as_deref(),
            sinks: self.sinks.as_deref(),
            selection: None,
            custom_data: &[],
        }
    }
}

impl From<&DenseInputs<'_>> for DenseCaseInputs {
    /// Copies everything but `selection` and `custom_data`, which a case file cannot hold.
    fn from(inputs: &DenseInputs<'_>) -> Self {
        DenseCaseInputs {
            q: inputs.q.to_vec(),
            k: inputs.k.to_vec(),
            v: inputs.v.to_vec(),
            bias: inputs.bias.map(<[_]>::to_vec),
            mask: inputs.mask.map(<[_]>::to_vec),
            kv_len: inputs.kv_len.map(<[_]>::to_vec),
            cu_seqlens_q: inputs.cu_seqlens_q.map(<[_]>::to_vec),
            cu_seqlens_k: inputs.cu_seqlens_k.map(<[_]>::to_vec),
            alibi_slopes: inputs.alibi_slopes.map(<[_]>::to_vec),
            sinks: inputs.sinks.map(<[_]>::to_vec),
        }
    }
}

impl DenseCase {
    /// The inputs, borrowed.
    pub fn inputs(&self) -> DenseInputs<'_> {
        self.tensors.inputs()
    }

    /// The expected outputs, as [`compare::dense`](crate::compare::dense) takes them.
    pub fn expected(&self) -> DenseOutput<f64> {
        let widen = |values: &Vec<f32>| values.iter().map(|&v| f64::from(v)).collect();
        DenseOutput {
            o: widen(&self.expected_o),
            lse: self.expected_lse.as_ref().map(widen),
        }
    }
}

impl Case {
    /// A dense case from a problem, its inputs and its answer, e.g. the reference's to a problem that failed. The
    /// answer is rounded to f32.
    pub fn dense(
        name: impl Into<String>,
        source: impl Into<String>,
        problem: &Dense,
        inputs: &DenseInputs<'_>,
        expected: &DenseOutput<f64>,
    ) -> Self {
        let narrow = |values: &Vec<f64>| values.iter().map(|&v| v as f32).collect();
        Case {
            name: name.into(),
            op: Op::Dense(DenseCase {
                problem: problem.clone(),
                tensors: inputs.into(),
                expected_o: narrow(&expected.o),
                expected_lse: expected.lse.as_ref().map(narrow),
            }),
            dtype: problem.dtype,
            source: source.into(),
        }
    }

    /// A linear case, as [`Case::dense`] makes a dense one.
    pub fn linear(
        name: impl Into<String>,
        source: impl Into<String>,
        problem: &Linear,
        inputs: &LinearInputs<'_>,
        expected: &LinearOutput<f64>,
    ) -> Self {
        Case {
            name: name.into(),
            op: Op::Linear(LinearCase::new(problem, inputs, expected)),
            dtype: problem.dtype,
            source: source.into(),
        }
    }

    /// A top-k case, as [`Case::dense`] makes a dense one; the lists of the answer become the keys that each row
    /// attends to, and [`TopK::keep`] is set.
    ///
    /// # Errors
    /// [`Error::File`], with `name` as the file, for a problem with custom code or a selection of its own, inputs that are not the problem's, and
    /// lists that are not well formed.
    pub fn topk(
        name: impl Into<String>,
        source: impl Into<String>,
        problem: &TopK,
        inputs: &TopKInputs<'_>,
        expected: &TopKOutput<f64>,
    ) -> Result<Self> {
        let name = name.into();
        dense::check_expressible(&name, &problem.attention)?;
        let case = TopKCase::new(problem, inputs, expected).or_else(|error| fail(&name, error.to_string()))?;
        Ok(Case {
            name,
            op: Op::TopK(case),
            dtype: problem.attention.dtype,
            source: source.into(),
        })
    }

    /// Reads a case file.
    ///
    /// # Errors
    /// [`Error::File`], naming the path, if it cannot be read or is not a case file without fault.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = path.display().to_string();
        let bytes = std::fs::read(path).or_else(|error| fail(&file, format!("cannot be read: {error}")))?;
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
        Self::parse(&file, &name, &bytes)
    }

    /// Reads a case from the bytes of a file; `name` becomes its name.
    ///
    /// # Errors
    /// [`Error::File`], with `name` as the file.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self> {
        Self::parse(name, name, bytes)
    }

    fn parse(file: &str, name: &str, bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::open(file, bytes)?;
        let dtype = reader.dtype()?;
        let op = reader.op()?;
        let op = match op.as_str() {
            "dense" => Op::Dense(dense::read(&mut reader, dtype)?),
            "linear" => Op::Linear(linear::read(&mut reader, dtype)?),
            "topk" => Op::TopK(topk::read(&mut reader, dtype)?),
            _ => return fail(file, format!("unknown op `{op}`; known: dense, linear, topk")),
        };
        reader.finish()?;
        Ok(Case {
            name: name.to_string(),
            op,
            dtype,
            source: reader.source()?,
        })
    }

    /// Writes the case to a file, which reads back the same: problem, inputs and answer to the bit.
    ///
    /// # Errors
    /// As [`to_bytes`](Self::to_bytes), and if the file cannot be written; both name the path.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let file = path.display().to_string();
        let bytes = self.write(&file)?;
        std::fs::write(path, bytes).or_else(|error| fail(&file, format!("cannot be written: {error}")))
    }

    /// The bytes of the case's file.
    ///
    /// # Errors
    /// [`Error::File`], with [`name`](Self::name) as the file, where the format cannot express the case: custom
    /// code, a selection, a value that is not one of its storage type; or where it contradicts itself.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.write(&self.name)
    }

    fn write(&self, file: &str) -> Result<Vec<u8>> {
        let (op, dtype) = match &self.op {
            Op::Dense(case) => ("dense", case.problem.dtype),
            Op::Linear(case) => ("linear", case.problem.dtype),
            Op::TopK(case) => ("topk", case.problem.attention.dtype),
        };
        if dtype != self.dtype {
            return fail(
                file,
                format!("the case's dtype is {}, its problem's {dtype}", self.dtype),
            );
        }
        let mut writer = Writer::new(file);
        match &self.op {
            Op::Dense(case) => dense::write(&mut writer, case)?,
            Op::Linear(case) => linear::write(&mut writer, case)?,
            Op::TopK(case) => topk::write(&mut writer, case)?,
        }
        writer.finish(op, dtype, &self.source)
    }
}

/// What is wrong with a file.
fn fail<T>(file: &str, message: impl Into<String>) -> Result<T> {
    Err(Error::File {
        file: file.to_string(),
        message: message.into(),
    })
}
