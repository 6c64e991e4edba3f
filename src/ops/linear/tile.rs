//! Which kernels and tiles serve a linear problem: pure functions of problem and device.

use crate::error::Result;
use crate::ops::dense::cooperative::CooperativeTile as SegmentTile;
use crate::ops::dense::tile::{DeviceClass, no_tile};
use crate::ops::linear::carried::CarriedTile;
use crate::ops::linear::cooperative::{self, CooperativeTile};
use crate::ops::linear::variant::{ChunkTile, StepTile};
use crate::ops::linear::{Decay, Linear};
use crate::ops::linear::{carried, rules, segments};

/// How a problem is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub enum Form {
    /// Token by token, `linear/step.wgsl`: for one token or a few.
    Step(StepTile),
    /// One pass over each sequence with the state on chip, `linear/chunk.wgsl`.
    Serial(ChunkTile),
    /// Sequences cut into segments that are computed side by side, in three dispatches: `linear/chunk_state.wgsl`,
    /// `linear/scan.wgsl`, `linear/chunk.wgsl`.
    Split {
        /// Tile of the first and the last.
        tile: ChunkTile,
        /// Tokens of a segment, a multiple of the tile's rows.
        segment: u32,
    },
    /// As `Serial`, on cooperative matrices, `linear/chunk_cooperative.wgsl`.
    Cooperative(CooperativeTile),
    /// As `Split`, with the first and the last of the three dispatches on cooperative matrices: `linear/chunk_state_cooperative.wgsl`,
    /// `linear/scan.wgsl`, `linear/segment_cooperative.wgsl` or `linear/segment_elements.wgsl`.
    CooperativeSplit {
        /// Tile of the first.
        state: CooperativeTile,
        /// Tile of the last.
        output: SegmentTile,
        /// Tokens of a segment, a multiple of the rows of the last's tile.
        segment: u32,
    },
    /// As `CooperativeSplit`, the last dispatch carrying the state through a segment: `linear/carried_elements.wgsl`.
    Carried {
        /// Tile of the first.
        state: CooperativeTile,
        /// Tile of the last.
        output: CarriedTile,
        /// Tokens of a segment, a multiple of the rows of the last's tile.
        segment: u32,
    },
}

impl Form {
    /// Tokens of a segment, where there are several.
    pub fn segment(self) -> Option<u32> {
        match self {
            Form::Split { segment, .. } | Form::CooperativeSplit { segment, .. } | Form::Carried { segment, .. } => {
                Some(segment)
            }
            Form::Step(_) | Form::Serial(_) | Form::Cooperative(_) => None,
        }
    }

    /// Sections of a segment whose sums are workgroups of their own, and stand in memory, until the scan adds them up.
    pub(crate) fn sections(self, p: &Linear) -> u32 {
        let room = p.documents.unwrap_or(0) <= carried::MOST_OF_SECTIONS;
        match self {
            Form::Carried { segment, .. }
                if segment >= carried::LEAST_OF_SECTIONS && p.decay == Decay::Head && room =>
            {
                2
            }
            _ => 1,
        }
    }

    /// As it is, with segments of so many tokens where there are several.
    pub fn with_segment(self, segment: u32) -> Form {
        match self {
            Form::Split { tile, .. } => Form::Split { tile, segment },
            Form::CooperativeSplit { state, output, .. } => Form::CooperativeSplit { state, output, segment },
            Form::Carried { state, output, .. } => Form::Carried { state, output, segment },
            Form::Step(_) | Form::Serial(_) | Form::Cooperative(_) => self,
        }
    }

    /// Tokens that a segment is a multiple of.
    pub fn chunk(self) -> u32 {
        match self {
            Form::Step(_) => 1,
            Form::Serial(tile) | Form::Split { tile, .. } => tile.rows(),
            Form::Cooperative(tile) => tile.rows(),
            Form::CooperativeSplit { output, .. } => output.rows(),
            Form::Carried { output, .. } => output.rows(),
        }
    }

    /// Columns of the values that a workgroup owns, in the first dispatch.
    pub(crate) fn columns(self) -> u32 {
        match self {
            Form::Step(tile) => 4 * tile.lanes,
            Form::Serial(tile) | Form::Split { tile, .. } => tile.columns(),
            Form::Cooperative(tile)
            | Form::CooperativeSplit { state: tile, .. }
            | Form::Carried { state: tile, .. } => tile.columns(),
        }
    }

    /// Workgroups for each segment of a head, or for the whole sequence, in the first dispatch and the last.
    pub(crate) fn workgroups(self, p: &Linear) -> [u32; 2] {
        let tiles = p.value_dim().div_ceil(self.columns());
        match self {
            Form::CooperativeSplit { output, segment, .. } => [tiles, segment.div_ceil(output.rows())],
            Form::Carried { .. } => [tiles * self.sections(p), 1],
            _ => [tiles; 2],
        }
    }

