//! Which shader a plan runs: the typed specs behind the files under `shaders/linear/`.

use crate::ops::dense::cooperative::CooperativeTile as SegmentTile;
use crate::ops::dense::tile::looped;
use crate::ops::dense::variant::{native_element_piece, output_pieces, pack_piece, row_pieces, unroll};
use crate::ops::linear::carried::CarriedTile;
use crate::ops::linear::cooperative::CooperativeTile;
use crate::ops::linear::{Decay, FeatureMap};
use crate::shader::{Binding, BindingKind, Constant, Spec};
use crate::tensor::DType;
use crate::tier::Tier;

/// A kernel of the linear op with everything its code depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LinearVariant {
    /// `linear/chunk.wgsl`
    Chunk(Chunk),
    /// `linear/chunk_cooperative.wgsl`
    Cooperative(Chunk<CooperativeTile>),
    /// `linear/segment_cooperative.wgsl`, `linear/segment_elements.wgsl`
    Segment(Chunk<SegmentTile>),
    /// `linear/carried_elements.wgsl`
    Carried(Chunk<CarriedTile>),
    /// `linear/chunk_state.wgsl`
    ChunkState(ChunkState),
    /// `linear/chunk_state_cooperative.wgsl`
    CooperativeState(ChunkState<CooperativeTile>),
    /// `linear/scan.wgsl`
    Scan(Scan),
    /// `linear/step.wgsl`
    Step(Step),
    /// `linear/total_decay.wgsl`
    TotalDecay(TotalDecay),
}

impl LinearVariant {
    /// The spec that writes its header.
    pub fn spec(&self) -> &dyn Spec {
        match self {
            LinearVariant::Chunk(v) => v,
            LinearVariant::Cooperative(v) => v,
            LinearVariant::Segment(v) => v,
            LinearVariant::Carried(v) => v,
            LinearVariant::ChunkState(v) => v,
            LinearVariant::CooperativeState(v) => v,
            LinearVariant::Scan(v) => v,
            LinearVariant::Step(v) => v,
            LinearVariant::TotalDecay(v) => v,
        }
    }

    /// The same kernel, reading f16 as the device's own if it reads any.
    pub fn with_half(mut self) -> Self {
        let inputs = match &mut self {
            LinearVariant::Chunk(v) => &mut v.inputs,
            LinearVariant::ChunkState(v) => &mut v.inputs,
            LinearVariant::Step(v) => &mut v.inputs,
            // Matrices read f16 as it is anyway.
            LinearVariant::Cooperative(_)
            | LinearVariant::Segment(_)
            | LinearVariant::Carried(_)
            | LinearVariant::CooperativeState(_) => return self,
            LinearVariant::Scan(_) | LinearVariant::TotalDecay(_) => return self,
        };
        inputs.half = inputs.dtype == DType::F16;
        self
    }
}

/// Where a kernel finds the state to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    /// It is zero.
    Zero,
    /// In a tensor of its own.
    Read,
    /// Where the final one goes.
    InPlace,
}

/// What kernels that read q, k or v share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inputs {
    /// D.
    pub head_dim: u32,
    /// Dv.
    pub value_dim: u32,
    /// Storage type of q, k, v.
    pub dtype: DType,
    /// f16 is read as the device's own.
    pub half: bool,
    /// q, k and v are read four elements at a time.
    pub vector: bool,
    /// A kernel on matrices reads what it needs of q, k and v eight elements at a time: stored f16, where φ is the identity.
    pub wide: bool,
    /// φ.
    pub feature_map: FeatureMap,
    /// Shape of the log-decay.
    pub decay: Decay,
    /// Outputs are normalised.
    pub normalize: bool,
    /// States are read and written four elements at a time.
    pub vector_state: bool,
}

/// A kernel that writes outputs from chunks of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chunk<T = ChunkTile> {
    /// What it reads.
    pub inputs: Inputs,
    /// Storage type of o.
    pub output_dtype: DType,
    /// o is written four elements at a time.
    pub vector_output: bool,
    /// o is written eight elements at a time.
    pub wide_output: bool,
    /// Token t sees tokens up to t.
    pub causal: bool,
    /// Only what the initial state contributes.
    pub state_only: bool,
    /// Packed documents.
    pub documents: bool,
    /// Segments side by side.
    pub split: bool,
    /// Where the state begins.
    pub start: Start,
    /// The final state is written.
    pub writes_state: bool,
    /// Tile shape.
    pub tile: T,
}

