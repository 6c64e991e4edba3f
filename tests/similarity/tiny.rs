//! A model of few and random numbers in a directory of its own, and what an encoder must make of it, in float64.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::json;
use wgpu_attention::dense::reference::{Hooks, dense};
use wgpu_attention::{Dense, DenseInputs};

use crate::common::Random;

pub const LAYERS: usize = 2;
pub const HIDDEN: usize = 24;
pub const HEADS: usize = 3;
pub const INTERMEDIATE: usize = 40;
pub const VOCABULARY: usize = 30;
pub const POSITIONS: usize = 90;
const EPSILON: f64 = 1e-12;

/// Tensors by name.
pub struct Tiny {
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Tiny {
    pub fn new(random: &mut Random) -> Self {
        let mut tiny = Tiny {
            tensors: BTreeMap::new(),
        };
        let (h, i) = (HIDDEN, INTERMEDIATE);
        let embeddings = [("word", VOCABULARY), ("position", POSITIONS), ("token_type", 2)];
        for (name, n) in embeddings {
            tiny.add(random, &format!("embeddings.{name}_embeddings.weight"), &[n, h]);
        }
        tiny.add_norm(random, "embeddings.LayerNorm");
        for layer in 0..LAYERS {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            for part in ["query", "key", "value"] {
                tiny.add_linear(random, &name(&format!("attention.self.{part}")), h, h);
            }
            tiny.add_linear(random, &name("attention.output.dense"), h, h);
            tiny.add_norm(random, &name("attention.output.LayerNorm"));
            tiny.add_linear(random, &name("intermediate.dense"), h, i);
            tiny.add_linear(random, &name("output.dense"), i, h);
            tiny.add_norm(random, &name("output.LayerNorm"));
        }
        tiny
    }

    fn add(&mut self, random: &mut Random, name: &str, shape: &[usize]) {
        let n = shape.iter().product();
        let numbers = (0..n).map(|_| random.range(-1000, 1000) as f32 / 1000.0).collect();
        self.tensors.insert(name.into(), (shape.to_vec(), numbers));
    }

    fn add_linear(&mut self, random: &mut Random, name: &str, inputs: usize, outputs: usize) {
        self.add(random, &format!("{name}.weight"), &[outputs, inputs]);
        self.add(random, &format!("{name}.bias"), &[outputs]);
    }

    fn add_norm(&mut self, random: &mut Random, name: &str) {
        self.add(random, &format!("{name}.weight"), &[HIDDEN]);
        self.add(random, &format!("{name}.bias"), &[HIDDEN]);
    }

    /// Writes the files of the model; the tokenizer splits at spaces and knows `[CLS]`, `[SEP]` and `a`.
    pub fn write(&self, directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        let views = self.tensors.iter().map(|(name, (shape, numbers))| {
            let bytes = bytemuck::cast_slice(numbers);
            (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        serialize_to_file(views, None, &directory.join("model.safetensors")).unwrap();
        let write = |file: &str, json: serde_json::Value| {
            std::fs::write(directory.join(file), json.to_string()).unwrap();
        };
        write("config.json", config());
        write("tokenizer.json", tokenizer());
    }

    /// The embedding of a text.
    pub fn embedding(&self, ids: &[u32]) -> Vec<f64> {
        let at = |name: &str, row: usize, c: usize| self.f64("embeddings.", name)[row * HIDDEN + c];
        let embedded = |t: usize, c: usize| {
            at("word_embeddings.weight", ids[t] as usize, c)
                + at("position_embeddings.weight", t, c)
                + at("token_type_embeddings.weight", 0, c)
        };
        let mut x: Vec<f64> = (0..ids.len() * HIDDEN)
            .map(|i| embedded(i / HIDDEN, i % HIDDEN))
            .collect();
        self.norm("embeddings.LayerNorm", &mut x);
        for layer in 0..LAYERS {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            let [q, k, v] = ["query", "key", "value"].map(|p| self.linear(&name(&format!("attention.self.{p}")), &x));
            let o = attention(ids.len(), &q, &k, &v);
            add(&mut x, &self.linear(&name("attention.output.dense"), &o));
            self.norm(&name("attention.output.LayerNorm"), &mut x);
            let mut inner = self.linear(&name("intermediate.dense"), &x);
            inner.iter_mut().for_each(|a| *a *= 0.5 * (1.0 + erf(*a / 2f64.sqrt())));
            add(&mut x, &self.linear(&name("output.dense"), &inner));
            self.norm(&name("output.LayerNorm"), &mut x);
        }
        let sum = |c: usize| x.iter().skip(c).step_by(HIDDEN).sum::<f64>();
        let sums: Vec<f64> = (0..HIDDEN).map(sum).collect();
        let length = sums.iter().map(|s| s * s).sum::<f64>().sqrt();
        sums.iter().map(|s| s / length).collect()
    }

    fn f64(&self, group: &str, name: &str) -> Vec<f64> {
        let numbers = &self.tensors[&format!("{group}{name}")].1;
        numbers.iter().map(|n| f64::from(*n)).collect()
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (weight, bias) = (self.f64(name, ".weight"), self.f64(name, ".bias"));
        let inputs = weight.len() / bias.len();
        let output = |row: &[f64], o: usize| -> f64 {
            let products = row.iter().zip(&weight[o * inputs..]).map(|(a, b)| a * b);
            bias[o] + products.sum::<f64>()
        };
        let rows = x.chunks_exact(inputs);
        rows.flat_map(|row| (0..bias.len()).map(move |o| (row, o)))
            .map(|(row, o)| output(row, o))
            .collect()
    }

    fn norm(&self, name: &str, x: &mut [f64]) {
        let (weight, bias) = (self.f64(name, ".weight"), self.f64(name, ".bias"));
        for row in x.chunks_exact_mut(HIDDEN) {
            let mean = row.iter().sum::<f64>() / HIDDEN as f64;
            let variance = row.iter().map(|a| (a - mean) * (a - mean)).sum::<f64>() / HIDDEN as f64;
            for (c, a) in row.iter_mut().enumerate() {
                *a = (*a - mean) / (variance + EPSILON).sqrt() * weight[c] + bias[c];
            }
        }
    }
}

pub fn config() -> serde_json::Value {
    json!({
        "model_type": "bert", "hidden_act": "gelu", "num_hidden_layers": LAYERS, "hidden_size": HIDDEN,
        "num_attention_heads": HEADS, "intermediate_size": INTERMEDIATE, "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS, "type_vocab_size": 2, "layer_norm_eps": EPSILON,
    })
}

fn tokenizer() -> serde_json::Value {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true})
    };
    let bound = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    json!({
        "version": "1.0",
        // Neither of which may have an effect.
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 6}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]")],
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [bound("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, bound("[SEP]")],
            "pair": [],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "[UNK]",
            "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "stranger": VOCABULARY}},
    })
}

/// Softmax attention over `[tokens, heads, dim]`.
fn attention(tokens: usize, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let dim = HIDDEN / HEADS;
    // The reference takes and gives [heads, tokens, dim].
    let place = |h: usize, t: usize, d: usize| (t * HEADS + h) * dim + d;
    let all = || (0..HEADS).flat_map(move |h| (0..tokens).flat_map(move |t| (0..dim).map(move |d| (h, t, d))));
    let turned = |x: &[f64]| -> Vec<f32> { all().map(|(h, t, d)| x[place(h, t, d)] as f32).collect() };
    let problem = Dense {
        heads: HEADS as u32,
        queries: tokens as u32,
        keys: tokens as u32,
        head_dim: dim as u32,
        ..Default::default()
    };
    let inputs = DenseInputs {
        q: &turned(q),
        k: &turned(k),
        v: &turned(v),
        ..Default::default()
    };
    let output = dense(&problem, &inputs, &Hooks::default()).unwrap().o;
    let mut o = vec![0.0; output.len()];
    all().zip(&output).for_each(|((h, t, d), a)| o[place(h, t, d)] = *a);
    o
}

fn add(x: &mut [f64], update: &[f64]) {
    x.iter_mut().zip(update).for_each(|(x, u)| *x += u);
}

/// The error function by its series; beyond 6 it is 1 in f64.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    // Σ (−1)^n x^{2n+1} / (n! (2n + 1)) loses digits to cancelling; this form has positive terms alone:
    // e^{−x²} Σ 2^n x^{2n+1} / (1·3·…·(2n + 1)).
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

#[test]
fn erf_is_the_error_function() {
    // Abramowitz & Stegun, table 7.1.
    for (x, expected) in [
        (0.0, 0.0),
        (0.5, 0.520_499_877_8),
        (1.0, 0.842_700_792_9),
        (2.0, 0.995_322_265_0),
    ] {
        assert!((erf(x) - expected).abs() < 1e-10, "{x}");
        assert!((erf(-x) + expected).abs() < 1e-10, "−{x}");
    }
    assert!((erf(5.9) - 1.0).abs() < 1e-14);
}
