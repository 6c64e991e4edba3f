//! Decode on cooperative matrices: its tile, when it serves, and which tile a device gets.

use crate::ops::dense::Dense;
use crate::ops::dense::cooperative::{factors_piece, matrix_pieces, precise_enough, strip_piece, whole_piece};
use crate::ops::dense::tile::{
    DeviceClass, KernelChoice, keys_visited, looped, row_searches, rows_of_a_list, rows_share_a_list, top_iterations,
};
use crate::ops::dense::variant::{Attend, Tile, staged_pieces};
use crate::shader::Constant;
use crate::tensor::DType;
use crate::tier::{Abilities, MatrixElements, RightElements, Tier};

/// Tile shape of `dense/decode_cooperative.wgsl`, or with `elements` of `dense/decode_elements.wgsl`; their headers have the meaning
/// of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct CooperativeDecodeTile {
    /// Rows and columns of a matrix: 8 or 16, as the device has them.
    pub edge: u32,
    /// Rows of a workgroup, no more than `row_blocks` blocks have.
    pub rows: u32,
    /// Blocks of `edge` rows.
    pub row_blocks: u32,
    /// Subgroups with keys of their own.
    pub strips: u32,
    /// Keys of a strip, a multiple of `edge`.
    pub strip_keys: u32,
    /// Tiles whose keys and values are on their way in registers meanwhile: at most 2.
    pub ahead: u32,
    /// Rows of scores and weights have room between them, so that they fall into different banks of workgroup memory.
    pub padded: bool,
    /// Blocks of `edge` output columns that strips put together at a time, at most: as many as divide those there are.
    pub out_blocks: u32,
    /// Invocations of a workgroup: for each strip as many as the largest subgroup of the device has.
    pub threads: u32,
    /// Invocations that share a row's weights: a power of two, no more than the smallest subgroup of the device has, and a
    /// divisor of a quarter of a strip's keys.
    pub row_lanes: u32,
    /// A strip's invocations wait for each other without the workgroup's others. Only for subgroups that all have one size.
    pub own_barriers: bool,
    /// Workgroup memory is in words of four elements, not of one.
    pub vectors: bool,
    /// Loops over matrices are written out.
    pub written_out: bool,
    /// Keys, values, scores and weights stay in registers, whose elements are as the device has them ([`Abilities::elements`], with
    /// those of right factors): with `edge` keys of a strip, one lane to a row, not padded.
    #[cfg_attr(feature = "tuned", serde(default))]
    pub elements: Option<MatrixElements>,
    /// Only with `elements`, for bf16 tensors: factors are scaled by powers of two, so that f16 has room for them and nothing is
    /// lost.
    #[cfg_attr(feature = "tuned", serde(default))]
    pub scaled: bool,
}

impl CooperativeDecodeTile {
    /// Whether all fields are in range and the shader's static assertions hold.
    pub(crate) fn is_sound(&self) -> bool {
        let counts = [
            self.rows,
            self.row_blocks,
            self.strips,
            self.strip_keys,
            self.row_lanes,
            self.out_blocks,
        ];
        let elements = self.elements.is_none_or(|e| {
            (self.strip_keys, self.row_lanes, self.padded) == (self.edge, 1, false)
                && e.fits(self.edge, self.lanes())
                && e.right.is_some()
        });
        [8, 16].contains(&self.edge)
            && elements
            && (!self.scaled || self.elements.is_some())
            && counts.iter().all(|n| (1..=256).contains(n))
            && self.rows <= self.matrix_rows()
            && self.strip_keys.is_multiple_of(self.edge)
            && self.row_lanes.is_power_of_two()
            && (self.strip_keys / 4).is_multiple_of(self.row_lanes)
            && (self.strips..=1024).contains(&self.threads)
            && self.threads.is_multiple_of(self.strips)
            && self.ahead <= 2
            && self.lanes().is_multiple_of(self.row_lanes)
    }

