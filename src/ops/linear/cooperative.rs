//! Linear attention on cooperative matrices: its tile, when it serves, and which tile a device gets.

use crate::ops::dense::tile::{DeviceClass, looped, top_iterations};
use crate::ops::dense::variant::staged_pieces;
use crate::ops::linear::variant::Chunk;
use crate::ops::linear::{Decay, FeatureMap, Linear};
use crate::shader::{Binding, Constant, Spec};
use crate::tensor::DType;
use crate::tier::Tier;

/// Tile shape of `linear/chunk_cooperative.wgsl`; the file's header has the meaning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct CooperativeTile {
    /// Rows and columns of a matrix: 8 or 16, as the device has them.
    pub edge: u32,
    /// Strips of rows.
    pub strips: u32,
    /// Subgroups that share a strip.
    pub shares: u32,
    /// Blocks of `edge` tokens of a strip.
    pub row_blocks: u32,
    /// Blocks of `edge` columns of a share.
    pub value_blocks: u32,
    /// Matrices of a subgroup that pass through workgroup memory at once, at most.
    pub staged: u32,
    /// Invocations of a workgroup: for each strip and share as many as the largest subgroup of the device has.
    pub threads: u32,
    /// Invocations that share a row's weights: a power of two, no more than the smallest subgroup of the device has, and a
    /// divisor of a quarter of the rows.
    pub row_lanes: u32,
    /// Workgroup memory is in words of four elements, not of one.
    pub vectors: bool,
    /// Loops over matrices are written out.
    pub written_out: bool,
}

impl CooperativeTile {
    /// Whether all fields are in range and the shader's static assertions hold.
    pub(crate) fn is_sound(&self) -> bool {
        let counts = [
            self.strips,
            self.shares,
            self.row_blocks,
            self.value_blocks,
            self.staged,
            self.row_lanes,
        ];
        [8, 16].contains(&self.edge)
            && counts.iter().all(|n| (1..=256).contains(n))
            && self.row_lanes.is_power_of_two()
            && self.rows() <= 1024
            && (self.rows() / 4).is_multiple_of(self.row_lanes)
            && (self.strips * self.shares..=1024).contains(&self.threads)
    }

    /// Whether lanes and invocations are for subgroups of so many invocations, at least and at most.
    pub(crate) fn suits(&self, (least, most): (u32, u32)) -> bool {
        self.row_lanes <= least && self.threads == self.subgroups() * most
    }

    /// Subgroups with work of their own.
    const fn subgroups(&self) -> u32 {
        self.strips * self.shares
    }

    /// Tokens of a chunk.
    pub const fn rows(&self) -> u32 {
        self.strips * self.row_blocks * self.edge
    }

    /// Columns of the values that a workgroup owns.
    pub const fn columns(&self) -> u32 {
        self.shares * self.value_blocks * self.edge
    }

    /// Blocks of state rows of a strip.
    const fn state_blocks(&self, head_dim: u32) -> u32 {
        head_dim.div_ceil(self.edge).div_ceil(self.strips)
    }

    /// Matrices of the state in a subgroup.
    pub(crate) const fn states(&self, head_dim: u32) -> u32 {
        self.state_blocks(head_dim) * self.value_blocks
    }

    /// Matrices of the output in a subgroup.
    const fn outputs(&self) -> u32 {
        self.row_blocks * self.value_blocks
    }

    /// Of so many matrices, those that pass through workgroup memory at once.
    fn staged_of(&self, matrices: u32) -> u32 {
        (1..=self.staged)
            .rev()
            .find(|n| matrices.is_multiple_of(*n))
            .unwrap_or(1)
    }

    /// Subgroups of a strip among which blocks of keys are dealt out: a divisor of their number.
    fn key_shares(&self) -> u32 {
        let blocks = self.strips * self.row_blocks;
        (1..=self.shares).rev().find(|n| blocks.is_multiple_of(*n)).unwrap_or(1)
    }

    /// Channels of the strips' parts of the state.
    const fn head_rows(&self, head_dim: u32) -> u32 {
        self.strips * self.state_blocks(head_dim) * self.edge
    }

