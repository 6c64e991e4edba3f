//! The attention of a layer, by each of the library's ops, over a packed projection and padded or packed texts.

use std::fmt;
use std::str::FromStr;

use wgpu_attention::{
    Dense, DensePlan, DenseTensors, FeatureMap, Gpu, Layout, Linear, LinearPlan, LinearTensors, Tensor, TopK, TopKPlan,
    TopKTensors, wgpu,
};

use super::kernels::upload;
use super::{Batch, Config, Packing, Result};

/// What the layers use for attention. The model was trained with the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// Softmax attention over all tokens of a text.
    Dense,
    /// Softmax attention of each token and head over so many tokens of its text, those of the greatest scores.
    TopK(u32),
    /// Linear attention with the feature map elu + 1 ("Transformers are RNNs", Katharopoulos et al., 2020).
    Linear,
}

impl FromStr for Mechanism {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let k = |text: &str| text.strip_prefix("topk:")?.parse().ok().filter(|k| *k > 0);
        match (text, k(text)) {
            ("dense", _) => Ok(Mechanism::Dense),
            ("linear", _) => Ok(Mechanism::Linear),
            (_, Some(k)) => Ok(Mechanism::TopK(k)),
            _ => Err("allowed: dense, linear, or topk:K with K tokens for each query, 1 or more, e.g. topk:32".into()),
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mechanism::Dense => f.write_str("dense"),
            Mechanism::TopK(k) => write!(f, "topk:{k}"),
            Mechanism::Linear => f.write_str("linear"),
        }
    }
}

/// A plan for all layers and batches of one shape, with the lengths of the texts.
#[derive(Debug)]
pub struct Attention {
    plan: Plan,
    /// `kv_len`, or `cu_seqlens`.
    lengths: wgpu::Buffer,
    packing: Packing,
    /// Bytes of q in a row of the projection, and of k, and of v.
    third: u64,
}

#[derive(Debug)]
enum Plan {
    Dense(DensePlan),
    TopK(Box<TopKPlan>),
    Linear(LinearPlan),
}

impl Attention {
    /// Plans the mechanism for the model's heads and the batch's texts.
    ///
    /// # Errors
    /// Those of the plan: a limit of the device that the batch exceeds.
    pub fn plan(gpu: &Gpu, mechanism: Mechanism, config: &Config, batch: &Batch) -> Result<Self> {
        let plan = match mechanism {
            Mechanism::Dense => Plan::Dense(dense(config, batch).plan(gpu)?),
            Mechanism::TopK(k) => Plan::TopK(Box::new(top_k(k, config, batch).plan(gpu)?)),
            Mechanism::Linear => Plan::Linear(linear(config, batch).plan(gpu)?),
        };
        let lengths = match (mechanism, batch.packing()) {
            (Mechanism::Dense | Mechanism::TopK(_), Packing::Padded) => batch.lengths().to_vec(),
            (Mechanism::Linear, _) | (_, Packing::Packed) => documents(batch),
        };
        Ok(Attention {
            plan,
            lengths: upload(gpu, "lengths", bytemuck::cast_slice(&lengths))?,
            packing: batch.packing(),
            third: u64::from(config.hidden) * 4,
        })
    }

    /// Records one layer's attention: from the projection `[rows, 3·hidden]` to the heads' outputs `[rows, hidden]`.
    ///
    /// # Errors
    /// None, with buffers of these sizes.
    pub fn encode_in(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        qkv: &wgpu::Buffer,
        o: &wgpu::Buffer,
    ) -> wgpu_attention::Result<()> {
        let (q, k, v) = (
            Tensor::at(qkv, 0),
            Tensor::at(qkv, self.third),
            Tensor::at(qkv, 2 * self.third),
        );
        let lengths = Some(Tensor::from(&self.lengths));
        let dense = match self.packing {
            Packing::Padded => DenseTensors {
                kv_len: lengths,
                ..DenseTensors::new(q, k, v, o)
            },
            Packing::Packed => DenseTensors {
                cu_seqlens_q: lengths,
                cu_seqlens_k: lengths,
                ..DenseTensors::new(q, k, v, o)
            },
        };
        match &self.plan {
            Plan::Dense(plan) => plan.encode_in(pass, &dense),
            Plan::TopK(plan) => plan.encode_in(pass, &TopKTensors::new(dense)),
            Plan::Linear(plan) => {
                let tensors = LinearTensors {
                    cu_seqlens: lengths,
                    ..LinearTensors::new(q, k, v, o)
                };
                plan.encode_in(pass, &tensors)
            }
        }
    }
}

fn dense(config: &Config, batch: &Batch) -> Dense {
    let (entries, rows) = match batch.packing() {
        Packing::Padded => (batch.texts(), batch.longest()),
        Packing::Packed => (1, batch.rows()),
    };
    let projection = Layout::packed(rows, 3 * config.hidden, config.head_dim());
    Dense {
        batch: entries,
        heads: config.heads,
        queries: rows,
        keys: rows,
        head_dim: config.head_dim(),
        kv_len: batch.packing() == Packing::Padded,
        documents: (batch.packing() == Packing::Packed).then_some(batch.texts()),
        q_layout: projection,
        k_layout: projection,
        v_layout: projection,
        o_layout: Layout::Bnhd,
        ..Default::default()
    }
}

fn top_k(k: u32, config: &Config, batch: &Batch) -> TopK {
    TopK {
        attention: dense(config, batch),
        top_k: k,
        ..Default::default()
    }
}

/// Linear attention knows documents only; padding makes documents of its own, whose outputs nobody reads.
fn linear(config: &Config, batch: &Batch) -> Linear {
    let rows = batch.rows();
    let projection = Layout::packed(rows, 3 * config.hidden, config.head_dim());
    Linear {
        heads: config.heads,
        tokens: rows,
        head_dim: config.head_dim(),
        causal: false,
        feature_map: FeatureMap::Elu1,
        normalize: Some(1e-6),
        documents: Some(documents(batch).len() as u32 - 1),
        q_layout: projection,
        k_layout: projection,
        v_layout: projection,
        o_layout: Layout::Bnhd,
        ..Default::default()
    }
}

/// `cu_seqlens`: where each text begins and, where it is padded, where its padding does; then the number of rows.
fn documents(batch: &Batch) -> Vec<u32> {
    let ends = |[start, n]: [u32; 2]| match batch.packing() {
        Packing::Padded => vec![start, start + n],
        Packing::Packed => vec![start],
    };
    batch.spans().into_iter().flat_map(ends).chain([batch.rows()]).collect()
}
