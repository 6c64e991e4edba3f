//! The example `sentence_similarity`: its encoder against float64, and, where the weights are here, against PyTorch.
//!
//! The weights are those in `WGPU_ATTENTION_MODEL`, or where `scripts/similarity --fetch` puts them. Without them the tests
//! that need them say that they did nothing; with `WGPU_ATTENTION_REQUIRE_MODEL=1` they fail.

#[path = "../examples/sentence_similarity/model/mod.rs"]
#[allow(dead_code)]
mod model;

mod common;
#[path = "similarity/tiny.rs"]
mod tiny;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use safetensors::SafeTensors;
use tempfile::tempdir;
use wgpu_attention::Gpu;

use common::Random;
use model::{Batch, Encoder, Mechanism, Packing, Tokens, cosine, largest_difference};
use tiny::Tiny;

/// Cosine to the golden embeddings, at least.
const GOLDEN: f64 = 0.99999;

/// Difference between the embeddings of padded and packed batches, at most.
const PACKING: f64 = 1e-5;

/// The directory of the real model, or `None` with a loud line.
fn real() -> Option<PathBuf> {
    let directory = model::directory();
    if let Some(found) = directory.as_ref().filter(|d| d.join("model.safetensors").exists()) {
        return Some(found.clone());
    }
    let looked = directory.map_or("the environment".into(), |d| d.display().to_string());
    let message = format!("no model in {looked}; scripts/similarity --fetch gets it");
    let required = std::env::var("WGPU_ATTENTION_REQUIRE_MODEL").as_deref() == Ok("1");
    assert!(!required, "{message}");
    eprintln!("\n*** NOT TESTED: {message}; WGPU_ATTENTION_REQUIRE_MODEL=1 makes this fail ***\n");
    None
}

/// The texts that PyTorch has embedded.
struct Golden {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    embeddings: Vec<Vec<f32>>,
}

fn golden() -> Golden {
    let bytes = include_bytes!("similarity/golden.safetensors");
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let embeddings = tensors.tensor("embeddings").unwrap();
    let columns = embeddings.shape()[1];
    let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(embeddings.data());
    Golden {
        texts: serde_json::from_str(&metadata["texts"]).unwrap(),
        ids: serde_json::from_str(&metadata["tokens"]).unwrap(),
        embeddings: numbers.chunks_exact(columns).map(<[f32]>::to_vec).collect(),
    }
}

/// The texts' embeddings, the rows that every layer worked on, and the time of it.
fn embed(encoder: &Encoder, ids: &[Vec<u32>], packing: Packing, by: Mechanism) -> (Vec<Vec<f32>>, u32, Duration) {
    let batch = Batch::new(ids, packing).unwrap();
    let plan = encoder.plan(&batch, by).unwrap();
    let start = Instant::now();
    let embeddings = plan.run().unwrap();
    (embeddings, batch.rows(), start.elapsed())
}

/// The smallest cosine between embeddings of the same text; NaN if there is a NaN.
fn smallest_cosine(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let cosines = a.iter().zip(b).map(|(a, b)| cosine(a, b));
    // Not `min`, which would forget a NaN.
    cosines.fold(1.0, |least, c| if c.is_nan() || c < least { c } else { least })
}

#[test]
fn embeddings_are_those_of_pytorch() {
    let (Some(gpu), Some(directory)) = (common::gpu(), real()) else {
        return;
    };
    let golden = golden();
    let encoder = Encoder::read(&gpu, &directory).unwrap();
    let tokens = Tokens::read(&directory, encoder.config()).unwrap();
    let ids: Vec<_> = golden.texts.iter().map(|text| tokens.ids(text).unwrap()).collect();
    assert_eq!(ids, golden.ids, "the tokenizer disagrees");

    let [padded, packed] = [Packing::Padded, Packing::Packed].map(|packing| {
        let (embeddings, rows, time) = embed(&encoder, &ids, packing, Mechanism::Dense);
        let cosine = smallest_cosine(&embeddings, &golden.embeddings);
        println!(
            "{packing:?}: {rows} rows, {time:.2?}, smallest cosine to PyTorch's 1 − {:.1e}",
            1.0 - cosine
        );
        assert!(cosine >= GOLDEN, "{packing:?}: {cosine}");
        (embeddings, rows, time)
    });
    let difference = largest_difference(&padded.0, &packed.0);
    println!("largest difference {difference:.1e}, time of packed / padded {:.2}", {
        packed.2.as_secs_f64() / padded.2.as_secs_f64()
    });
    assert!(difference <= PACKING, "{difference}");
    assert!(packed.1 < padded.1, "packing saves nothing");
}