/// The kernel that finds what segments add to the state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChunkState<T = ChunkTile> {
    /// What it reads.
    pub inputs: Inputs,
    /// Segments add nothing.
    pub state_only: bool,
    /// Packed documents.
    pub documents: bool,
    /// Sections of a segment, a workgroup's each: 2, or 1 with the segment whole.
    pub sections: u32,
    /// Tile shape.
    pub tile: T,
}

/// The scan over segments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scan {
    /// D.
    pub head_dim: u32,
    /// Dv.
    pub value_dim: u32,
    /// States have a normaliser behind them.
    pub normalize: bool,
    /// What stands before each segment; otherwise what stands after the last.
    pub causal: bool,
    /// Four elements of a state to an invocation, which lie four to an access.
    pub vector: bool,
    /// Packed documents.
    pub documents: bool,
    /// Shape of the totals: [`Decay::None`], [`Decay::Channel`], or one number for the others.
    pub decay: Decay,
    /// Where the state begins.
    pub start: Start,
    /// The final state is written.
    pub writes_state: bool,
    /// As [`ChunkState::sections`].
    pub sections: u32,
}

/// The kernel for one token or a few.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// What it reads.
    pub inputs: Inputs,
    /// Storage type of o.
    pub output_dtype: DType,
    /// o is written four elements at a time.
    pub vector_output: bool,
    /// Where the state begins.
    pub start: Start,
    /// The final state is written.
    pub writes_state: bool,
    /// Tile shape.
    pub tile: StepTile,
}

/// The kernel that sums log-decays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TotalDecay {
    /// D.
    pub head_dim: u32,
    /// Shape of the log-decay.
    pub decay: Decay,
    /// Packed documents.
    pub documents: bool,
}

/// Tile shape of `linear/chunk.wgsl` and `linear/chunk_state.wgsl`; their headers have the meaning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct ChunkTile {
    /// Row groups.
    pub row_groups: u32,
    /// Rows of an invocation.
    pub row_regs: u32,
    /// Invocations of a row group.
    pub lanes: u32,
    /// Keys of an invocation, a multiple of 4.
    pub key_regs: u32,
    /// Vectors of four columns of an invocation.
    pub value_vecs: u32,
    /// Vectors of the head dimension staged at once.
    pub chunk: u32,
    /// Tokens staged at once, a multiple of 4 and a divisor of the chunk's.
    pub tokens: u32,
    /// Steps of the products' inner loops that are written out.
    pub unroll: u32,
}

impl ChunkTile {
    /// Tokens of a chunk.
    pub const fn rows(&self) -> u32 {
        self.row_groups * self.row_regs
    }

    /// Invocations of a workgroup.
    pub const fn threads(&self) -> u32 {
        self.row_groups * self.lanes
    }

    /// Columns of the values that a workgroup owns.
    pub const fn columns(&self) -> u32 {
        4 * self.lanes * self.value_vecs
    }

    /// Whether all fields are in range and the shaders' static assertions hold, for head size D.
    pub(crate) fn is_sound(&self, head_dim: u32) -> bool {
        let t = self;
        let fields = [
            t.row_groups,
            t.row_regs,
            t.lanes,
            t.key_regs,
            t.value_vecs,
            t.chunk,
            t.tokens,
        ];
        let quads = head_dim.div_ceil(4);
        fields.iter().all(|n| (1..=256).contains(n))
            && t.rows() == t.lanes * t.key_regs
            && t.key_regs.is_multiple_of(4)
            && t.tokens.is_multiple_of(4)
            && t.rows().is_multiple_of(t.tokens)
            && quads.div_ceil(t.chunk) * t.chunk <= quads.div_ceil(t.row_groups) * t.row_groups
    }

    /// 16-byte words of workgroup memory for a step of the state's update.
    const fn update_words(&self, head_dim: u32) -> u32 {
        let key_pitch = head_dim.div_ceil(4).div_ceil(self.row_groups) * self.row_groups;
        self.tokens * (key_pitch + self.lanes * self.value_vecs)
    }

