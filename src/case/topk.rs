//! Op `topk` in a case file.

use super::dense::{check_expected, check_expressible, read_attention, read_expected, write_attention, write_expected};
use super::reader::Reader;
use super::writer::Writer;
use super::{DenseCaseInputs, fail};
use crate::compare::{self, Known, Tolerance, TopKComparison};
use crate::error::Result;
use crate::ops::dense::reference::Hooks;
use crate::ops::dense::{Broadcast, Dense, DenseOutput};
use crate::ops::topk::{Scoring, TopK, TopKInputs, TopKOutput, reference, rules};
use crate::tensor::DType;

/// A top-k problem, its inputs and what it should give.
///
/// What a file cannot express has one reading, as in [`DenseCase`](super::DenseCase); and the lists are kept
/// ([`TopK::keep`]), since they are judged.
#[derive(Clone, Debug, PartialEq)]
pub struct TopKCase {
    /// The problem; `attention.lse` is true where the file has an expected one, `pooled` where it has that tensor.
    pub problem: TopK,
    /// The inputs of the attention.
    pub tensors: DenseCaseInputs,
    /// `[B, Hkv, ⌈Nk/block_size⌉, P]`
    pub pooled: Option<Vec<f32>>,
    /// `[B, H, Nq, Dv]`
    pub expected_o: Vec<f32>,
    /// `[B, H, Nq]`
    pub expected_lse: Option<Vec<f32>>,
    /// `[B, H, Nq, Nk]`, 1 for the keys that a row attends to, 0 for the others.
    pub expected_selected: Vec<u8>,
}

impl TopKCase {
    pub(super) fn new(problem: &TopK, inputs: &TopKInputs<'_>, expected: &TopKOutput<f64>) -> Result<Self> {
        let narrow = |values: &Vec<f64>| values.iter().map(|&v| v as f32).collect();
        let lists = &expected.selection;
        Ok(TopKCase {
            problem: TopK {
                keep: true,
                ..problem.clone()
            },
            tensors: (&inputs.attention).into(),
            pooled: inputs.pooled.map(<[_]>::to_vec),
            expected_o: narrow(&expected.o),
            expected_lse: expected.lse.as_ref().map(narrow),
            expected_selected: reference::selected(problem, inputs, &Hooks::default(), lists)?,
        })
    }

    /// The inputs, borrowed.
    pub fn inputs(&self) -> TopKInputs<'_> {
        TopKInputs {
            attention: self.tensors.inputs(),
            pooled: self.pooled.as_deref(),
        }
    }

    /// The expected o and lse, from the exact choice; where another is as good, hold results against them with
    /// [`TopKCase::compare`].
    pub fn expected(&self) -> DenseOutput<f64> {
        let widen = |values: &Vec<f32>| values.iter().map(|&v| f64::from(v)).collect();
        DenseOutput {
            o: widen(&self.expected_o),
            lse: self.expected_lse.as_ref().map(widen),
        }
    }

    /// Compares the outputs of the problem with the expected ones: as [`compare::topk`], and the keys that each row
    /// attends to with those of the file. Where they are the same, o and lse are held against those of the file too.
    ///
    /// # Errors
    /// As [`TopKInputs::check`]; none for a case that was read from a file.
    pub fn compare(&self, actual: &TopKOutput<f32>, tolerance: &Tolerance) -> Result<TopKComparison> {
        let known = Known {
            output: self.expected(),
            selected: &self.expected_selected,
        };
        compare::topk_case(&self.problem, &self.inputs(), actual, &known, tolerance)
    }
}

pub(super) fn read(reader: &mut Reader<'_>, dtype: DType) -> Result<TopKCase> {
    let mut tensors = DenseCaseInputs::default();
    let attention = read_attention(reader, dtype, &mut tensors)?;
    let mut problem = read_params(reader, attention)?;
    let (expected_o, expected_lse) = read_expected(reader, &mut problem.attention)?;
    let case = TopKCase {
        pooled: read_pooled(reader, &mut problem)?,
        expected_selected: read_selected(reader, &problem.attention)?,
        problem,
        tensors,
        expected_o,
        expected_lse,
    };
    check(reader.file, &case)?;
    Ok(case)
}

