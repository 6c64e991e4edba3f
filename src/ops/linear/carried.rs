//! Segments of linear attention on cooperative matrices, with the state carried along in registers: tile, and which a device
//! gets.

use crate::ops::dense::cooperative::strip_piece;
use crate::ops::dense::tile::{DeviceClass, looped, top_iterations};
use crate::ops::dense::variant::staged_pieces;
use crate::ops::linear::cooperative::{self, Candidate, CooperativeTile};
use crate::ops::linear::geometry::vector_access;
use crate::ops::linear::segments::factors_piece;
use crate::ops::linear::variant::Chunk;
use crate::ops::linear::{Decay, Linear};
use crate::shader::{Binding, Constant, Spec};
use crate::tensor::DType;
use crate::tier::{Abilities, MatrixElements, RightElements, Tier};

/// Tile shape of `linear/carried_elements.wgsl`; the file's header has the meaning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct CarriedTile {
    /// Rows and columns of a matrix: 8 or 16, as the device has them.
    pub edge: u32,
    /// Strips of columns, a subgroup's each.
    pub strips: u32,
    /// Blocks of `edge` columns of a strip. Strips are all there is of Dv.
    pub strip_blocks: u32,
    /// Blocks of `edge` tokens of a chunk.
    pub row_blocks: u32,
    /// Invocations of a workgroup: for each strip as many as a subgroup of the device has.
    pub threads: u32,
    /// A strip's invocations wait for each other without the workgroup's others.
    pub own_barriers: bool,
    /// Loops over matrices are written out.
    pub written_out: bool,
    /// Elements of matrices, as the device has them ([`Abilities::elements`]): right factors' turned over those of sums.
    pub elements: MatrixElements,
}

impl CarriedTile {
    /// The tile with so many blocks of tokens and of a strip's columns, for the columns of a problem; `None` where the device's
    /// matrices have no elements to get at.
    pub fn new(p: &Linear, device: &DeviceClass, [row_blocks, strip_blocks]: [u32; 2]) -> Option<Self> {
        let abilities = &device.abilities;
        let edge = abilities.matrices?;
        let strips = p.value_dim() / edge / strip_blocks;
        Some(CarriedTile {
            edge,
            strips,
            strip_blocks,
            row_blocks,
            threads: strips * abilities.subgroups?.1,
            own_barriers: abilities.subgroup_barriers,
            written_out: !device.software,
            elements: abilities.elements?,
        })
    }

    /// Whether all fields are in range.
    pub(crate) fn is_sound(&self) -> bool {
        let counts = [self.strips, self.strip_blocks, self.row_blocks];
        [8, 16].contains(&self.edge)
            && counts.iter().all(|n| (1..=32).contains(n))
            && (self.strips..=1024).contains(&self.threads)
            && self.threads.is_multiple_of(self.strips)
            && self.elements.fits(self.edge, self.threads / self.strips)
            && self.elements.right.is_some_and(|right| right.turned)
    }

    /// Whether it is made for subgroups and matrices of a device.
    pub(crate) fn suits(&self, abilities: &Abilities) -> bool {
        let (least, most) = abilities.subgroups.unwrap_or_default();
        least == most
            && self.threads == self.strips * most
            && abilities.elements == Some(self.elements)
            && (abilities.subgroup_barriers || !self.own_barriers)
    }

    /// Whether it is made for the columns of a problem.
    pub(crate) fn covers(&self, p: &Linear) -> bool {
        self.strips * self.strip_blocks * self.edge == p.value_dim() && p.head_dim.is_multiple_of(self.edge)
    }

    /// Tokens of a chunk.
    pub const fn rows(&self) -> u32 {
        self.row_blocks * self.edge
    }

    /// Blocks of weights of a chunk.
    const fn pairs(&self) -> u32 {
        self.row_blocks * (self.row_blocks + 1) / 2
    }