    /// Whether it is made for subgroups of a device.
    pub(crate) fn suits(&self, abilities: &Abilities) -> bool {
        let (least, most) = abilities.subgroups.unwrap_or_default();
        let own = abilities.subgroup_barriers && least == most;
        let elements = self.elements.is_none() || self.elements == abilities.elements;
        elements && self.row_lanes <= least && self.threads == self.strips * most && (own || !self.own_barriers)
    }

    /// Keys of a tile.
    pub const fn keys(&self) -> u32 {
        self.strips * self.strip_keys
    }

    /// Rows of the matrices.
    const fn matrix_rows(&self) -> u32 {
        self.row_blocks * self.edge
    }

    /// Invocations of a strip.
    const fn lanes(&self) -> u32 {
        self.threads / self.strips
    }

    /// Blocks of output columns that are put together at a time.
    fn out_blocks(&self, value_dim: u32) -> u32 {
        let (blocks, of_four) = match self.own_elements() {
            Some((_, right)) => (self.whole_matrices(value_dim, right.classes), right.classes),
            None => (value_dim.div_ceil(self.edge), 4),
        };
        let divides = |n: &u32| blocks.is_multiple_of(*n) && (n * of_four).is_multiple_of(4);
        let fits = (1..=self.out_blocks.min(blocks)).rev().find(divides);
        fits.or((1..=blocks).find(divides)).unwrap_or(1)
    }

    /// How elements are, and those of right factors, where the tile makes use of them.
    fn own_elements(&self) -> Option<(MatrixElements, RightElements)> {
        let elements = self.elements?;
        Some((elements, elements.right?))
    }

    /// The tile with as many strips whose keys and values, scores and weights stay in registers; `None` where the device's matrices
    /// have no elements to get at.
    pub fn in_registers(self, abilities: &Abilities) -> Option<Self> {
        let elements = abilities.elements.filter(|e| e.right.is_some())?;
        Some(CooperativeDecodeTile {
            strip_keys: self.edge,
            padded: false,
            row_lanes: 1,
            own_barriers: false,
            elements: Some(elements),
            ..self
        })
    }

    /// Matrices of a right factor's rows or columns, of `dim` elements, of which an invocation has whole vectors where it has `own`
    /// elements of each.
    fn whole_matrices(&self, dim: u32, own: u32) -> u32 {
        (dim.div_ceil(self.edge) * own).next_multiple_of(4) / own
    }

    /// Workgroup memory in bytes.
    pub fn workgroup_bytes(&self, head_dim: u32, value_dim: u32) -> u32 {
        if let Some((e, right)) = self.own_elements() {
            let pitch = self.whole_matrices(head_dim, e.each / right.classes) * self.edge + 8;
            let factors = 2 * self.matrix_rows() * pitch;
            let sums = 4 * self.strips * self.rows * (self.out_blocks(value_dim) * self.edge + 4);
            let row_vectors = 4 * self.strips * self.matrix_rows();
            let row_bits = if self.scaled { 4 * self.matrix_rows() } else { 16 };
            let places = 4 * self.edge;
            let all = [
                factors,
                sums,
                row_vectors,
                row_vectors,
                row_bits,
                places,
                places,
                places,
                places / 2,
            ];
            return all.iter().map(|n| n.next_multiple_of(16)).sum();
        }
        let pitch = |d: u32| d.next_multiple_of(self.edge) + 8;
        let rows = self.matrix_rows();
        let weights = self.strip_keys + if self.padded && self.strip_keys > 16 { 8 } else { 0 };
        let columns = self.strip_keys.max(self.out_blocks(value_dim) * self.edge);
        let sums_pitch = columns + if self.padded { 4 } else { 0 };
        let stage = self.strip_keys * pitch(head_dim).max(pitch(value_dim));
        let factors = 2 * (self.strips * (stage + rows * weights)).max(rows * pitch(head_dim));
        let sums = 4 * self.strips * rows * sums_pitch;
        let row_vectors = 4 * self.strips * rows;
        let rounds = if self.own_barriers { 0 } else { 16 };
        [factors, sums, row_vectors, row_vectors, rounds]
            .iter()
            .map(|n| n.next_multiple_of(16))
            .sum()
    }

