//! Mistakes: each has its own clear error, none panics or reaches wgpu's validation, and the device works afterwards.

mod common;

use std::sync::{Arc, Mutex};

use common::{Inputs, Random};
use wgpu_attention::case::DenseCaseInputs as HostTensors;
use wgpu_attention::dense::reference::Hooks;
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::dense::variant::{DecodeTile, PrefillTile};
use wgpu_attention::{
    Bias, Broadcast, Custom, CustomData, CustomElement, Dense, DenseTensors, Error, Gpu, Layout, Merge, Result,
    Strides, Tensor, Weighting,
};

/// A small good problem, for mistakes to be made in.
fn good() -> Dense {
    Dense {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        queries: 3,
        keys: 5,
        head_dim: 8,
        ..Dense::default()
    }
}

/// A device on which anything that wgpu itself has to complain about is kept.
fn watched() -> Option<(Gpu, Arc<Mutex<Vec<String>>>)> {
    let gpu = common::gpu_with(|_| {})?;
    let complaints = Arc::new(Mutex::new(vec![]));
    let kept = complaints.clone();
    gpu.device()
        .on_uncaptured_error(Arc::new(move |error| kept.lock().unwrap().push(error.to_string())));
    Some((gpu, complaints))
}

/// That nothing reached wgpu's validation, and that the device still computes.
fn assert_unharmed(gpu: &Gpu, complaints: &Mutex<Vec<String>>) {
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    assert_eq!(*complaints.lock().unwrap(), Vec::<String>::new());
    common::check("after the mistakes", gpu, &good(), &Tuning::default());
    assert_eq!(*complaints.lock().unwrap(), Vec::<String>::new());
}

/// That an error is of the wanted kind and its message says all of `words`.
fn assert_says<T>(what: &str, result: Result<T>, kind: &str, words: &[&str]) {
    let error = match result {
        Ok(_) => panic!("{what}: accepted"),
        Err(error) => error,
    };
    let found = format!("{error:?}");
    assert!(found.starts_with(kind), "{what}: {found}, expected {kind}");
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{what}: `{message}` does not say `{word}`");
    }
    println!("{what}: {message}");
}

fn strided(batch: u64, head: u64, seq: u64) -> Layout {
    Layout::Strided(Strides { batch, head, seq })
}

