//! Mistakes in linear problems, forms, host inputs, device tensors and joins, and devices too small: each has its own
//! clear error, none panics or reaches wgpu's validation, and a device that is left works afterwards.

mod common;

use std::sync::Mutex;

use common::linear::{self, Strength, forced};
use common::mistakes::{self, assert_says, buffer, buffer_for, strided, watched};
use common::{Random, gpu_with, limits, tiles};
use wgpu_attention::case::LinearCaseInputs;
use wgpu_attention::linear::host::LinearBuffers;
use wgpu_attention::linear::tile::{Form, LinearTuning};
use wgpu_attention::linear::variant::{ChunkTile, StepTile};
use wgpu_attention::linear::{JoinTensors, slopes};
use wgpu_attention::{Decay, Error, FeatureMap, Gpu, Join, JoinInputs, Layout, Linear, LinearTensors, Result, Tensor};

/// A small good problem, for mistakes to be made in.
fn good() -> Linear {
    Linear {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        tokens: 5,
        head_dim: 8,
        ..Linear::default()
    }
}

/// The same with every tensor a problem can have but document offsets.
fn all() -> Linear {
    Linear {
        decay: Decay::Token,
        initial_state: true,
        final_state: true,
        total_decay: true,
        ..good()
    }
}

fn packed() -> Linear {
    Linear {
        batch: 1,
        documents: Some(2),
        ..good()
    }
}

fn state_only() -> Linear {
    Linear {
        state_only: true,
        initial_state: true,
        ..good()
    }
}

