//! Prefill on cooperative matrices: its tile, when it serves, and which tile a device gets.

use crate::ops::dense::tile::{DeviceClass, looped};
use crate::ops::dense::variant::{Attend, Tile, Visits, staged_pieces};
use crate::ops::dense::{Dense, Weighting};
use crate::shader::Constant;
use crate::tensor::DType;
use crate::tier::{Abilities, MatrixElements, Tier};

/// Tile shape of `dense/prefill_cooperative.wgsl`, or with `elements` of `dense/prefill_elements.wgsl`; their headers have the
/// meaning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct CooperativeTile {
    /// Rows and columns of a matrix: 8 or 16, as the device has them.
    pub edge: u32,
    /// Strips of rows, a subgroup's each.
    pub strips: u32,
    /// Blocks of `edge` rows of a strip.
    pub row_blocks: u32,
    /// Keys of a tile, a multiple of `edge`.
    pub keys: u32,
    /// f16 slices that each factor is the sum of: 1, or 2 for split products, which are as precise as f32.
    pub slices: u32,
    /// Key tiles that workgroup memory holds: 1 or 2.
    pub stages: u32,
    /// Keys and values are loaded a tile earlier, into registers that last from one tile to the next. With two slices and
    /// two stages they must be.
    pub carried: bool,
    /// Invocations of a workgroup: for each strip as many as the largest subgroup of the device has.
    pub threads: u32,
    /// Invocations that share a row's weights: a power of two, no more than the smallest subgroup of the device has, and a
    /// divisor of a quarter of the keys.
    pub row_lanes: u32,
    /// A strip's invocations wait for each other without the workgroup's others. Only for subgroups that all have one size,
    /// which is `row_lanes` for each of a strip's rows.
    pub own_barriers: bool,
    /// Workgroup memory is in words of four elements, not of one. Metal's language wants single elements; with those an
    /// NVIDIA Vulkan driver (580.159.04) gives wrong results.
    pub vectors: bool,
    /// Loops over matrices are written out.
    pub written_out: bool,
    /// Long and short query tiles alternate, for devices that deal workgroups out in advance.
    pub alternate: bool,
    /// Scores and weights stay in registers, whose elements are as the device has them ([`Abilities::elements`]): with one
    /// slice, `edge` keys, two stages, carried, one lane to a row.
    pub elements: Option<MatrixElements>,
    /// Only with `elements`: scores are worked out again for a rescale instead of kept for it, which saves registers where most keys
    /// are seen without masks and takes longer where they are not.
    #[cfg_attr(feature = "tuned", serde(default))]
    pub scores_anew: bool,
}

impl CooperativeTile {
    /// Whether all fields are in range and the shader's static assertions hold.
    pub(crate) fn is_sound(&self) -> bool {
        let counts = [self.strips, self.row_blocks, self.keys, self.row_lanes];
        let elements = self.elements.is_none_or(|e| {
            (self.slices, self.stages, self.carried, self.row_lanes) == (1, 2, true, 1)
                && self.keys == self.edge
                && self.strips > 0
                && self.threads.is_multiple_of(self.strips)
                && e.fits(self.edge, self.lanes())
        });
        [8, 16].contains(&self.edge)
            && counts.iter().all(|n| (1..=256).contains(n))
            && elements
            && (!self.scores_anew || self.elements.is_some())
            && [1, 2].contains(&self.stages)
            && [1, 2].contains(&self.slices)
            && (self.slices == 1 || self.stages == 1 || self.carried)
            && self.keys.is_multiple_of(self.edge)
            && self.row_lanes.is_power_of_two()
            && (self.keys / 4).is_multiple_of(self.row_lanes)
            && self.rows() <= 1024
            && (self.strips..=1024).contains(&self.threads)
    }

    /// Whether it is made for subgroups of a device.
    pub(crate) fn suits(&self, abilities: &Abilities) -> bool {
        let (least, most) = abilities.subgroups.unwrap_or_default();
        // A strip in registers is exactly a subgroup's.
        let strip_fits = self.elements.is_some() || self.row_blocks * self.edge * self.row_lanes == most;
        let own = abilities.subgroup_barriers && least == most && strip_fits;
        let elements = self.elements.is_none() || self.elements == abilities.elements;
        elements && self.row_lanes <= least && self.threads == self.strips * most && (own || !self.own_barriers)
    }