#[test]
fn problems_that_make_no_sense() {
    let Some((gpu, complaints)) = watched() else { return };
    let sigmoid = Weighting::Sigmoid { bias: None };
    let far = 1 << 29;
    let bad: Vec<(&str, Dense, &[&str])> = vec![
        ("batch 0", Dense { batch: 0, ..good() }, &["`batch` is 0", "1 to"]),
        ("heads 0", Dense { heads: 0, ..good() }, &["`heads` is 0", "1 to"]),
        (
            "kv_heads 0",
            Dense {
                kv_heads: Some(0),
                ..good()
            },
            &["`kv_heads` is 0", "divisor"],
        ),
        (
            "H no multiple of Hkv",
            Dense {
                kv_heads: Some(3),
                ..good()
            },
            &["`kv_heads` is 3", "divisor", "4"],
        ),
        ("queries 0", Dense { queries: 0, ..good() }, &["`queries` is 0", "1 to"]),
        ("keys 0", Dense { keys: 0, ..good() }, &["`keys` is 0", "1 to"]),
        (
            "too many keys",
            Dense { keys: far, ..good() },
            &["`keys`", "1 to 268435456"],
        ),
        (
            "D = 0",
            Dense { head_dim: 0, ..good() },
            &["`head_dim` is 0", "1 to 256"],
        ),
        (
            "D = 257",
            Dense {
                head_dim: 257,
                ..good()
            },
            &["`head_dim` is 257", "1 to 256"],
        ),
        (
            "Dv = 0",
            Dense {
                value_dim: Some(0),
                ..good()
            },
            &["`value_dim` is 0", "1 to 256"],
        ),
        (
            "Dv = 300",
            Dense {
                value_dim: Some(300),
                ..good()
            },
            &["`value_dim` is 300", "1 to 256"],
        ),
        (
            "NaN scale",
            Dense {
                scale: Some(f32::NAN),
                ..good()
            },
            &["`scale` is NaN", "finite"],
        ),
        (
            "infinite scale",
            Dense {
                scale: Some(f32::INFINITY),
                ..good()
            },
            &["`scale` is inf", "finite"],
        ),
        (
            "softcap 0",
            Dense {
                softcap: Some(0.0),
                ..good()
            },
            &["`softcap` is 0", "above 0"],
        ),
        (
            "negative softcap",
            Dense {
                softcap: Some(-1.0),
                ..good()
            },
            &["`softcap` is -1", "above 0"],
        ),
        (
            "NaN softcap",
            Dense {
                softcap: Some(f32::NAN),
                ..good()
            },
            &["`softcap` is NaN", "above 0"],
        ),
        (
            "NaN sigmoid bias",
            Dense {
                weighting: Weighting::Sigmoid { bias: Some(f32::NAN) },
                ..good()
            },
            &["`weighting.bias` is NaN", "finite"],
        ),
        (
            "q_offset",
            Dense {
                q_offset: Some(i32::MIN),
                ..good()
            },
            &["`q_offset` is -2147483648", "268435456"],
        ),
        (
            "window_left",
            Dense {
                window_left: Some(u32::MAX),
                ..good()
            },
            &["`window_left` is 4294967295", "None"],
        ),
        (
            "window_right",
            Dense {
                window_right: Some(far),
                ..good()
            },
            &["`window_right`", "None"],
        ),
        (
            "sink_tokens",
            Dense {
                sink_tokens: far,
                ..good()
            },
            &["`sink_tokens`", "0 to"],
        ),
        ("prefix", Dense { prefix: far, ..good() }, &["`prefix`", "0 to"]),
        (
            "sigmoid sinks",
            Dense {
                weighting: sigmoid,
                sinks: true,
                ..good()
            },
            &["`sinks` is true", "sigmoid"],
        ),
        (
            "sigmoid lse",
            Dense {
                weighting: sigmoid,
                lse: true,
                ..good()
            },
            &["`lse` is true", "sigmoid"],
        ),
        (
            "documents in a batch",
            Dense {
                documents: Some(2),
                ..good()
            },
            &["`batch` is 2", "documents"],
        ),
        (
            "no documents",
            Dense {
                batch: 1,
                documents: Some(0),
                ..good()
            },
            &["`documents` is 0", "1 to"],
        ),
        (
            "o's rows overlap",
            Dense {
                o_layout: strided(96, 24, 7),
                ..good()
            },
            &["`o_layout`", "place of its own"],
        ),
        (
            "o's heads overlap",
            Dense {
                o_layout: strided(96, 0, 8),
                ..good()
            },
            &["`o_layout`", "place of its own"],
        ),
        (
            "strides without end",
            Dense {
                k_layout: strided(u64::MAX, 8, 8),
                ..good()
            },
            &["`k_layout`", "48 bits"],
        ),
        (
            "a bias without end",
            Dense {
                batch: 1 << 20,
                keys: 1 << 28,
                queries: 1 << 20,
                head_dim: 1,
                k_layout: strided(0, 0, 0),
                v_layout: strided(0, 0, 0),
                bias: Some(Bias {
                    dtype: Default::default(),
                    shape: Broadcast::FULL,
                }),
                ..good()
            },
            &["`bias`", "elements"],
        ),
    ];
    for (what, problem, words) in &bad {
        assert_says(what, problem.plan(&gpu), "Invalid", words);
    }
    assert!(bad.len() >= 30);
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn tiles_that_make_no_sense() {
    let Some((gpu, complaints)) = watched() else { return };
    let prefill = PrefillTile {
        row_groups: 8,
        row_regs: 2,
        lanes: 8,
        key_regs: 4,
        chunk: 4,
        value_chunk: 4,
        prefetch: true,
        unroll: 2,
        alternate: true,
    };
    let decode = DecodeTile {
        rows: 2,
        lanes: 2,
        slots: 16,
        key_regs: 1,
        value_lanes: 4,
        prefetch: true,
    };
    let unsound = [
        KernelChoice::Prefill(PrefillTile { row_regs: 0, ..prefill }),
        KernelChoice::Prefill(PrefillTile { key_regs: 3, ..prefill }),
        KernelChoice::Prefill(PrefillTile {
            value_chunk: 12,
            ..prefill
        }),
        KernelChoice::Prefill(PrefillTile {
            chunk: u32::MAX,
            ..prefill
        }),
        KernelChoice::Decode(DecodeTile { lanes: 0, ..decode }),
        KernelChoice::Decode(DecodeTile {
            value_lanes: 3,
            ..decode
        }),
        KernelChoice::Decode(DecodeTile { rows: 8, ..decode }),
    ];
    for kernel in unsound {
        let plan = good().plan_with(
            &gpu,
            &Tuning {
                kernel: Some(kernel),
                splits: None,
            },
        );
        assert_says("an unsound tile", plan, "Invalid", &["tuning.kernel", "rules"]);
    }
    let many = KernelChoice::Prefill(PrefillTile {
        row_groups: 256,
        row_regs: 1,
        lanes: 64,
        ..prefill
    });
    let plan = good().plan_with(
        &gpu,
        &Tuning {
            kernel: Some(many),
            splits: None,
        },
    );
    assert_says(
        "too many invocations",
        plan,
        "Limit",
        &["max_compute_invocations_per_workgroup"],
    );
    let large = KernelChoice::Prefill(PrefillTile {
        row_groups: 8,
        row_regs: 256,
        ..prefill
    });
    let plan = good().plan_with(
        &gpu,
        &Tuning {
            kernel: Some(large),
            splits: None,
        },
    );
    assert_says(
        "too much memory",
        plan,
        "Limit",
        &["max_compute_workgroup_storage_size"],
    );
    for splits in [0, 1 << 30] {
        let tuning = Tuning {
            kernel: Some(KernelChoice::Decode(decode)),
            splits: Some(splits),
        };
        assert_says(
            "splits",
            good().plan_with(&gpu, &tuning),
            "Invalid",
            &["tuning.splits", "1 to"],
        );
    }
    assert_unharmed(&gpu, &complaints);
}

/// Changes one thing about otherwise right host inputs and says what the error must.
type HostMistake = (&'static str, fn(&mut HostTensors), &'static [&'static str]);

#[test]
fn host_inputs_that_do_not_fit() {
    let Some((gpu, complaints)) = watched() else { return };
    let all = Dense {
        bias: Some(Bias {
            dtype: Default::default(),
            shape: Broadcast::FULL,
        }),
        mask: Some(Broadcast::FULL),
        kv_len: true,
        alibi: true,
        sinks: true,
        ..good()
    };
    let mistakes: &[HostMistake] = &[
        (
            "q too short",
            |t| t.q.truncate(9),
            &["`q`", "9 elements", "[2, 4, 3, 8]"],
        ),
        ("k too long", |t| t.k.push(0.0), &["`k`", "[2, 2, 5, 8]"]),
        ("v empty", |t| t.v.clear(), &["`v`", "0 elements"]),
        ("no bias", |t| t.bias = None, &["`bias`", "not given"]),
        (
            "bias of another shape",
            |t| t.bias = Some(vec![0.0; 5]),
            &["`bias`", "5 elements", "[2, 4, 3, 5]"],
        ),
        ("no mask", |t| t.mask = None, &["`mask`", "not given"]),
        ("no kv_len", |t| t.kv_len = None, &["`kv_len`", "not given"]),
        (
            "kv_len negative",
            |t| t.kv_len = Some(vec![5, -1]),
            &["`kv_len`", "-1", "0 to Nk = 5"],
        ),
        (
            "kv_len too large",
            |t| t.kv_len = Some(vec![6, 1]),
            &["`kv_len`", "6", "0 to Nk = 5"],
        ),
        ("no slopes", |t| t.alibi_slopes = None, &["`alibi_slopes`", "not given"]),
        ("no sinks", |t| t.sinks = None, &["`sinks`", "not given"]),
        (
            "too many sinks",
            |t| t.sinks = Some(vec![0.0; 5]),
            &["`sinks`", "5 elements", "[4]"],
        ),
        (
            "documents out of place",
            |t| t.cu_seqlens_q = Some(vec![0, 3]),
            &["`cu_seqlens_q`", "None"],
        ),
    ];
    let mut r = Random::new(1);
    let plan = all.plan(&gpu).unwrap();
    for (what, spoil, words) in mistakes {
        let mut inputs = Inputs::random(&all, &mut r);
        spoil(&mut inputs.tensors);
        assert_says(what, plan.run_blocking(&inputs.tensors.inputs()), "Data", words);
    }

    let packed = Dense {
        batch: 1,
        documents: Some(2),
        ..good()
    };
    let plan = packed.plan(&gpu).unwrap();
    let mistakes: &[HostMistake] = &[
        (
            "decreasing",
            |t| t.cu_seqlens_q = Some(vec![0, 3, 2]),
            &["`cu_seqlens_q`", "3 at index 1, then 2", "decrease"],
        ),
        (
            "past the end",
            |t| t.cu_seqlens_k = Some(vec![0, 2, 6]),
            &["`cu_seqlens_k`", "6", "0 to Nk = 5"],
        ),
        (
            "negative",
            |t| t.cu_seqlens_k = Some(vec![-1, 2, 5]),
            &["`cu_seqlens_k`", "-1"],
        ),
        (
            "one short",
            |t| t.cu_seqlens_q = Some(vec![0, 3]),
            &["`cu_seqlens_q`", "2 elements", "[3]"],
        ),
        ("superfluous mask", |t| t.mask = Some(vec![1; 5]), &["`mask`", "None"]),
        (
            "superfluous kv_len",
            |t| t.kv_len = Some(vec![1]),
            &["`kv_len`", "None"],
        ),
    ];
    for (what, spoil, words) in mistakes {
        let mut inputs = Inputs::random(&packed, &mut r);
        spoil(&mut inputs.tensors);
        assert_says(what, plan.run_blocking(&inputs.tensors.inputs()), "Data", words);
    }
    assert_unharmed(&gpu, &complaints);
}

fn buffer(gpu: &Gpu, size: u64) -> wgpu::Buffer {
    buffer_for(gpu, size, wgpu::BufferUsages::STORAGE)
}

fn buffer_for(gpu: &Gpu, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage,
        mapped_at_creation: false,
    })
}

/// What `encode` says to these tensors; the encoder is submitted, so that what it recorded is validated.
fn encode(gpu: &Gpu, problem: &Dense, tensors: &DenseTensors<'_>) -> Result<()> {
    let plan = problem.plan(gpu).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let result = plan.encode(&mut encoder, tensors);
    gpu.queue().submit([encoder.finish()]);
    result
}

#[test]
fn device_tensors_that_do_not_fit() {
    let Some((gpu, complaints)) = watched() else { return };
    let p = good();
    let (q, k, v, o) = (
        buffer(&gpu, 4096),
        buffer(&gpu, 4096),
        buffer(&gpu, 4096),
        buffer(&gpu, 4096),
    );
    let extra = buffer(&gpu, 4096);
    let right = DenseTensors::new(&q, &k, &v, &o);
    encode(&gpu, &p, &right).unwrap();

    let small = buffer(&gpu, 64);
    let uniform = buffer_for(&gpu, 4096, wgpu::BufferUsages::UNIFORM);
    let some = Some(Tensor::from(&extra));
    let cases: Vec<(&str, DenseTensors<'_>, &[&str])> = vec![
        (
            "o is q",
            DenseTensors {
                o: (&q).into(),
                ..right
            },
            &["`o`", "same buffer as `q`"],
        ),
        (
            "o beside v",
            DenseTensors {
                o: Tensor::at(&v, 1024),
                ..right
            },
            &["`o`", "same buffer as `v`"],
        ),
        (
            "a small buffer",
            DenseTensors {
                k: (&small).into(),
                ..right
            },
            &["`k`", "holds 64 bytes", "640 bytes"],
        ),
        (
            "no STORAGE",
            DenseTensors {
                v: (&uniform).into(),
                ..right
            },
            &["`v`", "usage STORAGE", "UNIFORM"],
        ),
        (
            "misaligned",
            DenseTensors {
                q: Tensor::at(&q, 4),
                ..right
            },
            &["`q`", "byte 4", "multiple of 16"],
        ),
        (
            "odd bytes",
            DenseTensors {
                k: Tensor::at(&k, 3),
                ..right
            },
            &["`k`", "byte 3"],
        ),
        (
            "past the end",
            DenseTensors {
                q: Tensor::at(&q, 4096),
                ..right
            },
            &["`q`", "offset 4096"],
        ),
        (
            "beyond all",
            DenseTensors {
                o: Tensor::at(&o, u64::MAX - 15),
                ..right
            },
            &["`o`", "offset"],
        ),
        (
            "superfluous lse",
            DenseTensors { lse: some, ..right },
            &["`lse`", "given", "none"],
        ),
        (
            "superfluous bias",
            DenseTensors { bias: some, ..right },
            &["`bias`", "given", "none"],
        ),
        (
            "superfluous mask",
            DenseTensors { mask: some, ..right },
            &["`mask`", "given", "none"],
        ),
        (
            "superfluous kv_len",
            DenseTensors { kv_len: some, ..right },
            &["`kv_len`", "given", "none"],
        ),
        (
            "superfluous offsets",
            DenseTensors {
                cu_seqlens_k: some,
                ..right
            },
            &["`cu_seqlens_k`", "given", "none"],
        ),
        (
            "superfluous slopes",
            DenseTensors {
                alibi_slopes: some,
                ..right
            },
            &["`alibi_slopes`", "given", "none"],
        ),
        (
            "superfluous sinks",
            DenseTensors { sinks: some, ..right },
            &["`sinks`", "given", "none"],
        ),
    ];
    for (what, tensors, words) in &cases {
        assert_says(what, encode(&gpu, &p, tensors), "Tensor", words);
    }
    let data = [Tensor::from(&extra)];
    let superfluous = DenseTensors {
        custom_data: &data,
        ..right
    };
    assert_says(
        "superfluous data",
        encode(&gpu, &p, &superfluous),
        "Tensor",
        &["`custom_data`", "1 arrays", "0"],
    );

    let bias = Some(Bias {
        dtype: Default::default(),
        shape: Broadcast::FULL,
    });
    let missing: Vec<(&str, Dense)> = vec![
        ("lse", Dense { lse: true, ..good() }),
        ("bias", Dense { bias, ..good() }),
        (
            "mask",
            Dense {
                mask: Some(Broadcast::FULL),
                ..good()
            },
        ),
        ("kv_len", Dense { kv_len: true, ..good() }),
        (
            "cu_seqlens_q",
            Dense {
                batch: 1,
                documents: Some(1),
                ..good()
            },
        ),
        ("alibi_slopes", Dense { alibi: true, ..good() }),
        ("sinks", Dense { sinks: true, ..good() }),
    ];
    for (name, problem) in &missing {
        let words = [format!("`{name}`"), "missing".into()];
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        assert_says("missing", encode(&gpu, problem, &right), "Tensor", &words);
    }
    let lse = Dense { lse: true, ..good() };
    let shared = DenseTensors {
        lse: Some(Tensor::at(&o, 2048)),
        ..right
    };
    assert_says(
        "lse beside o",
        encode(&gpu, &lse, &shared),
        "Tensor",
        &["`lse`", "same buffer as `o`"],
    );
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn destroyed_buffers() {
    let Some((gpu, complaints)) = watched() else { return };
    let (q, k, v, o) = (
        buffer(&gpu, 4096),
        buffer(&gpu, 4096),
        buffer(&gpu, 4096),
        buffer(&gpu, 4096),
    );
    v.destroy();
    assert_says(
        "destroyed",
        encode(&gpu, &good(), &DenseTensors::new(&q, &k, &v, &o)),
        "Device",
        &["destroyed"],
    );
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn merges_that_make_no_sense() {
    let Some((gpu, complaints)) = watched() else { return };
    let m = Merge::default();
    let bad: Vec<(&str, Merge, &str, &[&str])> = vec![
        (
            "no parts",
            Merge { parts: 0, ..m.clone() },
            "Invalid",
            &["`parts` is 0", "1 to"],
        ),
        (
            "Dv = 0",
            Merge {
                value_dim: 0,
                ..m.clone()
            },
            "Invalid",
            &["`value_dim` is 0", "1 to 256"],
        ),
        (
            "additive lse",
            Merge {
                additive: true,
                lse: true,
                ..m.clone()
            },
            "Invalid",
            &["`lse` is true", "false"],
        ),
        (
            "overlap",
            Merge {
                queries: 2,
                o_layout: strided(0, 0, 1),
                ..m.clone()
            },
            "Invalid",
            &["`o_layout`"],
        ),
        (
            "too large",
            Merge {
                parts: 1 << 28,
                batch: 1 << 14,
                heads: 1 << 14,
                queries: 1 << 12,
                ..m.clone()
            },
            "Limit",
            &["max_storage_buffer_binding_size", "parts_o"],
        ),
    ];
    for (what, merge, kind, words) in &bad {
        assert_says(what, merge.plan(&gpu), kind, words);
    }
    assert_unharmed(&gpu, &complaints);
}

fn with_score(text: &str) -> Dense {
    Dense {
        custom: Some(Custom {
            score: Some(text.into()),
            ..Custom::default()
        }),
        ..good()
    }
}

fn with_mask(text: &str) -> Dense {
    Dense {
        custom: Some(Custom {
            mask: Some(text.into()),
            ..Custom::default()
        }),
        ..good()
    }
}

/// What, the problem, the line and column to be shown, what the message must say.
type CodeMistake = (&'static str, Dense, (u32, u32), &'static [&'static str]);

#[test]
fn custom_code_with_mistakes() {
    let Some((gpu, complaints)) = watched() else { return };
    let score = "fn score(s: f32, at: Position) -> f32 { return s; }";
    // The wanted line and column count from 1 in the caller's own text; 0 is the whole snippet.
    let bad: Vec<CodeMistake> = vec![
        (
            "does not parse",
            with_score("fn score(s: f32, at: Position) -> f32 {\n    return s +;\n}"),
            (2, 15),
            &["score", "line 2"],
        ),
        (
            "unknown name",
            with_mask("fn mask(at: Position) -> bool {\n  let x = 1;\n  return at.key < limit;\n}"),
            (3, 19),
            &["mask", "limit"],
        ),
        (
            "unknown field",
            with_score("fn score(s: f32, at: Position) -> f32 { return s * f32(at.row); }"),
            (1, 59),
            &["row"],
        ),
        (
            "wrong type",
            with_score("fn score(s: f32, at: Position) -> f32 {\n\n  return at.key;\n}"),
            (3, 10),
            &["score"],
        ),
        (
            "no end",
            with_score("fn score(s: f32, at: Position) -> f32 {\n  return s;\n"),
            (2, 0),
            &["score"],
        ),
        (
            "no such function",
            with_mask("fn visible(at: Position) -> bool { return true; }"),
            (0, 0),
            &["mask", "fn mask(at: Position) -> bool"],
        ),
        (
            "wrong signature",
            with_score("fn score(s: f32) -> f32 { return s; }"),
            (0, 0),
            &["fn score(s: f32, at: Position) -> f32"],
        ),
        (
            "wrong result",
            with_mask("fn mask(at: Position) -> f32 { return 1.0; }"),
            (0, 0),
            &["fn mask(at: Position) -> bool"],
        ),
        (
            "no result",
            with_mask("fn mask(at: Position) { }"),
            (0, 0),
            &["fn mask(at: Position) -> bool"],
        ),
        ("empty", with_score(""), (0, 0), &["there is no `fn score"]),
        (
            "binding",
            with_score(&format!(
                "@group(0) @binding(3) var<storage> mine: array<f32>;\n{score}"
            )),
            (0, 0),
            &["Custom::data"],
        ),
        (
            "variable",
            with_score(&format!("var<private> n: u32;\n{score}")),
            (0, 0),
            &["Custom::data"],
        ),
        (
            "entry point",
            with_score(&format!("@compute @workgroup_size(1) fn main() {{}}\n{score}")),
            (0, 0),
            &["entry points"],
        ),
        (
            "enable",
            with_score(&format!("enable f16;\n{score}")),
            (1, 1),
            &["enable"],
        ),
        (
            "the kernel's function",
            with_score(&format!("fn row_sees(x: f32) -> f32 {{ return x; }}\n{score}")),
            (0, 0),
            &["row_sees", "choose another"],
        ),
        (
            "the kernel's constant",
            with_score(&format!("const KEYS = 3;\n{score}")),
            (0, 0),
            &["KEYS", "choose another"],
        ),
        (
            "a built-in function",
            with_score(&format!("fn exp2(x: f32) -> f32 {{ return 0.0; }}\n{score}")),
            (0, 0),
            &["exp2"],
        ),
        (
            "a built-in type",
            with_score(&format!("struct Row {{ x: f32 }}\n{score}")),
            (0, 0),
            &["Row", "choose another"],
        ),
        (
            "recursion",
            with_score("fn score(s: f32, at: Position) -> f32 { return score(s, at); }"),
            (1, 4),
            &["score"],
        ),
        (
            "barrier",
            with_score("fn score(s: f32, at: Position) -> f32 { workgroupBarrier(); return s; }"),
            (0, 0),
            &["arrier"],
        ),
    ];
    let mut elsewhere = vec![];
    for (what, problem, wanted, words) in &bad {
        let result = problem.plan(&gpu);
        if let Err(Error::Snippet {
            line, column, message, ..
        }) = &result
        {
            // An unexpected end may be told at the end of the last line or past it.
            let near = wanted.1 == 0 && wanted.0 > 0;
            if *line != wanted.0 || !(near || *column == wanted.1) {
                elsewhere.push(format!("{what}: {line}:{column}, not {wanted:?}: {message}"));
            }
        }
        assert_says(what, result, "Snippet", words);
    }
    assert!(elsewhere.is_empty(), "{}", elsewhere.join("\n"));
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn custom_data_with_mistakes() {
    let Some((gpu, complaints)) = watched() else { return };
    let named = |names: &[&str]| Dense {
        custom: Some(Custom {
            score: Some("fn score(s: f32, at: Position) -> f32 { return s; }".into()),
            mask: None,
            data: names
                .iter()
                .map(|n| CustomData {
                    name: (*n).into(),
                    element: CustomElement::F32,
                })
                .collect(),
        }),
        ..good()
    };
    for name in ["", "9lives", "a b", "x;", "größe", "_", "x: u32; var<private> y"] {
        assert_says(
            "a name",
            named(&[name]).plan(&gpu),
            "Invalid",
            &["custom.data", "letters"],
        );
    }
    assert_says(
        "a name twice",
        named(&["a", "a"]).plan(&gpu),
        "Invalid",
        &["`a`", "each once"],
    );
    assert_says("a keyword", named(&["while"]).plan(&gpu), "Snippet", &["while"]);
    assert_says(
        "a kernel's name",
        named(&["params"]).plan(&gpu),
        "Snippet",
        &["params", "choose another"],
    );
    let nothing = Dense {
        custom: Some(Custom::default()),
        ..good()
    };
    assert_says("no code", nothing.plan(&gpu), "Invalid", &["custom", "at least one"]);

    let two = named(&["a", "b"]);
    let (q, k, v, o) = (
        buffer(&gpu, 4096),
        buffer(&gpu, 4096),
        buffer(&gpu, 4096),
        buffer(&gpu, 4096),
    );
    let extra = buffer(&gpu, 4096);
    let right = DenseTensors::new(&q, &k, &v, &o);
    let wrong: [(&[Tensor<'_>], &[&str]); 4] = [
        (&[], &["0 arrays", "2"]),
        (&[(&extra).into()], &["1 arrays", "2"]),
        (&[(&extra).into(), Tensor::at(&extra, 4)], &["byte 4", "multiple of"]),
        (&[(&extra).into(), (&o).into()], &["`o`", "custom_data"]),
    ];
    for (data, words) in wrong {
        let tensors = DenseTensors {
            custom_data: data,
            ..right
        };
        assert_says("data", encode(&gpu, &two, &tensors), "Tensor", words);
    }
    let inputs = Inputs::random(&two, &mut Random::new(1));
    let result = two.plan(&gpu).unwrap().run_blocking(&inputs.tensors.inputs());
    assert_says("host data", result, "Data", &["`custom_data`", "0 arrays", "2"]);
    let hooks = Hooks::default();
    let truth = inputs.with(|i| wgpu_attention::dense::reference::dense(&good(), i, &hooks));
    assert!(truth.is_ok());
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn more_storage_buffers_than_the_device_has() {
    let Some(gpu) = common::gpu_with(|o| o.minimal = true) else {
        return;
    };
    let most = gpu.limits().max_storage_buffers_per_shader_stage;
    let p = Dense {
        custom: Some(Custom {
            score: Some("fn score(s: f32, at: Position) -> f32 { return s; }".into()),
            mask: None,
            data: (0..most)
                .map(|n| CustomData {
                    name: format!("array{n}"),
                    element: CustomElement::U32,
                })
                .collect(),
        }),
        ..good()
    };
    let words = ["max_storage_buffers_per_shader_stage", "custom data"];
    assert_says("too many buffers", p.plan(&gpu), "Limit", &words);
}

#[test]
fn workgroup_memory_that_is_too_small() {
    let Some(mut limits) = common::limits() else { return };
    limits.max_compute_workgroup_storage_size = 2048;
    let Some(gpu) = common::gpu_with(|o| o.limits = Some(limits)) else {
        return;
    };
    let many = Dense { queries: 100, ..good() };
    assert_says(
        "2 KiB",
        many.plan(&gpu),
        "Limit",
        &["max_compute_workgroup_storage_size", "2048"],
    );
}

#[test]
fn a_lost_device_is_an_error() {
    let Some((gpu, complaints)) = watched() else { return };
    let p = good();
    let plan = p.plan(&gpu).unwrap();
    let inputs = Inputs::random(&p, &mut Random::new(1));
    plan.run_blocking(&inputs.tensors.inputs()).unwrap();
    gpu.device().destroy();
    let run = plan.run_blocking(&inputs.tensors.inputs());
    assert_says("run", run, "Device", &["device"]);
    for problem in [
        p,
        Dense {
            queries: 50,
            kv_len: true,
            alibi: true,
            ..good()
        },
    ] {
        let outcome = problem
            .plan(&gpu)
            .and_then(|plan| plan.run_blocking(&inputs.tensors.inputs()));
        assert!(
            matches!(outcome, Err(Error::Device { .. } | Error::Data { .. })),
            "{outcome:?}"
        );
    }
    println!("{:?}", complaints.lock().unwrap());
}
