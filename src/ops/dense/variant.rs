//! Which shader a plan runs: the typed specs behind the files under `shaders/dense/`.
//!
//! ```
//! use wgpu_attention::Dense;
//! use wgpu_attention::dense::tile::{DeviceClass, choose};
//! use wgpu_attention::dense::variant_of;
//! use wgpu_attention::shader::Variant;
//! use wgpu_attention::wgpu::{DeviceType, Limits};
//!
//! // The WGSL that a problem gets, without a device.
//! let problem = Dense { queries: 100, keys: 100, ..Default::default() };
//! let device = DeviceClass::of(&Limits::default(), DeviceType::IntegratedGpu);
//! let variant = variant_of(&problem, choose(&problem, &device)?, false);
//! assert_eq!(variant.spec().kernel(), "dense/prefill");
//! assert!(Variant::Dense(variant).wgsl().contains("fn main"));
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

use crate::ops::dense::Custom;
use crate::ops::dense::cooperative::CooperativeTile;
use crate::ops::dense::cooperative_decode::CooperativeDecodeTile;
use crate::ops::dense::portable::{DecodeTile, PrefillTile};
use crate::ops::dense::serial::{SerialPrefillTile, SerialTile};
use crate::ops::dense::subgroup::Subgroup;
use crate::shader::{Binding, BindingKind, Constant, Spec};
use crate::tensor::DType;
use crate::tier::Tier;

/// A kernel of the dense op with everything its code depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DenseVariant {
    /// `dense/prefill.wgsl`
    Prefill(Attend<PrefillTile>),
    /// `dense/decode.wgsl`
    Decode(Attend<DecodeTile>),
    /// `dense/decode_serial.wgsl`
    DecodeSerial(Attend<SerialTile>),
    /// `dense/prefill_serial.wgsl`
    PrefillSerial(Attend<SerialPrefillTile>),
    /// `dense/prefill_cooperative.wgsl`
    Cooperative(Attend<CooperativeTile>),
    /// `dense/decode_cooperative.wgsl`
    CooperativeDecode(Attend<CooperativeDecodeTile>),
    /// `dense/prefill.wgsl`, its statistics in subgroups
    SubgroupPrefill(Attend<Subgroup<PrefillTile>>),
    /// `dense/decode_subgroup.wgsl`
    SubgroupDecode(Attend<Subgroup<DecodeTile>>),
    /// `dense/live.wgsl`
    Live(LiveVariant),
}

impl DenseVariant {
    /// The spec that writes its header.
    pub fn spec(&self) -> &dyn Spec {
        match self {
            DenseVariant::Prefill(v) => v,
            DenseVariant::Decode(v) => v,
            DenseVariant::DecodeSerial(v) => v,
            DenseVariant::PrefillSerial(v) => v,
            DenseVariant::Cooperative(v) => v,
            DenseVariant::CooperativeDecode(v) => v,
            DenseVariant::SubgroupPrefill(v) => v,
            DenseVariant::SubgroupDecode(v) => v,
            DenseVariant::Live(v) => v,
        }
    }
}

/// Which keys a kernel visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visits {
    /// `dense/keys_all.wgsl`: all that positions leave.
    All,
    /// `dense/keys_listed.wgsl`: those of a selection, whose entries are so many keys.
    Listed(u32),
    /// `dense/keys_live.wgsl`: the tiles of so many keys that masks leave.
    Live(u32),
}

/// Which weighting piece a variant uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightingKind {
    /// `dense/weighting_softmax.wgsl`
    Softmax,
    /// `dense/weighting_sigmoid.wgsl`
    Sigmoid,
}

