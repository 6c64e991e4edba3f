//! Host inputs and device tensors that do not fit, buffers and devices that are gone: each has its own clear error,
//! none panics or reaches wgpu's validation, and a device that is left works afterwards.

mod common;

use common::mistakes::{assert_says, assert_unharmed, buffer, buffer_for, encode, good, watched};
use common::{Inputs, Random};
use wgpu_attention::case::DenseCaseInputs as HostTensors;
use wgpu_attention::dense::host::DenseBuffers;
use wgpu_attention::{Bias, Broadcast, Dense, DenseTensors, Error, Tensor};

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
fn a_lost_device_is_an_error() {
    let Some((gpu, complaints)) = watched() else { return };
    let p = good();
    let plan = p.plan(&gpu).unwrap();
    let inputs = Inputs::random(&p, &mut Random::new(1));
    plan.run_blocking(&inputs.tensors.inputs()).unwrap();
    let buffers = DenseBuffers::upload(&gpu, &p, &inputs.tensors.inputs()).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    buffers
        .with_tensors(|tensors| plan.encode(&mut encoder, tensors))
        .unwrap();
    gpu.device().destroy();
    let output = pollster::block_on(buffers.submit_and_read(&gpu, encoder));
    assert_says("read", output, "Device", &["lost", "submitting", "read back of `o`"]);
    let run = plan.run_blocking(&inputs.tensors.inputs());
    assert_says("run", run, "Device", &["lost", "writing `q`"]);
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
    assert_eq!(*complaints.lock().unwrap(), Vec::<String>::new());
}
