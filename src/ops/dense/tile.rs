//! Which kernel and tile serve a problem: pure functions of problem and device.
//!
//! ```
//! use wgpu_attention::Dense;
//! use wgpu_attention::dense::tile::{DeviceClass, KernelChoice, choose};
//! use wgpu_attention::wgpu::{DeviceType, Limits};
//!
//! let device = DeviceClass::of(&Limits::default(), DeviceType::IntegratedGpu);
//! let prompt = Dense { queries: 500, keys: 500, ..Default::default() };
//! assert!(matches!(choose(&prompt, &device)?, KernelChoice::Prefill(_)));
//! let next_token = Dense { queries: 1, keys: 500, ..Default::default() };
//! assert!(matches!(choose(&next_token, &device)?, KernelChoice::Decode(_)));
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::dense::cooperative::{self, CooperativeTile};
use crate::ops::dense::cooperative_decode::{self, CooperativeDecodeTile};
use crate::ops::dense::portable::{DecodeTile, PrefillTile};
use crate::ops::dense::serial::SerialTile;
use crate::ops::dense::serial::{self, SerialPrefillTile};
use crate::ops::dense::subgroup::{self, Subgroup};
use crate::ops::dense::variant::unroll as unrolled;
use crate::ops::dense::{Dense, check};
use crate::tier::{Abilities, Tier};

/// What the choice of a tile depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceClass {
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// Invocations of a workgroup.
    pub invocations: u32,
    /// A processor that emulates a GPU: few workgroups run at once, and every load is dear.
    pub software: bool,
    /// Processors that workgroups run on, where that is known: on a software GPU. Otherwise 0.
    pub processors: u32,
    /// What it has beyond the portable tier.
    pub abilities: Abilities,
    /// The tier that must be used.
    pub tier: Option<Tier>,
    /// Matrices can be loaded from arrays of scalars only, as in Metal's language.
    pub scalar_matrices: bool,
}

impl DeviceClass {
    /// Of a device.
    pub fn of_gpu(gpu: &Gpu) -> Self {
        DeviceClass {
            abilities: gpu.abilities(),
            tier: gpu.forced_tier(),
            scalar_matrices: gpu.info().backend == wgpu::Backend::Metal,
            ..DeviceClass::of(gpu.limits(), gpu.info().device_type)
        }
    }

    /// Of a device with these limits and this kind of adapter, without optional features.
    pub fn of(limits: &wgpu::Limits, device_type: wgpu::DeviceType) -> Self {
        DeviceClass {
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            invocations: limits
                .max_compute_invocations_per_workgroup
                .min(limits.max_compute_workgroup_size_x),
            software: device_type == wgpu::DeviceType::Cpu,
            processors: match device_type {
                wgpu::DeviceType::Cpu => std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
                _ => 0,
            },
            abilities: Abilities::NONE,
            tier: None,
            scalar_matrices: false,
        }
    }

    /// Whether kernels of a tier may be used, as far as the device goes.
    pub fn allows(&self, tier: Tier) -> bool {
        self.abilities.serve(tier) && self.tier.is_none_or(|most| tier <= most)
    }

    /// Whether kernels of this tier must be used.
    pub(crate) fn forces(&self, tier: Tier) -> bool {
        self.tier == Some(tier)
    }

    /// Whether f16 tensors are read as the device's own f16. A software GPU has to convert element by element either way,
    /// which takes llvmpipe a twentieth longer than whole words.
    pub(crate) fn reads_half(&self) -> bool {
        self.abilities.half && self.allows(Tier::Subgroup) && (!self.software || self.forces(Tier::Subgroup))
    }

    /// Iterations that all loops of one invocation may take together. llvmpipe leaves a shader after 65 535 of them, without
    /// a word and with wrong results.
    pub(crate) fn loop_iterations(&self) -> u64 {
        if self.software { 60_000 } else { u64::MAX }
    }

    /// Refuses what would take more.
    pub(crate) fn check_loops(&self, what: &str, iterations: u64) -> Result<()> {
        if iterations <= self.loop_iterations() {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: what.into(),
            why: format!(
                "it takes {iterations} iterations of loops in one workgroup, and software GPUs leave a shader after {}",
                self.loop_iterations()
            ),
        })
    }

    /// Workgroups that fill the device when each is bound by memory.
    fn resident_workgroups(&self) -> u32 {
        if self.software { 8 } else { 512 }
    }
}

