//! What the benches of top-k attention share: its steps as runs of their own, checked first.
#![allow(dead_code)]

use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::dense::reference::Hooks;
use wgpu_attention::dense::tile::Tuning;
use wgpu_attention::topk::{TopKTuning, reference};
use wgpu_attention::{
    DType, Dense, DenseInputs, DensePlan, Gpu, Hierarchical, HierarchicalInputs, HierarchicalPlan, HierarchicalTensors,
    PoolPlan, PoolTensors, ScorePlan, ScoreTensors, SelectPlan, SelectTensors, Selection, TopK, TopKInputs, TopKPlan,
    TopKTensors,
};

use super::{Buffers, Inputs, filled, problems, random};

/// What of a top-k call is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All of it, in the plan's own way.
    Whole,
    /// What stands for blocks.
    Pool,
    /// The scores alone.
    Score,
    /// The selecting alone, from scores made before.
    Select,
    /// The attention alone, over a selection made before.
    Gather,
    /// Pool, score and select: a search.
    Search,
}

/// A top-k call taken apart, with its buffers.
pub struct Run {
    problem: TopK,
    buffers: Buffers,
    pooled: Option<wgpu::Buffer>,
    scores: wgpu::Buffer,
    lists: wgpu::Buffer,
    whole: TopKPlan,
    pool: Option<PoolPlan>,
    score: ScorePlan,
    select: SelectPlan,
    gather: DensePlan,
}

impl Run {
    /// Plans and checks; a wrong kernel gets no number.
    pub fn new(gpu: &Gpu, problem: &TopK) -> Result<Self, String> {
        let p = problem;
        let text = |e: wgpu_attention::Error| e.to_string();
        let whole = p.plan(gpu).map_err(text)?;
        check(gpu, p, &whole)?;
        let pool = p.pool();
        let given = TopK {
            pooled: pool.is_some(),
            ..p.clone()
        };
        let words = |dims: [u32; 4]| dims.iter().map(|&d| u64::from(d)).product::<u64>();
        let buffer = |elements: u64| filled(gpu, elements, &random(9, 1 << 10), DType::F32);
        let run = Run {
            buffers: Buffers::zeroless(gpu, &p.attention),
            pooled: pool.as_ref().map(|pool| buffer(words(pool.dims()))),
            scores: buffer(words(p.score_dims())),
            lists: buffer(p.selection().words(&p.attention)),
            whole,
            pool: pool.map(|pool| pool.plan(gpu)).transpose().map_err(text)?,
            score: given.plan_scores(gpu).map_err(text)?,
            select: p.select().plan(gpu).map_err(text)?,
            gather: Dense {
                selection: Some(p.selection()),
                ..p.attention.clone()
            }
            .plan(gpu)
            .map_err(text)?,
            problem: p.clone(),
        };
        // Real scores and lists for the steps that begin with them.
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        run.record(&mut pass, Step::Search).map_err(text)?;
        drop(pass);
        gpu.queue().submit([encoder.finish()]);
        Ok(run)
    }

    /// The kernels, by their labels.
    pub fn label(&self) -> String {
        self.whole.label()
    }

    /// Parts of the whole call.
    pub fn parts(&self) -> usize {
        self.whole.parts()
    }

    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, step: Step) -> wgpu_attention::Result<()> {
        let attention = self.buffers.tensors();
        let pooled = self.pooled.as_ref().map(Into::into);
        match step {
            Step::Whole => self.whole.encode_in(pass, &TopKTensors::new(attention)),
            Step::Pool => match (&self.pool, &self.pooled) {
                (Some(pool), Some(pooled)) => {
                    let tensors = PoolTensors {
                        k: attention.k,
                        kv_len: None,
                        pooled: pooled.into(),
                    };
                    pool.encode_in(pass, &tensors)
                }
                _ => Ok(()),
            },
            Step::Score => {
                let tensors = ScoreTensors {
                    k: self.pool.is_none().then_some(attention.k),
                    pooled,
                    ..ScoreTensors::new(attention.q, &self.scores)
                };
                self.score.encode_in(pass, &tensors)
            }
            Step::Select => {
                let tensors = SelectTensors {
                    scores: (&self.scores).into(),
                    lists: (&self.lists).into(),
                };
                self.select.encode_in(pass, &tensors)
            }
            Step::Gather => {
                let tensors = wgpu_attention::DenseTensors {
                    selection: Some((&self.lists).into()),
                    ..attention
                };
                self.gather.encode_in(pass, &tensors)
            }
            Step::Search => {
                self.record(pass, Step::Pool)?;
                self.record(pass, Step::Score)?;
                self.record(pass, Step::Select)
            }
        }
    }
}

/// Whether the kernels give the right answer on a small problem of the same kind.
fn check(gpu: &Gpu, p: &TopK, plan: &TopKPlan) -> Result<(), String> {
    let small = TopK {
        attention: problems::small(&p.attention),
        keep: true,
        ..p.clone()
    };
    let tuning = TopKTuning {
        gather: Tuning {
            kernel: Some(plan.kernel()),
            splits: Some(plan.splits()),
            live: None,
        },
        ..Default::default()
    };
    let inputs = Inputs::random(&small.attention);
    let inputs = TopKInputs {
        attention: inputs.host(),
        pooled: None,
    };
    let planned = small.plan_with(gpu, &tuning).map_err(|e| e.to_string())?;
    let output = planned.run_blocking(&inputs).map_err(|e| e.to_string())?;
    let tolerance = Tolerance::for_dtype(small.attention.dtype);
    let result = compare::topk(&small, &inputs, &Hooks::default(), &output, &tolerance).map_err(|e| e.to_string())?;
    match result.passed() {
        true => Ok(()),
        false => Err(format!("WRONG {result}")),
    }
}

