//! What stands for each block of keys.

use crate::error::Result;
use crate::ops::dense::inputs::{check_kv_len, check_len, check_optional};
use crate::ops::topk::{Pool, Pooling, rules};

/// Works out what stands for each block in float64, `[B, Hkv, room, P]`, from k `[B, Hkv, Nk, D]` and `kv_len` `[B]`,
/// contiguous. All blocks, whatever [`Pool::from_key`] says: what a call leaves as it is was the same before it.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) for the problem, [`Error::Data`](crate::Error::Data) for an input of the
/// wrong length, or a length that is out of range.
///
/// ```
/// use wgpu_attention::topk::reference::pool;
/// use wgpu_attention::{Pool, Pooling};
///
/// let problem = Pool { keys: 3, head_dim: 2, block_size: 2, ..Default::default() };
/// let k = [1.0, -4.0, 3.0, -6.0, 5.0, 7.0];
/// assert_eq!(pool(&problem, &k, None)?, [2.0, -5.0, 0.0, 0.0, 5.0, 7.0, 0.0, 0.0]);
/// let bounds = Pool { pooling: Pooling::Bounds, ..problem };
/// assert_eq!(pool(&bounds, &k, None)?[..8], [3.0, -4.0, 0.0, 0.0, 1.0, -6.0, 0.0, 0.0]);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
pub fn pool(problem: &Pool, k: &[f32], kv_len: Option<&[i32]>) -> Result<Vec<f64>> {
    rules::check_pool(problem)?;
    let p = problem;
    check_len(
        "k",
        "[B, Hkv, Nk, D]",
        &[p.batch, p.kv_heads, p.keys, p.head_dim],
        k.len(),
    )?;
    let lengths = p.kv_len.then_some([p.batch]);
    check_optional("kv_len", "kv_len", "[B]", lengths, kv_len.map(<[i32]>::len))?;
    kv_len.map_or(Ok(()), |kv_len| check_kv_len(kv_len, p.keys))?;

    let dim = p.head_dim as usize;
    let [.., room, width] = p.dims();
    let mut blocks = Vec::new();
    for (head, k) in k.chunks_exact(p.keys as usize * dim).enumerate() {
        let keys = kv_len.map_or(p.keys, |kv_len| kv_len[head / p.kv_heads as usize] as u32);
        for block in 0..room {
            let start = block.saturating_mul(p.block_size).min(keys);
            let end = start.saturating_add(p.block_size).min(keys);
            let rows: Vec<_> = k[start as usize * dim..end as usize * dim].chunks_exact(dim).collect();
            blocks.extend(stand_in(p.pooling, &rows, dim, width as usize));
        }
    }
    Ok(blocks)
}

/// The numbers of one block; 0 for one without keys.
fn stand_in(pooling: Pooling, rows: &[&[f32]], dim: usize, width: usize) -> Vec<f64> {
    let mut numbers = vec![0.0; width];
    if rows.is_empty() {
        return numbers;
    }
    for d in 0..dim {
        let column = rows.iter().map(|row| f64::from(row[d]));
        match pooling {
            Pooling::Mean => numbers[d] = column.sum::<f64>() / rows.len() as f64,
            Pooling::Bounds => {
                numbers[d] = column.clone().fold(f64::NEG_INFINITY, f64::max);
                numbers[width / 2 + d] = column.fold(f64::INFINITY, f64::min);
            }
        }
    }
    numbers
}