    /// The tile with as many strips and blocks of rows whose scores and weights stay in registers; `None` where the device's
    /// matrices have no elements to get at.
    pub fn in_registers(self, abilities: &Abilities) -> Option<Self> {
        Some(CooperativeTile {
            keys: self.edge,
            slices: 1,
            stages: 2,
            carried: true,
            row_lanes: 1,
            own_barriers: abilities.subgroup_barriers,
            elements: Some(abilities.elements?),
            scores_anew: false,
            ..self
        })
    }

    /// What `shared/elements.wgsl` is to know.
    pub(crate) fn element_constants(&self) -> Vec<(&'static str, Constant)> {
        self.elements.map_or(vec![], |e| e.constants())
    }

    /// Query rows of a workgroup.
    pub const fn rows(&self) -> u32 {
        self.strips * self.row_blocks * self.edge
    }

    /// Invocations of a subgroup.
    pub(crate) const fn lanes(&self) -> u32 {
        self.threads / self.strips
    }

    /// Iterations of the loops over matrices of a key tile, those of a rescale included, where they are not written out.
    pub(crate) fn product_iterations(&self, head_dim: u32, value_dim: u32) -> u32 {
        let rows = looped(self.row_blocks, 0);
        if let Some(e) = self.elements {
            let scores = looped(head_dim.div_ceil(self.edge), rows) + 2 * rows;
            let masks = looped(self.row_blocks, looped(e.classes, looped(e.each, 0)));
            let weights = looped(self.row_blocks, looped(e.each, 0)) + 2 * looped(self.row_blocks * e.classes, 0);
            let tops = 2 * looped(e.classes, 2 * looped(8, 0)) + 2 * looped(e.each, 0);
            let blocks = looped(value_dim.div_ceil(self.edge), looped(e.each, 0));
            // Scores and masks once more, and values ahead.
            let anew = if self.scores_anew { scores + masks + 5 } else { 0 };
            let rescale = anew + looped(self.row_blocks, tops + blocks);
            let output = looped(value_dim.div_ceil(self.edge), rows);
            return scores + masks + weights + rescale + output + 3;
        }
        // A loop over rows for each pair of slices whose product counts.
        let products = self.slices * (self.slices + 1) / 2;
        let key_blocks = self.keys / self.edge;
        let head_blocks = head_dim.div_ceil(self.edge);
        let value_blocks = value_dim.div_ceil(self.edge);
        let start = looped(self.row_blocks * self.slices, 0);
        let scores = looped(key_blocks, start + rows + looped(head_blocks, products * rows));
        let output = looped(key_blocks, self.slices * rows + looped(value_blocks, rows));
        let lanes = looped(self.row_lanes.ilog2(), 0);
        scores + output + looped(value_blocks, 2 * rows) + lanes
    }

    /// Parts of q's columns that are staged one after the other: as few as fit where keys and values will be. Rows of weights
    /// are `weight_pitch` elements apart.
    pub(crate) fn q_parts(&self, head_dim: u32, value_dim: u32, weight_pitch: u32) -> u32 {
        let blocks = head_dim.div_ceil(self.edge);
        let room = self.tile_factors(head_dim, value_dim, weight_pitch);
        let fits = |parts: &u32| blocks.is_multiple_of(*parts) && self.q_part(head_dim, *parts) <= room;
        (1..=blocks).find(fits).unwrap_or(blocks)
    }

    /// Elements of workgroup memory that a part of q takes.
    fn q_part(&self, head_dim: u32, parts: u32) -> u32 {
        self.slices * self.strips * self.edge * (head_dim.div_ceil(self.edge) / parts * self.edge + 8)
    }