    /// Iterations of all loops of an invocation, at most, over so many keys.
    pub(crate) fn loop_iterations(&self, problem: &Dense, keys: u64) -> u64 {
        if let Some((e, right)) = self.own_elements() {
            return self.iterations_in_registers(problem, keys, e, right);
        }
        let (rows, lanes) = (self.matrix_rows(), looped(self.row_lanes.ilog2(), 0));
        let row_turns = (rows * self.row_lanes).div_ceil(self.lanes());
        let block_words = |invocations: u32| looped((rows * self.edge / 4).div_ceil(invocations), 0);
        let value_blocks = problem.value_dim().div_ceil(self.edge);
        let masked = looped(self.strip_keys / 4 / self.row_lanes, 0) + 2 * lanes;
        let rescale = value_blocks * (block_words(self.lanes()) + 4);
        let products = if self.written_out {
            0
        } else {
            self.product_iterations(problem)
        };
        let tile = u64::from(1 + row_turns * masked + rescale + products);
        let out_blocks = self.out_blocks(problem.value_dim());
        let out_turns = value_blocks / out_blocks;
        let out_words = (self.rows * out_blocks * self.edge / 4).div_ceil(self.threads);
        let head_words = rows * problem.head_dim.next_multiple_of(self.edge) / 4;
        let outside = looped(head_words.div_ceil(self.threads), 0)
            + row_turns * lanes
            + looped(rows.div_ceil(self.threads), 3 * looped(self.strips, 0))
            + looped(
                out_turns,
                looped(self.row_blocks, looped(out_blocks, 0)) + looped(out_words, looped(self.strips, 0)),
            )
            + self.row_blocks * (looped(problem.head_dim.div_ceil(self.edge), 0) + looped(value_blocks, 0));
        // Documents are searched for by halving.
        let tiles = keys.div_ceil(self.keys().into()) + u64::from(self.ahead / 2);
        tiles * tile + u64::from(outside + 40 * (row_turns + 2))
    }

    /// The same where everything stays in registers.
    fn iterations_in_registers(&self, problem: &Dense, keys: u64, e: MatrixElements, right: RightElements) -> u64 {
        let depth = e.each / right.classes;
        let head = self.whole_matrices(problem.head_dim, depth);
        let value = self.whole_matrices(problem.value_dim(), right.classes);
        let rows = looped(self.row_blocks, 0);
        let row_classes = looped(self.row_blocks * e.classes, 0);
        let each = looped(e.each, 0);
        let shared = looped(8, 0);
        let loads =
            looped(right.classes, looped(head * depth / 4, 0)) + looped(depth, looped(value * right.classes / 4, 0));
        let masks = looped(self.row_blocks, looped(e.classes, each));
        let tops = looped(e.classes, 2 * shared) + looped(e.classes, 0) + 2 * each;
        let rescale = looped(self.row_blocks, tops + looped(value, each));
        let products = looped(head, looped(e.each / 2, 0) + rows) + looped(value, looped(e.each / 2, 0) + rows);
        // What is largest is looked for, of keys and of values, scores are multiplied, and O.
        let scaled = loads
            + 2 * top_iterations(self.lanes())
            + looped(self.row_blocks, each)
            + looped(self.row_blocks * value, 0);
        let weights = looped(self.row_blocks, each) + scaled + 2 * row_classes + 2 * rows;
        // Documents are searched for by halving.
        let searches = row_searches(problem, self.row_blocks * e.classes);
        let block = searches + u64::from(loads + products + masks + weights + rescale + 4);
        let head_words = self.matrix_rows() * head * self.edge / 4;
        let out_blocks = self.out_blocks(problem.value_dim());
        let out_words = (self.rows * out_blocks * self.edge / 4).div_ceil(self.threads);
        let put = looped(e.each, looped(self.row_blocks, looped(out_blocks, 0)));
        let outside = 2 * loads
            + each
            + looped(right.classes, 0)
            + looped(depth, 0)
            + looped(self.matrix_rows().div_ceil(self.threads), 0)
            + 2 * looped(head_words.div_ceil(self.threads), looped(4, 0))
            + looped(self.row_blocks, looped(head, 0) + looped(value, 0))
            + 4 * row_classes
            + looped(self.row_blocks * e.classes, shared + 2 * looped(self.strips, 0))
            + looped(value / out_blocks, put + looped(out_words, looped(self.strips, 0)));
        let blocks = keys.div_ceil(self.keys().into()) + u64::from(self.ahead / 2);
        blocks * block + u64::from(outside) + row_searches(problem, 2)
    }

