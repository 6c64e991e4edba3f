//! The model's tensors, from `model.safetensors` onto the device, in the form in which the kernels read them.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use wgpu_attention::{Gpu, wgpu};

use super::kernels::upload;
use super::{Config, Result};

/// A linear layer: weight `[inputs, outputs]`, which is the file's transposed, and bias.
#[derive(Debug)]
pub struct LinearWeights {
    pub inputs: u32,
    pub outputs: u32,
    pub weight: wgpu::Buffer,
    pub bias: wgpu::Buffer,
}

/// A layer norm.
#[derive(Debug)]
pub struct NormWeights {
    pub weight: wgpu::Buffer,
    pub bias: wgpu::Buffer,
}

/// One of the encoder's layers.
#[derive(Debug)]
pub struct LayerWeights {
    /// The projections to q, k and v as one layer of 3·hidden outputs.
    pub qkv: LinearWeights,
    pub attention_out: LinearWeights,
    pub attention_norm: NormWeights,
    pub intermediate: LinearWeights,
    pub output: LinearWeights,
    pub output_norm: NormWeights,
}

/// All of the encoder's tensors, on the device.
#[derive(Debug)]
pub struct Weights {
    /// `[vocabulary, hidden]`
    pub word: wgpu::Buffer,
    /// `[positions, hidden]`
    pub place: wgpu::Buffer,
    /// `[kinds, hidden]`
    pub kind: wgpu::Buffer,
    pub embedding_norm: NormWeights,
    pub layers: Vec<LayerWeights>,
}

impl Weights {
    /// Reads `model.safetensors` in the model's directory.
    ///
    /// # Errors
    /// Names the file, and the tensor that is missing or has another shape or type than `config` makes it.
    pub fn read(gpu: &Gpu, directory: &Path, config: &Config) -> Result<Self> {
        let path = directory.join("model.safetensors");
        let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
        let file = File { gpu, path, tensors };
        let (h, i) = (config.hidden, config.intermediate);
        let layer = |n: u32| -> Result<LayerWeights> {
            let name = |part: &str| format!("encoder.layer.{n}.{part}");
            let [q, k, v] = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
            Ok(LayerWeights {
                qkv: file.linear(&[&q, &k, &v], h, h)?,
                attention_out: file.linear(&[&name("attention.output.dense")], h, h)?,
                attention_norm: file.norm(&name("attention.output.LayerNorm"), h)?,
                intermediate: file.linear(&[&name("intermediate.dense")], h, i)?,
                output: file.linear(&[&name("output.dense")], i, h)?,
                output_norm: file.norm(&name("output.LayerNorm"), h)?,
            })
        };
        Ok(Weights {
            word: file.buffer("embeddings.word_embeddings.weight", &[config.vocabulary, h])?,
            place: file.buffer("embeddings.position_embeddings.weight", &[config.positions, h])?,
            kind: file.buffer("embeddings.token_type_embeddings.weight", &[config.kinds, h])?,
            embedding_norm: file.norm("embeddings.LayerNorm", h)?,
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
        })
    }
}

/// The file, and where its tensors go.
struct File<'a> {
    gpu: &'a Gpu,
    path: PathBuf,
    tensors: SafeTensors<'a>,
}

impl File<'_> {
    /// Several linear layers of the file side by side, each of `outputs`.
    fn linear(&self, names: &[&str], inputs: u32, outputs: u32) -> Result<LinearWeights> {
        let width = outputs as usize * names.len();
        let mut weight = vec![0.0; inputs as usize * width];
        let mut bias = Vec::with_capacity(width);
        for name in names {
            let rows = self.numbers(&format!("{name}.weight"), &[outputs, inputs])?;
            for (o, row) in rows.chunks_exact(inputs as usize).enumerate() {
                for (i, w) in row.iter().enumerate() {
                    weight[i * width + bias.len() + o] = *w;
                }
            }
            bias.extend(self.numbers(&format!("{name}.bias"), &[outputs])?);
        }
        Ok(LinearWeights {
            inputs,
            outputs: width as u32,
            weight: upload(self.gpu, names[0], bytemuck::cast_slice(&weight))?,
            bias: upload(self.gpu, names[0], bytemuck::cast_slice(&bias))?,
        })
    }

    fn norm(&self, name: &str, n: u32) -> Result<NormWeights> {
        Ok(NormWeights {
            weight: self.buffer(&format!("{name}.weight"), &[n])?,
            bias: self.buffer(&format!("{name}.bias"), &[n])?,
        })
    }

    fn buffer(&self, name: &str, shape: &[u32]) -> Result<wgpu::Buffer> {
        upload(self.gpu, name, bytemuck::cast_slice(&self.numbers(name, shape)?))
    }

    fn numbers(&self, name: &str, shape: &[u32]) -> Result<Vec<f32>> {
        let file = self.path.display();
        let tensor = self
            .tensors
            .tensor(name)
            .map_err(|e| format!("{file}: tensor `{name}`: {e}"))?;
        let as_needed = tensor
            .shape()
            .iter()
            .map(|n| *n as u64)
            .eq(shape.iter().map(|n| u64::from(*n)));
        if !as_needed || tensor.dtype() != Dtype::F32 {
            let (found, dtype) = (tensor.shape(), tensor.dtype());
            return Err(format!("{file}: tensor `{name}` is {dtype:?} {found:?}; needed: F32 {shape:?}").into());
        }
        Ok(bytemuck::pod_collect_to_vec(tensor.data()))
    }
}
