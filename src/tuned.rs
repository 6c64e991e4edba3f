//! Tiles that were measured on a device, in a file: what `wgpu-attention tune` writes and a plan can be given.
//!
//! ```no_run
//! use wgpu_attention::tuned::Tuned;
//! # use wgpu_attention::{Dense, DensePlan, Gpu, Result};
//! # fn f(gpu: &Gpu, problem: &Dense) -> Result<DensePlan> {
//! let tuned = Tuned::load("tuned.json")?;
//! tuned.check(gpu)?;
//! // The tile that was fastest on the nearest problem measured; the planner's own where there is none.
//! problem.plan_with(gpu, &tuned.dense(gpu, problem))
//! # }
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::dense::tile::{KernelChoice, Tuning};
use crate::ops::dense::{Dense, cooperative};

/// What the first field of a file says.
const FORMAT: &str = "wgpu-attention-tuned/1";

/// Tiles that were measured on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    format: String,
    /// Name of the adapter.
    pub adapter: String,
    /// Its back end and driver.
    pub driver: String,
    /// The fastest tile of each dense problem that was measured.
    pub dense: Vec<TunedDense>,
}

/// The fastest tile of a dense problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedDense {
    /// Nq.
    pub queries: u32,
    /// Nk.
    pub keys: u32,
    /// D.
    pub head_dim: u32,
    /// Dv.
    pub value_dim: u32,
    /// Query heads of a KV head.
    pub group: u32,
    /// Storage type, by its name.
    pub dtype: String,
    /// The kernel and its tile.
    pub kernel: KernelChoice,
    /// Seconds that it took.
    pub seconds: f64,
    /// Seconds that the planner's own choice took.
    pub planner_seconds: f64,
}

/// Queries up to which a problem is decode, whose tiles say nothing about prefill.
const DECODE_QUERIES: u32 = 16;

impl TunedDense {
    /// The kernel that was fastest on a problem.
    pub fn new(problem: &Dense, kernel: KernelChoice, seconds: f64, planner_seconds: f64) -> Self {
        TunedDense {
            queries: problem.queries,
            keys: problem.keys,
            head_dim: problem.head_dim,
            value_dim: problem.value_dim(),
            group: problem.heads / problem.kv_heads(),
            dtype: problem.dtype.to_string(),
            kernel,
            seconds,
            planner_seconds,
        }
    }

    /// How far a problem is from the one measured, in powers of two; `None` where its tile cannot be compared.
    fn distance(&self, problem: &Dense) -> Option<f64> {
        let decode = |queries: u32| queries <= DECODE_QUERIES;
        let alike = self.head_dim == problem.head_dim
            && self.value_dim == problem.value_dim()
            && self.dtype == problem.dtype.to_string()
            && decode(self.queries) == decode(problem.queries)
            && (!decode(self.queries) || self.group == problem.heads / problem.kv_heads());
        let apart = |a: u32, b: u32| (f64::from(a) / f64::from(b)).log2().abs();
        alike.then(|| apart(self.keys, problem.keys) + apart(self.queries, problem.queries))
    }
}

impl Tuned {
    /// For a device, with nothing measured yet.
    pub fn new(gpu: &Gpu) -> Self {
        Tuned {
            format: FORMAT.into(),
            adapter: gpu.info().name.clone(),
            driver: driver(gpu),
            dense: vec![],
        }
    }

