//! Mistakes in top-k problems, tunings, host inputs, lists and device tensors, and devices too small: each has its own
//! clear error, none panics or reaches wgpu's validation, and the device works afterwards.

mod common;

use std::sync::Mutex;

use common::mistakes::{self, assert_says, buffer, buffer_for, strided, watched};
use common::topk::{self, Given};
use common::{Inputs, Random, gpu_with, limits};
use wgpu_attention::dense::serial::SerialTile;
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::topk::TopKTuning;
use wgpu_attention::topk::host::TopKBuffers;
use wgpu_attention::topk::score::tile::{ScoreTile, SerialScoreTile};
use wgpu_attention::{
    Custom, Dense, DenseInputs, DenseTensors, Error, Gpu, Result, Scoring, Selection, Tensor, TopK, TopKInputs,
    TopKTensors, Weighting,
};

/// A small good problem with every tensor of this op's own: H = 4 on 2 KV heads, 3 rows, 5 keys in 3 blocks.
fn good() -> TopK {
    TopK {
        attention: mistakes::good(),
        top_k: 2,
        block_size: 2,
        query_block: 2,
        per_kv_head: true,
        scoring: Scoring::Mean,
        pooled: true,
        keep: true,
        ..TopK::default()
    }
}

/// The same over tokens, with nothing of its own.
fn plain() -> TopK {
    TopK {
        attention: mistakes::good(),
        top_k: 2,
        ..TopK::default()
    }
}

fn with(change: impl FnOnce(&mut TopK)) -> TopK {
    let mut p = good();
    change(&mut p);
    p
}

