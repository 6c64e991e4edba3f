//! What the model's `config.json` says, as far as the arithmetic depends on it.

use std::path::Path;

use serde_json::Value;

use super::Result;

/// The shape of a BERT encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Layers.
    pub layers: u32,
    /// Numbers of a token between layers.
    pub hidden: u32,
    /// Attention heads, each of hidden/heads numbers.
    pub heads: u32,
    /// Numbers of a token inside the feed-forward layers.
    pub intermediate: u32,
    /// Tokens that there are embeddings for.
    pub vocabulary: u32,
    /// Positions that there are embeddings for, i.e. tokens of a text at most.
    pub positions: u32,
    /// Kinds of token that there are embeddings for.
    pub kinds: u32,
    /// ε of the layer norms.
    pub epsilon: f32,
}

impl Config {
    /// Reads `config.json` in the model's directory.
    ///
    /// # Errors
    /// Names the file, and the key that is missing or has a value that this encoder cannot serve.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        let text = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let json: Value = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::from_json(&json).map_err(|e| format!("{}: {e}", path.display()).into())
    }

    fn from_json(json: &Value) -> Result<Self> {
        only(json, "model_type", "bert")?;
        only(json, "hidden_act", "gelu")?;
        if json.get("position_embedding_type").is_some() {
            only(json, "position_embedding_type", "absolute")?;
        }
        let config = Config {
            layers: size(json, "num_hidden_layers", 1)?,
            // Rows are read in vectors of four.
            hidden: size(json, "hidden_size", 4)?,
            heads: size(json, "num_attention_heads", 1)?,
            intermediate: size(json, "intermediate_size", 4)?,
            vocabulary: size(json, "vocab_size", 1)?,
            positions: size(json, "max_position_embeddings", 1)?,
            kinds: size(json, "type_vocab_size", 1)?,
            epsilon: json["layer_norm_eps"]
                .as_f64()
                .filter(|e| *e > 0.0)
                .ok_or_else(|| wrong(json, "layer_norm_eps", "a number above 0"))? as f32,
        };
        if !config.hidden.is_multiple_of(config.heads) {
            let allowed = format!("a divisor of `hidden_size`, {}", config.hidden);
            return Err(wrong(json, "num_attention_heads", &allowed).into());
        }
        Ok(config)
    }

    /// Numbers of a head.
    pub fn head_dim(&self) -> u32 {
        self.hidden / self.heads
    }
}

fn only(json: &Value, key: &str, value: &str) -> Result<()> {
    match json[key] == value {
        true => Ok(()),
        false => Err(wrong(json, key, &format!("\"{value}\"")).into()),
    }
}

/// A positive multiple of `unit`.
fn size(json: &Value, key: &str, unit: u32) -> Result<u32> {
    json[key]
        .as_u64()
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| *n > 0 && n.is_multiple_of(unit))
        .ok_or_else(|| wrong(json, key, &format!("a multiple of {unit} above 0")).into())
}

fn wrong(json: &Value, key: &str, allowed: &str) -> String {
    match json.get(key) {
        Some(value) => format!("`{key}` is {value}; allowed: {allowed}"),
        None => format!("`{key}` is missing; needed: {allowed}"),
    }
}
