//! A sentence encoder, all-MiniLM-L6-v2 or another BERT of its kind ("Sentence-BERT", Reimers & Gurevych, 2019): texts in,
//! embeddings of length 1 out. All of it on the device, in one compute pass.
//!
//! ```text
//! x = norm(word + kind + place)
//! six times:  x = norm(x + out(attention(qkv(x))))
//!             x = norm(x + output(gelu(intermediate(x))))
//! embedding = mean over the text's tokens of x, divided by its length
//! ```
//!
//! Every attention is the library's. The rest is a few small kernels.

mod attention;
mod batch;
mod config;
mod directory;
pub mod kernels;
mod tokens;
pub mod weights;

use std::path::Path;

use wgpu_attention::{Gpu, wgpu};

pub use attention::{Attention, Mechanism};
pub use batch::{Batch, Packing};
pub use config::Config;
pub use directory::directory;
pub use tokens::Tokens;

use kernels::{Kernels, Step, tensor, upload};
use weights::{LayerWeights, Weights};

/// What went wrong, for the user to read.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The model on a device, ready for batches.
#[derive(Debug)]
pub struct Encoder {
    gpu: Gpu,
    config: Config,
    weights: Weights,
    kernels: Kernels,
}

/// The encoder planned for a batch: every buffer is there, every dispatch is settled.
#[derive(Debug)]
pub struct Plan {
    gpu: Gpu,
    embed: [Step; 2],
    layers: Vec<Layer>,
    attention: Attention,
    pool: Step,
    buffers: Buffers,
    columns: u32,
}

/// A layer's dispatches before and behind its attention.
#[derive(Debug)]
struct Layer {
    qkv: Step,
    rest: [Step; 5],
}

/// What layers hand on, `[rows, …]`; the same buffers in every layer.
#[derive(Debug)]
struct Buffers {
    /// x, `[rows, hidden]`.
    hidden: wgpu::Buffer,
    /// What is to be added to x.
    update: wgpu::Buffer,
    /// `[rows, 3·hidden]`
    qkv: wgpu::Buffer,
    /// The heads' outputs, `[rows, hidden]`.
    heads: wgpu::Buffer,
    /// `[rows, intermediate]`
    intermediate: wgpu::Buffer,
    /// `[texts, hidden]`
    embeddings: wgpu::Buffer,
}

impl Encoder {
    /// Reads `config.json` and `model.safetensors` in `directory` and puts the weights onto the device.
    ///
    /// # Errors
    /// Names the file, and the key or tensor that is missing or wrong.
    pub fn read(gpu: &Gpu, directory: &Path) -> Result<Self> {
        let config = Config::read(directory)?;
        Ok(Encoder {
            weights: Weights::read(gpu, directory, &config)?,
            kernels: Kernels::new(gpu),
            gpu: gpu.clone(),
            config,
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Plans a batch, and puts its tokens onto the device.
    ///
    /// # Errors
    /// If the batch is more than the device can hold at once.
    pub fn plan(&self, batch: &Batch, mechanism: Mechanism) -> Result<Plan> {
        let (gpu, w, c) = (&self.gpu, &self.weights, &self.config);
        let buffers = Buffers::new(gpu, c, batch)?;
        let shape = [batch.rows(), c.hidden];
        let tokens = upload(gpu, "tokens", bytemuck::cast_slice(batch.tokens()))?;
        let spans = upload(gpu, "spans", bytemuck::cast_slice(&batch.spans()))?;
        let read = [&tokens, &w.word, &w.place, &w.kind];
        let (hidden, update) = (&buffers.hidden, &buffers.update);
        let embed = [
            self.kernels.embed(gpu, shape, read, hidden, update)?,
            self.kernels
                .layer_norm(gpu, shape, c.epsilon, &w.embedding_norm, update, hidden)?,
        ];
        let layers = w.layers.iter().map(|layer| self.layer(layer, shape, &buffers));
        Ok(Plan {
            gpu: gpu.clone(),
            embed,
            layers: layers.collect::<Result<_>>()?,
            attention: Attention::plan(gpu, mechanism, c, batch)?,
            pool: self
                .kernels
                .pool(gpu, [batch.texts(), c.hidden], &spans, hidden, &buffers.embeddings)?,
            buffers,
            columns: c.hidden,
        })
    }

    fn layer(&self, w: &LayerWeights, shape: [u32; 2], b: &Buffers) -> Result<Layer> {
        let (gpu, k, epsilon, rows) = (&self.gpu, &self.kernels, self.config.epsilon, shape[0]);
        let (hidden, update) = (&b.hidden, &b.update);
        Ok(Layer {
            qkv: k.linear(gpu, rows, &w.qkv, false, hidden, &b.qkv)?,
            rest: [
                k.linear(gpu, rows, &w.attention_out, false, &b.heads, update)?,
                k.layer_norm(gpu, shape, epsilon, &w.attention_norm, update, hidden)?,
                k.linear(gpu, rows, &w.intermediate, true, hidden, &b.intermediate)?,
                k.linear(gpu, rows, &w.output, false, &b.intermediate, update)?,
                k.layer_norm(gpu, shape, epsilon, &w.output_norm, update, hidden)?,
            ],
        })
    }
}

impl Buffers {
    fn new(gpu: &Gpu, config: &Config, batch: &Batch) -> Result<Self> {
        let per_row = |label, columns: u32| tensor(gpu, label, u64::from(batch.rows()) * u64::from(columns));
        Ok(Buffers {
            hidden: per_row("hidden", config.hidden)?,
            update: per_row("update", config.hidden)?,
            qkv: per_row("qkv", 3 * config.hidden)?,
            heads: per_row("heads", config.hidden)?,
            intermediate: per_row("intermediate", config.intermediate)?,
            embeddings: tensor(gpu, "embeddings", u64::from(batch.texts()) * u64::from(config.hidden))?,
        })
    }
}

impl Plan {
    /// Records the whole encoder.
    ///
    /// # Errors
    /// None that the plan did not have.
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>) -> wgpu_attention::Result<()> {
        self.embed.iter().for_each(|step| step.encode_in(pass));
        for layer in &self.layers {
            layer.qkv.encode_in(pass);
            self.attention.encode_in(pass, &self.buffers.qkv, &self.buffers.heads)?;
            layer.rest.iter().for_each(|step| step.encode_in(pass));
        }
        self.pool.encode_in(pass);
        Ok(())
    }

    /// Runs it, and brings the embeddings back, one for each text.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn run(&self) -> Result<Vec<Vec<f32>>> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.encode_in(&mut encoder.begin_compute_pass(&Default::default()))?;
        let bytes = self.gpu.submit_and_read_blocking(encoder, &self.buffers.embeddings)?;
        let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        Ok(numbers
            .chunks_exact(self.columns as usize)
            .map(<[f32]>::to_vec)
            .collect())
    }
}

/// The cosine of the angle between two embeddings.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The largest difference between two numbers in the same place; NaN if there is a NaN.
pub fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs())
        .fold(0.0, |most, d| match d.is_nan() {
            true => d,
            // Not `max`, which would forget a NaN.
            false if d > most => d,
            false => most,
        })
}