/// Overrides of what the planner would choose, for measurements and tests. `None` leaves the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// The kernel and its tile.
    pub kernel: Option<KernelChoice>,
    /// Shares of the keys in decode.
    pub splits: Option<u32>,
    /// Whether to look first for the key tiles that a boolean mask, a bias or a custom mask empties.
    pub live: Option<bool>,
}

/// A kernel with its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub enum KernelChoice {
    /// `dense/prefill.wgsl`
    Prefill(PrefillTile),
    /// `dense/prefill_cooperative.wgsl`
    Cooperative(CooperativeTile),
    /// `dense/decode_cooperative.wgsl`
    CooperativeDecode(CooperativeDecodeTile),
    /// `dense/decode.wgsl`
    Decode(DecodeTile),
    /// `dense/decode_serial.wgsl`
    DecodeSerial(SerialTile),
    /// `dense/prefill_serial.wgsl`
    PrefillSerial(SerialPrefillTile),
    /// `dense/prefill.wgsl`, its statistics in subgroups
    SubgroupPrefill(Subgroup<PrefillTile>),
    /// `dense/decode_subgroup.wgsl`
    SubgroupDecode(Subgroup<DecodeTile>),
}

/// Keys of an entry of a list of live tiles for `dense/decode_serial.wgsl`, whose own tiles are single keys.
const SERIAL_KEYS: u32 = 16;

/// What a workgroup of a kernel takes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Query rows.
    pub rows: u32,
    /// Keys of a tile, as lists of live tiles have them.
    pub keys: u32,
    /// Whether the rows are those of a KV head, its query heads taking turns, rather than queries of one head: so it is
    /// with all kernels for few queries, which can share keys out among workgroups.
    pub interleaved: bool,
    /// Invocations.
    pub threads: u32,
    /// Workgroups that are dispatched as one, each with a share of the keys of its own.
    pub shares: u32,
}

impl KernelChoice {
    /// What a workgroup takes at a time.
    pub fn extent(&self) -> Extent {
        let (rows, keys, interleaved, threads) = match self {
            KernelChoice::Prefill(t) | KernelChoice::SubgroupPrefill(Subgroup { tile: t, .. }) => {
                (t.rows(), t.keys(), false, t.threads())
            }
            KernelChoice::Cooperative(t) => (t.rows(), t.keys, false, t.threads),
            KernelChoice::PrefillSerial(t) => (t.rows(), t.live_keys(), false, t.threads),
            KernelChoice::CooperativeDecode(t) => (t.rows, t.keys(), true, t.threads),
            KernelChoice::Decode(t) | KernelChoice::SubgroupDecode(Subgroup { tile: t, .. }) => {
                (t.rows, t.keys(), true, t.threads())
            }
            KernelChoice::DecodeSerial(t) => (t.rows, SERIAL_KEYS, true, t.threads),
        };
        Extent {
            rows,
            keys,
            interleaved,
            threads,
            shares: match self {
                KernelChoice::DecodeSerial(t) => t.threads,
                _ => 1,
            },
        }
    }
}

/// Queries up to which the decode kernel serves.
const DECODE_QUERIES: u32 = 16;

/// The kernel for a problem on a device. With lists of keys that too few queries share for a tile, every row is a decode
/// step.
///
/// # Errors
/// [`Error::Invalid`] if the problem is, [`Error::Limit`] where even the smallest tile does not fit.
pub fn choose(problem: &Dense, device: &DeviceClass) -> Result<KernelChoice> {
    check::check(problem)?;
    if let Some(tile) = cooperative_tile(problem, device) {
        return Ok(KernelChoice::Cooperative(tile));
    }
    let few = problem.queries <= DECODE_QUERIES || candidates(problem, device).is_empty();
    if few && let Some(tile) = cooperative_decode::choose(problem, device) {
        return Ok(KernelChoice::CooperativeDecode(tile));
    }
    if !few {
        if let Some(tile) = serial::prefill(problem, device) {
            return Ok(KernelChoice::PrefillSerial(tile));
        }
        let tile = prefill_tile(problem, device)?;
        let subgroup = subgroup::prefill(problem, tile, device).map(KernelChoice::SubgroupPrefill);
        return Ok(subgroup.unwrap_or(KernelChoice::Prefill(tile)));
    }
    if device.software && !device.forces(Tier::Subgroup) {
        return Ok(KernelChoice::DecodeSerial(serial_tile(problem)));
    }
    match subgroup::decode(problem, device) {
        Some(tile) => Ok(KernelChoice::SubgroupDecode(tile)),
        None => decode_tile(problem, device).map(KernelChoice::Decode),
    }
}