fn read_params(reader: &mut Reader<'_>, attention: Dense) -> Result<TopK> {
    let is_token = match reader.param_str("granularity")?.as_deref() {
        Some("token") => true,
        Some("block") => false,
        Some(other) => return reader.fail(format!("param `granularity` is `{other}`, expected token or block")),
        None => return reader.fail("no param `granularity`"),
    };
    let Some(top_k) = reader.param_u32("top_k")? else {
        return reader.fail("no param `top_k`");
    };
    let block_size = match (is_token, reader.param_u32("block_size")?) {
        (true, None | Some(1)) => 1,
        (true, Some(size)) => return reader.fail(format!("param `block_size` is {size}, expected 1 for tokens")),
        (false, Some(size)) => size,
        (false, None) => return reader.fail("no param `block_size`, which blocks need"),
    };
    let scoring = match reader.param_str("score")?.as_deref() {
        None if is_token => Scoring::Keys,
        None => Scoring::Mean,
        Some("keys") => Scoring::Keys,
        Some("mean") => Scoring::Mean,
        Some("bound") => Scoring::Bound,
        Some(other) => return reader.fail(format!("param `score` is `{other}`, expected keys, mean or bound")),
    };
    Ok(TopK {
        attention,
        top_k,
        block_size,
        query_block: reader.param_u32("query_block")?.unwrap_or(1),
        per_kv_head: reader.param_bool("shared")?.unwrap_or(false),
        scoring,
        first: reader.param_u32("first")?.unwrap_or(0),
        last: reader.param_u32("last")?.unwrap_or(0),
        diagonal: reader.param_bool("diagonal")?.unwrap_or(false),
        room: reader.param_u32("room")?.unwrap_or(0),
        pooled: false,
        pooled_room: None,
        keep: true,
    })
}

fn read_pooled(reader: &mut Reader<'_>, problem: &mut TopK) -> Result<Option<Vec<f32>>> {
    let Some(pooled) = reader.optional_floats_of("pooled", DType::F32)? else {
        return Ok(None);
    };
    problem.pooled = true;
    // A tensor may have room for more blocks than there are keys for.
    let entries = problem.selection().entries(&problem.attention);
    let room = pooled.shape.get(2).and_then(|&n| u32::try_from(n).ok());
    problem.pooled_room = room.filter(|&room| room != entries);
    rules::check(problem).or_else(|error| reader.fail(error.to_string()))?;
    // By the rules, there is a pooling that it comes from.
    let dims = rules::pool_of(problem).map(|pool| pool.dims()).unwrap_or_default();
    Ok(Some(reader.shaped("pooled", pooled, &dims)?))
}

fn read_selected(reader: &mut Reader<'_>, p: &Dense) -> Result<Vec<u8>> {
    let name = "expected.selected";
    let Some((shape, values)) = reader.bytes(name)? else {
        return reader.fail(format!("no tensor `{name}`"));
    };
    let dims = Broadcast::FULL.dims(p);
    if shape.iter().copied().eq(dims.map(|dim| dim as usize)) {
        return Ok(values);
    }
    reader.fail(format!("tensor `{name}` has shape {shape:?}, expected {dims:?}"))
}

/// That inputs and expected outputs fit the problem.
fn check(file: &str, case: &TopKCase) -> Result<()> {
    let (inputs, p) = (case.inputs(), &case.problem.attention);
    inputs
        .check(&case.problem)
        .or_else(|error| fail(file, error.to_string()))?;
    check_expected(file, p, &case.expected_o, case.expected_lse.as_deref())?;
    let selected = &case.expected_selected;
    let elements: u128 = Broadcast::FULL.dims(p).iter().map(|&dim| u128::from(dim)).product();
    if selected.len() as u128 != elements {
        let found = selected.len();
        return fail(
            file,
            format!("the expected selected has {found} elements, not {elements}"),
        );
    }
    match selected.iter().position(|&key| key > 1) {
        Some(at) => fail(
            file,
            format!("the expected selected has {} at {at}, not 0 or 1", selected[at]),
        ),
        None => Ok(()),
    }
}

pub(super) fn write(writer: &mut Writer<'_>, case: &TopKCase) -> Result<()> {
    check_expressible(writer.file, &case.problem.attention)?;
    check(writer.file, case)?;
    let (p, a) = (&case.problem, &case.problem.attention);
    write_params(writer, p);
    write_attention(writer, a, &case.tensors)?;
    if let (Some(pool), Some(pooled)) = (rules::pool_of(p), &case.pooled) {
        writer.floats("pooled", DType::F32, &pool.dims(), pooled)?;
    }
    write_expected(writer, a, &case.expected_o, case.expected_lse.as_deref())?;
    writer.bytes("expected.selected", &Broadcast::FULL.dims(a), &case.expected_selected);
    Ok(())
}

/// Granularity and k, and whatever else differs from the format's defaults.
fn write_params(writer: &mut Writer<'_>, p: &TopK) {
    let is_token = p.block_size == 1 && p.scoring == Scoring::Keys;
    writer.param("granularity", if is_token { "token" } else { "block" });
    writer.param("top_k", p.top_k);
    if !is_token {
        writer.param("block_size", p.block_size);
    }
    match p.scoring {
        Scoring::Keys if !is_token => writer.param("score", "keys"),
        Scoring::Keys | Scoring::Mean => (),
        Scoring::Bound => writer.param("score", "bound"),
    }
    if p.query_block != 1 {
        writer.param("query_block", p.query_block);
    }
    for (key, value) in [("shared", p.per_kv_head), ("diagonal", p.diagonal)] {
        if value {
            writer.param(key, true);
        }
    }
    for (key, value) in [("first", p.first), ("last", p.last), ("room", p.room)] {
        if value > 0 {
            writer.param(key, value);
        }
    }
}
