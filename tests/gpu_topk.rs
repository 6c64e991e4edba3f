//! Top-k attention on a device: golden cases, options and sizes one by one, views, ties.

mod common;

use common::packed::{Packed, read};
use common::topk::{self, Given};
use common::{Inputs, Random, draw, golden, gpu, gpu_with};
use wgpu_attention::case::{Case, Op};
use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::topk::host::TopKBuffers;
use wgpu_attention::topk::{TopKTuning, reference};
use wgpu_attention::{
    Bias, Broadcast, Custom, DType, Dense, DenseTensors, Error, Gpu, Layout, Scoring, Tensor, TopK, TopKOutput,
    TopKTensors, Weighting,
};

/// Scores of the fewest rows there may be in a part, so that calls have as many parts as there can be.
const IN_PARTS: TopKTuning = TopKTuning {
    gather: wgpu_attention::dense::tile::Tuning {
        kernel: None,
        splits: None,
        live: None,
    },
    score: None,
    select: None,
    score_bytes: Some(1),
};

/// Runs every golden case.
fn run_golden(gpu: &Gpu, tuning: &TopKTuning) {
    let files = golden("topk");
    let (mut ran, mut unsupported, mut failed) = (0, 0, vec![]);
    for path in &files {
        let case = Case::load(path).unwrap();
        let Op::TopK(known) = &case.op else {
            panic!("{} is not top-k", path.display())
        };
        let result = known
            .problem
            .plan_with(gpu, tuning)
            .and_then(|plan| Ok((plan.label(), plan.parts(), plan.run_blocking(&known.inputs())?)));
        match result {
            Ok((label, parts, output)) => {
                let result = known.compare(&output, &Tolerance::for_dtype(case.dtype)).unwrap();
                println!("{:24} {result}  [{label}, {parts} parts]", case.name);
                ran += 1;
                if !result.passed() {
                    failed.push(format!("{}: {result}", case.name));
                }
            }
            Err(error @ (Error::Unsupported { .. } | Error::Limit { .. })) => {
                println!("{:24} unsupported: {error}", case.name);
                unsupported += 1;
                if !common::on_unsupported_list(gpu, &case.name) {
                    failed.push(format!("{}: {error}, and not on tests/unsupported.txt", case.name));
                }
            }
            Err(error) => failed.push(format!("{}: {error}", case.name)),
        }
    }
    println!("{}: {ran} ran, {unsupported} unsupported", common::describe(gpu));
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(ran + unsupported, files.len());
    assert_eq!(files.len(), 10);
}

#[test]
fn golden_cases() {
    let Some(gpu) = gpu() else { return };
    run_golden(&gpu, &TopKTuning::default());
    run_golden(&gpu, &IN_PARTS);
}

#[test]
fn golden_cases_in_subgroups() {
    let Some(gpu) = common::in_subgroups() else { return };
    run_golden(&gpu, &TopKTuning::default());
}

#[test]
fn golden_cases_with_driver_checks() {
    let Some(gpu) = gpu_with(|o| o.checked = true) else {
        return;
    };
    run_golden(&gpu, &TopKTuning::default());
}

#[test]
fn golden_cases_on_a_minimal_device() {
    let Some(gpu) = gpu_with(|o| o.minimal = true) else {
        return;
    };
    run_golden(&gpu, &TopKTuning::default());
}

/// H = 4 on 2 KV heads, ragged in every dimension.
fn tokens() -> TopK {
    let attention = Dense {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        queries: 19,
        keys: 71,
        head_dim: 12,
        causal: true,
        lse: true,
        ..Dense::default()
    };
    TopK {
        attention,
        top_k: 6,
        keep: true,
        ..TopK::default()
    }
}

/// Blocks of 5 keys by their means, for three query rows of a KV head together.
fn blocks() -> TopK {
    TopK {
        block_size: 5,
        query_block: 3,
        per_kv_head: true,
        scoring: Scoring::Mean,
        ..tokens()
    }
}