    /// Invocations of a workgroup, in the dispatch where they are most.
    pub(crate) fn threads(self) -> u32 {
        match self {
            Form::Step(tile) => tile.threads(),
            Form::Serial(tile) | Form::Split { tile, .. } => tile.threads(),
            Form::Cooperative(tile) => tile.threads,
            Form::CooperativeSplit { state, output, .. } => state.threads.max(output.threads),
            Form::Carried { state, output, .. } => state.threads.max(output.threads),
        }
    }
}

/// Overrides of what the planner would choose, for measurements and tests. `None` leaves the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinearTuning {
    /// The form, with tile and segment.
    pub form: Option<Form>,
}

/// Tokens up to which the step kernel serves.
const STEP_TOKENS: u32 = 8;

/// Row groups, rows of an invocation, lanes, keys of an invocation, vectors of four columns, vectors of the head dimension
/// staged at once at most, tokens staged at once, steps written out.
struct Candidate(u32, u32, u32, u32, u32, u32, u32, u32);

/// Tiles to try on a GPU, best first, by measurements on an NVIDIA H200 (`benches/tune_linear.rs`). One workgroup for all
/// 128 columns, so that scores are worked out once. The last fits 16 KiB at any D and any device with 64 invocations.
const GPU_WIDE: &[Candidate] = &[
    Candidate(16, 4, 16, 4, 2, 8, 16, 4),
    Candidate(16, 4, 16, 4, 1, 8, 16, 4),
    Candidate(16, 2, 8, 4, 2, 8, 8, 4),
    Candidate(8, 4, 8, 4, 1, 4, 8, 4),
    Candidate(8, 4, 8, 4, 1, 2, 4, 1),
];

/// The same for Dv up to 64, where several workgroups share a processor of the GPU: short chunks, few registers.
const GPU_NARROW: &[Candidate] = &[
    Candidate(16, 2, 8, 4, 2, 8, 32, 4),
    Candidate(16, 2, 8, 4, 2, 8, 8, 4),
    Candidate(8, 4, 8, 4, 1, 4, 8, 4),
    Candidate(8, 4, 8, 4, 1, 2, 4, 1),
];

/// The same where each has one to itself.
const GPU_NARROW_FEW: &[Candidate] = &[
    Candidate(16, 4, 16, 4, 1, 8, 16, 4),
    Candidate(8, 4, 8, 4, 1, 4, 8, 4),
    Candidate(8, 4, 8, 4, 1, 2, 4, 1),
];

/// The same where sequences are cut into segments.
const GPU_NARROW_SPLIT: &[Candidate] = &[
    Candidate(16, 4, 16, 4, 1, 4, 8, 4),
    Candidate(8, 4, 8, 4, 1, 4, 8, 4),
    Candidate(8, 4, 8, 4, 1, 2, 4, 1),
];

/// Tiles to try on a software GPU, best first: large register tiles, since every load is dear.
const SOFTWARE: &[Candidate] = &[
    Candidate(8, 8, 8, 8, 2, 8, 16, 2),
    Candidate(8, 4, 8, 4, 2, 4, 8, 2),
    Candidate(8, 4, 8, 4, 1, 2, 4, 1),
];

/// Tiles to try with a decay per channel, whose products take an exponential each, and whose running sums fill workgroup
/// memory and lose accuracy with their length: short chunks. (Chunks of 32 were a tenth to a quarter faster on the H200.)
const CHANNEL: &[Candidate] = &[
    Candidate(16, 1, 4, 4, 4, 8, 16, 2),
    Candidate(16, 1, 4, 4, 2, 8, 16, 2),
    Candidate(16, 1, 4, 4, 2, 4, 4, 2),
    Candidate(8, 1, 2, 4, 4, 4, 4, 1),
];

/// The form that serves a problem on a device.
///
/// # Errors
/// [`crate::Error::Invalid`] if the problem is, [`crate::Error::Limit`] where even the smallest tile does not fit.
pub fn choose(p: &Linear, device: &DeviceClass) -> Result<Form> {
    rules::check(p)?;
    choose_for(p, device, rows(p))
}

/// As [`choose`], for a call that is cut into parts of so many heads of all sequences.
pub(crate) fn choose_for(p: &Linear, device: &DeviceClass, rows: u64) -> Result<Form> {
    if steps(p) {
        return Ok(Form::Step(step_tile(p, device)));
    }
    if let Some(form) = on_matrices(p, device, rows) {
        return Ok(form);
    }
    let tile = chunk_tile(p, device, candidates(p, device, rows, false))?;
    if serial_pays(p, device, rows, Form::Serial(tile), tile.rows()) {
        return Ok(Form::Serial(tile));
    }
    let tile = chunk_tile(p, device, candidates(p, device, rows, true))?;
    Ok(split(
        p,
        device,
        rows,
        |segment| Form::Split { tile, segment },
        tile.rows(),
    ))
}

