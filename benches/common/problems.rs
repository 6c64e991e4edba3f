//! The problems that are measured, by name: one table for all who measure or check them.

use wgpu_attention::{Broadcast, Decay, Dense, Hierarchical, Linear, Scoring, TopK, Weighting};

use super::linear::Choice;
use super::topk::Step;

/// A problem with its name.
pub struct Named {
    /// Its numbers and options, with `/` between them, as criterion's filters see it.
    pub name: String,
    pub problem: Dense,
}

/// Sequence lengths of prefill, and of the cache in decode.
pub const PREFILL_LENGTHS: [u32; 5] = [512, 1024, 2048, 4096, 8192];
pub const DECODE_LENGTHS: [u32; 6] = [512, 1024, 2048, 4096, 8192, 16384];
/// Longer caches, on a GPU only.
pub const LONG_DECODE_LENGTHS: [u32; 2] = [65536, 131072];
/// Sequence lengths of linear attention.
pub const LINEAR_LENGTHS: [u32; 4] = [1024, 4096, 16384, 65536];
/// Lengths of top-k attention.
pub const TOP_K_LENGTHS: [u32; 5] = [4096, 8192, 16384, 32768, 65536];
pub const HEAD_DIMS: [u32; 2] = [64, 128];
pub const WEIGHTINGS: [Weighting; 2] = [Weighting::Softmax, Weighting::Sigmoid { bias: None }];

/// Query heads that share a KV head in decode: plain multi-head, and grouped-query 8:1.
pub const GROUPS: [u32; 2] = [1, 8];

/// Every length, head size, mask and weighting.
pub fn prefill(software: bool) -> Vec<Named> {
    let mut all = vec![];
    for d in HEAD_DIMS {
        for causal in [false, true] {
            for weighting in WEIGHTINGS {
                all.extend(PREFILL_LENGTHS.map(|n| Dense {
                    causal,
                    weighting,
                    ..square(software, n, d)
                }));
            }
        }
    }
    all.into_iter().map(named).collect()
}

/// What the three dispatches are timed on; longer ones hold gigabytes of scores.
pub fn baseline(software: bool) -> Vec<Named> {
    let plain = |n: &Named| {
        let p = &n.problem;
        p.weighting == Weighting::Softmax && p.head_dim == 64 && p.queries <= 2048
    };
    prefill(software).into_iter().filter(plain).collect()
}

/// Every cache length, head size, group and weighting, one query for each head.
pub fn decode(software: bool) -> Vec<Named> {
    let mut all = vec![];
    for d in HEAD_DIMS {
        for group in GROUPS {
            for weighting in WEIGHTINGS {
                let lengths = DECODE_LENGTHS.into_iter().chain(LONG_DECODE_LENGTHS);
                all.extend(lengths.map(|n| Dense {
                    weighting,
                    ..one_query(software, n, d, group)
                }));
            }
        }
    }
    // K of one layer and all its heads in a buffer of at most 2 GiB.
    let fits = |p: &Dense| {
        let elements = u64::from(p.kv_heads()) * u64::from(p.keys) * u64::from(p.head_dim);
        p.keys <= DECODE_LENGTHS[5] || (!software && elements * 4 <= 1 << 31)
    };
    all.into_iter().filter(fits).map(named).collect()
}

/// Linear attention of one decay a head: every length and head size, with few heads and with many.
pub fn linear(software: bool) -> Vec<Linear> {
    let heads: &[(u32, u32)] = if software {
        &[(1, 1), (1, 8)]
    } else {
        &[(1, 1), (1, 16), (4, 32)]
    };
    let mut all = vec![];
    for d in HEAD_DIMS {
        for &(batch, heads) in heads {
            all.extend(LINEAR_LENGTHS.map(|n| Linear {
                batch,
                ..sequence(n, d, heads)
            }));
        }
    }
    let fits = |p: &Linear| {
        let elements = u64::from(p.batch * p.heads) * u64::from(p.tokens) * u64::from(p.head_dim);
        elements <= if software { 1 << 24 } else { 1 << 29 }
    };
    all.into_iter().filter(fits).collect()
}

/// Lightning's linear attention over a sequence.
pub fn sequence(tokens: u32, d: u32, heads: u32) -> Linear {
    Linear {
        heads,
        tokens,
        head_dim: d,
        decay: Decay::Head,
        ..Default::default()
    }
}

