//! Compiling ahead of time what plans with other numbers of keys will take.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::dense::Dense;
use crate::ops::dense::plan::choose;
use crate::ops::dense::tile::Tuning;

impl Dense {
    /// Compiles what plans of this problem take with any number of keys in a range, so that planning a step of decoding never waits
    /// for a compiler: the number of keys decides about kernel, tile, shares and lists, a handful of times over a whole cache. With a
    /// `selection` each number of keys below its block size is a kind of its own: begin with the block size.
    /// Gives the number of kinds of plans there are.
    ///
    /// ```no_run
    /// # use wgpu_attention::{Dense, Gpu, Result};
    /// # fn f(gpu: &Gpu) -> Result<()> {
    /// let step = Dense { heads: 32, kv_heads: Some(8), head_dim: 128, causal: true, ..Default::default() };
    /// step.compile(gpu, 1..=32_768)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a range without a number, and those of [`Dense::plan`] for the numbers of keys that are looked at.
    pub fn compile(&self, gpu: &Gpu, keys: RangeInclusive<u32>) -> Result<usize> {
        if keys.is_empty() {
            return Err(Error::Invalid {
                field: "keys",
                value: format!("{keys:?}"),
                allowed: "a range with at least one number".into(),
            });
        }
        let with = |keys| Dense { keys, ..self.clone() };
        let kind = |keys| Ok(choose(&with(keys), gpu, &Tuning::default())?.kind(&with(keys)));
        let kinds = kinds(&keys, kind)?;
        for &keys in kinds.values() {
            with(keys).plan(gpu)?;
        }
        Ok(kinds.len())
    }
}

/// All kinds in a range, each with one of its numbers. Between two numbers of one kind, of which at most a power of two lies
/// between, all are taken to be of it.
fn kinds<K: Eq + std::hash::Hash + Clone>(
    range: &RangeInclusive<u32>,
    kind: impl Fn(u32) -> Result<K>,
) -> Result<HashMap<K, u32>> {
    let (first, last) = (*range.start(), *range.end());
    let powers = (0..32).map(|n| 1u32 << n).filter(|n| first < *n && *n < last);
    let mut open: Vec<(u32, K)> = vec![(last, kind(last)?)];
    for n in powers.rev() {
        open.push((n, kind(n)?));
    }
    // The numbers to come, the next one on top, between which kinds may change.
    let mut at = (first, kind(first)?);
    let mut found = HashMap::from([(at.1.clone(), at.0)]);
    while let Some((next, next_kind)) = open.pop() {
        if next_kind == at.1 || next - at.0 <= 1 {
            found.entry(next_kind.clone()).or_insert(next);
            at = (next, next_kind);
        } else {
            let middle = at.0 + (next - at.0) / 2;
            open.push((next, next_kind));
            open.push((middle, kind(middle)?));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_a_range_is_found() {
        let bounds = [1, 7, 96, 97, 300, 4000, 8193, 65_536];
        let of = |n: u32| Ok(bounds.iter().filter(|b| **b <= n).count());
        let all = kinds(&(1..=100_000), of).unwrap();
        assert_eq!(all.len(), bounds.len());
        assert!(all.iter().all(|(kind, n)| of(*n).unwrap() == *kind));
        assert_eq!(kinds(&(97..=299), of).unwrap().len(), 1);
        assert_eq!(kinds(&(5..=5), of).unwrap().into_values().collect::<Vec<_>>(), [5]);
        assert_eq!(kinds(&(6..=7), of).unwrap().len(), 2);
        let calls = std::cell::Cell::new(0);
        let counted = |n| {
            calls.set(calls.get() + 1);
            of(n)
        };
        kinds(&(1..=1 << 28), counted).unwrap();
        assert!(calls.get() < 200, "{}", calls.get());
        let refused = kinds(&(1..=10), |_| -> Result<u32> {
            Err(Error::NoAdapter { message: String::new() })
        });
        assert!(refused.is_err());
    }
}