    /// Those over the matrices of a tile, where they are not written out.
    fn product_iterations(&self, problem: &Dense) -> u32 {
        let rows = looped(self.row_blocks, 0);
        let key_blocks = self.strip_keys / self.edge;
        let head_blocks = problem.head_dim.div_ceil(self.edge);
        let value_blocks = problem.value_dim().div_ceil(self.edge);
        let scores = looped(
            key_blocks,
            2 * rows + looped(head_blocks / 2, rows) + looped(head_blocks % 2, rows),
        );
        let output = looped(key_blocks, rows + looped(value_blocks, rows));
        let turns = |dim: u32| {
            looped(
                (self.strip_keys * dim.next_multiple_of(self.edge) / 4).div_ceil(self.lanes()),
                0,
            )
        };
        let staging = 2 * (turns(problem.head_dim) + turns(problem.value_dim()));
        staging + scores + output + looped(value_blocks, 2 * rows)
    }
}

impl Tile for CooperativeDecodeTile {
    fn kernel(&self) -> &'static str {
        match self.elements {
            Some(_) => "dense/decode_elements",
            None => "dense/decode_cooperative",
        }
    }
    const TIER: Tier = Tier::Cooperative;
    const CHECKS_LISTS: bool = false;

    fn tiles_of_an_entry(&self, keys: u32) -> u32 {
        keys / self.keys()
    }

    fn label(&self) -> String {
        format!(
            "matrices of {} rows {}/{} keys {}x{} out {} threads {}/{}{}{}{}{}{}{}",
            self.edge,
            self.rows,
            self.matrix_rows(),
            self.strips,
            self.strip_keys,
            self.out_blocks,
            self.threads,
            self.row_lanes,
            ["", " carried", " carried twice"][self.ahead.min(2) as usize],
            if self.padded { "" } else { " dense" },
            if self.scaled { " scaled" } else { "" },
            if self.own_barriers { " own" } else { "" },
            if self.vectors { "" } else { " scalars" },
            self.elements.map(|e| e.label()).unwrap_or_default()
        )
    }

    fn constants(&self, _head_dim: u32, value_dim: u32) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        let mut constants = vec![
            ("OWN_ROWS", Count(self.rows)),
            ("ROW_BLOCKS", Count(self.row_blocks)),
            ("STRIPS", Count(self.strips)),
            ("STRIP_KEYS", Count(self.strip_keys)),
            ("AHEAD", Count(self.ahead)),
            ("PADDED", Flag(self.padded)),
            ("OUT_BLOCKS", Count(self.out_blocks(value_dim))),
            ("THREADS", Count(self.threads)),
            ("ROW_LANES", Count(self.row_lanes)),
            ("MATRICES_WRITTEN_OUT", Count(self.written_out.into())),
        ];
        if let Some((e, right)) = self.own_elements() {
            constants.extend(e.constants());
            constants.extend(right.constants());
        }
        constants
    }

    fn pieces<T>(&self, attend: &Attend<T>) -> Vec<&'static str> {
        if self.elements.is_none() {
            let mut pieces = matrix_pieces(attend, self.edge, 1, self.vectors);
            pieces.push(strip_piece(self.own_barriers));
            return pieces;
        }
        let mut pieces = staged_pieces(self.edge, self.vectors).to_vec();
        pieces.push(whole_piece(attend.visits));
        pieces.extend(match self.scaled {
            false => [factors_piece(attend, 1), "dense/right_plain"],
            true if attend.vector_inputs => ["dense/factors_native", "dense/right_scaled"],
            true => ["dense/factors_bf16", "dense/right_scaled"],
        });
        pieces
    }

    fn workgroup_bytes(&self, head_dim: u32, value_dim: u32) -> u32 {
        self.workgroup_bytes(head_dim, value_dim)
    }
}

