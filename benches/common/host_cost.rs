//! What planning and encoding cost the processor, once the pipelines are there.

use std::time::Instant;

use wgpu_attention::{Dense, Gpu, Layout, Result};

/// Keys that the cache has room for. A decoding loop plans anew with each key that joins.
const CAPACITY: u32 = 4096;

/// Steps recorded into one encoder: their resources go when it does.
const STEPS: u32 = 64;

/// Seconds of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// `problem.plan(&gpu)`, a problem whose number of keys was not seen before.
    pub plan: f64,
    /// `plan.encode(…)` or `plan.encode_in(…)`, the plan's first.
    pub encode: f64,
    /// `plan.encode(…)` or `plan.encode_in(…)` again.
    pub again: f64,
    /// A call's share of `encoder.finish()`, where wgpu does what it put off.
    pub finish: f64,
}

impl Step {
    /// All that a first call costs.
    pub fn sum(&self) -> f64 {
        self.plan + self.encode + self.finish
    }
}

/// A decoding loop without its device: problems with one key more each time, over one cache.
pub struct Loop<'a> {
    gpu: &'a Gpu,
    problem: Dense,
    buffers: super::Buffers,
    /// Into a compute pass that is there already, instead of one for each call.
    pub in_pass: bool,
    step: u32,
}

impl<'a> Loop<'a> {
    /// Grouped-query attention, 8:1, which is split and merged: two dispatches a call.
    /// A first round compiles the pipelines.
    pub fn new(gpu: &'a Gpu, in_pass: bool) -> Result<Self> {
        let d = 128;
        let cache = Layout::packed(CAPACITY, d, d);
        let problem = Dense {
            heads: 8,
            kv_heads: Some(1),
            keys: CAPACITY,
            head_dim: d,
            causal: true,
            k_layout: cache,
            v_layout: cache,
            ..Default::default()
        };
        let mut steps = Loop {
            gpu,
            buffers: super::Buffers::zeroless(gpu, &problem)?,
            problem,
            in_pass,
            step: 0,
        };
        steps.run(1)?;
        Ok(steps)
    }

    /// At least so many steps, timed one by one. Nothing is submitted.
    pub fn run(&mut self, steps: usize) -> Result<Vec<Step>> {
        let mut all = Vec::with_capacity(steps + STEPS as usize);
        while all.len() < steps {
            self.encoder(&mut all)?;
        }
        Ok(all)
    }

    fn encoder(&mut self, all: &mut Vec<Step>) -> Result<()> {
        let device = self.gpu.device();
        let tensors = self.buffers.tensors();
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut shared = self
            .in_pass
            .then(|| encoder.begin_compute_pass(&Default::default()).forget_lifetime());
        for _ in 0..STEPS {
            // Long enough to be split throughout, so that the pipelines stay the same.
            self.problem.keys = CAPACITY / 2 + self.step % (CAPACITY / 2);
            self.step += 1;
            let start = Instant::now();
            let plan = self.problem.plan(self.gpu)?;
            let planned = start.elapsed().as_secs_f64();
            let mut encode = || {
                let start = Instant::now();
                match &mut shared {
                    Some(pass) => plan.encode_in(pass, &tensors)?,
                    None => plan.encode(&mut encoder, &tensors)?,
                }
                Ok(start.elapsed().as_secs_f64())
            };
            all.push(Step {
                plan: planned,
                encode: encode()?,
                again: encode()?,
                finish: 0.0,
            });
        }
        drop(shared);
        let start = Instant::now();
        let commands = encoder.finish();
        let finish = start.elapsed().as_secs_f64() / f64::from(2 * STEPS);
        all.iter_mut()
            .rev()
            .take(STEPS as usize)
            .for_each(|s| s.finish = finish);
        // Nothing is to run; an empty submission lets go of what the parameters left behind.
        drop(commands);
        self.gpu.queue().submit([]);
        let _ = device.poll(wgpu::PollType::wait_indefinitely());
        Ok(())
    }
}

/// The medians of plan, encode, finish, their sum, and another encode, in microseconds.
pub fn medians(steps: &[Step]) -> [f64; 5] {
    let median = |of: fn(&Step) -> f64| {
        let mut values: Vec<f64> = steps.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2] * 1e6
    };
    [
        median(|s| s.plan),
        median(|s| s.encode),
        median(|s| s.finish),
        median(Step::sum),
        median(|s| s.again),
    ]
}
