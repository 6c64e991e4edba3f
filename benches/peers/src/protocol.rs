//! What this program and a peer's process say to each other: JSON, a line each, on the peer's standard input and output.
//! `onnx_webgpu.py` speaks it too.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wgpu_attention::{DType, Dense};

use crate::problems::{kv_heads, value_dim};

/// The first line of a peer that can work; one that cannot begins with [`Reply::Failed`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// As the results call it, e.g. `cubek unit`.
    pub implementation: String,
    /// The package, and its version.
    pub program: String,
    pub version: String,
    /// Name of the adapter it runs on; `None` where it does not tell.
    pub adapter: Option<String>,
    /// Whether it can read the device's clock.
    pub device_clock: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Load the inputs, compile, run once and write the output.
    Prepare(Task),
    /// Run what was prepared so often and tell the seconds of one run.
    Time { repeats: u32, clock: Clock },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Hello(Hello),
    /// The output is written. `kernel`: what ran, if there is a choice.
    Prepared {
        kernel: Option<String>,
    },
    Timed {
        seconds: f64,
    },
    Failed {
        message: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// Timestamps of the device around the runs.
    Device,
    /// The host's, from the first call to the end of waiting for the last.
    Host,
}

/// Softmax attention with the scale 1/√D; where causal, the last query stands at the last key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    pub batch: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub queries: u32,
    pub keys: u32,
    pub head_dim: u32,
    pub value_dim: u32,
    /// `f16` or `f32`
    pub dtype: String,
    pub causal: bool,
    /// Holds `q`, `k` and `v`, little-endian, `[batch, heads, rows, dim]`; the peer writes its output to `o` there.
    pub folder: PathBuf,
}

impl Task {
    pub fn new(p: &Dense, folder: PathBuf) -> Self {
        Task {
            batch: p.batch,
            heads: p.heads,
            kv_heads: kv_heads(p),
            queries: p.queries,
            keys: p.keys,
            head_dim: p.head_dim,
            value_dim: value_dim(p),
            dtype: p.dtype.name().into(),
            causal: p.causal,
            folder,
        }
    }

    pub fn dtype(&self) -> Result<DType, String> {
        match self.dtype.as_str() {
            "f16" => Ok(DType::F16),
            "f32" => Ok(DType::F32),
            other => Err(format!("type `{other}`; f16 and f32 are known")),
        }
    }
}
