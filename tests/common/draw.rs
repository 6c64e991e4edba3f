//! Dense problems drawn at random over the whole option space, with their inputs and the twins of their custom code.

use wgpu_attention::dense::portable::{DecodeTile, PrefillTile};
use wgpu_attention::dense::reference::{Hooks, Position};
use wgpu_attention::dense::serial::{SerialPrefillTile, SerialTile};
use wgpu_attention::dense::subgroup::Subgroup;
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::{
    Bias, Broadcast, Custom, CustomData, CustomElement, DType, Dense, Gpu, Layout, Strides, Tier, Weighting,
};

use super::{Inputs, Random};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Small tiles compile fast and make a tile's edges easy to meet.
pub fn tuning(gpu: &Gpu, r: &mut Random) -> Tuning {
    let prefill = |row_groups, row_regs, lanes, chunk| {
        KernelChoice::Prefill(PrefillTile {
            row_groups,
            row_regs,
            lanes,
            key_regs: 4,
            chunk,
            value_chunk: 4,
            prefetch: chunk != 3,
            unroll: 2,
            alternate: true,
        })
    };
    let decode = |rows, lanes, slots, key_regs, value_lanes| {
        KernelChoice::Decode(DecodeTile {
            rows,
            lanes,
            slots,
            key_regs,
            value_lanes,
            prefetch: slots == 8,
        })
    };
    let kernel = match r.below(12) {
        _ if gpu.abilities().serve(Tier::Subgroup) && r.one_in(3) => Some(subgroup(gpu, r)),
        0 => None,
        1 => Some(KernelChoice::DecodeSerial(SerialTile { rows: 2, threads: 8 })),
        2..=3 => Some(prefill(4, 1, 4, 2)),
        4..=5 => Some(prefill(8, 2, 2, 3)),
        6 => Some(prefill(2, 2, 8, 1)),
        7..=8 => Some(decode(1, 2, 16, 1, 4)),
        9 => Some(decode(2, 4, 8, 2, 8)),
        10 => Some(decode(4, 1, 16, 1, 4)),
        _ => Some(decode(2, 2, 8, 1, 16)),
    };
    Tuning {
        kernel,
        ..Tuning::default()
    }
}

/// A small tile of the subgroup tier. What it takes for the sizes of the device's subgroups may be less than is known of
/// them, so that lanes go through subgroups for certain, or after a look at run time, or through workgroup memory.
fn subgroup(gpu: &Gpu, r: &mut Random) -> KernelChoice {
    let (least, most) = gpu.abilities().subgroups.expect("the tier's devices have subgroups");
    let sizes = r.pick(&[(least, most), (least.min(2), most), (least.min(4), most.max(64))]);
    let half = gpu.abilities().half && r.one_in(2);
    let lanes = r.pick(&[1, 2, 4, 8, 16, 2 * most]).min(64);
    if least == most && r.one_in(3) {
        return KernelChoice::PrefillSerial(SerialPrefillTile {
            row_regs: r.pick(&[1, 2, 3]),
            keys: r.pick(&[1, 3, 4, 5]),
            threads: least,
        });
    }
    match r.one_in(2) {
        true => KernelChoice::SubgroupPrefill(Subgroup {
            tile: PrefillTile {
                row_groups: 2,
                row_regs: r.pick(&[1, 2]),
                lanes,
                key_regs: 4,
                chunk: r.pick(&[1, 2, 3]),
                value_chunk: 4,
                prefetch: r.one_in(2),
                unroll: 2,
                alternate: true,
            },
            least: sizes.0,
            most: sizes.1,
            half,
        }),
        false => KernelChoice::SubgroupDecode(Subgroup {
            tile: DecodeTile {
                rows: r.pick(&[1, 2, 4]).min(lanes),
                lanes,
                slots: r.pick(&[1, 2, 4]),
                key_regs: r.pick(&[1, 2, 4]),
                value_lanes: lanes,
                prefetch: r.one_in(2),
            },
            least: sizes.0,
            most: sizes.1,
            half,
        }),
    }
}