    /// Iterations of all loops of an invocation for one chunk, at most.
    pub(crate) fn loop_iterations(&self, head_dim: u32, decay: Decay, normalize: bool) -> u32 {
        let (t, quads, rows) = (self, head_dim.div_ceil(4), self.rows());
        let shared = |n: u32, inner: u32| looped(n.div_ceil(t.threads()), inner);
        let parts = looped(quads.div_ceil(t.chunk), looped(t.chunk / unroll(t.chunk, t.unroll), 0));
        let of_normalizer = if normalize {
            shared(quads, looped(t.tokens, 0))
        } else {
            0
        };
        let quads_of_step = t.tokens / 4 / unroll(t.tokens / 4, t.unroll);
        let steps = looped(rows / t.tokens, looped(quads_of_step, 0) + of_normalizer);
        let sums = match decay {
            Decay::None | Decay::Head => 0,
            Decay::Token => shared(rows / 4, looped(4, 0)) + shared(rows, looped(rows / 4, 0)),
            Decay::Channel => shared(4 * quads, looped(rows, 0)),
        };
        1 + parts + steps + sums + shared(quads, 0)
    }

    /// Workgroup memory in bytes for decays and normaliser.
    fn extra_bytes(&self, head_dim: u32, decay: Decay, normalize: bool) -> u32 {
        let decays = match decay {
            Decay::None | Decay::Head => 0,
            Decay::Token => self.rows().div_ceil(4) * 16 + self.rows() * 8,
            Decay::Channel => self.rows() * head_dim.div_ceil(4) * 16,
        };
        decays + if normalize { head_dim.div_ceil(4) * 16 } else { 16 }
    }

    /// Workgroup memory in bytes of `linear/chunk.wgsl`.
    pub fn workgroup_bytes(&self, head_dim: u32, decay: Decay, normalize: bool) -> u32 {
        let rows = self.rows();
        let products = 2 * rows * (self.chunk + 1) + self.chunk * 4 * self.lanes * self.value_vecs;
        let weights = rows * (rows / 4 + 1) + self.update_words(head_dim);
        products.max(weights) * 16 + self.extra_bytes(head_dim, decay, normalize)
    }
}

/// Tile shape of `linear/step.wgsl`; its header has the meaning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct StepTile {
    /// Invocations side by side, each with four columns.
    pub lanes: u32,
    /// Groups of invocations that share the rows.
    pub groups: u32,
}

impl StepTile {
    /// Invocations of a workgroup.
    pub const fn threads(&self) -> u32 {
        self.lanes * self.groups
    }

    /// Workgroup memory in bytes.
    pub const fn workgroup_bytes(&self) -> u32 {
        self.threads() * 16 + self.groups.div_ceil(4) * 16
    }
}

const fn binding(number: u32, kind: BindingKind) -> Binding {
    Binding { number, kind }
}

/// The names of the flags that are on.
fn names_of<'a>(flags: &'a [(bool, &'a str)]) -> impl Iterator<Item = &'a str> {
    flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name)
}

fn start_pieces(start: Start, writes: bool, vector: bool) -> [&'static str; 2] {
    let read = match (start, vector) {
        (Start::Zero, _) => "linear/state_in_none",
        (Start::Read, true) => "linear/state_in_x4",
        (Start::Read, false) => "linear/state_in_x1",
        (Start::InPlace, _) => "linear/state_in_place",
    };
    let write = match (writes, vector) {
        (false, _) => "linear/state_out_none",
        (true, true) => "linear/state_out_x4",
        (true, false) => "linear/state_out_x1",
    };
    [read, write]
}

fn state_bindings(start: Start, writes: bool) -> Vec<Binding> {
    let mut bindings = vec![];
    if start == Start::Read {
        bindings.push(binding(5, BindingKind::Read));
    }
    if writes {
        bindings.push(binding(6, BindingKind::Write));
    }
    bindings
}

fn documents_piece(documents: bool) -> &'static str {
    if documents {
        "linear/documents"
    } else {
        "linear/documents_none"
    }
}