type Change = fn(&mut TopK);

fn check_all(gpu: &Gpu, base: &TopK, changes: &[(&str, Change)]) {
    for (name, change) in changes {
        let mut p = base.clone();
        change(&mut p);
        topk::check(name, gpu, &p, &TopKTuning::default());
        topk::check(&format!("{name}, in parts"), gpu, &p, &IN_PARTS);
    }
}

/// What no pipeline depends on.
const NUMBERS: &[(&str, Change)] = &[
    ("as it is", |_| ()),
    ("one entry", |p| p.top_k = 1),
    ("more than there are", |p| p.top_k = 500),
    ("room for more", |p| p.room = 3),
    ("the first and the last", |p| (p.first, p.last) = (2, 3)),
    ("the first beyond all", |p| (p.first, p.top_k) = (600, 600)),
    ("one visible key each", |p| {
        (p.attention.window_left, p.attention.window_right) = (Some(0), Some(0));
    }),
    ("no visible key", |p| p.attention.q_offset = Some(-100)),
    ("some rows see none", |p| p.attention.q_offset = Some(-8)),
    ("windows, sinks, prefix", |p| {
        (p.attention.window_left, p.attention.sink_tokens) = (Some(20), 3);
        (p.attention.prefix, p.attention.causal) = (7, false);
    }),
    ("one key", |p| p.attention.keys = 1),
];

#[test]
fn numbers_of_tokens() {
    let Some(gpu) = gpu() else { return };
    check_all(&gpu, &tokens(), NUMBERS);
}

#[test]
fn numbers_of_blocks() {
    let Some(gpu) = gpu() else { return };
    check_all(&gpu, &blocks(), NUMBERS);
}

fn custom(score: bool, mask: bool) -> Option<Custom> {
    let mut r = Random::new(1);
    let mut drawn = std::iter::repeat_with(|| draw::custom(&mut r));
    drawn.find(|c| (c.score.is_some(), c.mask.is_some()) == (score, mask))
}

#[test]
fn options_of_the_attention() {
    let Some(gpu) = gpu() else { return };
    let changes: &[(&str, Change)] = &[
        ("sigmoid", |p| {
            (p.attention.weighting, p.attention.lse) = (Weighting::Sigmoid { bias: Some(0.5) }, false);
        }),
        ("softcap and sinks", |p| {
            (p.attention.softcap, p.attention.sinks) = (Some(2.0), true);
        }),
        ("bias, mask", |p| {
            let (dtype, shape) = (DType::F16, Broadcast::FULL);
            p.attention.bias = Some(Bias { dtype, shape });
            p.attention.mask = Some(Broadcast::FULL);
        }),
        ("ALiBi, kv_len", |p| {
            (p.attention.alibi, p.attention.kv_len) = (true, true)
        }),
        ("documents", |p| {
            (p.attention.batch, p.attention.documents) = (1, Some(4))
        }),
        ("custom score and mask", |p| p.attention.custom = custom(true, true)),
        ("f16, Dv ≠ D", |p| {
            (p.attention.dtype, p.attention.value_dim) = (DType::F16, Some(20));
        }),
        ("bf16, D = 3, unaligned", |p| {
            (p.attention.dtype, p.attention.head_dim) = (DType::BF16, 3);
            (p.attention.unaligned, p.attention.output_dtype) = (true, Some(DType::F32));
        }),
        ("D = 1", |p| p.attention.head_dim = 1),
        ("D = 40, [B, N, H, D]", |p| {
            p.attention.head_dim = 40;
            (p.attention.q_layout, p.attention.k_layout) = (Layout::Bnhd, Layout::Bnhd);
            (p.attention.v_layout, p.attention.o_layout) = (Layout::Bnhd, Layout::Bnhd);
        }),
        ("D = 256", |p| p.attention.head_dim = 256),
    ];
    for (name, change) in changes {
        for base in [tokens(), blocks()] {
            let mut p = base;
            change(&mut p);
            topk::check(name, &gpu, &p, &TopKTuning::default());
        }
    }
}