    /// As labels have it.
    pub(super) fn shape(&self) -> String {
        format!(
            "matrices of {} chunk {} strips {}x{} threads {}{}{}",
            self.edge,
            self.rows(),
            self.strips,
            self.strip_blocks,
            self.threads,
            if self.own_barriers { " own" } else { "" },
            self.elements.label(),
        )
    }

    /// Workgroup memory in bytes.
    pub(crate) fn workgroup_bytes(&self, p: &Linear) -> u32 {
        self.bytes(p.head_dim, p.value_dim(), p.output_dtype())
    }

    fn bytes(&self, head_dim: u32, value_dim: u32, output: DType) -> u32 {
        let sums = match output {
            DType::F16 => 4,
            DType::F32 | DType::BF16 => self.strips * self.edge * (self.edge + 4),
        };
        let keys = self.rows() * (head_dim + 8);
        let values = self.rows() * (value_dim + 8);
        let weights = self.pairs() * self.edge * (self.edge + 8);
        let units = self.pairs().next_multiple_of(4);
        let barriers = if self.own_barriers { 0 } else { 4 };
        2 * (keys.max(values) + keys + weights) + 4 * (sums + units + self.edge + barriers + 4)
    }

    /// Iterations of all loops of an invocation for so many tokens, at most.
    pub(crate) fn loop_iterations(&self, p: &Linear, tokens: u32) -> u64 {
        let (blocks, each) = (p.head_dim / self.edge, looped(self.elements.each, 0));
        let halves = looped(self.elements.each / 2, 0);
        let (rows, strip) = (looped(self.row_blocks, 0), looped(self.strip_blocks, 0));
        let states = self.strip_blocks * blocks;
        let outputs = looped(self.row_blocks * self.strip_blocks, 0);
        let lanes = self.threads / self.strips;
        let eights = |elements: u32, by: u32| looped((elements / 8).div_ceil(by), 0);
        let of_head = eights(self.rows() * p.head_dim, self.threads);
        let of_values = eights(self.rows() * p.value_dim(), self.threads);
        let pairs = self.pairs().div_ceil(self.strips);
        let of_pairs = looped(pairs, rows + looped(blocks, 0) + 2 * each + top_iterations(lanes) + 2);
        let of_block_of_state = looped(self.strip_blocks, halves) + looped(self.row_blocks, strip);
        // Then what tells whether f16 has room for it.
        let from_state =
            outputs + looped(blocks, of_block_of_state) + looped(self.strip_blocks, each) + looped(states, 0);
        // The state looked at for its largest, and multiplied.
        let care = looped(states, each) + top_iterations(lanes) + looped(states, 0) + 4 * of_head + 2;
        let decays = looped(states, 0) + 1;
        let value_eights = (self.rows() * p.value_dim() / 8).div_ceil(self.threads);
        let magnitudes = looped(value_eights, looped(4, 0));
        let values = looped(self.row_blocks, each + strip);
        let update = looped(self.row_blocks, looped(blocks, strip));
        let of_block = each + looped(self.row_blocks, each) + eights(self.edge * self.edge, lanes);
        let of_output = looped(self.row_blocks, rows + looped(self.strip_blocks, of_block));
        let of_state = care + from_state + decays + update;
        let chunk = 4 * of_head + 3 * of_values + of_pairs + of_state + magnitudes + values + of_output + 1;
        let of_rows = looped(self.row_blocks, looped(self.elements.classes, 0)) + looped(self.row_blocks, each);
        let constants = looped(pairs, rows + each) + of_rows;
        let start = 2 * of_head + looped(self.strip_blocks, looped(blocks, 0)) + constants + 2;
        let chunks = u64::from(tokens.div_ceil(self.rows()) + MISHAPS);
        chunks * (1 + u64::from(chunk)) + 1 + u64::from(start)
    }
}

impl Spec for Chunk<CarriedTile> {
    fn label(&self) -> String {
        format!("{} {}", self.options_label(self.kernel()), self.tile.shape())
    }

