//! A case file taken apart: each param and tensor is taken once, and what is left over at the end is an error.

use std::collections::{BTreeMap, HashMap};

use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};

use super::{FORMAT, fail};
use crate::error::Result;
use crate::tensor::DType;

pub(super) struct Reader<'a> {
    pub(super) file: &'a str,
    metadata: HashMap<String, String>,
    params: Map<String, Value>,
    tensors: BTreeMap<String, TensorView<'a>>,
}

/// A tensor of floating type, widened.
pub(super) struct Floats {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

impl Floats {
    /// Whether this is its shape.
    pub(super) fn has(&self, dims: &[u32]) -> bool {
        self.shape.iter().copied().eq(dims.iter().map(|&dim| dim as usize))
    }
}

impl<'a> Reader<'a> {
    /// Checks the container, the format's name and that `params` is a JSON object.
    pub(super) fn open(file: &'a str, bytes: &'a [u8]) -> Result<Self> {
        let container =
            SafeTensors::read_metadata(bytes).and_then(|(_, header)| Ok((header, SafeTensors::deserialize(bytes)?)));
        let (header, tensors) = container.or_else(|error| fail(file, format!("not a safetensors file: {error}")))?;
        let mut reader = Reader {
            file,
            metadata: header.metadata().clone().unwrap_or_default(),
            params: Map::new(),
            tensors: tensors.tensors().into_iter().collect(),
        };
        let format = reader.metadata("format")?;
        if format != FORMAT {
            return reader.fail(format!("format is `{format}`, expected `{FORMAT}`"));
        }
        let params = reader.metadata("params")?;
        reader.params = match serde_json::from_str(&params) {
            Ok(Value::Object(params)) => params,
            Ok(other) => return reader.fail(format!("params is {other}, expected a JSON object")),
            Err(error) => return reader.fail(format!("params is not JSON: {error}")),
        };
        Ok(reader)
    }

    pub(super) fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        fail(self.file, message)
    }

