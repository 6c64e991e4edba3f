//! Op `dense` in a case file.

use super::reader::{Floats, Reader};
use super::writer::Writer;
use super::{DenseCase, DenseCaseInputs, fail};
use crate::error::Result;
use crate::ops::dense::{Bias, Broadcast, Dense, Weighting};
use crate::tensor::DType;

pub(super) fn read(reader: &mut Reader<'_>, dtype: DType) -> Result<DenseCase> {
    let mut tensors = DenseCaseInputs::default();
    let mut problem = read_attention(reader, dtype, &mut tensors)?;
    let (expected_o, expected_lse) = read_expected(reader, &mut problem)?;
    let case = DenseCase {
        problem,
        tensors,
        expected_o,
        expected_lse,
    };
    check(reader.file, &case)?;
    Ok(case)
}

/// Everything about a problem but its answer.
pub(super) fn read_attention(reader: &mut Reader<'_>, dtype: DType, tensors: &mut DenseCaseInputs) -> Result<Dense> {
    let mut problem = read_main(reader, dtype, tensors)?;
    read_params(reader, &mut problem)?;
    read_optional(reader, &mut problem, tensors)?;
    Ok(problem)
}

/// The expected o and lse; a problem asks for an lse where there is one.
pub(super) fn read_expected(reader: &mut Reader<'_>, p: &mut Dense) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
    let [b, h, nq] = [p.batch, p.heads, p.queries];
    let o = reader.floats_of("expected.o", DType::F32)?;
    let o = reader.shaped("expected.o", o, &[b, h, nq, p.value_dim()])?;
    let lse = match reader.optional_floats_of("expected.lse", DType::F32)? {
        Some(lse) => Some(reader.shaped("expected.lse", lse, &[b, h, nq])?),
        None => None,
    };
    p.lse = lse.is_some();
    Ok((o, lse))
}

/// q, k and v, and from their shapes the sizes of the problem.
fn read_main(reader: &mut Reader<'_>, dtype: DType, tensors: &mut DenseCaseInputs) -> Result<Dense> {
    let q = reader.floats_of("q", dtype)?;
    let k = reader.floats_of("k", dtype)?;
    let v = reader.floats_of("v", dtype)?;
    let [batch, heads, queries, head_dim] = reader.dims4("q", &q.shape)?;
    let [_, kv_heads, keys, _] = reader.dims4("k", &k.shape)?;
    let [.., value_dim] = reader.dims4("v", &v.shape)?;
    tensors.q = q.values;
    tensors.k = reader.shaped("k", k, &[batch, kv_heads, keys, head_dim])?;
    tensors.v = reader.shaped("v", v, &[batch, kv_heads, keys, value_dim])?;
    Ok(Dense {
        batch,
        heads,
        kv_heads: (kv_heads != heads).then_some(kv_heads),
        queries,
        keys,
        head_dim,
        value_dim: (value_dim != head_dim).then_some(value_dim),
        dtype,
        ..Dense::default()
    })
}

fn read_params(reader: &mut Reader<'_>, problem: &mut Dense) -> Result<()> {
    let bias = reader.param_f32("sigmoid_bias")?;
    problem.weighting = match reader.param_str("weighting")?.as_deref() {
        None | Some("softmax") if bias.is_some() => {
            return reader.fail("param `sigmoid_bias` is given, but the weighting is softmax");
        }
        None | Some("softmax") => Weighting::Softmax,
        Some("sigmoid") => Weighting::Sigmoid { bias },
        Some(other) => return reader.fail(format!("param `weighting` is `{other}`, expected softmax or sigmoid")),
    };
    problem.scale = reader.param_f32("scale")?;
    problem.softcap = reader.param_f32("softcap")?;
    problem.causal = reader.param_bool("causal")?.unwrap_or(false);
    problem.q_offset = reader.param_i32("q_offset")?;
    problem.window_left = reader.param_u32("window_left")?;
    problem.window_right = reader.param_u32("window_right")?;
    problem.sink_tokens = reader.param_u32("sink_tokens")?.unwrap_or(0);
    problem.prefix = reader.param_u32("prefix")?.unwrap_or(0);
    Ok(())
}