/// The form on cooperative matrices, where they pay and workgroup memory is enough.
fn on_matrices(p: &Linear, device: &DeviceClass, rows: u64) -> Option<Form> {
    if !cooperative::pays(p, device) {
        return None;
    }
    let one_pass = cooperative::first_of(&cooperative::candidates(p, device), p, device).map(Form::Cooperative);
    let one_pass = one_pass.filter(|form| serial_serves(p, device, *form, form.chunk()));
    if let Some(form) = carried_form(p, device, rows) {
        return Some(form);
    }
    let (state, output) = segment_tiles(p, device, rows);
    let (Some(&state), Some(&output)) = (state.first(), output.first()) else {
        return one_pass;
    };
    let form = |segment| Form::CooperativeSplit { state, output, segment };
    let split = segment_length(p, device, rows, form);
    match one_pass {
        // Where matrices are emulated, three kernels are three times the code to compile, for minutes at D = 128.
        Some(form) if device.software || p.tokens <= form.chunk() * SHORT_CHUNKS => Some(form),
        _ => Some(split),
    }
}

/// Segments whose outputs carry the state along. Measured with f16, D = Dv = 64 and 128, 1 to 128 heads, and 1024 to 65536 tokens.
fn carried_form(p: &Linear, device: &DeviceClass, rows: u64) -> Option<Form> {
    let measured = device.abilities.matrices == Some(16) && p.head_dim.max(p.value_dim()) <= 128;
    let cut = carried::Cut::new(p, rows, tokens_of_a_sequence(p));
    if device.software || !measured || !cut.pays() {
        return None;
    }
    let output = *cut.outputs(p, device).first()?;
    let state = *cut.states(p, device).first()?;
    let segment = cut.length(&output);
    Some(Form::Carried { state, output, segment })
}

/// Tokens of a sequence, of a document on average.
fn tokens_of_a_sequence(p: &Linear) -> u32 {
    p.tokens.div_ceil(p.documents.unwrap_or(1))
}

/// Chunks up to which one pass takes less time than three dispatches.
const SHORT_CHUNKS: u32 = 4;

/// Segments of all heads, and tiles of their outputs, below which shorter ones make a GPU do more at a time.
const FEW_SEGMENTS: u64 = 256;

/// A form of segments on matrices, with segments as long as is best where there are enough of them, and shorter ones where that
/// leaves the device idle.
fn segment_length(p: &Linear, device: &DeviceClass, rows: u64, form: impl Fn(u32) -> Form) -> Form {
    let chunk = form(1).chunk();
    if !p.causal {
        // Outputs do not depend on the length, and states are fewer where it is large.
        return split(p, device, rows, form, chunk);
    }
    let few = if device.software { fill(device).1 } else { FEW_SEGMENTS };
    let mut segment = segments::length(p).next_multiple_of(chunk);
    while segment > chunk && rows * u64::from(tokens_of_a_sequence(p).div_ceil(segment)) < few {
        segment = (segment / 2).next_multiple_of(chunk);
    }
    let longest = longest(p, device, form(chunk), chunk).min(u32::MAX.into()) as u32 / chunk * chunk;
    form(segment.min(longest.max(chunk)).min(p.tokens.next_multiple_of(chunk)))
}

/// Tiles of states and of outputs for segments on matrices, best first, for so many heads of all sequences.
fn segment_tiles(p: &Linear, device: &DeviceClass, rows: u64) -> (Vec<CooperativeTile>, Vec<SegmentTile>) {
    let mut states = segments::state_candidates(p, device);
    if let Some(first) = cooperative::first_of(&states, p, device) {
        states.retain(|t| *t != first);
        states.insert(0, first);
    }
    let mut outputs = segments::candidates(p, device);
    if let Some(at) = output_of_size(&outputs, p, rows) {
        outputs[..=at].rotate_right(1);
    }
    (states, outputs)
}

/// Tokens of a tile of outputs, at least, where larger ones leave the device idle.
const SMALL_OUTPUT: u32 = 64;

/// Which tile of outputs is the first that makes enough workgroups of so many heads of all sequences, or the smallest that is not
/// too small.
fn output_of_size(tiles: &[SegmentTile], p: &Linear, rows: u64) -> Option<usize> {
    let large = || {
        let tiles = tiles.iter().enumerate();
        tiles.filter(|(_, t)| t.rows() >= SMALL_OUTPUT)
    };
    let enough = |t: &SegmentTile| rows * u64::from(tokens_of_a_sequence(p).div_ceil(t.rows())) >= FEW_SEGMENTS;
    let found = large().find(|(_, t)| enough(t));
    let found = found.or_else(|| large().min_by_key(|(_, t)| t.rows()));
    found.map(|(at, _)| at)
}

/// Workgroups for one pass to fill a device well enough; those that segments aim at; segments of a sequence at most, since the
/// scan takes them one after the other.
fn fill(device: &DeviceClass) -> (u64, u64, u64) {
    let processors = u64::from(device.processors.max(1));
    match device.software {
        true => (processors, 4 * processors, 4 * processors),
        false => (96, 512, 128),
    }
}

/// Workgroups of a form in which each has a whole sequence, for so many heads of all sequences.
fn workgroups(p: &Linear, form: Form, rows: u64) -> u64 {
    rows * u64::from(form.workgroups(p)[0])
}