    /// As labels have it.
    pub(super) fn shape(&self) -> String {
        format!(
            "matrices of {} tile {}x{} strips {}x{} staged {} threads {}/{}{}",
            self.edge,
            self.rows(),
            self.columns(),
            self.strips,
            self.shares,
            self.staged,
            self.threads,
            self.row_lanes,
            if self.vectors { "" } else { " scalars" }
        )
    }

    /// Constants of all kernels that keep a state in matrices.
    pub(super) fn state_constants(&self, head_dim: u32) -> Vec<(&'static str, Constant)> {
        use Constant::Count;
        vec![
            ("STRIPS", Count(self.strips)),
            ("SHARES", Count(self.shares)),
            ("ROW_BLOCKS", Count(self.row_blocks)),
            ("VALUE_BLOCKS", Count(self.value_blocks)),
            ("STATES_STAGED", Count(self.staged_of(self.states(head_dim)))),
            ("THREADS", Count(self.threads)),
            ("MATRICES_WRITTEN_OUT", Count(self.written_out.into())),
        ]
    }

    /// Workgroup memory in bytes of `linear/chunk_state_cooperative.wgsl`.
    pub fn state_workgroup_bytes(&self, head_dim: u32, normalize: bool) -> u32 {
        let factors = self.rows() * (self.head_rows(head_dim) + self.columns() + 16) * 2;
        let sums = self.subgroups() * self.staged_of(self.states(head_dim)) * self.edge * (self.edge + 4) * 4;
        let normalizer = if normalize { head_dim.div_ceil(4) * 16 } else { 16 };
        [factors, sums, normalizer].iter().map(|n| n.next_multiple_of(16)).sum()
    }

    /// Workgroup memory in bytes of `linear/chunk_cooperative.wgsl`.
    pub fn workgroup_bytes(&self, head_dim: u32, normalize: bool) -> u32 {
        let (rows, head_rows) = (self.rows(), self.head_rows(head_dim));
        let pitch = |n: u32| n + 8;
        let state = head_rows * pitch(self.columns());
        let chunk = rows * (pitch(head_rows) + pitch(self.columns()) + pitch(rows));
        let factors = (rows * pitch(head_rows) + state.max(chunk)) * 2;
        let staged = self
            .staged_of(self.states(head_dim))
            .max(self.staged_of(self.outputs()));
        let staged = self.subgroups() * staged * self.edge * (self.edge + 4);
        let sums = staged.max(rows * (rows + 4)) * 4;
        let (normalizer, row_factors) = match normalize {
            true => (head_dim.div_ceil(4) * 16, rows * 4),
            false => (16, 4),
        };
        [factors, sums, normalizer, row_factors, 16]
            .iter()
            .map(|n| n.next_multiple_of(16))
            .sum()
    }