/// Kernels and tiles worth trying on a device beside the planner's choice, for measurements: every tile in its lists that
/// fits, in each tier that the device has, and for few queries the planner's with other numbers of invocations and keys. None
/// for an invalid problem.
pub fn alternatives(problem: &Dense, device: &DeviceClass) -> Vec<KernelChoice> {
    let mut all = vec![];
    if check::check(problem).is_err() {
        return all;
    }
    if problem.queries > DECODE_QUERIES {
        if device.allows(Tier::Cooperative) {
            all.extend(
                cooperative::candidates(problem, device)
                    .into_iter()
                    .map(KernelChoice::Cooperative),
            );
        }
        all.extend(serial::prefill(problem, device).map(KernelChoice::PrefillSerial));
        for tile in candidates(problem, device) {
            if prefill_fits(&tile, problem.value_dim(), device) {
                all.push(KernelChoice::Prefill(tile));
                all.extend(Subgroup::of(tile, device).map(KernelChoice::SubgroupPrefill));
            }
        }
    } else {
        all.extend(decode_alternatives(problem, device));
    }
    all.retain(|choice| rows_share_a_list(problem, choice));
    all
}

fn decode_alternatives(problem: &Dense, device: &DeviceClass) -> Vec<KernelChoice> {
    let Ok(planned) = decode_tile(problem, device) else {
        return vec![];
    };
    let mut all = vec![];
    if device.allows(Tier::Cooperative) {
        let tiles = cooperative_decode::candidates(problem, device).into_iter();
        all.extend(tiles.map(KernelChoice::CooperativeDecode));
    }
    for (threads, key_regs) in [32, 64, 128, 256].into_iter().flat_map(|t| [1, 2, 4].map(|k| (t, k))) {
        let tile = DecodeTile {
            slots: threads / planned.lanes,
            key_regs,
            ..planned
        };
        let fits = tile.slots > 0
            && tile.threads() <= device.invocations
            && tile.workgroup_bytes() <= device.workgroup_memory
            && tile.is_sound();
        if fits {
            all.push(KernelChoice::Decode(tile));
        }
    }
    let subgroups = device.abilities.subgroups.is_some() && device.allows(Tier::Subgroup);
    all.extend(
        subgroups
            .then(|| subgroup::tile(problem, device))
            .flatten()
            .map(KernelChoice::SubgroupDecode),
    );
    if device.software {
        all.push(KernelChoice::DecodeSerial(serial_tile(problem)));
    }
    all
}

/// The tile on cooperative matrices, where those may be used, serve the problem, and are wanted or faster: on a software
/// GPU they are emulated.
fn cooperative_tile(problem: &Dense, device: &DeviceClass) -> Option<CooperativeTile> {
    let wanted = device.tier == Some(Tier::Cooperative) || !device.software;
    if !wanted || !device.allows(Tier::Cooperative) || !cooperative::serves(problem, device) {
        return None;
    }
    let tiles = cooperative::candidates(problem, device).into_iter();
    let tiles: Vec<_> = tiles
        .filter(|t| rows_share_a_list(problem, &KernelChoice::Cooperative(*t)))
        .collect();
    let heads = u64::from(problem.batch) * u64::from(problem.heads);
    let workgroups = |t: &CooperativeTile| heads * u64::from(problem.queries.div_ceil(t.rows()));
    let enough = u64::from(device.resident_workgroups() / 2);
    let chosen = tiles.iter().find(|t| workgroups(t) >= enough);
    chosen.or_else(|| tiles.iter().min_by_key(|t| t.rows())).copied()
}

