//! Segments of linear attention on cooperative matrices: the kernels that find what each adds to the state, and from the states
//! before them the outputs.

use crate::ops::dense::cooperative::{self as prefill, Candidate, CooperativeTile as SegmentTile, strip_piece};
use crate::ops::dense::tile::{DeviceClass, looped, top_iterations};
use crate::ops::dense::variant::staged_pieces;
use crate::ops::linear::cooperative::{self, Candidate as StateCandidate, CooperativeTile};
use crate::ops::linear::variant::{Chunk, ChunkState, Inputs};
use crate::ops::linear::{Decay, FeatureMap, Linear};
use crate::shader::{Binding, Constant, Spec};
use crate::tensor::DType;
use crate::tier::Tier;

impl Spec for ChunkState<CooperativeTile> {
    fn label(&self) -> String {
        self.options_label(self.kernel()) + &self.tile.shape()
    }

    fn kernel(&self) -> &'static str {
        "linear/chunk_state_cooperative"
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        let mut constants = self.options_constants();
        constants.push(("DECAYS", Constant::Flag(self.inputs.decay != Decay::None)));
        constants.push(("SECTIONS", Constant::Count(self.sections)));
        constants.extend(self.tile.state_constants(self.inputs.head_dim));
        constants
    }

    fn pieces(&self) -> Vec<&'static str> {
        let (t, i) = (&self.tile, &self.inputs);
        let mut pieces = staged_pieces(t.edge, t.vectors).to_vec();
        let whole = i.head_dim.is_multiple_of(t.edge) && i.value_dim.is_multiple_of(t.edge);
        pieces.push(match whole && i.vector_state && t.vectors {
            true => "linear/state_matrices_direct",
            false => "linear/state_matrices_staged",
        });
        match i.wide {
            true => pieces.extend(["linear/eights_as_stored", "linear/tokens_eights"]),
            false => pieces.push("linear/tokens_fours"),
        }
        pieces.extend(self.options_pieces(i.pieces(true)));
        pieces
    }

    fn custom(&self) -> Option<String> {
        self.inputs.custom()
    }

    fn bindings(&self) -> Vec<Binding> {
        self.options_bindings()
    }

    fn workgroup_bytes(&self) -> u32 {
        let i = &self.inputs;
        self.tile.state_workgroup_bytes(i.head_dim, i.normalize)
    }

    fn tier(&self) -> Tier {
        Tier::Cooperative
    }

    fn enables(&self) -> Vec<&'static str> {
        vec!["f16", "wgpu_cooperative_matrix"]
    }
}

impl Spec for Chunk<SegmentTile> {
    fn label(&self) -> String {
        format!("{} {}", self.options_label(self.kernel()), self.tile.shape())
    }

    fn kernel(&self) -> &'static str {
        match self.tile.elements {
            Some(_) => "linear/segment_elements",
            None => "linear/segment_cooperative",
        }
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        let (t, i) = (&self.tile, &self.inputs);
        let mut constants = self.options_constants();
        constants.extend([
            ("DECAYS", Flag(i.decay != Decay::None)),
            ("STRIPS", Count(t.strips)),
            ("ROW_LANES", Count(t.row_lanes)),
            ("ROW_BLOCKS", Count(t.row_blocks)),
            ("KEYS", Count(t.keys)),
            ("STAGES", Count(t.stages)),
            ("Q_PARTS", Count(t.q_parts(i.head_dim, i.value_dim, weight_pitch(t)))),
            ("S_PARTS", Count(state_parts(t, i.head_dim, i.value_dim))),
            ("THREADS", Count(t.threads)),
            ("MATRICES_WRITTEN_OUT", Count(t.written_out.into())),
        ]);
        constants.extend(t.element_constants());
        constants
    }

    fn pieces(&self) -> Vec<&'static str> {
        let (t, i) = (&self.tile, &self.inputs);
        let mut pieces = staged_pieces(t.edge, t.vectors).to_vec();
        pieces.push(strip_piece(t.own_barriers));
        pieces.push("shared/slices_one");
        pieces.push(factors_piece(i));
        if t.elements.is_some() {
            pieces.push(match self.output_dtype {
                DType::F16 => "linear/output_halves",
                DType::F32 | DType::BF16 => "linear/output_sums",
            });
        }
        pieces.extend(self.options_pieces(i.pieces(false)));
        pieces
    }

    fn custom(&self) -> Option<String> {
        self.inputs.custom()
    }

    fn bindings(&self) -> Vec<Binding> {
        self.options_bindings()
    }

    fn workgroup_bytes(&self) -> u32 {
        let i = &self.inputs;
        segment_workgroup_bytes(&self.tile, i.head_dim, i.value_dim, i.normalize, self.output_dtype)
    }

    fn tier(&self) -> Tier {
        Tier::Cooperative
    }

    fn enables(&self) -> Vec<&'static str> {
        vec!["f16", "wgpu_cooperative_matrix"]
    }
}

