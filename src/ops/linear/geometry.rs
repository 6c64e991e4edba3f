//! Where a problem's tensors, and the states between its segments, lie: strides, sizes, alignment.

use crate::ops::call::Need;
use crate::ops::linear::tile::Form;
use crate::ops::linear::{Decay, FeatureMap, Linear};
use crate::ops::parts::{Geometry, Part};
use crate::tensor::{DType, Layout, Strides};

/// The problem as one part.
pub(super) fn whole(p: &Linear) -> Part {
    Part {
        batch: (0, p.batch),
        head: (0, p.heads),
        query: (0, 1),
    }
}

/// Whether q, k and v, o, and states are accessed four elements at a time.
pub(super) fn vector_access(p: &Linear) -> (bool, bool, bool) {
    let (d, dv) = (p.head_dim, p.value_dim());
    let x4 = |layout: Layout, heads: u32, dim: u32| {
        let s = layout.strides(heads, p.tokens, dim);
        dim.is_multiple_of(4) && s.in_fours() && !p.unaligned
    };
    let inputs = x4(p.q_layout, p.heads, d) && x4(p.k_layout, p.kv_heads(), d) && x4(p.v_layout, p.kv_heads(), dv);
    let state = dv.is_multiple_of(4) && p.head_state_len().is_multiple_of(4) && !p.unaligned;
    (inputs, x4(p.o_layout, p.heads, dv), state)
}

/// What can be accessed eight elements at a time, 16 bytes: inputs where they are stored as factors of matrices are.
pub(super) struct Wide {
    pub queries: bool,
    /// And values.
    pub keys: bool,
    pub output: bool,
}

impl Wide {
    pub(super) fn all_inputs(&self) -> bool {
        self.queries && self.keys
    }
}

pub(super) fn wide_access(p: &Linear) -> Wide {
    let x8 = |layout: Layout, heads: u32, dim: u32| {
        dim.is_multiple_of(8) && layout.strides(heads, p.tokens, dim).in_eights() && !p.unaligned
    };
    let (d, dv) = (p.head_dim, p.value_dim());
    let as_stored = p.dtype == DType::F16 && p.feature_map == FeatureMap::Identity;
    Wide {
        queries: as_stored && x8(p.q_layout, p.heads, d),
        keys: as_stored && x8(p.k_layout, p.kv_heads(), d) && x8(p.v_layout, p.kv_heads(), dv),
        output: x8(p.o_layout, p.heads, dv) && p.output_dtype() != DType::F32,
    }
}

/// Every tensor of the problem, and the states between segments as `segments`.
pub(super) fn geometry(p: &Linear, form: Form) -> Vec<Geometry> {
    let (h, hkv, d, dv) = (p.heads, p.kv_heads(), p.head_dim, p.value_dim());
    let group = h / hkv;
    // A sequence is never cut: every token needs what those before it left.
    let rows = |name, size: u64, layout: Layout, heads: u32, group: u32, dim: u32| {
        let s = layout.strides(heads, p.tokens, dim);
        Geometry {
            name,
            size,
            strides: Strides { seq: 0, ..s },
            group,
            block: 1,
            row: u64::from(p.tokens - 1) * s.seq + u64::from(dim),
            most: u64::MAX,
        }
    };
    let words = |name, [batch, head]: [u64; 2], row: u64| Geometry {
        name,
        size: 4,
        strides: Strides { batch, head, seq: 0 },
        group: 1,
        block: 1,
        row,
        most: u64::MAX,
    };
    // One entry for each head of each sequence; documents stay together.
    let per_head = |name, len: u64| {
        let batch = u64::from(h) * len;
        words(
            name,
            [batch, len],
            p.documents.map_or(0, |s| u64::from(s - 1) * batch) + len,
        )
    };
    let input = p.dtype.size();
    let mut all = vec![
        rows("q", input, p.q_layout, h, 1, d),
        rows("k", input, p.k_layout, hkv, group, d),
        rows("v", input, p.v_layout, hkv, group, dv),
        rows("o", p.output_dtype().size(), p.o_layout, h, 1, dv),
    ];
    match p.decay {
        Decay::None => {}
        Decay::Head => all.push(words("log_decay", [0, 1], 1)),
        Decay::Token => all.push(rows("log_decay", 4, p.decay_layout, h, 1, 1)),
        Decay::Channel => all.push(rows("log_decay", 4, p.decay_layout, h, 1, d)),
    }
    if p.initial_state && !p.in_place {
        all.push(per_head("initial_state", p.head_state_len()));
    }
    if p.final_state {
        all.push(per_head("final_state", p.head_state_len()));
    }
    if p.total_decay {
        all.push(per_head("total_decay", p.decay.total_len(p.head_dim)));
    }
    if let Some(documents) = p.documents {
        all.push(words("cu_seqlens", [0, 0], u64::from(documents) + 1));
    }
    if let Some(segment) = form.segment() {
        let len = u64::from(segments(p, segment)) * slot_len(p, form);
        all.push(words(SEGMENTS, [u64::from(h) * len, len], len));
    }
    all
}

/// The states between segments, as a limit's message names them.
const SEGMENTS: &str = "states between segments";

pub(super) fn needs(p: &Linear, form: Form, geometry: &[Geometry]) -> Vec<Need> {
    let (inputs, output, state) = vector_access(p);
    let wide = wide_access(p);
    // The kernels that do it: that of states on matrices, and that of outputs that carry the state.
    let carried = matches!(form, Form::Carried { .. });
    let of_states = carried || matches!(form, Form::CooperativeSplit { .. });
    let whole = whole(p);
    let need = |g: &Geometry| {
        let elements = match g.name {
            "q" if wide.all_inputs() && carried => 8,
            "k" | "v" if wide.keys && of_states => 8,
            "o" if wide.output && carried => 8,
            "q" | "k" | "v" if inputs => 4,
            "o" if output => 4,
            "initial_state" | "final_state" if state => 4,
            _ => 1,
        };
        Need {
            name: g.name,
            bytes: g.range(&whole).1 * g.size,
            alignment: elements * g.size,
        }
    };
    geometry.iter().filter(|g| g.name != SEGMENTS).map(need).collect()
}

/// Segments of a sequence; of all documents together, if packed: each may have one that is not full.
pub(super) fn segments(p: &Linear, segment: u32) -> u32 {
    p.tokens.div_ceil(segment) + p.documents.unwrap_or(0)
}

/// f32 numbers for each segment and head: its own state, in sections, in place of whose first comes the state before it.
pub(super) fn slot_len(p: &Linear, form: Form) -> u64 {
    u64::from(form.sections(p)) * p.head_state_len()
}

/// Where the states between segments and the segments' log-decays lie in the workspace.
pub(super) struct Workspace {
    pub totals_at: u64,
    pub bytes: u64,
}

pub(super) fn workspace(p: &Linear, form: Form, part: &Part) -> Workspace {
    let Some(segment) = form.segment() else {
        return Workspace { totals_at: 0, bytes: 0 };
    };
    let heads = u64::from(part.batch.1 - part.batch.0) * u64::from(part.head.1 - part.head.0);
    let slots = heads * u64::from(segments(p, segment));
    let totals_at = (slots * slot_len(p, form) * 4).next_multiple_of(256);
    Workspace {
        totals_at,
        bytes: totals_at + slots * p.decay.total_len(p.head_dim) * 4,
    }
}