/// Whether a form of one pass can serve, with chunks of so many tokens.
fn serial_serves(p: &Linear, device: &DeviceClass, form: Form, chunk: u32) -> bool {
    let apart = p.normalize.is_some() && p.in_place && p.value_dim() > form.columns();
    p.causal && !apart && u64::from(p.tokens) <= longest(p, device, form, chunk)
}

/// Whether a form of one pass can serve, with chunks of so many tokens, and fills the device.
fn serial_pays(p: &Linear, device: &DeviceClass, rows: u64, form: Form, chunk: u32) -> bool {
    let in_order = workgroups(p, form, rows) >= fill(device).0 || p.tokens <= 2 * chunk;
    in_order && serial_serves(p, device, form, chunk)
}

/// A form of segments whose length fills the device, in chunks of so many tokens.
fn split(p: &Linear, device: &DeviceClass, rows: u64, form: impl Fn(u32) -> Form, chunk: u32) -> Form {
    let (_, fill, most) = fill(device);
    let segments = fill.div_ceil(workgroups(p, form(chunk), rows)).min(most) as u32;
    let longest = longest(p, device, form(chunk), chunk).min(p.tokens.next_multiple_of(chunk).into()) as u32;
    form(p.tokens.div_ceil(segments).next_multiple_of(chunk).min(longest))
}

/// Tokens that a workgroup can take, in chunks of so many.
fn longest(p: &Linear, device: &DeviceClass, form: Form, chunk: u32) -> u64 {
    let chunks = device.loop_iterations() / iterations_of(p, form, chunk);
    chunks.max(1).saturating_mul(chunk.into())
}

/// Iterations of all loops of an invocation for so many tokens of a form that takes chunks.
fn iterations_of(p: &Linear, form: Form, tokens: u32) -> u64 {
    let normalize = p.normalize.is_some();
    let chunks = |t: &ChunkTile| {
        u64::from(tokens.div_ceil(t.rows())) * u64::from(t.loop_iterations(p.head_dim, p.decay, normalize))
    };
    // Loading and storing the state is as long as a chunk, nearly.
    let matrices = |t: &CooperativeTile| {
        u64::from(tokens.div_ceil(t.rows()) + 3) * u64::from(t.loop_iterations(p.head_dim, normalize))
    };
    match form {
        Form::Step(_) => 0,
        Form::Serial(tile) | Form::Split { tile, .. } => chunks(&tile),
        Form::Cooperative(tile) => matrices(&tile),
        Form::CooperativeSplit { state, output, .. } => {
            matrices(&state).max(segments::loop_iterations(&output, p, tokens).into())
        }
        Form::Carried { state, output, .. } => matrices(&state).max(output.loop_iterations(p, tokens)),
    }
}

/// Refuses a form whose loops are too long for the device.
pub(crate) fn check_loops(p: &Linear, form: Form, device: &DeviceClass) -> Result<()> {
    let iterations = match form {
        Form::Step(t) => {
            let quads = p.head_dim.div_ceil(4).div_ceil(t.groups) * if p.decay == Decay::Channel { 5 } else { 1 };
            let of_normalizer = if p.normalize.is_some() {
                p.head_dim.div_ceil(t.threads())
            } else {
                0
            };
            u64::from(p.tokens) * u64::from(1 + quads + of_normalizer + 2 * t.groups)
        }
        _ => {
            // Whose tokens they are is looked for document by document.
            let documents = p.documents.unwrap_or(0);
            iterations_of(p, form, form.segment().unwrap_or(p.tokens).min(p.tokens)) + u64::from(documents)
        }
    };
    device.check_loops("this length in one pass, instead of in shorter segments,", iterations)?;
    if p.total_decay && p.decay != Decay::Head {
        let rows = if p.decay == Decay::Channel { 4 } else { 64 };
        device.check_loops(
            "`total_decay` over so many tokens",
            u64::from(p.tokens.div_ceil(rows * 16)) + 64,
        )?;
    }
    Ok(())
}

/// Tiles to try, best first, for so many heads of all sequences.
fn candidates(p: &Linear, device: &DeviceClass, rows: u64, split: bool) -> &'static [Candidate] {
    match (p.decay, device.software) {
        (Decay::Channel, _) if p.value_dim() > 64 => CHANNEL,
        // The first is for more columns.
        (Decay::Channel, _) => &CHANNEL[1..],
        (_, true) => SOFTWARE,
        (_, false) if p.value_dim() > 64 => GPU_WIDE,
        (_, false) if split => GPU_NARROW_SPLIT,
        (_, false) if rows < 256 => GPU_NARROW_FEW,
        (_, false) => GPU_NARROW,
    }
}

/// Whether the step kernel serves a problem best.
fn steps(p: &Linear) -> bool {
    p.tokens <= STEP_TOKENS && steps_at_all(p)
}

/// Whether the step kernel can serve a problem: between several tokens it keeps the state where the final one goes.
pub(crate) fn steps_at_all(p: &Linear) -> bool {
    p.causal && p.documents.is_none() && !p.state_only && (p.tokens == 1 || p.final_state)
}