/// Consecutive rows that share a list, `u32::MAX` if all of a head do: queries of a head, or with `interleaved` a query's
/// heads of a KV head, then the next query's.
pub(crate) fn rows_of_a_list(problem: &Dense, interleaved: bool) -> u32 {
    let Some(selection) = problem.selection else {
        return u32::MAX;
    };
    let group = problem.heads / problem.kv_heads();
    match (interleaved && group > 1, selection.per_kv_head) {
        (true, false) => 1,
        _ if selection.query_block >= problem.queries => u32::MAX,
        (true, true) => selection.query_block.saturating_mul(group),
        (false, _) => selection.query_block,
    }
}

/// Whether the rows that a kernel takes together always share a list.
pub(crate) fn rows_share_a_list(problem: &Dense, choice: &KernelChoice) -> bool {
    let Extent { rows, interleaved, .. } = choice.extent();
    let shared = rows_of_a_list(problem, interleaved);
    shared == u32::MAX || shared.is_multiple_of(rows)
}

/// Keys that all queries together visit at most, or each of them where they have lists.
pub(crate) fn keys_visited(problem: &Dense) -> u32 {
    keys_of_queries(problem, problem.queries)
}

/// Keys that so many neighbouring queries visit at most, or each of them where they have lists.
fn keys_of_queries(problem: &Dense, queries: u32) -> u32 {
    if let Some(s) = problem.selection {
        return s.capacity.saturating_mul(s.block_size.min(problem.keys));
    }
    let right = match (problem.causal, problem.window_right) {
        (true, _) => Some(0),
        (false, right) => right,
    };
    // Queries of several documents visit all that those span.
    let (Some(left), Some(right), None) = (problem.window_left, right, problem.documents) else {
        return problem.keys;
    };
    let always = problem.sink_tokens.max(problem.prefix);
    let all = [left, right, always, queries].into_iter().fold(0, u32::saturating_add);
    all.min(problem.keys)
}

/// Whether a prefill tile runs on a device.
pub fn prefill_fits(tile: &PrefillTile, value_dim: u32, device: &DeviceClass) -> bool {
    tile.workgroup_bytes(value_dim) <= device.workgroup_memory && tile.threads() <= device.invocations
}

/// Row groups × lanes, registers of an invocation (rows × keys), keys whose values are staged at once, prefetch, steps
/// written out. The chunk of the head dimension follows from D.
struct Candidate(u32, u32, u32, u32, u32, bool, u32);

/// Tiles to try on a GPU, best first, by measurements on an NVIDIA H200 (`benches/tune_dense.rs`): many invocations a
/// workgroup for occupancy, prefetched chunks, inner loops written out. Each is the best one below the workgroup memory
/// of the one before; the last fits 16 KiB at any D and any device with 64 invocations.
const GPU_WIDE: &[Candidate] = &[
    Candidate(16, 16, 4, 8, 16, true, 4),
    Candidate(16, 16, 4, 4, 32, true, 8),
    Candidate(16, 16, 4, 4, 16, true, 8),
    Candidate(16, 8, 4, 4, 16, true, 8),
    Candidate(8, 8, 4, 4, 16, false, 4),
    Candidate(8, 8, 4, 4, 4, false, 1),
];

/// The same for Dv up to 64.
const GPU_NARROW: &[Candidate] = &[
    Candidate(32, 8, 4, 8, 16, true, 4),
    Candidate(16, 16, 4, 4, 32, true, 8),
    Candidate(16, 16, 4, 4, 16, true, 8),
    Candidate(16, 8, 4, 4, 16, true, 8),
    Candidate(8, 8, 4, 4, 16, false, 4),
    Candidate(8, 8, 4, 4, 4, false, 1),
];

/// Tiles to try on a software GPU, best first: large register tiles, since every load is dear.
const SOFTWARE: &[Candidate] = &[
    Candidate(8, 8, 8, 8, 32, false, 1),
    Candidate(8, 8, 4, 8, 16, false, 1),
    Candidate(8, 8, 4, 4, 4, false, 1),
];

/// Vectors of the head dimension staged at once: at most 8, in chunks of equal length.
fn chunk(head_dim: u32) -> u32 {
    let vecs = head_dim.div_ceil(4);
    vecs.div_ceil(vecs.div_ceil(8))
}