    /// Elements of workgroup memory that keys, values and weights take, without room behind the last row of weights.
    fn tile_factors(&self, head_dim: u32, value_dim: u32, weight_pitch: u32) -> u32 {
        let pitch = |d: u32| d.next_multiple_of(self.edge) + 8;
        let stages = self.stages * self.keys * (pitch(head_dim) + pitch(value_dim));
        if self.elements.is_some() {
            return stages;
        }
        self.slices * (stages + self.rows() * weight_pitch) - (weight_pitch - self.keys)
    }

    /// Elements of workgroup memory for factors.
    pub(crate) fn factors(&self, head_dim: u32, value_dim: u32, weight_pitch: u32) -> u32 {
        let q = self.q_part(head_dim, self.q_parts(head_dim, value_dim, weight_pitch));
        self.tile_factors(head_dim, value_dim, weight_pitch).max(q)
    }

    /// Elements from one row of weights to the next in prefill.
    fn weight_pitch(&self, value_dim: u32) -> u32 {
        self.keys + if self.keys > 16 || value_dim <= 128 { 8 } else { 0 }
    }

    /// As labels have it.
    pub(crate) fn shape(&self) -> String {
        format!(
            "matrices of {} tile {}x{}x{} strips {} threads {}/{}{}{}{}{}{}{}",
            self.edge,
            self.rows(),
            self.keys,
            self.stages,
            self.strips,
            self.threads,
            self.row_lanes,
            if self.slices == 2 { " split" } else { "" },
            if self.carried { " carried" } else { "" },
            if self.own_barriers { " own" } else { "" },
            if self.vectors { "" } else { " scalars" },
            self.elements.map(|e| e.label()).unwrap_or_default(),
            if self.scores_anew { " anew" } else { "" },
        )
    }

    /// Workgroup memory in bytes for so many elements of factors and of sums, and barriers.
    pub(crate) fn product_bytes(&self, factors: u32, sums: u32) -> u32 {
        let factors = 2 * factors;
        let rounds = if self.own_barriers { 0 } else { 16 };
        [factors, 4 * sums, rounds].iter().map(|n| n.next_multiple_of(16)).sum()
    }

    /// Workgroup memory in bytes.
    pub fn workgroup_bytes(&self, head_dim: u32, value_dim: u32) -> u32 {
        if self.elements.is_some() {
            let sums = self.strips * self.edge * (self.edge + 4);
            return self.product_bytes(self.factors(head_dim, value_dim, self.keys), sums) + 4 * self.edge;
        }
        let row_factors = (4 * self.rows()).next_multiple_of(16);
        let told = if self.slices == 1 { 0 } else { 32 };
        let sums = self.strips * self.keys * (self.row_blocks * self.edge + 4);
        let factors = self.factors(head_dim, value_dim, self.weight_pitch(value_dim));
        self.product_bytes(factors, sums) + row_factors + told
    }
}

impl Tile for CooperativeTile {
    fn kernel(&self) -> &'static str {
        match self.elements {
            Some(_) => "dense/prefill_elements",
            None => "dense/prefill_cooperative",
        }
    }

    const TIER: Tier = Tier::Cooperative;
    const CHECKS_LISTS: bool = true;

    fn tiles_of_an_entry(&self, keys: u32) -> u32 {
        keys / self.keys
    }

    fn label(&self) -> String {
        self.shape()
    }

    fn constants(&self, head_dim: u32, value_dim: u32) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        let mut constants = vec![
            ("STRIPS", Count(self.strips)),
            ("ROW_LANES", Count(self.row_lanes)),
            ("ROW_BLOCKS", Count(self.row_blocks)),
            ("KEYS", Count(self.keys)),
            ("STAGES", Count(self.stages)),
            ("SLICES", Count(self.slices)),
            ("CARRIED", Flag(self.carried)),
            (
                "Q_PARTS",
                Count(self.q_parts(head_dim, value_dim, self.weight_pitch(value_dim))),
            ),
            ("THREADS", Count(self.threads)),
            ("ALTERNATE", Flag(self.alternate)),
            ("MATRICES_WRITTEN_OUT", Count(self.written_out.into())),
        ];
        constants.extend(self.element_constants());
        constants
    }

    fn pieces<T>(&self, attend: &Attend<T>) -> Vec<&'static str> {
        let mut pieces = matrix_pieces(attend, self.edge, self.slices, self.vectors);
        pieces.push(strip_piece(self.own_barriers));
        if self.elements.is_some() {
            pieces.push(whole_piece(attend.visits));
            pieces.push(if self.scores_anew {
                "dense/scores_anew"
            } else {
                "dense/scores_kept"
            });
        }
        pieces
    }

    fn workgroup_bytes(&self, head_dim: u32, value_dim: u32) -> u32 {
        self.workgroup_bytes(head_dim, value_dim)
    }
}