/// With a normaliser a workgroup takes all the columns, because it updates z for them.
fn step_tile(p: &Linear, device: &DeviceClass) -> StepTile {
    let vecs = p.value_dim().div_ceil(4).next_power_of_two();
    if device.software {
        let lanes = if p.normalize.is_some() { vecs } else { vecs.min(8) };
        return StepTile { lanes, groups: 1 };
    }
    let lanes = if p.normalize.is_some() { vecs } else { vecs.min(16) };
    let groups = (device.invocations.min(256) / lanes).clamp(1, p.head_dim.div_ceil(4).next_power_of_two());
    StepTile { lanes, groups }
}

/// Vectors of the head dimension staged at once: parts of equal length, at most `most`, that the rows of the state held
/// in registers cover.
fn part(head_dim: u32, row_groups: u32, most: u32) -> u32 {
    let quads = head_dim.div_ceil(4);
    let covered = quads.div_ceil(row_groups) * row_groups;
    let even = |n: u32| quads.div_ceil(quads.div_ceil(n));
    (1..=most)
        .rev()
        .map(even)
        .find(|n| quads.div_ceil(*n) * n <= covered)
        .unwrap_or(1)
}

fn chunk_tiles<'a>(p: &'a Linear, candidates: &'a [Candidate]) -> impl Iterator<Item = ChunkTile> + Clone + 'a {
    candidates.iter().map(|c| ChunkTile {
        row_groups: c.0,
        row_regs: c.1,
        lanes: c.2,
        key_regs: c.3,
        value_vecs: c.4,
        chunk: part(p.head_dim, c.0, c.5),
        tokens: c.6,
        unroll: c.7,
    })
}

fn fits(p: &Linear, device: &DeviceClass, tile: &ChunkTile) -> bool {
    tile.workgroup_bytes(p.head_dim, p.decay, p.normalize.is_some()) <= device.workgroup_memory
        && tile.threads() <= device.invocations
}

/// Registers of an invocation for its part of the state.
fn registers(p: &Linear, tile: &ChunkTile) -> u32 {
    p.head_dim.div_ceil(4 * tile.row_groups) * 16 * tile.value_vecs
}

fn chunk_tile(p: &Linear, device: &DeviceClass, candidates: &[Candidate]) -> Result<ChunkTile> {
    let tiles = chunk_tiles(p, candidates);
    // A state spread over too few invocations would not stay in a GPU's registers.
    let most = match (device.software, p.decay) {
        (true, _) => u32::MAX,
        (false, Decay::Channel) => 128,
        (false, _) => 64,
    };
    let registers = |t: &ChunkTile| registers(p, t);
    let fitting = || tiles.clone().filter(|t| fits(p, device, t));
    let chosen = fitting()
        .find(|t| registers(t) <= most)
        .or_else(|| fitting().min_by_key(registers));
    chosen.ok_or_else(|| {
        let bytes = |t: &ChunkTile| t.workgroup_bytes(p.head_dim, p.decay, p.normalize.is_some());
        let smallest = tiles.clone().min_by_key(bytes);
        let (bytes, threads) = smallest.map(|t| (bytes(&t), t.threads())).unwrap_or_default();
        no_tile(bytes, threads, device)
    })
}

/// Registers for the state up to which a tile is worth trying.
const MOST_REGISTERS: u32 = 128;

/// Forms worth trying on a device beside the planner's choice, for measurements: every tile in its lists that fits, with no
/// more columns than the problem has, rounded up to 64, and on cooperative matrices where the device has them and the problem
/// allows them; in one pass, and over segments as long as the planner would make them, half, and twice as long. None for the
/// few tokens of a step, or an invalid problem.
pub fn alternatives(p: &Linear, device: &DeviceClass) -> Vec<Form> {
    if rules::check(p).is_err() || steps(p) {
        return vec![];
    }
    let mut all = vec![];
    for tile in every_tile(p, device) {
        all.push(Form::Serial(tile));
        let form = |segment| Form::Split { tile, segment };
        let planned = split(p, device, rows(p), form, tile.rows())
            .segment()
            .unwrap_or(tile.rows());
        all.extend(segmented(p, device, planned, form));
    }
    if cooperative::can(p, device) {
        all.extend(cooperative::candidates(p, device).into_iter().map(Form::Cooperative));
        let (states, outputs) = segment_tiles(p, device, self::rows(p));
        // Every tile beside the other kernel's best one.
        let best_output = outputs
            .first()
            .into_iter()
            .flat_map(|o| states.iter().map(move |s| (*s, *o)));
        let best_state = states
            .first()
            .into_iter()
            .flat_map(|s| outputs.iter().skip(1).map(move |o| (*s, *o)));
        for (state, output) in best_output.chain(best_state) {
            let form = |segment| Form::CooperativeSplit { state, output, segment };
            all.extend(segmented(p, device, segments::length(p), form));
        }
        let cut = carried::Cut::new(p, self::rows(p), tokens_of_a_sequence(p));
        for output in cut.outputs(p, device) {
            for state in cut.states(p, device) {
                let form = |segment| Form::Carried { state, output, segment };
                all.extend(segmented(p, device, cut.length(&output), form));
            }
        }
    }
    let planned = choose(p, device).ok();
    all.retain(|form| {
        let serves = form.segment().is_some() || serial_serves(p, device, *form, form.chunk());
        serves && Some(*form) != planned
    });
    all
}

