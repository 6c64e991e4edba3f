//! The problems that are measured, by name: one table for all who measure or check them.
//!
//! `software` is whether the device is a processor that emulates a GPU; there are fewer heads and shorter texts then.

use crate::ops::dense::{Dense, Weighting};
use crate::ops::linear::{Decay, Linear};
use crate::ops::topk::{Hierarchical, Scoring, TopK};
use crate::tensor::DType;

/// Sequence lengths of prefill.
pub const PREFILL_LENGTHS: [u32; 7] = [512, 1024, 2048, 4096, 8192, 16384, 32768];
/// Lengths of the cache in decode.
pub const DECODE_LENGTHS: [u32; 9] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072];
/// Sequence lengths of linear attention.
pub const LINEAR_LENGTHS: [u32; 4] = [1024, 4096, 16384, 65536];
/// Lengths of top-k attention.
pub const TOP_K_LENGTHS: [u32; 5] = [4096, 8192, 16384, 32768, 65536];
/// Head sizes.
pub const HEAD_DIMS: [u32; 2] = [64, 128];
/// Storage types.
pub const DTYPES: [DType; 2] = [DType::F32, DType::F16];
/// Weightings.
pub const WEIGHTINGS: [Weighting; 2] = [Weighting::Softmax, Weighting::Sigmoid { bias: None }];
/// Query heads that share a KV head in decode: plain multi-head, and grouped-query 8:1.
pub const GROUPS: [u32; 2] = [1, 8];

/// Keys of the sliding window, the query's own among them.
const WINDOW: u32 = 256;

/// Lengths that a software GPU is measured at, at most.
const SOFTWARE_PREFILL: u32 = 8192;
const SOFTWARE_DECODE: u32 = 16384;

/// Bytes of a problem's q, k, v and o together, at most: two sets of them fit the memory of most GPUs.
const MOST_BYTES: f64 = 3e9;

/// Every storage type, head size, mask, weighting and length.
pub fn prefill(software: bool) -> Vec<Dense> {
    let mut all = vec![];
    for (dtype, d) in DTYPES.into_iter().flat_map(|t| HEAD_DIMS.map(|d| (t, d))) {
        let masks = [(false, None), (true, None), (true, Some(WINDOW - 1))];
        for ((causal, window_left), weighting) in masks.into_iter().flat_map(|m| WEIGHTINGS.map(|w| (m, w))) {
            all.extend(PREFILL_LENGTHS.map(|n| Dense {
                dtype,
                causal,
                window_left,
                weighting,
                ..square(software, n, d)
            }));
        }
    }
    all.retain(|p| !software || p.queries <= SOFTWARE_PREFILL);
    all
}

/// Every storage type, cache length, head size, group and weighting, one query for each head; the longest caches and
/// grouped queries for a batch too.
pub fn decode(software: bool) -> Vec<Dense> {
    let mut all = vec![];
    for (dtype, d) in DTYPES.into_iter().flat_map(|t| HEAD_DIMS.map(|d| (t, d))) {
        for (group, batch) in [(GROUPS[0], 1), (GROUPS[1], 1), (GROUPS[1], 8)] {
            for weighting in WEIGHTINGS {
                all.extend(DECODE_LENGTHS.map(|n| Dense {
                    batch,
                    dtype,
                    weighting,
                    ..one_query(software, n, d, group)
                }));
            }
        }
    }
    let fits = |p: &Dense| match software {
        true => p.keys <= SOFTWARE_DECODE && p.batch == 1,
        false => super::dense::stored_bytes(p) <= MOST_BYTES,
    };
    all.retain(fits);
    all
}

/// Linear attention of one decay a head: every storage type, length and head size, with few heads and with many.
pub fn linear(software: bool) -> Vec<Linear> {
    let heads: &[(u32, u32)] = if software {
        &[(1, 1), (1, 8)]
    } else {
        &[(1, 1), (1, 16), (4, 32)]
    };
    let mut all = vec![];
    for (dtype, d) in DTYPES.into_iter().flat_map(|t| HEAD_DIMS.map(|d| (t, d))) {
        for &(batch, heads) in heads {
            all.extend(LINEAR_LENGTHS.map(|n| Linear {
                batch,
                dtype,
                ..sequence(n, d, heads)
            }));
        }
    }
    let fits = |p: &Linear| {
        let elements = u64::from(p.batch * p.heads) * u64::from(p.tokens) * u64::from(p.head_dim);
        elements <= if software { 1 << 24 } else { 1 << 29 }
    };
    all.retain(fits);
    all
}

/// Steps of decoding with linear attention, the state updated in place.
pub fn linear_steps() -> Vec<Linear> {
    let mut all = vec![];
    for d in HEAD_DIMS {
        for batch in [1, 8] {
            all.extend([Decay::Head, Decay::Channel].map(|decay| Linear {
                batch,
                decay,
                ..step(d, 16)
            }));
        }
    }
    all
}

