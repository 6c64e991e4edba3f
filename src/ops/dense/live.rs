//! Lists of the key tiles that masks leave, which attention kernels walk instead of all: whether a problem gets them, and
//! how they lie.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Workspace};
use crate::ops::call::Window;
use crate::ops::dense::Dense;
use crate::ops::dense::encode::Lists;
use crate::ops::dense::plan::{options_of, prepared};
use crate::ops::dense::tile::{DeviceClass, Extent, KernelChoice, looped};
use crate::ops::dense::variant::{Attend, DenseVariant, LiveVariant, Visits, WeightingKind};
use crate::ops::parts::Part;
use crate::shader::{Pipeline, Spec, Variant};
use crate::tensor::{DType, Tensor};

/// The scan before a plan's attention, and its lists.
#[derive(Debug)]
pub(crate) struct Live {
    pub pipeline: Arc<Pipeline>,
    pub lists: LiveLists,
}

impl Live {
    pub fn new(p: &Dense, gpu: &Gpu, lists: LiveLists) -> Result<Self> {
        gpu.workspace(Workspace::Lists, lists.bytes)?;
        Ok(Live {
            pipeline: prepared(p, gpu, &lists.scan(p))?,
            lists,
        })
    }
}

/// How the lists of live tiles lie: `[batch or 1, heads or KV heads or 1, row tiles, words]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LiveLists {
    /// A list of its own for each batch entry.
    pub per_batch: bool,
    /// A list of its own for each head, or KV head if `interleaved`.
    pub per_head: bool,
    /// Rows of a list, those that the attention kernel takes together.
    pub rows: u32,
    /// Whether the rows are those of a KV head, its query heads taking turns; and how many these are.
    pub interleaved: bool,
    pub group: u32,
    /// Keys of a tile.
    pub keys: u32,
    /// Invocations of the scan.
    pub threads: u32,
    /// Words of a list.
    pub words: u32,
    /// Bytes of the most lists that one part has.
    pub bytes: u64,
}

/// Invocations of the scan.
const THREADS: u32 = 64;

impl LiveLists {
    /// The lists that a kernel walks; their bytes come from the parts.
    fn of(p: &Dense, choice: &KernelChoice, parts: &[Part], device: &DeviceClass) -> Self {
        let Extent {
            rows,
            keys,
            interleaved,
            ..
        } = choice.extent();
        let shapes = [p.mask, p.bias.map(|b| b.shape)];
        let mut shapes = shapes.iter().flatten();
        // Code of the caller's own may look at anything.
        let custom = p.custom.as_ref().is_some_and(|c| c.mask.is_some());
        let mut lists = LiveLists {
            per_batch: custom || p.kv_len || shapes.clone().any(|s| s.per_batch),
            per_head: custom || shapes.any(|s| s.per_head),
            rows,
            interleaved,
            group: if interleaved { p.heads / p.kv_heads() } else { 1 },
            keys,
            threads: THREADS.min(device.invocations),
            // The count, the tiles, and two words to spare: kernels load up to two entries past the end, and do not use them.
            words: p.keys.div_ceil(keys) + 3,
            bytes: 0,
        };
        let count = |part| lists.dims(part).map(u64::from).iter().product::<u64>();
        lists.bytes = parts.iter().map(count).max().unwrap_or(0) * u64::from(lists.words) * 4;
        lists
    }

    /// Row tiles, heads and batch entries of a part, as far as they have lists of their own: the grid of its scan.
    pub fn dims(&self, part: &Part) -> [u32; 3] {
        let heads = (part.head.1 - part.head.0) / self.group;
        [
            ((part.query.1 - part.query.0) * self.group).div_ceil(self.rows),
            if self.per_head { heads } else { 1 },
            if self.per_batch { part.batch.1 - part.batch.0 } else { 1 },
        ]
    }

