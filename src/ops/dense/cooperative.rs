//! Prefill on cooperative matrices: its tile, when it serves, and which tile a device gets.

use crate::ops::dense::Dense;
use crate::ops::dense::tile::DeviceClass;
use crate::ops::dense::variant::{Attend, Tile};
use crate::shader::Constant;
use crate::tensor::DType;
use crate::tier::Tier;

/// Tile shape of `dense/prefill_cooperative.wgsl`; the file's header has the meaning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct CooperativeTile {
    /// Rows and columns of a matrix: 8 or 16, as the device has them.
    pub edge: u32,
    /// Strips of rows.
    pub strips: u32,
    /// Subgroups that share a strip: a divisor of the blocks of keys, and of those of value columns.
    pub shares: u32,
    /// Blocks of `edge` rows of a strip.
    pub row_blocks: u32,
    /// Keys of a tile, a multiple of `edge`.
    pub keys: u32,
    /// Invocations of a workgroup: for each strip and share as many as the largest subgroup of the device has.
    pub threads: u32,
    /// Invocations that share a row's weights: a power of two, no more than the smallest subgroup of the device has, and a
    /// divisor of a quarter of the keys.
    pub row_lanes: u32,
    /// Workgroup memory is in words of four elements, not of one. Metal's language wants single elements; with those an
    /// NVIDIA Vulkan driver (580.159.04) gives wrong results.
    pub vectors: bool,
    /// Loops over matrices are written out.
    pub written_out: bool,
    /// Long and short query tiles alternate, for devices that deal workgroups out in advance.
    pub alternate: bool,
}

impl CooperativeTile {
    /// Whether all fields are in range and the shader's static assertions hold.
    pub(crate) fn is_sound(&self) -> bool {
        let counts = [self.strips, self.shares, self.row_blocks, self.keys, self.row_lanes];
        [8, 16].contains(&self.edge)
            && counts.iter().all(|n| (1..=256).contains(n))
            && self.keys.is_multiple_of(self.edge * self.shares)
            && self.row_lanes.is_power_of_two()
            && (self.keys / 4).is_multiple_of(self.row_lanes)
            && self.rows() <= 1024
            && (self.strips * self.shares..=1024).contains(&self.threads)
    }

    /// Whether shares and lanes divide the output's columns and the device's subgroups, of so many invocations.
    pub(crate) fn suits(&self, value_dim: u32, (least, most): (u32, u32)) -> bool {
        value_dim.div_ceil(self.edge).is_multiple_of(self.shares)
            && self.row_lanes <= least
            && self.threads == self.strips * self.shares * most
    }

    /// Query rows of a workgroup.
    pub const fn rows(&self) -> u32 {
        self.strips * self.row_blocks * self.edge
    }

    /// Blocks of output columns of a share that go through workgroup memory at once.
    fn out_blocks(&self, value_dim: u32) -> u32 {
        let blocks = value_dim.div_ceil(self.edge) / self.shares;
        let room = self.keys / self.edge / self.shares;
        (1..=room).rev().find(|n| blocks.is_multiple_of(*n)).unwrap_or(1)
    }

    /// Workgroup memory in bytes.
    pub fn workgroup_bytes(&self, head_dim: u32, value_dim: u32) -> u32 {
        let pitch = |d: u32| d.next_multiple_of(self.edge) + 8;
        let tile = self.keys * (pitch(head_dim) + pitch(value_dim)) + self.rows() * (self.keys + 8);
        let factors = tile.max(self.strips * self.edge * pitch(head_dim)) * 2;
        let sums = self.rows() * (self.keys + 4) * 4;
        let row_factors = self.rows() * 4;
        factors.next_multiple_of(16) + sums.next_multiple_of(16) + row_factors.next_multiple_of(16) + 16
    }
}

impl Tile for CooperativeTile {
    const KERNEL: &'static str = "dense/prefill_cooperative";
    const TIER: Tier = Tier::Cooperative;
    const CHECKS_LISTS: bool = true;

    fn half(&self) -> bool {
        true
    }

    fn tiles_of_an_entry(&self, keys: u32) -> u32 {
        keys / self.keys
    }

    fn label(&self) -> String {
        format!(
            "matrices of {} tile {}x{} strips {}x{} threads {}/{}{}",
            self.edge,
            self.rows(),
            self.keys,
            self.strips,
            self.shares,
            self.threads,
            self.row_lanes,
            if self.vectors { "" } else { " scalars" }
        )
    }

