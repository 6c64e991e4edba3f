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
use crate::ops::dense::Dense;
use crate::ops::dense::check::invalid;
use crate::ops::dense::tile::{DeviceClass, decode_rows};
use crate::ops::dense::variant::{DecodeTile, PrefillTile, Tile};
use crate::shader::Constant;
use crate::tier::Tier;

/// A tile for devices with subgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
            half: device.abilities.half,
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
    const KERNEL: &'static str = "dense/prefill";
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

    fn constants(&self, value_dim: u32) -> Vec<(&'static str, Constant)> {
        let mut constants = Tile::constants(&self.tile, value_dim);
        constants.push(("LANE_STEPS", Constant::Count(self.tile.lanes.ilog2())));
        constants.extend(self.lanes_constants(self.tile.lanes));
        constants
    }

    fn pieces(&self) -> Vec<&'static str> {
        vec![self.lanes_piece(self.tile.lanes), "dense/statistics_subgroup"]
    }

    fn workgroup_bytes(&self, value_dim: u32) -> u32 {
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
    const KERNEL: &'static str = "dense/decode_subgroup";
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

    fn constants(&self, value_dim: u32) -> Vec<(&'static str, Constant)> {
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

    fn pieces(&self) -> Vec<&'static str> {
        vec![self.lanes_piece(self.tile.lanes)]
    }

    fn workgroup_bytes(&self, value_dim: u32) -> u32 {
        self.workgroup_bytes(value_dim)
    }
}

/// The prefill kernel with a given tile in subgroups, where the tier is forced, or where the lanes of a row fit a
/// subgroup: every subgroup, on a software GPU, where workgroup memory is no slower than anything else.
pub(crate) fn prefill(tile: PrefillTile, device: &DeviceClass) -> Option<Subgroup<PrefillTile>> {
    let subgroup = Subgroup::of(tile, device)?;
    let room = if device.software { subgroup.least } else { subgroup.most };
    (device.forces(Tier::Subgroup) || tile.lanes <= room).then_some(subgroup)
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

/// The decode kernel in subgroups; `None` where no tile fits the device, or where subgroups do not hold the lanes and the
/// tier is not forced.
pub(crate) fn decode(problem: &Dense, device: &DeviceClass) -> Option<Subgroup<DecodeTile>> {
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