/// The piece that tells whether a step takes no masks.
pub(super) fn whole_piece(visits: Visits) -> &'static str {
    match visits {
        Visits::All => "dense/whole_bounds",
        Visits::Listed(_) | Visits::Live(_) => "dense/whole_listed",
    }
}

/// The pieces of a kernel on matrices, as the fields of the same names have it.
pub(super) fn matrix_pieces<T>(attend: &Attend<T>, edge: u32, slices: u32, vectors: bool) -> Vec<&'static str> {
    let [matrix, staged] = staged_pieces(edge, vectors);
    vec![
        matrix,
        staged,
        if slices == 1 {
            "shared/slices_one"
        } else {
            "dense/slices_two"
        },
        factors_piece(attend, slices),
    ]
}

/// The piece that loads k and v for matrices.
pub(super) fn factors_piece<T>(attend: &Attend<T>, slices: u32) -> &'static str {
    match (slices, attend.dtype) {
        (1, DType::F16) if attend.vector_inputs => "dense/factors_native",
        (1, _) => "dense/factors_converted",
        _ => "dense/factors_exact",
    }
}

/// The piece by which a strip's invocations wait for one another.
pub(crate) fn strip_piece(own_barriers: bool) -> &'static str {
    if own_barriers {
        "shared/strip_subgroup"
    } else {
        "shared/strip_workgroup"
    }
}

/// Queries from which matrices pay: fewer leave most rows of a tile empty.
pub(super) const FEWEST_QUERIES: u32 = 17;

/// Slices that a problem's precision takes: f16 factors are exact for f16 tensors only.
pub(crate) fn slices_of(problem: &Dense) -> u32 {
    if problem.dtype == DType::F16 || problem.reduced_precision {
        1
    } else {
        2
    }
}

/// Whether factors of so many slices are as precise as a problem wants it.
pub(crate) fn precise_enough(problem: &Dense, slices: u32) -> bool {
    slices >= slices_of(problem)
}

/// D and Dv up to which there are split products: the registers hold O and both slices of q.
const SPLIT_DIM: u32 = 128;

/// Whether the planner takes the kernel into account. Split products on matrices of 8 are not measured.
pub(super) fn serves(problem: &Dense, device: &DeviceClass) -> bool {
    let measured = slices_of(problem) == 1 || device.abilities.matrices == Some(16);
    problem.queries >= FEWEST_QUERIES && (measured || device.forces(Tier::Cooperative))
}

/// Strips, blocks of rows of a strip, keys, stages, carried.
pub(crate) struct Candidate(pub u32, pub u32, pub u32, pub u32, pub bool);

/// For matrices of 16 and Dv above 64 and up to 128, best first, by measurements on an NVIDIA H200
/// (`benches/tune_cooperative.rs`). Its Vulkan driver lets workgroups have some 50 KiB of workgroup memory together on a
/// processor, so that of the first, which takes all of 48 at D = 128 with a list's verdict, one runs at a time, of 248 registers
/// an invocation, and of the second two. The last fits 16 KiB at D = 128.
const WIDE: &[Candidate] = &[
    Candidate(8, 2, 16, 2, true),
    Candidate(4, 2, 16, 1, true),
    Candidate(4, 1, 16, 1, true),
    Candidate(2, 1, 16, 1, true),
];

/// The same for larger Dv, whose rows of O fill the registers one block at a time; two workgroups of the first are at work on a
/// processor at D = 256.
const WIDEST: &[Candidate] = &[Candidate(4, 1, 16, 1, false), Candidate(2, 1, 16, 1, true)];

