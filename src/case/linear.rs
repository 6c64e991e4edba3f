//! Op `linear` in a case file.

use super::dense::given;
use super::fail;
use super::reader::{Floats, Reader};
use super::writer::Writer;
use crate::compare::{self, LinearComparison, Tolerance};
use crate::error::Result;
use crate::ops::linear::{Decay, FeatureMap, Linear, LinearInputs, LinearOutput, split_states};
use crate::tensor::DType;

/// A linear problem, its inputs and what it should give.
///
/// What a file cannot express has one reading: layouts are contiguous, the output has the inputs' storage type, states
/// are not `in_place`, and `kv_heads` and `value_dim` are `None` where they equal `heads` and `head_dim`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearCase {
    /// The problem; `final_state` and `total_decay` are true where the file has an expected one.
    pub problem: Linear,
    /// The inputs.
    pub tensors: LinearCaseInputs,
    /// `[B, H, N, Dv]`
    pub expected_o: Vec<f32>,
    /// S of the final state, `[B|S, H, D, Dv]`.
    pub expected_state: Option<Vec<f32>>,
    /// z of the final state, `[B|S, H, D]`. May be missing where there is an `expected_state`.
    pub expected_normalizer: Option<Vec<f32>>,
    /// `[B|S, H]`, or `[B|S, H, D]` for [`Decay::Channel`].
    pub expected_total_decay: Option<Vec<f32>>,
}

/// The inputs of a linear problem, owned; 16-bit ones widened to f32, exactly. Shapes as in [`LinearInputs`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinearCaseInputs {
    /// `[B, H, N, D]`
    pub q: Vec<f32>,
    /// `[B, Hkv, N, D]`
    pub k: Vec<f32>,
    /// `[B, Hkv, N, Dv]`
    pub v: Vec<f32>,
    /// `[H]`, `[B, H, N]` or `[B, H, N, D]`
    pub log_decay: Option<Vec<f32>>,
    /// `[S + 1]`
    pub cu_seqlens: Option<Vec<i32>>,
    /// `[B|S, H]` of D·Dv numbers and, where outputs are normalised, the D of z behind them.
    pub initial_state: Option<Vec<f32>>,
    /// `[B, H, N, Dv]`
    pub o: Option<Vec<f32>>,
}

impl LinearCaseInputs {
    /// Borrows them as inputs.
    pub fn inputs(&self) -> LinearInputs<'_> {
        LinearInputs {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            log_decay: self.log_decay.as_deref(),
            cu_seqlens: self.cu_seqlens.as_deref(),
            initial_state: self.initial_state.as_deref(),
            o: self.o.as_deref(),
        }
    }
}

impl From<&LinearInputs<'_>> for LinearCaseInputs {
    fn from(inputs: &LinearInputs<'_>) -> Self {
        LinearCaseInputs {
            q: inputs.q.to_vec(),
            k: inputs.k.to_vec(),
            v: inputs.v.to_vec(),
            log_decay: inputs.log_decay.map(<[_]>::to_vec),
            cu_seqlens: inputs.cu_seqlens.map(<[_]>::to_vec),
            initial_state: inputs.initial_state.map(<[_]>::to_vec),
            o: inputs.o.map(<[_]>::to_vec),
        }
    }
}

impl LinearCase {
    pub(super) fn new(problem: &Linear, inputs: &LinearInputs<'_>, expected: &LinearOutput<f64>) -> Self {
        let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
        let states = expected
            .final_state
            .as_ref()
            .map(|states| split_states(problem, states));
        let normalizer = states.as_ref().filter(|_| problem.normalize.is_some());
        LinearCase {
            problem: problem.clone(),
            tensors: inputs.into(),
            expected_o: narrow(&expected.o),
            expected_state: states.as_ref().map(|(s, _)| narrow(s)),
            expected_normalizer: normalizer.map(|(_, z)| narrow(z)),
            expected_total_decay: expected.total_decay.as_deref().map(narrow),
        }
    }

