//! The JSON of a benchmark: `wgpu-attention-bench/1`. Other programs write it too, so whatever is not needed for a
//! comparison may be absent.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use wgpu_attention::bench::Problem;
use wgpu_attention::measure;

use crate::Failure;

/// The value of `format`.
pub const FORMAT: &str = "wgpu-attention-bench/1";

/// A run of a benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub format: String,
    /// When it began, as in 2026-11-25T09:30:00Z.
    #[serde(default)]
    pub date: String,
    pub program: Program,
    pub device: Device,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceilings: Option<Ceilings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    pub results: Vec<Row>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    pub version: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    #[serde(default)]
    pub backend: String,
    #[serde(default)]
    pub driver: String,
    #[serde(default)]
    pub driver_info: String,
    #[serde(default, rename = "type")]
    pub kind: String,
}

/// What the device can do at most.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ceilings {
    pub copy_bytes_per_second: Option<f64>,
    pub read_bytes_per_second: Option<f64>,
    pub f32_flops_per_second: Option<f64>,
    pub f16_flops_per_second: Option<f64>,
    pub cooperative_flops_per_second: Option<f64>,
    /// A pass with one dispatch of one workgroup, which copies 16 KiB.
    pub launch_seconds: Option<f64>,
    /// Each further one, which waits for the one before.
    pub dependent_launch_seconds: Option<f64>,
}

/// How it was measured.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Confidence of the intervals.
    pub confidence: f64,
    /// Half the width of an interval, relative to the median, at which a row is done.
    pub half_width: f64,
    /// Seconds of timed runs of a row.
    pub budget_seconds: f64,
    /// Bytes of inputs and outputs between two uses of the same.
    pub rotation_bytes: u64,
}

/// A problem as one implementation does it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub suite: String,
    pub name: String,
    pub implementation: String,
    #[serde(default)]
    pub tier: Option<String>,
    /// Whether the tier is the one that the planner picks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<bool>,
    #[serde(default)]
    pub kernel: Option<String>,
    pub problem: ProblemSize,
    #[serde(default)]
    pub seconds: Option<Seconds>,
    /// `"device"` or `"host"`.
    #[serde(default)]
    pub clock: Option<String>,
    #[serde(default)]
    pub flops: f64,
    #[serde(default)]
    pub bytes: f64,
    /// The ceiling that it comes to first: `"cooperative"`, `"f16"`, `"f32"`, `"copy"` or `"read"`.
    #[serde(default)]
    pub bound: Option<String>,
    #[serde(default)]
    pub fraction_of_bound: Option<f64>,
    #[serde(default)]
    pub error: Option<RowError>,
    /// Sets of inputs that took turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_sets: Option<usize>,
    /// Bytes that runs moved before a set came again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_bytes: Option<u64>,
    /// Why there is no number.
    #[serde(default)]
    pub failure: Option<String>,
}

/// What of a problem decides about its cost.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProblemSize {
    pub op: String,
    pub batch: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub queries: u32,
    pub keys: u32,
    pub head_dim: u32,
    pub value_dim: u32,
    pub dtype: String,
    #[serde(default)]
    pub mask: String,
    #[serde(default)]
    pub weighting: Option<String>,
    /// Keys that a list of top-k attention holds.
    #[serde(default)]
    pub kept: Option<u32>,
}

/// The median of the runs, and the interval that holds the true one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub confidence: f64,
    pub runs: usize,
}

/// Against the float64 reference.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RowError {
    /// RMS of the error over RMS of what is expected.
    pub rms: f64,
}

impl Run {
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let failed = |why: String| Failure::Message(format!("{}: {why}", path.display()));
        let text = fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        Self::parse(&text).map_err(failed)
    }

    /// From its text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let run: Run = serde_json::from_str(text).map_err(|e| format!("not a benchmark's JSON: {e}"))?;
        if run.format != FORMAT {
            return Err(format!("format `{}`; this program reads `{FORMAT}`", run.format));
        }
        let is_time = |s: &Seconds| s.median > 0.0 && s.low >= 0.0 && s.high >= s.low;
        match run.results.iter().find(|row| row.seconds.is_some_and(|s| !is_time(&s))) {
            Some(row) => Err(format!(
                "row `{}`: `seconds` needs a `median` above 0, and a `high` not below `low`",
                row.name
            )),
            None => Ok(run),
        }
    }

    /// Program, version and device, in a line.
    pub fn label(&self) -> String {
        format!(
            "{} {} on {}",
            self.program.name,
            self.program.version,
            self.device.label()
        )
    }
}

impl Device {
    /// Name, back end and driver.
    pub fn label(&self) -> String {
        let parts = [&self.name, &self.backend, &self.driver, &self.driver_info];
        let parts: Vec<_> = parts
            .into_iter()
            .map(String::as_str)
            .filter(|part| !part.is_empty())
            .collect();
        parts.join(", ")
    }
}

impl From<&measure::Ceilings> for Ceilings {
    fn from(c: &measure::Ceilings) -> Self {
        Ceilings {
            copy_bytes_per_second: Some(c.copy_bytes),
            read_bytes_per_second: Some(c.read_bytes),
            f32_flops_per_second: Some(c.f32_flops),
            f16_flops_per_second: c.f16_flops,
            cooperative_flops_per_second: c.cooperative_flops,
            launch_seconds: c.launch_seconds,
            dependent_launch_seconds: c.dependent_launch_seconds,
        }
    }
}

impl From<&Problem> for ProblemSize {
    fn from(p: &Problem) -> Self {
        let ((heads, kv_heads), (queries, keys), (head_dim, value_dim)) = (p.heads(), p.lengths(), p.dims());
        ProblemSize {
            op: p.op().into(),
            batch: p.batch(),
            heads,
            kv_heads,
            queries,
            keys,
            head_dim,
            value_dim,
            dtype: p.dtype().name().into(),
            mask: p.mask(),
            weighting: p.weighting().map(Into::into),
            kept: p.kept(),
        }
    }
}

impl Row {
    /// Operations or bytes a second, as the bound has it.
    pub fn rate(&self) -> Option<f64> {
        let seconds = self.seconds?.median;
        Some(
            if self.is_bound_by_memory() {
                self.bytes
            } else {
                self.flops
            } / seconds,
        )
    }

    pub fn is_bound_by_memory(&self) -> bool {
        matches!(self.bound.as_deref(), Some("copy" | "read"))
    }

    /// What a cache may have held, if less than so many bytes took turns.
    pub fn within_a_cache(&self, rotation_bytes: u64) -> Option<u64> {
        self.rotated_bytes.filter(|bytes| *bytes < rotation_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu_attention::bench::problems::one_query;
    use wgpu_attention::{DType, Dense};

    /// What README says that other programs must write is enough, and is the problem that has this name here.
    #[test]
    fn readmes_file_of_another_program_is_read() {
        let readme = include_str!("../../../../README.md");
        let (_, rest) = readme.split_once("```json\n").expect("an example");
        let (json, _) = rest.split_once("```").expect("its end");
        let run = Run::parse(json).unwrap();
        let p = Dense {
            dtype: DType::F16,
            ..one_query(false, 4096, 128, 8)
        };
        let p = Problem::Dense(p);
        assert_eq!(run.results[0].name, p.name());
        assert_eq!(run.results[0].problem, ProblemSize::from(&p));
    }
}