    fn kernel(&self) -> &'static str {
        "linear/carried_elements"
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        let (t, i) = (&self.tile, &self.inputs);
        let mut constants = self.options_constants();
        constants.extend([
            ("DECAYS", Flag(i.decay != Decay::None)),
            ("STRIPS", Count(t.strips)),
            ("STRIP_BLOCKS", Count(t.strip_blocks)),
            ("ROW_BLOCKS", Count(t.row_blocks)),
            ("THREADS", Count(t.threads)),
            ("MATRICES_WRITTEN_OUT", Count(t.written_out.into())),
        ]);
        constants.extend(t.elements.constants());
        constants.extend(t.elements.right.iter().flat_map(RightElements::constants));
        constants
    }

    fn pieces(&self) -> Vec<&'static str> {
        let (t, i) = (&self.tile, &self.inputs);
        let mut pieces = staged_pieces(t.edge, true).to_vec();
        pieces.push(strip_piece(t.own_barriers));
        match i.wide {
            true => pieces.push("linear/eights_as_stored"),
            false => pieces.extend(["shared/halves", factors_piece(i), "linear/eights_of_fours"]),
        }
        if !self.wide_output {
            pieces.push("shared/output_fours");
        }
        pieces.push(match self.output_dtype {
            DType::F16 => "linear/carried_halves",
            DType::F32 | DType::BF16 => "linear/carried_sums",
        });
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
        self.tile.bytes(i.head_dim, i.value_dim, self.output_dtype)
    }

    fn tier(&self) -> Tier {
        Tier::Cooperative
    }

    fn enables(&self) -> Vec<&'static str> {
        vec!["f16", "wgpu_cooperative_matrix"]
    }

    fn loads_stay(&self) -> bool {
        true
    }
}

/// How often chunks of a segment are taken again at most.
const MISHAPS: u32 = 5;

/// Whether the kernel can serve a problem that matrices can serve: rows of states and outputs are written block by block, four
/// elements at a time.
pub(super) fn serves(p: &Linear, edge: u32) -> bool {
    let (inputs, outputs, states) = vector_access(p);
    let whole = p.head_dim.is_multiple_of(edge) && p.value_dim().is_multiple_of(edge);
    p.causal && p.normalize.is_none() && whole && inputs && outputs && states
}

/// What is fastest for a kind of problem, by measurements on an NVIDIA H200 (`benches/tune_linear.rs`).
struct Choice {
    /// Blocks of tokens of a chunk and of a strip's columns, best first.
    outputs: &'static [[u32; 2]],
    /// Tiles of states beside them, best first.
    states: &'static [Candidate],
    /// Workgroups of outputs that segments are made for, about as many as are at work at a time.
    workgroups: u64,
}

impl Choice {
    /// Tokens of each of as many segments of all heads.
    fn share(&self, rows: u64, tokens: u32) -> u32 {
        let segments = (self.workgroups / rows.max(1)).clamp(1, tokens.max(1).into());
        tokens.div_ceil(segments as u32)
    }
}

/// For Dv up to 64: four workgroups of the first tile are at work on a processor.
static NARROW: Choice = Choice {
    outputs: &[[2, 1], [1, 1]],
    states: STATES,
    workgroups: 512,
};

/// Beyond 64: two. Beyond 128 is not measured.
static WIDE: Choice = Choice {
    outputs: &[[2, 2], [2, 1], [1, 1]],
    states: &[
        Candidate(2, 2, 1, 4, 2),
        Candidate(2, 4, 1, 1, 2),
        Candidate(1, 1, 1, 1, 1),
    ],
    workgroups: 256,
};

/// The same where tokens are few: more subgroups to a workgroup, of which a processor then has one.
static WIDE_FEW: Choice = Choice {
    outputs: &[[2, 1], [2, 2], [1, 1]],
    states: STATES,
    workgroups: 128,
};