    /// Iterations of all loops of an invocation for one chunk, at most.
    pub(crate) fn loop_iterations(&self, head_dim: u32, normalize: bool) -> u32 {
        // Tokens on their way from storage to workgroup memory: three loads, five stores and a look at each.
        let head_rows = self.head_rows(head_dim);
        let turns = |width: u32| looped((self.rows() * width / 4).div_ceil(self.threads), 0);
        let tokens_staged = 7 * turns(head_rows) + 3 * turns(self.columns());
        let (states, outputs) = (self.states(head_dim), self.outputs());
        let head_blocks = head_dim.div_ceil(self.edge);
        let key_blocks = self.rows() / self.edge;
        // Matrices passing through workgroup memory.
        let words = self.subgroups() * self.staged * self.edge * self.edge / 4;
        let passing = |matrices: u32| {
            let rounds = matrices / self.staged_of(matrices);
            looped(rounds, looped(self.staged, 0) + looped(words.div_ceil(self.threads), 0))
        };
        let product = |blocks: u32| {
            let of_block = looped(self.row_blocks, 0) + looped(self.value_blocks, looped(self.row_blocks, 0));
            looped(blocks, of_block)
        };
        let keys = key_blocks / self.key_shares();
        let scores = looped(self.row_blocks * keys, 0)
            + looped(
                head_blocks,
                looped(self.row_blocks, 0) + looped(keys, looped(self.row_blocks, 0)),
            )
            + looped(self.row_blocks, looped(keys, 0));
        let tokens = looped(
            key_blocks,
            looped(self.value_blocks, 0) + looped(self.state_blocks(head_dim), looped(self.value_blocks, 0)),
        );
        let rows_each = (self.rows() * self.row_lanes).div_ceil(self.threads);
        let quads = head_dim.div_ceil(4);
        let (of_rows, of_normalizer) = match normalize {
            true => (
                looped(quads.div_ceil(self.row_lanes), 0) + looped(self.row_lanes, 0),
                looped(quads.div_ceil(self.threads), looped(self.rows(), 0)),
            ),
            false => (0, 0),
        };
        let weights = 1 + rows_each * (1 + looped(self.rows() / 4 / self.row_lanes, 0) + of_rows);
        let scaled = 2 * looped(outputs, 0) + looped(states, 0);
        let products = product(head_blocks) + product(key_blocks) + scores + tokens;
        // Queries, keys and values are looked at for their largest, and at first the state.
        let tops = 4 * top_iterations(self.threads / self.subgroups());
        1 + tokens_staged + tops + passing(states) + passing(outputs) + products + weights + scaled + of_normalizer
    }
}

impl Spec for Chunk<CooperativeTile> {
    fn label(&self) -> String {
        format!("{} {}", self.options_label(self.kernel()), self.tile.shape())
    }

    fn kernel(&self) -> &'static str {
        "linear/chunk_cooperative"
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        let t = &self.tile;
        let mut constants = self.options_constants();
        constants.extend([
            ("DECAYS", Flag(self.inputs.decay != Decay::None)),
            ("KEY_SHARES", Count(t.key_shares())),
            ("OUTPUTS_STAGED", Count(t.staged_of(t.outputs()))),
            ("ROW_LANES", Count(t.row_lanes)),
        ]);
        constants.extend(t.state_constants(self.inputs.head_dim));
        constants
    }

    fn pieces(&self) -> Vec<&'static str> {
        let mut pieces = staged_pieces(self.tile.edge, self.tile.vectors).to_vec();
        pieces.extend(self.options_pieces(self.inputs.pieces(true)));
        pieces
    }

    fn custom(&self) -> Option<String> {
        self.inputs.custom()
    }

    fn bindings(&self) -> Vec<Binding> {
        self.options_bindings()
    }

    fn workgroup_bytes(&self) -> u32 {
        self.tile.workgroup_bytes(self.inputs.head_dim, self.inputs.normalize)
    }

    fn tier(&self) -> Tier {
        Tier::Cooperative
    }

    fn enables(&self) -> Vec<&'static str> {
        vec!["f16", "wgpu_cooperative_matrix"]
    }
}

/// Tokens from which matrices pay: fewer leave most rows of a chunk empty.
const FEWEST_TOKENS: u32 = 17;

/// Whether the kernel may serve a problem. Where it has to be one decay for all tokens, a chunk's is one factor for the
/// whole state, and that can stay in matrices, whose elements cannot be reached. f16 factors are exact for f16 tensors
/// only, and φ of one's own can leave their range.
pub(super) fn serves(p: &Linear) -> bool {
    let rounds = p.dtype == DType::F16 && !matches!(p.feature_map, FeatureMap::Custom(_));
    matches!(p.decay, Decay::None | Decay::Head) && !p.state_only && (rounds || p.reduced_precision)
}

/// Strips, shares, blocks of tokens of a strip, blocks of columns of a share, matrices staged.
pub(super) struct Candidate(pub u32, pub u32, pub u32, pub u32, pub u32);