/// The piece that loads φ(q), φ(k) and v for matrices.
pub(super) fn factors_piece(inputs: &Inputs) -> &'static str {
    let identity = inputs.feature_map == FeatureMap::Identity;
    match identity && inputs.dtype == DType::F16 && inputs.vector {
        true => "linear/factors_as_stored",
        false => "linear/factors_featured",
    }
}

/// Elements from one row of weights to the next in `linear/segment_cooperative.wgsl`: for 16 keys or fewer without room
/// between, so that two workgroups have room on a processor.
fn weight_pitch(tile: &SegmentTile) -> u32 {
    tile.keys + if tile.keys > 16 { 8 } else { 0 }
}

/// Vectors of four columns of a part of S that an invocation holds, while those of the next are on their way, at most where a block of
/// rows allows it.
const MOST_STATE_LOADS: u32 = 8;

/// Parts of S's rows that are staged one after the other: as few as workgroup memory for factors and registers have room for.
fn state_parts(tile: &SegmentTile, head_dim: u32, value_dim: u32) -> u32 {
    let blocks = head_dim.div_ceil(tile.edge);
    let width = value_dim.next_multiple_of(tile.edge);
    let room = tile.factors(head_dim, value_dim, weight_pitch(tile));
    let fits = |parts: &u32| {
        let rows = blocks / parts * tile.edge;
        blocks.is_multiple_of(*parts)
            && rows * (width + 8) <= room
            && (rows * width / 4).div_ceil(tile.threads) <= MOST_STATE_LOADS
    };
    (1..=blocks).find(fits).unwrap_or(blocks)
}

/// Workgroup memory in bytes of `linear/segment_cooperative.wgsl`, or with elements of `linear/segment_elements.wgsl`.
fn segment_workgroup_bytes(tile: &SegmentTile, head_dim: u32, value_dim: u32, normalize: bool, output: DType) -> u32 {
    let (normalizer, row_factors) = match normalize {
        true => (head_dim.div_ceil(4) * 16, tile.rows() * 4),
        false => (16, 4),
    };
    let told = 16;
    let extra = [normalizer, row_factors, told]
        .iter()
        .map(|n| n.next_multiple_of(16))
        .sum::<u32>();
    let factors = tile.factors(head_dim, value_dim, weight_pitch(tile));
    let block = |pitch: u32| tile.strips * tile.edge * pitch;
    let (factors, sums, places) = match (tile.elements, output) {
        (None, _) => (factors, tile.rows() * (tile.keys + 4), 0),
        (Some(_), DType::F16) => (factors.max(block(tile.edge + 8)), 4, 4 * tile.edge),
        (Some(_), _) => (factors, block(tile.edge + 4), 4 * tile.edge),
    };
    tile.product_bytes(factors, sums) + extra + places
}

/// Iterations of all loops of an invocation of `linear/segment_cooperative.wgsl` for a segment of so many tokens, at most; with
/// elements of `linear/segment_elements.wgsl`, which has none of the masks and the rescale that are counted for a tile, and little
/// beside that.
pub(super) fn loop_iterations(tile: &SegmentTile, p: &Linear, tokens: u32) -> u32 {
    let (d, dv) = (p.head_dim, p.value_dim());
    let words = |rows: u32, width: u32| (rows * width.next_multiple_of(tile.edge) / 4).div_ceil(tile.threads);
    let rows_each = (tile.rows() * tile.row_lanes).div_ceil(tile.threads);
    let lanes = looped(tile.row_lanes.ilog2(), 0);
    let outputs = tile.row_blocks * dv.div_ceil(tile.edge);
    // Keys are loaded, looked at for their largest and stored, values loaded and stored, and first of all loaded once more.
    let staged = 3 * looped(words(tile.keys, d), 0) + 2 * looped(words(tile.keys, dv), 0);
    // Loops over the weights of a row are written out; the others may not be.
    let top = top_iterations(tile.lanes());
    let of_tile = tile.product_iterations(d, dv) + looped(outputs, 0) + staged + top + 2;
    let parts = tile.q_parts(d, dv, weight_pitch(tile));
    let blocks = d.div_ceil(tile.edge);
    let of_queries = looped(
        tile.row_blocks * parts,
        1 + looped(words(tile.strips * tile.edge, d), 0) + looped(blocks, 0),
    );
    let s_parts = state_parts(tile, d, dv);
    let of_state_rows = 4 * looped(words(blocks / s_parts * tile.edge, dv), 0)
        + top
        + looped(outputs, 0)
        + looped(
            blocks / s_parts,
            looped(dv.div_ceil(tile.edge), looped(tile.row_blocks, 0)),
        );
    let of_output = looped(
        dv.div_ceil(tile.edge),
        looped(tile.row_blocks, 0) + looped(words(tile.rows(), tile.edge), 0),
    );
    let of_rows = rows_each * (lanes + looped(d.div_ceil(4), 0));
    looped(tokens.div_ceil(tile.keys), of_tile)
        + 2 * staged
        + 2 * top
        + 2 * of_queries
        + looped(s_parts, of_state_rows)
        + of_output
        + of_rows
}