/// As many queries as keys, with heads enough to fill the device.
pub fn square(software: bool, n: u32, d: u32) -> Dense {
    Dense {
        heads: if software { 1 } else { 32 },
        queries: n,
        keys: n,
        head_dim: d,
        ..Default::default()
    }
}

/// One step of decoding. On a GPU 32 KV heads, or 8 with a group, which are the sizes of common models.
pub fn one_query(software: bool, keys: u32, d: u32, group: u32) -> Dense {
    let kv_heads = match (software, group) {
        (true, _) => 1,
        (false, 1) => 32,
        (false, _) => 8,
    };
    Dense {
        heads: kv_heads * group,
        kv_heads: Some(kv_heads),
        queries: 1,
        keys,
        head_dim: d,
        causal: true,
        ..Default::default()
    }
}

/// A problem of the same variant, with uneven lengths, that the reference answers at once.
pub fn small(problem: &Dense) -> Dense {
    let group = problem.heads / problem.kv_heads();
    Dense {
        heads: 2 * group,
        kv_heads: Some(2),
        queries: problem.queries.min(150),
        keys: if problem.queries == 1 { 777 } else { 190 },
        window_left: problem.window_left.map(|n| n.min(40)),
        ..problem.clone()
    }
}

pub fn mask_name(p: &Dense) -> String {
    match (p.causal, p.window_left) {
        (false, None) => "full".into(),
        (true, None) => "causal".into(),
        (_, Some(n)) => format!("window {}", n + 1),
    }
}

pub fn weighting_name(p: &Dense) -> &'static str {
    match p.weighting {
        Weighting::Softmax => "softmax",
        Weighting::Sigmoid { .. } => "sigmoid",
    }
}

fn named(problem: Dense) -> Named {
    let p = &problem;
    let (d, weighting) = (p.head_dim, weighting_name(p));
    let name = if p.queries == 1 {
        format!("D{d}/{}:1/{weighting}/Nk{}", p.heads / p.kv_heads(), p.keys)
    } else {
        format!("D{d}/{}/{weighting}/N{}", mask_name(p), p.queries)
    };
    Named { name, problem }
}

/// What a boolean mask lets through.
#[derive(Clone, Copy, Debug)]
pub enum MaskContent {
    /// So many blocks along the diagonal.
    Blocks(u32),
    Everything,
}

impl MaskContent {
    /// `[1, 1, Nq, Nk]`.
    pub fn bytes(self, p: &Dense) -> Vec<u8> {
        let sees = |i: u32, j: u32| match self {
            MaskContent::Blocks(n) => i * n / p.queries == j * n / p.keys,
            MaskContent::Everything => true,
        };
        let rows = (0..p.queries).flat_map(|i| (0..p.keys).map(move |j| u8::from(sees(i, j))));
        rows.collect()
    }
}

/// The problem with a mask that all heads share.
pub fn masked(p: &Dense) -> Dense {
    Dense {
        mask: Some(Broadcast {
            per_batch: false,
            per_head: false,
            per_query: true,
        }),
        ..p.clone()
    }
}

/// What runs, on one side of a ratio.
pub enum Side {
    Attention(Dense),
    /// With a boolean mask of that content, the same for all heads.
    Masked(Dense, MaskContent),
    /// Three dispatches, as people write it first (`benches/baseline`).
    Baseline(Dense),
    /// A plain read of the problem's K and V.
    PlainRead(Dense),
    /// Linear attention in one form or the other.
    Linear(Linear, Choice),
    /// The same, time for each token.
    LinearToken(Linear),
    /// A top-k call, or a step of it.
    TopK(TopK, Step),
    /// Attention over so many tokens selected earlier.
    Reuse(Dense, u32),
    /// The hierarchical search.
    Hierarchical(Hierarchical),
    /// A step of linear attention after so many tokens.
    Step {
        tokens: u32,
    },
}

/// A prompt whose tiles of 64 queries keep 8 blocks of 64 keys, their own among them.
pub fn blocks(software: bool, n: u32, d: u32) -> TopK {
    TopK {
        attention: Dense {
            causal: true,
            ..square(software, n, d)
        },
        top_k: 8,
        block_size: 64,
        query_block: 64,
        scoring: Scoring::Mean,
        diagonal: true,
        ..Default::default()
    }
}

