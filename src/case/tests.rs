//! Round trips, and every mistake in a file with its own message.

mod linear;
mod topk;

use std::collections::HashMap;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::*;
use crate::compare::{self, Tolerance};
use crate::ops::dense::reference::{self, Hooks};
use crate::ops::dense::{Bias, Broadcast, Custom, Weighting};

/// B = 1, H = 4, Hkv = 2, Nq = 3, Nk = 5, D = 4, Dv = 2, with everything that goes together.
fn rich() -> Case {
    let broadcast = Broadcast {
        per_batch: false,
        per_head: false,
        per_query: true,
    };
    let problem = Dense {
        heads: 4,
        kv_heads: Some(2),
        queries: 3,
        keys: 5,
        head_dim: 4,
        value_dim: Some(2),
        dtype: DType::F16,
        scale: Some(0.1),
        softcap: Some(std::f32::consts::PI),
        causal: true,
        q_offset: Some(-1),
        window_left: Some(1),
        window_right: Some(u32::MAX),
        sink_tokens: 1,
        prefix: 2,
        bias: Some(Bias {
            dtype: DType::BF16,
            shape: broadcast,
        }),
        mask: Some(broadcast),
        kv_len: true,
        documents: Some(2),
        alibi: true,
        sinks: true,
        lse: true,
        ..Default::default()
    };
    let ramp = |n: usize, step: f32| (0..n).map(|i| step * (i as f32 - 3.0)).collect::<Vec<_>>();
    let mut bias = ramp(15, 0.5);
    bias[7] = f32::NEG_INFINITY;
    let tensors = DenseCaseInputs {
        q: ramp(48, 0.25),
        k: ramp(40, 0.125),
        v: ramp(20, -0.5),
        bias: Some(bias),
        mask: Some((0..15).map(|i| i % 4).collect()),
        kv_len: Some(vec![4]),
        cu_seqlens_q: Some(vec![0, 1, 3]),
        cu_seqlens_k: Some(vec![0, 2, 5]),
        alibi_slopes: Some(ramp(4, 0.3)),
        sinks: Some(ramp(4, 0.7)),
    };
    solved(&problem, &tensors)
}

fn solved(problem: &Dense, tensors: &DenseCaseInputs) -> Case {
    let inputs = tensors.inputs();
    let expected = reference::dense(problem, &inputs, &Hooks::default()).unwrap();
    Case::dense("rich", "the float64 reference", problem, &inputs, &expected)
}

fn dense_case(case: &mut Case) -> &mut DenseCase {
    match &mut case.op {
        Op::Dense(case) => case,
        other => panic!("{other:?}"),
    }
}

/// What makes up a file, to be spoilt before it is put together.
struct Parts {
    metadata: HashMap<String, String>,
    tensors: HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Parts {
    fn of(case: &Case) -> Self {
        let bytes = case.to_bytes().unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        let tensors = tensors
            .into_iter()
            .map(|(n, t)| (n, (t.dtype(), t.shape().to_vec(), t.data().to_vec())));
        Parts {
            metadata: header.metadata().clone().unwrap(),
            tensors: tensors.collect(),
        }
    }

    fn meta(&mut self, key: &str, value: &str) {
        self.metadata.insert(key.into(), value.into());
    }

    fn tensor(&mut self, name: &str, dtype: Dtype, shape: &[usize]) {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        self.tensors
            .insert(name.into(), (dtype, shape.to_vec(), vec![0; bytes]));
    }

    fn load(&self) -> Result<Case> {
        let view = |(dtype, shape, data): &'_ (Dtype, Vec<usize>, Vec<u8>)| (*dtype, shape.clone(), data.clone());
        let owned: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, parts)| (name.clone(), view(parts)))
            .collect();
        let views = owned
            .iter()
            .map(|(n, (dtype, shape, data))| (n, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        let bytes = safetensors::serialize(views, Some(self.metadata.clone())).unwrap();
        Case::from_bytes("bad", &bytes)
    }
}

/// The error of `rich()` after `spoil`.
fn spoilt(spoil: impl FnOnce(&mut Parts)) -> String {
    let mut parts = Parts::of(&rich());
    spoil(&mut parts);
    let error = parts.load().unwrap_err();
    let Error::File { file, message } = error else {
        panic!("{error}")
    };
    assert_eq!(file, "bad");
    message
}

#[test]
fn a_case_reads_back_to_the_bit() {
    let case = rich();
    assert_eq!(Case::from_bytes("rich", &case.to_bytes().unwrap()).unwrap(), case);

    let problem = Dense {
        batch: 2,
        keys: 3,
        head_dim: 1,
        dtype: DType::BF16,
        weighting: Weighting::Sigmoid { bias: Some(-0.3) },
        mask: Some(Broadcast {
            per_batch: true,
            per_head: false,
            per_query: false,
        }),
        ..Default::default()
    };
    let tensors = DenseCaseInputs {
        q: vec![1.5, -0.0],
        k: vec![1.0, f32::MIN_POSITIVE, 3.0, f32::from_bits(0x0001_0000), 5.0, 6.0],
        v: vec![2.0, 0.5, 4.0, 8.0, 16.0, 32.0],
        mask: Some(vec![1, 0, 1, 1, 1, 0]),
        ..Default::default()
    };
    let case = solved(&problem, &tensors);
    assert_eq!(Case::from_bytes("rich", &case.to_bytes().unwrap()).unwrap(), case);
}

#[test]
fn a_case_goes_through_a_file() {
    let case = rich();
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("cases/rich.safetensors");
    let error = case.save(&path).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("file {}: cannot be written: ", path.display())),
        "{error}"
    );
    let directory = path.parent().unwrap();
    std::fs::create_dir_all(directory).unwrap();
    case.save(&path).unwrap();
    assert_eq!(Case::load(&path).unwrap(), case);
    std::fs::remove_dir_all(directory).unwrap();
    let error = Case::load(&path).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("file {}: cannot be read: ", path.display())),
        "{error}"
    );
}

