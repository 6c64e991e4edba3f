//! The hierarchical search.

use super::{Run, Step};
use crate::bench::Failure;
use crate::bench::dense::Buffers;
use crate::bench::inputs::{filled, random};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::dense::Dense;
use crate::ops::host::submit_and_read;
use crate::ops::topk::{Hierarchical, HierarchicalInputs, HierarchicalPlan, HierarchicalTensors, TopK, reference};
use crate::tensor::DType;

/// The hierarchical search, with its buffers.
#[derive(Debug)]
pub struct Hip {
    plan: HierarchicalPlan,
    buffers: Buffers,
    lists: wgpu::Buffer,
}

impl Hip {
    /// Plans and checks; a wrong kernel gets no number.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the planner's error, [`Failure::Wrong`].
    pub fn new(gpu: &Gpu, p: &Hierarchical) -> Result<Self, Failure> {
        check(gpu, p)?;
        Ok(Hip {
            plan: p.plan(gpu)?,
            buffers: Buffers::zeroless(gpu, &p.attention)?,
            lists: filled(gpu, p.selection().words(&p.attention), &[0.0], DType::F32)?,
        })
    }

    /// Records a run.
    ///
    /// # Errors
    /// Those of the plan.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) -> Result<()> {
        let attention = self.buffers.tensors();
        let tensors = HierarchicalTensors {
            q: attention.q,
            k: attention.k,
            selection: (&self.lists).into(),
        };
        self.plan.encode_in(pass, &tensors)
    }
}

/// The share of the exact lists' entries that the search finds, over one head of random numbers.
///
/// # Errors
/// As [`Hip::new`].
pub fn recall(gpu: &Gpu, search: &Hierarchical, exact: &TopK) -> Result<f64, Failure> {
    let attention = Dense {
        heads: 1,
        kv_heads: None,
        ..search.attention.clone()
    };
    let search = Hierarchical {
        attention: attention.clone(),
        ..search.clone()
    };
    let exact = TopK {
        attention,
        ..exact.clone()
    };
    let run = Run::new(gpu, &exact)?;
    let hip = Hip::new(gpu, &search)?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    run.record(&mut pass, Step::Search)?;
    hip.record(&mut pass)?;
    drop(pass);
    let buffers = [("found", &hip.lists), ("exact", run.lists())];
    let read = pollster::block_on(submit_and_read(gpu, encoder, &buffers))?;
    let [found, kept] = [0, 1].map(|n| bytemuck::pod_collect_to_vec::<u8, u32>(&read[n]));
    let selections = (search.selection(), exact.selection());
    let recall = reference::recall(&search.attention, (&selections.0, &found), (&selections.1, &kept))?;
    Ok(recall)
}

/// Small whole numbers have exact scores, so that the lists must be the reference's.
fn check(gpu: &Gpu, p: &Hierarchical) -> Result<(), Failure> {
    let small = Hierarchical {
        attention: Dense {
            queries: 300,
            keys: 2000,
            heads: 1,
            kv_heads: None,
            scale: Some(1.0),
            ..p.attention.clone()
        },
        ..p.clone()
    };
    let whole = |seed: u32, n: u32| -> Vec<f32> {
        let count = (n * p.attention.head_dim) as usize;
        random(seed, count).into_iter().map(|x| (x * 4.0).round()).collect()
    };
    let (q, k) = (whole(1, 300), whole(2, 2000));
    let found = small.plan(gpu)?.run_blocking(&HierarchicalInputs { q: &q, k: &k })?;
    let expected = reference::hierarchical(&small, &q, &k)?;
    match found == expected {
        true => Ok(()),
        false => Err(Failure::Wrong("lists".into())),
    }
}
