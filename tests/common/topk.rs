//! What the tests of the top-k op share: inputs, the blocks that stand for keys, and one checked run.

use wgpu_attention::compare::{self, TopKComparison};
use wgpu_attention::dense::tile::Tuning;
use wgpu_attention::topk::reference;
use wgpu_attention::topk::score::tile::{ScoreTile, SerialScoreTile, TiledTile};
use wgpu_attention::topk::{TopKTuning, score};
use wgpu_attention::{Dense, Gpu, Result, Scoring, TopK, TopKInputs, TopKOutput};

use super::{Inputs, Random, class, draw};

/// A problem's inputs on the host.
#[derive(Clone, Debug)]
pub struct Given {
    pub attention: Inputs,
    pub pooled: Option<Vec<f32>>,
}

impl Given {
    /// The attention's inputs, and what stands for blocks where the problem is given it: worked out from its keys.
    pub fn of(p: &TopK, attention: Inputs) -> Self {
        let pooled = p.pooled.then(|| pooled(p, &attention));
        Given { attention, pooled }
    }

    /// Random ones.
    pub fn random(p: &TopK, r: &mut Random) -> Self {
        Given::of(p, Inputs::random(&p.attention, r))
    }

    /// Borrows them as `run` takes them.
    pub fn with<R>(&self, f: impl FnOnce(&TopKInputs<'_>) -> R) -> R {
        self.attention.with(|attention| {
            f(&TopKInputs {
                attention: *attention,
                pooled: self.pooled.as_deref(),
            })
        })
    }

    /// The same with the twins of the problem's custom code.
    pub fn with_twins<R>(
        &self,
        p: &Dense,
        f: impl FnOnce(&TopKInputs<'_>, &wgpu_attention::dense::reference::Hooks<'_>) -> R,
    ) -> R {
        draw::with_twins(p, &self.attention, |hooks| self.with(|inputs| f(inputs, hooks)))
    }
}

/// What stands for each block, with NaN for those that lie behind the keys or `kv_len`.
fn pooled(p: &TopK, attention: &Inputs) -> Vec<f32> {
    let (pool, tensors) = (p.pool().expect("blocks are scored"), &attention.tensors);
    let blocks = reference::pool(&pool, &tensors.k, tensors.kv_len.as_deref()).unwrap();
    let mut blocks: Vec<f32> = blocks.iter().map(|&x| x as f32).collect();
    let room = pool.dims()[2] as usize;
    let words = blocks.len() / (pool.batch * pool.kv_heads) as usize / room;
    for (n, block) in blocks.chunks_exact_mut(words).enumerate() {
        let batch = n / room / pool.kv_heads as usize;
        let keys = tensors
            .kv_len
            .as_ref()
            .map_or(p.attention.keys as usize, |len| len[batch] as usize);
        if n % room * p.block_size as usize >= keys {
            block.fill(f32::NAN);
        }
    }
    blocks
}

/// Plans, runs and brings back.
pub fn run(gpu: &Gpu, p: &TopK, given: &Given, tuning: &TopKTuning) -> Result<TopKOutput<f32>> {
    let plan = p.plan_with(gpu, tuning)?;
    given.with(|inputs| plan.run_blocking(inputs))
}

/// Compares with the reference.
pub fn judge(p: &TopK, given: &Given, output: &TopKOutput<f32>) -> TopKComparison {
    given.with_twins(&p.attention, |inputs, hooks| {
        compare::topk(p, inputs, hooks, output, &super::tolerance(&p.attention)).unwrap()
    })
}

/// Runs and compares, asserting that it passes; the selection is kept, whatever the problem says.
pub fn check_on(name: &str, gpu: &Gpu, p: &TopK, given: &Given, tuning: &TopKTuning) {
    let p = TopK {
        keep: true,
        ..p.clone()
    };
    let output = run(gpu, &p, given, tuning).unwrap_or_else(|error| panic!("{name}: {error}\n{p:?}"));
    let result = judge(&p, given, &output);
    println!("{name}: {result}");
    assert!(result.passed(), "{name}: {result}\n{p:?}\n{tuning:?}");
}

/// As [`check_on`], on random inputs.
pub fn check(name: &str, gpu: &Gpu, p: &TopK, tuning: &TopKTuning) {
    let given = Given {
        attention: draw::inputs(&p.attention, &mut Random::new(7)),
        pooled: None,
    };
    check_on(name, gpu, p, &Given::of(p, given.attention), tuning);
}

/// Tiles that tests force: they compile fast, and short sequences meet all their edges.
pub const TILED: [TiledTile; 2] = [
    TiledTile {
        row_groups: 4,
        row_regs: 2,
        lanes: 2,
        key_regs: 4,
        chunk: 2,
        unroll: 1,
    },
    TiledTile {
        row_groups: 2,
        row_regs: 1,
        lanes: 4,
        key_regs: 8,
        chunk: 3,
        unroll: 1,
    },
];

/// A small serial tile for a problem, where one can serve it.
pub fn serial(p: &TopK) -> Option<ScoreTile> {
    let group = p.attention.heads / p.attention.kv_heads();
    let of_list = p.query_block.min(p.attention.queries) * if p.per_kv_head { group } else { 1 };
    let vecs = p.attention.head_dim.div_ceil(4) * if p.scoring == Scoring::Bound { 2 } else { 1 };
    let rows = of_list.max(2);
    (rows * vecs <= 128).then_some(ScoreTile::Serial(SerialScoreTile { rows, threads: 8 }))
}

/// The tiles that can score a problem: the planner's, small ones of the tiled kernel, and the serial one.
pub fn tiles(gpu: &Gpu, p: &TopK) -> Vec<ScoreTile> {
    let mut tiles = vec![score::tile::choose(p, &class(gpu)).unwrap()];
    tiles.extend(TILED.map(ScoreTile::Tiled));
    tiles.extend(serial(p));
    tiles
}

/// A kernel for the scoring.
pub fn scored_by(score: ScoreTile) -> TopKTuning {
    TopKTuning {
        score: Some(score),
        ..TopKTuning::default()
    }
}

/// A kernel for the gather.
pub fn gathered_by(gather: Tuning) -> TopKTuning {
    TopKTuning {
        gather,
        ..TopKTuning::default()
    }
}
