//! Which kernel and tile score: pure functions of problem and device.

use crate::error::{Error, Result};
use crate::ops::dense::tile::{DeviceClass, looped, no_tile, row_searches};
use crate::ops::dense::variant::unroll;
use crate::ops::topk::{Scoring, TopK, rules};

/// A kernel that scores, with its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub enum ScoreTile {
    /// `topk/score.wgsl`
    Tiled(TiledTile),
    /// `topk/score_serial.wgsl`
    Serial(SerialScoreTile),
}

/// Tile shape of `topk/score.wgsl`; `dense/products.wgsl` has the meaning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct TiledTile {
    /// Row groups.
    pub row_groups: u32,
    /// Rows of an invocation.
    pub row_regs: u32,
    /// Invocations of a row group.
    pub lanes: u32,
    /// Places of an invocation, a multiple of 4.
    pub key_regs: u32,
    /// Vectors of the head dimension staged at once.
    pub chunk: u32,
    /// Steps of the product's inner loop that are written out.
    pub unroll: u32,
}

/// Tile shape of `topk/score_serial.wgsl`; the file's header has the meaning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct SerialScoreTile {
    /// Rows of an invocation, at least those of a list unless every row is one; their vectors of four are at most 512.
    pub rows: u32,
    /// Invocations of a workgroup.
    pub threads: u32,
}

impl TiledTile {
    /// Whether it keeps to the rules beside its fields.
    fn is_sound(&self) -> bool {
        let small = within([
            self.row_groups,
            self.row_regs,
            self.lanes,
            self.key_regs,
            self.chunk,
            self.unroll,
        ]);
        small && self.key_regs.is_multiple_of(4)
    }

    /// Rows of a tile.
    pub const fn rows(&self) -> u32 {
        self.row_groups * self.row_regs
    }

    /// Places of a tile.
    pub const fn places(&self) -> u32 {
        self.lanes * self.key_regs
    }

    /// Invocations of a workgroup.
    pub const fn threads(&self) -> u32 {
        self.row_groups * self.lanes
    }

    /// Entries of a workgroup, each of so many places.
    pub(crate) fn entries(&self, entry_places: u32) -> u32 {
        (self.places() / entry_places).max(1)
    }

    /// Workgroup memory in bytes.
    pub(crate) fn workgroup_bytes(&self, row_lists: bool, entry_places: u32) -> u32 {
        let (maxima, entries) = match row_lists {
            true => (1, 1),
            false => (self.row_groups * self.places(), self.entries(entry_places)),
        };
        let products = (self.rows() + self.places()) * (self.chunk + 1);
        16 * products + 16 * self.rows() + maxima.div_ceil(4) * 16 + entries.div_ceil(4) * 16
    }
}

/// What a problem is to the kernels that score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// Every row is a list of its own.
    pub row_lists: bool,
    /// The query heads of a KV head take turns in the order of rows.
    pub interleaved: bool,
    /// Query heads that take turns: 1, or those of a KV head.
    pub heads: u32,
    /// Rows of a list, counted so.
    pub list_rows: u32,
    /// Places of an entry.
    pub entry_places: u32,
    /// Vectors of four that a product sums over.
    pub vecs: u32,
}

impl Shape {
    pub fn of(p: &TopK) -> Self {
        let a = &p.attention;
        let group = a.heads / a.kv_heads();
        let entry_places = match p.scoring {
            Scoring::Keys => p.block_size,
            Scoring::Mean | Scoring::Bound => 1,
        };
        let vecs = a.head_dim.div_ceil(4) * if p.scoring == Scoring::Bound { 2 } else { 1 };
        let single = p.query_block == 1 && (group == 1 || !p.per_kv_head);
        let row_lists = single && entry_places == 1;
        // Lists of single rows take what shares keys together.
        let interleaved = group > 1 && (p.per_kv_head || row_lists);
        let heads = if interleaved { group } else { 1 };
        Shape {
            row_lists,
            interleaved,
            heads,
            list_rows: if row_lists {
                1
            } else {
                p.query_block.min(a.queries) * heads
            },
            entry_places,
            vecs,
        }
    }
}

/// Queries up to which a software GPU scores without barriers.
const SERIAL_QUERIES: u32 = 16;

/// Rows that an invocation of the serial kernel holds at most.
const SERIAL_ROWS: u32 = 8;

/// Vectors of queries that an invocation of the serial kernel holds at most.
const HELD_VECS: u32 = 512;

