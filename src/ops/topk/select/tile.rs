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
use crate::tier::Tier;

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

/// Rows of up to so many columns, and the tiles to try for them, best first.
type Candidates = &'static [(u32, &'static [SelectTile])];

/// On a software GPU, by measurements on llvmpipe (`benches/tune_select.rs`): eight invocations, which are one vector there
/// and pass barriers and scans cheaply, unless the row is so long that their loops would be; few bins for short rows, in
/// which clearing and adding bins would take longest.
const SOFTWARE: Candidates = &[
    (512, &[tile(8, 6, 1, 8, 1)]),
    (8192, &[tile(8, 8, 1, 8, 1)]),
    (
        u32::MAX,
        &[tile(8, 11, 1, 2, 2), tile(64, 11, 1, 2, 2), tile(256, 11, 1, 2, 2)],
    ),
];

/// On a GPU: invocations that have about four loads each under way at once, and as many copies of the bins as leave room for
/// several workgroups. The last of each line fits 16 KiB and any device with 64 invocations.
///
/// The short rows' tile is the best of 64 on an NVIDIA H200 (4096 rows of 128: 10.8 µs; 23.6 with the next line's).
const GPU: Candidates = &[
    (256, &[tile(32, 8, 1, 1, 1)]),
    (1024, &[tile(64, 8, 2, 1, 4)]),
    (4096, &[tile(256, 8, 4, 1, 4), tile(64, 8, 4, 1, 4)]),
    (u32::MAX, &[tile(256, 11, 1, 1, 4), tile(64, 11, 1, 1, 4)]),
];

/// The same where there are fewer rows than a GPU has processors, and each must make use of a whole one.
const GPU_FEW: Candidates = &[
    (1024, &[tile(256, 8, 2, 1, 1), tile(64, 8, 2, 1, 4)]),
    (4096, &[tile(256, 8, 4, 1, 4), tile(64, 8, 4, 1, 4)]),
    (
        u32::MAX,
        &[tile(1024, 11, 2, 1, 4), tile(256, 11, 1, 1, 4), tile(64, 11, 1, 1, 4)],
    ),
];

/// Rows that are few.
const FEW: u32 = 64;

/// The tile for rows of so many columns, of which there are so many.
///
/// # Errors
/// [`crate::Error::Limit`] where even the smallest does not fit.
pub fn choose(columns: u32, rows: u32, device: &DeviceClass) -> Result<SelectTile> {
    let lines = match (device.software, rows <= FEW) {
        (true, _) => SOFTWARE,
        (false, false) => GPU,
        (false, true) => GPU_FEW,
    };
    let line = lines.iter().find(|(most, _)| columns <= *most);
    let candidates = line.map_or(&[][..], |(_, tiles)| tiles);
    let fits = |t: &&SelectTile| t.workgroup_bytes() <= device.workgroup_memory && t.threads <= device.invocations;
    let ends = |t: &&SelectTile| t.loop_iterations(columns, columns) <= device.loop_iterations();
    let fitting = || candidates.iter().filter(fits);
    let chosen = fitting().find(ends).or_else(|| fitting().max_by_key(|t| t.threads));
    chosen.copied().ok_or_else(|| {
        let smallest = candidates.last().map_or((0, 0), |t| (t.workgroup_bytes(), t.threads));
        no_tile(smallest.0, smallest.1, device)
    })
}

/// Tiles worth trying on a device beside the planner's choice, for measurements: those of rows of all lengths that run.
pub fn alternatives(select: &Select, device: &DeviceClass) -> Vec<SelectTile> {
    let lists: &[Candidates] = match device.software {
        true => &[SOFTWARE],
        false => &[GPU, GPU_FEW],
    };
    let mut all: Vec<SelectTile> = vec![];
    for tile in lists
        .iter()
        .flat_map(|lines| lines.iter())
        .flat_map(|(_, tiles)| *tiles)
    {
        if !all.contains(tile) && runs(select, tile, device) {
            all.push(*tile);
        }
    }
    all
}

/// Whether a tile that was chosen elsewhere runs a selection on a device.
pub(crate) fn runs(select: &Select, tile: &SelectTile, device: &DeviceClass) -> bool {
    check(tile, device).is_ok() && check_loops(select, tile, device).is_ok()
}

/// Columns from which scans through subgroups pay on a GPU: on an NVIDIA H200 selecting from 65 536 took 0.97 of the time
/// with them, from 4096 1.01, and from 256 1.17.
const LONG_ROW: u32 = 8192;

/// Invocations of the smallest subgroups, where scans of so many columns go through subgroups: where it pays, and where the
/// tier is forced.
pub fn subgroups(columns: u32, device: &DeviceClass) -> Option<u32> {
    let wanted = (!device.software && columns >= LONG_ROW) || device.forces(Tier::Subgroup);
    let (least, _) = device.abilities.subgroups?;
    (wanted && device.allows(Tier::Subgroup)).then_some(least)
}

