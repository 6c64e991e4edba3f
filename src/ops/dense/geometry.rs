//! Where a problem's tensors lie: strides, sizes, alignment.

use crate::ops::call::Need;
use crate::ops::dense::{Broadcast, Dense};
use crate::ops::parts::{Geometry, Part};
use crate::ops::selection::Selection;
use crate::tensor::{DType, Strides};

/// The problem as one part.
pub(crate) fn whole(p: &Dense) -> Part {
    Part {
        batch: (0, p.batch),
        head: (0, p.heads),
        query: (0, p.queries),
    }
}

/// q, k, v, o, then lse, bias, mask and selection where the problem has them.
pub(crate) fn geometry(p: &Dense) -> Vec<Geometry> {
    let (h, hkv, d, dv) = (p.heads, p.kv_heads(), p.head_dim, p.value_dim());
    let group = h / hkv;
    let rows = |name, dtype: DType, strides, dim: u32| Geometry {
        name,
        size: dtype.size(),
        strides,
        group: 1,
        block: 1,
        row: dim.into(),
        most: u64::MAX,
    };
    // Every query row needs all the keys of its head.
    let keys = |name, s: Strides, dim: u32| Geometry {
        name,
        size: p.dtype.size(),
        strides: Strides { seq: 0, ..s },
        group,
        block: 1,
        row: u64::from(p.keys - 1) * s.seq + u64::from(dim),
        most: u64::MAX,
    };
    let mut all = vec![
        rows("q", p.dtype, p.q_layout.strides(h, p.queries, d), d),
        keys("k", p.k_layout.strides(hkv, p.keys, d), d),
        keys("v", p.v_layout.strides(hkv, p.keys, dv), dv),
        rows("o", p.output_dtype(), p.o_layout.strides(h, p.queries, dv), dv),
    ];
    if p.lse {
        let strides = Strides {
            batch: u64::from(h) * u64::from(p.queries),
            head: p.queries.into(),
            seq: 1,
        };
        all.push(rows("lse", DType::F32, strides, 1));
    }
    let scores = |name, size, shape: Broadcast| Geometry {
        name,
        size,
        strides: broadcast_strides(p, shape),
        group: 1,
        block: 1,
        row: p.keys.into(),
        most: u64::MAX,
    };
    all.extend(p.bias.map(|b| scores("bias", b.dtype.size(), b.shape)));
    all.extend(p.mask.map(|shape| scores("mask", 1, shape)));
    all.extend(p.selection.map(|s| lists(p, &s)));
    all
}

/// The lists of a selection.
fn lists(p: &Dense, selection: &Selection) -> Geometry {
    let [_, heads, lists, words] = selection.dims(p).map(u64::from);
    Geometry {
        name: "selection",
        size: 4,
        strides: Strides {
            batch: heads * lists * words,
            head: lists * words,
            seq: words,
        },
        group: p.heads / heads as u32,
        block: selection.query_block,
        row: words,
        most: u64::MAX,
    }
}

/// Strides of a contiguous `[B|1, H|1, Nq|1, Nk]`; 0 along what is broadcast.
fn broadcast_strides(p: &Dense, shape: Broadcast) -> Strides {
    let seq = u64::from(p.keys);
    let head = if shape.per_query {
        seq * u64::from(p.queries)
    } else {
        seq
    };
    let batch = if shape.per_head {
        head * u64::from(p.heads)
    } else {
        head
    };
    Strides {
        batch: if shape.per_batch { batch } else { 0 },
        head: if shape.per_head { head } else { 0 },
        seq: if shape.per_query { seq } else { 0 },
    }
}

/// Whether q, k and v can be read four elements at a time.
pub(crate) fn vector_inputs(p: &Dense, geometry: &[Geometry]) -> bool {
    let dims = p.head_dim.is_multiple_of(4) && p.value_dim().is_multiple_of(4);
    dims && !p.unaligned && geometry[..3].iter().all(|g| g.strides.in_fours())
}

/// Whether o can be written four elements at a time.
pub(crate) fn vector_output(p: &Dense, geometry: &[Geometry]) -> bool {
    p.value_dim().is_multiple_of(4) && !p.unaligned && geometry[3].strides.in_fours()
}

/// The short vectors of a problem: name, number of words.
pub(crate) fn small_vectors(p: &Dense) -> Vec<(&'static str, u64)> {
    let documents = p.documents.map(|d| u64::from(d) + 1);
    let heads = u64::from(p.heads);
    [
        ("kv_len", p.kv_len.then_some(u64::from(p.batch))),
        ("cu_seqlens_q", documents),
        ("cu_seqlens_k", documents),
        ("alibi_slopes", p.alibi.then_some(heads)),
        ("sinks", p.sinks.then_some(heads)),
    ]
    .into_iter()
    .filter_map(|(name, words)| Some((name, words?)))
    .collect()
}

/// What every tensor of a problem has to be, custom data left out.
pub(crate) fn needs(p: &Dense, geometry: &[Geometry]) -> Vec<Need> {
    let (inputs_x4, output_x4) = (vector_inputs(p, geometry), vector_output(p, geometry));
    let whole = whole(p);
    let mut needs: Vec<_> = geometry
        .iter()
        .map(|g| {
            let vector = match g.name {
                "q" | "k" | "v" => inputs_x4,
                "o" => output_x4,
                _ => false,
            };
            Need {
                name: g.name,
                bytes: g.range(&whole).1 * g.size,
                alignment: if vector { 4 * g.size } else { g.size },
            }
        })
        .collect();
    needs.extend(small_vectors(p).into_iter().map(|(name, words)| Need {
        name,
        bytes: words * 4,
        alignment: 4,
    }));
    needs
}
