//! Portable prefill and decode, through workgroup memory: their tiles.

use crate::ops::dense::variant::{Attend, Tile, all_within, unroll};
use crate::shader::Constant;

/// Tile shape of `dense/prefill.wgsl`; the file's header has the meaning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct PrefillTile {
    /// Row groups.
    pub row_groups: u32,
    /// Rows of an invocation.
    pub row_regs: u32,
    /// Invocations of a row group.
    pub lanes: u32,
    /// Keys of an invocation, a multiple of 4.
    pub key_regs: u32,
    /// Vectors of the head dimension staged at once.
    pub chunk: u32,
    /// Keys whose values are staged at once, a multiple of 4 and a divisor of the tile's keys.
    pub value_chunk: u32,
    /// The next chunk is loaded into registers while the last one is multiplied.
    pub prefetch: bool,
    /// Steps of the products' inner loops that are written out.
    pub unroll: u32,
    /// Long and short query tiles alternate, for devices that deal workgroups out in advance.
    pub alternate: bool,
}

impl PrefillTile {
    /// Whether all fields are in range and the shader's static assertions hold.
    pub(crate) fn is_sound(&self) -> bool {
        let t = self;
        all_within(&[t.row_groups, t.row_regs, t.lanes, t.key_regs, t.chunk, t.value_chunk])
            && t.key_regs.is_multiple_of(4)
            && t.value_chunk.is_multiple_of(4)
            && t.keys().is_multiple_of(t.value_chunk)
    }

    /// Query rows of a workgroup.
    pub const fn rows(&self) -> u32 {
        self.row_groups * self.row_regs
    }

    /// Keys of a tile.
    pub const fn keys(&self) -> u32 {
        self.lanes * self.key_regs
    }

    /// Invocations of a workgroup.
    pub const fn threads(&self) -> u32 {
        self.row_groups * self.lanes
    }

    /// Workgroup memory in bytes.
    pub const fn workgroup_bytes(&self, value_dim: u32) -> u32 {
        let value_pitch = value_dim.div_ceil(4).div_ceil(self.lanes) * self.lanes;
        let scores = (self.rows() + self.keys()) * (self.chunk + 1);
        let weights = self.rows() * (self.keys() / 4 + 1) + self.value_chunk * value_pitch;
        let tile = if scores > weights { scores } else { weights };
        16 * tile + self.statistics_bytes() + 16 * self.rows()
    }

    /// Those of `dense/statistics_workgroup.wgsl`.
    pub(crate) const fn statistics_bytes(&self) -> u32 {
        let scratch = self.rows() * (self.lanes + 1);
        4 * (scratch.div_ceil(4) * 4) + 4 * self.rows()
    }
}

impl Tile for PrefillTile {
    fn kernel(&self) -> &'static str {
        "dense/prefill"
    }
    const CHECKS_LISTS: bool = true;

    fn tiles_of_an_entry(&self, keys: u32) -> u32 {
        keys / self.keys()
    }

    fn label(&self) -> String {
        format!(
            "tile {}x{} regs {}x{} chunk {}/{}{} unroll {}",
            self.rows(),
            self.keys(),
            self.row_regs,
            self.key_regs,
            self.chunk,
            self.value_chunk,
            if self.prefetch { " prefetch" } else { "" },
            self.unroll
        )
    }

    fn constants(&self, _head_dim: u32, _value_dim: u32) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        vec![
            ("ROW_GROUPS", Count(self.row_groups)),
            ("ROW_REGS", Count(self.row_regs)),
            ("LANES", Count(self.lanes)),
            ("KEY_REGS", Count(self.key_regs)),
            ("CHUNK", Count(self.chunk)),
            ("VALUE_CHUNK", Count(self.value_chunk)),
            ("PREFETCH", Flag(self.prefetch)),
            ("ALTERNATE", Flag(self.alternate)),
            ("QK_UNROLL", Count(unroll(self.chunk, self.unroll))),
            ("PV_UNROLL", Count(unroll(self.value_chunk / 4, self.unroll))),
        ]
    }

    fn pieces<T>(&self, _attend: &Attend<T>) -> Vec<&'static str> {
        vec!["dense/statistics_workgroup"]
    }

    fn workgroup_bytes(&self, _head_dim: u32, value_dim: u32) -> u32 {
        self.workgroup_bytes(value_dim)
    }
}

/// Tile shape of `dense/decode.wgsl`; the file's header has the meaning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct DecodeTile {
    /// Rows of a workgroup.
    pub rows: u32,
    /// Invocations that share a key.
    pub lanes: u32,
    /// Keys at a time.
    pub slots: u32,
    /// Keys of an invocation.
    pub key_regs: u32,
    /// Invocations that share a value row: a divisor of SLOTS × LANES, no fewer than `rows`. The number of such groups
    /// divides the keys of a tile.
    pub value_lanes: u32,
    /// Values, and the keys of the next tile, are loaded while scores are worked out.
    pub prefetch: bool,
}

impl DecodeTile {
    /// Whether all fields are in range and the shader's static assertions hold.
    pub(crate) fn is_sound(&self) -> bool {
        let t = self;
        all_within(&[t.rows, t.lanes, t.slots, t.key_regs, t.value_lanes])
            && t.threads().is_multiple_of(t.value_lanes)
            && t.keys().is_multiple_of(t.threads() / t.value_lanes)
            && t.rows <= t.value_lanes
    }

    /// Keys of a tile.
    pub const fn keys(&self) -> u32 {
        self.slots * self.key_regs
    }

    /// Invocations of a workgroup.
    pub const fn threads(&self) -> u32 {
        self.slots * self.lanes
    }

    /// Workgroup memory in bytes.
    pub const fn workgroup_bytes(&self) -> u32 {
        let groups = self.threads() / self.value_lanes;
        let words = [
            self.rows * self.keys() * (self.lanes + 1),
            self.keys() * self.rows,
            groups * self.rows,
            groups * self.rows,
            groups * self.rows,
        ];
        let mut bytes = 16 * self.threads() + 16 * self.rows;
        let mut n = 0;
        while n < words.len() {
            bytes += words[n].div_ceil(4) * 16;
            n += 1;
        }
        bytes
    }
}

impl Tile for DecodeTile {
    fn kernel(&self) -> &'static str {
        "dense/decode"
    }
    const CHECKS_LISTS: bool = false;

    fn tiles_of_an_entry(&self, keys: u32) -> u32 {
        keys / self.keys()
    }

    fn label(&self) -> String {
        format!(
            "rows {} keys {}x{} lanes {}/{}{}",
            self.rows,
            self.slots,
            self.key_regs,
            self.lanes,
            self.value_lanes,
            if self.prefetch { " prefetch" } else { "" }
        )
    }

    fn constants(&self, _head_dim: u32, _value_dim: u32) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        vec![
            ("ROWS", Count(self.rows)),
            ("LANES", Count(self.lanes)),
            ("SLOTS", Count(self.slots)),
            ("KEY_REGS", Count(self.key_regs)),
            ("VALUE_LANES", Count(self.value_lanes)),
            ("PREFETCH", Flag(self.prefetch)),
        ]
    }

    fn workgroup_bytes(&self, _head_dim: u32, _value_dim: u32) -> u32 {
        self.workgroup_bytes()
    }
}
