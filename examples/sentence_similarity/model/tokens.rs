//! From texts to tokens.

use std::path::Path;

use tokenizers::Tokenizer;

use super::{Config, Result};

/// The model's own tokenizer.
#[derive(Debug)]
pub struct Tokens {
    tokenizer: Tokenizer,
    vocabulary: u32,
    positions: u32,
}

impl Tokens {
    /// Reads `tokenizer.json` in the model's directory.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn read(directory: &Path, config: &Config) -> Result<Self> {
        let path = directory.join("tokenizer.json");
        let wrong = |e| format!("{}: {e}", path.display());
        let mut tokenizer = Tokenizer::from_file(&path).map_err(wrong)?;
        // The file asks to cut texts at 128 tokens and to fill all up to that, but a text is a text, and how to fill
        // up is this program's affair.
        tokenizer.with_truncation(None).map_err(wrong)?;
        tokenizer.with_padding(None);
        Ok(Tokens {
            tokenizer,
            vocabulary: config.vocabulary,
            positions: config.positions,
        })
    }

    /// The ids of a text's tokens, `[CLS]` and `[SEP]` included.
    ///
    /// # Errors
    /// If there are more than the model has positions for: nothing is cut off. If the tokenizer belongs to another model.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(text, true)?;
        let ids = encoding.get_ids();
        let shown: String = text.chars().take(40).collect();
        if ids.len() > self.positions as usize {
            let (n, most) = (ids.len(), self.positions);
            return Err(format!("the text \"{shown}…\" has {n} tokens; allowed: at most {most}").into());
        }
        if ids.is_empty() {
            return Err(
                format!("the text \"{shown}\" has no tokens; needed: a tokenizer that adds [CLS] and [SEP]").into(),
            );
        }
        if let Some(id) = ids.iter().find(|id| **id >= self.vocabulary) {
            let most = self.vocabulary;
            return Err(format!(
                "the tokenizer gives token {id}, but the model has {most}: they do not belong together"
            )
            .into());
        }
        Ok(ids.to_vec())
    }
}
