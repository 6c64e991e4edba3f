//! Which tile serves a selection: a pure function of row length, number of rows and device.
//!
//! ```
//! use wgpu_attention::dense::tile::DeviceClass;
//! use wgpu_attention::topk::select::tile::choose;
//! use wgpu_attention::wgpu::{DeviceType, Limits};
//!
//! let device = DeviceClass::of(&Limits::default(), DeviceType::IntegratedGpu);
//! assert!(choose(128, 4096, &device)?.threads < choose(65536, 8, &device)?.threads);
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

use crate::error::{Result, check_limit};
use crate::ops::dense::check::invalid;
use crate::ops::dense::tile::{DeviceClass, no_tile};
use crate::ops::topk::select::Select;
use crate::ops::topk::select::variant::SelectTile;

/// Overrides of what the planner would choose, for measurements and tests. `None` leaves the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SelectTuning {
    /// The tile.
    pub tile: Option<SelectTile>,
}

/// Invocations, bits of a digit, copies of a bin, quads of a mask write, loads under way.
const fn tile(threads: u32, radix_bits: u32, replicas: u32, mask_quads: u32, unroll: u32) -> SelectTile {
    SelectTile {
        threads,
        radix_bits,
        replicas,
        mask_quads,
        unroll,
    }
}

/// Tiles to try on a software GPU, best first: few invocations, whose barriers and scans are cheap, unless the row is so
/// long that their loops would be.
const SOFTWARE: &[SelectTile] = &[tile(8, 11, 1, 8, 1), tile(64, 11, 1, 8, 1), tile(256, 11, 1, 8, 1)];

/// The same for rows in which clearing and reading the bins would take longest.
const SOFTWARE_SHORT: &[SelectTile] = &[tile(8, 8, 1, 8, 1)];

/// Tiles to try on a GPU, best first. The last fits any device with 64 invocations.
const GPU: &[SelectTile] = &[tile(256, 11, 1, 1, 4), tile(64, 11, 1, 1, 4)];

/// The same for short rows.
const GPU_SHORT: &[SelectTile] = &[tile(64, 8, 2, 1, 4)];

/// Columns up to which a row is short.
const SHORT: u32 = 4096;

/// The tile for so many rows of so many columns.
///
/// # Errors
/// [`crate::Error::Limit`] where even the smallest does not fit.
pub fn choose(columns: u32, rows: u32, device: &DeviceClass) -> Result<SelectTile> {
    let _ = rows;
    let candidates = match (device.software, columns <= SHORT) {
        (true, true) => SOFTWARE_SHORT,
        (true, false) => SOFTWARE,
        (false, true) => GPU_SHORT,
        (false, false) => GPU,
    };
    let fits = |t: &&SelectTile| t.workgroup_bytes() <= device.workgroup_memory && t.threads <= device.invocations;
    let fitting = || candidates.iter().filter(fits);
    let ends = |t: &&SelectTile| t.loop_iterations(columns, columns) <= device.loop_iterations();
    let chosen = fitting().find(ends).or_else(|| fitting().max_by_key(|t| t.threads));
    chosen.copied().ok_or_else(|| {
        let smallest = candidates[candidates.len() - 1];
        no_tile(smallest.workgroup_bytes(), smallest.threads, device)
    })
}

/// Refuses a tile that the kernel is not made for, or the device.
pub(crate) fn check(t: &SelectTile, device: &DeviceClass) -> Result<()> {
    let sensible = t.threads.is_power_of_two()
        && (4..=12).contains(&t.radix_bits)
        && t.replicas.is_power_of_two()
        && t.replicas <= 32
        && [1, 2, 4, 8].contains(&t.mask_quads)
        && (1..=16).contains(&t.unroll);
    if !sensible {
        let allowed =
            "powers of two but for radix_bits (4 to 12) and unroll (1 to 16); at most 32 replicas, 8 mask_quads";
        return Err(invalid("tile", format!("{t:?}"), allowed));
    }
    check_limit(
        "the tile of a selection",
        t.workgroup_bytes(),
        "max_compute_workgroup_storage_size",
        device.workgroup_memory,
    )?;
    check_limit(
        "the tile of a selection",
        t.threads,
        "max_compute_invocations_per_workgroup",
        device.invocations,
    )
}

/// Refuses rows whose loops are too long for the device.
pub(crate) fn check_loops(s: &Select, t: &SelectTile, device: &DeviceClass) -> Result<()> {
    device.check_loops(
        "a selection from rows of this length",
        t.loop_iterations(s.columns, s.capacity()),
    )
}