    /// Query heads that share a list, of those that have one of their own.
    pub fn heads_of_a_list(&self) -> u32 {
        self.group
    }

    /// A part's lists in a workspace.
    pub fn of_part<'a>(&self, gpu: &Gpu, part: &Part, buffer: &'a wgpu::Buffer) -> Lists<'a> {
        let [row_tiles, heads, batch] = self.dims(part);
        let words = row_tiles * self.words;
        let all = u64::from(words) * u64::from(heads) * u64::from(batch);
        Lists {
            window: Window::over(gpu, Tensor::at(buffer, 0), (0, all), 4),
            strides: [
                if self.per_batch { heads * words } else { 0 },
                if self.per_head { words } else { 0 },
                self.words,
            ],
        }
    }

    /// The scan that fills them.
    pub fn scan(&self, p: &Dense) -> Variant {
        Variant::Dense(DenseVariant::Live(self.variant(p)))
    }

    fn variant(&self, p: &Dense) -> LiveVariant {
        let options = options_of(p);
        LiveVariant {
            options: Attend {
                head_dim: 1,
                value_dim: 1,
                dtype: DType::F32,
                vector_inputs: false,
                output_dtype: DType::F32,
                vector_output: false,
                weighting: WeightingKind::Softmax,
                softcap: false,
                visits: Visits::All,
                lse: false,
                ..options
            },
            rows: self.rows,
            interleaved: self.interleaved,
            keys: self.keys,
            threads: self.threads,
        }
    }

    /// Iterations of all loops of an invocation of the scan, at most.
    fn loop_iterations(&self, p: &Dense) -> u64 {
        // The search for a row's document.
        let row = if p.documents.is_some() { 30 } else { 0 };
        let scan = self.variant(p);
        let mask = if p.mask.is_some() { looped(self.rows, 0) } else { 0 };
        let elements = looped(self.rows, looped(scan.strip() / 4, 0));
        let round = mask + elements + looped(scan.strips(), 0) + looped(scan.tiles(), 0);
        let rounds = u64::from(p.keys.div_ceil(self.keys).div_ceil(scan.tiles()));
        u64::from(looped(self.rows.div_ceil(self.threads), row) + 2 * row) + rounds * u64::from(1 + round) + 1
    }

    /// Why a device cannot have them, if it cannot. `attend` is the kernel without them.
    fn obstacle(
        &self,
        p: &Dense,
        attend: &dyn Spec,
        device: &DeviceClass,
        limits: &wgpu::Limits,
    ) -> Option<&'static str> {
        let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
        let binding = limits.max_storage_buffer_binding_size.min(u32::MAX.into());
        // The uniform is no storage buffer; the lists are one more.
        let buffers = attend.bindings().len() as u32;
        if p.selection.is_some() {
            Some("not with a `selection`, whose lists the kernel walks already")
        } else if !may_mask(p) {
            Some("only with a `mask`, a `bias` or a custom mask")
        } else if buffers > limits.max_storage_buffers_per_shader_stage {
            Some("not where the problem's tensors leave no storage buffer for the lists")
        } else if !self.keys.is_multiple_of(4) || self.keys > 4 * self.threads {
            Some("not with such a tile: its keys must be a multiple of 4, and one invocation of 64 for each 4 of them")
        } else if self.variant(p).workgroup_bytes() > device.workgroup_memory {
            Some("not with such a tile: its rows must fit workgroup memory")
        } else if self.bytes > limits.max_buffer_size || self.bytes + alignment > binding {
            Some("not with lists larger than a binding")
        } else if self.loop_iterations(p) > device.loop_iterations() {
            Some("not over so many keys: software GPUs leave a shader after so many iterations")
        } else {
            None
        }
    }
}

/// Whether something masks keys that positions cannot tell.
fn may_mask(p: &Dense) -> bool {
    let custom = p.custom.as_ref().is_some_and(|c| c.mask.is_some());
    p.mask.is_some() || p.bias.is_some() || custom
}