#[test]
fn what_was_saved_still_passes() {
    let mut case = Case::from_bytes("rich", &rich().to_bytes().unwrap()).unwrap();
    let case = dense_case(&mut case);
    let output = reference::dense(&case.problem, &case.inputs(), &Hooks::default()).unwrap();
    let o: Vec<f32> = output.o.iter().map(|&o| o as f32).collect();
    assert!(compare::output(&o, &case.expected().o, &Tolerance::for_dtype(DType::F32)).passed());
}

#[test]
fn sixteen_bit_tensors_are_widened_exactly() {
    let mut parts = Parts::of(&rich());
    parts.tensor("sinks", Dtype::BF16, &[4]);
    parts.tensors.get_mut("sinks").unwrap().2 = vec![0x80, 0x3f, 0x01, 0x00, 0x80, 0xff, 0x49, 0x40];
    parts.tensor("alibi_slopes", Dtype::F16, &[4]);
    parts.tensors.get_mut("alibi_slopes").unwrap().2 = vec![0x01, 0x00, 0xff, 0x7b, 0x55, 0x35, 0x00, 0x80];
    let mut case = parts.load().unwrap();
    let tensors = &dense_case(&mut case).tensors;
    let smallest = f32::from_bits(0x0001_0000);
    assert_eq!(
        tensors.sinks.as_deref(),
        Some(&[1.0, smallest, f32::NEG_INFINITY, 3.140625][..])
    );
    assert_eq!(
        tensors.alibi_slopes.as_deref(),
        Some(&[2f32.powi(-24), 65504.0, 1365.0 / 4096.0, -0.0][..])
    );
}

#[test]
fn an_unknown_op_is_refused() {
    assert_eq!(
        spoilt(|p| p.meta("op", "sparse")),
        "unknown op `sparse`; known: dense, linear, topk"
    );
}

#[test]
fn bytes_that_are_no_container_are_refused() {
    for bytes in [
        &b""[..],
        b"12345678",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f{}",
        b"\x02\0\0\0\0\0\0\0{}trailing",
    ] {
        let error = Case::from_bytes("bad", bytes).unwrap_err().to_string();
        assert!(error.starts_with("file bad: not a safetensors file: "), "{error}");
    }
    let error = Case::from_bytes("bad", b"\x02\0\0\0\0\0\0\0{}")
        .unwrap_err()
        .to_string();
    assert_eq!(error, "file bad: no `format` in its metadata");
    let whole = rich().to_bytes().unwrap();
    for len in [whole.len() / 2, whole.len() - 1] {
        assert!(Case::from_bytes("bad", &whole[..len]).is_err());
    }
}

