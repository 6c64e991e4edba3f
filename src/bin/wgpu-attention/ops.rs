//! The ops that a case may hold, behind one face: what a command needs to plan, run, time and judge any of them.

use serde_json::{Value, json};
use wgpu_attention::case::{Case, DenseCase, LinearCase, Op, TopKCase};
use wgpu_attention::compare::{self, Comparison, Tolerance};
use wgpu_attention::dense::host::DenseBuffers;
use wgpu_attention::linear::host::LinearBuffers;
use wgpu_attention::linear::{FeatureMap, LinearPlan};
use wgpu_attention::measure::{self, Effort, Times};
use wgpu_attention::topk::host::TopKBuffers;
use wgpu_attention::{
    Decay, Dense, DenseInputs, DenseOutput, DensePlan, Error, Gpu, Linear, LinearInputs, LinearOutput, Tier, TopK,
    TopKInputs, TopKOutput, TopKPlan, Weighting,
};

/// The problem in a case.
#[derive(Clone, Copy)]
pub enum Problem<'a> {
    Dense(&'a DenseCase),
    Linear(&'a LinearCase),
    TopK(&'a TopKCase),
}

/// A problem that was planned.
pub enum Planned<'a> {
    Dense(&'a DenseCase, DensePlan),
    Linear(&'a LinearCase, LinearPlan),
    TopK(&'a TopKCase, Box<TopKPlan>),
}

/// What a run gave.
pub struct Solution {
    /// Each output: name, shape, values.
    pub outputs: Vec<(&'static str, Vec<usize>, Vec<f32>)>,
    pub errors: Errors,
}

/// The comparison of every output with what was expected, o first.
pub struct Errors(pub Vec<Comparison>);

impl<'a> Problem<'a> {
    /// The problem in a case, or why there is none that can run.
    pub fn of(case: &'a Case) -> Result<Self, String> {
        match &case.op {
            Op::Dense(dense) => Ok(Problem::Dense(dense)),
            Op::Linear(linear) => Ok(Problem::Linear(linear)),
            Op::TopK(topk) => Ok(Problem::TopK(topk)),
            _ => Err("an op that this program does not know".into()),
        }
    }

    pub fn plan(self, gpu: &Gpu) -> Result<Planned<'a>, Error> {
        Ok(match self {
            Problem::Dense(case) => Planned::Dense(case, case.problem.plan(gpu)?),
            Problem::Linear(case) => Planned::Linear(case, case.problem.plan(gpu)?),
            Problem::TopK(case) => Planned::TopK(case, Box::new(case.problem.plan(gpu)?)),
        })
    }

    /// Shape and type in one line.
    pub fn describe(self) -> String {
        match self {
            Problem::Dense(case) => describe_dense(&case.problem),
            Problem::Linear(case) => describe_linear(&case.problem),
            Problem::TopK(case) => describe_top_k(&case.problem),
        }
    }
}

impl Planned<'_> {
    pub fn label(&self) -> String {
        match self {
            Planned::Dense(_, plan) => plan.label().into(),
            Planned::Linear(_, plan) => plan.label().into(),
            Planned::TopK(_, plan) => plan.label(),
        }
    }

    pub fn tier(&self) -> Tier {
        match self {
            Planned::Dense(_, plan) => plan.tier(),
            Planned::Linear(_, plan) => plan.tier(),
            Planned::TopK(_, plan) => plan.tier(),
        }
    }

    /// How the work is divided, for people; nothing where there is nothing to say.
    pub fn division(&self) -> Option<String> {
        match self {
            Planned::Dense(_, plan) if plan.splits() > 1 => Some(format!("keys in {} shares, merged", plan.splits())),
            Planned::TopK(_, plan) if plan.parts() > 1 => Some(format!("{} parts", plan.parts())),
            Planned::Linear(_, plan) if plan.dispatches() > 1 => Some(format!("{} dispatches", plan.dispatches())),
            _ => None,
        }
    }

    /// The same for programs.
    pub fn division_json(&self) -> Value {
        match self {
            Planned::Dense(_, plan) => json!({ "splits": plan.splits(), "dispatches": plan.parts() }),
            Planned::Linear(_, plan) => json!({ "dispatches": plan.dispatches() }),
            Planned::TopK(_, plan) => json!({ "splits": plan.splits(), "parts": plan.parts() }),
        }
    }

    /// Runs, and judges what comes out.
    pub fn run(&self, tolerance: &Tolerance) -> Result<Solution, Error> {
        Ok(match self {
            Planned::Dense(case, plan) => {
                let output = plan.run_blocking(&case.inputs())?;
                let errors = compare::dense(&output, &case.expected(), tolerance);
                Solution {
                    outputs: dense_outputs(&case.problem, output),
                    errors: Errors(std::iter::once(errors.o).chain(errors.lse).collect()),
                }
            }
            Planned::Linear(case, plan) => {
                let output = plan.run_blocking(&case.inputs())?;
                let errors = case.compare(&output, tolerance).all().cloned().collect();
                Solution {
                    outputs: linear_outputs(&case.problem, output),
                    errors: Errors(errors),
                }
            }
            Planned::TopK(case, plan) => {
                let output = plan.run_blocking(&case.inputs())?;
                let errors = case.compare(&output, tolerance)?.all().cloned().collect();
                Solution {
                    outputs: top_k_outputs(&case.problem, output),
                    errors: Errors(errors),
                }
            }
        })
    }

    /// Times the kernels alone: inputs are on the device, outputs stay there.
    pub fn time(&self, gpu: &Gpu) -> Result<Times, Error> {
        match self {
            Planned::Dense(case, plan) => time_dense(gpu, plan, &case.inputs()),
            Planned::Linear(case, plan) => time_linear(gpu, plan, &case.inputs()),
            Planned::TopK(case, plan) => time_top_k(gpu, plan, &case.inputs()),
        }
    }
}

fn time_dense(gpu: &Gpu, plan: &DensePlan, inputs: &DenseInputs<'_>) -> Result<Times, Error> {
    let buffers = DenseBuffers::upload(gpu, plan.problem(), inputs)?;
    measure::time(gpu, &Effort::default(), |pass, _| {
        buffers.with_tensors(|tensors| plan.encode_in(pass, tensors))
    })
}

fn time_linear(gpu: &Gpu, plan: &LinearPlan, inputs: &LinearInputs<'_>) -> Result<Times, Error> {
    let buffers = LinearBuffers::upload(gpu, plan.problem(), inputs)?;
    measure::time(gpu, &Effort::default(), |pass, _| {
        plan.encode_in(pass, &buffers.tensors())
    })
}

fn time_top_k(gpu: &Gpu, plan: &TopKPlan, inputs: &TopKInputs<'_>) -> Result<Times, Error> {
    let buffers = TopKBuffers::upload(gpu, plan.problem(), inputs)?;
    measure::time(gpu, &Effort::default(), |pass, _| {
        buffers.with_tensors(|tensors| plan.encode_in(pass, tensors))
    })
}

impl Errors {
    /// Of the output itself.
    pub fn o(&self) -> Option<&Comparison> {
        self.0.first()
    }

    pub fn passed(&self) -> bool {
        self.0.iter().all(Comparison::passed)
    }

    pub fn to_json(&self) -> Value {
        let one = |c: &Comparison| {
            json!({
                "rms": c.rms, "rms_bound": c.rms_bound, "max": c.max, "max_bound": c.max_bound, "passed": c.passed(),
            })
        };
        self.0.iter().map(|c| (c.name.to_string(), one(c))).collect()
    }
}

impl std::fmt::Display for Errors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, comparison) in self.0.iter().enumerate() {
            write!(f, "{}{comparison}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

fn sizes<const R: usize>(dims: [u32; R]) -> Vec<usize> {
    dims.iter().map(|&n| n as usize).collect()
}

fn dense_outputs(p: &Dense, output: DenseOutput<f32>) -> Vec<(&'static str, Vec<usize>, Vec<f32>)> {
    let o = ("o", sizes([p.batch, p.heads, p.queries, p.value_dim()]), output.o);
    let lse = output.lse.map(|lse| ("lse", sizes([p.batch, p.heads, p.queries]), lse));
    std::iter::once(o).chain(lse).collect()
}

/// o and lse; the lists are judged, not kept.
fn top_k_outputs(p: &TopK, output: TopKOutput<f32>) -> Vec<(&'static str, Vec<usize>, Vec<f32>)> {
    let (o, lse) = (output.o, output.lse);
    dense_outputs(&p.attention, DenseOutput { o, lse })
}

/// S and z of the final state apart, as in a case file.
fn linear_outputs(p: &Linear, output: LinearOutput<f32>) -> Vec<(&'static str, Vec<usize>, Vec<f32>)> {
    let (s, h, d, dv) = (p.sequences(), p.heads, p.head_dim, p.value_dim());
    let mut outputs = vec![("o", sizes([p.batch, h, p.tokens, dv]), output.o)];
    if let Some(states) = output.final_state {
        let heads = states.chunks(p.head_state_len() as usize);
        let (state, z): (Vec<_>, Vec<_>) = heads.map(|head| head.split_at((d * dv) as usize)).unzip();
        outputs.push(("final_state", sizes([s, h, d, dv]), state.concat()));
        if p.normalize.is_some() {
            outputs.push(("final_normalizer", sizes([s, h, d]), z.concat()));
        }
    }
    if let Some(total) = output.total_decay {
        let shape = match p.decay {
            Decay::Channel => sizes([s, h, d]),
            _ => sizes([s, h]),
        };
        outputs.push(("total_decay", shape, total));
    }
    outputs
}

fn describe_dense(p: &Dense) -> String {
    let weighting = match p.weighting {
        Weighting::Softmax => "softmax",
        Weighting::Sigmoid { .. } => "sigmoid",
    };
    format!(
        "{}, queries {}, keys {}, {}, {}, {weighting}",
        describe_heads(p.batch, p.heads, p.kv_heads()),
        p.queries,
        p.keys,
        describe_dims(p.head_dim, p.value_dim()),
        p.dtype
    )
}

fn describe_linear(p: &Linear) -> String {
    let mut text = format!(
        "{}, tokens {}, {}, {}, linear",
        describe_heads(p.batch, p.heads, p.kv_heads()),
        p.tokens,
        describe_dims(p.head_dim, p.value_dim()),
        p.dtype
    );
    text += match p.decay {
        Decay::None => "",
        Decay::Head => ", decay by head",
        Decay::Token => ", decay by token",
        Decay::Channel => ", decay by channel",
    };
    text += match p.feature_map {
        FeatureMap::Identity => "",
        FeatureMap::Silu => ", silu",
        FeatureMap::Relu => ", relu",
        FeatureMap::Elu1 => ", elu + 1",
        FeatureMap::Custom(_) => ", custom features",
    };
    let marks = [
        (p.normalize.is_some(), ", normalised"),
        (!p.causal, ", not causal"),
        (p.state_only, ", what the state adds"),
    ];
    text.extend(marks.iter().filter(|(there, _)| *there).map(|(_, mark)| *mark));
    text
}

fn describe_top_k(p: &TopK) -> String {
    let entries = match p.block_size {
        1 => "keys".into(),
        size => format!("blocks of {size} keys"),
    };
    format!("{}, top {} {entries}", describe_dense(&p.attention), p.top_k)
}

fn describe_heads(batch: u32, heads: u32, kv_heads: u32) -> String {
    match heads == kv_heads {
        true => format!("batch {batch}, heads {heads}"),
        false => format!("batch {batch}, heads {heads} on {kv_heads} of keys and values"),
    }
}

fn describe_dims(head_dim: u32, value_dim: u32) -> String {
    match head_dim == value_dim {
        true => format!("head dim {head_dim}"),
        false => format!("head dim {head_dim} (values {value_dim})"),
    }
}