/// Keys of a share from which tiles in registers pay for any number of rows, of f16: 131 072 keys take 79.6 µs for one row of D = 64, in
/// subgroups 82.7, and 142.0 for one of D = 128, 146.0 (f16, NVIDIA H200).
const LONG: u32 = 1536;

/// Rows of a KV head from which matrices pay, whose other rows stay empty. For 2 rows of D = 128 they took 0.95 of the portable
/// kernel's time over 16 384 keys and 0.91 over 131 072 (f16, NVIDIA H200), for one row 1.00 and 0.96; of D = 64, over 16 384 keys,
/// 1.03 of that in subgroups for 4 rows and 0.83 for 8 (H100).
fn fewest_rows(problem: &Dense) -> u32 {
    match (
        problem.head_dim.min(problem.value_dim()),
        problem.head_dim.max(problem.value_dim()),
    ) {
        (..=64, _) => 8,
        (_, ..=128) => 2,
        _ => 4,
    }
}

/// Rows of a KV head.
fn all_rows(problem: &Dense) -> u32 {
    problem.queries.saturating_mul(problem.heads / problem.kv_heads())
}

/// Rows of a workgroup, `most` at most: all of a list's or of a KV head's, or equal parts of them.
fn rows(problem: &Dense, most: u32) -> u32 {
    let all = all_rows(problem);
    match rows_of_a_list(problem, true) {
        u32::MAX => all.div_ceil(all.div_ceil(most)),
        shared => (1..=most.min(shared))
            .rev()
            .find(|n| shared.is_multiple_of(*n))
            .unwrap_or(1),
    }
}

/// A tile of a list, and what it is meant for.
#[derive(Clone, Copy)]
struct Candidate {
    /// Keys of a share from which it pays.
    share: u32,
    /// Whether it is meant for more workgroups than processors, without any split: several at work on each.
    crowd: bool,
    strips: u32,
    strip_keys: u32,
    ahead: u32,
    padded: bool,
    out_blocks: u32,
    /// Everything stays in registers.
    registers: bool,
}

/// A tile for shares of any length, padded, with nothing on its way and one block of columns put together at a time.
const fn tile(strips: u32, strip_keys: u32) -> Candidate {
    Candidate {
        share: 0,
        crowd: false,
        strips,
        strip_keys,
        ahead: 0,
        padded: true,
        out_blocks: 1,
        registers: false,
    }
}

/// The same in registers, with a block on its way.
const fn registers(strips: u32, out_blocks: u32) -> Candidate {
    Candidate {
        ahead: 1,
        padded: false,
        out_blocks,
        registers: true,
        ..tile(strips, 16)
    }
}

impl Candidate {
    const fn from(self, share: u32) -> Self {
        Candidate { share, ..self }
    }

    const fn of_a_crowd(self) -> Self {
        Candidate { crowd: true, ..self }
    }

    const fn ahead(self, ahead: u32) -> Self {
        Candidate { ahead, ..self }
    }

    const fn unpadded(self) -> Self {
        Candidate { padded: false, ..self }
    }

    const fn out_blocks(self, out_blocks: u32) -> Self {
        Candidate { out_blocks, ..self }
    }
}

/// In registers, for matrices of 16, up to 16 rows, and D and Dv up to 64: before all others, by measurements on an NVIDIA H200 (as
/// below, the merge of the shares included). 131 072 keys take 80.1 µs with 12 strips, 81.0 with 11, 82.0 with 14, 82.4 with 8 and two
/// blocks on their way, 85.5 without registers; 4096 keys 15.1 µs with 8 strips and 15.6 without registers. Of a batch of 32 with 2048
/// keys each, two workgroups of 6 strips to a processor take 46.6 µs, one of 12 or 8 51.1 or 52.6.
const SHORT_REGISTERS: &[Candidate] = &[
    registers(6, 8).of_a_crowd().from(192),
    registers(12, 8).from(LONG),
    registers(12, 2).from(LONG),
    registers(8, 4).from(192),
];