/// The tiles of all lists that are worth trying.
fn every_tile(p: &Linear, device: &DeviceClass) -> Vec<ChunkTile> {
    let lists: &[&[Candidate]] = match (p.decay, device.software) {
        (Decay::Channel, _) => &[CHANNEL],
        (_, true) => &[SOFTWARE],
        (_, false) => &[GPU_WIDE, GPU_NARROW, GPU_NARROW_FEW, GPU_NARROW_SPLIT],
    };
    let mut all: Vec<ChunkTile> = vec![];
    for tile in lists.iter().flat_map(|list| chunk_tiles(p, list)) {
        let sensible = tile.columns() <= p.value_dim().next_multiple_of(64)
            && (device.software || registers(p, &tile) <= MOST_REGISTERS);
        if sensible && fits(p, device, &tile) && !all.contains(&tile) {
            all.push(tile);
        }
    }
    all
}

/// A form with segments of so many tokens, half, and twice as many, where there are several of them.
fn segmented(p: &Linear, device: &DeviceClass, planned: u32, form: impl Fn(u32) -> Form) -> Vec<Form> {
    let chunk = form(1).chunk();
    let longest = longest(p, device, form(chunk), chunk);
    let mut lengths = [planned / 2, planned, 2 * planned]
        .map(|n| n.next_multiple_of(chunk))
        .to_vec();
    lengths.dedup();
    lengths.retain(|n| u64::from(*n) <= longest && (*n < p.tokens || !p.causal));
    lengths.into_iter().map(form).collect()
}

/// Heads of all sequences.
fn rows(p: &Linear) -> u64 {
    u64::from(p.sequences()) * u64::from(p.heads)
}