fn assert_unharmed(gpu: &Gpu, complaints: &Mutex<Vec<String>>) {
    mistakes::assert_unharmed(gpu, complaints);
    topk::check("after the mistakes", gpu, &good(), &TopKTuning::default());
    assert_eq!(*complaints.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn problems_that_make_no_sense() {
    let Some((gpu, complaints)) = watched() else { return };
    let far = (1 << 28) + 1;
    let selection = Selection {
        block_size: 1,
        query_block: 1,
        per_kv_head: false,
        capacity: 1,
    };
    #[rustfmt::skip]
    let bad: Vec<(&str, TopK, &[&str])> = vec![
        ("heads 0", with(|p| p.attention.heads = 0), &["`heads` is 0", "1 to"]),
        ("keys 0", with(|p| p.attention.keys = 0), &["`keys` is 0", "1 to"]),
        ("D = 257", with(|p| p.attention.head_dim = 257), &["`head_dim` is 257", "1 to 256"]),
        ("NaN scale", with(|p| p.attention.scale = Some(f32::NAN)), &["`scale` is NaN", "finite"]),
        ("sigmoid with lse", with(|p| {
            p.attention.weighting = Weighting::Sigmoid { bias: None };
            p.attention.lse = true;
        }), &["`lse` is true", "sigmoid"]),
        ("overlapping o", with(|p| p.attention.o_layout = strided(96, 0, 8)), &["`o_layout`", "place of its own"]),
        ("a selection", with(|p| p.attention.selection = Some(selection)), &["`attention.selection`", "`None`"]),
        ("k = 0", with(|p| p.top_k = 0), &["`top_k` is 0", "1 to"]),
        ("k too large", with(|p| p.top_k = far), &["`top_k` is 268435457", "1 to 268435456"]),
        ("blocks of 0", with(|p| p.block_size = 0), &["`block_size` is 0", "1 to"]),
        ("blocks too large", with(|p| p.block_size = far), &["`block_size` is 268435457"]),
        ("lists of no rows", with(|p| p.query_block = 0), &["`query_block` is 0", "1 to"]),
        ("lists too large", with(|p| p.query_block = far), &["`query_block` is 268435457"]),
        ("too much room", with(|p| p.room = far), &["`room` is 268435457", "0 to 268435454"]),
        ("first does not fit", with(|p| p.first = 3), &["`top_k` is 2", "`first` + `last`, 3 + 0"]),
        ("last does not fit", with(|p| p.last = u32::MAX), &["`top_k` is 2", "0 + 4294967295"]),
        ("rows stand in more", with(|p| {
            (p.diagonal, p.query_block, p.block_size) = (true, 3, 1);
        }), &["`top_k` is 2", "3 entries", "rows of a list"]),
        ("keys are not pooled", with(|p| p.scoring = Scoring::Keys), &["`pooled` is true", "false", "Scoring::Keys"]),
        ("room of nothing", with(|p| (p.pooled, p.pooled_room) = (false, Some(9))), &["`pooled_room` is 9", "`pooled`"]),
        ("blocks without room", with(|p| p.pooled_room = Some(2)), &["room` is 2", "3 to"]),
        ("lists without end", with(|p| {
            (p.attention.heads, p.attention.kv_heads) = (1 << 28, None);
            p.attention.queries = 1 << 8;
        }), &["`query_block` is 2", "2^32"]),
        ("scores without end", with(|p| {
            (p.attention.queries, p.attention.keys) = (1 << 27, 1 << 28);
            (p.query_block, p.block_size) = (1, 1);
        }), &["`block_size`", "2^48"]),
        ("a selection without end", with(|p| {
            (p.attention.queries, p.query_block, p.top_k) = (1 << 21, 1, 1 << 28);
        }), &["`selection`", "2^48"]),
    ];
    for (what, problem, words) in bad {
        assert_says(what, problem.plan(&gpu), "Invalid", words);
        assert_says(what, problem.plan_scores(&gpu), "Invalid", words);
        assert_says(what, TopKInputs::default().check(&problem), "Invalid", words);
    }
    let score = "fn score(s: f32, at: Position) -> f32 { return nothing; }";
    let mut wrong = plain();
    wrong.attention.custom = Some(Custom {
        score: Some(score.into()),
        ..Custom::default()
    });
    for result in [wrong.plan(&gpu).map(|_| ()), wrong.plan_scores(&gpu).map(|_| ())] {
        assert_says("custom code", result, "Snippet", &["nothing"]);
    }
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn tunings_that_make_no_sense() {
    let Some((gpu, complaints)) = watched() else { return };
    let plan = |tuning: TopKTuning| plain().plan_with(&gpu, &tuning);
    let serial = ScoreTile::Serial(SerialScoreTile { rows: 0, threads: 8 });
    assert_says("a tile", plan(topk::scored_by(serial)), "Invalid", &["`tuning.score`"]);
    let splits = Tuning {
        kernel: None,
        splits: Some(0),
        live: None,
    };
    // The decode kernels take heads of a group together, and these have lists of their own.
    let together = common::forced(KernelChoice::DecodeSerial(SerialTile { rows: 2, threads: 8 }));
    assert_says(
        "no splits",
        plan(topk::gathered_by(splits)),
        "Invalid",
        &["`tuning.splits` is 0"],
    );
    assert_says(
        "rows of two lists",
        plan(topk::gathered_by(together)),
        "Invalid",
        &["`tuning.kernel`", "share a list"],
    );
    assert_unharmed(&gpu, &complaints);
}

/// Changes one thing about otherwise right host inputs and says what the error must.
type HostMistake = (&'static str, fn(&mut Given), &'static [&'static str]);

#[test]
fn host_inputs_that_do_not_fit() {
    let Some((gpu, complaints)) = watched() else { return };
    let wrong: &[HostMistake] = &[
        (
            "q too short",
            |g| g.attention.tensors.q.truncate(9),
            &["`q`", "9 elements", "[2, 4, 3, 8]"],
        ),
        (
            "k too long",
            |g| g.attention.tensors.k.push(0.0),
            &["`k`", "[2, 2, 5, 8]"],
        ),
        ("v empty", |g| g.attention.tensors.v.clear(), &["`v`", "0 elements"]),
        (
            "no blocks",
            |g| g.pooled = None,
            &["`pooled`", "not given", "[2, 2, 3, 8]"],
        ),
        (
            "few blocks",
            |g| g.pooled = Some(vec![0.0; 7]),
            &["`pooled`", "7 elements", "96 elements"],
        ),
        (
            "lengths",
            |g| g.attention.tensors.kv_len = Some(vec![1, 1]),
            &["`kv_len`", "does not ask for it"],
        ),
        (
            "data",
            |g| g.attention.custom_data.push(vec![1]),
            &["`custom_data`", "1 arrays", "0"],
        ),
    ];
    let plan = good().plan(&gpu).unwrap();
    for (what, spoil, words) in wrong {
        let mut given = Given::random(&good(), &mut Random::new(1));
        spoil(&mut given);
        assert_says(what, given.with(|inputs| plan.run_blocking(inputs)), "Data", words);
        assert_says(
            what,
            given.with(|inputs| TopKBuffers::upload(&gpu, &good(), inputs)),
            "Data",
            words,
        );
    }
    let given = Given::random(&plain(), &mut Random::new(1));
    let result = given.with(|inputs| {
        let pooled = TopKInputs {
            pooled: Some(&[0.0; 96]),
            ..*inputs
        };
        plain().plan(&gpu).unwrap().run_blocking(&pooled)
    });
    assert_says(
        "blocks that nobody wants",
        result,
        "Data",
        &["`pooled`", "None", "does not ask for it"],
    );
    let result = given.with(|inputs| {
        let mut with_lists = *inputs;
        with_lists.attention.selection = Some(&[1, 0]);
        plain().plan(&gpu).unwrap().run_blocking(&with_lists)
    });
    assert_says(
        "lists that are sought",
        result,
        "Data",
        &["`selection`", "does not ask for it"],
    );
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn lists_on_the_host_that_are_not_lists() {
    let Some((gpu, complaints)) = watched() else { return };
    // Two lists of each of 2 KV heads of 2 batch entries, with room for 2 of 3 blocks.
    let p = Dense {
        selection: Some(good().selection()),
        ..mistakes::good()
    };
    let lists = |change: fn(&mut Vec<u32>)| {
        let mut lists = [2, 0, 2].repeat(8);
        change(&mut lists);
        lists
    };
    type Spoil = fn(&mut Vec<u32>);
    let wrong: [(&str, Spoil, &[&str]); 6] = [
        (
            "too short",
            |l| l.truncate(23),
            &["`selection`", "23 elements", "[2, 2, 2, 3]"],
        ),
        ("none", |l| l.clear(), &["`selection`", "0 elements"]),
        (
            "too many",
            |l| l[6] = 3,
            &["list [0, 1, 0] has 3 entries", "`capacity`, 2"],
        ),
        (
            "out of range",
            |l| l[23] = 3,
            &["entry 1 of list [1, 1, 1] is 3", "= 3"],
        ),
        (
            "descending",
            |l| l[4] = 2,
            &["list [0, 0, 1] has 2 and then 2", "ascend"],
        ),
        (
            "no number",
            |l| l[1] = u32::MAX,
            &["entry 0 of list [0, 0, 0] is 4294967295"],
        ),
    ];
    let inputs = Inputs::random(&p, &mut Random::new(1));
    let run = |lists: Option<&[u32]>| -> Result<()> {
        inputs.with(|inputs| {
            let given = DenseInputs {
                selection: lists,
                ..*inputs
            };
            p.plan(&gpu)?.run_blocking(&given).map(|_| ())
        })
    };
    run(Some(&lists(|_| ()))).unwrap();
    for (what, spoil, words) in wrong {
        assert_says(what, run(Some(&lists(spoil))), "Data", words);
    }
    assert_says("no lists", run(None), "Data", &["`selection`", "not given"]);
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn device_tensors_that_do_not_fit() {
    let Some((gpu, complaints)) = watched() else { return };
    let [q, k, v, o, blocks, lists, extra] = [(); 7].map(|()| buffer(&gpu, 4096));
    let small = buffer(&gpu, 64);
    let uniform = buffer_for(&gpu, 4096, wgpu_attention::wgpu::BufferUsages::UNIFORM);
    let encode = |p: &TopK, tensors: &TopKTensors<'_>| {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let result = p.plan(&gpu).unwrap().encode(&mut encoder, tensors);
        gpu.queue().submit([encoder.finish()]);
        result
    };
    let attention = DenseTensors::new(&q, &k, &v, &o);
    let bare = TopKTensors::new(attention);
    let right = TopKTensors {
        pooled: Some((&blocks).into()),
        selection: Some((&lists).into()),
        ..bare
    };
    encode(&plain(), &bare).unwrap();
    encode(&good(), &right).unwrap();
    let some = Some(Tensor::from(&extra));
    let (good, plain) = (good(), plain());
    let with_lse = TopK {
        attention: Dense {
            lse: true,
            ..mistakes::good()
        },
        ..plain.clone()
    };
    #[rustfmt::skip]
    let wrong: Vec<(&str, &TopK, TopKTensors<'_>, &[&str])> = vec![
        ("no blocks", &good, TopKTensors { pooled: None, ..right }, &["`pooled`", "missing"]),
        ("blocks besides", &plain, TopKTensors { pooled: some, ..bare }, &["`pooled`", "is given"]),
        ("no place for lists", &good, TopKTensors { selection: None, ..right }, &["`selection`", "missing"]),
        ("lists that are not kept", &plain, TopKTensors { selection: some, ..bare }, &["`selection`", "is given"]),
        ("lists in the attention", &good,
            TopKTensors { attention: DenseTensors { selection: some, ..attention }, ..right },
            &["`attention.selection`", "beside `attention`"]),
        ("no lse", &with_lse, bare, &["`lse`", "missing"]),
        ("a bias besides", &plain, TopKTensors::new(DenseTensors { bias: some, ..attention }), &["`bias`", "is given"]),
        ("sinks besides", &plain, TopKTensors::new(DenseTensors { sinks: some, ..attention }), &["`sinks`", "is given"]),
        ("few keys", &good, TopKTensors { attention: DenseTensors { k: (&small).into(), ..attention }, ..right },
            &["`k`", "64 bytes"]),
        ("few blocks", &good, TopKTensors { pooled: Some((&small).into()), ..right }, &["`pooled`", "64 bytes", "384 bytes"]),
        ("few lists", &good, TopKTensors { selection: Some((&small).into()), ..right }, &["`selection`", "64 bytes", "96 bytes"]),
        ("misaligned blocks", &good, TopKTensors { pooled: Some(Tensor::at(&blocks, 4)), ..right },
            &["`pooled`", "byte 4", "multiple of 16"]),
        ("misaligned lists", &good, TopKTensors { selection: Some(Tensor::at(&lists, 2)), ..right },
            &["`selection`", "byte 2", "multiple of 4"]),
        ("past the end", &good, TopKTensors { selection: Some(Tensor::at(&lists, u64::MAX - 3)), ..right }, &["`selection`"]),
        ("no storage", &good, TopKTensors { pooled: Some((&uniform).into()), ..right }, &["`pooled`", "STORAGE"]),
        ("lists over queries", &good, TopKTensors { selection: Some(Tensor::at(&q, 2048)), ..right },
            &["`selection`", "same buffer as `q`"]),
        ("lists over blocks", &good, TopKTensors { selection: Some(Tensor::at(&blocks, 2048)), ..right },
            &["`selection`", "same buffer as `pooled`"]),
        ("lists over o", &good, TopKTensors { selection: Some(Tensor::at(&o, 2048)), ..right }, &["same buffer"]),
        ("o over blocks", &good, TopKTensors { pooled: Some(Tensor::at(&o, 2048)), ..right }, &["`o`", "same buffer as `pooled`"]),
    ];
    for (what, p, tensors, words) in wrong {
        assert_says(what, encode(p, &tensors), "Tensor", words);
    }
    let data = [Tensor::from(&extra)];
    let besides = TopKTensors::new(DenseTensors {
        custom_data: &data,
        ..attention
    });
    assert_says(
        "data besides",
        encode(&plain, &besides),
        "Tensor",
        &["`custom_data`", "1 arrays"],
    );
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn what_cannot_be_cut_is_refused_with_the_limit() {
    let Some(mut small) = limits() else { return };
    small.max_storage_buffer_binding_size = 4096;
    let Some(gpu) = gpu_with(|o| o.limits = Some(small)) else {
        return;
    };
    let mut p = plain();
    (p.attention.keys, p.attention.head_dim) = (2000, 1);
    // One head's keys are 8000 bytes.
    let words = ["`k`", "8", "max_storage_buffer_binding_size", "4096"];
    assert_says("keys", p.plan(&gpu), "Limit", &words);
    assert_says("keys", p.plan_scores(&gpu), "Limit", &words);
    // A list's scores are too, where its blocks are given.
    let mut p = TopK {
        block_size: 1,
        ..good()
    };
    p.attention.keys = 2000;
    let error = p.plan_scores(&gpu).unwrap_err();
    assert!(matches!(error, Error::Limit { .. }), "{error}");
}

#[test]
fn loops_that_a_software_gpu_would_leave_are_refused() {
    let Some(gpu) = common::gpu() else { return };
    let mut p = TopK {
        scoring: Scoring::Keys,
        pooled: false,
        block_size: 1 << 24,
        ..good()
    };
    p.attention.keys = 1 << 24;
    if gpu.info().device_type == wgpu_attention::wgpu::DeviceType::Cpu {
        assert_says("a long block", p.plan_scores(&gpu), "Unsupported", &["iterations"]);
    }
    // The same block over few keys is short.
    p.attention.keys = 5;
    topk::check("a block longer than all keys", &gpu, &p, &TopKTuning::default());
}