/// The same for Dv up to 64.
const NARROW: &[Candidate] = &[
    Candidate(4, 2, 16, 1, true),
    Candidate(2, 2, 16, 1, true),
    Candidate(4, 1, 16, 1, true),
    Candidate(2, 1, 16, 1, true),
];

/// For split products, matrices of 16 and Dv above 64, best first, by measurements on an NVIDIA H100: O and both slices of q
/// fill the registers with one block of rows at D = 128. Two stages do not fit 48 KiB there.
const SPLIT_WIDE: &[Candidate] = &[
    Candidate(8, 1, 16, 1, false),
    Candidate(4, 1, 16, 1, false),
    Candidate(2, 1, 16, 1, true),
    Candidate(1, 1, 16, 1, true),
];

/// The same for Dv up to 64.
const SPLIT_NARROW: &[Candidate] = &[
    Candidate(4, 1, 16, 1, false),
    Candidate(2, 1, 16, 1, true),
    Candidate(1, 1, 16, 1, true),
];

/// The same for matrices of 8.
const SPLIT_EDGE_8: &[Candidate] = &[
    Candidate(4, 1, 16, 1, true),
    Candidate(4, 1, 8, 1, true),
    Candidate(2, 1, 8, 1, true),
];

/// For matrices of 8, best first; reasoned, not measured.
pub(crate) const EDGE_8: &[Candidate] = &[
    Candidate(4, 2, 16, 2, true),
    Candidate(4, 1, 16, 2, true),
    Candidate(4, 1, 16, 1, true),
    Candidate(2, 1, 8, 1, true),
];

/// For processors that emulate matrices of 8: little code, which is what their compilers take long for. Of many strips each
/// invocation has few loads to write out, and not carried there are fewer of them: 33 to 41 s of compiling with 4 strips and
/// carried loads became 16 to 21 (D = 64 and 128, Mesa 26.1 on LLVM 19, whose x86 code has a branch for each lane of a load).
pub(crate) const SOFTWARE: &[Candidate] = &[
    Candidate(8, 1, 8, 1, false),
    Candidate(4, 1, 8, 1, false),
    Candidate(2, 1, 8, 1, false),
];

/// Strips and blocks of rows of a strip where scores and weights stay in registers, for Dv above 64 and up to 128, best first,
/// by measurements on an NVIDIA H200 (`benches/tune_cooperative.rs`): 8 strips of the first have a processor to themselves.
const ELEMENTS_WIDE: &[[u32; 2]] = &[[8, 2], [4, 2], [4, 1], [2, 1]];

/// The same for larger Dv.
const ELEMENTS_WIDEST: &[[u32; 2]] = &[[8, 1], [4, 1], [2, 1]];

/// The same for Dv up to 64.
const ELEMENTS_NARROW: &[[u32; 2]] = &[[4, 3], [4, 2], [2, 2], [4, 1], [2, 1]];

/// The same for processors that emulate matrices: as `SOFTWARE`.
const ELEMENTS_SOFTWARE: &[[u32; 2]] = &[[8, 1], [4, 1], [2, 1]];

/// Tiles whose scores and weights stay in registers, best first, a full tile both with scores made anew and with scores kept; none
/// where the device's matrices have no elements to get at.
fn in_registers(problem: &Dense, device: &DeviceClass) -> Vec<CooperativeTile> {
    let shapes = match problem.value_dim() {
        _ if device.software => ELEMENTS_SOFTWARE,
        ..=64 => ELEMENTS_NARROW,
        65..=128 => ELEMENTS_WIDE,
        _ => ELEMENTS_WIDEST,
    };
    let ways = |kept: CooperativeTile| {
        let anew = CooperativeTile {
            scores_anew: true,
            ..kept
        };
        match (bare(problem) && is_full(&kept, problem), sees_many(problem)) {
            (true, true) => vec![anew, kept],
            (true, false) => vec![kept, anew],
            (false, _) => vec![kept],
        }
    };
    tiles_in_registers(shapes, device).into_iter().flat_map(ways).collect()
}