    /// The inputs, borrowed.
    pub fn inputs(&self) -> LinearInputs<'_> {
        self.tensors.inputs()
    }

    /// The expected outputs. The final state is in the order of [`LinearOutput::final_state`], but without the numbers
    /// of z where the file has none: hold results against it with [`LinearCase::compare`].
    pub fn expected(&self) -> LinearOutput<f64> {
        let widen = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let states = self
            .expected_state
            .as_ref()
            .map(|s| join_states(&self.problem, s, self.expected_normalizer.as_deref()));
        LinearOutput {
            o: widen(&self.expected_o),
            final_state: states.as_deref().map(widen),
            total_decay: self.expected_total_decay.as_deref().map(widen),
        }
    }

    /// Compares the outputs of the problem with the expected ones ([`compare::linear`]); z only where the file has it.
    pub fn compare(&self, actual: &LinearOutput<f32>, tolerance: &Tolerance) -> LinearComparison {
        let expected = self.expected();
        if self.problem.normalize.is_none() || self.expected_state.is_none() || self.expected_normalizer.is_some() {
            return compare::linear(&self.problem, actual, &expected, tolerance);
        }
        let without_z = |states: &Vec<f32>| split_states(&self.problem, states).0;
        let actual = LinearOutput {
            final_state: actual.final_state.as_ref().map(without_z),
            ..actual.clone()
        };
        let problem = Linear {
            normalize: None,
            ..self.problem.clone()
        };
        compare::linear(&problem, &actual, &expected, tolerance)
    }
}

/// S and z of every head, z behind S: the reverse of [`split_states`].
fn join_states(problem: &Linear, s: &[f32], z: Option<&[f32]>) -> Vec<f32> {
    let Some(z) = z else { return s.to_vec() };
    let (d, dv) = (problem.head_dim as usize, problem.value_dim() as usize);
    let heads = s.chunks((d * dv).max(1)).zip(z.chunks(d.max(1)));
    heads.flat_map(|(s, z)| s.iter().chain(z).copied()).collect()
}

pub(super) fn read(reader: &mut Reader<'_>, dtype: DType) -> Result<LinearCase> {
    let mut tensors = LinearCaseInputs::default();
    let mut problem = read_main(reader, dtype, &mut tensors)?;
    read_params(reader, &mut problem)?;
    read_decay(reader, &mut problem, &mut tensors)?;
    tensors.cu_seqlens = reader.ints("cu_seqlens")?;
    problem.documents = match &tensors.cu_seqlens {
        None => None,
        Some(offsets) if offsets.is_empty() => return reader.fail("tensor `cu_seqlens` is empty"),
        Some(offsets) => Some(u32::try_from(offsets.len() - 1).or_else(|_| reader.fail("too many documents"))?),
    };
    tensors.initial_state = read_initial_state(reader, &problem)?;
    problem.initial_state = tensors.initial_state.is_some();
    let o_shape = [problem.batch, problem.heads, problem.tokens, problem.value_dim()];
    if let Some(o) = reader.floats("o")? {
        tensors.o = Some(reader.shaped("o", o, &o_shape)?);
    }

    let o = reader.floats_of("expected.o", DType::F32)?;
    let expected_o = reader.shaped("expected.o", o, &o_shape)?;
    let states = read_final_state(reader, &problem)?;
    let (expected_state, expected_normalizer) = states.map_or((None, None), |(s, z)| (Some(s), z));
    problem.final_state = expected_state.is_some();
    let expected_total_decay = match reader.optional_floats_of("expected.total_decay", DType::F32)? {
        Some(total) => Some(reader.shaped("expected.total_decay", total, &total_decay_dims(&problem))?),
        None => None,
    };
    problem.total_decay = expected_total_decay.is_some();
    let case = LinearCase {
        problem,
        tensors,
        expected_o,
        expected_state,
        expected_normalizer,
        expected_total_decay,
    };
    check(reader.file, &case)?;
    Ok(case)
}

/// q, k and v, and from their shapes the sizes of the problem.
fn read_main(reader: &mut Reader<'_>, dtype: DType, tensors: &mut LinearCaseInputs) -> Result<Linear> {
    let q = reader.floats_of("q", dtype)?;
    let k = reader.floats_of("k", dtype)?;
    let v = reader.floats_of("v", dtype)?;
    let [batch, heads, tokens, head_dim] = reader.dims4("q", &q.shape)?;
    let [_, kv_heads, ..] = reader.dims4("k", &k.shape)?;
    let [.., value_dim] = reader.dims4("v", &v.shape)?;
    tensors.q = q.values;
    tensors.k = reader.shaped("k", k, &[batch, kv_heads, tokens, head_dim])?;
    tensors.v = reader.shaped("v", v, &[batch, kv_heads, tokens, value_dim])?;
    Ok(Linear {
        batch,
        heads,
        kv_heads: (kv_heads != heads).then_some(kv_heads),
        tokens,
        head_dim,
        value_dim: (value_dim != head_dim).then_some(value_dim),
        dtype,
        ..Linear::default()
    })
}

