//! Prefill and decode for software GPUs, without barriers or workgroup memory: `dense/prefill_serial.wgsl` and
//! `dense/decode_serial.wgsl`.

use crate::error::{Error, Result};
use crate::ops::dense::Dense;
use crate::ops::dense::check::invalid;
use crate::ops::dense::tile::{DeviceClass, KernelChoice, loop_iterations, rows_share_a_list};
use crate::ops::dense::variant::{Attend, Tile, all_within};
use crate::shader::Constant;
use crate::tier::Tier;

/// Tile shape of `dense/prefill_serial.wgsl`; the file's header has the meaning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct SerialPrefillTile {
    /// Rows of an invocation.
    pub row_regs: u32,
    /// Keys of a tile, at most 16.
    pub keys: u32,
    /// Invocations of a workgroup, which is one subgroup: as many as every subgroup of the device has.
    pub threads: u32,
}

impl SerialPrefillTile {
    /// Query rows of a workgroup.
    pub const fn rows(&self) -> u32 {
        self.row_regs * self.threads
    }

    /// Whether all fields are in range.
    pub(crate) fn is_sound(&self) -> bool {
        all_within(&[self.row_regs, self.keys, self.threads]) && self.keys <= 16
    }

    /// Refuses a device whose subgroups are not a workgroup of this tile.
    pub(crate) fn check(&self, device: &DeviceClass) -> Result<()> {
        let Some((least, most)) = device.abilities.subgroups else {
            return Err(Error::Unsupported {
                what: "a kernel of the subgroup tier".into(),
                why: format!("the device lacks {}", Tier::Subgroup.needs()),
            });
        };
        if (least, most) == (self.threads, self.threads) {
            return Ok(());
        }
        Err(invalid(
            "tuning.kernel",
            format!("{self:?}"),
            format!("`threads` equal to the size of every subgroup, which this device makes of {least} to {most}"),
        ))
    }

    /// Keys of an entry of a list of live tiles.
    pub(crate) fn live_keys(&self) -> u32 {
        LIVE_KEYS.next_multiple_of(4 * self.keys)
    }
}

/// Keys of an entry of a list of live tiles: more than a tile has, for short lists.
const LIVE_KEYS: u32 = 32;

impl Tile for SerialPrefillTile {
    fn kernel(&self) -> &'static str {
        "dense/prefill_serial"
    }
    const TIER: Tier = Tier::Subgroup;
    const CHECKS_LISTS: bool = false;

    fn tiles_of_an_entry(&self, keys: u32) -> u32 {
        keys / self.keys
    }

    fn label(&self) -> String {
        format!("tile {}x{} regs {}", self.rows(), self.keys, self.row_regs)
    }

    fn constants(&self, _head_dim: u32, _value_dim: u32) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        vec![
            ("ROWS", Count(self.row_regs)),
            ("KEYS", Count(self.keys)),
            ("THREADS", Count(self.threads)),
            ("ALTERNATE", Flag(true)),
        ]
    }

    fn pieces<T>(&self, _attend: &Attend<T>) -> Vec<&'static str> {
        vec![]
    }

    fn workgroup_bytes(&self, _head_dim: u32, _value_dim: u32) -> u32 {
        0
    }
}

/// Tile shape of `dense/decode_serial.wgsl`; the file's header has the meaning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct SerialTile {
    /// Rows of an invocation.
    pub rows: u32,
    /// Invocations of a workgroup, each with a share of the keys of its own.
    pub threads: u32,
}

impl SerialTile {
    pub(crate) fn is_sound(&self) -> bool {
        all_within(&[self.rows, self.threads])
    }
}

impl Tile for SerialTile {
    fn kernel(&self) -> &'static str {
        "dense/decode_serial"
    }
    const CHECKS_LISTS: bool = false;

    fn tiles_of_an_entry(&self, keys: u32) -> u32 {
        keys
    }

    fn label(&self) -> String {
        format!("rows {}", self.rows)
    }

    fn constants(&self, _head_dim: u32, _value_dim: u32) -> Vec<(&'static str, Constant)> {
        use Constant::Count;
        vec![("ROWS", Count(self.rows)), ("THREADS", Count(self.threads))]
    }

    fn workgroup_bytes(&self, _head_dim: u32, _value_dim: u32) -> u32 {
        0
    }
}