/// Rows and keys of a tile, where lengths are worth testing around.
pub fn edges(tuning: &Tuning) -> (u32, u32) {
    match tuning.kernel {
        Some(KernelChoice::PrefillSerial(t)) => (t.rows(), t.keys),
        Some(KernelChoice::DecodeSerial(t)) => (t.rows, 8 * t.threads),
        Some(choice) => (choice.extent().rows, choice.extent().keys),
        None => (64, 64),
    }
}

pub fn length(edge: u32, r: &mut Random) -> u32 {
    let n = match r.below(6) {
        0 => 1,
        1 => edge - 1,
        2 => edge,
        3 => edge + 1,
        4 => 2 * edge + r.below(3) - 1,
        _ => 1 + r.below(200),
    };
    n.clamp(1, 200)
}

pub fn dim(r: &mut Random) -> u32 {
    match r.below(10) {
        0 => 1 + r.below(8),
        1 => 1 + r.below(64),
        2 => r.pick(&[65, 80, 96, 127]),
        3 if r.one_in(3) => r.pick(&[128, 200, 255, 256]),
        _ => r.pick(&[4, 8, 12, 16, 20, 32]),
    }
}

pub fn broadcast(r: &mut Random) -> Broadcast {
    Broadcast {
        per_batch: r.one_in(2),
        per_head: r.one_in(2),
        per_query: r.one_in(2),
    }
}

/// What a pipeline depends on.
pub fn options(r: &mut Random) -> Dense {
    let head_dim = dim(r);
    let value_dim = if r.one_in(4) { Some(dim(r)) } else { None };
    let sigmoid = r.one_in(4);
    let dtype = r.pick(&DTYPES);
    let mut p = Dense {
        head_dim,
        value_dim,
        dtype,
        output_dtype: r.one_in(4).then(|| r.pick(&DTYPES)),
        softcap: r.one_in(4).then_some(3.0),
        bias: r.one_in(3).then(|| Bias {
            dtype: r.pick(&DTYPES),
            shape: Broadcast::FULL,
        }),
        mask: r.one_in(4).then_some(Broadcast::FULL),
        kv_len: r.one_in(3),
        documents: r.one_in(4).then_some(1),
        alibi: r.one_in(4),
        unaligned: r.one_in(8),
        ..Dense::default()
    };
    if sigmoid {
        p.weighting = Weighting::Sigmoid { bias: None };
    } else {
        p.sinks = r.one_in(4);
        p.lse = r.one_in(2);
    }
    if r.one_in(8) {
        p.custom = Some(custom(r));
    }
    p
}

pub fn custom(r: &mut Random) -> Custom {
    let score = "fn score(s: f32, at: Position) -> f32 {
    return s * head_factor[at.head] + 0.01 * f32(at.query_pos - at.key_pos) + 0.1 * f32(at.kv_head) + 0.02 * f32(at.batch);
}";
    let mask =
        "fn mask(at: Position) -> bool { return (at.key + 2u * at.query + u32(at.key_pos)) % divisor[0] != 0u; }";
    let (score_on, mask_on) = r.pick(&[(true, true), (true, false), (false, true)]);
    let data = |name: &str, element| CustomData {
        name: name.into(),
        element,
    };
    Custom {
        score: score_on.then(|| score.into()),
        mask: mask_on.then(|| mask.into()),
        data: vec![
            data("head_factor", CustomElement::F32),
            data("divisor", CustomElement::U32),
        ],
    }
}