#[test]
fn lists_of_many_shapes() {
    let Some(gpu) = gpu() else { return };
    // Query rows of a list, whether heads share it, query heads and KV heads, keys of an entry.
    let shapes = [
        (1, true, 3, 1, 1),
        (3, false, 8, 1, 1),
        (64, true, 8, 1, 16),
        (1 << 28, true, 24, 1, 64),
        (8, false, 2, 2, 200),
        (1, true, 3, 3, 5),
        (2, true, 2, 2, 1 << 28),
    ];
    for (n, (query_block, per_kv_head, heads, kv_heads, block_size)) in shapes.into_iter().enumerate() {
        let scorings = [Scoring::Keys, [Scoring::Mean, Scoring::Bound][n % 2]];
        for (scoring, queries) in scorings.into_iter().zip([7, 70]) {
            let attention = Dense {
                heads,
                kv_heads: Some(kv_heads),
                queries,
                keys: 210,
                ..tokens().attention
            };
            let p = TopK {
                attention,
                query_block,
                per_kv_head,
                block_size,
                scoring,
                top_k: 3,
                ..tokens()
            };
            let name = format!("{scoring:?} of {block_size} for {query_block} rows of {heads} heads on {kv_heads}");
            topk::check(&name, &gpu, &p, &TopKTuning::default());
        }
    }
}

#[test]
fn blocks_that_are_given_and_rows_that_stand_in_them() {
    let Some(gpu) = gpu() else { return };
    for scoring in [Scoring::Mean, Scoring::Bound] {
        for kv_len in [false, true] {
            let mut p = TopK {
                scoring,
                pooled: true,
                pooled_room: Some(17),
                ..blocks()
            };
            p.attention.kv_len = kv_len;
            topk::check(&format!("{scoring:?}, given"), &gpu, &p, &TopKTuning::default());
        }
    }
    let diagonal = TopK {
        diagonal: true,
        ..blocks()
    };
    topk::check("blocks, diagonal", &gpu, &diagonal, &TopKTuning::default());
    let mut hidden = TopK {
        diagonal: true,
        scoring: Scoring::Keys,
        ..blocks()
    };
    hidden.attention.mask = Some(Broadcast::FULL);
    let mut inputs = Inputs::random(&hidden.attention, &mut Random::new(3));
    // Rows of the first head of each batch entry see nothing of the last keys, their own among them.
    let (queries, keys) = (hidden.attention.queries as usize, hidden.attention.keys as usize);
    let mask = inputs.tensors.mask.as_mut().unwrap();
    for row in mask
        .chunks_exact_mut(4 * queries * keys)
        .flat_map(|b| b[..queries * keys].chunks_exact_mut(keys))
    {
        row[keys - 25..].fill(0);
    }
    topk::check_on(
        "own keys hidden",
        &gpu,
        &hidden,
        &Given::of(&hidden, inputs),
        &TopKTuning::default(),
    );
}

#[test]
fn equal_scores_keep_the_first() {
    let Some(gpu) = gpu() else { return };
    for base in [tokens(), blocks()] {
        let mut given = Given::random(&base, &mut Random::new(5));
        given.attention.tensors.q.fill(0.0);
        let output = topk::run(&gpu, &base, &given, &TopKTuning::default()).unwrap();
        let truth = given.with_twins(&base.attention, |inputs, hooks| {
            reference::top_k(&base, inputs, hooks).unwrap()
        });
        assert_eq!(output.selection, truth.selection);
        let o = compare::output(&output.o, &truth.o, &Tolerance::for_dtype(DType::F32));
        assert!(o.passed(), "{o}");
    }
}