fn read_params(reader: &mut Reader<'_>, problem: &mut Linear) -> Result<()> {
    problem.scale = reader.param_f32("scale")?;
    problem.causal = reader.param_bool("causal")?.unwrap_or(true);
    problem.state_only = reader.param_bool("state_only")?.unwrap_or(false);
    problem.feature_map = match reader.param_str("feature_map")?.as_deref() {
        None | Some("identity") => FeatureMap::Identity,
        Some("silu") => FeatureMap::Silu,
        Some("relu") => FeatureMap::Relu,
        Some("elu1") => FeatureMap::Elu1,
        Some(other) => {
            return reader.fail(format!(
                "param `feature_map` is `{other}`, expected identity, silu, relu or elu1"
            ));
        }
    };
    let normalize = reader.param_bool("normalize")?.unwrap_or(false);
    let epsilon = reader.param_f32("epsilon")?;
    if !normalize && epsilon.is_some() {
        return reader.fail("param `epsilon` is given, but not `normalize`");
    }
    problem.normalize = normalize.then_some(epsilon.unwrap_or(1e-6));
    Ok(())
}

/// `log_decay`, whose shape says what kind it is.
fn read_decay(reader: &mut Reader<'_>, problem: &mut Linear, tensors: &mut LinearCaseInputs) -> Result<()> {
    let Some(values) = reader.floats("log_decay")? else {
        return Ok(());
    };
    let kinds = [Decay::Head, Decay::Token, Decay::Channel];
    let of = |decay| Linear {
        decay,
        ..problem.clone()
    };
    match kinds
        .into_iter()
        .find(|&decay| values.has(decay_dims(&of(decay)).as_slice()))
    {
        Some(decay) => problem.decay = decay,
        None => {
            let [head, token, channel] = kinds.map(|decay| decay_dims(&of(decay)));
            return reader.fail(format!(
                "tensor `log_decay` has shape {:?}, expected {head:?}, {token:?} or {channel:?}",
                values.shape
            ));
        }
    }
    tensors.log_decay = Some(values.values);
    Ok(())
}

/// The shape of `log_decay`.
fn decay_dims(p: &Linear) -> Vec<u32> {
    match p.decay {
        Decay::None => vec![],
        Decay::Head => vec![p.heads],
        Decay::Token => vec![p.batch, p.heads, p.tokens],
        Decay::Channel => vec![p.batch, p.heads, p.tokens, p.head_dim],
    }
}

fn total_decay_dims(p: &Linear) -> Vec<u32> {
    match p.decay {
        Decay::Channel => vec![p.sequences(), p.heads, p.head_dim],
        _ => vec![p.sequences(), p.heads],
    }
}

fn state_dims(p: &Linear) -> [u32; 4] {
    [p.sequences(), p.heads, p.head_dim, p.value_dim()]
}

fn normalizer_dims(p: &Linear) -> [u32; 3] {
    [p.sequences(), p.heads, p.head_dim]
}

/// In the order of [`LinearInputs::initial_state`].
fn read_initial_state(reader: &mut Reader<'_>, p: &Linear) -> Result<Option<Vec<f32>>> {
    let s = ("initial_state", reader.floats("initial_state")?);
    let z = ("initial_normalizer", reader.floats("initial_normalizer")?);
    match states(reader, p, s, z)? {
        Some((_, None)) if p.normalize.is_some() => {
            reader.fail("tensor `initial_state` without `initial_normalizer`, which normalised outputs need")
        }
        states => Ok(states.map(|(s, z)| join_states(p, &s, z.as_deref()))),
    }
}

fn read_final_state(reader: &mut Reader<'_>, p: &Linear) -> Result<Option<States>> {
    let [s, z] = ["expected.final_state", "expected.final_normalizer"];
    let s_tensor = reader.optional_floats_of(s, DType::F32)?;
    let z_tensor = reader.optional_floats_of(z, DType::F32)?;
    states(reader, p, (s, s_tensor), (z, z_tensor))
}

/// S of an initial or final state and, if it is there, z.
type States = (Vec<f32>, Option<Vec<f32>>);

/// Checks the tensors of an initial or final state, each with its name, against the problem and each other.
fn states(
    reader: &Reader<'_>,
    p: &Linear,
    (s_name, s): (&str, Option<Floats>),
    (z_name, z): (&str, Option<Floats>),
) -> Result<Option<States>> {
    if z.is_some() && p.normalize.is_none() {
        return reader.fail(format!("tensor `{z_name}` is given, but not param `normalize`"));
    }
    let Some(s) = s else {
        return match z {
            None => Ok(None),
            Some(_) => reader.fail(format!("tensor `{z_name}` without `{s_name}`")),
        };
    };
    let s = reader.shaped(s_name, s, &state_dims(p))?;
    let z = z.map(|z| reader.shaped(z_name, z, &normalizer_dims(p))).transpose()?;
    Ok(Some((s, z)))
}