/// A form that was measured on so many heads of all sequences and tokens, for another problem: where there are segments, longer
/// or shorter ones, so that as many workgroups have something to do, in no more segments than were measured or the planner
/// would make.
#[cfg(feature = "tuned")]
pub(crate) fn scaled(
    p: &Linear,
    device: &DeviceClass,
    form: Form,
    (measured_rows, measured_tokens): (u64, u32),
) -> Form {
    let Some(segment) = form.segment() else {
        return form;
    };
    let chunk = form.chunk();
    let factor = rows(p) as f64 * f64::from(p.tokens) / (measured_rows as f64 * f64::from(measured_tokens));
    let wanted = (f64::from(segment) * factor).ceil() as u32;
    let most = fill(device).2.max(measured_tokens.div_ceil(segment).into());
    let least = u64::from(p.tokens).div_ceil(most) as u32;
    // Shorter ones only where those were measured.
    let least = match form {
        Form::Carried { .. } => least.max(carried::least(tokens_of_a_sequence(p)).min(segment)),
        _ => least,
    };
    let longest = longest(p, device, form, chunk).min(u32::MAX.into()) as u32 / chunk * chunk;
    let length = wanted.max(least).min(p.tokens);
    form.with_segment(length.next_multiple_of(chunk).min(longest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;
    use crate::tier::{Abilities, MatrixElements, RightElements};

    fn device(software: bool, workgroup_memory: u32) -> DeviceClass {
        DeviceClass {
            workgroup_memory,
            invocations: 256,
            software,
            processors: if software { 2 } else { 0 },
            abilities: Abilities::NONE,
            tier: None,
            scalar_matrices: false,
        }
    }

    fn prompt(heads: u32, tokens: u32, head_dim: u32) -> Linear {
        Linear {
            heads,
            tokens,
            head_dim,
            decay: Decay::Head,
            ..Linear::default()
        }
    }

    fn problems() -> Vec<Linear> {
        let mut all = vec![];
        for (heads, tokens, head_dim) in [
            (1, 300, 40),
            (16, 4096, 64),
            (128, 4096, 64),
            (16, 4096, 128),
            (2, 70, 256),
        ] {
            for decay in [Decay::None, Decay::Head, Decay::Token, Decay::Channel] {
                for (causal, normalize) in [(true, None), (false, None), (true, Some(1e-6))] {
                    all.push(Linear {
                        causal,
                        normalize,
                        decay: if causal { decay } else { Decay::None },
                        ..prompt(heads, tokens, head_dim)
                    });
                }
            }
        }
        all
    }

    #[test]
    fn alternatives_serve_the_problem_and_are_not_the_planners() {
        for device in [device(false, 48 << 10), device(false, 16 << 10), device(true, 32 << 10)] {
            for p in problems() {
                let all = alternatives(&p, &device);
                let planned = choose(&p, &device).unwrap();
                for (n, form) in all.iter().enumerate() {
                    assert!(*form != planned && !all[..n].contains(form), "{form:?} again, {p:?}");
                    check_loops(&p, *form, &device).unwrap();
                    let (Form::Serial(tile) | Form::Split { tile, .. }) = form else {
                        panic!("{form:?} without matrices")
                    };
                    assert!(tile.is_sound(p.head_dim) && fits(&p, &device, tile), "{form:?}, {p:?}");
                    match form.segment() {
                        None => assert!(p.causal, "{form:?}, {p:?}"),
                        Some(n) => assert!(
                            n.is_multiple_of(tile.rows()) && (n < p.tokens || !p.causal),
                            "{n}, {p:?}"
                        ),
                    }
                }
            }
        }
    }

    #[test]
    fn one_pass_and_segments_are_both_tried() {
        let segments = |p: &Linear| {
            let all = alternatives(p, &device(false, 48 << 10));
            let split = all.iter().filter(|form| form.segment().is_some()).count();
            (all.len() - split, split)
        };
        // The planner has segments for few heads, and one pass for many.
        for heads in [16, 128] {
            let (serial, split) = segments(&prompt(heads, 4096, 64));
            assert!(
                serial >= 5 && split >= 15,
                "{heads} heads: {serial} serial, {split} split"
            );
        }
        assert_eq!(segments(&prompt(16, 1, 64)), (0, 0));
        let both_ways = Linear {
            causal: false,
            decay: Decay::None,
            ..prompt(16, 4096, 64)
        };
        assert_eq!(segments(&both_ways).0, 0);
    }

    fn with_matrices() -> DeviceClass {
        DeviceClass {
            abilities: Abilities {
                half: true,
                subgroup_barriers: false,
                subgroups: Some((32, 32)),
                matrices: Some(16),
                elements: None,
            },
            ..device(false, 48 << 10)
        }
    }

    /// Elements of its matrices can be got at, too.
    fn with_elements() -> DeviceClass {
        let mut device = with_matrices();
        device.abilities.subgroup_barriers = true;
        device.abilities.elements = Some(MatrixElements::OF_TENSOR_CORES);
        device
    }

    #[test]
    fn matrices_are_tried_where_they_serve() {
        let with_matrices = with_matrices();
        let on_matrices = |p: &Linear, device: &DeviceClass| {
            let all = alternatives(p, device).into_iter();
            let found = all.filter(|f| matches!(f, Form::Cooperative(_) | Form::CooperativeSplit { .. }));
            found.collect::<Vec<_>>()
        };
        let half = Linear {
            dtype: DType::F16,
            ..prompt(16, 4096, 64)
        };
        let found = on_matrices(&half, &with_matrices);
        assert!(found.iter().any(|form| form.segment().is_none()));
        for form in found.iter().filter(|form| form.segment().is_some()) {
            let Form::CooperativeSplit { state, output, segment } = form else {
                panic!("{form:?}")
            };
            assert!(state.is_sound() && segment.is_multiple_of(output.rows()), "{form:?}");
        }
        let portable = DeviceClass {
            tier: Some(crate::tier::Tier::Portable),
            ..with_matrices
        };
        assert_eq!(on_matrices(&half, &portable), []);
        assert_eq!(on_matrices(&prompt(16, 4096, 64), &with_matrices), []);
    }

    #[test]
    fn few_tokens_have_smaller_tiles_of_outputs() {
        let mut device = with_elements();
        // Elsewhere than segments that carry the state take them for.
        let right = RightElements {
            turned: false,
            ..MatrixElements::OF_TENSOR_CORES.right.unwrap()
        };
        device.abilities.elements = Some(MatrixElements {
            right: Some(right),
            ..MatrixElements::OF_TENSOR_CORES
        });
        let chosen = |heads, tokens, head_dim| {
            let p = Linear {
                dtype: DType::F16,
                ..prompt(heads, tokens, head_dim)
            };
            match choose(&p, &device).unwrap() {
                Form::CooperativeSplit { output, segment, .. } => (output.strips, output.row_blocks, segment),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(chosen(32, 4096, 128), (8, 2, 256));
        assert_eq!(chosen(32, 1024, 128), (8, 1, 128));
        assert_eq!(chosen(8, 1024, 128), (4, 1, 64));
        assert_eq!(chosen(8, 512, 128), (4, 1, 64));
        assert_eq!(chosen(32, 4096, 64), (4, 1, 128));
        assert_eq!(chosen(8, 512, 64), (4, 1, 64));
        let packed = Linear {
            dtype: DType::F16,
            documents: Some(16),
            ..prompt(8, 512, 128)
        };
        let form = choose(&packed, &device).unwrap();
        assert!(
            matches!(form, Form::CooperativeSplit { output, segment: 64, .. } if output.rows() == 64),
            "{form:?}"
        );
    }

    #[test]
    fn segments_carry_the_state_where_tokens_are_enough() {
        let device = with_elements();
        let half = |heads, tokens, head_dim| Linear {
            dtype: DType::F16,
            ..prompt(heads, tokens, head_dim)
        };
        let chosen = |p: &Linear| match choose(p, &device).unwrap() {
            Form::Carried { output, segment, .. } => Some((output.strips, output.strip_blocks, segment)),
            _ => None,
        };
        // As many workgroups as a GPU has at work at a time, in whole chunks.
        assert_eq!(chosen(&half(32, 16384, 64)), Some((4, 1, 1024)));
        assert_eq!(chosen(&half(32, 4096, 64)), Some((4, 1, 256)));
        assert_eq!(chosen(&half(40, 10_000, 64)), Some((4, 1, 864)));
        assert_eq!(chosen(&half(1024, 1000, 64)), Some((4, 1, 1024)));
        assert_eq!(chosen(&half(32, 16384, 128)), Some((4, 2, 2048)));
        assert_eq!(chosen(&half(32, 4096, 96)), Some((3, 2, 512)));
        // One block of columns to a strip where there are no two.
        assert_eq!(chosen(&half(32, 4096, 80)), Some((5, 1, 512)));
        let packed = |documents| Linear {
            documents: Some(documents),
            ..half(32, 16384, 64)
        };
        assert_eq!(chosen(&packed(4)), Some((4, 1, 1024)));
        assert_eq!(chosen(&packed(128)), None);
        // Of few heads more and shorter segments, each of more subgroups where there are that many columns; of long sequences no
        // more than the scan has time for.
        assert_eq!(chosen(&half(8, 4096, 64)), Some((4, 1, 128)));
        assert_eq!(chosen(&half(1, 16384, 64)), Some((4, 1, 256)));
        assert_eq!(chosen(&half(1, 65536, 64)), Some((4, 1, 512)));
        assert_eq!(chosen(&half(16, 4096, 128)), Some((4, 2, 256)));
        assert_eq!(chosen(&half(8, 4096, 128)), Some((8, 1, 256)));
        assert_eq!(chosen(&half(4, 2048, 128)), Some((8, 1, 128)));
        // Short sequences of few heads; what the kernel does not serve.
        assert_eq!(chosen(&half(8, 1000, 64)), None);
        assert_eq!(chosen(&half(32, 4096, 72)), None);
        let normalized = Linear {
            normalize: Some(1e-6),
            ..half(32, 16384, 64)
        };
        assert_eq!(chosen(&normalized), None);
        let whole = Linear {
            causal: false,
            decay: Decay::None,
            ..half(32, 16384, 64)
        };
        assert_eq!(chosen(&whole), None);
        let mut elsewhere = device;
        elsewhere
            .abilities
            .elements
            .as_mut()
            .unwrap()
            .right
            .as_mut()
            .unwrap()
            .turned = false;
        let form = choose(&half(32, 16384, 64), &elsewhere).unwrap();
        assert!(matches!(form, Form::CooperativeSplit { .. }), "{form:?}");
        // Tried by `tune`, beside the planner's and with other lengths.
        let all = alternatives(&half(32, 16384, 64), &device);
        let lengths: Vec<_> = all
            .iter()
            .filter(|form| matches!(form, Form::Carried { .. }))
            .filter_map(|form| form.segment())
            .collect();
        for length in [512, 1024, 2048] {
            assert!(lengths.contains(&length), "{length}: {lengths:?}");
        }
    }

    #[cfg(feature = "tuned")]
    #[test]
    fn segments_that_carry_the_state_do_not_become_too_short() {
        let device = with_elements();
        let half = |heads, tokens| Linear {
            dtype: DType::F16,
            ..prompt(heads, tokens, 64)
        };
        let form = choose(&half(32, 16384), &device).unwrap();
        assert!(matches!(form, Form::Carried { segment: 1024, .. }), "{form:?}");
        let scaled = |form, heads, tokens| scaled(&half(heads, tokens), &device, form, (32, 16384)).segment();
        assert_eq!(scaled(form, 32, 16384), Some(1024));
        assert_eq!(scaled(form, 32, 65536), Some(4096));
        assert_eq!(scaled(form, 1, 4096), Some(128));
        assert_eq!(scaled(form.with_segment(64), 32, 16384), Some(64));
        assert_eq!(scaled(form.with_segment(64), 32, 4096), Some(64));
    }

    #[cfg(feature = "tuned")]
    #[test]
    fn segments_of_another_problem_are_as_many_workgroups() {
        let device = device(false, 48 << 10);
        let tile = chunk_tile(&prompt(16, 4096, 64), &device, GPU_NARROW_SPLIT).unwrap();
        let form = |segment| Form::Split { tile, segment };
        let scaled = |segment, heads, tokens| {
            let form = scaled(&prompt(heads, tokens, 64), &device, form(segment), (16, 4096));
            form.segment().unwrap()
        };
        assert_eq!(tile.rows(), 64);
        assert_eq!(scaled(256, 16, 4096), 256);
        assert_eq!(scaled(256, 16, 16384), 1024);
        assert_eq!(scaled(256, 64, 4096), 1024);
        assert_eq!(scaled(256, 4, 16384), 256);
        // Whole chunks; no more segments than the planner's 128; no longer than the text.
        assert_eq!(scaled(256, 1, 4096), 64);
        assert_eq!(scaled(256, 1, 65536), 512);
        assert_eq!(scaled(1024, 128, 100), 128);
        assert_eq!(form(256).with_segment(64), form(64));
        assert_eq!(
            super::scaled(&prompt(1, 9, 64), &device, Form::Serial(tile), (16, 4096)),
            Form::Serial(tile)
        );
    }
}