/// One token more, the state updated in place.
pub fn step(d: u32, heads: u32) -> Linear {
    Linear {
        initial_state: true,
        final_state: true,
        in_place: true,
        ..sequence(1, d, heads)
    }
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

/// `"full"`, `"causal"` or `"window 256"`.
pub fn mask_name(p: &Dense) -> String {
    match (p.causal, p.window_left) {
        (false, None) => "full".into(),
        (true, None) => "causal".into(),
        (_, Some(n)) => format!("window {}", n + 1),
    }
}

/// `"softmax"` or `"sigmoid"`.
pub fn weighting_name(p: &Dense) -> &'static str {
    match p.weighting {
        Weighting::Softmax => "softmax",
        Weighting::Sigmoid { .. } => "sigmoid",
    }
}

/// Options and numbers, with `/` between them, as criterion's filters see them. Of prefill the number of heads, which is
/// that of [`square`], is no part of the name.
///
/// ```
/// use wgpu_attention::Dense;
/// use wgpu_attention::bench::problems::{dense_name, one_query};
///
/// let prefill = Dense { heads: 32, queries: 512, keys: 512, head_dim: 128, causal: true, ..Default::default() };
/// assert_eq!(dense_name(&prefill), "D128/causal/f32/softmax/N512");
/// assert_eq!(dense_name(&Dense { batch: 4, keys: 600, ..prefill }), "D128/causal/f32/softmax/N512/Nk600/B4");
/// assert_eq!(dense_name(&one_query(false, 4096, 64, 8)), "D64/64:8/f32/softmax/Nk4096");
/// ```
pub fn dense_name(p: &Dense) -> String {
    let (d, dtype, weighting) = (dims(p.head_dim, p.value_dim()), p.dtype, weighting_name(p));
    let batch = batch(p.batch);
    let (nq, nk) = (p.queries, p.keys);
    if nq == 1 {
        // The one query sees all keys, causal or not.
        let mask = p.window_left.map_or(String::new(), |_| format!("{}/", mask_name(p)));
        return format!(
            "D{d}/{}:{}/{mask}{dtype}/{weighting}/Nk{nk}{batch}",
            p.heads,
            p.kv_heads()
        );
    }
    let keys = if nq == nk { String::new() } else { format!("/Nk{nk}") };
    format!("D{d}/{}/{dtype}/{weighting}/N{nq}{keys}{batch}", mask_name(p))
}

/// As [`dense_name`].
pub fn linear_name(p: &Linear) -> String {
    let decay = match p.decay {
        Decay::None => "no decay",
        Decay::Head => "decay of a head",
        Decay::Token => "decay of a token",
        Decay::Channel => "decay of a channel",
    };
    let (d, tokens) = (dims(p.head_dim, p.value_dim()), p.tokens);
    let heads = match p.heads == p.kv_heads() {
        true => p.heads.to_string(),
        false => format!("{}:{}", p.heads, p.kv_heads()),
    };
    let mask = if p.causal { "" } else { "full/" };
    format!("D{d}/{mask}{decay}/{}/N{tokens}/B{}H{heads}", p.dtype, p.batch)
}

/// As [`dense_name`], and what is kept; blocks by their means, unless it says otherwise.
pub fn top_k_name(p: &TopK) -> String {
    let kept = match (p.block_size, p.scoring) {
        (1, _) => format!("top {}", p.top_k),
        (size, Scoring::Bound) => format!("top {} of {size} by bounds", p.top_k),
        (size, _) => format!("top {} of {size}", p.top_k),
    };
    format!("{}/{kept}", dense_name(&p.attention))
}

fn dims(d: u32, dv: u32) -> String {
    if d == dv { d.to_string() } else { format!("{d}x{dv}") }
}

fn batch(n: u32) -> String {
    if n == 1 { String::new() } else { format!("/B{n}") }
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
#[derive(Clone, Debug)]
pub struct NamedTopK {
    /// What is kept, in words.
    pub name: &'static str,
    /// The problem.
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
    // A software GPU's compiler takes long for the rows of a group at D = 128: 20 seconds for a kernel.
    let d = if software { 64 } else { 128 };
    for (group, n) in GROUPS.into_iter().flat_map(|g| TOP_K_LENGTHS.map(|n| (g, n))) {
        let name = if group == 1 {
            "decode, 1 % of the tokens"
        } else {
            "decode 8:1, 1 % of the tokens"
        };
        all.push((name, tokens(software, n, d, group, n / 100)));
        let pages = TopK {
            block_size: 16,
            scoring: Scoring::Bound,
            diagonal: true,
            ..tokens(software, n, d, group, n / 1600)
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