const STATES: &[Candidate] = &[
    Candidate(2, 4, 1, 1, 2),
    Candidate(2, 2, 1, 2, 2),
    Candidate(1, 1, 1, 1, 1),
];

/// Tokens for each of as many workgroups from which they are not few, and those of the chunks in which they are counted.
const MANY: u32 = 256;
const CHUNK: u32 = 32;

/// Tokens of a segment at least, and of a sequence from which few tokens still take less time so than in segments whose states are
/// all in memory: 27 for 30 µs for 4 heads × 4096 tokens, D = 64, 53 for 69 µs for 8 heads, D = 128, 48 for 86 µs for one head ×
/// 16384 tokens, D = 128. For 8 heads × 1024 the two are about level: 23 for 22 µs at D = 64, 29 for 32 at D = 128.
const LEAST: u32 = 128;
const LEAST_TOKENS: u32 = 1024;

/// Tokens of a segment from which its own state is worked out in two sections. All three dispatches of 32 heads take, in one section
/// and in two, 419 µs and 395 µs at N = 65536, D = 64 (segments of 4096), 289 and 270 at N = 16384, D = 128 (2048), but 112 and 121 at
/// N = 4096, D = 128 (512).
pub(super) const LEAST_OF_SECTIONS: u32 = 2048;

/// Documents up to which it is: each may have a segment that is not full, and there is room for so many workgroups.
pub(super) const MOST_OF_SECTIONS: u32 = 1024;

/// How a problem is cut into segments of this kind.
pub(super) struct Cut {
    /// Heads of all sequences.
    rows: u64,
    /// Of a sequence.
    tokens: u32,
    /// Whether tokens of all heads are few for what a GPU has at work at a time.
    few: bool,
    choice: &'static Choice,
}

impl Cut {
    pub(super) fn new(p: &Linear, rows: u64, tokens: u32) -> Self {
        let few = |choice: &Choice| choice.share(rows, tokens).next_multiple_of(CHUNK) < MANY;
        let (few, choice) = match p.value_dim() > 64 {
            false => (few(&NARROW), &NARROW),
            true if few(&WIDE) => (true, &WIDE_FEW),
            true => (false, &WIDE),
        };
        Cut {
            rows,
            tokens,
            few,
            choice,
        }
    }

    /// Whether it takes less time than segments whose states are all in memory.
    pub(super) fn pays(&self) -> bool {
        !self.few || self.tokens >= LEAST_TOKENS
    }

    /// Tokens of a segment. It takes them one after the other, the scan the segments of a sequence: neither is much longer than the
    /// other where segments have 2·√N tokens at least.
    pub(super) fn length(&self, tile: &CarriedTile) -> u32 {
        let share = self.choice.share(self.rows, self.tokens);
        share.max(least(self.tokens)).next_multiple_of(tile.rows())
    }

    /// Tiles that a device can have for the problem, best first.
    pub(super) fn outputs(&self, p: &Linear, device: &DeviceClass) -> Vec<CarriedTile> {
        let runs = |t: &CarriedTile| {
            t.is_sound()
                && t.suits(&device.abilities)
                && t.covers(p)
                && serves(p, t.edge)
                && !device.scalar_matrices
                && t.threads <= device.invocations
                && t.workgroup_bytes(p) <= device.workgroup_memory
        };
        let shapes = self.choice.outputs.iter();
        let tiles = shapes.filter_map(|shape| CarriedTile::new(p, device, *shape));
        tiles.filter(runs).collect()
    }

    /// Tiles of states that a device can have, best first.
    pub(super) fn states(&self, p: &Linear, device: &DeviceClass) -> Vec<CooperativeTile> {
        let mut tiles = cooperative::tiles(self.choice.states, device);
        tiles.retain(|t| t.state_workgroup_bytes(p.head_dim, false) <= device.workgroup_memory);
        tiles
    }
}

/// Tokens of a segment at least, for sequences of so many.
pub(super) fn least(tokens: u32) -> u32 {
    LEAST.max(2 * tokens.isqrt())
}