/// A decoding step that keeps so many tokens, shared by the heads of a group.
pub fn tokens(software: bool, keys: u32, d: u32, group: u32, top_k: u32) -> TopK {
    TopK {
        attention: one_query(software, keys, d, group),
        top_k,
        per_kv_head: true,
        ..Default::default()
    }
}

/// A top-k problem with its name.
pub struct NamedTopK {
    pub name: &'static str,
    pub problem: TopK,
}

/// Prompts by blocks, exactly and by tokens, and decoding steps.
pub fn top_k(software: bool) -> Vec<NamedTopK> {
    let longest = if software { 16384 } else { 65536 };
    let mut all = vec![];
    for d in HEAD_DIMS {
        for n in TOP_K_LENGTHS.into_iter().filter(|&n| n <= longest) {
            all.push(("prefill, 8 blocks of 64 by means", blocks(software, n, d)));
        }
    }
    // The scores of all heads at once, as the steps apart take them, must fit a buffer.
    for n in TOP_K_LENGTHS.into_iter().take(if software { 2 } else { 1 }) {
        let p = TopK {
            attention: blocks(software, n, 64).attention,
            top_k: 256,
            ..Default::default()
        };
        all.push(("prefill, 256 tokens", p));
    }
    for (group, n) in GROUPS.into_iter().flat_map(|g| TOP_K_LENGTHS.map(|n| (g, n))) {
        let name = if group == 1 {
            "decode, 1 % of the tokens"
        } else {
            "decode 8:1, 1 % of the tokens"
        };
        all.push((name, tokens(software, n, 128, group, n / 100)));
        let pages = TopK {
            block_size: 16,
            scoring: Scoring::Bound,
            diagonal: true,
            ..tokens(software, n, 128, group, n / 1600)
        };
        let name = if group == 1 {
            "decode, pages of 16 by bounds"
        } else {
            "decode 8:1, pages of 16 by bounds"
        };
        all.push((name, pages));
    }
    all.into_iter()
        .map(|(name, problem)| NamedTopK { name, problem })
        .collect()
}

/// Searches to compare.
pub fn top_k_searches(software: bool) -> Vec<(Hierarchical, TopK)> {
    let lengths: &[u32] = if software {
        &[8192, 32768]
    } else {
        &[8192, 16384, 32768]
    };
    lengths.iter().map(|&n| searches(software, n, 64)).collect()
}

/// The hierarchical search over a prompt, and the exact one for lists as long.
pub fn searches(software: bool, n: u32, d: u32) -> (Hierarchical, TopK) {
    let attention = Dense {
        causal: true,
        ..square(software, n, d)
    };
    let search = Hierarchical {
        attention,
        ..Default::default()
    };
    let exact = TopK {
        attention: search.attention.clone(),
        top_k: search.selection().capacity,
        block_size: search.block_size,
        query_block: search.query_block,
        scoring: Scoring::Mean,
        last: search.window / search.block_size,
        ..Default::default()
    };
    (search, exact)
}

/// A ratio of two times, and how large it may be.
pub struct Ratio {
    pub name: String,
    pub first: Side,
    pub second: Side,
    pub most: f64,
}