/// The same up to 128: 131 072 keys take 141.4 µs with 8 strips, 143.6 without registers; 8192 keys 27.5 and 28.1; a batch of 32 with
/// 2048 keys each 78.2 µs with 4 strips, 84.5 with 8, 92.3 without registers.
const NARROW_REGISTERS: &[Candidate] = &[registers(4, 4).of_a_crowd().from(384), registers(8, 4).from(384)];

/// What is left of those where factors are scaled and shares are short or matrices are of 8, for a tier that is forced: 1024 keys of
/// D = 128 take 18.9 µs, in subgroups 16.5.
const FORCED: &[Candidate] = &[registers(4, 8), registers(2, 8), registers(1, 8)];

/// For matrices of 16 and D and Dv up to 128, best first, by measurements on an NVIDIA H200 (`benches/tune_dense.rs`, 8 KV
/// heads of 8 rows). Where a share is long, what is on its way decides: over 131 072 keys of D = 128 8 strips take 143.6 µs,
/// 7 146.4, 6 153.3, 4 183.3. Where it is short, it is the way to the first scores and from the last to the output: over 1024
/// keys 4 strips with 4 blocks of columns at a time take 16.5 µs, with one 17.6, 8 strips 18.7 (with a merge of the shares that took
/// 2 µs longer than it does).
const NARROW: &[Candidate] = &[
    tile(8, 16).from(2560).ahead(1).unpadded(),
    tile(6, 16).from(640).ahead(1),
    tile(4, 16).ahead(1).out_blocks(4),
    tile(4, 16).ahead(1),
    tile(2, 16).ahead(1),
    tile(1, 16).ahead(1),
];

/// The same for D and Dv up to 64, whose registers have room for two tiles: 131 072 keys take 87.5 µs, with one tile on its way
/// 105.
const SHORT: &[Candidate] = &[
    tile(8, 16).from(1536).ahead(2).unpadded(),
    tile(4, 32).from(384).ahead(1),
    tile(4, 16).ahead(1).out_blocks(4),
    tile(4, 16).ahead(1),
    tile(2, 16).ahead(1),
    tile(1, 16).ahead(1),
];

/// The same for larger D or Dv, whose queries and output rows leave no registers for what is on its way.
const WIDE: &[Candidate] = &[tile(4, 16), tile(2, 16), tile(1, 16)];

/// For matrices of 8, best first; reasoned, not measured.
const EDGE_8: &[Candidate] = &[
    tile(4, 16).ahead(1),
    tile(4, 8).ahead(1),
    tile(2, 8).ahead(1),
    tile(1, 8).ahead(1),
];

/// For processors that emulate matrices of 8: little code.
const SOFTWARE: &[Candidate] = &[tile(4, 8), tile(2, 8), tile(1, 8)];

/// Whether a problem's factors are to be scaled: bf16, where f16 without its range is not allowed for it.
fn needs_scales(problem: &Dense) -> bool {
    problem.dtype == DType::BF16 && !problem.reduced_precision
}

/// Tiles that serve a problem on a device, best first.
pub(super) fn candidates(problem: &Dense, device: &DeviceClass) -> Vec<CooperativeDecodeTile> {
    serving(problem, device).into_iter().map(|(_, tile)| tile).collect()
}

