//! The subgroup tier's tiles: those of the portable kernels, whose lanes hand values to each other in subgroups.
//!
//! ```
//! use wgpu_attention::dense::subgroup::Subgroup;
//! use wgpu_attention::dense::tile::{DeviceClass, KernelChoice, choose};
//! use wgpu_attention::tier::Abilities;
//! use wgpu_attention::wgpu::{DeviceType, Limits};
//! use wgpu_attention::Dense;
//!
//! let abilities = Abilities { subgroups: Some((32, 32)), ..Abilities::NONE };
//! let device = DeviceClass { abilities, ..DeviceClass::of(&Limits::default(), DeviceType::DiscreteGpu) };
//! let KernelChoice::SubgroupDecode(Subgroup { tile, .. }) = choose(&Dense::default(), &device)? else {
//!     panic!("decode has a kernel of this tier");
//! };
//! assert!(tile.lanes <= 32);
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

use crate::error::{Error, Result};
use crate::ops::dense::check::invalid;
use crate::ops::dense::portable::{DecodeTile, PrefillTile};
use crate::ops::dense::tile::{DeviceClass, decode_rows, keys_visited};
use crate::ops::dense::variant::{Attend, Tile};
use crate::ops::dense::{Dense, Weighting};
use crate::shader::Constant;
use crate::tensor::DType;
use crate::tier::Tier;

/// A tile for devices with subgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct Subgroup<T> {
    /// The tile. Its `lanes` are a power of two; so are `rows` and `key_regs` in decode, where there are no more rows
    /// than lanes, and `value_lanes` is `lanes`.
    pub tile: T,
    /// Invocations of the device's smallest subgroups, a power of two.
    pub least: u32,
    /// Invocations of its largest.
    pub most: u32,
    /// f16 tensors are read as the device's own f16.
    pub half: bool,
}

impl<T> Subgroup<T> {
    /// With what the device has; `None` where its subgroups are unknown or may not be used.
    pub fn of(tile: T, device: &DeviceClass) -> Option<Self> {
        let (least, most) = device.abilities.subgroups.filter(|_| device.allows(Tier::Subgroup))?;
        Some(Subgroup {
            tile,
            least,
            most,
            half: device.reads_half(),
        })
    }

    /// Whether so many lanes fit every subgroup that the device makes.
    fn holds(&self, lanes: u32) -> bool {
        lanes <= self.least
    }

    /// The piece through which so many lanes exchange values.
    fn lanes_piece(&self, lanes: u32) -> &'static str {
        match self.holds(lanes) {
            true => "shared/lanes_subgroup",
            false => "shared/lanes_mixed",
        }
    }

    /// That piece's constants.
    fn lanes_constants(&self, lanes: u32) -> Vec<(&'static str, Constant)> {
        match self.holds(lanes) {
            true => vec![],
            false => vec![
                ("SUBGROUP_LEAST", Constant::Count(self.least)),
                ("SUBGROUP_MOST", Constant::Count(self.most)),
            ],
        }
    }

    /// Its workgroup memory in bytes: a word an invocation, and whether subgroups hold the lanes.
    fn lanes_bytes(&self, lanes: u32, threads: u32) -> u32 {
        match self.holds(lanes) {
            true => 0,
            false => (4 * threads).next_multiple_of(16) + 16,
        }
    }

    /// For labels.
    fn lanes_label(&self, lanes: u32) -> String {
        let half = if self.half { " native f16" } else { "" };
        match self.holds(lanes) {
            true => format!(" subgroups{half}"),
            false => format!(" subgroups of {} to {}{half}", self.least, self.most),
        }
    }

    /// Refuses what the device does not have.
    pub(crate) fn check(&self, device: &DeviceClass) -> Result<()> {
        let Some((least, most)) = device.abilities.subgroups else {
            return Err(Error::Unsupported {
                what: "a kernel of the subgroup tier".into(),
                why: format!("the device lacks {}", Tier::Subgroup.needs()),
            });
        };
        if self.least > least || self.most < most || self.half && !device.abilities.half {
            let given = format!("subgroups of {} to {}, native f16 {}", self.least, self.most, self.half);
            let half = if device.abilities.half {
                "true or false"
            } else {
                "false"
            };
            let allowed = format!("a range that holds the device's, {least} to {most}, and native f16 {half}");
            return Err(invalid("tuning.kernel", given, allowed));
        }
        Ok(())
    }

    fn sizes_are_sound(&self) -> bool {
        self.least.is_power_of_two() && self.least <= self.most && self.most <= 256
    }
}