/// The ratios that the library promises, each for both head sizes unless it names one.
pub fn ratios(software: bool) -> Vec<Ratio> {
    use Side::{Attention, Baseline, PlainRead};
    let mut all = vec![];
    let mut add = |name: String, first, second, most| {
        all.push(Ratio {
            name,
            first,
            second,
            most,
        })
    };
    let causal = |p: Dense| Dense { causal: true, ..p };
    let sigmoid = |p: Dense| Dense {
        weighting: WEIGHTINGS[1],
        ..p
    };
    for d in HEAD_DIMS {
        let p = square(software, 4096, d);
        let name = format!("causal / full, N = 4096, D = {d}");
        add(name, Attention(causal(p.clone())), Attention(p), 0.58);
    }
    let p = square(software, 4096, 64);
    let blocked = Side::Masked(p.clone(), MaskContent::Blocks(8));
    let name = "block-diagonal boolean mask, 8 blocks / full, N = 4096, D = 64";
    add(name.into(), blocked, Attention(p.clone()), 0.25);
    let all_true = Side::Masked(p.clone(), MaskContent::Everything);
    let name = "boolean mask that hides nothing / no mask, N = 4096, D = 64";
    add(name.into(), all_true, Attention(p), 1.15);
    for d in HEAD_DIMS {
        let p = causal(square(software, 8192, d));
        // The own position and 255 before it.
        let window = Dense {
            window_left: Some(255),
            ..p.clone()
        };
        let name = format!("window 256 / causal, N = 8192, D = {d}");
        add(name, Attention(window), Attention(p), 0.10);
    }
    for d in HEAD_DIMS {
        for p in [square(software, 2048, d), causal(square(software, 2048, d))] {
            let name = format!("sigmoid / softmax, {}, N = 2048, D = {d}", mask_name(&p));
            add(name, Attention(sigmoid(p.clone())), Attention(p), 1.0);
        }
    }
    for p in [square(software, 2048, 64), causal(square(software, 2048, 64))] {
        let name = format!("tiled / three dispatches, {}, N = 2048, D = 64", mask_name(&p));
        add(name, Attention(p.clone()), Baseline(p), 1.0 / 3.0);
    }
    for d in HEAD_DIMS {
        let p = one_query(software, 16384, d, 8);
        let name = format!("decode 8:1 / plain read of K and V, Nk = 16384, D = {d}");
        add(name, Attention(p.clone()), PlainRead(p), 2.5);
    }
    for d in HEAD_DIMS {
        let name = format!("linear, time per token at N = 65536 / at 4096, D = {d}");
        let long = Side::LinearToken(sequence(65536, d, 1));
        add(name, long, Side::LinearToken(sequence(4096, d, 1)), 1.10);
    }
    for d in HEAD_DIMS {
        let dense = causal(square(software, 8192, d));
        let p = sequence(8192, d, dense.heads);
        let name = format!("linear / causal softmax, N = 8192, D = {d}");
        add(name, Side::Linear(p, Choice::Planner), Attention(dense), 1.0 / 6.0);
    }
    let name = "linear, a step after 2^20 tokens / after 10, D = 64".to_string();
    add(name, Side::Step { tokens: 1 << 20 }, Side::Step { tokens: 10 }, 1.10);
    // With D = 128 one pass has two workgroups, as many as a small processor runs at once.
    let p = sequence(16384, 64, 1);
    let name = "linear, three dispatches / one, B·H = 1, N = 16384, D = 64".to_string();
    add(
        name,
        Side::Linear(p.clone(), Choice::Split),
        Side::Linear(p, Choice::Serial),
        1.0,
    );
    let p = sequence(16384, 128, 1);
    let name = "linear, the planner's form / the other, B·H = 1, N = 16384, D = 128".to_string();
    add(
        name,
        Side::Linear(p.clone(), Choice::Planner),
        Side::Linear(p, Choice::Other),
        1.0,
    );
    for d in HEAD_DIMS {
        let p = sequence(if software { 2048 } else { 16384 }, d, 64);
        let name = format!(
            "linear, the planner's form / the other, B·H = 64, N = {}, D = {d}",
            p.tokens
        );
        add(
            name,
            Side::Linear(p.clone(), Choice::Planner),
            Side::Linear(p, Choice::Other),
            1.0,
        );
    }
    for d in HEAD_DIMS {
        let p = blocks(software, 8192, d);
        let name = format!("top-k, 8 blocks of 64 a tile / dense causal, N = 8192, D = {d}");
        add(
            name,
            Side::TopK(p.clone(), Step::Whole),
            Attention(p.attention),
            1.0 / 5.0,
        );
    }
    for d in HEAD_DIMS {
        for group in GROUPS {
            let p = one_query(software, 65536, d, group);
            let name = format!("decode, 1 % of the tokens, selected before / dense, {group}:1, Nk = 65536, D = {d}");
            add(name, Side::Reuse(p.clone(), 655), Attention(p), 1.0 / 10.0);
        }
    }
    for group in GROUPS {
        let p = tokens(software, 65536, 64, group, 2048);
        let name = format!("selecting 2048 of 65536 / scoring them, {group}:1, D = 64");
        add(
            name,
            Side::TopK(p.clone(), Step::Select),
            Side::TopK(p, Step::Score),
            1.0,
        );
    }
    let (search, exact) = searches(software, 32768, 64);
    let name = "hierarchical / exact selection of as many blocks of 2, N = 32768, D = 64".to_string();
    add(
        name,
        Side::Hierarchical(search),
        Side::TopK(exact, Step::Search),
        1.0 / 5.0,
    );
    all
}