impl Inputs {
    fn tier(&self) -> Tier {
        match self.half {
            true => Tier::Subgroup,
            false => Tier::Portable,
        }
    }

    fn enables(&self) -> Vec<&'static str> {
        match self.half {
            true => vec!["f16"],
            false => vec![],
        }
    }

    /// `native_half`: with the f16 extension, where that saves conversions.
    pub(super) fn pieces(&self, native_half: bool) -> Vec<&'static str> {
        let feature = match self.feature_map {
            FeatureMap::Identity => "linear/feature_identity",
            FeatureMap::Silu => "linear/feature_silu",
            FeatureMap::Relu => "linear/feature_relu",
            FeatureMap::Elu1 => "linear/feature_elu1",
            FeatureMap::Custom(_) => "linear/feature_custom",
        };
        let mut pieces = match self.wide {
            true => vec!["shared/element_f16_x8", "shared/q_x8", "shared/k_x8", "shared/v_x8"],
            false => {
                let element = native_element_piece(self.dtype, self.vector, native_half);
                std::iter::once(element).chain(row_pieces(self.vector)).collect()
            }
        };
        pieces.extend(["linear/channel", feature]);
        pieces
    }

    /// Bindings of parameters, q, k, v and the decays.
    fn bindings(&self) -> Vec<Binding> {
        use BindingKind::{Read, Uniform};
        let mut bindings = vec![
            binding(0, Uniform),
            binding(1, Read),
            binding(2, Read),
            binding(3, Read),
        ];
        if self.decay != Decay::None {
            bindings.push(binding(7, Read));
        }
        bindings
    }

    pub(super) fn custom(&self) -> Option<String> {
        match &self.feature_map {
            FeatureMap::Custom(text) => Some(format!("{text}\n")),
            _ => None,
        }
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        vec![
            ("HEAD_DIM", Count(self.head_dim)),
            ("VALUE_DIM", Count(self.value_dim)),
            ("NORMALIZE", Flag(self.normalize)),
        ]
    }

    fn suffix(&self) -> String {
        let mut s = format!("d{}x{} {}", self.head_dim, self.value_dim, self.dtype);
        let decay = match self.decay {
            Decay::None => "",
            Decay::Head => " head decay",
            Decay::Token => " token decay",
            Decay::Channel => " channel decay",
        };
        let feature = match self.feature_map {
            FeatureMap::Identity => "",
            FeatureMap::Silu => " silu",
            FeatureMap::Relu => " relu",
            FeatureMap::Elu1 => " elu1",
            FeatureMap::Custom(_) => " custom",
        };
        if self.half {
            s.push_str(" native f16");
        }
        s.push_str(decay);
        s.push_str(feature);
        let flags = [
            (self.normalize, " normalized"),
            (!self.vector, " scalar-in"),
            (self.wide, " wide"),
            (!self.vector_state, " scalar-state"),
        ];
        s.extend(names_of(&flags));
        s
    }
}

fn decay_piece(decay: Decay) -> &'static str {
    match decay {
        Decay::None => "linear/decay_none",
        Decay::Head => "linear/decay_head",
        Decay::Token => "linear/decay_token",
        Decay::Channel => "linear/decay_channel",
    }
}

fn tile_constants(t: &ChunkTile) -> Vec<(&'static str, Constant)> {
    use Constant::Count;
    vec![
        ("ROW_GROUPS", Count(t.row_groups)),
        ("ROW_REGS", Count(t.row_regs)),
        ("LANES", Count(t.lanes)),
        ("KEY_REGS", Count(t.key_regs)),
        ("VALUE_VECS", Count(t.value_vecs)),
        ("CHUNK", Count(t.chunk)),
        ("CHUNK_TOKENS", Count(t.rows())),
        ("TOKENS", Count(t.tokens)),
        ("PART_UNROLL", Count(unroll(t.chunk, t.unroll))),
        ("TOKEN_UNROLL", Count(unroll(t.tokens / 4, t.unroll))),
    ]
}

impl Chunk<()> {
    /// With a tile.
    pub(super) fn with_tile<T>(self, tile: T) -> Chunk<T> {
        let Chunk {
            inputs,
            output_dtype,
            vector_output,
            wide_output,
            causal,
            state_only,
            documents,
            split,
            start,
            writes_state,
            ..
        } = self;
        Chunk {
            inputs,
            output_dtype,
            vector_output,
            wide_output,
            causal,
            state_only,
            documents,
            split,
            start,
            writes_state,
            tile,
        }
    }
}