    fn constants(&self, value_dim: u32) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        vec![
            ("STRIPS", Count(self.strips)),
            ("SHARES", Count(self.shares)),
            ("ROW_LANES", Count(self.row_lanes)),
            ("ROW_BLOCKS", Count(self.row_blocks)),
            ("KEYS", Count(self.keys)),
            ("THREADS", Count(self.threads)),
            ("OUT_BLOCKS", Count(self.out_blocks(value_dim))),
            ("ALTERNATE", Flag(self.alternate)),
            ("MATRICES_WRITTEN_OUT", Count(self.written_out.into())),
        ]
    }

    fn pieces<T>(&self, attend: &Attend<T>) -> Vec<&'static str> {
        vec![
            if self.edge == 8 {
                "shared/matrix_8"
            } else {
                "shared/matrix_16"
            },
            if self.vectors {
                "shared/staged_x4"
            } else {
                "shared/staged_x1"
            },
            if attend.dtype == DType::F16 && attend.vector_inputs {
                "dense/factors_native"
            } else {
                "dense/factors_converted"
            },
        ]
    }

    fn workgroup_bytes(&self, head_dim: u32, value_dim: u32) -> u32 {
        self.workgroup_bytes(head_dim, value_dim)
    }
}

/// Queries from which matrices pay: fewer leave most rows of a tile empty.
pub(super) const FEWEST_QUERIES: u32 = 17;

/// Whether f16 factors will do for a problem: they are exact for f16 tensors only.
pub(crate) fn precise_enough(problem: &Dense) -> bool {
    problem.dtype == DType::F16 || problem.reduced_precision
}

/// Whether the planner takes the kernel into account.
pub(super) fn serves(problem: &Dense) -> bool {
    problem.queries >= FEWEST_QUERIES && precise_enough(problem)
}

/// Strips, shares, blocks of rows of a strip, keys.
struct Candidate(u32, u32, u32, u32);

/// For matrices of 16, best first, by measurements on an NVIDIA H200 (`benches/tune_cooperative.rs`). Its Vulkan driver lets
/// workgroups have some 50 KiB of workgroup memory together on a processor, so that of the larger tiles one runs at a
/// time, and of those below 25 KiB two. The last but one fit 32 KiB at D = 128 and D = 256.
const WIDE: &[Candidate] = &[
    Candidate(4, 2, 2, 32),
    Candidate(6, 1, 1, 32),
    Candidate(8, 1, 1, 16),
    Candidate(4, 2, 1, 32),
    Candidate(4, 1, 1, 32),
    Candidate(4, 1, 1, 16),
    Candidate(2, 1, 1, 16),
];

/// The same for Dv up to 64.
const NARROW: &[Candidate] = &[
    Candidate(4, 1, 2, 16),
    Candidate(4, 2, 1, 32),
    Candidate(4, 1, 1, 32),
    Candidate(4, 1, 1, 16),
    Candidate(2, 1, 1, 16),
];

/// For matrices of 8, best first; reasoned, not measured.
const EDGE_8: &[Candidate] = &[
    Candidate(4, 2, 2, 32),
    Candidate(4, 1, 2, 16),
    Candidate(4, 1, 1, 32),
    Candidate(4, 1, 1, 16),
    Candidate(2, 1, 1, 16),
    Candidate(2, 1, 1, 8),
];

/// For processors that emulate matrices of 8: little code.
const SOFTWARE: &[Candidate] = &[Candidate(4, 1, 1, 8), Candidate(2, 1, 1, 8)];

/// Tiles that serve a problem on a device, best first.
pub(super) fn candidates(problem: &Dense, device: &DeviceClass) -> Vec<CooperativeTile> {
    let (Some(edge), Some(subgroups)) = (device.abilities.matrices, device.abilities.subgroups) else {
        return vec![];
    };
    let all = match (edge, device.software) {
        (16, _) if problem.value_dim() <= 64 => NARROW,
        (16, _) => WIDE,
        (_, false) => EDGE_8,
        (_, true) => SOFTWARE,
    };
    let tile = |c: &Candidate| {
        let threads = c.0 * c.1 * subgroups.1;
        let lanes = threads / (c.0 * c.2 * edge);
        CooperativeTile {
            edge,
            strips: c.0,
            shares: c.1,
            row_blocks: c.2,
            keys: c.3,
            threads,
            row_lanes: lanes.clamp(1, (c.3 / 4).min(subgroups.0)).next_power_of_two(),
            vectors: !device.scalar_matrices,
            written_out: !device.software,
            alternate: device.software,
        }
    };
    let fits = |t: &CooperativeTile| {
        t.is_sound()
            && t.suits(problem.value_dim(), subgroups)
            && t.threads <= device.invocations
            && t.workgroup_bytes(problem.head_dim, problem.value_dim()) + list_bytes(problem) <= device.workgroup_memory
    };
    all.iter().map(tile).filter(fits).collect()
}

/// What a verdict on a list takes of workgroup memory.
fn list_bytes(problem: &Dense) -> u32 {
    if problem.selection.is_some() { 16 } else { 0 }
}