/// Tiles of so many strips and blocks of rows of a strip whose scores and weights stay in registers, those that a device can have.
pub(crate) fn tiles_in_registers(shapes: &[[u32; 2]], device: &DeviceClass) -> Vec<CooperativeTile> {
    let edge = device.abilities.matrices.unwrap_or_default();
    let candidate = |&[strips, blocks]: &[u32; 2]| Candidate(strips, blocks, edge, 2, true);
    let list: Vec<_> = shapes.iter().map(candidate).collect();
    let tiles = tiles(&list, 1, device).into_iter();
    tiles
        .filter_map(|tile| tile.in_registers(&device.abilities))
        .filter(|tile| tile.is_sound() && tile.suits(&device.abilities))
        .collect()
}

/// Keys of a query, on average, from which scores are made anew: where most are seen without masks. That takes 0.98 of the time
/// with 2048 (causal over 4096), 0.97 with 4096 and 1.11 with a window of 256; in between is not measured.
const MANY_KEYS: u32 = 2048;

/// Whether a query sees so many keys, the last query standing at the last key.
fn sees_many(problem: &Dense) -> bool {
    let right = match problem.causal {
        true => Some(0),
        false => problem.window_right,
    };
    let up_to = |right: u32| problem.keys.saturating_sub(problem.queries / 2).saturating_add(right);
    let visible = right.map_or(problem.keys, |right| problem.keys.min(up_to(right)));
    let window = |left: u32| left.saturating_add(right.unwrap_or(u32::MAX)).saturating_add(1);
    visible.min(problem.window_left.map_or(u32::MAX, window)) >= MANY_KEYS
}

/// Whether nothing but positions hides a key, and nothing changes a score.
fn bare(problem: &Dense) -> bool {
    let hooks = problem.softcap.is_some() || problem.bias.is_some() || problem.alibi || problem.custom.is_some();
    let hidden = problem.mask.is_some() || problem.documents.is_some() || problem.selection.is_some();
    !hooks && !hidden && problem.weighting == Weighting::Softmax
}

/// Whether O, q and scores fill the registers, so that it may pay to make scores anew.
fn is_full(tile: &CooperativeTile, problem: &Dense) -> bool {
    (tile.edge, tile.strips, tile.row_blocks) == (16, 8, 2) && problem.value_dim() > 64
}

/// Tiles that serve a problem on a device, best first.
pub(super) fn candidates(problem: &Dense, device: &DeviceClass) -> Vec<CooperativeTile> {
    let slices = slices_of(problem);
    // naga writes sums of matrices for Metal as sums, which that language does not promise.
    let wide = problem.head_dim.max(problem.value_dim()) > SPLIT_DIM;
    if slices == 2 && (device.scalar_matrices || wide) {
        return vec![];
    }
    let all = match (device.abilities.matrices, slices, device.software) {
        (Some(16), 1, _) if problem.value_dim() <= 64 => NARROW,
        (Some(16), 1, _) if problem.value_dim() <= 128 => WIDE,
        (Some(16), 1, _) => WIDEST,
        (Some(16), _, _) if problem.value_dim() <= 64 => SPLIT_NARROW,
        (Some(16), _, _) => SPLIT_WIDE,
        (_, _, true) => SOFTWARE,
        (_, 1, false) => EDGE_8,
        (_, _, false) => SPLIT_EDGE_8,
    };
    let fits = |t: &CooperativeTile| {
        t.workgroup_bytes(problem.head_dim, problem.value_dim()) + list_bytes(problem) <= device.workgroup_memory
    };
    let elements = if slices == 1 {
        in_registers(problem, device)
    } else {
        vec![]
    };
    let others = tiles(all, slices, device);
    elements.into_iter().chain(others).filter(fits).collect()
}