fn read_optional(reader: &mut Reader<'_>, problem: &mut Dense, tensors: &mut DenseCaseInputs) -> Result<()> {
    if let Some(Floats { dtype, shape, values }) = reader.floats("bias")? {
        let shape = broadcast(reader, "bias", &shape, problem)?;
        problem.bias = Some(Bias { dtype, shape });
        tensors.bias = Some(values);
    }
    if let Some((shape, values)) = reader.bytes("mask")? {
        problem.mask = Some(broadcast(reader, "mask", &shape, problem)?);
        tensors.mask = Some(values);
    }
    tensors.kv_len = reader.ints("kv_len")?;
    problem.kv_len = tensors.kv_len.is_some();
    tensors.cu_seqlens_q = reader.ints("cu_seqlens_q")?;
    tensors.cu_seqlens_k = reader.ints("cu_seqlens_k")?;
    problem.documents = match (&tensors.cu_seqlens_q, &tensors.cu_seqlens_k) {
        (None, None) => None,
        (Some(q), Some(_)) if q.is_empty() => return reader.fail("tensor `cu_seqlens_q` is empty"),
        (Some(q), Some(_)) => Some(u32::try_from(q.len() - 1).or_else(|_| reader.fail("too many documents"))?),
        _ => return reader.fail("one of `cu_seqlens_q` and `cu_seqlens_k` without the other"),
    };
    let per_head = [problem.heads];
    if let Some(slopes) = reader.floats("alibi_slopes")? {
        tensors.alibi_slopes = Some(reader.shaped("alibi_slopes", slopes, &per_head)?);
    }
    if let Some(sinks) = reader.floats("sinks")? {
        tensors.sinks = Some(reader.shaped("sinks", sinks, &per_head)?);
    }
    problem.alibi = tensors.alibi_slopes.is_some();
    problem.sinks = tensors.sinks.is_some();
    Ok(())
}

/// `[B|1, H|1, Nq|1, Nk]`, a dimension of 1 being read as broadcast.
fn broadcast(reader: &Reader<'_>, name: &str, shape: &[usize], problem: &Dense) -> Result<Broadcast> {
    let found = reader.dims4(name, shape)?;
    let flags = Broadcast {
        per_batch: found[0] != 1,
        per_head: found[1] != 1,
        per_query: found[2] != 1,
    };
    if found == flags.dims(problem) {
        return Ok(flags);
    }
    let [b, h, nq, nk] = Broadcast::FULL.dims(problem);
    reader.fail(format!(
        "tensor `{name}` has shape {shape:?}, expected [{b}|1, {h}|1, {nq}|1, {nk}]"
    ))
}

/// That inputs and expected outputs fit the problem.
fn check(file: &str, case: &DenseCase) -> Result<()> {
    let inputs = case.inputs();
    inputs
        .check(&case.problem)
        .or_else(|error| fail(file, error.to_string()))?;
    check_expected(file, &case.problem, &case.expected_o, case.expected_lse.as_deref())
}

/// That the expected o and lse fit the problem.
pub(super) fn check_expected(file: &str, problem: &Dense, o: &[f32], lse: Option<&[f32]>) -> Result<()> {
    let rows = u128::from(problem.batch) * u128::from(problem.heads) * u128::from(problem.queries);
    let outputs = rows * u128::from(problem.value_dim());
    if o.len() as u128 != outputs {
        return fail(file, format!("the expected o has {} elements, not {outputs}", o.len()));
    }
    match lse {
        Some(lse) if lse.len() as u128 != rows => {
            fail(file, format!("the expected lse has {} elements, not {rows}", lse.len()))
        }
        lse if lse.is_some() != problem.lse => fail(
            file,
            format!(
                "`lse` is {}, but an expected lse is {}",
                problem.lse,
                given(lse.is_some())
            ),
        ),
        _ => Ok(()),
    }
}