impl Subgroup<PrefillTile> {
    pub(crate) fn is_sound(&self) -> bool {
        self.tile.is_sound() && self.tile.lanes.is_power_of_two() && self.sizes_are_sound()
    }

    /// Workgroup memory in bytes.
    pub fn workgroup_bytes(&self, value_dim: u32) -> u32 {
        let t = &self.tile;
        t.workgroup_bytes(value_dim) - t.statistics_bytes() + self.lanes_bytes(t.lanes, t.threads())
    }
}

impl Tile for Subgroup<PrefillTile> {
    fn kernel(&self) -> &'static str {
        "dense/prefill"
    }
    const TIER: Tier = Tier::Subgroup;
    const CHECKS_LISTS: bool = true;

    fn half(&self) -> bool {
        self.half
    }

    fn tiles_of_an_entry(&self, keys: u32) -> u32 {
        keys / self.tile.keys()
    }

    fn label(&self) -> String {
        Tile::label(&self.tile) + &self.lanes_label(self.tile.lanes)
    }

    fn constants(&self, head_dim: u32, value_dim: u32) -> Vec<(&'static str, Constant)> {
        let mut constants = Tile::constants(&self.tile, head_dim, value_dim);
        constants.push(("LANE_STEPS", Constant::Count(self.tile.lanes.ilog2())));
        constants.extend(self.lanes_constants(self.tile.lanes));
        constants
    }

    fn pieces<U>(&self, _attend: &Attend<U>) -> Vec<&'static str> {
        vec![self.lanes_piece(self.tile.lanes), "dense/statistics_subgroup"]
    }

    fn workgroup_bytes(&self, _head_dim: u32, value_dim: u32) -> u32 {
        self.workgroup_bytes(value_dim)
    }
}

/// Bytes of output rows that the slots of a decode workgroup bring together at once, unless one row takes more.
const OUT_BYTES: u32 = 8 << 10;

impl Subgroup<DecodeTile> {
    pub(crate) fn is_sound(&self) -> bool {
        let t = &self.tile;
        let powers = [t.rows, t.lanes, t.key_regs];
        t.is_sound()
            && powers.iter().all(|n| n.is_power_of_two())
            && t.rows <= t.lanes
            && t.value_lanes == t.lanes
            && self.sizes_are_sound()
    }

    /// Vectors of an output row, a whole number for each lane.
    fn value_pitch(&self, value_dim: u32) -> u32 {
        value_dim.div_ceil(4).next_multiple_of(self.tile.lanes)
    }

    /// Output rows that meet at once, a divisor of all.
    fn out_rows(&self, value_dim: u32) -> u32 {
        let row = 16 * self.tile.slots * self.value_pitch(value_dim);
        let most = (OUT_BYTES / row).max(1);
        self.tile.rows.min(1 << most.ilog2())
    }

    /// Workgroup memory in bytes.
    pub fn workgroup_bytes(&self, value_dim: u32) -> u32 {
        let t = &self.tile;
        let statistics = (4 * t.slots * t.rows).next_multiple_of(16);
        let sums = 16 * t.slots * self.out_rows(value_dim) * self.value_pitch(value_dim);
        2 * statistics + sums + self.lanes_bytes(t.lanes, t.threads())
    }

    /// Iterations of all loops of an invocation behind the last key.
    pub(crate) fn closing_iterations(&self, value_dim: u32) -> u32 {
        let t = &self.tile;
        let out_rows = self.out_rows(value_dim);
        let elements = (out_rows * value_dim.div_ceil(4)).div_ceil(t.threads());
        t.slots + 1 + t.rows / out_rows * (elements * (t.slots + 2) + 1)
    }
}