/// A kernel that attends: the options of the problem that change its code, and its tile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attend<T> {
    /// D.
    pub head_dim: u32,
    /// Dv.
    pub value_dim: u32,
    /// Storage type of q, k, v.
    pub dtype: DType,
    /// q, k and v are read four elements at a time.
    pub vector_inputs: bool,
    /// Storage type of o.
    pub output_dtype: DType,
    /// o is written four elements at a time.
    pub vector_output: bool,
    /// Weighting.
    pub weighting: WeightingKind,
    /// Softcap.
    pub softcap: bool,
    /// Storage type of the additive bias.
    pub bias: Option<DType>,
    /// Boolean mask.
    pub mask: bool,
    /// `kv_len`.
    pub kv_len: bool,
    /// Packed documents.
    pub documents: bool,
    /// ALiBi.
    pub alibi: bool,
    /// Learned sink logits.
    pub sinks: bool,
    /// Which keys are visited.
    pub visits: Visits,
    /// Log-sum-exp output.
    pub lse: bool,
    /// The caller's own code.
    pub custom: Option<Custom>,
    /// Tile shape.
    pub tile: T,
}

pub(crate) fn all_within(fields: &[u32]) -> bool {
    fields.iter().all(|n| (1..=256).contains(n))
}

impl<T> Attend<T> {
    /// The same options with another tile.
    pub fn with_tile<U>(self, tile: U) -> Attend<U> {
        Attend {
            head_dim: self.head_dim,
            value_dim: self.value_dim,
            dtype: self.dtype,
            vector_inputs: self.vector_inputs,
            output_dtype: self.output_dtype,
            vector_output: self.vector_output,
            weighting: self.weighting,
            softcap: self.softcap,
            bias: self.bias,
            mask: self.mask,
            kv_len: self.kv_len,
            documents: self.documents,
            alibi: self.alibi,
            sinks: self.sinks,
            visits: self.visits,
            lse: self.lse,
            custom: self.custom,
            tile,
        }
    }

    fn has_small(&self) -> bool {
        self.kv_len || self.documents || self.alibi || self.sinks
    }

    fn custom_score(&self) -> bool {
        self.custom.as_ref().is_some_and(|c| c.score.is_some())
    }

    fn custom_mask(&self) -> bool {
        self.custom.as_ref().is_some_and(|c| c.mask.is_some())
    }

    /// Hooks that need the score itself, not its base-2 form.
    pub fn natural_score(&self) -> bool {
        self.softcap || self.custom_score()
    }

    /// The options that tell this variant from others, for labels.
    pub(crate) fn options(&self) -> String {
        let mut s = format!(
            "d{}x{} {}->{}",
            self.head_dim, self.value_dim, self.dtype, self.output_dtype
        );
        let flags = [
            (matches!(self.weighting, WeightingKind::Sigmoid), "sigmoid"),
            (!self.vector_inputs, "scalar-in"),
            (!self.vector_output, "scalar-out"),
            (self.softcap, "softcap"),
            (self.bias.is_some(), "bias"),
            (self.mask, "mask"),
            (self.kv_len, "kv_len"),
            (self.documents, "documents"),
            (self.alibi, "alibi"),
            (self.sinks, "sinks"),
            (self.lse, "lse"),
            (self.custom.is_some(), "custom"),
        ];
        for (_, name) in flags.iter().filter(|(on, _)| *on) {
            s.push(' ');
            s.push_str(name);
        }
        match self.visits {
            Visits::All => {}
            Visits::Listed(keys) => s.push_str(&format!(" lists of {keys}")),
            Visits::Live(keys) => s.push_str(&format!(" live tiles of {keys}")),
        }
        s
    }