/// Keys from which looking for empty tiles pays in decode, where little else is done: by measurements on a software GPU,
/// where a mask that hides nothing makes one query over 64 keys a fifth slower, over 256 an eighth and over 16384 a
/// twentieth, and one that hides half of 256 keys makes it a fifth faster.
const DECODE_KEYS: u32 = 256;

/// Whether looking for empty tiles may be expected to pay. In prefill, where it costs a fiftieth at most, wherever one of
/// several tiles can be left out.
fn pays(p: &Dense, choice: &KernelChoice) -> bool {
    let extent = choice.extent();
    match extent.interleaved {
        true => p.keys >= DECODE_KEYS,
        false => p.keys > extent.keys,
    }
}

/// Whether a problem's attention walks lists of live tiles, and which. `attend` is the kernel without them.
///
/// # Errors
/// [`Error::Invalid`] if they are `wanted` but cannot be had.
pub(crate) fn choose(
    p: &Dense,
    choice: &KernelChoice,
    attend: &DenseVariant,
    parts: &[Part],
    device: &DeviceClass,
    limits: &wgpu::Limits,
    wanted: Option<bool>,
) -> Result<Option<LiveLists>> {
    if wanted == Some(false) {
        return Ok(None);
    }
    let lists = LiveLists::of(p, choice, parts, device);
    match (lists.obstacle(p, attend.spec(), device, limits), wanted) {
        (None, Some(true)) => Ok(Some(lists)),
        (None, _) => Ok(pays(p, choice).then_some(lists)),
        (Some(why), Some(true)) => Err(Error::Invalid {
            field: "tuning.live",
            value: "Some(true)".into(),
            allowed: why.into(),
        }),
        (Some(_), _) => Ok(None),
    }
}

impl DenseVariant {
    /// The same attention kernel over other keys. The scan has no keys to visit and stays as it is.
    pub(crate) fn visiting(mut self, visits: Visits) -> Self {
        match &mut self {
            DenseVariant::Prefill(v) => v.visits = visits,
            DenseVariant::PrefillSerial(v) => v.visits = visits,
            DenseVariant::Cooperative(v) => v.visits = visits,
            DenseVariant::CooperativeDecode(v) => v.visits = visits,
            DenseVariant::Decode(v) => v.visits = visits,
            DenseVariant::DecodeSerial(v) => v.visits = visits,
            DenseVariant::SubgroupPrefill(v) => v.visits = visits,
            DenseVariant::SubgroupDecode(v) => v.visits = visits,
            DenseVariant::Live(_) => {}
        }
        self
    }
}