impl<T> Chunk<T> {
    /// With accesses of eight elements, for q, k and v and for o.
    pub(super) fn wide(mut self, inputs: bool, output: bool) -> Self {
        (self.inputs.wide, self.wide_output) = (inputs, output);
        self
    }

    /// All but the tile.
    pub(super) fn options_label(&self, kernel: &str) -> String {
        let mut s = format!("{kernel} {}->{}", self.inputs.suffix(), self.output_dtype);
        let flags = [
            (!self.causal, " whole"),
            (self.state_only, " state-only"),
            (self.documents, " documents"),
            (self.split, " split"),
            (self.start == Start::Read, " start"),
            (self.start == Start::InPlace, " in-place"),
            (self.writes_state, " end"),
            (!self.vector_output, " scalar-out"),
            (self.wide_output, " wide-out"),
        ];
        s.extend(names_of(&flags));
        s
    }

    pub(super) fn options_constants(&self) -> Vec<(&'static str, Constant)> {
        use Constant::Flag;
        let mut constants = self.inputs.constants();
        constants.extend([
            ("CAUSAL", Flag(self.causal)),
            ("STATE_ONLY", Flag(self.state_only)),
            ("DOCUMENTS", Flag(self.documents)),
            ("SPLIT", Flag(self.split)),
            ("WRITES_STATE", Flag(self.writes_state)),
        ]);
        constants
    }

    /// `inputs`: those that read q, k and v.
    pub(super) fn options_pieces(&self, inputs: Vec<&'static str>) -> Vec<&'static str> {
        let mut pieces = inputs;
        pieces.push(decay_piece(self.inputs.decay));
        let mut outputs = output_pieces(self.output_dtype, self.vector_output);
        if self.wide_output {
            outputs = vec![pack_piece(self.output_dtype), "shared/output_half_x8"];
        }
        pieces.extend(outputs);
        pieces.extend(start_pieces(self.start, self.writes_state, self.inputs.vector_state));
        pieces.push(documents_piece(self.documents));
        pieces
    }

    pub(super) fn options_bindings(&self) -> Vec<Binding> {
        use BindingKind::{Read, Write};
        let mut bindings = self.inputs.bindings();
        bindings.push(binding(4, Write));
        bindings.extend(state_bindings(self.start, self.writes_state));
        if self.documents {
            bindings.push(binding(8, Read));
        }
        bindings
    }
}

impl Spec for Chunk {
    fn label(&self) -> String {
        let t = &self.tile;
        self.options_label(self.kernel())
            + &format!(
                " tile {}x{} regs {}x{}x{} chunk {}/{} unroll {}",
                t.rows(),
                t.columns(),
                t.row_regs,
                t.key_regs,
                t.value_vecs,
                t.chunk,
                t.tokens,
                t.unroll
            )
    }

    fn kernel(&self) -> &'static str {
        "linear/chunk"
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        let mut constants = self.options_constants();
        constants.extend(tile_constants(&self.tile));
        constants
    }

    fn pieces(&self) -> Vec<&'static str> {
        self.options_pieces(self.inputs.pieces(self.inputs.half))
    }

    fn custom(&self) -> Option<String> {
        self.inputs.custom()
    }

    fn tier(&self) -> Tier {
        self.inputs.tier()
    }

    fn enables(&self) -> Vec<&'static str> {
        self.inputs.enables()
    }

    fn bindings(&self) -> Vec<Binding> {
        self.options_bindings()
    }

    fn workgroup_bytes(&self) -> u32 {
        let i = &self.inputs;
        self.tile.workgroup_bytes(i.head_dim, i.decay, i.normalize)
    }
}

impl ChunkState<()> {
    /// With a tile.
    pub(super) fn with_tile<T>(self, tile: T) -> ChunkState<T> {
        ChunkState {
            inputs: self.inputs,
            state_only: self.state_only,
            documents: self.documents,
            sections: self.sections,
            tile,
        }
    }
}