impl Tile for Subgroup<DecodeTile> {
    fn kernel(&self) -> &'static str {
        "dense/decode_subgroup"
    }
    const TIER: Tier = Tier::Subgroup;
    const CHECKS_LISTS: bool = false;

    fn half(&self) -> bool {
        self.half
    }

    fn tiles_of_an_entry(&self, keys: u32) -> u32 {
        keys / self.tile.keys()
    }

    fn label(&self) -> String {
        let t = &self.tile;
        format!(
            "rows {} keys {}x{} lanes {}{}{}",
            t.rows,
            t.slots,
            t.key_regs,
            t.lanes,
            if t.prefetch { " prefetch" } else { "" },
            self.lanes_label(t.lanes)
        )
    }

    fn constants(&self, _head_dim: u32, value_dim: u32) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        let t = &self.tile;
        let scores = t.rows * t.key_regs;
        let replicas = (t.lanes / scores).max(1);
        let mut constants = vec![
            ("ROWS", Count(t.rows)),
            ("LANES", Count(t.lanes)),
            ("SLOTS", Count(t.slots)),
            ("KEY_REGS", Count(t.key_regs)),
            ("PREFETCH", Flag(t.prefetch)),
            ("OUT_ROWS", Count(self.out_rows(value_dim))),
            ("HALVINGS", Count(t.lanes.min(scores).ilog2())),
            ("REPLICA_STEPS", Count(replicas.ilog2())),
            ("ROW_STEPS", Count((t.lanes / t.rows / replicas).ilog2())),
        ];
        constants.extend(self.lanes_constants(t.lanes));
        constants
    }

    fn pieces<U>(&self, _attend: &Attend<U>) -> Vec<&'static str> {
        vec![self.lanes_piece(self.tile.lanes)]
    }

    fn workgroup_bytes(&self, _head_dim: u32, value_dim: u32) -> u32 {
        self.workgroup_bytes(value_dim)
    }
}

/// The prefill kernel with a given tile in subgroups, where the tier is forced, or where it has something to gain: rows have
/// statistics, or f16 is read natively, and the lanes of a row fit a subgroup: every subgroup, on a software GPU, where
/// workgroup memory is no slower than anything else.
pub(crate) fn prefill(problem: &Dense, tile: PrefillTile, device: &DeviceClass) -> Option<Subgroup<PrefillTile>> {
    let subgroup = Subgroup::of(tile, device)?;
    let room = if device.software { subgroup.least } else { subgroup.most };
    let statistics = matches!(problem.weighting, Weighting::Softmax);
    let gains = statistics || subgroup.half && problem.dtype == DType::F16;
    (device.forces(Tier::Subgroup) || gains && tile.lanes <= room).then_some(subgroup)
}

/// Vectors of a row that an invocation holds, at most, by the number of rows: what registers there are hold queries and
/// output rows first.
const fn row_regs(rows: u32) -> u32 {
    match rows {
        1 | 2 => 4,
        4 => 4,
        _ => 2,
    }
}

/// Keys up to which decode in subgroups pays.
const SHORT_CACHE: u32 = 8192;

/// Whether decode in subgroups may be expected to pay, by measurements on an NVIDIA H200 (`report --only tiers`): over 4096
/// keys it took 0.90 to 1.00 of the portable kernel's time, but 1.07 for single rows of 128 halves; over 65 536 keys, where
/// memory sets the pace, 0.99 to 1.30.
fn decode_pays(problem: &Dense) -> bool {
    let wide_halves = problem.dtype != DType::F32 && problem.head_dim.max(problem.value_dim()) > 64;
    keys_visited(problem) <= SHORT_CACHE && (decode_rows(problem) > 1 || !wide_halves)
}

/// The decode kernel in subgroups; `None` where no tile fits the device, or, unless the tier is forced, where it does not pay
/// or subgroups do not hold the lanes.
pub(crate) fn decode(problem: &Dense, device: &DeviceClass) -> Option<Subgroup<DecodeTile>> {
    (device.forces(Tier::Subgroup) || decode_pays(problem)).then(|| tile(problem, device))?
}