#[test]
fn the_same_input_gives_the_same_bits() {
    let Some(gpu) = gpu() else { return };
    for p in [tokens(), blocks()] {
        let given = Given::random(&p, &mut Random::new(1));
        let plan = p.plan(&gpu).unwrap();
        let bits = || {
            let TopKOutput { o, lse, selection } = given.with(|inputs| plan.run_blocking(inputs)).unwrap();
            let floats: Vec<u32> = o.iter().chain(&lse.unwrap()).map(|x| x.to_bits()).collect();
            (floats, selection)
        };
        assert_eq!(bits(), bits());
    }
}

#[test]
fn a_selection_that_is_not_kept_changes_nothing() {
    let Some(gpu) = gpu() else { return };
    for p in [tokens(), blocks()] {
        let given = Given::random(&p, &mut Random::new(2));
        let kept = topk::run(&gpu, &p, &given, &IN_PARTS).unwrap();
        let p = TopK { keep: false, ..p };
        let plan = p.plan_with(&gpu, &IN_PARTS).unwrap();
        assert!(plan.parts() > 1);
        let other = given.with(|inputs| plan.run_blocking(inputs)).unwrap();
        assert!(other.selection.is_empty());
        assert_eq!((other.o, other.lse), (kept.o, kept.lse));
    }
}

#[test]
fn every_number_of_the_outputs_is_written() {
    let Some(gpu) = gpu() else { return };
    // Rows that see nothing, and lists with room: what nobody writes stays NaN, or 0xffffffff.
    let mut p = TopK { room: 2, ..blocks() };
    p.attention.q_offset = Some(-8);
    let given = Given::random(&p, &mut Random::new(4));
    let plan = p.plan_with(&gpu, &IN_PARTS).unwrap();
    let buffers = given.with(|inputs| TopKBuffers::upload(&gpu, &p, inputs)).unwrap();
    let read = |encoder| pollster::block_on(buffers.submit_and_read(&gpu, encoder)).unwrap();
    let before = read(gpu.device().create_command_encoder(&Default::default()));
    assert!(before.o.iter().all(|o| o.is_nan()) && before.selection.iter().all(|&w| w == u32::MAX));
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    buffers
        .with_tensors(|tensors| plan.encode(&mut encoder, tensors))
        .unwrap();
    let after = read(encoder);
    assert!(!after.o.iter().chain(after.lse.as_ref().unwrap()).any(|o| o.is_nan()));
    assert!(!after.selection.contains(&u32::MAX));
    let result = topk::judge(&p, &given, &after);
    assert!(result.passed(), "{result}");
}