/// Row groups, rows, lanes and places of an invocation, steps written out.
struct Candidate(u32, u32, u32, u32, u32);

/// Tiles to try, best first, for many rows, for some, and for few.
const GPU: &[Candidate] = &[Candidate(16, 4, 16, 4, 4), Candidate(8, 4, 8, 4, 4)];
const GPU_SOME: &[Candidate] = &[Candidate(8, 4, 16, 4, 4), Candidate(8, 4, 8, 4, 4)];
const GPU_FEW: &[Candidate] = &[Candidate(4, 2, 16, 8, 4), Candidate(4, 2, 16, 4, 4)];
const SOFTWARE: &[Candidate] = &[Candidate(8, 8, 8, 8, 1), Candidate(8, 4, 8, 4, 1)];
const SOFTWARE_SOME: &[Candidate] = &[Candidate(8, 4, 8, 8, 1), Candidate(8, 4, 8, 4, 1)];
const SOFTWARE_FEW: &[Candidate] = &[Candidate(8, 1, 8, 8, 1), Candidate(8, 1, 8, 4, 1)];

/// Rows up to which tiles of few rows serve, and of some.
const FEW: u32 = 8;
const SOME: u32 = 32;

/// The kernel for a problem on a device.
///
/// # Errors
/// [`crate::Error::Invalid`] if the problem is, [`crate::Error::Limit`] where even the smallest tile does not fit.
pub fn choose(p: &TopK, device: &DeviceClass) -> Result<ScoreTile> {
    rules::check(p)?;
    let shape = Shape::of(p);
    let rows_together = match shape.row_lists {
        true => p.attention.queries.saturating_mul(shape.heads),
        false => shape.list_rows,
    };
    let holds = shape.row_lists || shape.list_rows <= SERIAL_ROWS;
    // Registers hold the queries.
    let short = shape.vecs * rows_together.min(SERIAL_ROWS) <= HELD_VECS;
    if device.software && p.attention.queries <= SERIAL_QUERIES && holds && short {
        return Ok(ScoreTile::Serial(SerialScoreTile {
            rows: rows_together.min(SERIAL_ROWS),
            threads: 8,
        }));
    }
    let candidates = match (device.software, rows_together) {
        (false, ..=FEW) => GPU_FEW,
        (false, ..=SOME) => GPU_SOME,
        (false, _) => GPU,
        (true, ..=FEW) => SOFTWARE_FEW,
        (true, ..=SOME) => SOFTWARE_SOME,
        (true, _) => SOFTWARE,
    };
    let tiles = tiled(candidates, shape.vecs, &[8, 4, 2]);
    let bytes = |t: &TiledTile| t.workgroup_bytes(shape.row_lists, shape.entry_places);
    let mut smallest = (u32::MAX, 0);
    for tile in tiles {
        if bytes(&tile) <= device.workgroup_memory && tile.threads() <= device.invocations {
            return Ok(ScoreTile::Tiled(tile));
        }
        smallest = smallest.min((bytes(&tile), tile.threads()));
    }
    Err(no_tile(smallest.0, smallest.1, device))
}

/// Tiles of a list, each with all numbers of vectors staged at once.
fn tiled(list: &[Candidate], vecs: u32, staged: &[u32]) -> impl Iterator<Item = TiledTile> {
    list.iter().flat_map(move |c| {
        staged.iter().map(move |most| TiledTile {
            row_groups: c.0,
            row_regs: c.1,
            lanes: c.2,
            key_regs: c.3,
            chunk: vecs.div_ceil(vecs.div_ceil(*most)),
            unroll: c.4,
        })
    })
}

/// Kernels and tiles worth trying on a device beside the planner's choice, for measurements: those of all numbers of rows that fit,
/// and on a software GPU that without barriers. None for an invalid problem.
pub fn alternatives(p: &TopK, device: &DeviceClass) -> Vec<ScoreTile> {
    if rules::check(p).is_err() {
        return vec![];
    }
    let lists = match device.software {
        true => [SOFTWARE_FEW, SOFTWARE_SOME, SOFTWARE],
        false => [GPU_FEW, GPU_SOME, GPU],
    };
    let vecs = Shape::of(p).vecs;
    let mut all: Vec<_> = lists
        .into_iter()
        .flat_map(|list| tiled(list, vecs, &[8, 4]))
        .map(ScoreTile::Tiled)
        .collect();
    if device.software {
        all.extend([1, 4, SERIAL_ROWS].map(|rows| ScoreTile::Serial(SerialScoreTile { rows, threads: 8 })));
    }
    let mut kept = vec![];
    for tile in all {
        if !kept.contains(&tile) && runs(p, tile, device) {
            kept.push(tile);
        }
    }
    kept
}