impl<T> ChunkState<T> {
    /// With accesses of eight elements.
    pub(super) fn reading_wide(mut self, wide: bool) -> Self {
        self.inputs.wide = wide;
        self
    }

    /// All but the tile, with a space behind it.
    pub(super) fn options_label(&self, kernel: &str) -> String {
        format!(
            "{kernel} {}{}{}{} ",
            self.inputs.suffix(),
            if self.state_only { " state-only" } else { "" },
            if self.documents { " documents" } else { "" },
            if self.sections > 1 { " two sections" } else { "" },
        )
    }

    pub(super) fn options_constants(&self) -> Vec<(&'static str, Constant)> {
        use Constant::Flag;
        let mut constants = self.inputs.constants();
        constants.extend([
            ("STATE_ONLY", Flag(self.state_only)),
            ("DOCUMENTS", Flag(self.documents)),
            ("SPLIT", Flag(true)),
        ]);
        constants
    }

    /// `inputs`: those that read q, k and v.
    pub(super) fn options_pieces(&self, inputs: Vec<&'static str>) -> Vec<&'static str> {
        let mut pieces = inputs;
        pieces.push(decay_piece(self.inputs.decay));
        pieces.extend(start_pieces(Start::Zero, true, self.inputs.vector_state));
        pieces.push(documents_piece(self.documents));
        pieces
    }

    pub(super) fn options_bindings(&self) -> Vec<Binding> {
        use BindingKind::{Read, Write};
        let mut bindings = self.inputs.bindings();
        bindings.extend([binding(6, Write), binding(9, Write)]);
        if self.documents {
            bindings.push(binding(8, Read));
        }
        bindings
    }
}

impl Spec for ChunkState {
    fn label(&self) -> String {
        let t = &self.tile;
        format!(
            "{}tile {}x{} groups {} unroll {}",
            self.options_label(self.kernel()),
            t.tokens,
            t.columns(),
            t.row_groups,
            t.unroll
        )
    }

    fn kernel(&self) -> &'static str {
        "linear/chunk_state"
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        let mut constants = self.options_constants();
        constants.extend(tile_constants(&self.tile));
        constants
    }

    fn pieces(&self) -> Vec<&'static str> {
        self.options_pieces(self.inputs.pieces(self.inputs.half))
    }

    fn custom(&self) -> Option<String> {
        self.inputs.custom()
    }

    fn tier(&self) -> Tier {
        self.inputs.tier()
    }

    fn enables(&self) -> Vec<&'static str> {
        self.inputs.enables()
    }

    fn bindings(&self) -> Vec<Binding> {
        self.options_bindings()
    }

    fn workgroup_bytes(&self) -> u32 {
        let i = &self.inputs;
        let totals = match i.decay {
            Decay::Channel => i.head_dim.div_ceil(4) * 16,
            _ => 16,
        };
        self.tile.update_words(i.head_dim) * 16 + totals + self.tile.extra_bytes(i.head_dim, i.decay, i.normalize)
    }
}

impl Spec for Scan {
    fn label(&self) -> String {
        let mut s = format!("linear/scan d{}x{}", self.head_dim, self.value_dim);
        let flags = [
            (self.normalize, " normalized"),
            (!self.causal, " whole"),
            (self.documents, " documents"),
            (self.decay != Decay::None, " decay"),
            (self.decay == Decay::Channel, " per channel"),
            (self.start == Start::Read, " start"),
            (self.start == Start::InPlace, " in-place"),
            (self.writes_state, " end"),
            (!self.vector, " scalar-state"),
            (self.sections > 1, " two sections"),
        ];
        s.extend(names_of(&flags));
        s
    }