#[test]
fn other_mechanisms_on_the_real_model() {
    let (Some(gpu), Some(directory)) = (common::gpu(), real()) else {
        return;
    };
    let golden = golden();
    // Without the longest, which would take most of the time.
    let ids = &golden.ids[..golden.ids.len() - 1];
    let encoder = Encoder::read(&gpu, &directory).unwrap();
    for by in ["topk:512", "topk:32", "linear"] {
        let by: Mechanism = by.parse().unwrap();
        let (padded, ..) = embed(&encoder, ids, Packing::Padded, by);
        let (packed, ..) = embed(&encoder, ids, Packing::Packed, by);
        let difference = largest_difference(&padded, &packed);
        let to_dense = smallest_cosine(&packed, &golden.embeddings[..ids.len()]);
        println!("{by}: padded and packed differ by {difference:.1e}; smallest cosine to dense {to_dense:.5}");
        assert!(difference <= PACKING, "{by}: {difference}");
        match by {
            // All tokens of every text.
            Mechanism::TopK(512) => assert!(to_dense >= GOLDEN, "{by}: {to_dense}"),
            _ => assert!(to_dense < GOLDEN, "{by} is dense attention"),
        }
    }
}

/// Lengths on both sides of a linear layer's tile, and a batch that one text makes alone.
#[test]
fn a_tiny_model_gives_what_float64_gives() {
    let Some(gpu) = common::gpu() else { return };
    let mut random = Random::new(1);
    let tiny = Tiny::new(&mut random);
    let directory = tempdir().unwrap();
    tiny.write(directory.path());
    let encoder = Encoder::read(&gpu, directory.path()).unwrap();
    for lengths in [&[1][..], &[7], &[2, 63, 1, 64, 30, 65, 3], &[5; 64]] {
        let mut text = |n: u32| {
            (0..n)
                .map(|_| random.below(tiny::VOCABULARY as u32))
                .collect::<Vec<_>>()
        };
        let ids: Vec<_> = lengths.iter().map(|n| text(*n)).collect();
        for packing in [Packing::Padded, Packing::Packed] {
            let (embeddings, ..) = embed(&encoder, &ids, packing, Mechanism::Dense);
            for (n, ids) in ids.iter().enumerate() {
                let expected: Vec<f32> = tiny.embedding(ids).iter().map(|a| *a as f32).collect();
                let difference = largest_difference(&embeddings[n..=n], &[expected]);
                assert!(difference <= PACKING, "{packing:?} {lengths:?}, text {n}: {difference}");
            }
        }
    }
}

/// On the device as it is, with every access checked, and with nothing but what every WebGPU device has.
#[test]
fn tiny_batches_padded_and_packed_agree_by_each_mechanism() {
    let directory = tempdir().unwrap();
    Tiny::new(&mut Random::new(2)).write(directory.path());
    let text = |n: &u32| (0..*n).map(|t| (t * 7 + n) % tiny::VOCABULARY as u32).collect();
    let ids: Vec<Vec<u32>> = [3, 40, 1, 17, 40].iter().map(text).collect();
    for [checked, minimal] in [[false, false], [true, false], [false, true]] {
        let gpu = common::gpu_with(|options| (options.checked, options.minimal) = (checked, minimal));
        let Some(gpu) = gpu else { return };
        let encoder = Encoder::read(&gpu, directory.path()).unwrap();
        let dense = embed(&encoder, &ids, Packing::Packed, Mechanism::Dense).0;
        for by in [
            Mechanism::Dense,
            Mechanism::TopK(5),
            Mechanism::TopK(40),
            Mechanism::Linear,
        ] {
            let [padded, packed] = [Packing::Padded, Packing::Packed].map(|p| embed(&encoder, &ids, p, by).0);
            let difference = largest_difference(&padded, &packed);
            assert!(difference <= PACKING, "{by}: {difference}");
            let is_dense = largest_difference(&packed, &dense) <= PACKING;
            assert_eq!(is_dense, matches!(by, Mechanism::Dense | Mechanism::TopK(40)), "{by}");
            assert_eq!(
                embed(&encoder, &ids, Packing::Packed, by).0,
                packed,
                "{by}: a second run differs"
            );
        }
    }
}

#[test]
fn batches_that_a_device_cannot_hold_are_refused() {
    let Some(mut limits) = common::limits() else { return };
    limits.max_storage_buffer_binding_size = 100_000;
    limits.max_buffer_size = 100_000;
    let Some(gpu) = common::gpu_with(|options| options.limits = Some(limits)) else {
        return;
    };
    let directory = tempdir().unwrap();
    Tiny::new(&mut Random::new(5)).write(directory.path());
    let encoder = Encoder::read(&gpu, directory.path()).unwrap();
    let plan = |texts: usize| {
        let batch = Batch::new(&vec![vec![4; 50]; texts], Packing::Packed).unwrap();
        encoder.plan(&batch, Mechanism::Dense)
    };
    plan(5).unwrap();
    assert_eq!(
        plan(10).unwrap_err().to_string(),
        "`qkv` needs 144000 bytes, but this device's `max_storage_buffer_binding_size` is 100000: give fewer texts at once"
    );
}