/// Tiles of outputs for matrices of 16, best first, by measurements on an NVIDIA H200 (`benches/tune_linear.rs`): two or three of
/// the first are at work on a processor at a time. Loads are always a tile ahead.
const OUTPUTS_WIDE: &[Candidate] = &[
    Candidate(4, 2, 16, 1, true),
    Candidate(4, 1, 16, 1, true),
    Candidate(2, 1, 16, 1, true),
];

/// The same for Dv up to 64 and beyond 128.
const OUTPUTS: &[Candidate] = &[Candidate(4, 1, 16, 1, true), Candidate(2, 1, 16, 1, true)];

/// Strips and blocks of rows of a strip where scores and weights stay in registers, for Dv above 64 and up to 128, best first, by the
/// same measurements: with all else 0.75 of the time of the others over 16 384 tokens of 32 heads, at D = 64 too.
const OUTPUTS_ELEMENTS_WIDE: &[[u32; 2]] = &[[8, 2], [8, 1], [4, 1]];

/// The same for Dv up to 64, and beyond 128, which is not measured: five workgroups of the first are at work on a processor at
/// D = 64.
const OUTPUTS_ELEMENTS: &[[u32; 2]] = &[[4, 1], [8, 1], [4, 2]];

/// Tiles of outputs that a device can have, best first.
pub(super) fn candidates(p: &Linear, device: &DeviceClass) -> Vec<SegmentTile> {
    let wide = (65..=128).contains(&p.value_dim());
    let list = match (device.abilities.matrices, device.software) {
        (Some(16), _) if wide => OUTPUTS_WIDE,
        (Some(16), _) => OUTPUTS,
        (_, true) => prefill::SOFTWARE,
        (_, false) => prefill::EDGE_8,
    };
    let shapes = if wide { OUTPUTS_ELEMENTS_WIDE } else { OUTPUTS_ELEMENTS };
    let measured = device.abilities.matrices == Some(16) && !device.software && p.value_dim() <= 128;
    let fits = |t: &SegmentTile| {
        segment_workgroup_bytes(t, p.head_dim, p.value_dim(), p.normalize.is_some(), p.output_dtype())
            <= device.workgroup_memory
    };
    let in_registers = prefill::tiles_in_registers(shapes, device);
    let others = prefill::tiles(list, 1, device);
    let mut tiles = match measured {
        true => [in_registers, others].concat(),
        false => [others, in_registers].concat(),
    };
    tiles.retain(fits);
    // Tiles of a segment do not alternate, and their loads are always a tile ahead.
    for tile in &mut tiles {
        (tile.alternate, tile.carried) = (false, true);
    }
    tiles
}

/// Tiles of states for matrices of 16, best first, by the same measurements.
const STATES_WIDE: &[StateCandidate] = &[
    StateCandidate(2, 4, 1, 2, 2),
    StateCandidate(2, 2, 1, 2, 2),
    StateCandidate(2, 2, 1, 1, 2),
    StateCandidate(1, 2, 1, 1, 1),
    StateCandidate(1, 1, 1, 1, 1),
];

/// Tiles of states that a device can have, best first.
pub(super) fn state_candidates(p: &Linear, device: &DeviceClass) -> Vec<CooperativeTile> {
    let list = match (device.abilities.matrices, device.software) {
        (Some(16), _) if p.value_dim() <= 64 => &STATES_WIDE[1..],
        (Some(16), _) => STATES_WIDE,
        (_, true) => cooperative::SOFTWARE,
        (_, false) => cooperative::EDGE_8,
    };
    let mut tiles = cooperative::tiles(list, device);
    tiles.retain(|t| t.state_workgroup_bytes(p.head_dim, p.normalize.is_some()) <= device.workgroup_memory);
    tiles
}

/// Whether a tile of outputs is one that the shaders are made for: factors are never split, loads always a tile ahead, and there
/// is no rescale.
pub(super) fn is_sound(tile: &SegmentTile) -> bool {
    tile.is_sound() && tile.slices == 1 && tile.carried && !tile.scores_anew
}

/// Tokens of a segment where there is enough to do for many: see the header of the kernel.
pub(super) fn length(p: &Linear) -> u32 {
    (2 * p.head_dim.max(p.value_dim())).next_power_of_two().clamp(64, 512)
}