/// Refuses a tile that the kernel is not made for, or the device.
pub(crate) fn check(t: &SelectTile, device: &DeviceClass) -> Result<()> {
    let sensible = t.threads.is_power_of_two()
        && t.threads <= 1024
        && (4..=12).contains(&t.radix_bits)
        && t.replicas.is_power_of_two()
        && t.replicas <= 32
        && [1, 2, 4, 8].contains(&t.mask_quads)
        && (1..=16).contains(&t.unroll);
    if !sensible {
        let allowed = "powers of two but for radix_bits (4 to 12) and unroll (1 to 16); at most 1024 threads, 32 replicas, 8 \
                       mask_quads";
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
        "a selection from rows of this length to lists of this capacity",
        t.loop_iterations(s.columns, s.capacity()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::Abilities;

    const PORTABLE: DeviceClass = DeviceClass {
        workgroup_memory: 16 << 10,
        invocations: 256,
        software: false,
        processors: 0,
        abilities: Abilities::NONE,
        tier: None,
        scalar_matrices: false,
    };
    const LARGE: DeviceClass = DeviceClass {
        workgroup_memory: 48 << 10,
        invocations: 1024,
        ..PORTABLE
    };
    const SOFTWARE_GPU: DeviceClass = DeviceClass {
        software: true,
        processors: 2,
        ..LARGE
    };

    #[test]
    fn every_choice_runs_on_its_device() {
        for device in [PORTABLE, LARGE, SOFTWARE_GPU] {
            for columns in [1, 512, 513, 1024, 1025, 4096, 4097, 65536, 1 << 20, MAX] {
                for rows in [1, FEW, FEW + 1, 4096] {
                    check(&choose(columns, rows, &device).unwrap(), &device).unwrap();
                }
            }
        }
    }

    const MAX: u32 = crate::ops::dense::check::MAX_POSITION;

    #[test]
    fn scans_go_through_subgroups_of_any_size_on_gpus_and_where_forced() {
        for size in [4, 8, 16, 32, 64, 128] {
            let abilities = Abilities {
                subgroups: Some((size, 2 * size)),
                ..Abilities::NONE
            };
            let gpu = DeviceClass { abilities, ..PORTABLE };
            let software = DeviceClass {
                abilities,
                ..SOFTWARE_GPU
            };
            let with = |device, tier| DeviceClass {
                tier: Some(tier),
                ..device
            };
            assert_eq!(subgroups(LONG_ROW, &gpu), Some(size));
            assert_eq!(subgroups(LONG_ROW - 1, &gpu), None);
            assert_eq!(subgroups(LONG_ROW, &software), None);
            assert_eq!(subgroups(1, &with(software, Tier::Subgroup)), Some(size));
            assert_eq!(subgroups(LONG_ROW, &with(gpu, Tier::Portable)), None);
        }
        assert_eq!(subgroups(LONG_ROW, &PORTABLE), None);
    }

    #[test]
    fn few_long_rows_take_all_the_invocations_a_gpu_has() {
        assert_eq!(choose(65536, 1, &LARGE).unwrap().threads, 1024);
        assert_eq!(choose(65536, 1, &PORTABLE).unwrap().threads, 256);
        assert_eq!(choose(65536, 1000, &LARGE).unwrap().threads, 256);
        assert_eq!(choose(128, 1000, &LARGE).unwrap().threads, 32);
        assert_eq!(choose(1000, 1000, &LARGE).unwrap().threads, 64);
    }

    #[test]
    fn long_rows_keep_a_software_gpus_loops_short() {
        let iterations = |columns: u32| {
            let tile = choose(columns, 1, &SOFTWARE_GPU).unwrap();
            (tile.threads, tile.loop_iterations(columns, columns))
        };
        for (columns, threads) in [(65536, 8), (1 << 20, 64), (1 << 22, 256)] {
            let found = iterations(columns);
            assert!(
                found.0 == threads && found.1 <= SOFTWARE_GPU.loop_iterations(),
                "{columns}: {found:?}"
            );
        }
        let select = |columns: u32| Select {
            columns,
            ..Select::default()
        };
        let checked = |columns: u32| {
            let tile = choose(columns, 1, &SOFTWARE_GPU).unwrap();
            check_loops(&select(columns), &tile, &SOFTWARE_GPU)
        };
        assert!(checked(1 << 22).is_ok());
        let error = checked(1 << 24).unwrap_err();
        assert!(error.to_string().contains("iterations"), "{error}");
    }

    #[test]
    fn a_device_too_small_for_any_tile_is_told_the_limit() {
        let tiny = DeviceClass {
            invocations: 32,
            ..PORTABLE
        };
        let error = choose(65536, 1, &tiny).unwrap_err();
        assert!(
            error.to_string().contains("max_compute_invocations_per_workgroup"),
            "{error}"
        );
    }
}