/// Those of a list that a device can have, whatever workgroup memory they take; none where it has no matrices.
pub(crate) fn tiles(list: &[Candidate], slices: u32, device: &DeviceClass) -> Vec<CooperativeTile> {
    let (Some(edge), Some((least, most))) = (device.abilities.matrices, device.abilities.subgroups) else {
        return vec![];
    };
    let tile = |&Candidate(strips, row_blocks, keys, stages, carried): &Candidate| {
        let lanes = (most / (row_blocks * edge)).clamp(1, (keys / 4).min(least));
        let tile = CooperativeTile {
            edge,
            strips,
            row_blocks,
            keys,
            slices,
            stages,
            carried,
            threads: strips * most,
            row_lanes: lanes.next_power_of_two(),
            own_barriers: true,
            vectors: !device.scalar_matrices,
            written_out: !device.software,
            alternate: device.software,
            elements: None,
            scores_anew: false,
        };
        CooperativeTile {
            own_barriers: tile.suits(&device.abilities),
            ..tile
        }
    };
    let runs = |t: &CooperativeTile| t.is_sound() && t.suits(&device.abilities) && t.threads <= device.invocations;
    list.iter().map(tile).filter(runs).collect()
}

/// What a verdict on a list takes of workgroup memory.
fn list_bytes(problem: &Dense) -> u32 {
    if problem.selection.is_some() { 16 } else { 0 }
}

/// A device with matrices of 16 in subgroups of 32.
#[cfg(test)]
pub(super) fn tensor_cores(elements: Option<MatrixElements>) -> DeviceClass {
    DeviceClass {
        workgroup_memory: 48 << 10,
        invocations: 1024,
        software: false,
        processors: 132,
        abilities: Abilities {
            subgroups: Some((32, 32)),
            subgroup_barriers: true,
            matrices: Some(16),
            elements,
            ..Abilities::NONE
        },
        tier: None,
        scalar_matrices: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dense::Selection;

    fn prompt() -> Dense {
        Dense {
            queries: 4096,
            keys: 4096,
            head_dim: 128,
            dtype: DType::F16,
            ..Dense::default()
        }
    }

    #[test]
    fn scores_are_made_anew_where_most_keys_are_seen_without_masks() {
        let device = tensor_cores(Some(MatrixElements::OF_TENSOR_CORES));
        let full = prompt();
        let ways = |p: &Dense| -> Vec<_> {
            let tiles = candidates(p, &device);
            tiles.iter().take(3).map(|t| (t.strips, t.scores_anew)).collect()
        };
        let anew = [(8, true), (8, false), (4, false)];
        let kept = [(8, false), (8, true), (4, false)];
        assert_eq!(ways(&full), anew);
        let causal = |queries| Dense {
            causal: true,
            queries,
            ..full.clone()
        };
        assert_eq!(ways(&causal(4096)), anew);
        let short = Dense {
            keys: 2048,
            ..causal(2048)
        };
        assert_eq!(ways(&short), kept);
        let window = |left| Dense {
            window_left: Some(left),
            ..causal(4096)
        };
        assert_eq!(ways(&window(255)), kept);
        assert_eq!(ways(&window(2047)), anew);
        let right = |queries| Dense {
            window_right: Some(0),
            queries,
            keys: queries,
            ..full.clone()
        };
        assert_eq!(ways(&right(4096)), anew);
        assert_eq!(ways(&right(4000)), kept);
        let capped = Dense {
            softcap: Some(30.0),
            ..full.clone()
        };
        assert_eq!(ways(&capped)[..2], [(8, false), (4, false)]);
        let narrow = Dense { head_dim: 64, ..full };
        assert!(candidates(&narrow, &device).iter().all(|t| !t.scores_anew));
    }

    #[test]
    fn the_largest_tile_leaves_room_for_a_verdict_on_a_list() {
        let device = tensor_cores(None);
        let whole = prompt();
        let listed = Dense {
            selection: Some(Selection {
                query_block: 256,
                block_size: 16,
                capacity: 64,
                per_kv_head: false,
            }),
            ..whole.clone()
        };
        let first = candidates(&whole, &device).remove(0);
        assert_eq!(candidates(&listed, &device).first(), Some(&first));
        assert_eq!(
            first.workgroup_bytes(128, 128) + list_bytes(&listed),
            device.workgroup_memory
        );
    }
}
