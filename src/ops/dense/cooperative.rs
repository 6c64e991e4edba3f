//! Prefill on cooperative matrices: its tile, when it serves, and which tile a device gets.

use crate::ops::dense::Dense;
use crate::ops::dense::tile::DeviceClass;
use crate::ops::dense::variant::{Attend, Tile};
use crate::shader::Constant;
use crate::tensor::DType;
use crate::tier::Tier;

/// Tile shape of `dense/prefill_cooperative.wgsl`; the file's header has the meaning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CooperativeTile {
    /// Rows and columns of a matrix: 8 or 16, as the device has them.
    pub edge: u32,
    /// Strips of rows, each with a subgroup of its own.
    pub strips: u32,
    /// Blocks of `edge` rows of a strip.
    pub row_blocks: u32,
    /// Keys of a tile, a multiple of `edge`.
    pub keys: u32,
    /// Invocations of a workgroup: for each strip as many as the largest subgroup of the device has.
    pub threads: u32,
    /// Workgroup memory is in words of four elements, not of one.
    pub vectors: bool,
    /// Loops over matrices are written out.
    pub written_out: bool,
    /// Long and short query tiles alternate, for devices that deal workgroups out in advance.
    pub alternate: bool,
}

impl CooperativeTile {
    /// Whether all fields are in range and the shader's static assertions hold.
    pub(crate) fn is_sound(&self) -> bool {
        let counts = [self.strips, self.row_blocks, self.keys];
        [8, 16].contains(&self.edge)
            && counts.iter().all(|n| (1..=256).contains(n))
            && self.keys.is_multiple_of(self.edge)
            && self.rows() <= 1024
            && self.threads >= self.strips
            && self.threads <= 1024
    }

    /// Query rows of a workgroup.
    pub const fn rows(&self) -> u32 {
        self.strips * self.row_blocks * self.edge
    }

    /// Blocks of output columns that go through workgroup memory at once.
    fn out_blocks(&self, value_dim: u32) -> u32 {
        let blocks = value_dim.div_ceil(self.edge);
        let room = self.keys / self.edge;
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

    /// Matrices that a strip keeps in registers: of q, and of the output.
    pub(crate) fn held(&self, head_dim: u32, value_dim: u32) -> (u32, u32) {
        let blocks = |d: u32| self.row_blocks * d.div_ceil(self.edge);
        (blocks(head_dim), blocks(value_dim))
    }

    /// The largest subgroup it is made for.
    pub(crate) fn subgroup(&self) -> u32 {
        self.threads / self.strips
    }
}

impl Tile for CooperativeTile {
    const KERNEL: &'static str = "dense/prefill_cooperative";
    const CHECKS_LISTS: bool = true;

    fn tiles_of_an_entry(&self, keys: u32) -> u32 {
        keys / self.keys
    }

    fn label(&self) -> String {
        format!(
            "matrices of {} tile {}x{} strips {} threads {}{}",
            self.edge,
            self.rows(),
            self.keys,
            self.strips,
            self.threads,
            if self.vectors { "" } else { " scalars" }
        )
    }

    fn constants(&self, value_dim: u32) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        vec![
            ("STRIPS", Count(self.strips)),
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

    fn tier(&self) -> Tier {
        Tier::Cooperative
    }

    fn enables(&self) -> Vec<&'static str> {
        vec!["f16", "wgpu_cooperative_matrix"]
    }
}

/// Queries from which matrices pay: fewer leave most rows of a tile empty.
pub(super) const FEWEST_QUERIES: u32 = 17;

/// Whether the kernel may serve a problem: f16 factors are exact for f16 tensors only.
pub(super) fn serves(problem: &Dense) -> bool {
    problem.queries >= FEWEST_QUERIES && (problem.dtype == DType::F16 || problem.reduced_precision)
}

/// Strips, blocks of rows of a strip, keys; best first.
struct Candidate(u32, u32, u32);

/// For matrices of 16.
const EDGE_16: &[Candidate] = &[
    Candidate(4, 2, 32),
    Candidate(4, 1, 32),
    Candidate(4, 1, 16),
    Candidate(2, 1, 16),
];

/// For matrices of 8.
const EDGE_8: &[Candidate] = &[
    Candidate(4, 2, 32),
    Candidate(4, 1, 32),
    Candidate(4, 1, 16),
    Candidate(2, 1, 16),
    Candidate(2, 1, 8),
];

/// 32-bit registers of an invocation that matrices may take.
const REGISTERS: u32 = 200;

/// Tiles that serve a problem on a device, best first.
pub(super) fn candidates(problem: &Dense, device: &DeviceClass) -> Vec<CooperativeTile> {
    let (Some(edge), Some((_, subgroup))) = (device.abilities.matrices, device.abilities.subgroups) else {
        return vec![];
    };
    let all = if edge == 16 { EDGE_16 } else { EDGE_8 };
    let tile = |c: &Candidate| CooperativeTile {
        edge,
        strips: c.0,
        row_blocks: c.1,
        keys: c.2,
        threads: c.0 * subgroup,
        vectors: true,
        written_out: !device.software,
        alternate: device.software,
    };
    let fits = |t: &CooperativeTile| {
        let (q, o) = t.held(problem.head_dim, problem.value_dim());
        let elements = edge * edge;
        // Two elements of q to a register, one of o and of the scores of a block of keys.
        let registers = (q * elements / 2 + (o + t.row_blocks) * elements) / subgroup.max(8);
        t.threads <= device.invocations
            && t.workgroup_bytes(problem.head_dim, problem.value_dim()) + list_bytes(problem) <= device.workgroup_memory
            && (device.software || t.row_blocks == 1 || registers <= REGISTERS)
    };
    all.iter().map(tile).filter(fits).collect()
}

/// What a verdict on a list takes of workgroup memory.
fn list_bytes(problem: &Dense) -> u32 {
    if problem.selection.is_some() { 16 } else { 0 }
}
