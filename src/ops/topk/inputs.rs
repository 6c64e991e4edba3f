//! Whether the inputs of a top-k problem are its inputs.

use crate::error::Result;
use crate::ops::dense::inputs::check_optional;
use crate::ops::topk::{TopK, TopKInputs, rules};

impl TopKInputs<'_> {
    /// Checks that these are the inputs of `problem`: every input that it names and no other, lengths, and the ranges
    /// of what [`DenseInputs::check`](crate::DenseInputs::check) checks.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a field of the problem that no plan would accept either,
    /// [`Error::Data`](crate::Error::Data) for an input.
    ///
    /// ```
    /// use wgpu_attention::{Dense, DenseInputs, Scoring, TopK, TopKInputs};
    ///
    /// let attention = Dense { keys: 2, head_dim: 1, ..Default::default() };
    /// let problem = TopK { attention, scoring: Scoring::Mean, pooled: true, ..Default::default() };
    /// let attention = DenseInputs { q: &[1.0], k: &[1.0, 2.0], v: &[3.0, 4.0], ..Default::default() };
    /// // Components are padded to a multiple of four.
    /// let error = TopKInputs { attention, pooled: Some(&[1.0, 2.0]) }.check(&problem).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "input `pooled`: 2 elements; needed: [B, Hkv, ⌈Nk/block_size⌉, P] = [1, 1, 2, 4], 8 elements"
    /// );
    /// ```
    pub fn check(&self, problem: &TopK) -> Result<()> {
        rules::check(problem)?;
        self.attention.check(&problem.attention)?;
        let pool = rules::pool_of(problem).filter(|_| problem.pooled);
        check_optional(
            "pooled",
            "pooled",
            "[B, Hkv, ⌈Nk/block_size⌉, P]",
            pool.map(|pool| pool.dims()),
            self.pooled.map(<[f32]>::len),
        )
    }
}