/// Tiles of fewer rows, for lists that few queries share, best first.
const GPU_LISTED: &[Candidate] = &[
    Candidate(8, 16, 4, 4, 32, true, 8),
    Candidate(4, 16, 4, 4, 16, true, 8),
    Candidate(4, 8, 4, 4, 4, false, 1),
];

/// The same for a software GPU.
const SOFTWARE_LISTED: &[Candidate] = &[Candidate(8, 8, 2, 8, 16, false, 1), Candidate(8, 8, 2, 4, 4, false, 1)];

/// Tiles that serve a problem, best first, whether or not they fit the device; none where lists of keys belong to too few
/// queries.
fn candidates(problem: &Dense, device: &DeviceClass) -> Vec<PrefillTile> {
    let all = match (device.software, problem.value_dim() <= 64) {
        (true, _) => SOFTWARE,
        (false, true) => GPU_NARROW,
        (false, false) => GPU_WIDE,
    };
    let few_rows = match (problem.selection, device.software) {
        (None, _) => &[],
        (Some(_), true) => SOFTWARE_LISTED,
        (Some(_), false) => GPU_LISTED,
    };
    let tiles = all.iter().chain(few_rows).map(|c| PrefillTile {
        row_groups: c.0,
        lanes: c.1,
        row_regs: c.2,
        key_regs: c.3,
        chunk: chunk(problem.head_dim),
        value_chunk: c.4,
        prefetch: c.5,
        unroll: c.6,
        // A software GPU gives each of its threads a run of neighbouring workgroups.
        alternate: device.software,
    });
    tiles
        .filter(|t| rows_share_a_list(problem, &KernelChoice::Prefill(*t)))
        .collect()
}

fn prefill_tile(problem: &Dense, device: &DeviceClass) -> Result<PrefillTile> {
    let tiles = candidates(problem, device);
    // A verdict on the list takes 16 bytes.
    let device = &DeviceClass {
        workgroup_memory: device
            .workgroup_memory
            .saturating_sub(if problem.selection.is_some() { 16 } else { 0 }),
        ..*device
    };
    let fitting = tiles
        .iter()
        .copied()
        .filter(|t| prefill_fits(t, problem.value_dim(), device));
    // The first that gives the device enough workgroups; where none does, the one that gives most.
    let heads = u64::from(problem.batch) * u64::from(problem.heads);
    let workgroups = |t: &PrefillTile| heads * u64::from(problem.queries.div_ceil(t.rows()));
    let enough = u64::from(device.resident_workgroups() / 2);
    let chosen = fitting.clone().find(|t| workgroups(t) >= enough);
    let chosen = chosen.or_else(|| fitting.min_by_key(|t| (t.rows(), std::cmp::Reverse(t.keys()))));
    chosen.ok_or_else(|| {
        let smallest = tiles
            .iter()
            .min_by_key(|t| t.workgroup_bytes(problem.value_dim()))
            .map(|t| (t.workgroup_bytes(problem.value_dim()), t.threads()));
        let (bytes, threads) = smallest.unwrap_or_default();
        no_tile(bytes, threads, device)
    })
}

/// Rows of a decode workgroup: as many as there are, up to what registers hold.
pub(crate) fn decode_rows(problem: &Dense) -> u32 {
    let rows = problem.queries.saturating_mul(problem.heads / problem.kv_heads());
    let rows = rows.min(8).next_power_of_two();
    match rows_of_a_list(problem, true) {
        u32::MAX => rows,
        shared => rows.min(1 << shared.trailing_zeros()),
    }
}

/// Keys from which decode with many rows takes longer tiles.
const LONG_CACHE: u32 = 1 << 16;