#[test]
fn comparisons_can_fail() {
    let golden = golden().embeddings;
    assert_eq!(smallest_cosine(&golden, &golden), 1.0);
    assert_eq!(largest_difference(&golden, &golden), 0.0);
    for wrong in [0.05, f32::NAN] {
        let mut corrupted = golden.clone();
        corrupted[7][100] += wrong;
        let passes = smallest_cosine(&corrupted, &golden) >= GOLDEN;
        assert!(!passes, "the cosine of {wrong}");
        let passes = largest_difference(&corrupted, &golden) <= PACKING;
        assert!(!passes, "the difference of {wrong}");
    }
    let mut swapped = golden.clone();
    swapped.swap(1, 2);
    assert!(smallest_cosine(&swapped, &golden) < GOLDEN);
}

#[test]
fn mechanisms_are_named() {
    for name in ["dense", "topk:1", "topk:32", "linear"] {
        assert_eq!(name.parse::<Mechanism>().unwrap().to_string(), name);
    }
    for name in [
        "",
        "Dense",
        "topk",
        "topk:",
        "topk:0",
        "topk:-1",
        "topk:9999999999",
        "sparse",
    ] {
        let error = name.parse::<Mechanism>().unwrap_err();
        assert!(error.contains("allowed: dense, linear, or topk:K"), "{name}: {error}");
    }
}

/// What reading a model says.
fn refused(gpu: &Gpu, directory: &Path) -> String {
    Encoder::read(gpu, directory).unwrap_err().to_string()
}

#[test]
fn wrong_models_are_refused() {
    let Some(gpu) = common::gpu() else { return };
    let directory = tempdir().unwrap();
    let path = directory.path();
    assert!(refused(&gpu, path).contains("config.json: "));

    let mut tiny = Tiny::new(&mut Random::new(3));
    tiny.write(path);
    std::fs::remove_file(path.join("model.safetensors")).unwrap();
    assert!(refused(&gpu, path).contains("model.safetensors: "));

    let bias = "encoder.layer.1.attention.self.key.bias";
    let right = tiny.tensors[bias].clone();
    tiny.tensors.insert(bias.into(), (vec![4, 6], right.1.clone()));
    tiny.write(path);
    let expected = format!("model.safetensors: tensor `{bias}` is F32 [4, 6]; needed: F32 [24]");
    assert!(refused(&gpu, path).ends_with(&expected), "{}", refused(&gpu, path));
    tiny.tensors.remove(bias);
    tiny.write(path);
    assert!(refused(&gpu, path).contains(&format!("tensor `{bias}`")));
    tiny.tensors.insert(bias.into(), right);
    tiny.write(path);
    Encoder::read(&gpu, path).unwrap();

    let wrong = [
        (
            "model_type",
            "gpt2".into(),
            "`model_type` is \"gpt2\"; allowed: \"bert\"",
        ),
        (
            "hidden_act",
            "relu".into(),
            "`hidden_act` is \"relu\"; allowed: \"gelu\"",
        ),
        (
            "hidden_size",
            6.into(),
            "`hidden_size` is 6; allowed: a multiple of 4 above 0",
        ),
        (
            "num_attention_heads",
            5.into(),
            "`num_attention_heads` is 5; allowed: a divisor of `hidden_size`, 24",
        ),
        (
            "layer_norm_eps",
            0.into(),
            "`layer_norm_eps` is 0; allowed: a number above 0",
        ),
    ];
    for (key, value, message) in wrong {
        let mut config = tiny::config();
        config[key] = value;
        std::fs::write(path.join("config.json"), config.to_string()).unwrap();
        assert!(refused(&gpu, path).ends_with(message), "{}", refused(&gpu, path));
    }
}

#[test]
fn texts_are_never_cut_off() {
    let Some(gpu) = common::gpu() else { return };
    let directory = tempdir().unwrap();
    Tiny::new(&mut Random::new(4)).write(directory.path());
    let encoder = Encoder::read(&gpu, directory.path()).unwrap();
    let tokens = Tokens::read(directory.path(), encoder.config()).unwrap();
    assert_eq!(tokens.ids("").unwrap(), [2, 3]);
    assert_eq!(tokens.ids("a b a a a").unwrap(), [2, 4, 1, 4, 4, 4, 3]);
    assert_eq!(tokens.ids(&"a ".repeat(88)).unwrap().len(), 90);
    let error = tokens.ids(&"a ".repeat(89)).unwrap_err().to_string();
    assert!(error.ends_with("has 91 tokens; allowed: at most 90"), "{error}");
    let error = tokens.ids("stranger").unwrap_err().to_string();
    assert_eq!(
        error,
        "the tokenizer gives token 30, but the model has 30: they do not belong together"
    );
    std::fs::remove_file(directory.path().join("tokenizer.json")).unwrap();
    let error = Tokens::read(directory.path(), encoder.config())
        .unwrap_err()
        .to_string();
    assert!(error.contains("tokenizer.json: "), "{error}");
}

#[test]
fn batches_of_nothing_are_refused() {
    for packing in [Packing::Padded, Packing::Packed] {
        let refused = |texts: &[Vec<u32>]| Batch::new(texts, packing).unwrap_err().to_string();
        assert_eq!(refused(&[]), "a batch of no texts; needed: one or more");
        assert_eq!(
            refused(&[vec![1], vec![]]),
            "text 1 of the batch has no tokens; needed: one or more"
        );
    }
}