/// The same with what each is meant for.
fn serving(problem: &Dense, device: &DeviceClass) -> Vec<(Candidate, CooperativeDecodeTile)> {
    let (Some(edge), Some((least, most))) = (device.abilities.matrices, device.abilities.subgroups) else {
        return vec![];
    };
    let largest = problem.head_dim.max(problem.value_dim());
    let wide = largest > 128;
    let scaled = needs_scales(problem);
    let forced: &[Candidate] = if device.forces(Tier::Cooperative) { FORCED } else { &[] };
    let (all, in_registers) = match (edge, device.software) {
        _ if !precise_enough(problem, 1) && (!scaled || wide) => return vec![],
        // Weights are f16, which shows in f32.
        _ if scaled && forced.is_empty() && problem.output_dtype() == DType::F32 => return vec![],
        (16, _) if scaled && largest <= 64 => (forced, SHORT_REGISTERS),
        (16, _) if scaled => (forced, NARROW_REGISTERS),
        _ if scaled => (forced, [].as_slice()),
        (16, _) if wide => (WIDE, [].as_slice()),
        (16, _) if largest <= 64 => (SHORT, SHORT_REGISTERS),
        (16, _) => (NARROW, NARROW_REGISTERS),
        (_, false) => (EDGE_8, [].as_slice()),
        (_, true) => (SOFTWARE, [].as_slice()),
    };
    let most_blocks = if wide || scaled { 1 } else { 2 };
    let rows = rows(problem, most_blocks * edge);
    let made = |candidate: &Candidate| {
        let Candidate {
            strips,
            strip_keys,
            ahead,
            padded,
            out_blocks,
            registers,
            ..
        } = *candidate;
        let row_blocks = rows.div_ceil(edge);
        let lanes = (most / (row_blocks * edge)).clamp(1, (strip_keys / 4).min(least));
        let tile = CooperativeDecodeTile {
            edge,
            rows,
            row_blocks,
            strips,
            strip_keys,
            ahead,
            padded,
            out_blocks,
            threads: strips * most,
            row_lanes: 1 << lanes.ilog2(),
            own_barriers: true,
            vectors: !device.scalar_matrices,
            written_out: !device.software,
            elements: None,
            scaled,
        };
        let tile = match registers {
            true => tile.in_registers(&device.abilities).filter(|_| row_blocks == 1)?,
            false => CooperativeDecodeTile {
                own_barriers: tile.suits(&device.abilities),
                ..tile
            },
        };
        Some((*candidate, tile))
    };
    let fits = |(_, t): &(Candidate, CooperativeDecodeTile)| {
        t.is_sound()
            && t.suits(&device.abilities)
            && t.threads <= device.invocations
            && t.workgroup_bytes(problem.head_dim, problem.value_dim()) <= device.workgroup_memory
            && rows_share_a_list(problem, &KernelChoice::CooperativeDecode(*t))
    };
    in_registers.iter().chain(all).filter_map(made).filter(fits).collect()
}

/// The tile, where matrices may be used, serve the problem, and are wanted or faster: on a software GPU they are emulated.
pub(super) fn choose(problem: &Dense, device: &DeviceClass) -> Option<CooperativeDecodeTile> {
    let forced = device.forces(Tier::Cooperative);
    let tiles = (device.allows(Tier::Cooperative) && (forced || !device.software)).then(|| serving(problem, device))?;
    let keys = keys_visited(problem);
    let pays = forced || all_rows(problem) >= fewest_rows(problem);
    // No more keys at a time than there are, and shares as long as the tile wants them.
    let suits = |(meant, t): &&(Candidate, CooperativeDecodeTile)| {
        let share = keys.div_ceil(wanted_splits(problem, t));
        let crowd = workgroups(problem, t) > u64::from(RESIDENT);
        let long = t.keys() <= keys && share >= meant.share && (crowd || !meant.crowd);
        let any_rows = meant.registers && !crowd && !t.scaled && share >= LONG;
        (pays && t.strips == 1) || (long && (pays || any_rows))
    };
    let last = tiles.last().filter(|_| pays && (forced || !needs_scales(problem)));
    tiles.iter().find(suits).or(last).map(|(_, tile)| *tile)
}

/// Workgroups that fill a device: one on each of an H100's 132 processors, which measured faster than two.
const RESIDENT: u32 = 132;

/// Workgroups without any split.
fn workgroups(problem: &Dense, tile: &CooperativeDecodeTile) -> u64 {
    let heads = u64::from(problem.kv_heads()) * u64::from(problem.batch);
    u64::from(all_rows(problem).div_ceil(tile.rows)) * heads
}