/// What a pipeline does not depend on.
pub fn sizes(options: &Dense, (rows, keys): (u32, u32), r: &mut Random) -> Dense {
    let kv_heads = r.pick(&[1, 1, 2, 3]);
    let group = r.pick(&[1, 1, 2, 3, 4]);
    let documents = options.documents.map(|_| r.pick(&[1, 2, 3, 7]));
    let batch = if documents.is_some() { 1 } else { r.pick(&[1, 1, 2, 3]) };
    let mut p = Dense {
        batch,
        heads: kv_heads * group,
        kv_heads: (group > 1).then_some(kv_heads),
        queries: length(rows, r),
        keys: length(keys, r),
        documents,
        scale: r.one_in(4).then(|| r.float(0.05, 0.4)),
        softcap: options.softcap.map(|_| r.float(0.5, 8.0)),
        causal: r.one_in(2),
        q_offset: r.one_in(3).then(|| r.range(-60, 220)),
        window_left: r.one_in(3).then(|| r.below(80)),
        window_right: r.one_in(4).then(|| r.below(40)),
        sink_tokens: if r.one_in(4) { r.below(20) } else { 0 },
        prefix: if r.one_in(4) { r.below(40) } else { 0 },
        bias: options.bias.map(|b| Bias {
            shape: broadcast(r),
            ..b
        }),
        mask: options.mask.map(|_| broadcast(r)),
        ..options.clone()
    };
    if let Weighting::Sigmoid { bias } = &mut p.weighting {
        *bias = r.one_in(3).then(|| r.float(-3.0, 1.0));
    }
    let (h, hkv, d, dv) = (p.heads, p.kv_heads(), p.head_dim, p.value_dim());
    p.q_layout = layout(h, p.queries, d, r);
    p.k_layout = layout(hkv, p.keys, d, r);
    p.v_layout = layout(hkv, p.keys, dv, r);
    p.o_layout = layout(h, p.queries, dv, r);
    p
}

pub fn layout(heads: u32, seq: u32, dim: u32, r: &mut Random) -> Layout {
    match r.below(6) {
        0 => Layout::Bnhd,
        1 => {
            // Rows apart from one another, heads innermost, gaps everywhere.
            let row = u64::from(dim) + 4;
            Layout::Strided(Strides {
                batch: row * u64::from(heads) * u64::from(seq) + 8,
                head: row,
                seq: row * u64::from(heads),
            })
        }
        _ => Layout::Bhnd,
    }
}

/// Random inputs, with NaN in every key and value that `kv_len` says is absent.
pub fn inputs(p: &Dense, r: &mut Random) -> Inputs {
    let mut inputs = Inputs::random(p, r);
    if let Some(custom) = &p.custom {
        let factors = r
            .floats(p.heads as usize, 0.5, 1.5)
            .iter()
            .map(|f| f.to_bits())
            .collect();
        inputs.custom_data = vec![factors, vec![r.range(2, 5) as u32]];
        assert_eq!(custom.data.len(), 2);
    }
    if let Some(kv_len) = inputs.tensors.kv_len.clone() {
        for (b, len) in kv_len.iter().enumerate() {
            for h in 0..p.kv_heads() as usize {
                for j in *len as usize..p.keys as usize {
                    let row = (b * p.kv_heads() as usize + h) * p.keys as usize + j;
                    let (d, dv) = (p.head_dim as usize, p.value_dim() as usize);
                    inputs.tensors.k[row * d..][..d].fill(f32::NAN);
                    inputs.tensors.v[row * dv..][..dv].fill(f32::NAN);
                }
            }
        }
    }
    inputs
}

/// The twins of the problem's custom code, reading the same data.
pub fn with_twins<R>(p: &Dense, inputs: &Inputs, f: impl FnOnce(&Hooks<'_>) -> R) -> R {
    let word = |array: usize, n: usize| inputs.custom_data[array][n];
    let score = |s: f64, at: &Position| {
        s * f64::from(f32::from_bits(word(0, at.head as usize)))
            + 0.01 * f64::from(at.query_pos - at.key_pos)
            + 0.1 * f64::from(at.kv_head)
            + 0.02 * f64::from(at.batch)
    };
    let mask = |at: &Position| !(at.key + 2 * at.query + at.key_pos as u32).is_multiple_of(word(1, 0));
    let custom = p.custom.as_ref();
    f(&Hooks {
        score: custom.and_then(|c| c.score.as_ref().map(|_| &score as _)),
        mask: custom.and_then(|c| c.mask.as_ref().map(|_| &mask as _)),
    })
}