/// That inputs and expected outputs fit the problem.
fn check(file: &str, case: &LinearCase) -> Result<()> {
    let p = &case.problem;
    case.inputs().check(p).or_else(|error| fail(file, error.to_string()))?;
    let flags = [
        ("final_state", p.final_state, case.expected_state.is_some()),
        ("total_decay", p.total_decay, case.expected_total_decay.is_some()),
    ];
    for (name, wanted, there) in flags {
        if wanted != there {
            let there = given(there);
            return fail(file, format!("`{name}` is {wanted}, but an expected one is {there}"));
        }
    }
    if case.expected_normalizer.is_some() && (!p.final_state || p.normalize.is_none()) {
        let message = "an expected normalizer is given, but there is no final state that has one";
        return fail(file, message);
    }
    let o_dims = [p.batch, p.heads, p.tokens, p.value_dim()];
    let outputs = [
        ("o", o_dims.as_slice(), Some(&case.expected_o)),
        ("final state", &state_dims(p), case.expected_state.as_ref()),
        ("normalizer", &normalizer_dims(p), case.expected_normalizer.as_ref()),
        ("total decay", &total_decay_dims(p), case.expected_total_decay.as_ref()),
    ];
    for (name, dims, values) in outputs {
        let elements: u128 = dims.iter().map(|&dim| u128::from(dim)).product();
        if let Some(values) = values
            && values.len() as u128 != elements
        {
            let found = values.len();
            return fail(
                file,
                format!("the expected {name} has {found} elements, not {elements}"),
            );
        }
    }
    Ok(())
}

pub(super) fn write(writer: &mut Writer<'_>, case: &LinearCase) -> Result<()> {
    check(writer.file, case)?;
    let p = &case.problem;
    write_params(writer, p)?;

    let (b, h, hkv, n, d, dv) = (p.batch, p.heads, p.kv_heads(), p.tokens, p.head_dim, p.value_dim());
    let tensors = &case.tensors;
    writer.floats("q", p.dtype, &[b, h, n, d], &tensors.q)?;
    writer.floats("k", p.dtype, &[b, hkv, n, d], &tensors.k)?;
    writer.floats("v", p.dtype, &[b, hkv, n, dv], &tensors.v)?;
    if let Some(offsets) = &tensors.cu_seqlens {
        writer.ints("cu_seqlens", offsets);
    }
    let (s, z) = tensors
        .initial_state
        .as_ref()
        .map(|states| split_states(p, states))
        .unzip();
    let z = z.filter(|_| p.normalize.is_some());
    let o = vec![b, h, n, dv];
    let (s_dims, z_dims) = (state_dims(p).to_vec(), normalizer_dims(p).to_vec());
    let floats = [
        ("log_decay", decay_dims(p), tensors.log_decay.as_ref()),
        ("initial_state", s_dims.clone(), s.as_ref()),
        ("initial_normalizer", z_dims.clone(), z.as_ref()),
        ("o", o.clone(), tensors.o.as_ref()),
        ("expected.o", o, Some(&case.expected_o)),
        ("expected.final_state", s_dims, case.expected_state.as_ref()),
        ("expected.final_normalizer", z_dims, case.expected_normalizer.as_ref()),
        (
            "expected.total_decay",
            total_decay_dims(p),
            case.expected_total_decay.as_ref(),
        ),
    ];
    for (name, dims, values) in floats {
        if let Some(values) = values {
            writer.floats(name, DType::F32, &dims, values)?;
        }
    }
    Ok(())
}

/// Whatever differs from the format's defaults.
fn write_params(writer: &mut Writer<'_>, p: &Linear) -> Result<()> {
    let feature_map = match &p.feature_map {
        FeatureMap::Identity => None,
        FeatureMap::Silu => Some("silu"),
        FeatureMap::Relu => Some("relu"),
        FeatureMap::Elu1 => Some("elu1"),
        FeatureMap::Custom(_) => return fail(writer.file, "a case file cannot hold custom code"),
    };
    if let Some(feature_map) = feature_map {
        writer.param("feature_map", feature_map);
    }
    if let Some(scale) = p.scale {
        writer.param_f32("scale", scale)?;
    }
    if !p.causal {
        writer.param("causal", false);
    }
    if let Some(epsilon) = p.normalize {
        writer.param("normalize", true);
        writer.param_f32("epsilon", epsilon)?;
    }
    if p.state_only {
        writer.param("state_only", true);
    }
    Ok(())
}