/// By measurements on an NVIDIA H200 (`benches/tune_dense.rs`): what rows leave of the registers goes to longer shares
/// of a key, and small workgroups keep more loads under way than large ones once a workgroup has many rows.
fn decode_tile(problem: &Dense, device: &DeviceClass) -> Result<DecodeTile> {
    let rows = decode_rows(problem);
    let head_vecs = problem.head_dim.div_ceil(4);
    let value_vecs = problem.value_dim().div_ceil(4);
    let (head_regs, value_regs) = match rows {
        1 | 2 => ((head_vecs / 4).clamp(1, 8), (value_vecs / 8).clamp(1, 4)),
        4 => (4, 4),
        _ => (2, 2),
    };
    let lanes = head_vecs.div_ceil(head_regs).next_power_of_two();
    // No fewer than `lanes`, so that there are no more groups than keys.
    let value_lanes = value_vecs.div_ceil(value_regs).next_power_of_two().max(rows).max(lanes);
    let threads = 64.min(device.invocations).max(lanes).max(value_lanes);
    let tile = |threads: u32, key_regs: u32| DecodeTile {
        rows,
        lanes,
        slots: threads / lanes,
        key_regs,
        value_lanes,
        prefetch: true,
    };
    // Where every workgroup has many tiles to go through, longer ones with fewer barriers win.
    let most_regs = if rows >= 8 && keys_visited(problem) >= LONG_CACHE {
        4
    } else {
        2
    };
    let sizes = [(threads, most_regs), (threads, 2), (threads, 1), (threads / 2, 1)];
    let fitting = sizes.into_iter().map(|(t, k)| tile(t, k)).find(|t| {
        t.slots > 0
            && t.threads() <= device.invocations
            && t.threads() % value_lanes == 0
            && t.keys() % (t.threads() / value_lanes) == 0
            && t.workgroup_bytes() <= device.workgroup_memory
    });
    fitting.ok_or_else(|| no_tile(tile(threads, 1).workgroup_bytes(), threads, device))
}

/// Invocations of a workgroup of the serial kernel: as many as a software GPU runs as one vector.
const SERIAL_THREADS: u32 = 8;

/// As many rows as there are, up to 8 and to what keeps the code, which is written out over rows and dimensions, short.
fn serial_tile(problem: &Dense) -> SerialTile {
    let vecs = problem.head_dim.div_ceil(4) + problem.value_dim().div_ceil(4);
    let most = if vecs > 64 { 4 } else { 8 };
    SerialTile {
        rows: decode_rows(problem).min(most),
        threads: SERIAL_THREADS,
    }
}

/// Shares of the keys for the serial kernel: enough to fill the device, with at least 16 keys each.
pub fn serial_splits(problem: &Dense, tile: &SerialTile, device: &DeviceClass) -> u32 {
    let rows = problem.queries.saturating_mul(problem.heads / problem.kv_heads());
    let row_tiles = u64::from(rows.div_ceil(tile.rows)) * u64::from(problem.kv_heads()) * u64::from(problem.batch);
    let wanted = u64::from(device.resident_workgroups() * tile.threads).div_ceil(row_tiles) as u32;
    let keys = keys_visited(problem);
    // A share's keys are one loop.
    let walked = keys_walked(problem, &KernelChoice::DecodeSerial(*tile));
    let (each, spare) = (1 + row_searches(problem, tile.rows), 1 + row_searches(problem, 2));
    let least = (u64::from(walked) * each).div_ceil(device.loop_iterations() - spare - each) as u32;
    wanted.min(keys.div_ceil(16)).max(least).max(1)
}

/// Keys of the tiles that a workgroup walks at most, with all its shares.
fn keys_walked(problem: &Dense, choice: &KernelChoice) -> u32 {
    let Extent {
        rows,
        keys,
        interleaved,
        ..
    } = choice.extent();
    let visited = keys_of_queries(problem, if interleaved { problem.queries } else { rows });
    match problem.selection {
        Some(_) => visited,
        // The window begins and ends inside a tile, and sinks or the prefix end inside one.
        None => visited.saturating_add(3 * keys).min(problem.keys),
    }
}

