//! Random top-k problems over the whole option space, against the float64 reference.
//!
//! Each takes up to four pipelines, so that a drawn set of options serves several sizes and masks.
//! `WGPU_ATTENTION_PROBLEMS` (default 300) and `WGPU_ATTENTION_SEED` change the draw. A problem that fails is written to
//! a case file, which `wgpu-attention run` replays.

mod common;

use common::topk::{self, Given};
use common::{Random, draw, property};
use wgpu_attention::case::{Case, Op};
use wgpu_attention::dense::tile::Tuning;
use wgpu_attention::topk::score::tile::ScoreTile;
use wgpu_attention::topk::{TopKTuning, reference};
use wgpu_attention::{DType, Dense, Error, Gpu, Scoring, TopK};

/// Problems that share a set of options, hence most pipelines.
const SIZES_AN_OPTION_SET: u32 = 15;

/// What pipelines depend on.
fn draw_options(r: &mut Random) -> TopK {
    let attention = draw::options(r);
    let scoring = r.pick(&[Scoring::Keys, Scoring::Keys, Scoring::Mean, Scoring::Bound]);
    let block_size = match scoring {
        Scoring::Keys => r.pick(&[1, 1, 1, 5, 16, 64]),
        Scoring::Mean | Scoring::Bound => r.pick(&[1, 4, 5, 16, 64, 200]),
    };
    TopK {
        query_block: r.pick(&[1, 1, 3, 8, 64, 1 << 28]),
        per_kv_head: r.one_in(2),
        diagonal: r.one_in(3),
        pooled: scoring != Scoring::Keys && r.one_in(2),
        keep: true,
        attention,
        block_size,
        scoring,
        ..TopK::default()
    }
}

/// What they do not depend on, or seldom.
fn draw_sizes(options: &TopK, edges: (u32, u32), r: &mut Random) -> TopK {
    let attention = draw::sizes(&options.attention, edges, r);
    let mut p = TopK {
        attention,
        first: if r.one_in(4) { r.below(4) } else { 0 },
        last: if r.one_in(4) { r.below(4) } else { 0 },
        room: if r.one_in(4) { r.below(9) } else { 0 },
        ..options.clone()
    };
    let entries = p.selection().entries(&p.attention);
    p.pooled_room = (p.pooled && r.one_in(3)).then(|| entries + r.below(4));
    p.top_k = match r.below(8) {
        0 => 1,
        1 => entries,
        2 => entries + 1 + r.below(9),
        _ => 1 + r.below(entries.div_ceil(3).max(2)),
    };
    p.top_k = p.top_k.max(least(&p));
    p
}

/// The smallest k that holds what is kept whatever its score: the rule's own word for it.
fn least(p: &TopK) -> u32 {
    let one = TopK { top_k: 1, ..p.clone() };
    let inputs = wgpu_attention::TopKInputs::default();
    let fits = |top_k: u32| {
        let result = inputs.check(&TopK { top_k, ..one.clone() });
        !matches!(result, Err(Error::Invalid { field: "top_k", .. }))
    };
    (1..).find(|&k| fits(k)).unwrap()
}

fn draw_tuning(gpu: &Gpu, r: &mut Random) -> (Tuning, Option<usize>, Option<u64>) {
    let gather = if !r.one_in(4) {
        draw::tuning(gpu, r)
    } else {
        Tuning::default()
    };
    let score = r.pick(&[None, Some(0), Some(1), Some(2)]);
    (gather, score, r.one_in(2).then(|| r.pick(&[1, 4096, 65536])))
}

/// The scoring kernel drawn, where it can serve the problem.
fn score_tile(p: &TopK, drawn: Option<usize>) -> Option<ScoreTile> {
    match drawn? {
        n @ 0..=1 => Some(ScoreTile::Tiled(topk::TILED[n])),
        _ => topk::serial(p),
    }
}

/// A failing problem as a file, with how to see it fail again.
fn write_case(name: &str, p: &TopK, given: &Given) -> String {
    let case = given.with_twins(&p.attention, |inputs, hooks| {
        let expected = reference::top_k(p, inputs, hooks).unwrap();
        Case::topk(name, "the float64 reference", p, inputs, &expected)
    });
    match case {
        Ok(case) => property::write(name, &case),
        Err(error) => format!("no case file: {error}"),
    }
}

/// One problem; what went wrong with it, if anything.
fn attempt(gpu: &Gpu, name: &str, p: &TopK, given: &Given, tuning: &TopKTuning) -> Result<(), String> {
    let what = match topk::run(gpu, p, given, tuning) {
        Ok(output) => {
            let result = topk::judge(p, given, &output);
            if result.passed() {
                return Ok(());
            }
            result.to_string()
        }
        Err(error) => error.to_string(),
    };
    let replay = write_case(name, p, given);
    Err(format!("{name}: {what}\n  {replay}\n  {tuning:?}\n  {p:?}"))
}

fn share(number: u64, of: u64) {
    property::share(number, of, |gpu, name, r| {
        let (gather, score, score_bytes) = draw_tuning(gpu, r);
        let options = draw_options(r);
        let one = |size| {
            let p = draw_sizes(&options, draw::edges(&gather), r);
            let given = Given::of(&p, draw::inputs(&p.attention, r));
            // Not every tile's rows share a list of every problem.
            let gather = match p.plan_with(gpu, &topk::gathered_by(gather)) {
                Err(Error::Invalid {
                    field: "tuning.kernel", ..
                }) => Tuning::default(),
                _ => Tuning {
                    splits: r.one_in(3).then(|| r.pick(&[1, 2, 3])),
                    ..gather
                },
            };
            let tuning = TopKTuning {
                gather,
                score: score_tile(&p, score),
                select: None,
                score_bytes,
            };
            attempt(gpu, &format!("topk-property-{name}-{size}"), &p, &given, &tuning)
        };
        (0..SIZES_AN_OPTION_SET).map(one).collect()
    });
}

#[test]
fn random_problems_first_half() {
    share(0, 2);
}

#[test]
fn random_problems_second_half() {
    share(1, 2);
}

#[test]
fn a_failure_is_written_and_fails_again_when_replayed() {
    let Some(gpu) = common::gpu() else { return };
    let attention = Dense {
        heads: 2,
        queries: 5,
        keys: 9,
        head_dim: 4,
        dtype: DType::F16,
        causal: true,
        lse: true,
        ..Dense::default()
    };
    let p = TopK {
        attention,
        top_k: 3,
        keep: true,
        ..TopK::default()
    };
    let given = Given::random(&p, &mut Random::new(3));
    let message = write_case("topk-replayed", &p, &given);
    let path = message.strip_prefix("replay: wgpu-attention run ").unwrap();
    let mut case = Case::load(path).unwrap();
    std::fs::remove_file(path).unwrap();
    let Op::TopK(known) = &mut case.op else {
        panic!("not top-k")
    };
    assert_eq!(known.problem, p);
    let output = p.plan(&gpu).unwrap().run_blocking(&known.inputs()).unwrap();
    let tolerance = common::tolerance(&p.attention);
    assert!(known.compare(&output, &tolerance).unwrap().passed());
    known.expected_o[7] += 1.0;
    let result = known.compare(&output, &tolerance).unwrap();
    assert!(!result.passed(), "{result}");
    assert_eq!(result.o.worst.map(|e| e.index), Some(7));
}
