//! What the subgroup tier is held against the portable one on: a few problems of every suite.

use wgpu_attention::{DType, Dense, Linear};

use super::linear::Choice;
use super::problems::{GROUPS, HEAD_DIMS, WEIGHTINGS, blocks, one_query, sequence, square, tokens, weighting_name};
use super::ratios::Side;
use super::topk::Step;

/// Prefill, decode, linear and top-k, each for both head sizes.
pub fn suite(software: bool) -> Vec<(String, Side)> {
    let mut all = vec![];
    let (short, long) = if software { (512, 4096) } else { (2048, 65536) };
    for d in HEAD_DIMS {
        for dtype in [DType::F32, DType::F16] {
            for weighting in WEIGHTINGS {
                let p = Dense {
                    causal: true,
                    weighting,
                    dtype,
                    ..square(software, short, d)
                };
                let name = format!("prefill, causal, {}, N = {short}, D = {d}, {dtype}", weighting_name(&p));
                all.push((name, Side::Attention(p)));
            }
            for (group, keys) in GROUPS.into_iter().flat_map(|g| [(g, long / 16), (g, long)]) {
                let p = Dense {
                    dtype,
                    ..one_query(software, keys, d, group)
                };
                let name = format!("decode {group}:1, Nk = {keys}, D = {d}, {dtype}");
                all.push((name, Side::Attention(p)));
            }
        }
        let p = Linear {
            dtype: DType::F16,
            ..sequence(long, d, 8)
        };
        all.push((
            format!("linear, N = {long}, D = {d}, f16"),
            Side::Linear(p, Choice::Planner),
        ));
    }
    let many = blocks(software, if software { 4096 } else { 16384 }, 64);
    let n = many.attention.queries;
    all.push((
        format!("top-k, selecting 8 of {} blocks", n / 64),
        Side::TopK(many, Step::Select),
    ));
    for (columns, top_k) in [(long / 16, long / 160), (long, 2048)] {
        let p = tokens(software, columns, 64, 1, top_k);
        all.push((
            format!("top-k, selecting {top_k} of {columns}"),
            Side::TopK(p, Step::Select),
        ));
    }
    all
}
