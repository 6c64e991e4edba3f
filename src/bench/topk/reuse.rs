//! Attention over lists made earlier.

use crate::bench::Failure;
use crate::bench::dense::{Buffers, Inputs};
use crate::bench::problems;
use crate::compare::{self, Tolerance};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::dense::reference::{Hooks, dense};
use crate::ops::dense::tile::Tuning;
use crate::ops::dense::{Dense, DenseInputs, DensePlan, DenseTensors};
use crate::ops::host::upload;
use crate::ops::selection::Selection;

/// Attention over a selection of so many tokens, evenly strewn: one made earlier and used again.
#[derive(Debug)]
pub struct Reuse {
    plan: DensePlan,
    buffers: Buffers,
    lists: wgpu::Buffer,
}

impl Reuse {
    /// Plans and checks; a wrong kernel gets no number.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the planner's error, [`Failure::Wrong`].
    pub fn new(gpu: &Gpu, attention: &Dense, tokens: u32) -> Result<Self, Failure> {
        let problem = reused(attention, tokens);
        let lists = strewn(attention, tokens);
        let plan = problem.plan(gpu)?;

        let small = reused(&problems::small(attention), 40);
        let small_lists = strewn(&small, 40);
        let tuning = Tuning {
            kernel: Some(plan.kernel()),
            splits: Some(plan.splits().min(5)),
            live: None,
        };
        let inputs = Inputs::random(&small);
        let inputs = DenseInputs {
            selection: Some(&small_lists),
            ..inputs.host()
        };
        let output = small.plan_with(gpu, &tuning)?.run_blocking(&inputs)?;
        let expected = dense(&small, &inputs, &Hooks::default())?;
        let result = compare::dense(&output, &expected, &Tolerance::for_dtype(small.dtype));
        if !result.passed() {
            return Err(Failure::Wrong(result.to_string()));
        }
        Ok(Reuse {
            plan,
            buffers: Buffers::zeroless(gpu, attention)?,
            lists: upload(gpu, "bench lists", bytemuck::cast_slice(&lists))?,
        })
    }

    /// Records a run.
    ///
    /// # Errors
    /// Those of the plan.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) -> Result<()> {
        let tensors = DenseTensors {
            selection: Some((&self.lists).into()),
            ..self.buffers.tensors()
        };
        self.plan.encode_in(pass, &tensors)
    }
}

fn selection(tokens: u32) -> Selection {
    Selection {
        block_size: 1,
        query_block: 1,
        per_kv_head: true,
        capacity: tokens,
    }
}

fn reused(attention: &Dense, tokens: u32) -> Dense {
    Dense {
        selection: Some(selection(tokens)),
        ..attention.clone()
    }
}

/// Lists of `tokens` different keys each.
fn strewn(p: &Dense, tokens: u32) -> Vec<u32> {
    let lists = selection(tokens).words(p) / u64::from(1 + tokens);
    let one = |n: u64| {
        let entry = move |e: u32| {
            let (from, to) = (u64::from(e) * u64::from(p.keys), u64::from(e + 1) * u64::from(p.keys));
            let (from, to) = (from / u64::from(tokens), to / u64::from(tokens));
            (from + (n * 7919 + u64::from(e) * 104_729) % (to - from)) as u32
        };
        std::iter::once(tokens).chain((0..tokens).map(entry))
    };
    (0..lists).flat_map(one).collect()
}
