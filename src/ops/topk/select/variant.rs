//! The typed spec behind `shaders/topk/select.wgsl`.
//!
//! ```
//! use wgpu_attention::shader::{Spec, Variant};
//! use wgpu_attention::topk::select::variant::{SelectTile, SelectVariant};
//! use wgpu_attention::topk::variant::TopKVariant;
//!
//! let tile = SelectTile { threads: 256, radix_bits: 11, replicas: 1, mask_quads: 1, unroll: 4 };
//! let variant = SelectVariant { tile, vector: true, forced: false, subgroups: None };
//! assert_eq!(variant.label(), "topk/select t256 11 bits x1 q1 u4 x4");
//! assert!(Variant::TopK(TopKVariant::Select(variant)).wgsl().contains("fn main"));
//! ```

use crate::ops::dense::tile::looped;
use crate::shader::{Binding, BindingKind, Constant, Spec};
use crate::tier::Tier;

/// How a workgroup takes its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct SelectTile {
    /// Invocations, a power of two.
    pub threads: u32,
    /// Bits of a digit: ⌈32/radix_bits⌉ histograms of 2^radix_bits bins at most.
    pub radix_bits: u32,
    /// Copies of each bin, a power of two, so that fewer invocations count in one at once.
    pub replicas: u32,
    /// Quads of columns whose mask bits an invocation writes together: 1, 2, 4 or 8, which is a whole word.
    pub mask_quads: u32,
    /// Loads of an invocation that are under way together.
    pub unroll: u32,
}

impl SelectTile {
    /// Words of the bins, and later of both masks.
    fn words(&self) -> u32 {
        self.replicas << self.radix_bits
    }

    /// Workgroup memory in bytes: bins, the two halves of a scan, the last candidate, and the bin that was picked.
    pub fn workgroup_bytes(&self) -> u32 {
        self.bytes_with((8 * self.threads).next_multiple_of(16))
    }

    /// The same with a scan that takes so many.
    fn bytes_with(&self, scan: u32) -> u32 {
        4 * self.words() + scan + 16 + 16
    }

    /// Iterations of all loops of one invocation, at most.
    pub(crate) fn loop_iterations(&self, columns: u32, capacity: u32) -> u64 {
        let quads = columns.div_ceil(4);
        let shared = |n: u32| u64::from(looped(n.div_ceil(self.threads), 0));
        let clear = shared(self.words());
        let scan = u64::from(looped(self.threads.ilog2(), 0));
        let bins = (1u32 << self.radix_bits).div_ceil(self.threads);
        let pick = 2 * u64::from(looped(bins, looped(self.replicas, 0))) + scan;
        let passes =
            u64::from(32u32.div_ceil(self.radix_bits)) * (1 + clear + shared(quads.div_ceil(self.unroll)) + pick);
        let block_quads = (self.words() / 2).min(1024).saturating_mul(8);
        let block = |quads: u32| {
            let words = quads.div_ceil(8).div_ceil(self.threads);
            let marks = shared(quads.div_ceil(self.mask_quads * self.unroll));
            1 + clear + marks + scan + u64::from(looped(words, 0)) + u64::from(looped(words, looped(32, 0)))
        };
        let blocks = u64::from(quads / block_quads) * block(block_quads) + block(quads % block_quads);
        shared(quads) + passes + blocks + shared(capacity)
    }
}

/// What the kernel's code depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SelectVariant {
    /// How a workgroup takes its row.
    pub tile: SelectTile,
    /// Scores are read four at a time.
    pub vector: bool,
    /// Some candidates are kept whatever their score.
    pub forced: bool,
    /// Invocations of the device's smallest subgroups, where scans go through subgroups.
    pub subgroups: Option<u32>,
}

impl Spec for SelectVariant {
    fn label(&self) -> String {
        let t = &self.tile;
        let access = if self.vector { "x4" } else { "x1" };
        let forced = if self.forced { " forced" } else { "" };
        let subgroups = if self.subgroups.is_some() { " subgroups" } else { "" };
        format!(
            "topk/select t{} {} bits x{} q{} u{} {access}{forced}{subgroups}",
            t.threads, t.radix_bits, t.replicas, t.mask_quads, t.unroll
        )
    }

    fn kernel(&self) -> &'static str {
        "topk/select"
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        let t = &self.tile;
        let mut constants = vec![
            ("THREADS", Constant::Count(t.threads)),
            ("RADIX_BITS", Constant::Count(t.radix_bits)),
            ("REPLICAS", Constant::Count(t.replicas)),
            ("MASK_QUADS", Constant::Count(t.mask_quads)),
            ("UNROLL", Constant::Count(t.unroll)),
            ("FORCED", Constant::Flag(self.forced)),
        ];
        constants.extend(self.subgroups.map(|least| ("SUBGROUP_LEAST", Constant::Count(least))));
        constants
    }

    fn pieces(&self) -> Vec<&'static str> {
        let row = if self.vector { "topk/row_x4" } else { "topk/row_x1" };
        let scan = match self.subgroups {
            Some(_) => "topk/scan_subgroup",
            None => "topk/scan_workgroup",
        };
        vec!["shared/numerics", row, scan]
    }

    fn custom(&self) -> Option<String> {
        None
    }

    fn bindings(&self) -> Vec<Binding> {
        use BindingKind::{Read, Uniform, Write};
        [(0, Uniform), (1, Read), (4, Write)]
            .map(|(number, kind)| Binding { number, kind })
            .to_vec()
    }

    fn workgroup_bytes(&self) -> u32 {
        match self.subgroups {
            Some(least) => self
                .tile
                .bytes_with((4 * self.tile.threads.div_ceil(least)).next_multiple_of(16)),
            None => self.tile.workgroup_bytes(),
        }
    }

    fn tier(&self) -> Tier {
        match self.subgroups {
            Some(_) => Tier::Subgroup,
            None => Tier::Portable,
        }
    }
}
