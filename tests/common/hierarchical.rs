//! The hierarchical search on the host, straight from its definition.

use wgpu_attention::Hierarchical;

/// A group of neighbouring blocks and the score of its first.
#[derive(Clone, Copy)]
struct Group {
    start: u64,
    end: u64,
    score: f64,
}

/// The lists of all tiles: q `[B, H, Nq, D]`, k `[B, Hkv, Nk, D]`, contiguous.
pub fn hierarchical(p: &Hierarchical, q: &[f32], k: &[f32]) -> Vec<u32> {
    let a = &p.attention;
    let (queries, keys, dim) = (a.queries as usize, a.keys as usize, a.head_dim as usize);
    let group = (a.heads / a.kv_heads()) as usize;
    let mut lists = vec![];
    for (n, q) in q.chunks_exact(queries * dim).enumerate() {
        // Heads of all batch entries follow each other, and so do those of k.
        let k = &k[n / group * keys * dim..][..keys * dim];
        for first in (0..queries).step_by(p.query_block as usize) {
            let end = (first + p.query_block as usize).min(queries);
            let entries = entries_of(p, q, k, first, end);
            let capacity = p.selection().capacity as usize;
            assert!(entries.len() <= capacity);
            lists.push(entries.len() as u32);
            lists.extend(&entries);
            lists.resize(lists.len() + capacity - entries.len(), 0);
        }
    }
    lists
}

/// The blocks of the tile of rows `first..end` of one head.
fn entries_of(p: &Hierarchical, q: &[f32], k: &[f32], first: usize, end: usize) -> Vec<u32> {
    let a = &p.attention;
    let block = i64::from(p.block_size);
    let offset = i64::from(a.q_offset.unwrap_or(a.keys as i32 - a.queries as i32));
    let position = |row: usize| row as i64 + offset;
    let keys = i64::from(a.keys);
    let seen = match a.causal {
        true => position(end).clamp(0, keys),
        false => keys,
    };
    let searched = ((seen - i64::from(p.window)).max(0) / block) as u64;
    let rows: Vec<usize> = match end - first {
        1 => vec![first],
        rows => (1..rows).step_by(2).map(|r| first + r).collect(),
    };
    let score = |e: u64| {
        let first_key = e as i64 * block;
        let pairs = rows
            .iter()
            .flat_map(|&i| (first_key..first_key + block).map(move |j| (i, j)));
        let seen = pairs.filter(|&(i, j)| !a.causal || j <= position(i));
        seen.map(|(i, j)| product(a.head_dim as usize, q, i, k, j as usize) * f64::from(a.scale()))
            .fold(-1e30, f64::max)
    };
    let mut entries: Vec<u32> = kept(searched, p.top_k.into(), score)
        .iter()
        .map(|&e| e as u32)
        .collect();
    let blocks = (seen as u64).div_ceil(block as u64) as u32;
    entries.extend(searched as u32..blocks);
    entries.extend(0..p.sink_tokens.div_ceil(p.block_size).min(blocks));
    entries.sort_unstable();
    entries.dedup();
    entries
}

fn kept(searched: u64, top_k: u64, score: impl Fn(u64) -> f64) -> Vec<u64> {
    if searched <= top_k {
        return (0..searched).collect();
    }
    let group = |start: u64, end: u64| Group {
        start,
        end,
        score: score(start),
    };
    let mut groups: Vec<_> = (0..top_k)
        .map(|i| group(i * searched / top_k, (i + 1) * searched / top_k))
        .collect();
    while groups.iter().any(|g| g.end - g.start > 1) {
        let halves = groups.iter().flat_map(|g| {
            let middle = g.start.midpoint(g.end);
            [(g.start, middle), (middle, g.end)]
        });
        let mut children: Vec<_> = halves
            .filter(|(start, end)| start < end)
            .map(|(start, end)| group(start, end))
            .collect();
        // Stable: equal scores stay in the order of their starts.
        children.sort_by(|x, y| y.score.partial_cmp(&x.score).expect("numbers"));
        children.truncate(top_k as usize);
        children.sort_by_key(|g| g.start);
        groups = children;
    }
    groups.iter().map(|g| g.start).collect()
}

fn product(dim: usize, q: &[f32], i: usize, k: &[f32], j: usize) -> f64 {
    let (q, k) = (&q[i * dim..][..dim], &k[j * dim..][..dim]);
    q.iter().zip(k).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}