    fn kernel(&self) -> &'static str {
        "linear/scan"
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        vec![
            ("HEAD_DIM", Count(self.head_dim)),
            ("VALUE_DIM", Count(self.value_dim)),
            ("NORMALIZE", Flag(self.normalize)),
            ("CAUSAL", Flag(self.causal)),
            ("DOCUMENTS", Flag(self.documents)),
            ("SPLIT", Flag(true)),
            ("DECAYS", Flag(self.decay != Decay::None)),
            ("CHANNEL_TOTALS", Flag(self.decay == Decay::Channel)),
            ("SECTIONS", Count(self.sections)),
        ]
    }

    fn pieces(&self) -> Vec<&'static str> {
        let mut pieces = start_pieces(self.start, self.writes_state, self.vector).to_vec();
        pieces.push(match self.vector {
            true => "linear/scan_x4",
            false => "linear/scan_x1",
        });
        pieces.push(documents_piece(self.documents));
        pieces.push(match self.decay {
            Decay::None => "linear/totals_none",
            _ => "linear/totals",
        });
        pieces
    }

    fn custom(&self) -> Option<String> {
        None
    }

    fn bindings(&self) -> Vec<Binding> {
        use BindingKind::{Read, Uniform, Write};
        let mut bindings = vec![binding(0, Uniform), binding(10, Write)];
        if self.decay != Decay::None {
            bindings.push(binding(9, Write));
        }
        bindings.extend(state_bindings(self.start, self.writes_state));
        if self.documents {
            bindings.push(binding(8, Read));
        }
        bindings
    }

    fn workgroup_bytes(&self) -> u32 {
        0
    }
}

impl Spec for Step {
    fn label(&self) -> String {
        let mut s = format!("linear/step {}->{}", self.inputs.suffix(), self.output_dtype);
        let flags = [
            (self.start == Start::Read, " start"),
            (self.start == Start::InPlace, " in-place"),
            (self.writes_state, " end"),
            (!self.vector_output, " scalar-out"),
        ];
        s.extend(names_of(&flags));
        s + &format!(" lanes {} groups {}", self.tile.lanes, self.tile.groups)
    }

    fn kernel(&self) -> &'static str {
        "linear/step"
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        use Constant::Count;
        let mut constants = self.inputs.constants();
        constants.push(("LANES", Count(self.tile.lanes)));
        constants.push(("GROUPS", Count(self.tile.groups)));
        constants
    }

    fn pieces(&self) -> Vec<&'static str> {
        let mut pieces = self.inputs.pieces(self.inputs.half);
        pieces.push(match self.inputs.decay {
            Decay::None => "linear/change_none",
            Decay::Head => "linear/change_head",
            Decay::Token => "linear/change_token",
            Decay::Channel => "linear/change_channel",
        });
        pieces.extend(output_pieces(self.output_dtype, self.vector_output));
        pieces.extend(start_pieces(self.start, self.writes_state, self.inputs.vector_state));
        pieces
    }

    fn custom(&self) -> Option<String> {
        self.inputs.custom()
    }

    fn tier(&self) -> Tier {
        self.inputs.tier()
    }

    fn enables(&self) -> Vec<&'static str> {
        self.inputs.enables()
    }

    fn bindings(&self) -> Vec<Binding> {
        use BindingKind::Write;
        let mut bindings = self.inputs.bindings();
        bindings.push(binding(4, Write));
        bindings.extend(state_bindings(self.start, self.writes_state));
        bindings
    }

    fn workgroup_bytes(&self) -> u32 {
        self.tile.workgroup_bytes()
    }
}

impl Spec for TotalDecay {
    fn label(&self) -> String {
        format!(
            "linear/total_decay {:?}{}",
            self.decay,
            if self.documents { " documents" } else { "" }
        )
    }

    fn kernel(&self) -> &'static str {
        "linear/total_decay"
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        vec![
            ("HEAD_DIM", Count(self.head_dim)),
            ("DOCUMENTS", Flag(self.documents)),
            ("SPLIT", Flag(false)),
            ("CHANNEL_TOTALS", Flag(self.decay == Decay::Channel)),
            ("HEAD_DECAY", Flag(self.decay == Decay::Head)),
        ]
    }

    fn pieces(&self) -> Vec<&'static str> {
        vec![documents_piece(self.documents)]
    }

    fn custom(&self) -> Option<String> {
        None
    }

    fn bindings(&self) -> Vec<Binding> {
        use BindingKind::{Read, Uniform, Write};
        let mut bindings = vec![binding(0, Uniform), binding(7, Read), binding(9, Write)];
        if self.documents {
            bindings.push(binding(8, Read));
        }
        bindings
    }

    fn workgroup_bytes(&self) -> u32 {
        512
    }
}