#[test]
fn mistaken_metadata_is_refused() {
    for key in ["format", "op", "params", "dtype", "source"] {
        let message = spoilt(|p| {
            p.metadata.remove(key);
        });
        assert_eq!(message, format!("no `{key}` in its metadata"));
    }
    let message = spoilt(|p| p.meta("format", "wgpu-attention-case/2"));
    assert_eq!(
        message,
        "format is `wgpu-attention-case/2`, expected `wgpu-attention-case/1`"
    );
    assert_eq!(
        spoilt(|p| p.meta("dtype", "f64")),
        "dtype is `f64`, expected f32, f16 or bf16"
    );
    assert_eq!(
        spoilt(|p| p.meta("params", "[1]")),
        "params is [1], expected a JSON object"
    );
    assert!(spoilt(|p| p.meta("params", "{causal}")).starts_with("params is not JSON: "));
}

#[test]
fn mistaken_params_are_refused() {
    let refused = [
        (r#"{"causl": true}"#, "unknown param `causl` of its op"),
        (r#"{"top_k": 3}"#, "unknown param `top_k` of its op"),
        (r#"{"causal": 1}"#, "param `causal` is 1, expected true or false"),
        (r#"{"causal": null}"#, "param `causal` is null, expected true or false"),
        (
            r#"{"window_left": -1}"#,
            "param `window_left` is -1, expected an integer from 0 to 2³² − 1",
        ),
        (
            r#"{"prefix": 1.5}"#,
            "param `prefix` is 1.5, expected an integer from 0 to 2³² − 1",
        ),
        (
            r#"{"q_offset": 3000000000}"#,
            "param `q_offset` is 3000000000, expected an integer of 32 bits",
        ),
        (
            r#"{"scale": "0.5"}"#,
            "param `scale` is \"0.5\", expected a number in the range of f32",
        ),
        (
            r#"{"scale": 1e39}"#,
            "param `scale` is 1e+39, expected a number in the range of f32",
        ),
        (r#"{"softcap": 0}"#, "`softcap` is 0; allowed: a finite number above 0"),
        (
            r#"{"weighting": "relu"}"#,
            "param `weighting` is `relu`, expected softmax or sigmoid",
        ),
        (
            r#"{"sigmoid_bias": 1}"#,
            "param `sigmoid_bias` is given, but the weighting is softmax",
        ),
        (
            r#"{"weighting": "sigmoid"}"#,
            "`lse` is true; allowed: false with sigmoid weighting, which has no normaliser",
        ),
    ];
    for (params, message) in refused {
        assert_eq!(spoilt(|p| p.meta("params", params)), message);
    }
}

/// Three query heads everywhere, on two KV heads.
fn three_heads(parts: &mut Parts) {
    parts.tensor("q", Dtype::F16, &[1, 3, 3, 4]);
    parts.tensor("alibi_slopes", Dtype::F32, &[3]);
    parts.tensor("sinks", Dtype::F32, &[3]);
    parts.tensor("expected.o", Dtype::F32, &[1, 3, 3, 2]);
    parts.tensor("expected.lse", Dtype::F32, &[1, 3, 3]);
}

#[test]
fn mistaken_tensors_are_refused() {
    type Spoil = fn(&mut Parts);
    #[rustfmt::skip]
    let refused: [(Spoil, &str); 23] = [
        (|p| { p.tensors.remove("k"); }, "no tensor `k`"),
        (|p| { p.tensors.remove("expected.o"); }, "no tensor `expected.o`"),
        (|p| p.tensor("attn_mask", Dtype::U8, &[3]), "unknown tensor `attn_mask` of its op"),
        (|p| p.tensor("expected.weights", Dtype::F32, &[3]), "unknown tensor `expected.weights` of its op"),
        (|p| p.tensor("q", Dtype::F32, &[1, 4, 3, 4]), "tensor `q` is f32, expected f16"),
        (|p| p.tensor("q", Dtype::F64, &[1, 4, 3, 4]), "tensor `q` is F64, expected F32, F16 or BF16"),
        (|p| p.tensor("q", Dtype::F16, &[4, 3, 4]),
            "tensor `q` has shape [4, 3, 4], expected four dimensions below 2³²"),
        (three_heads, "`kv_heads` is 2; allowed: a divisor of `heads`, 3"),
        (|p| p.tensor("k", Dtype::F16, &[2, 2, 5, 4]), "tensor `k` has shape [2, 2, 5, 4], expected [1, 2, 5, 4]"),
        (|p| p.tensor("k", Dtype::F16, &[1, 2, 5, 3]), "tensor `k` has shape [1, 2, 5, 3], expected [1, 2, 5, 4]"),
        (|p| p.tensor("v", Dtype::F16, &[1, 2, 6, 2]), "tensor `v` has shape [1, 2, 6, 2], expected [1, 2, 5, 2]"),
        (|p| p.tensor("bias", Dtype::I32, &[1, 1, 3, 5]), "tensor `bias` is I32, expected F32, F16 or BF16"),
        (|p| p.tensor("bias", Dtype::F32, &[1, 2, 3, 5]),
            "tensor `bias` has shape [1, 2, 3, 5], expected [1|1, 4|1, 3|1, 5]"),
        (|p| p.tensor("mask", Dtype::BOOL, &[1, 1, 3, 5]), "tensor `mask` is BOOL, expected U8"),
        (|p| p.tensor("mask", Dtype::U8, &[1, 1, 3, 1]),
            "tensor `mask` has shape [1, 1, 3, 1], expected [1|1, 4|1, 3|1, 5]"),
        (|p| p.tensor("kv_len", Dtype::I64, &[1]), "tensor `kv_len` is I64, expected I32"),
        (|p| p.tensor("kv_len", Dtype::I32, &[1, 1]), "tensor `kv_len` has shape [1, 1], expected one dimension"),
        (|p| { p.tensors.remove("cu_seqlens_k"); }, "one of `cu_seqlens_q` and `cu_seqlens_k` without the other"),
        (|p| p.tensor("cu_seqlens_k", Dtype::I32, &[2]),
            "input `cu_seqlens_k`: 2 elements; needed: [S + 1] = [3], 3 elements"),
        (|p| p.tensor("sinks", Dtype::F32, &[2]), "tensor `sinks` has shape [2], expected [4]"),
        (|p| p.tensor("expected.o", Dtype::F16, &[1, 4, 3, 2]), "tensor `expected.o` is f16, expected f32"),
        (|p| p.tensor("expected.o", Dtype::F32, &[1, 4, 2, 3]),
            "tensor `expected.o` has shape [1, 4, 2, 3], expected [1, 4, 3, 2]"),
        (|p| p.tensor("expected.lse", Dtype::F32, &[1, 4, 3, 1]),
            "tensor `expected.lse` has shape [1, 4, 3, 1], expected [1, 4, 3]"),
    ];
    for (spoil, message) in refused {
        let found = spoilt(spoil);
        assert!(found.starts_with(message), "{found}, not {message}");
    }
}

#[test]
fn mistaken_values_are_refused() {
    let message = spoilt(|p| p.tensors.get_mut("kv_len").unwrap().2 = 9i32.to_le_bytes().to_vec());
    assert_eq!(message, "input `kv_len`: 9 at batch entry 0; needed: 0 to Nk = 5");
    let message = spoilt(|p| p.tensors.get_mut("cu_seqlens_q").unwrap().2[4] = 7);
    assert_eq!(message, "input `cu_seqlens_q`: 7 at index 1; needed: 0 to Nq = 3");
}

#[test]
fn what_the_format_cannot_hold_is_not_written() {
    let refused = |change: fn(&mut DenseCase)| {
        let mut case = rich();
        change(dense_case(&mut case));
        case.to_bytes().unwrap_err().to_string()
    };
    let message = refused(|c| c.problem.custom = Some(Custom::default()));
    assert_eq!(message, "file rich: a case file cannot hold custom code");
    let message = refused(|c| c.problem.selection = Some(crate::Hierarchical::default().selection()));
    assert_eq!(message, "file rich: a case file cannot hold a selection");
    let message = refused(|c| c.tensors.q[5] = 0.1);
    assert_eq!(message, "file rich: `q`[5] is 0.1, which is no f16 value");
    let message = refused(|c| c.problem.lse = false);
    assert_eq!(message, "file rich: `lse` is false, but an expected lse is given");
    let message = refused(|c| c.problem.dtype = DType::F32);
    assert_eq!(message, "file rich: the case's dtype is f16, its problem's f32");
    let message = refused(|c| c.expected_o.truncate(3));
    assert_eq!(message, "file rich: the expected o has 3 elements, not 24");
    let message = refused(|c| c.tensors.sinks = None);
    assert!(message.starts_with("file rich: input `sinks`: not given"), "{message}");
}