    /// The header's constants that describe the options.
    pub(crate) fn option_constants(&self) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        let mut constants = vec![
            ("HEAD_DIM", Count(self.head_dim)),
            ("VALUE_DIM", Count(self.value_dim)),
            ("HAS_SOFTCAP", Flag(self.softcap)),
            ("HAS_BIAS", Flag(self.bias.is_some())),
            ("HAS_MASK", Flag(self.mask)),
            ("HAS_KV_LEN", Flag(self.kv_len)),
            ("HAS_DOCUMENTS", Flag(self.documents)),
            ("HAS_ALIBI", Flag(self.alibi)),
            ("HAS_SINKS", Flag(self.sinks)),
            ("HAS_LSE", Flag(self.lse)),
            ("CUSTOM_SCORE", Flag(self.custom_score())),
            ("CUSTOM_MASK", Flag(self.custom_mask())),
            ("NATURAL_SCORE", Flag(self.natural_score())),
            (
                "SCORE_HOOKS",
                Flag(self.softcap || self.bias.is_some() || self.alibi || self.custom_score()),
            ),
            ("ELEMENT_MASK", Flag(self.mask || self.custom_mask())),
        ];
        if let Visits::Listed(keys) | Visits::Live(keys) = self.visits {
            constants.push(("BLOCK_SIZE", Count(keys)));
        }
        constants
    }

    /// The pieces for reading q, k, v, the optional tensors and the hooks; `half` as in [`native_element_piece`].
    fn input_pieces(&self, half: bool) -> Vec<&'static str> {
        let mut pieces = vec![native_element_piece(self.dtype, self.vector_inputs, half)];
        pieces.extend(row_pieces(self.vector_inputs));
        pieces.extend(self.hook_pieces());
        pieces.push(match self.weighting {
            WeightingKind::Softmax => "dense/weighting_softmax",
            WeightingKind::Sigmoid => "dense/weighting_sigmoid",
        });
        pieces.push(match self.visits {
            Visits::All => "dense/keys_all",
            Visits::Listed(_) => "dense/keys_listed",
            Visits::Live(_) => "dense/keys_live",
        });
        pieces
    }

    /// The pieces for the optional tensors and the hooks.
    pub(crate) fn hook_pieces(&self) -> Vec<&'static str> {
        let mut pieces = vec![match self.bias {
            None => "dense/bias_none",
            Some(DType::F32) => "dense/bias_f32",
            Some(DType::F16) => "dense/bias_f16",
            Some(DType::BF16) => "dense/bias_bf16",
        }];
        pieces.push(if self.mask {
            "dense/mask_bytes"
        } else {
            "dense/mask_none"
        });
        pieces.push(if self.has_small() {
            "dense/small"
        } else {
            "dense/small_none"
        });
        match (self.custom_score(), self.custom_mask()) {
            (false, false) => pieces.push("dense/custom_none"),
            (false, true) => pieces.push("dense/custom_no_score"),
            (true, false) => pieces.push("dense/custom_no_mask"),
            (true, true) => {}
        }
        pieces
    }

    fn output_pieces(&self) -> Vec<&'static str> {
        let mut pieces = output_pieces(self.output_dtype, self.vector_output);
        pieces.push(if self.lse { "shared/lse" } else { "shared/lse_none" });
        pieces
    }

    fn input_bindings(&self) -> Vec<Binding> {
        use BindingKind::{Read, Uniform};
        let mut bindings = vec![(0, Uniform), (1, Read), (2, Read), (3, Read)];
        if self.visits != Visits::All {
            bindings.push((LIST_BINDING, Read));
        }
        let mut bindings: Vec<_> = bindings
            .into_iter()
            .map(|(number, kind)| Binding { number, kind })
            .collect();
        bindings.extend(self.hook_bindings());
        bindings
    }

    /// Bindings of the optional tensors and custom data.
    pub(crate) fn hook_bindings(&self) -> Vec<Binding> {
        use BindingKind::Read;
        let mut bindings = vec![];
        if self.bias.is_some() {
            bindings.push((6, Read));
        }
        if self.mask {
            bindings.push((7, Read));
        }
        if self.has_small() {
            bindings.push((8, Read));
        }
        let data = self.custom.as_ref().map_or(0, |c| c.data.len());
        bindings.extend((0..data as u32).map(|n| (FIRST_CUSTOM_BINDING + n, Read)));
        bindings
            .into_iter()
            .map(|(number, kind)| Binding { number, kind })
            .collect()
    }

    fn output_bindings(&self) -> Vec<Binding> {
        let write = |number| Binding {
            number,
            kind: BindingKind::Write,
        };
        let mut bindings = vec![write(4)];
        if self.lse {
            bindings.push(write(5));
        }
        bindings
    }
}