/// Shares of the keys that fill the device once.
fn wanted_splits(problem: &Dense, tile: &CooperativeDecodeTile) -> u32 {
    (u64::from(RESIDENT) / workgroups(problem, tile)).clamp(1, 256) as u32
}

/// Shares of the keys: enough workgroups to fill the device once, each with at least two tiles.
pub(super) fn splits(problem: &Dense, tile: &CooperativeDecodeTile) -> u32 {
    let most = keys_visited(problem).div_ceil(tile.keys()).div_ceil(2);
    wanted_splits(problem, tile).min(most).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dense::cooperative::tensor_cores;

    #[test]
    fn long_shares_stay_in_registers() {
        let device = tensor_cores(Some(MatrixElements::OF_TENSOR_CORES));
        let decode = |group: u32, keys, head_dim| Dense {
            heads: 8 * group,
            kv_heads: Some(8),
            keys,
            head_dim,
            dtype: DType::F16,
            causal: true,
            ..Dense::default()
        };
        let tile =
            |p: &Dense, device: &DeviceClass| choose(p, device).map(|t| (t.strips, t.elements.is_some(), t.out_blocks));
        assert_eq!(tile(&decode(8, 131_072, 64), &device), Some((12, true, 8)));
        assert_eq!(tile(&decode(8, 4096, 64), &device), Some((8, true, 4)));
        assert_eq!(tile(&decode(8, 1024, 64), &device), Some((4, false, 4)));
        assert_eq!(tile(&decode(8, 131_072, 128), &device), Some((8, true, 4)));
        assert_eq!(tile(&decode(8, 131_072, 256), &device), Some((4, false, 1)));
        // What 16 rows leave room for; more rows than a block has.
        assert_eq!(tile(&decode(16, 131_072, 64), &device), Some((12, true, 2)));
        assert_eq!(tile(&decode(32, 131_072, 64), &device).map(|t| t.1), Some(false));
        // bf16, scaled unless its range need not be kept.
        let bf16 = |reduced_precision, keys| Dense {
            dtype: DType::BF16,
            reduced_precision,
            ..decode(8, keys, 64)
        };
        let scaled = |p: &Dense| choose(p, &device).map(|t| (t.strips, t.scaled));
        assert_eq!(scaled(&bf16(false, 131_072)), Some((12, true)));
        assert_eq!(scaled(&bf16(true, 131_072)), Some((12, false)));
        assert_eq!(scaled(&bf16(false, 1024)), None);
        let f32_out = Dense {
            output_dtype: Some(DType::F32),
            ..bf16(false, 131_072)
        };
        assert_eq!(choose(&f32_out, &device), None);
        let forced = DeviceClass {
            tier: Some(Tier::Cooperative),
            ..tensor_cores(Some(MatrixElements::OF_TENSOR_CORES))
        };
        let short = choose(&bf16(false, 1024), &forced).map(|t| (t.strips, t.scaled));
        assert_eq!(short, Some((4, true)));
        let f32 = Dense {
            dtype: DType::F32,
            ..decode(8, 131_072, 64)
        };
        assert_eq!(choose(&f32, &device), None);
        // Single rows, where shares are long.
        assert_eq!(tile(&decode(1, 131_072, 64), &device), Some((12, true, 8)));
        assert_eq!(tile(&decode(1, 16_384, 64), &device), None);
        // More workgroups than processors.
        let batch = |batch, group| Dense {
            batch,
            ..decode(group, 4096, 64)
        };
        assert_eq!(tile(&batch(32, 8), &device), Some((6, true, 8)));
        assert_eq!(tile(&batch(16, 8), &device), Some((12, true, 8)));
        assert_eq!(tile(&batch(32, 1), &device), None);
        // Where right factors are elsewhere.
        let elements = MatrixElements {
            right: None,
            ..MatrixElements::OF_TENSOR_CORES
        };
        assert_eq!(
            tile(&decode(8, 131_072, 64), &tensor_cores(Some(elements))),
            Some((8, false, 1))
        );
    }
}