/// Whether a tile that was chosen elsewhere runs a problem on a device.
pub(super) fn runs(p: &TopK, tile: ScoreTile, device: &DeviceClass) -> bool {
    check(p, tile, device).is_ok() && check_loops(p, &tile, device).is_ok()
}

/// Refuses what takes a software GPU too many iterations.
pub(crate) fn check_loops(p: &TopK, tile: &ScoreTile, device: &DeviceClass) -> Result<()> {
    let splits = serial_splits(p, p.selection().entries(&p.attention), device);
    device.check_loops("scoring so many keys for a list", loop_iterations(p, tile, splits))
}

/// A tile that a caller gives, if it makes sense for the problem and the device has room for it.
pub(crate) fn check(p: &TopK, tile: ScoreTile, device: &DeviceClass) -> Result<ScoreTile> {
    let shape = Shape::of(p);
    let (sound, threads, bytes) = match tile {
        // A list's rows are held by one invocation.
        ScoreTile::Serial(t) => {
            let holds = shape.row_lists || shape.list_rows <= t.rows;
            let sound = within([t.rows, t.threads]) && holds && t.rows * shape.vecs <= HELD_VECS;
            (sound, t.threads, 0)
        }
        ScoreTile::Tiled(t) => {
            let sound = t.is_sound();
            let bytes = if sound {
                t.workgroup_bytes(shape.row_lists, shape.entry_places)
            } else {
                0
            };
            (sound, if sound { t.threads() } else { 0 }, bytes)
        }
    };
    if !sound {
        return Err(Error::Invalid {
            field: "tuning.score",
            value: format!("{tile:?}"),
            allowed: "a tile that keeps to the rules beside its fields, each of which is 1 to 256".into(),
        });
    }
    if threads > device.invocations || bytes > device.workgroup_memory {
        return Err(no_tile(bytes, threads, device));
    }
    Ok(tile)
}

fn within<const N: usize>(fields: [u32; N]) -> bool {
    fields.iter().all(|field| (1..=256).contains(field))
}

/// Shares of the entries in the serial kernel.
pub(crate) fn serial_splits(p: &TopK, entries: u32, device: &DeviceClass) -> u32 {
    // An invocation's entries, and their keys, are one loop.
    let places = u64::from(entries) * u64::from(Shape::of(p).entry_places.min(p.attention.keys) + 2);
    let each = 1 + row_searches(&p.attention, SERIAL_ROWS);
    let least = (places * each).div_ceil(device.loop_iterations() / 2) as u32;
    entries.clamp(1, 512).max(least)
}

/// Iterations of all loops of an invocation, at most.
fn loop_iterations(p: &TopK, tile: &ScoreTile, splits: u32) -> u64 {
    let shape = Shape::of(p);
    let entries = p.selection().entries(&p.attention);
    // No walk goes beyond the last key.
    let entry_places = shape.entry_places.min(p.attention.keys);
    match tile {
        ScoreTile::Serial(t) => {
            // Rows are looked for anew at every place.
            let places = u64::from(entries.div_ceil(splits)) * u64::from(entry_places + 2);
            places * (1 + row_searches(&p.attention, t.rows)) + 1 + row_searches(&p.attention, 2)
        }
        ScoreTile::Tiled(t) => {
            let products = looped(
                shape.vecs.div_ceil(t.chunk),
                looped(t.chunk / unroll(t.chunk, t.unroll), 0),
            );
            let rows = looped(t.rows().div_ceil(t.threads()), row_searches(&p.attention, 1) as u32);
            let row_tiles = if shape.row_lists {
                1
            } else {
                shape.list_rows.div_ceil(t.rows())
            };
            let held = t.entries(shape.entry_places);
            let steps = u64::from(held * entry_places).div_ceil(t.places().into());
            let maxima = u64::from(held.div_ceil(t.threads()))
                * (2 + u64::from(t.places().min(shape.entry_places)) * u64::from(looped(t.row_groups, 0)));
            steps * (2 + u64::from(row_tiles) * u64::from(products + rows + 2) + maxima) + 1
        }
    }
}