/// The scan that writes which key tiles masks leave: what it depends on. The other options have a fixed value, so that
/// problems which differ in them share a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LiveVariant {
    /// The options of the attention that decide about masks.
    pub(crate) options: Attend<()>,
    /// Rows of a list.
    pub rows: u32,
    /// Whether the rows are those of a KV head, its query heads taking turns.
    pub interleaved: bool,
    /// Keys of a tile, a multiple of 4.
    pub keys: u32,
    /// Invocations of a workgroup, at least one for each strip of a tile.
    pub threads: u32,
}

impl LiveVariant {
    /// Tiles that a workgroup looks at together.
    pub(crate) const fn tiles(&self) -> u32 {
        self.threads / self.strips()
    }

    /// Invocations that share a tile.
    pub(crate) const fn strips(&self) -> u32 {
        self.keys / self.strip()
    }

    /// Keys of an invocation.
    pub(crate) const fn strip(&self) -> u32 {
        if self.keys.is_multiple_of(16) { 16 } else { 4 }
    }
}

impl Spec for LiveVariant {
    fn label(&self) -> String {
        format!(
            "dense/live {} rows {} keys {} threads {}",
            self.options.options(),
            self.rows,
            self.keys,
            self.threads
        )
    }

    fn kernel(&self) -> &'static str {
        "dense/live"
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        let mut constants = self.options.option_constants();
        constants.extend([
            ("BLOCK_SIZE", Count(self.keys)),
            ("STRIP", Count(self.strip())),
            ("ROWS", Count(self.rows)),
            ("INTERLEAVED", Flag(self.interleaved)),
            ("THREADS", Count(self.threads)),
        ]);
        constants
    }

    fn pieces(&self) -> Vec<&'static str> {
        self.options.hook_pieces()
    }

    fn custom(&self) -> Option<String> {
        self.options.custom.as_ref().map(super::custom::module_text)
    }

    fn bindings(&self) -> Vec<Binding> {
        use BindingKind::{Uniform, Write};
        let mut bindings: Vec<_> = [(0, Uniform), (LIST_BINDING, Write)]
            .map(|(number, kind)| Binding { number, kind })
            .to_vec();
        bindings.extend(self.options.hook_bindings());
        bindings
    }

    fn workgroup_bytes(&self) -> u32 {
        16 * self.rows + 16 * self.threads.div_ceil(4) + 16 * self.tiles().div_ceil(4)
    }
}

/// Lists of keys are bound here.
pub const LIST_BINDING: u32 = 9;

/// Custom data arrays are bound from here on.
pub const FIRST_CUSTOM_BINDING: u32 = 10;

/// The piece that reads elements of this type, four at a time or singly.
pub fn element_piece(dtype: DType, vector: bool) -> &'static str {
    match (dtype, vector) {
        (DType::F32, true) => "shared/element_f32_x4",
        (DType::F16, true) => "shared/element_f16_x4",
        (DType::BF16, true) => "shared/element_bf16_x4",
        (DType::F32, false) => "shared/element_f32_x1",
        (DType::F16, false) => "shared/element_f16_x1",
        (DType::BF16, false) => "shared/element_bf16_x1",
    }
}

/// The same; `half`: f16 is read as the device's own.
pub fn native_element_piece(dtype: DType, vector: bool, half: bool) -> &'static str {
    match (dtype, vector, half) {
        (DType::F16, true, true) => "shared/element_f16_x4_native",
        (DType::F16, false, true) => "shared/element_f16_x1_native",
        _ => element_piece(dtype, vector),
    }
}

/// The pieces that read rows of q, k and v, four elements at a time or singly.
pub fn row_pieces(vector: bool) -> [&'static str; 3] {
    match vector {
        true => ["shared/q_x4", "shared/k_x4", "shared/v_x4"],
        false => ["shared/q_x1", "shared/k_x1", "shared/v_x1"],
    }
}

/// The pieces of matrices of this edge, and of workgroup memory in words of four elements or single ones.
pub(crate) fn staged_pieces(edge: u32, vectors: bool) -> [&'static str; 2] {
    [
        match edge {
            8 => "shared/matrix_8",
            _ => "shared/matrix_16",
        },
        match vectors {
            true => "shared/staged_x4",
            false => "shared/staged_x1",
        },
    ]
}

