//! Which kernel and tile serve a problem: pure functions of problem and device.

use crate::error::{Error, Result};
use crate::ops::dense::Dense;
use crate::ops::dense::variant::{DecodeTile, PrefillTile};

/// What the choice of a tile depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceClass {
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// Invocations of a workgroup.
    pub invocations: u32,
    /// A processor that emulates a GPU: few workgroups run at once, and every load is dear.
    pub software: bool,
}

impl DeviceClass {
    /// Of a device with these limits and this kind of adapter.
    pub fn of(limits: &wgpu::Limits, device_type: wgpu::DeviceType) -> Self {
        DeviceClass {
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            invocations: limits
                .max_compute_invocations_per_workgroup
                .min(limits.max_compute_workgroup_size_x),
            software: device_type == wgpu::DeviceType::Cpu,
        }
    }

    /// Workgroups that fill the device when each is bound by memory.
    fn resident_workgroups(&self) -> u32 {
        if self.software { 8 } else { 1024 }
    }
}

/// Overrides of what the planner would choose, for measurements and tests. `None` leaves the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// The kernel and its tile.
    pub kernel: Option<KernelChoice>,
    /// Shares of the keys in decode.
    pub splits: Option<u32>,
}

/// A kernel with its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelChoice {
    /// `dense/prefill.wgsl`
    Prefill(PrefillTile),
    /// `dense/decode.wgsl`
    Decode(DecodeTile),
}

/// Queries up to which the decode kernel serves.
const DECODE_QUERIES: u32 = 16;

/// The kernel for a problem on a device.
pub fn choose(problem: &Dense, device: &DeviceClass) -> Result<KernelChoice> {
    if problem.queries <= DECODE_QUERIES {
        return decode_tile(problem, device).map(KernelChoice::Decode);
    }
    prefill_tile(problem, device).map(KernelChoice::Prefill)
}

/// Whether a prefill tile runs on a device.
pub fn prefill_fits(tile: &PrefillTile, value_dim: u32, device: &DeviceClass) -> bool {
    tile.workgroup_bytes(value_dim) <= device.workgroup_memory && tile.threads() <= device.invocations
}

const fn prefill(
    row_groups: u32,
    row_regs: u32,
    lanes: u32,
    key_regs: u32,
    chunk: u32,
    value_chunk: u32,
) -> PrefillTile {
    PrefillTile {
        row_groups,
        row_regs,
        lanes,
        key_regs,
        chunk,
        value_chunk,
    }
}

/// Tiles to try on a GPU, best first. The last fits 16 KiB at any D and any device with 64 invocations.
const GPU_PREFILL: &[PrefillTile] = &[
    prefill(16, 4, 8, 8, 8, 32),
    prefill(16, 4, 8, 8, 8, 16),
    prefill(16, 4, 8, 4, 4, 8),
    prefill(8, 4, 8, 4, 4, 4),
];

/// Tiles to try on a software GPU, best first: large register tiles, since every load is dear.
const SOFTWARE_PREFILL: &[PrefillTile] = &[
    prefill(8, 8, 8, 8, 8, 32),
    prefill(8, 4, 8, 8, 8, 16),
    prefill(8, 4, 8, 4, 4, 4),
];

fn prefill_tile(problem: &Dense, device: &DeviceClass) -> Result<PrefillTile> {
    let candidates = if device.software { SOFTWARE_PREFILL } else { GPU_PREFILL };
    let fitting = candidates.iter().find(|t| prefill_fits(t, problem.value_dim(), device));
    fitting.copied().ok_or_else(|| {
        let smallest = &candidates[candidates.len() - 1];
        no_tile(
            smallest.workgroup_bytes(problem.value_dim()),
            smallest.threads(),
            device,
        )
    })
}

/// Rows of a decode workgroup: as many as there are, up to what registers hold.
fn decode_rows(problem: &Dense) -> u32 {
    let rows = problem.queries.saturating_mul(problem.heads / problem.kv_heads());
    rows.min(8).next_power_of_two()
}

fn decode_tile(problem: &Dense, device: &DeviceClass) -> Result<DecodeTile> {
    let rows = decode_rows(problem);
    let head_vecs = problem.head_dim.div_ceil(4);
    let value_vecs = problem.value_dim().div_ceil(4);
    // Two vectors of every row and lane; a power of two of lanes.
    let per_lane = if device.software { 8 } else { 2 };
    let lanes = head_vecs.div_ceil(per_lane).next_power_of_two();
    // No fewer than `lanes`, so that there are no more groups than keys.
    let value_lanes = value_vecs.div_ceil(2).next_power_of_two().max(rows).max(lanes);
    let most = if device.software { 64 } else { 128 };
    let threads = most.min(device.invocations).max(lanes).max(value_lanes);
    let tile = |threads: u32, key_regs: u32| DecodeTile {
        rows,
        lanes,
        slots: threads / lanes,
        key_regs,
        value_lanes,
    };
    let sizes = [(threads, 4), (threads, 2), (threads, 1), (threads / 2, 1)];
    let fitting = sizes.into_iter().map(|(t, k)| tile(t, k)).find(|t| {
        t.slots > 0
            && t.threads() <= device.invocations
            && t.threads() % value_lanes == 0
            && t.keys() % (t.threads() / value_lanes) == 0
            && t.workgroup_bytes() <= device.workgroup_memory
    });
    fitting.ok_or_else(|| no_tile(tile(threads, 1).workgroup_bytes(), threads, device))
}

/// The limit that keeps even the smallest tile out.
fn no_tile(bytes: u32, threads: u32, device: &DeviceClass) -> Error {
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
    let wanted = u64::from(device.resident_workgroups()).div_ceil(workgroups);
    let tiles = problem.keys.div_ceil(tile.keys());
    let most = tiles.div_ceil(2).min(256);
    wanted.clamp(1, most.into()) as u32
}
