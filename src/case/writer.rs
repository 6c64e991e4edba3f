//! A case file put together.

use std::borrow::Cow;
use std::collections::HashMap;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, View};
use serde_json::{Map, Number, Value};

use super::{FORMAT, fail};
use crate::error::Result;
use crate::tensor::DType;

pub(super) struct Writer<'a> {
    pub(super) file: &'a str,
    params: Map<String, Value>,
    tensors: Vec<(String, Bytes)>,
}

struct Bytes {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl View for Bytes {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.data)
    }

    fn data_len(&self) -> usize {
        self.data.len()
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(file: &'a str) -> Self {
        Writer {
            file,
            params: Map::new(),
            tensors: Vec::new(),
        }
    }

    pub(super) fn param(&mut self, key: &str, value: impl Into<Value>) {
        self.params.insert(key.to_string(), value.into());
    }

    /// A number, exactly; JSON has no infinity and no NaN.
    pub(super) fn param_f32(&mut self, key: &str, value: f32) -> Result<()> {
        match Number::from_f64(f64::from(value)) {
            Some(number) => {
                self.param(key, number);
                Ok(())
            }
            None => fail(
                self.file,
                format!("param `{key}` is {value}, which JSON cannot express"),
            ),
        }
    }

    /// A tensor in its storage type, none of whose values may change by that.
    pub(super) fn floats(&mut self, name: &str, dtype: DType, dims: &[u32], values: &[f32]) -> Result<()> {
        let rounded = |v: f32| match dtype {
            DType::F32 => v,
            DType::F16 => f16::from_f32(v).to_f32(),
            DType::BF16 => bf16::from_f32(v).to_f32(),
        };
        if let Some(at) = values
            .iter()
            .position(|&v| rounded(v).to_bits() != v.to_bits() && !v.is_nan())
        {
            return fail(
                self.file,
                format!("`{name}`[{at}] is {}, which is no {dtype} value", values[at]),
            );
        }
        let (dtype, data) = match dtype {
            DType::F32 => (Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            DType::F16 => (
                Dtype::F16,
                values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            ),
            DType::BF16 => (
                Dtype::BF16,
                values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            ),
        };
        self.tensor(name, dtype, dims, data);
        Ok(())
    }

    pub(super) fn ints(&mut self, name: &str, values: &[i32]) {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.push((
            name.to_string(),
            Bytes {
                dtype: Dtype::I32,
                shape: vec![values.len()],
                data,
            },
        ));
    }

    pub(super) fn bytes(&mut self, name: &str, dims: &[u32], values: &[u8]) {
        self.tensor(name, Dtype::U8, dims, values.to_vec());
    }

    fn tensor(&mut self, name: &str, dtype: Dtype, dims: &[u32], data: Vec<u8>) {
        let shape = dims.iter().map(|&dim| dim as usize).collect();
        self.tensors.push((name.to_string(), Bytes { dtype, shape, data }));
    }

    /// The file's bytes.
    pub(super) fn finish(self, op: &str, dtype: DType, source: &str) -> Result<Vec<u8>> {
        let metadata = [
            ("format", FORMAT.to_string()),
            ("op", op.to_string()),
            ("params", Value::Object(self.params).to_string()),
            ("dtype", dtype.to_string()),
            ("source", source.to_string()),
        ];
        let metadata: HashMap<String, String> = metadata
            .into_iter()
            .map(|(key, value)| (key.to_string(), value))
            .collect();
        safetensors::serialize(self.tensors, Some(metadata)).or_else(|error| fail(self.file, error.to_string()))
    }
}