/// Pieces that write a tensor of this type four elements at a time or singly.
pub fn output_pieces(dtype: DType, vector: bool) -> Vec<&'static str> {
    let mut pieces = vec![];
    if dtype != DType::F32 {
        pieces.push(pack_piece(dtype));
    }
    pieces.push(match (dtype, vector) {
        (DType::F32, true) => "shared/output_f32_x4",
        (DType::F32, false) => "shared/output_f32_x1",
        (_, true) => "shared/output_half_x4",
        (_, false) => "shared/output_half_x1",
    });
    pieces
}

/// The piece that puts two elements of 16 bits into a word.
pub(crate) fn pack_piece(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "shared/pack_bf16",
        DType::F16 | DType::F32 => "shared/pack_f16",
    }
}

/// Steps to write out of a loop of `steps`, close to `wanted` and without a remainder.
pub(crate) fn unroll(steps: u32, wanted: u32) -> u32 {
    (1..=wanted.min(steps))
        .rev()
        .find(|n| steps.is_multiple_of(*n))
        .unwrap_or(1)
}

/// What a kernel of the dense op adds to the options that all of them have.
pub(crate) trait Tile {
    /// The kernel's file, without `shaders/` and `.wgsl`.
    fn kernel(&self) -> &'static str;

    /// What it asks of a device.
    const TIER: Tier = Tier::Portable;

    /// Whether it looks at the whole of a selection's list first.
    const CHECKS_LISTS: bool;

    /// Tiles of its own in an entry of so many keys of a list of live tiles.
    fn tiles_of_an_entry(&self, keys: u32) -> u32;

    /// Whether f16 tensors are read as the device's own f16.
    fn half(&self) -> bool {
        false
    }

    /// The tile, for labels.
    fn label(&self) -> String;

    /// The header's constants that describe the tile.
    fn constants(&self, head_dim: u32, value_dim: u32) -> Vec<(&'static str, Constant)>;

    /// Pieces of its own.
    fn pieces<T>(&self, _attend: &Attend<T>) -> Vec<&'static str> {
        vec![]
    }

    /// Workgroup memory in bytes.
    fn workgroup_bytes(&self, head_dim: u32, value_dim: u32) -> u32;
}

impl<T: Tile> Spec for Attend<T> {
    fn label(&self) -> String {
        format!("{} {} {}", self.tile.kernel(), self.options(), self.tile.label())
    }

    fn kernel(&self) -> &'static str {
        self.tile.kernel()
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        let mut constants = self.option_constants();
        if let Visits::Live(keys) = self.visits {
            constants.push(("ENTRY_TILES", Constant::Count(self.tile.tiles_of_an_entry(keys))));
        }
        constants.extend(self.tile.constants(self.head_dim, self.value_dim));
        constants
    }

    fn pieces(&self) -> Vec<&'static str> {
        let mut pieces = self.tile.pieces(self);
        pieces.extend(self.input_pieces(self.tile.half()));
        if T::CHECKS_LISTS {
            pieces.push(match self.visits {
                Visits::Listed(_) => "dense/list_check",
                Visits::All | Visits::Live(_) => "dense/list_check_none",
            });
        }
        pieces.extend(self.output_pieces());
        pieces
    }

    fn tier(&self) -> Tier {
        T::TIER
    }

    fn enables(&self) -> Vec<&'static str> {
        let half = self.tile.half() && self.dtype == DType::F16;
        match T::TIER {
            Tier::Cooperative => vec!["f16", "wgpu_cooperative_matrix"],
            _ if half => vec!["f16"],
            _ => vec![],
        }
    }

    fn custom(&self) -> Option<String> {
        self.custom.as_ref().map(super::custom::module_text)
    }

    fn bindings(&self) -> Vec<Binding> {
        let mut bindings = self.input_bindings();
        bindings.extend(self.output_bindings());
        bindings
    }

    fn workgroup_bytes(&self) -> u32 {
        // The verdict on a list, at an offset of its own.
        let verdict = match self.visits {
            Visits::Listed(_) if T::CHECKS_LISTS => 16,
            _ => 0,
        };
        self.tile.workgroup_bytes(self.head_dim, self.value_dim) + verdict
    }
}