fn assert_unharmed(gpu: &Gpu, complaints: &Mutex<Vec<String>>) {
    mistakes::assert_unharmed(gpu, complaints);
    linear::check("after the mistakes", gpu, &all(), &LinearTuning::default());
    assert_eq!(*complaints.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn problems_that_make_no_sense() {
    let Some((gpu, complaints)) = watched() else { return };
    let far = 1 << 29;
    let normalize = |epsilon| Linear {
        normalize: Some(epsilon),
        ..good()
    };
    #[rustfmt::skip]
    let bad: Vec<(&str, Linear, &[&str])> = vec![
        ("batch 0", Linear { batch: 0, ..good() }, &["`batch` is 0", "1 to"]),
        ("heads 0", Linear { heads: 0, ..good() }, &["`heads` is 0", "1 to"]),
        ("kv_heads 0", Linear { kv_heads: Some(0), ..good() }, &["`kv_heads` is 0", "divisor"]),
        ("H no multiple of Hkv", Linear { kv_heads: Some(3), ..good() }, &["`kv_heads` is 3", "divisor", "4"]),
        ("tokens 0", Linear { tokens: 0, ..good() }, &["`tokens` is 0", "1 to"]),
        ("too many tokens", Linear { tokens: far, ..good() }, &["`tokens`", "1 to 268435456"]),
        ("D = 0", Linear { head_dim: 0, ..good() }, &["`head_dim` is 0", "1 to 256"]),
        ("D = 257", Linear { head_dim: 257, ..good() }, &["`head_dim` is 257", "1 to 256"]),
        ("Dv = 0", Linear { value_dim: Some(0), ..good() }, &["`value_dim` is 0", "1 to 256"]),
        ("Dv = 300", Linear { value_dim: Some(300), ..good() }, &["`value_dim` is 300", "1 to 256"]),
        ("NaN scale", Linear { scale: Some(f32::NAN), ..good() }, &["`scale` is NaN", "finite"]),
        ("infinite scale", Linear { scale: Some(f32::INFINITY), ..good() }, &["`scale` is inf", "finite"]),
        ("negative epsilon", normalize(-1e-6), &["`normalize` is -0.000001", "0 or above"]),
        ("NaN epsilon", normalize(f32::NAN), &["`normalize` is NaN", "0 or above"]),
        ("infinite epsilon", normalize(f32::INFINITY), &["`normalize` is inf", "finite"]),
        ("decay of what is not causal", Linear { causal: false, decay: Decay::Head, ..good() },
            &["`decay` is Head", "Decay::None", "not causal"]),
        ("total of no decay", Linear { total_decay: true, ..good() }, &["`total_decay` is true", "Decay::None"]),
        ("in place without states", Linear { in_place: true, ..good() }, &["`in_place` is true", "`initial_state`"]),
        ("in place without a final state", Linear { in_place: true, initial_state: true, ..good() },
            &["`in_place` is true", "`final_state`"]),
        ("in place without an initial state", Linear { in_place: true, final_state: true, ..good() },
            &["`in_place` is true", "`initial_state`"]),
        ("state only, not causal", Linear { causal: false, ..state_only() }, &["`state_only` is true", "`causal`"]),
        ("state only, normalised", Linear { normalize: Some(0.1), ..state_only() },
            &["`state_only` is true", "`normalize`"]),
        ("state only without one", Linear { initial_state: false, ..state_only() },
            &["`state_only` is true", "`initial_state`"]),
        ("state only with a final one", Linear { final_state: true, ..state_only() },
            &["`state_only` is true", "`final_state`"]),
        ("documents in a batch", Linear { batch: 2, ..packed() }, &["`batch` is 2", "documents"]),
        ("no documents", Linear { documents: Some(0), ..packed() }, &["`documents` is 0", "1 to"]),
        ("states without end", Linear { heads: 1 << 28, kv_heads: None, documents: Some(1 << 20), ..packed() },
            &["`heads`", "2^48"]),
        ("tensors without end", Linear { heads: 1 << 24, kv_heads: None, tokens: 1 << 28, ..good() },
            &["`tokens`", "2^48"]),
        ("o's rows overlap", Linear { o_layout: strided(160, 40, 7), ..good() }, &["`o_layout`", "place of its own"]),
        ("o's heads overlap", Linear { o_layout: strided(160, 0, 8), ..good() }, &["`o_layout`", "place of its own"]),
        ("q without end", Linear { q_layout: strided(u64::MAX, 8, 8), ..good() }, &["`q_layout`", "48 bits"]),
        ("k without end", Linear { k_layout: strided(8, u64::MAX, 8), ..good() }, &["`k_layout`", "48 bits"]),
        ("v without end", Linear { v_layout: strided(8, 8, u64::MAX), ..good() }, &["`v_layout`", "48 bits"]),
        ("o without end", Linear { o_layout: strided(1 << 50, 40, 8), ..good() }, &["`o_layout`", "48 bits"]),
        ("decays without end", Linear { decay: Decay::Token, decay_layout: strided(1 << 50, 5, 1), ..good() },
            &["`decay_layout`", "48 bits"]),
    ];
    for (what, problem, words) in &bad {
        assert_says(what, problem.plan(&gpu), "Invalid", words);
    }
    // A layout that no tensor has is not looked at.
    let unused = Linear {
        decay: Decay::Head,
        decay_layout: strided(u64::MAX, u64::MAX, u64::MAX),
        ..good()
    };
    linear::check("an unused layout", &gpu, &unused, &LinearTuning::default());
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn slopes_that_make_no_sense() {
    for result in [
        slopes::lightning(0, 0, 1),
        slopes::lightning_paper(4, 3, 3),
        slopes::retnet(0),
    ] {
        assert_says("slopes", result, "Invalid", &["allowed"]);
    }
}

#[test]
fn custom_code_with_mistakes() {
    let Some((gpu, complaints)) = watched() else { return };
    #[rustfmt::skip]
    let bad: [(&str, &str, &[&str]); 7] = [
        ("nothing", "", &["feature"]),
        ("no WGSL", "fn feature(x: f32, at: Channel) -> f32 { return x +; }", &["feature"]),
        ("another name", "fn phi(x: f32, at: Channel) -> f32 { return x; }", &["feature"]),
        ("another signature", "fn feature(x: f32) -> f32 { return x; }", &["feature", "Channel"]),
        ("another result", "fn feature(x: f32, at: Channel) -> u32 { return 1u; }", &["f32"]),
        ("an unknown field", "fn feature(x: f32, at: Channel) -> f32 { return f32(at.batch); }", &["batch"]),
        ("a name of the kernel's",
            "fn feature_q() -> f32 { return 1.0; }\nfn feature(x: f32, at: Channel) -> f32 { return feature_q(); }",
            &["feature_q"]),
    ];
    for (what, text, words) in bad {
        for tokens in [1, 5, 300] {
            let p = Linear {
                tokens,
                feature_map: FeatureMap::Custom(text.into()),
                ..good()
            };
            assert_says(what, p.plan(&gpu), "Snippet", words);
        }
    }
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn forms_that_cannot_serve() {
    let Some((gpu, complaints)) = watched() else { return };
    let tile = tiles::SMALL;
    let step = StepTile { lanes: 2, groups: 2 };
    let invalid = |what: &str, p: &Linear, form: Form, words: &[&str]| {
        assert_says(
            what,
            p.plan_with(&gpu, &forced(form)),
            "Invalid",
            &[&["tuning.form"], words].concat(),
        );
    };

    let several = "final state where there are several tokens";
    invalid("steps without a final state", &good(), Form::Step(step), &[several]);
    let states = Linear {
        final_state: true,
        ..good()
    };
    for (what, p) in [
        (
            "not causal",
            Linear {
                causal: false,
                ..states.clone()
            },
        ),
        (
            "documents",
            Linear {
                final_state: true,
                ..packed()
            },
        ),
        (
            "state only",
            Linear {
                tokens: 1,
                ..state_only()
            },
        ),
    ] {
        invalid(what, &p, Form::Step(step), &["a step only where"]);
    }
    for (lanes, groups) in [(0, 2), (2, 0), (257, 1), (1, 257), (u32::MAX, u32::MAX)] {
        invalid(
            "a step's tile",
            &states,
            Form::Step(StepTile { lanes, groups }),
            &["1 to 256"],
        );
    }
    let normalized = Linear {
        normalize: Some(0.1),
        value_dim: Some(20),
        ..all()
    };
    invalid("columns apart", &normalized, Form::Step(step), &["normalize", "lanes"]);
    let in_place = Linear {
        in_place: true,
        ..normalized
    };
    invalid(
        "columns apart in place",
        &in_place,
        Form::Serial(tile),
        &["normalize", "in_place", "a split"],
    );
    let whole = Linear {
        causal: false,
        ..good()
    };
    invalid("one pass", &whole, Form::Serial(tile), &["not causal", "a split"]);
    for segment in [0, 1, 7, 12] {
        invalid(
            "segments",
            &good(),
            Form::Split { tile, segment },
            &["multiple of the tile's rows"],
        );
    }
    #[rustfmt::skip]
    let unsound = [
        ChunkTile { row_groups: 0, ..tile },
        ChunkTile { row_regs: 3, ..tile },
        ChunkTile { lanes: 4, ..tile },
        ChunkTile { key_regs: 2, lanes: 4, ..tile },
        ChunkTile { value_vecs: 0, ..tile },
        ChunkTile { value_vecs: 257, ..tile },
        ChunkTile { chunk: 0, ..tile },
        // Parts of 5 vectors reach past the 4 that row groups hold.
        ChunkTile { chunk: 5, ..tile },
        ChunkTile { tokens: 2, ..tile },
        ChunkTile { tokens: 12, ..tile },
        ChunkTile { row_groups: u32::MAX, ..tile },
        ChunkTile { tokens: u32::MAX, ..tile },
        ChunkTile { chunk: u32::MAX, ..tile },
    ];
    for tile in unsound {
        for form in [Form::Serial(tile), Form::Split { tile, segment: 64 }] {
            invalid("an unsound tile", &good(), form, &["rules beside its fields"]);
        }
    }

    // 256 rows of as many groups, each with 64 lanes.
    let many = ChunkTile {
        row_groups: 256,
        row_regs: 1,
        lanes: 64,
        key_regs: 4,
        ..tile
    };
    let plan = good().plan_with(&gpu, &forced(Form::Serial(many)));
    assert_says("too many invocations", plan, "Limit", &["max_compute"]);
    let large = ChunkTile {
        row_groups: 4,
        row_regs: 64,
        lanes: 64,
        ..tile
    };
    for form in [
        Form::Serial(large),
        Form::Split {
            tile: large,
            segment: 256,
        },
    ] {
        let words = ["max_compute_workgroup_storage_size", "D = 8, Dv = 8"];
        assert_says(
            "too much memory",
            good().plan_with(&gpu, &forced(form)),
            "Limit",
            &words,
        );
    }
    let wide = Form::Step(StepTile {
        lanes: 256,
        groups: 256,
    });
    assert_says(
        "a wide step",
        states.plan_with(&gpu, &forced(wide)),
        "Limit",
        &["max_compute"],
    );
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn devices_that_are_too_small() {
    let Some(mut few) = limits() else { return };
    let with = |change: &dyn Fn(&mut wgpu::Limits)| {
        let mut limits = few.clone();
        change(&mut limits);
        gpu_with(|o| o.limits = Some(limits)).unwrap()
    };
    let gpu = with(&|l| l.max_storage_buffer_binding_size = 4 << 10);
    let long = Linear { tokens: 1000, ..good() };
    assert_says(
        "a head's rows",
        long.plan(&gpu),
        "Limit",
        &["max_storage_buffer_binding_size"],
    );
    let states = Linear {
        head_dim: 64,
        final_state: true,
        ..good()
    };
    assert_says(
        "a head's state",
        states.plan(&gpu),
        "Limit",
        &["max_storage_buffer_binding_size"],
    );
    let join = Join {
        head_dim: 64,
        ..Join::default()
    };
    assert_says(
        "a join's states",
        join.plan(&gpu),
        "Limit",
        &["max_storage_buffer_binding_size", "`states`"],
    );

    let gpu = with(&|l| l.max_compute_workgroups_per_dimension = 7);
    let documents = Linear {
        documents: Some(8),
        ..packed()
    };
    for form in [None, Some(Form::Serial(tiles::SMALL))] {
        let plan = documents.plan_with(&gpu, &LinearTuning { form });
        assert_says("documents", plan, "Limit", &["max_compute_workgroups_per_dimension"]);
    }
    let join = Join {
        sequences: 8,
        ..Join::default()
    };
    assert_says(
        "sequences",
        join.plan(&gpu),
        "Limit",
        &["max_compute_workgroups_per_dimension"],
    );
    let segments = Form::Split {
        tile: tiles::SMALL,
        segment: 8,
    };
    let plan = long.plan_with(&gpu, &forced(segments));
    assert_says("segments", plan, "Limit", &["max_compute_workgroups_per_dimension"]);

    // Everything at once is nine storage buffers in one kernel.
    few.max_storage_buffers_per_shader_stage = 4;
    let gpu = gpu_with(|o| o.limits = Some(few)).unwrap();
    assert_says(
        "tensors",
        all().plan(&gpu),
        "Limit",
        &["max_storage_buffers_per_shader_stage"],
    );
    linear::check("what fits", &gpu, &good(), &forced(Form::Serial(tiles::SMALL)));
}

/// Changes one thing about otherwise right host inputs and says what the error must.
type HostMistake = (&'static str, fn(&mut LinearCaseInputs), &'static [&'static str]);

#[test]
fn host_inputs_that_do_not_fit() {
    let Some((gpu, complaints)) = watched() else { return };
    let spoil_each = |p: &Linear, mistakes: &[HostMistake]| {
        let plan = p.plan(&gpu).unwrap();
        for (what, spoil, words) in mistakes {
            let mut inputs = linear::random(p, Strength::Medium, &mut Random::new(1));
            plan.run_blocking(&inputs.inputs()).unwrap();
            spoil(&mut inputs);
            assert_says(what, plan.run_blocking(&inputs.inputs()), "Data", words);
        }
    };
    #[rustfmt::skip]
    spoil_each(&all(), &[
        ("q too short", |t| t.q.truncate(9), &["`q`", "9 elements", "[2, 4, 5, 8]"]),
        ("k too long", |t| t.k.push(0.0), &["`k`", "[2, 2, 5, 8]"]),
        ("v empty", |t| t.v.clear(), &["`v`", "0 elements"]),
        ("no decays", |t| t.log_decay = None, &["`log_decay`", "not given"]),
        ("decays of heads", |t| t.log_decay = Some(vec![0.0; 4]), &["`log_decay`", "4 elements", "[2, 4, 5]"]),
        ("growth", |t| t.log_decay.as_mut().unwrap()[7] = 1e-9, &["`log_decay`", "index 7", "0 or below"]),
        ("NaN", |t| t.log_decay.as_mut().unwrap()[39] = f32::NAN, &["`log_decay`", "NaN at index 39"]),
        ("no state", |t| t.initial_state = None, &["`initial_state`", "not given"]),
        ("a state short", |t| t.initial_state.as_mut().unwrap().truncate(448), &["`initial_state`", "448 elements"]),
        ("superfluous offsets", |t| t.cu_seqlens = Some(vec![0, 5]), &["`cu_seqlens`", "None"]),
        ("superfluous o", |t| t.o = Some(vec![0.0; 320]), &["`o`", "None"]),
    ]);
    #[rustfmt::skip]
    spoil_each(&packed(), &[
        ("no offsets", |t| t.cu_seqlens = None, &["`cu_seqlens`", "not given"]),
        ("one short", |t| t.cu_seqlens = Some(vec![0, 3]), &["`cu_seqlens`", "2 elements", "[3]"]),
        ("decreasing", |t| t.cu_seqlens = Some(vec![0, 3, 2]), &["`cu_seqlens`", "3 at index 1, then 2"]),
        ("past the end", |t| t.cu_seqlens = Some(vec![0, 2, 6]), &["`cu_seqlens`", "6", "0 to N = 5"]),
        ("negative", |t| t.cu_seqlens = Some(vec![-1, 2, 5]), &["`cu_seqlens`", "-1"]),
        ("superfluous decays", |t| t.log_decay = Some(vec![0.0; 4]), &["`log_decay`", "None"]),
        ("superfluous state", |t| t.initial_state = Some(vec![0.0; 512]), &["`initial_state`", "None"]),
    ]);
    #[rustfmt::skip]
    spoil_each(&state_only(), &[
        ("no o", |t| t.o = None, &["`o`", "not given"]),
        ("o too short", |t| t.o = Some(vec![0.0; 5]), &["`o`", "5 elements", "[2, 4, 5, 8]"]),
    ]);
    assert_unharmed(&gpu, &complaints);
}

/// What `encode` says to these tensors; the encoder is submitted, so that what it recorded is validated.
fn encode(gpu: &Gpu, problem: &Linear, tensors: &LinearTensors<'_>) -> Result<()> {
    let plan = problem.plan(gpu).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let result = plan.encode(&mut encoder, tensors);
    gpu.queue().submit([encoder.finish()]);
    result
}

#[test]
fn device_tensors_that_do_not_fit() {
    let Some((gpu, complaints)) = watched() else { return };
    let [q, k, v, o, decay, first, last, total, extra] = [(); 9].map(|()| buffer(&gpu, 4096));
    let some = |buffer| Some(Tensor::from(buffer));
    let right = LinearTensors {
        log_decay: some(&decay),
        initial_state: some(&first),
        final_state: some(&last),
        total_decay: some(&total),
        ..LinearTensors::new(&q, &k, &v, &o)
    };
    encode(&gpu, &all(), &right).unwrap();

    let small = buffer(&gpu, 64);
    let uniform = buffer_for(&gpu, 4096, wgpu::BufferUsages::UNIFORM);
    let at = |buffer, offset| Some(Tensor::at(buffer, offset));
    #[rustfmt::skip]
    let mistakes: Vec<(&str, LinearTensors<'_>, &[&str])> = vec![
        ("a small k", LinearTensors { k: (&small).into(), ..right }, &["`k`", "holds 64 bytes", "640 bytes"]),
        ("a small q", LinearTensors { q: (&small).into(), ..right }, &["`q`", "1280 bytes"]),
        ("a small o", LinearTensors { o: (&small).into(), ..right }, &["`o`", "1280 bytes"]),
        ("small decays", LinearTensors { log_decay: some(&small), ..right }, &["`log_decay`", "160 bytes"]),
        ("a small state", LinearTensors { initial_state: some(&small), ..right }, &["`initial_state`", "2048 bytes"]),
        ("a small end", LinearTensors { final_state: some(&small), ..right }, &["`final_state`", "2048 bytes"]),
        ("a late total", LinearTensors { total_decay: at(&total, 4080), ..right }, &["`total_decay`", "32 bytes"]),
        ("no STORAGE", LinearTensors { v: (&uniform).into(), ..right }, &["`v`", "usage STORAGE", "UNIFORM"]),
        ("misaligned q", LinearTensors { q: Tensor::at(&q, 4), ..right }, &["`q`", "byte 4", "multiple of 16"]),
        ("misaligned o", LinearTensors { o: Tensor::at(&o, 8), ..right }, &["`o`", "byte 8", "multiple of 16"]),
        ("misaligned state", LinearTensors { initial_state: at(&first, 4), ..right },
            &["`initial_state`", "byte 4", "multiple of 16"]),
        ("misaligned end", LinearTensors { final_state: at(&last, 12), ..right },
            &["`final_state`", "byte 12", "multiple of 16"]),
        ("odd bytes", LinearTensors { log_decay: at(&decay, 3), ..right }, &["`log_decay`", "byte 3", "multiple of 4"]),
        ("past the end", LinearTensors { q: Tensor::at(&q, 4096), ..right }, &["`q`", "offset 4096"]),
        ("beyond all", LinearTensors { o: Tensor::at(&o, u64::MAX - 15), ..right }, &["`o`", "offset"]),
        ("o is q", LinearTensors { o: (&q).into(), ..right }, &["`o`", "same buffer as `q`"]),
        ("o beside v", LinearTensors { o: Tensor::at(&v, 2048), ..right }, &["`o`", "same buffer as `v`"]),
        ("the end is the beginning", LinearTensors { final_state: some(&first), ..right },
            &["`final_state`", "same buffer as `initial_state`"]),
        ("the end beside o", LinearTensors { final_state: at(&o, 2048), ..right },
            &["`final_state`", "same buffer as `o`"]),
        ("the total beside decays", LinearTensors { total_decay: at(&decay, 2048), ..right },
            &["`total_decay`", "same buffer as `log_decay`"]),
        ("superfluous offsets", LinearTensors { cu_seqlens: some(&extra), ..right },
            &["`cu_seqlens`", "given", "none"]),
        ("no decays", LinearTensors { log_decay: None, ..right }, &["`log_decay`", "missing"]),
        ("no beginning", LinearTensors { initial_state: None, ..right }, &["`initial_state`", "missing"]),
        ("no end", LinearTensors { final_state: None, ..right }, &["`final_state`", "missing"]),
        ("no total", LinearTensors { total_decay: None, ..right }, &["`total_decay`", "missing"]),
    ];
    for (what, tensors, words) in &mistakes {
        assert_says(what, encode(&gpu, &all(), tensors), "Tensor", words);
    }

    let plain = LinearTensors::new(&q, &k, &v, &o);
    encode(&gpu, &good(), &plain).unwrap();
    #[rustfmt::skip]
    let superfluous = [
        ("log_decay", LinearTensors { log_decay: some(&decay), ..plain }),
        ("initial_state", LinearTensors { initial_state: some(&first), ..plain }),
        ("final_state", LinearTensors { final_state: some(&last), ..plain }),
        ("total_decay", LinearTensors { total_decay: some(&total), ..plain }),
    ];
    for (name, tensors) in &superfluous {
        let name = format!("`{name}`");
        assert_says(
            "superfluous",
            encode(&gpu, &good(), tensors),
            "Tensor",
            &[&name, "given", "none"],
        );
    }
    assert_says(
        "no offsets",
        encode(&gpu, &packed(), &plain),
        "Tensor",
        &["`cu_seqlens`", "missing"],
    );
    // In place, the one tensor is `final_state`.
    let in_place = Linear {
        in_place: true,
        ..all()
    };
    assert_says(
        "a beginning",
        encode(&gpu, &in_place, &right),
        "Tensor",
        &["`initial_state`", "given", "none"],
    );
    let one = LinearTensors {
        initial_state: None,
        ..right
    };
    encode(&gpu, &in_place, &one).unwrap();
    // Read one at a time, tensors may start at any element, but at elements.
    let unaligned = Linear {
        unaligned: true,
        ..good()
    };
    let at = |offset| LinearTensors {
        q: Tensor::at(&q, offset),
        ..plain
    };
    encode(&gpu, &unaligned, &at(4)).unwrap();
    assert_says(
        "half an element",
        encode(&gpu, &unaligned, &at(2)),
        "Tensor",
        &["`q`", "byte 2", "multiple of 4"],
    );
    let sparse = Linear {
        k_layout: Layout::packed(5, 512, 8),
        ..good()
    };
    assert_says(
        "far apart",
        encode(&gpu, &sparse, &plain),
        "Tensor",
        &["`k`", "holds 4096 bytes"],
    );
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn joins_that_make_no_sense() {
    let Some((gpu, complaints)) = watched() else { return };
    let join = Join {
        segments: 3,
        sequences: 2,
        heads: 4,
        head_dim: 8,
        decay: Decay::Token,
        initial_state: true,
        final_state: true,
        ..Join::default()
    };
    #[rustfmt::skip]
    let bad: [(Join, &[&str]); 7] = [
        (Join { segments: 0, ..join.clone() }, &["`segments` is 0", "1 to"]),
        (Join { sequences: 0, ..join.clone() }, &["`sequences` is 0", "1 to"]),
        (Join { heads: 0, ..join.clone() }, &["`heads` is 0", "1 to"]),
        (Join { head_dim: 257, ..join.clone() }, &["`head_dim` is 257", "1 to 256"]),
        (Join { value_dim: Some(0), ..join.clone() }, &["`value_dim` is 0", "1 to 256"]),
        (Join { segments: 1 << 28, sequences: 1 << 20, ..join.clone() }, &["2^48"]),
        (Join { segments: 1 << 28, heads: 1 << 28, ..join.clone() }, &["2^48"]),
    ];
    for (join, words) in &bad {
        assert_says("a join", join.plan(&gpu), "Invalid", words);
    }

    let plan = join.plan(&gpu).unwrap();
    let (states, totals, initial) = (vec![1.0; 3 * 512], vec![-1.0; 24], vec![1.0; 512]);
    let inputs = JoinInputs {
        states: &states,
        total_decay: Some(&totals),
        initial_state: Some(&initial),
    };
    plan.run_blocking(&inputs).unwrap();
    #[rustfmt::skip]
    let mistakes: [(JoinInputs<'_>, &[&str]); 5] = [
        (JoinInputs { states: &states[..9], ..inputs }, &["`states`", "9 elements", "[3, 2, 4, 64]"]),
        (JoinInputs { total_decay: None, ..inputs }, &["`total_decay`", "not given"]),
        (JoinInputs { total_decay: Some(&totals[..8]), ..inputs }, &["`total_decay`", "8 elements", "[3, 2, 4]"]),
        (JoinInputs { total_decay: Some(&states[..24]), ..inputs }, &["`total_decay`", "1 at index 0", "0 or below"]),
        (JoinInputs { initial_state: None, ..inputs }, &["`initial_state`", "not given"]),
    ];
    for (inputs, words) in mistakes {
        assert_says("host inputs", plan.run_blocking(&inputs), "Data", words);
    }

    let [states, totals, first, last] = [8192, 4096, 4096, 4096].map(|size| buffer(&gpu, size));
    let small = buffer(&gpu, 64);
    let some = |buffer| Some(Tensor::from(buffer));
    let right = JoinTensors {
        states: (&states).into(),
        total_decay: some(&totals),
        initial_state: some(&first),
        final_state: some(&last),
    };
    let encode = |tensors: &JoinTensors<'_>| {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let result = plan.encode(&mut encoder, tensors);
        gpu.queue().submit([encoder.finish()]);
        result
    };
    encode(&right).unwrap();
    #[rustfmt::skip]
    let mistakes: [(JoinTensors<'_>, &[&str]); 8] = [
        (JoinTensors { states: (&small).into(), ..right }, &["`states`", "holds 64 bytes", "6144 bytes"]),
        (JoinTensors { states: Tensor::at(&states, 2), ..right }, &["`states`", "byte 2"]),
        (JoinTensors { total_decay: None, ..right }, &["`total_decay`", "missing"]),
        (JoinTensors { initial_state: None, ..right }, &["`initial_state`", "missing"]),
        (JoinTensors { final_state: None, ..right }, &["`final_state`", "missing"]),
        (JoinTensors { total_decay: some(&states), ..right }, &["`states`", "same buffer as `total_decay`"]),
        (JoinTensors { final_state: some(&first), ..right }, &["`final_state`", "same buffer as `initial_state`"]),
        (JoinTensors { final_state: some(&states), ..right }, &["`final_state`", "same buffer as `states`"]),
    ];
    for (tensors, words) in &mistakes {
        assert_says("device tensors", encode(tensors), "Tensor", words);
    }
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn destroyed_buffers() {
    let Some((gpu, complaints)) = watched() else { return };
    let [q, k, v, o] = [(); 4].map(|()| buffer(&gpu, 4096));
    k.destroy();
    let result = encode(&gpu, &good(), &LinearTensors::new(&q, &k, &v, &o));
    assert_says("destroyed", result, "Device", &["destroyed"]);
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn a_lost_device_is_an_error() {
    let Some((gpu, complaints)) = watched() else { return };
    let p = all();
    let plan = p.plan(&gpu).unwrap();
    let inputs = linear::random(&p, Strength::Medium, &mut Random::new(1));
    plan.run_blocking(&inputs.inputs()).unwrap();
    let buffers = LinearBuffers::upload(&gpu, &p, &inputs.inputs()).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    plan.encode(&mut encoder, &buffers.tensors()).unwrap();
    gpu.device().destroy();
    let output = pollster::block_on(buffers.submit_and_read(&gpu, encoder));
    assert_says("read", output, "Device", &["lost", "submitting"]);
    assert_says("run", plan.run_blocking(&inputs.inputs()), "Device", &["lost"]);
    let other = Linear {
        tokens: 300,
        decay: Decay::Channel,
        ..p
    };
    let inputs = linear::random(&other, Strength::Medium, &mut Random::new(1));
    let outcome = other.plan(&gpu).and_then(|plan| plan.run_blocking(&inputs.inputs()));
    assert!(matches!(outcome, Err(Error::Device { .. })), "{outcome:?}");
    assert_eq!(*complaints.lock().unwrap(), Vec::<String>::new());
}