/// The scan for live key tiles and the attention kernel that walks its lists, whether or not a device has room for them.
/// `attend` is that kernel over all keys.
pub fn live_variants_of(
    p: &Dense,
    choice: &KernelChoice,
    attend: &DenseVariant,
    device: &DeviceClass,
) -> [DenseVariant; 2] {
    let lists = LiveLists::of(p, choice, &[], device);
    let attend = attend.clone().visiting(Visits::Live(lists.keys));
    [DenseVariant::Live(lists.variant(p)), attend]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dense::geometry::whole;
    use crate::ops::dense::plan::variant_of;
    use crate::ops::dense::tile;
    use crate::ops::dense::{Bias, Broadcast, Custom};
    use crate::tier::Abilities;

    const SOFTWARE_GPU: DeviceClass = DeviceClass {
        workgroup_memory: 32 << 10,
        invocations: 1024,
        software: true,
        processors: 2,
        abilities: Abilities::NONE,
        tier: None,
        scalar_matrices: false,
    };

    fn masked(queries: u32, keys: u32) -> Dense {
        Dense {
            heads: 4,
            kv_heads: Some(2),
            queries,
            keys,
            mask: Some(Broadcast::FULL),
            lse: true,
            ..Dense::default()
        }
    }

    fn chosen(p: &Dense, limits: &wgpu::Limits, wanted: Option<bool>) -> Result<Option<LiveLists>> {
        let kernel = tile::choose(p, &SOFTWARE_GPU).unwrap();
        let attend = variant_of(p, kernel, false);
        choose(p, &kernel, &attend, &[whole(p)], &SOFTWARE_GPU, limits, wanted)
    }

    fn has_lists(p: &Dense) -> bool {
        chosen(p, &wgpu::Limits::default(), None).unwrap().is_some()
    }

    #[test]
    fn lists_are_made_where_masks_may_empty_tiles_and_there_are_several() {
        assert!(has_lists(&masked(1000, 1000)));
        assert!(has_lists(&masked(1, 256)));
        assert!(!has_lists(&masked(1, 255)));
        assert!(!has_lists(&masked(1000, 60)));
        let positions_only = Dense {
            mask: None,
            causal: true,
            alibi: true,
            ..masked(1000, 1000)
        };
        assert!(!has_lists(&positions_only));
        let biased = Dense {
            mask: None,
            bias: Some(Bias {
                dtype: DType::F16,
                shape: Broadcast::FULL,
            }),
            ..masked(1000, 1000)
        };
        assert!(has_lists(&biased));
    }

    #[test]
    fn limits_of_the_device_leave_attention_without_lists() {
        let limits = wgpu::Limits::default();
        // q, k, v, o, lse, mask and the lists.
        let seven = wgpu::Limits {
            max_storage_buffers_per_shader_stage: 7,
            ..limits.clone()
        };
        assert!(chosen(&masked(1000, 1000), &seven, None).unwrap().is_some());
        let six = wgpu::Limits {
            max_storage_buffers_per_shader_stage: 6,
            ..limits.clone()
        };
        assert!(chosen(&masked(1000, 1000), &six, None).unwrap().is_none());
        let small = wgpu::Limits {
            max_storage_buffer_binding_size: 4 << 10,
            ..limits.clone()
        };
        assert!(chosen(&masked(1000, 1000), &small, None).unwrap().is_none());
        // Loops that a software GPU would leave.
        assert!(!has_lists(&masked(1000, 1 << 20)));
        let error = chosen(&masked(1000, 1 << 20), &limits, Some(true)).unwrap_err();
        assert!(error.to_string().contains("iterations"), "{error}");
        assert!(chosen(&masked(1000, 1000), &limits, Some(false)).unwrap().is_none());
    }

    #[test]
    fn lists_are_shared_where_masks_are() {
        let lists = |p: &Dense| chosen(p, &wgpu::Limits::default(), Some(true)).unwrap().unwrap();
        let shared = Dense {
            batch: 3,
            mask: Some(Broadcast {
                per_batch: false,
                per_head: false,
                per_query: true,
            }),
            ..masked(1000, 1000)
        };
        let row_tiles = 1000u32.div_ceil(lists(&shared).rows);
        assert_eq!(lists(&shared).dims(&whole(&shared)), [row_tiles, 1, 1]);
        assert_eq!(lists(&shared).bytes, u64::from(row_tiles * lists(&shared).words * 4));
        let with_lengths = Dense {
            kv_len: true,
            ..shared.clone()
        };
        assert_eq!(lists(&with_lengths).dims(&whole(&shared)), [row_tiles, 1, 3]);
        let with_code = Dense {
            custom: Some(Custom {
                mask: Some(String::new()),
                ..Default::default()
            }),
            ..shared.clone()
        };
        assert_eq!(lists(&with_code).dims(&whole(&shared)), [row_tiles, 4, 3]);
        // A KV head's query heads take turns in the rows of one list.
        let decode = Dense {
            queries: 3,
            mask: Some(Broadcast::FULL),
            ..shared
        };
        assert_eq!(lists(&decode).dims(&whole(&decode)), [1, 2, 3]);
    }
}
