//! The ratios of times that the library promises.

use wgpu_attention::bench::dense::MaskContent;
use wgpu_attention::bench::linear::Choice;
use wgpu_attention::bench::problems::{
    GROUPS, HEAD_DIMS, WEIGHTINGS, blocks, mask_name, one_query, prefill, searches, sequence, square, tokens,
};
use wgpu_attention::bench::topk::Step;
use wgpu_attention::{Broadcast, DType, Dense, Hierarchical, Linear, TopK, Weighting};

/// What the three dispatches are timed on; longer ones hold gigabytes of scores.
pub fn baseline(software: bool) -> Vec<Dense> {
    let mut all = prefill(software);
    all.retain(|p| {
        let plain = p.weighting == Weighting::Softmax && p.dtype == DType::F32 && p.window_left.is_none();
        plain && p.head_dim == 64 && p.queries <= 2048
    });
    all
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