    fn metadata(&self, key: &str) -> Result<String> {
        match self.metadata.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.fail(format!("no `{key}` in its metadata")),
        }
    }

    pub(super) fn op(&self) -> Result<String> {
        self.metadata("op")
    }

    pub(super) fn source(&self) -> Result<String> {
        self.metadata("source")
    }

    pub(super) fn dtype(&self) -> Result<DType> {
        let dtype = self.metadata("dtype")?;
        match [DType::F32, DType::F16, DType::BF16]
            .into_iter()
            .find(|known| known.name() == dtype)
        {
            Some(dtype) => Ok(dtype),
            None => self.fail(format!("dtype is `{dtype}`, expected f32, f16 or bf16")),
        }
    }

    /// A param converted by `read`, which gives `None` for a value that is not `what`.
    fn param<T>(&mut self, key: &str, what: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.params.remove(key) else {
            return Ok(None);
        };
        match read(&value) {
            Some(value) => Ok(Some(value)),
            None => self.fail(format!("param `{key}` is {value}, expected {what}")),
        }
    }

    pub(super) fn param_str(&mut self, key: &str) -> Result<Option<String>> {
        self.param(key, "a string", |value| value.as_str().map(str::to_string))
    }

    pub(super) fn param_bool(&mut self, key: &str) -> Result<Option<bool>> {
        self.param(key, "true or false", Value::as_bool)
    }

    pub(super) fn param_u32(&mut self, key: &str) -> Result<Option<u32>> {
        self.param(key, "an integer from 0 to 2³² − 1", |value| {
            value.as_u64()?.try_into().ok()
        })
    }

    pub(super) fn param_i32(&mut self, key: &str) -> Result<Option<i32>> {
        self.param(key, "an integer of 32 bits", |value| value.as_i64()?.try_into().ok())
    }

    pub(super) fn param_f32(&mut self, key: &str) -> Result<Option<f32>> {
        let read = |value: &Value| Some(value.as_f64()? as f32).filter(|value| value.is_finite());
        self.param(key, "a number in the range of f32", read)
    }

    /// A tensor of any of the three floating types.
    pub(super) fn floats(&mut self, name: &str) -> Result<Option<Floats>> {
        let Some(tensor) = self.tensors.remove(name) else {
            return Ok(None);
        };
        let bytes = tensor.data();
        let (dtype, values) = match tensor.dtype() {
            Dtype::F32 => (DType::F32, words(bytes).map(f32::from_le_bytes).collect()),
            Dtype::F16 => (
                DType::F16,
                words(bytes).map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            ),
            Dtype::BF16 => (
                DType::BF16,
                words(bytes).map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            ),
            other => return self.wrong_dtype(name, other, "F32, F16 or BF16"),
        };
        let shape = tensor.shape().to_vec();
        Ok(Some(Floats { dtype, shape, values }))
    }

    /// A tensor of one floating type that has to be there.
    pub(super) fn floats_of(&mut self, name: &str, dtype: DType) -> Result<Floats> {
        match self.optional_floats_of(name, dtype)? {
            Some(tensor) => Ok(tensor),
            None => self.fail(format!("no tensor `{name}`")),
        }
    }

    /// A tensor of one floating type.
    pub(super) fn optional_floats_of(&mut self, name: &str, dtype: DType) -> Result<Option<Floats>> {
        match self.floats(name)? {
            Some(tensor) if tensor.dtype != dtype => {
                self.fail(format!("tensor `{name}` is {}, expected {dtype}", tensor.dtype))
            }
            tensor => Ok(tensor),
        }
    }

    /// The four dimensions of a tensor, as numbers of a problem.
    pub(super) fn dims4(&self, name: &str, shape: &[usize]) -> Result<[u32; 4]> {
        let dims: Vec<u32> = shape.iter().filter_map(|&dim| u32::try_from(dim).ok()).collect();
        match dims.try_into() {
            Ok(dims) if shape.len() == 4 => Ok(dims),
            _ => self.fail(format!(
                "tensor `{name}` has shape {shape:?}, expected four dimensions below 2³²"
            )),
        }
    }

    /// The values of a tensor that must have this shape.
    pub(super) fn shaped(&self, name: &str, tensor: Floats, dims: &[u32]) -> Result<Vec<f32>> {
        if tensor.has(dims) {
            return Ok(tensor.values);
        }
        let shape = tensor.shape;
        self.fail(format!("tensor `{name}` has shape {shape:?}, expected {dims:?}"))
    }

    /// An i32 tensor with one dimension.
    pub(super) fn ints(&mut self, name: &str) -> Result<Option<Vec<i32>>> {
        let Some(tensor) = self.tensors.remove(name) else {
            return Ok(None);
        };
        if tensor.dtype() != Dtype::I32 {
            return self.wrong_dtype(name, tensor.dtype(), "I32");
        }
        if tensor.shape().len() != 1 {
            return self.fail(format!(
                "tensor `{name}` has shape {:?}, expected one dimension",
                tensor.shape()
            ));
        }
        Ok(Some(words(tensor.data()).map(i32::from_le_bytes).collect()))
    }

    /// A u8 tensor and its shape.
    pub(super) fn bytes(&mut self, name: &str) -> Result<Option<(Vec<usize>, Vec<u8>)>> {
        let Some(tensor) = self.tensors.remove(name) else {
            return Ok(None);
        };
        if tensor.dtype() != Dtype::U8 {
            return self.wrong_dtype(name, tensor.dtype(), "U8");
        }
        Ok(Some((tensor.shape().to_vec(), tensor.data().to_vec())))
    }

    fn wrong_dtype<T>(&self, name: &str, found: Dtype, expected: &str) -> Result<T> {
        self.fail(format!("tensor `{name}` is {found:?}, expected {expected}"))
    }

    /// Checks that nothing is left that was not read.
    pub(super) fn finish(&self) -> Result<()> {
        if let Some(key) = self.params.keys().next() {
            return self.fail(format!("unknown param `{key}` of its op"));
        }
        match self.tensors.keys().next() {
            Some(name) => self.fail(format!("unknown tensor `{name}` of its op")),
            None => Ok(()),
        }
    }
}

/// Splits into elements; safetensors has checked that the length is a multiple.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks().0.iter().copied()
}