/// q, k and v in one packed projection, the selection and o in the middle of larger buffers, whose every other byte
/// must be as before.
#[test]
fn tensors_anywhere_in_their_buffers() {
    let Some(gpu) = gpu() else { return };
    let (n, h, d, start) = (21u32, 2u32, 8u32, 12u64);
    let width = 3 * h * d;
    let layout = Layout::packed(n, width, d);
    let attention = Dense {
        batch: 2,
        heads: h,
        queries: n,
        keys: n,
        head_dim: d,
        causal: true,
        q_layout: layout,
        k_layout: layout,
        v_layout: layout,
        ..Dense::default()
    };
    let p = TopK {
        attention,
        top_k: 4,
        keep: true,
        ..TopK::default()
    };
    let given = Given::random(&p, &mut Random::new(6));
    let tensors = &given.attention.tensors;
    let mut qkv = Packed {
        bytes: vec![0xff; 4 * (start + u64::from(2 * n * width)) as usize],
        dtype: DType::F32,
    };
    let firsts = [0, h * d, 2 * h * d].map(|first| start + u64::from(first));
    for (values, first) in [&tensors.q, &tensors.k, &tensors.v].into_iter().zip(firsts) {
        for (at, &value) in values.iter().enumerate() {
            let at = at as u64;
            let (x, i, head, b) = (at % 8, at / 8 % 21, at / (8 * 21) % 2, at / (8 * 21 * 2));
            qkv.put(
                first + b * u64::from(n * width) + head * 8 + i * u64::from(width) + x,
                value,
            );
        }
    }
    let guarded = |bytes: u64, at: u64| Packed {
        bytes: vec![0xab; (bytes + at + 20) as usize],
        dtype: DType::F32,
    };
    let words = p.selection().words(&p.attention);
    let (o_bytes, list_bytes) = (u64::from(2 * h * n * d) * 4, words * 4);
    let (o, lists) = (guarded(o_bytes, 48).upload(&gpu), guarded(list_bytes, 28).upload(&gpu));
    let buffer = qkv.upload(&gpu);
    let [q, k, v] = firsts.map(|first| Tensor::at(&buffer, first * 4));
    let mut call = TopKTensors::new(DenseTensors::new(q, k, v, Tensor::at(&o, 48)));
    call.selection = Some(Tensor::at(&lists, 28));
    for tuning in [TopKTuning::default(), IN_PARTS] {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        p.plan_with(&gpu, &tuning).unwrap().encode(&mut encoder, &call).unwrap();
        gpu.queue().submit([encoder.finish()]);
        let inside = |buffer, at: u64, bytes: u64| -> Vec<u8> {
            let all = read(&gpu, buffer);
            let (before, rest) = all.split_at(at as usize);
            let (inside, after) = rest.split_at(bytes as usize);
            assert!(before.iter().chain(after).all(|&b| b == 0xab), "bytes around a tensor");
            inside.to_vec()
        };
        let output = TopKOutput {
            o: bytemuck::pod_collect_to_vec(&inside(&o, 48, o_bytes)),
            lse: None,
            selection: bytemuck::pod_collect_to_vec(&inside(&lists, 28, list_bytes)),
        };
        let result = topk::judge(&p, &given, &output);
        assert!(result.passed(), "{result}");
    }
}

/// Rows of k are in fours, but those of v are not, so that neither need begin at a multiple of four.
#[test]
fn blocks_of_keys_that_begin_anywhere() {
    let Some(gpu) = gpu() else { return };
    for scoring in [Scoring::Mean, Scoring::Bound] {
        let attention = Dense {
            heads: 2,
            queries: 3,
            keys: 64,
            head_dim: 8,
            value_dim: Some(6),
            ..Dense::default()
        };
        let p = TopK {
            attention,
            top_k: 3,
            block_size: 8,
            scoring,
            keep: true,
            ..TopK::default()
        };
        let given = Given::random(&p, &mut Random::new(3));
        let tensors = &given.attention.tensors;
        let shifted = |values: &[f32]| {
            let mut packed = Packed {
                bytes: vec![0xff; 4 * (values.len() + 1)],
                dtype: DType::F32,
            };
            (1..).zip(values).for_each(|(at, &value)| packed.put(at, value));
            packed.upload(&gpu)
        };
        let [q, k, v] = [&tensors.q, &tensors.k, &tensors.v].map(|values| shifted(values));
        let (o_words, list_words) = (2 * 3 * 6, p.selection().words(&p.attention));
        let [o, lists] = [o_words, list_words].map(|words| shifted(&vec![f32::NAN; words as usize]));
        let at = |buffer| Tensor::at(buffer, 4);
        let mut call = TopKTensors::new(DenseTensors::new(at(&q), at(&k), at(&v), at(&o)));
        call.selection = Some(at(&lists));
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        p.plan(&gpu).unwrap().encode(&mut encoder, &call).unwrap();
        gpu.queue().submit([encoder.finish()]);
        let output = TopKOutput {
            o: bytemuck::pod_collect_to_vec(&read(&gpu, &o)[4..]),
            lse: None,
            selection: bytemuck::pod_collect_to_vec(&read(&gpu, &lists)[4..]),
        };
        let result = topk::judge(&p, &given, &output);
        assert!(result.passed(), "{scoring:?}: {result}");
    }
}