    /// From a file.
    ///
    /// # Errors
    /// [`Error::Case`] if it cannot be read or is something else.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let wrong = |message: String| Error::Case {
            file: path.display().to_string(),
            message,
        };
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        let tuned: Tuned = serde_json::from_str(&text).map_err(|e| wrong(format!("no file of measured tiles: {e}")))?;
        match tuned.format == FORMAT {
            true => Ok(tuned),
            false => Err(wrong(format!(
                "its format is `{}`; this version reads `{FORMAT}`",
                tuned.format
            ))),
        }
    }

    /// Into a file.
    ///
    /// # Errors
    /// [`Error::Case`] if it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let wrong = |message: String| Error::Case {
            file: path.display().to_string(),
            message,
        };
        let text = serde_json::to_string_pretty(self).map_err(|e| wrong(e.to_string()))?;
        std::fs::write(path, text + "\n").map_err(|e| wrong(e.to_string()))
    }

    /// Whether it was measured on this adapter with this driver.
    ///
    /// # Errors
    /// [`Error::Invalid`] with both, if not: tiles from elsewhere run, but may be slower than the planner's own.
    pub fn check(&self, gpu: &Gpu) -> Result<()> {
        let (adapter, driver) = (&gpu.info().name, driver(gpu));
        if (&self.adapter, &self.driver) == (adapter, &driver) {
            return Ok(());
        }
        Err(Error::Invalid {
            field: "tuned",
            value: format!("from {}, {}", self.adapter, self.driver),
            allowed: format!("measurements of this device, {adapter}, {driver}"),
        })
    }

    /// What a plan of the problem is to be given: the tile of the nearest problem of the same head sizes, storage type and
    /// kind that was measured; nothing where there is none, or where a tile could not serve (a `selection`, a tier that is
    /// forced, matrices that the problem does not allow).
    pub fn dense(&self, gpu: &Gpu, problem: &Dense) -> Tuning {
        let serves = |kernel: &KernelChoice| match kernel {
            KernelChoice::Cooperative(_) => gpu.abilities().matrices.is_some() && cooperative::precise_enough(problem),
            _ => true,
        };
        if problem.selection.is_some() || gpu.forced_tier().is_some() {
            return Tuning::default();
        }
        let candidates = self.dense.iter().filter(|t| serves(&t.kernel));
        let nearest = candidates
            .filter_map(|t| Some((t.distance(problem)?, t.kernel)))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        Tuning {
            kernel: nearest.map(|(_, kernel)| kernel),
            ..Tuning::default()
        }
    }
}

fn driver(gpu: &Gpu) -> String {
    let info = gpu.info();
    format!("{:?}, {} {}", info.backend, info.driver, info.driver_info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dense::variant::SerialTile;
    use crate::tensor::DType;

    fn entry(queries: u32, keys: u32, rows: u32) -> TunedDense {
        let problem = Dense {
            queries,
            keys,
            ..Dense::default()
        };
        TunedDense::new(
            &problem,
            KernelChoice::DecodeSerial(SerialTile { rows, threads: 8 }),
            1.0,
            2.0,
        )
    }

    #[test]
    fn the_nearest_problem_of_the_same_kind_counts() {
        let entries = [entry(1, 1000, 1), entry(1, 16000, 2), entry(500, 3000, 4)];
        let nearest = |p: &Dense| {
            let distances = entries.iter().filter_map(|e| Some((e.distance(p)?, e.keys)));
            distances.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, keys)| keys)
        };
        let p = |queries, keys| Dense {
            queries,
            keys,
            ..Dense::default()
        };
        assert_eq!(nearest(&p(1, 3000)), Some(1000));
        assert_eq!(nearest(&p(1, 5000)), Some(16000));
        assert_eq!(nearest(&p(300, 1000)), Some(3000));
        let other = Dense {
            dtype: DType::F16,
            ..p(1, 1000)
        };
        assert_eq!(nearest(&other), None);
        let grouped = Dense {
            heads: 8,
            kv_heads: Some(1),
            ..p(1, 1000)
        };
        assert_eq!(nearest(&grouped), None);
    }

    #[test]
    fn files_come_back_as_they_were_and_others_are_refused() {
        let folder = std::env::temp_dir().join(format!("wgpu-attention-tuned-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("tuned.json");
        let tuned = Tuned {
            format: FORMAT.into(),
            adapter: "a".into(),
            driver: "d".into(),
            dense: vec![entry(1, 1000, 1)],
        };
        tuned.save(&path).unwrap();
        assert_eq!(Tuned::load(&path).unwrap(), tuned);
        for (text, part) in [("{}", "missing field"), ("no json", "expected")] {
            std::fs::write(&path, text).unwrap();
            let error = Tuned::load(&path).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("tuned.json"), "{error}");
        }
        let other = Tuned {
            format: "wgpu-attention-tuned/9".into(),
            ..tuned
        };
        other.save(&path).unwrap();
        assert!(Tuned::load(&path).unwrap_err().to_string().contains(FORMAT));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(Tuned::load(&path).is_err());
    }
}