/// Attention over a selection of so many tokens, evenly strewn: one made earlier and used again.
pub struct Reuse {
    plan: DensePlan,
    buffers: Buffers,
    lists: wgpu::Buffer,
}

impl Reuse {
    pub fn new(gpu: &Gpu, attention: &Dense, tokens: u32) -> Result<Self, String> {
        let problem = reused(attention, tokens);
        let selection = problem.selection.ok_or("a selection")?;
        let lists = strewn(&problem, &selection, tokens);
        let plan = problem.plan(gpu).map_err(|e| e.to_string())?;

        let small = reused(&problems::small(attention), 40);
        let small_selection = small.selection.ok_or("a selection")?;
        let small_lists = strewn(&small, &small_selection, 40);
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
        let planned = small.plan_with(gpu, &tuning).map_err(|e| e.to_string())?;
        let output = planned.run_blocking(&inputs).map_err(|e| e.to_string())?;
        let expected = wgpu_attention::dense::reference::dense(&small, &inputs, &Hooks::default());
        let expected = expected.map_err(|e| e.to_string())?;
        let result = compare::dense(&output, &expected, &Tolerance::for_dtype(small.dtype));
        if !result.passed() {
            return Err(format!("WRONG {result}"));
        }
        Ok(Reuse {
            plan,
            buffers: Buffers::zeroless(gpu, attention),
            lists: uploaded(gpu, &lists),
        })
    }

    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) -> wgpu_attention::Result<()> {
        let tensors = wgpu_attention::DenseTensors {
            selection: Some((&self.lists).into()),
            ..self.buffers.tensors()
        };
        self.plan.encode_in(pass, &tensors)
    }
}

fn reused(attention: &Dense, tokens: u32) -> Dense {
    let selection = Selection {
        block_size: 1,
        query_block: 1,
        per_kv_head: true,
        capacity: tokens,
    };
    Dense {
        selection: Some(selection),
        ..attention.clone()
    }
}

/// Lists of `tokens` different keys each.
fn strewn(p: &Dense, selection: &Selection, tokens: u32) -> Vec<u32> {
    let lists = selection.words(p) / u64::from(1 + tokens);
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

fn uploaded(gpu: &Gpu, words: &[u32]) -> wgpu::Buffer {
    let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("bench lists"),
        size: words.len() as u64 * 4,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    gpu.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(words));
    buffer
}

/// The hierarchical search, with its buffers.
pub struct Hip {
    plan: HierarchicalPlan,
    buffers: Buffers,
    lists: wgpu::Buffer,
}

impl Hip {
    pub fn new(gpu: &Gpu, p: &Hierarchical) -> Result<Self, String> {
        check_hierarchical(gpu, p)?;
        Ok(Hip {
            plan: p.plan(gpu).map_err(|e| e.to_string())?,
            buffers: Buffers::zeroless(gpu, &p.attention),
            lists: filled(gpu, p.selection().words(&p.attention), &[0.0], DType::F32),
        })
    }

    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) -> wgpu_attention::Result<()> {
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
pub fn recall(gpu: &Gpu, search: &Hierarchical, exact: &TopK) -> Result<f64, String> {
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
    run.record(&mut pass, Step::Search).map_err(|e| e.to_string())?;
    hip.record(&mut pass).map_err(|e| e.to_string())?;
    drop(pass);
    let lists = read(gpu, encoder, &[&hip.lists, &run.lists]);
    let [found, exact_lists] = <[Vec<u32>; 2]>::try_from(lists).map_err(|_| "two buffers")?;
    let selections = (search.selection(), exact.selection());
    reference::recall(
        &search.attention,
        (&selections.0, &found),
        (&selections.1, &exact_lists),
    )
    .map_err(|e| e.to_string())
}

/// Submits, and brings buffers back.
fn read(gpu: &Gpu, mut encoder: wgpu::CommandEncoder, buffers: &[&wgpu::Buffer]) -> Vec<Vec<u32>> {
    let staged: Vec<_> = buffers
        .iter()
        .map(|buffer| {
            let staging = gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("bench read back"),
                size: buffer.size(),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
            staging
        })
        .collect();
    gpu.queue().submit([encoder.finish()]);
    let contents = |staging: &wgpu::Buffer| {
        staging.map_async(wgpu::MapMode::Read, .., |_| {});
        gpu.device()
            .poll(wgpu::PollType::wait_indefinitely())
            .expect("the device");
        let range = staging.get_mapped_range(..).expect("mapped");
        bytemuck::pod_collect_to_vec(&range)
    };
    staged.iter().map(contents).collect()
}

/// Small whole numbers have exact scores, so that the lists must be the reference's.
fn check_hierarchical(gpu: &Gpu, p: &Hierarchical) -> Result<(), String> {
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
    let plan = small.plan(gpu).map_err(|e| e.to_string())?;
    let found = plan
        .run_blocking(&HierarchicalInputs { q: &q, k: &k })
        .map_err(|e| e.to_string())?;
    let expected = reference::hierarchical(&small, &q, &k).map_err(|e| e.to_string())?;
    match found == expected {
        true => Ok(()),
        false => Err("WRONG lists".into()),
    }
}