/// Iterations of all loops of an invocation, at most, for a problem whose keys are cut into `splits`.
pub(crate) fn loop_iterations(problem: &Dense, choice: &KernelChoice, splits: u32) -> u64 {
    let keys = u64::from(keys_walked(problem, choice).div_ceil(splits));
    let quads = problem.head_dim.div_ceil(4);
    match choice {
        KernelChoice::Prefill(t) | KernelChoice::SubgroupPrefill(Subgroup { tile: t, .. }) => {
            let scores = looped(
                quads.div_ceil(t.chunk),
                looped(t.chunk / unrolled(t.chunk, t.unroll), 0),
            );
            let steps = t.value_chunk / 4;
            let values = looped(t.keys() / t.value_chunk, looped(steps / unrolled(steps, t.unroll), 0));
            let maxima = match choice {
                KernelChoice::SubgroupPrefill(_) => 0,
                _ => looped(t.rows().div_ceil(t.threads()), looped(t.lanes, 0)),
            };
            keys.div_ceil(t.keys().into()) * u64::from(1 + scores + values + maxima) + 1
        }
        KernelChoice::Cooperative(t) => {
            let masked = looped(t.keys / 4 / t.row_lanes, 0) + 2 * looped(t.row_lanes.ilog2(), 0);
            let rows = (t.rows() * t.row_lanes).div_ceil(t.threads) * masked;
            // A rescale of all rows, a block of columns at a time.
            let blocks = problem.value_dim().div_ceil(t.edge);
            let rescale = blocks * (looped((t.rows() * t.edge / 4).div_ceil(t.threads), 0) + 4);
            let products = if t.written_out {
                0
            } else {
                t.product_iterations(problem.head_dim, problem.value_dim())
            };
            // Rows are looked for anew at every block, where elements have them.
            let classes = t.elements.map_or(0, |e| t.row_blocks * e.classes);
            let searches = row_searches(problem, classes);
            // Of keys and of values, where factors are two slices.
            let tops = if t.slices == 2 {
                2 * top_iterations(t.lanes())
            } else {
                0
            };
            keys.div_ceil(t.keys.into()) * (searches + u64::from(1 + 4 + rows + rescale + products + tops)) + 1000
        }
        // A tile's own loops are written out but for those over a workgroup's few groups.
        KernelChoice::Decode(t) => {
            let groups = t.threads() / t.value_lanes;
            let sums = looped((t.keys() * t.rows).div_ceil(t.threads()), looped(t.lanes, 0));
            keys.div_ceil(t.keys().into()) * u64::from(1 + sums + looped(groups, 0) + looped(t.keys(), 0)) + 1
        }
        KernelChoice::CooperativeDecode(t) => t.loop_iterations(problem, keys),
        // Rows are looked for anew at every key.
        KernelChoice::DecodeSerial(t) => keys * (1 + row_searches(problem, t.rows)) + 1 + row_searches(problem, 2),
        KernelChoice::PrefillSerial(t) => keys.div_ceil(t.keys.into()) + 1 + row_searches(problem, t.row_regs + 2),
        KernelChoice::SubgroupDecode(s) => {
            keys.div_ceil(s.tile.keys().into()) + 1 + u64::from(s.closing_iterations(problem.value_dim()))
        }
    }
}

/// Iterations of looking for the documents of so many rows, which goes by halving.
pub(crate) fn row_searches(problem: &Dense, rows: u32) -> u64 {
    let halvings = problem.documents.map_or(0, |documents| (documents + 1).ilog2() + 4);
    u64::from(halvings) * u64::from(rows)
}

/// Iterations of a loop of `n` whose body takes `inner` more; finding its end counts as one.
pub(crate) fn looped(n: u32, inner: u32) -> u32 {
    n * (1 + inner) + 1
}

/// Iterations of telling a subgroup of so many the largest of what it has (`shared/subgroup_top.wgsl`).
pub(crate) fn top_iterations(lanes: u32) -> u32 {
    looped(lanes.max(1).ilog2(), 0)
}

/// The limit that keeps even the smallest tile out.
pub(crate) fn no_tile(bytes: u32, threads: u32, device: &DeviceClass) -> Error {
    let (needed, limit, available) = if bytes > device.workgroup_memory {
        (bytes, "max_compute_workgroup_storage_size", device.workgroup_memory)
    } else {
        (threads, "max_compute_invocations_per_workgroup", device.invocations)
    };
    Error::Limit {
        what: "the smallest tile".into(),
        needed: needed.into(),
        limit,
        available: available.into(),
    }
}

