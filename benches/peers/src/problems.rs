//! The problems that are measured, by name.

use serde::Serialize;
use wgpu_attention::{DType, Dense};

/// A problem with its name.
#[derive(Clone, Debug)]
pub struct Named {
    pub suite: Suite,
    /// Its numbers and options, with `/` between them; the same for every program that measures it.
    pub name: String,
    pub problem: Dense,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    Prefill,
    Decode,
    /// Other shapes that every peer can express.
    Custom,
}

impl Named {
    /// `suite/name`.
    pub fn path(&self) -> String {
        let suite = match self.suite {
            Suite::Prefill => "prefill",
            Suite::Decode => "decode",
            Suite::Custom => "custom",
        };
        format!("{suite}/{}", self.name)
    }
}

const HEAD_DIMS: [u32; 2] = [64, 128];
const DTYPES: [DType; 2] = [DType::F16, DType::F32];

/// All of them. A software GPU gets 8 heads and a prompt of at most 2048, others 32 heads; a quick run the ends of each
/// series.
pub fn all(software: bool, quick: bool) -> Vec<Named> {
    let heads = if software { 8 } else { 32 };
    let prefill: &[u32] = match (software, quick) {
        (true, true) => &[512],
        (true, false) => &[512, 1024, 2048],
        (false, true) => &[512, 4096],
        (false, false) => &[512, 1024, 2048, 4096],
    };
    let decode: &[u32] = match quick {
        true => &[1024, 16384],
        false => &[1024, 2048, 4096, 8192, 16384],
    };
    let mut all = vec![];
    for dtype in DTYPES {
        for head_dim in HEAD_DIMS {
            let base = Dense {
                heads,
                head_dim,
                dtype,
                ..Default::default()
            };
            for causal in [false, true] {
                all.extend(prefill.iter().map(|&n| {
                    prompt(Dense {
                        causal,
                        queries: n,
                        keys: n,
                        ..base.clone()
                    })
                }));
            }
            all.extend(decode.iter().map(|&n| {
                step(Dense {
                    causal: true,
                    keys: n,
                    ..base.clone()
                })
            }));
        }
        all.push(step(Dense {
            causal: true,
            dtype,
            ..grouped(software)
        }));
        all.extend(others(Dense {
            heads,
            dtype,
            ..Default::default()
        }));
    }
    all
}

/// Eight query heads to a KV head.
fn grouped(software: bool) -> Dense {
    let kv_heads = if software { 1 } else { 8 };
    Dense {
        heads: 8 * kv_heads,
        kv_heads: Some(kv_heads),
        keys: 4096,
        head_dim: 128,
        ..Default::default()
    }
}

/// A batch, a piece of a long prompt, and cross-attention.
fn others(base: Dense) -> [Named; 3] {
    let batch = Dense {
        batch: 4,
        queries: 512,
        keys: 512,
        causal: true,
        ..base.clone()
    };
    let piece = Dense {
        queries: 256,
        keys: 2048,
        causal: true,
        ..base.clone()
    };
    let cross = Dense {
        queries: 512,
        keys: 1024,
        ..base
    };
    let of = |p: Dense, shape: &str| Named {
        suite: Suite::Custom,
        name: format!("D{}/{}/{}/softmax/{shape}", p.head_dim, mask_name(&p), p.dtype),
        problem: p,
    };
    [of(batch, "N512/B4"), of(piece, "N256/Nk2048"), of(cross, "N512/Nk1024")]
}

fn prompt(p: Dense) -> Named {
    Named {
        suite: Suite::Prefill,
        name: format!("D{}/{}/{}/softmax/N{}", p.head_dim, mask_name(&p), p.dtype, p.queries),
        problem: p,
    }
}

fn step(p: Dense) -> Named {
    Named {
        suite: Suite::Decode,
        name: format!(
            "D{}/{}:{}/{}/softmax/Nk{}",
            p.head_dim,
            p.heads,
            kv_heads(&p),
            p.dtype,
            p.keys
        ),
        problem: p,
    }
}

/// A problem of the same kind that the float64 reference answers at once. Lengths are multiples of 64: a peer may round
/// them up to its tile, and what is timed is a multiple of it too.
pub fn small(p: &Dense) -> Dense {
    let keys = if p.queries == 1 { 512 } else { 256 };
    let group = p.heads / kv_heads(p);
    Dense {
        batch: p.batch.min(2),
        heads: 2 * group,
        kv_heads: Some(2),
        queries: if p.queries == p.keys { keys } else { p.queries.min(64) },
        keys,
        ..p.clone()
    }
}

pub fn kv_heads(p: &Dense) -> u32 {
    p.kv_heads.unwrap_or(p.heads)
}

pub fn value_dim(p: &Dense) -> u32 {
    p.value_dim.unwrap_or(p.head_dim)
}

pub fn mask_name(p: &Dense) -> &'static str {
    if p.causal { "causal" } else { "full" }
}

/// Floating-point operations of the two products over the visible (query, key) pairs.
pub fn flops(p: &Dense) -> f64 {
    let (nq, nk) = (f64::from(p.queries), f64::from(p.keys));
    // The last query sees all keys, each before it one less; none has fewer than one, as Nq ≤ Nk here.
    let hidden = if p.causal { nq * (nq - 1.0) / 2.0 } else { 0.0 };
    let pairs = nq * nk - hidden;
    2.0 * pairs * f64::from(p.head_dim + value_dim(p)) * f64::from(p.heads * p.batch)
}

/// Bytes of q, k, v and o, each once.
pub fn bytes(p: &Dense) -> f64 {
    let [q, k, v, o] = elements(p);
    (q + k + v + o) as f64 * p.dtype.size() as f64
}

/// Elements of q, k, v and o.
pub fn elements(p: &Dense) -> [u64; 4] {
    let of = |heads: u32, rows: u32, dim: u32| u64::from(p.batch * heads) * u64::from(rows) * u64::from(dim);
    [
        of(p.heads, p.queries, p.head_dim),
        of(kv_heads(p), p.keys, p.head_dim),
        of(kv_heads(p), p.keys, value_dim(p)),
        of(p.heads, p.queries, value_dim(p)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_problems_apart() {
        for software in [false, true] {
            let mut names: Vec<_> = all(software, false).iter().map(Named::path).collect();
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count);
        }
    }

    #[test]
    fn a_quick_run_is_part_of_the_whole() {
        for software in [false, true] {
            let whole: Vec<_> = all(software, false).iter().map(Named::path).collect();
            assert!(all(software, true).iter().all(|n| whole.contains(&n.path())));
        }
    }

    #[test]
    fn operations_are_those_of_visible_pairs() {
        let p = Dense {
            heads: 3,
            queries: 5,
            keys: 9,
            head_dim: 8,
            ..Default::default()
        };
        assert_eq!(flops(&p), f64::from(4 * 5 * 9 * 8 * 3));
        let causal = Dense { causal: true, ..p };
        // Rows see 5, 6, 7, 8 and 9 keys.
        assert_eq!(flops(&causal), f64::from(4 * 35 * 8 * 3));
    }
}