/// The tile for a problem on a software GPU whose subgroups all have one size; `None` elsewhere, where too few rows share a
/// list of keys, and where the device would leave the loop over the keys.
pub(crate) fn prefill(problem: &Dense, device: &DeviceClass) -> Option<SerialPrefillTile> {
    let (least, most) = device.abilities.subgroups?;
    let serves = device.software && least == most && device.allows(Tier::Subgroup) && !device.forces(Tier::Subgroup);
    if !serves {
        return None;
    }
    // The code is written out over rows, keys and dimensions: larger tiles are faster, and take the host seconds to
    // compile. By measurements on llvmpipe (`benches/tune_dense.rs`).
    let vecs = problem.head_dim.div_ceil(4) + problem.value_dim().div_ceil(4);
    let (row_regs, keys): (&[u32], u32) = match vecs {
        0..=32 => (&[3, 2, 1], 4),
        33..=64 => (&[2, 1], 4),
        _ => (&[2, 1], 2),
    };
    let tiles = row_regs.iter().map(|&row_regs| SerialPrefillTile {
        row_regs,
        keys,
        threads: least,
    });
    let mut tiles = tiles.map(KernelChoice::PrefillSerial);
    let choice = tiles.find(|choice| rows_share_a_list(problem, choice))?;
    match choice {
        KernelChoice::PrefillSerial(tile) if loop_iterations(problem, &choice, 1) <= device.loop_iterations() => {
            Some(tile)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dense::Selection;
    use crate::ops::dense::tile::choose;
    use crate::tier::Abilities;

    fn llvmpipe(subgroups: Option<(u32, u32)>, tier: Option<Tier>) -> DeviceClass {
        DeviceClass {
            workgroup_memory: 32 << 10,
            invocations: 1024,
            software: true,
            processors: 2,
            abilities: Abilities {
                subgroups,
                ..Abilities::NONE
            },
            tier,
            scalar_matrices: false,
        }
    }

    fn prompt(keys: u32) -> Dense {
        Dense {
            queries: 100,
            keys,
            ..Dense::default()
        }
    }

    fn is_serial(problem: &Dense, device: &DeviceClass) -> bool {
        matches!(choose(problem, device).unwrap(), KernelChoice::PrefillSerial(_))
    }

    #[test]
    fn software_gpus_prefill_serially_where_their_subgroups_are_of_one_size() {
        let p = prompt(500);
        assert!(is_serial(&p, &llvmpipe(Some((8, 8)), None)));
        assert!(!is_serial(&p, &llvmpipe(Some((4, 8)), None)));
        assert!(!is_serial(&p, &llvmpipe(None, None)));
        assert!(!is_serial(&p, &llvmpipe(Some((8, 8)), Some(Tier::Portable))));
        let gpu = DeviceClass {
            software: false,
            ..llvmpipe(Some((32, 32)), None)
        };
        assert!(!is_serial(&p, &gpu));
    }

    #[test]
    fn rows_of_a_workgroup_share_a_list() {
        let listed = |query_block| Dense {
            queries: 1000,
            selection: Some(Selection {
                query_block,
                block_size: 16,
                capacity: 8,
                per_kv_head: false,
            }),
            ..prompt(500)
        };
        let rows = |query_block| prefill(&listed(query_block), &llvmpipe(Some((8, 8)), None)).map(|tile| tile.rows());
        assert_eq!(rows(1000), Some(24));
        assert_eq!(rows(48), Some(24));
        assert_eq!(rows(64), Some(16));
        assert_eq!(rows(8), Some(8));
        assert_eq!(rows(20), None);
        assert!(!is_serial(&listed(20), &llvmpipe(Some((8, 8)), None)));
    }

    #[test]
    fn the_loop_over_the_keys_stays_within_what_a_software_gpu_runs() {
        let device = llvmpipe(Some((8, 8)), None);
        for keys in [1 << 10, 1 << 17, 200_000, 239_000, 240_001, 1 << 18, 1 << 20] {
            let choice = choose(&prompt(keys), &device).unwrap();
            let serial = matches!(choice, KernelChoice::PrefillSerial(_));
            assert_eq!(serial, keys < 239_500, "{keys} keys: {choice:?}");
            let iterations = loop_iterations(&prompt(keys), &choice, 1);
            assert!(
                !serial || iterations <= device.loop_iterations(),
                "{keys} keys: {iterations}"
            );
        }
    }

    #[test]
    fn other_subgroups_are_refused() {
        let tile = SerialPrefillTile {
            row_regs: 2,
            keys: 4,
            threads: 8,
        };
        assert!(tile.check(&llvmpipe(Some((8, 8)), None)).is_ok());
        for sizes in [(4, 8), (8, 16), (32, 32)] {
            let error = tile.check(&llvmpipe(Some(sizes), None)).unwrap_err().to_string();
            assert!(error.contains(&format!("{} to {}", sizes.0, sizes.1)), "{error}");
        }
        let error = tile.check(&llvmpipe(None, None)).unwrap_err().to_string();
        assert!(error.contains("SUBGROUP"), "{error}");
    }
}