pub(super) fn given(there: bool) -> &'static str {
    if there { "given" } else { "missing" }
}

pub(super) fn write(writer: &mut Writer<'_>, case: &DenseCase) -> Result<()> {
    check_expressible(writer.file, &case.problem)?;
    check(writer.file, case)?;
    write_attention(writer, &case.problem, &case.tensors)?;
    write_expected(writer, &case.problem, &case.expected_o, case.expected_lse.as_deref())
}

/// That the format has a place for everything that the problem asks for.
pub(super) fn check_expressible(file: &str, p: &Dense) -> Result<()> {
    if p.custom.is_some() {
        return fail(file, "a case file cannot hold custom code");
    }
    if p.selection.is_some() {
        return fail(file, "a case file cannot hold a selection");
    }
    Ok(())
}

/// Everything about a problem but its answer.
pub(super) fn write_attention(writer: &mut Writer<'_>, p: &Dense, tensors: &DenseCaseInputs) -> Result<()> {
    write_params(writer, p)?;

    let (b, h, hkv) = (p.batch, p.heads, p.kv_heads());
    writer.floats("q", p.dtype, &[b, h, p.queries, p.head_dim], &tensors.q)?;
    writer.floats("k", p.dtype, &[b, hkv, p.keys, p.head_dim], &tensors.k)?;
    writer.floats("v", p.dtype, &[b, hkv, p.keys, p.value_dim()], &tensors.v)?;
    if let (Some(bias), Some(values)) = (p.bias, &tensors.bias) {
        writer.floats("bias", bias.dtype, &bias.shape.dims(p), values)?;
    }
    if let (Some(shape), Some(values)) = (p.mask, &tensors.mask) {
        writer.bytes("mask", &shape.dims(p), values);
    }
    let ints = [
        ("kv_len", &tensors.kv_len),
        ("cu_seqlens_q", &tensors.cu_seqlens_q),
        ("cu_seqlens_k", &tensors.cu_seqlens_k),
    ];
    for (name, values) in ints {
        if let Some(values) = values {
            writer.ints(name, values);
        }
    }
    for (name, values) in [("alibi_slopes", &tensors.alibi_slopes), ("sinks", &tensors.sinks)] {
        if let Some(values) = values {
            writer.floats(name, DType::F32, &[h], values)?;
        }
    }
    Ok(())
}

pub(super) fn write_expected(writer: &mut Writer<'_>, p: &Dense, o: &[f32], lse: Option<&[f32]>) -> Result<()> {
    let [b, h, nq] = [p.batch, p.heads, p.queries];
    writer.floats("expected.o", DType::F32, &[b, h, nq, p.value_dim()], o)?;
    match lse {
        Some(lse) => writer.floats("expected.lse", DType::F32, &[b, h, nq], lse),
        None => Ok(()),
    }
}

/// Whatever differs from the format's defaults.
fn write_params(writer: &mut Writer<'_>, problem: &Dense) -> Result<()> {
    let (weighting, sigmoid_bias) = match problem.weighting {
        Weighting::Softmax => ("softmax", None),
        Weighting::Sigmoid { bias } => ("sigmoid", bias),
    };
    writer.param("weighting", weighting);
    for (key, value) in [
        ("scale", problem.scale),
        ("softcap", problem.softcap),
        ("sigmoid_bias", sigmoid_bias),
    ] {
        if let Some(value) = value {
            writer.param_f32(key, value)?;
        }
    }
    if problem.causal {
        writer.param("causal", true);
    }
    if let Some(offset) = problem.q_offset {
        writer.param("q_offset", offset);
    }
    for (key, value) in [
        ("window_left", problem.window_left),
        ("window_right", problem.window_right),
    ] {
        if let Some(value) = value {
            writer.param(key, value);
        }
    }
    for (key, value) in [("sink_tokens", problem.sink_tokens), ("prefix", problem.prefix)] {
        if value > 0 {
            writer.param(key, value);
        }
    }
    Ok(())
}