/// Its tile, whether or not it pays.
pub(crate) fn tile(problem: &Dense, device: &DeviceClass) -> Option<Subgroup<DecodeTile>> {
    let forced = device.forces(Tier::Subgroup);
    let (least, most) = device.abilities.subgroups?;
    let vecs = problem.head_dim.max(problem.value_dim()).div_ceil(4);
    let most_rows = decode_rows(problem);
    let rows = std::iter::successors(Some(most_rows), |r| (*r > 1).then_some(r / 2));
    // As many rows as let lanes stay within every subgroup; where the sizes of a GPU's subgroups leave that open, as many
    // as there are.
    let room = if device.software || least >= 8 { least } else { most };
    let shapes = rows.clone().filter_map(|rows| {
        let lanes = vecs.div_ceil(row_regs(rows)).next_power_of_two().max(rows);
        (lanes <= room).then_some((rows, lanes))
    });
    let anyway = forced.then(|| {
        (
            most_rows,
            vecs.div_ceil(row_regs(most_rows)).next_power_of_two().max(most_rows),
        )
    });
    let (rows, lanes) = shapes.clone().next().or(anyway)?;
    let threads = 64.min(device.invocations).max(lanes);
    let sizes = [(threads, 2), (threads, 1), (threads / 2, 1), (lanes, 1)];
    sizes.into_iter().find_map(|(threads, key_regs)| {
        let tile = DecodeTile {
            rows,
            lanes,
            slots: threads / lanes,
            key_regs,
            value_lanes: lanes,
            prefetch: true,
        };
        let subgroup = Subgroup::of(tile, device)?;
        let fits = tile.slots > 0
            && tile.threads() <= device.invocations
            && subgroup.workgroup_bytes(problem.value_dim()) <= device.workgroup_memory;
        fits.then_some(subgroup)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dense::plan::options_of;
    use crate::ops::dense::tile::{KernelChoice, choose};
    use crate::tier::Abilities;

    const SIZES: [(u32, u32); 8] = [
        (4, 4),
        (8, 8),
        (16, 16),
        (32, 32),
        (64, 64),
        (128, 128),
        (8, 32),
        (4, 64),
    ];

    fn device(subgroups: (u32, u32), software: bool, tier: Option<Tier>) -> DeviceClass {
        DeviceClass {
            workgroup_memory: 16 << 10,
            invocations: 256,
            software,
            processors: 0,
            abilities: Abilities {
                subgroups: Some(subgroups),
                half: true,
                subgroup_barriers: false,
                matrices: None,
                elements: None,
            },
            tier,
            scalar_matrices: false,
        }
    }

    fn problem(queries: u32, head_dim: u32) -> Dense {
        Dense {
            heads: 8,
            kv_heads: Some(1),
            queries,
            keys: 1000,
            head_dim,
            ..Dense::default()
        }
    }

    #[test]
    fn forced_subgroups_of_every_size_serve_every_head_size() {
        for size in SIZES {
            for software in [false, true] {
                let device = device(size, software, Some(Tier::Subgroup));
                for head_dim in 1..=256 {
                    for queries in [1, 300] {
                        let p = problem(queries, head_dim);
                        let (sound, bytes, threads) = match choose(&p, &device).unwrap() {
                            KernelChoice::SubgroupPrefill(s) => {
                                (s.is_sound(), s.workgroup_bytes(head_dim), s.tile.threads())
                            }
                            KernelChoice::SubgroupDecode(s) => {
                                (s.is_sound(), s.workgroup_bytes(head_dim), s.tile.threads())
                            }
                            other => panic!("{size:?}, D = {head_dim}: {other:?}"),
                        };
                        assert!(sound && bytes <= 16 << 10 && threads <= 256, "{size:?}, D = {head_dim}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_planner_keeps_lanes_within_subgroups() {
        for size in SIZES {
            let device = device(size, false, None);
            for head_dim in [8, 64, 128, 256] {
                for queries in [1, 300] {
                    let lanes = match choose(&problem(queries, head_dim), &device).unwrap() {
                        KernelChoice::SubgroupPrefill(s) => s.tile.lanes,
                        KernelChoice::SubgroupDecode(s) => s.tile.lanes,
                        KernelChoice::Prefill(t) => {
                            assert!(t.lanes > size.1);
                            continue;
                        }
                        _ => continue,
                    };
                    assert!(
                        lanes <= size.1,
                        "{size:?}, D = {head_dim}, {queries} queries: {lanes} lanes"
                    );
                }
            }
        }
    }

    #[test]
    fn decode_over_long_caches_stays_portable() {
        let device = device((32, 32), false, None);
        for (keys, dtype, subgroup) in [
            (SHORT_CACHE, DType::F32, true),
            (SHORT_CACHE + 1, DType::F32, false),
            (SHORT_CACHE, DType::F16, false),
        ] {
            // One row: eight would gain in f16 too.
            let p = Dense {
                keys,
                dtype,
                kv_heads: None,
                ..problem(1, 128)
            };
            let choice = choose(&p, &device).unwrap();
            assert_eq!(
                matches!(choice, KernelChoice::SubgroupDecode(_)),
                subgroup,
                "{choice:?}"
            );
        }
    }

    #[test]
    fn a_tier_below_is_obeyed_and_software_decodes_serially() {
        let portable = device((32, 32), false, Some(Tier::Portable));
        for queries in [1, 300] {
            let choice = choose(&problem(queries, 64), &portable).unwrap();
            assert!(
                matches!(choice, KernelChoice::Prefill(_) | KernelChoice::Decode(_)),
                "{choice:?}"
            );
        }
        let choice = choose(&problem(1, 64), &device((8, 8), true, None)).unwrap();
        assert!(matches!(choice, KernelChoice::DecodeSerial(_)), "{choice:?}");
    }

    #[test]
    fn sigmoid_prefill_goes_through_subgroups_for_native_f16_alone() {
        let device = device((32, 32), false, None);
        for (dtype, gains) in [(DType::F32, false), (DType::F16, true), (DType::BF16, false)] {
            let p = Dense {
                weighting: Weighting::Sigmoid { bias: None },
                dtype,
                ..problem(300, 64)
            };
            let choice = choose(&p, &device).unwrap();
            assert_eq!(matches!(choice, KernelChoice::SubgroupPrefill(_)), gains, "{dtype}");
        }
    }

    #[test]
    fn lanes_take_the_way_that_their_subgroups_allow() {
        let tile = |lanes| DecodeTile {
            rows: 1,
            lanes,
            slots: 2,
            key_regs: 1,
            value_lanes: lanes,
            prefetch: false,
        };
        for (size, within, beyond) in [((4, 4), 4, 8), ((8, 32), 8, 16), ((128, 128), 128, 256)] {
            let device = device(size, false, None);
            let attend = options_of(&problem(1, 64));
            let pieces = |lanes| Tile::pieces(&Subgroup::of(tile(lanes), &device).unwrap(), &attend);
            assert_eq!(pieces(within), ["shared/lanes_subgroup"]);
            assert_eq!(pieces(beyond), ["shared/lanes_mixed"]);
        }
    }

    #[test]
    fn what_the_device_lacks_is_refused() {
        let device = device((8, 16), false, None);
        let KernelChoice::SubgroupDecode(right) = choose(&problem(1, 64), &device).unwrap() else {
            panic!("no decode in subgroups")
        };
        assert!(right.check(&device).is_ok());
        assert!(
            Subgroup {
                least: 4,
                most: 64,
                ..right
            }
            .check(&device)
            .is_ok(),
            "less is known"
        );
        for wrong in [Subgroup { least: 16, ..right }, Subgroup { most: 8, ..right }] {
            let error = wrong.check(&device).unwrap_err().to_string();
            assert!(error.contains("8 to 16"), "{error}");
        }
        let without = DeviceClass {
            abilities: Abilities::NONE,
            ..device
        };
        let error = right.check(&without).unwrap_err().to_string();
        assert!(error.contains("SUBGROUP"), "{error}");
        let no_half = DeviceClass {
            abilities: Abilities {
                half: false,
                ..device.abilities
            },
            ..device
        };
        assert!(right.check(&no_half).unwrap_err().to_string().contains("f16 false"));
    }
}
