//! Decode on cooperative matrices: its tile, when it serves, and which tile a device gets.

use crate::ops::dense::Dense;
use crate::ops::dense::cooperative::{self, matrix_pieces};
use crate::ops::dense::tile::{DeviceClass, KernelChoice, keys_visited, looped, rows_of_a_list, rows_share_a_list};
use crate::ops::dense::variant::{Attend, Tile};
use crate::shader::Constant;
use crate::tier::{Abilities, Tier};

/// Tile shape of `dense/decode_cooperative.wgsl`; the file's header has the meaning of each.
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
        [8, 16].contains(&self.edge)
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
        self.row_lanes <= least && self.threads == self.strips * most && (own || !self.own_barriers)
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
        let blocks = value_dim.div_ceil(self.edge);
        let divides = |n: &u32| blocks.is_multiple_of(*n);
        (1..=self.out_blocks.min(blocks)).rev().find(divides).unwrap_or(1)
    }

    /// Workgroup memory in bytes.
    pub fn workgroup_bytes(&self, head_dim: u32, value_dim: u32) -> u32 {
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
        "dense/decode_cooperative"
    }
    const TIER: Tier = Tier::Cooperative;
    const CHECKS_LISTS: bool = false;

    fn tiles_of_an_entry(&self, keys: u32) -> u32 {
        keys / self.keys()
    }

    fn label(&self) -> String {
        format!(
            "matrices of {} rows {}/{} keys {}x{} out {} threads {}/{}{}{}{}{}",
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
            if self.own_barriers { " own" } else { "" },
            if self.vectors { "" } else { " scalars" }
        )
    }

    fn constants(&self, _head_dim: u32, value_dim: u32) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        vec![
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
        ]
    }

    fn pieces<T>(&self, attend: &Attend<T>) -> Vec<&'static str> {
        matrix_pieces(attend, self.edge, 1, self.vectors, self.own_barriers)
    }

    fn workgroup_bytes(&self, head_dim: u32, value_dim: u32) -> u32 {
        self.workgroup_bytes(head_dim, value_dim)
    }
}

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

/// A tile of a list, and the shares for which it is meant.
#[derive(Clone, Copy)]
struct Candidate {
    /// Keys of a share from which it pays.
    share: u32,
    strips: u32,
    strip_keys: u32,
    ahead: u32,
    padded: bool,
    out_blocks: u32,
}

/// A tile for shares of any length, padded, with nothing on its way and one block of columns put together at a time.
const fn tile(strips: u32, strip_keys: u32) -> Candidate {
    Candidate {
        share: 0,
        strips,
        strip_keys,
        ahead: 0,
        padded: true,
        out_blocks: 1,
    }
}

impl Candidate {
    const fn from(self, share: u32) -> Self {
        Candidate { share, ..self }
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

/// For matrices of 16 and D and Dv up to 128, best first, by measurements on an NVIDIA H200 (`benches/tune_dense.rs`, 8 KV
/// heads of 8 rows). Where a share is long, what is on its way decides: over 131 072 keys of D = 128 8 strips take 143.6 µs,
/// 7 146.4, 6 153.3, 4 183.3. Where it is short, it is the way to the first scores and from the last to the output: over 1024
/// keys 4 strips with 4 blocks of columns at a time take 16.5 µs, with one 17.6, 8 strips 18.7.
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

/// Tiles that serve a problem on a device, best first.
pub(super) fn candidates(problem: &Dense, device: &DeviceClass) -> Vec<CooperativeDecodeTile> {
    serving(problem, device).into_iter().map(|(_, tile)| tile).collect()
}

/// The same with the keys of a share from which each pays.
fn serving(problem: &Dense, device: &DeviceClass) -> Vec<(u32, CooperativeDecodeTile)> {
    let (Some(edge), Some((least, most))) = (device.abilities.matrices, device.abilities.subgroups) else {
        return vec![];
    };
    let largest = problem.head_dim.max(problem.value_dim());
    let wide = largest > 128;
    let all = match (edge, device.software) {
        (16, _) if wide => WIDE,
        (16, _) if largest <= 64 => SHORT,
        (16, _) => NARROW,
        (_, false) => EDGE_8,
        (_, true) => SOFTWARE,
    };
    let most_blocks = if wide { 1 } else { 2 };
    let rows = rows(problem, most_blocks * edge);
    let made = |candidate: &Candidate| {
        let Candidate {
            share,
            strips,
            strip_keys,
            ahead,
            padded,
            out_blocks,
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
        };
        let own_barriers = tile.suits(&device.abilities);
        (share, CooperativeDecodeTile { own_barriers, ..tile })
    };
    let fits = |(_, t): &(u32, CooperativeDecodeTile)| {
        t.is_sound()
            && t.suits(&device.abilities)
            && t.threads <= device.invocations
            && t.workgroup_bytes(problem.head_dim, problem.value_dim()) <= device.workgroup_memory
            && rows_share_a_list(problem, &KernelChoice::CooperativeDecode(*t))
    };
    all.iter().map(made).filter(fits).collect()
}

/// The tile, where matrices may be used, serve the problem, and are wanted or faster: on a software GPU they are emulated.
pub(super) fn choose(problem: &Dense, device: &DeviceClass) -> Option<CooperativeDecodeTile> {
    let forced = device.forces(Tier::Cooperative);
    let pays = !device.software && all_rows(problem) >= fewest_rows(problem);
    let serves = device.allows(Tier::Cooperative) && cooperative::precise_enough(problem, 1);
    let tiles = (serves && (forced || pays)).then(|| serving(problem, device))?;
    let keys = keys_visited(problem);
    // No more keys at a time than there are, and shares as long as the tile wants them.
    let suits = |(share, t): &&(u32, CooperativeDecodeTile)| {
        t.strips == 1 || (t.keys() <= keys && keys.div_ceil(wanted_splits(problem, t)) >= *share)
    };
    tiles.iter().find(suits).or(tiles.last()).map(|(_, tile)| *tile)
}

/// Workgroups that fill a device: one on each of an H100's 132 processors, which measured faster than two.
const RESIDENT: u32 = 132;

/// Shares of the keys that fill the device once.
fn wanted_splits(problem: &Dense, tile: &CooperativeDecodeTile) -> u32 {
    let heads = u64::from(problem.kv_heads()) * u64::from(problem.batch);
    let workgroups = u64::from(all_rows(problem).div_ceil(tile.rows)) * heads;
    (u64::from(RESIDENT) / workgroups).clamp(1, 256) as u32
}

/// Shares of the keys: enough workgroups to fill the device once, each with at least two tiles.
pub(super) fn splits(problem: &Dense, tile: &CooperativeDecodeTile) -> u32 {
    let most = keys_visited(problem).div_ceil(tile.keys()).div_ceil(2);
    wanted_splits(problem, tile).min(most).max(1)
}