/// For matrices of 16, best first, by measurements of up to 128 tokens on an NVIDIA H200. The last fit 32 KiB at D = 256.
const EDGE_16: &[Candidate] = &[
    Candidate(2, 2, 1, 1, 2),
    Candidate(2, 2, 1, 2, 2),
    Candidate(1, 2, 1, 1, 1),
    Candidate(1, 1, 1, 1, 1),
];

/// For matrices of 8, best first; reasoned, not measured.
pub(super) const EDGE_8: &[Candidate] = &[
    Candidate(4, 2, 1, 4, 4),
    Candidate(4, 2, 1, 2, 4),
    Candidate(2, 2, 1, 2, 2),
    Candidate(2, 1, 1, 2, 2),
    Candidate(1, 1, 1, 1, 1),
];

/// For processors that emulate matrices of 8: little code.
pub(super) const SOFTWARE: &[Candidate] = &[
    Candidate(4, 1, 1, 4, 8),
    Candidate(2, 1, 1, 2, 4),
    Candidate(1, 1, 1, 1, 1),
];

/// Registers of an invocation for its part of the state, so that it stays in them.
const MOST_REGISTERS: u32 = 96;

/// Those of a list that a device can have, whatever workgroup memory they take; none where it has no matrices.
pub(super) fn tiles(list: &[Candidate], device: &DeviceClass) -> Vec<CooperativeTile> {
    let (Some(edge), Some(subgroups)) = (device.abilities.matrices, device.abilities.subgroups) else {
        return vec![];
    };
    let tile = |c: &Candidate| {
        let threads = c.0 * c.1 * subgroups.1;
        let rows = c.0 * c.2 * edge;
        CooperativeTile {
            edge,
            strips: c.0,
            shares: c.1,
            row_blocks: c.2,
            value_blocks: c.3,
            staged: c.4,
            threads,
            row_lanes: 1 << (threads / rows).clamp(1, (rows / 4).min(subgroups.0)).ilog2(),
            vectors: !device.scalar_matrices,
            written_out: !device.software,
        }
    };
    let runs = |t: &CooperativeTile| t.is_sound() && t.suits(subgroups) && t.threads <= device.invocations;
    list.iter().map(tile).filter(runs).collect()
}

/// Tiles that serve a problem on a device in one pass, best first.
pub(super) fn candidates(p: &Linear, device: &DeviceClass) -> Vec<CooperativeTile> {
    let list = match (device.abilities.matrices, device.software) {
        (Some(16), _) => EDGE_16,
        (_, false) => EDGE_8,
        (_, true) => SOFTWARE,
    };
    let mut tiles = tiles(list, device);
    tiles.retain(|t| t.workgroup_bytes(p.head_dim, p.normalize.is_some()) <= device.workgroup_memory);
    tiles
}

/// Whether matrices can serve a problem on a device, measured there or not.
pub(super) fn can(p: &Linear, device: &DeviceClass) -> bool {
    device.allows(Tier::Cooperative) && serves(p) && p.tokens >= FEWEST_TOKENS
}

/// Whether the planner takes matrices: where they serve the problem and the tier is forced or they pay. With matrices of 16 and
/// D and Dv of 64 and 128 they take less time than the portable kernels on NVIDIA's H100 and H200, for f16 and 8 to 128
/// heads. Matrices of 8 and larger heads are not measured.
pub(super) fn pays(p: &Linear, device: &DeviceClass) -> bool {
    let measured = device.abilities.matrices == Some(16) && p.head_dim.max(p.value_dim()) <= 128;
    can(p, device) && (device.forces(Tier::Cooperative) || measured && !device.software)
}

/// The first of some tiles whose part of the state stays in registers, or the one that needs fewest.
pub(super) fn first_of(tiles: &[CooperativeTile], p: &Linear, device: &DeviceClass) -> Option<CooperativeTile> {
    let subgroup = device.abilities.subgroups?.1;
    let registers = |t: &CooperativeTile| t.states(p.head_dim) * t.edge * t.edge / subgroup;
    let chosen = tiles.iter().find(|t| registers(t) <= MOST_REGISTERS);
    chosen.or_else(|| tiles.iter().min_by_key(|t| registers(t))).copied()
}