/// Shares of the keys for decode: enough workgroups to fill the device, each with at least a few tiles.
pub fn splits(problem: &Dense, tile: &DecodeTile, device: &DeviceClass) -> u32 {
    let rows = problem.queries.saturating_mul(problem.heads / problem.kv_heads());
    let workgroups = u64::from(rows.div_ceil(tile.rows)) * u64::from(problem.kv_heads()) * u64::from(problem.batch);
    // Shorter rows keep fewer bytes under way in a workgroup, so more of them are needed.
    let short_rows = tile.rows <= 2 && problem.head_dim <= 64;
    let resident = device.resident_workgroups() * if short_rows { 2 } else { 1 };
    let wanted = u64::from(resident).div_ceil(workgroups);
    let tiles = keys_visited(problem).div_ceil(tile.keys());
    let most = tiles.div_ceil(2).min(256);
    wanted.clamp(1, most.into()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOFTWARE_GPU: DeviceClass = DeviceClass {
        workgroup_memory: 32 << 10,
        invocations: 1024,
        software: true,
        processors: 2,
        abilities: Abilities::NONE,
        tier: None,
        scalar_matrices: false,
    };

    #[test]
    fn decode_over_any_cache_keeps_a_software_gpus_loops_short() {
        for (keys, kv_heads) in [(1 << 16, 64), (1 << 20, 64), (1 << 28, 1)] {
            let p = Dense {
                heads: kv_heads,
                keys,
                ..Dense::default()
            };
            let KernelChoice::DecodeSerial(tile) = choose(&p, &SOFTWARE_GPU).unwrap() else {
                panic!("not the serial kernel")
            };
            let splits = serial_splits(&p, &tile, &SOFTWARE_GPU);
            let iterations = loop_iterations(&p, &KernelChoice::DecodeSerial(tile), splits);
            assert!(
                iterations <= SOFTWARE_GPU.loop_iterations(),
                "{keys} keys, {splits} splits"
            );
        }
    }

    #[test]
    fn a_window_bounds_the_keys_that_are_visited() {
        let all = Dense {
            keys: 131_072,
            causal: true,
            ..Dense::default()
        };
        assert_eq!(keys_visited(&all), 131_072);
        let window = Dense {
            window_left: Some(255),
            ..all.clone()
        };
        assert_eq!(keys_visited(&window), 256);
        let sinks = Dense {
            sink_tokens: 4,
            queries: 3,
            ..window.clone()
        };
        assert_eq!(keys_visited(&sinks), 262);
        let ahead = |right| Dense {
            causal: false,
            window_right: right,
            ..window.clone()
        };
        assert_eq!(keys_visited(&ahead(Some(10))), 266);
        assert_eq!(keys_visited(&ahead(None)), 131_072);
        let documents = Dense {
            documents: Some(2),
            ..window.clone()
        };
        assert_eq!(keys_visited(&documents), 131_072);
        // Of what is visited, a workgroup gets two tiles at least.
        let gpu = DeviceClass {
            software: false,
            ..SOFTWARE_GPU
        };
        let KernelChoice::Decode(tile) = choose(&window, &gpu).unwrap() else {
            panic!("not the decode kernel")
        };
        assert!(splits(&window, &tile, &gpu) <= 256u32.div_ceil(tile.keys()).div_ceil(2));
        // A long prompt with a short window is short work for a row.
        let prompt = Dense {
            queries: 1 << 20,
            keys: 1 << 20,
            ..window
        };
        let iterations = loop_iterations(&prompt, &choose(&prompt, &SOFTWARE_GPU).unwrap(), 1);
        assert!(SOFTWARE_GPU.check_loops("attention", iterations).is_ok());
    }

    #[test]
    fn prefill_whose_loops_a_software_gpu_would_leave_is_refused() {
        let iterations = |keys: u32| {
            let p = Dense {
                queries: 64,
                keys,
                ..Dense::default()
            };
            loop_iterations(&p, &choose(&p, &SOFTWARE_GPU).unwrap(), 1)
        };
        assert!(SOFTWARE_GPU.check_loops("attention", iterations(1 << 15)).is_ok());
        let error = SOFTWARE_GPU.check_loops("attention", iterations(1 << 20)).unwrap_err();
        assert!(error.to_string().contains("iterations"), "{error}");
        let gpu = DeviceClass {
            software: false,
            ..SOFTWARE_GPU
        };
        assert!(gpu.check_loops("attention", iterations(1 << 20)).is_ok());
    }
}
