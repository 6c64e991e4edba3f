//! Texts of different lengths as one batch, two ways.
//!
//! ```text
//! padded   a a a · · ·      packed   a a a b b b b b b c c
//!          b b b b b b
//!          c c · · · ·
//! ```
//!
//! Padded, texts are the batch dimension, and every layer works on the padding too. Packed, all tokens are one sequence
//! ("Prepacking", Zhao et al., 2024), and attention is told where texts end. Positions start again with each text
//! either way, so the results are the same.

use super::Result;

/// How texts share a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Filled up to the longest.
    Padded,
    /// One behind the other.
    Packed,
}

/// Texts in a batch, as the encoder takes them.
#[derive(Clone, Debug)]
pub struct Batch {
    packing: Packing,
    lengths: Vec<u32>,
    tokens: Vec<[u32; 2]>,
}

impl Batch {
    /// Texts given by the ids of their tokens.
    ///
    /// # Errors
    /// If there is no text, or one without tokens.
    pub fn new(texts: &[Vec<u32>], packing: Packing) -> Result<Self> {
        if texts.is_empty() {
            return Err("a batch of no texts; needed: one or more".into());
        }
        if let Some(n) = texts.iter().position(Vec::is_empty) {
            return Err(format!("text {n} of the batch has no tokens; needed: one or more").into());
        }
        let lengths: Vec<u32> = texts.iter().map(|ids| ids.len() as u32).collect();
        let rows = |ids: &Vec<u32>| match packing {
            Packing::Padded => longest(&lengths),
            Packing::Packed => ids.len() as u32,
        };
        // What stands in the padding is anyone's choice: nothing else sees it.
        let token = |ids: &[u32], at: u32| [ids.get(at as usize).copied().unwrap_or(0), at];
        let tokens = texts
            .iter()
            .flat_map(|ids| (0..rows(ids)).map(move |at| token(ids, at)))
            .collect();
        Ok(Batch {
            packing,
            lengths,
            tokens,
        })
    }

    /// How the texts share the batch.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Texts.
    pub fn texts(&self) -> u32 {
        self.lengths.len() as u32
    }

    /// Rows of every tensor between layers: tokens, and padding where there is some.
    pub fn rows(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Tokens of each text.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// Tokens of the longest text.
    pub fn longest(&self) -> u32 {
        longest(&self.lengths)
    }

    /// The id and the position of each row.
    pub fn tokens(&self) -> &[[u32; 2]] {
        &self.tokens
    }

    /// The first row of each text, and the number of its rows without padding.
    pub fn spans(&self) -> Vec<[u32; 2]> {
        let starts = self.starts();
        starts
            .into_iter()
            .zip(&self.lengths)
            .map(|(start, n)| [start, *n])
            .collect()
    }

    /// The first row of each text.
    fn starts(&self) -> Vec<u32> {
        let step = |n: &u32| match self.packing {
            Packing::Padded => self.longest(),
            Packing::Packed => *n,
        };
        let ends = self.lengths.iter().scan(0, |end, n| {
            *end += step(n);
            Some(*end)
        });
        std::iter::once(0).chain(ends).take(self.lengths.len()).collect()
    }
}

fn longest(lengths: &[u32]) -> u32 {
    lengths.iter().copied().max().unwrap_or(0)
}
