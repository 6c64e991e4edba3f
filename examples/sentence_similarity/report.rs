//! What is printed.

use wgpu_attention::Gpu;
use wgpu_attention::measure::Pairs;

use crate::model::{Config, Mechanism, cosine, largest_difference};

/// Characters of a text that are shown.
const SHOWN: usize = 60;

/// The model and the device.
pub fn device(gpu: &Gpu, config: &Config, attention: Mechanism) {
    let (i, c) = (gpu.info(), config);
    println!(
        "{} layers, {} heads of {}, {attention} attention, f32, on {} ({:?}, driver {} {})",
        c.layers,
        c.heads,
        c.head_dim(),
        i.name,
        i.backend,
        i.driver,
        i.driver_info
    );
}

/// Each text with its number of tokens and, where there is one, its similarity to its embedding by dense attention.
pub fn texts(texts: &[String], ids: &[Vec<u32>], embeddings: &[Vec<f32>], dense: Option<&[Vec<f32>]>) {
    println!("\n  n  tokens{}  text", if dense.is_some() { "  to dense" } else { "" });
    for (n, text) in texts.iter().enumerate() {
        let to_dense = dense.map(|d| format!("  {:>8.5}", cosine(&embeddings[n], &d[n])));
        let (tokens, to_dense) = (ids[n].len(), to_dense.unwrap_or_default());
        println!("{:>3}  {tokens:>6}{to_dense}  {}", n + 1, beginning(text));
    }
    if let Some(dense) = dense {
        let sum: f64 = embeddings.iter().zip(dense).map(|(a, b)| cosine(a, b)).sum();
        println!("similarity to the dense result, mean: {:.5}", sum / dense.len() as f64);
    }
}

/// The table of cosine similarities.
pub fn similarities(embeddings: &[Vec<f32>]) {
    let columns: String = (1..=embeddings.len()).map(|n| format!("{n:>7}")).collect();
    println!("\nsimilarity\n    {columns}");
    for (n, a) in embeddings.iter().enumerate() {
        let row: String = embeddings.iter().map(|b| format!("{:>7.3}", cosine(a, b))).collect();
        println!("{:>3} {row}", n + 1);
    }
}

/// Padded against packed: work, time, and that they agree.
pub fn batches(rows: &[u32; 2], times: &Pairs, embeddings: &[Vec<Vec<f32>>; 2]) {
    println!("\nbatch    rows      time");
    for (way, name) in ["padded", "packed"].iter().enumerate() {
        println!("{name}  {:>6}  {:>8}", rows[way], seconds(times.median(way)));
    }
    let ratio = 1.0 / times.ratio();
    println!("packed / padded, median of {} pairs: {ratio:.2}", times.seconds.len());
    let difference = largest_difference(&embeddings[0], &embeddings[1]);
    println!("largest difference between their embeddings: {difference:.1e}");
}

fn seconds(s: f64) -> String {
    match s {
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// The beginning of a text, on one line.
fn beginning(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
