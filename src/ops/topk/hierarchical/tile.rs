//! Which tile serves a search: a pure function of problem and device.
//!
//! ```
//! use wgpu_attention::dense::tile::DeviceClass;
//! use wgpu_attention::topk::hierarchical::tile::choose;
//! use wgpu_attention::wgpu::{DeviceType, Limits};
//! use wgpu_attention::{Dense, Hierarchical};
//!
//! let attention = Dense { queries: 4096, keys: 4096, causal: true, ..Default::default() };
//! let search = Hierarchical { attention, ..Default::default() };
//! let gpu = DeviceClass::of(&Limits::default(), DeviceType::DiscreteGpu);
//! let software = DeviceClass::of(&Limits::default(), DeviceType::Cpu);
//! assert_eq!((choose(&search, &gpu)?.rows, choose(&search, &gpu)?.held), (16, false));
//! assert!(choose(&search, &software)?.held);
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

use super::Hierarchical;
use super::variant::HierarchicalTile;
use crate::error::Result;
use crate::ops::dense::tile::{DeviceClass, looped, no_tile};

/// Invocations of a workgroup on a GPU, at most.
const GPU_THREADS: u32 = 128;

/// Invocations on a software GPU: as many as it runs as one vector.
const SOFTWARE_THREADS: u32 = 8;

/// Sampled rows at once, at most: what registers hold of sums.
const MOST_ROWS: u32 = 16;

/// Vectors of the rows taken at once: 4 KiB, which leaves room for 512 groups in 16 KiB, and code that is written out
/// over them short.
const ROW_VECS: u32 = 256;

/// The tile for a problem on a device.
pub fn choose(problem: &Hierarchical, device: &DeviceClass) -> Result<HierarchicalTile> {
    let vecs = problem.attention.head_dim.div_ceil(4);
    let most = MOST_ROWS.min(ROW_VECS / vecs);
    let samples = samples(problem);
    let tile = HierarchicalTile {
        threads: if device.software {
            SOFTWARE_THREADS
        } else {
            GPU_THREADS.min(device.invocations)
        },
        // As alike as turns of at most so many can be.
        rows: samples.div_ceil(samples.div_ceil(most)),
        keys: problem.block_size.min(2),
        held: device.software,
    };
    let bytes = tile.workgroup_bytes(problem.attention.head_dim, problem.top_k);
    if bytes > device.workgroup_memory || tile.threads > device.invocations {
        return Err(no_tile(bytes, tile.threads, device));
    }
    Ok(tile)
}

/// Rows of a tile that are sampled.
fn samples(problem: &Hierarchical) -> u32 {
    (problem.query_block.min(problem.attention.queries) / 2).max(1)
}

/// Iterations of all loops of an invocation, at most.
pub(crate) fn loop_iterations(p: &Hierarchical, tile: &HierarchicalTile) -> u64 {
    let groups = p.top_k.div_ceil(tile.threads);
    let row_vecs = tile.rows * p.attention.head_dim.div_ceil(4);
    let (products, taking) = match tile.held {
        true => (0, looped(row_vecs, 0)),
        false => (
            looped(p.attention.head_dim.div_ceil(4), 0),
            looped(row_vecs.div_ceil(tile.threads), 0),
        ),
    };
    let keys = looped(p.block_size.div_ceil(tile.keys), products);
    let turns = samples(p).div_ceil(tile.rows);
    let scoring = looped(turns, taking + looped(groups, keys));
    let bits = looped(32, looped(groups, 0));
    let clearing = looped(32u32.div_ceil(tile.threads), 0);
    let keeping = bits + 3 * looped(groups, 0) + looped(tile.threads, 0) + clearing;
    let blocks = p.attention.keys.div_ceil(p.block_size);
    // The groups once, then halves until the largest group is one block.
    let rounds = 1 + u64::from(blocks.div_ceil(p.top_k).next_power_of_two().ilog2());
    let writing = u64::from(p.selection().capacity / tile.threads) + 2;
    rounds * u64::from(1 + scoring + keeping) + u64::from(looped(2 * groups, 0)) + writing + 12
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dense::Dense;
    use crate::tier::Abilities;

    const SMALLEST: DeviceClass = DeviceClass {
        workgroup_memory: 16 << 10,
        invocations: 256,
        software: false,
        processors: 0,
        abilities: Abilities::NONE,
        tier: None,
        scalar_matrices: false,
    };

    fn search(query_block: u32, top_k: u32, head_dim: u32) -> Hierarchical {
        Hierarchical {
            attention: Dense {
                queries: 5000,
                keys: 5000,
                head_dim,
                ..Dense::default()
            },
            query_block,
            top_k,
            ..Hierarchical::default()
        }
    }

    #[test]
    fn every_problem_has_a_tile_on_the_smallest_device() {
        for software in [false, true] {
            let device = DeviceClass { software, ..SMALLEST };
            for query_block in [1, 2, 31, 32, 33, 1024] {
                for top_k in [1, 3, 256, 512] {
                    for head_dim in [1, 7, 64, 100, 256] {
                        let p = search(query_block, top_k, head_dim);
                        let tile = choose(&p, &device).unwrap();
                        assert!(
                            tile.rows >= 1 && tile.rows * head_dim.div_ceil(4) <= ROW_VECS,
                            "{tile:?}"
                        );
                        assert!(tile.rows * samples(&p).div_ceil(tile.rows) < samples(&p) + tile.rows);
                        assert!(tile.workgroup_bytes(head_dim, top_k) <= device.workgroup_memory);
                    }
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_names_the_limit() {
        let device = DeviceClass {
            workgroup_memory: 8 << 10,
            ..SMALLEST
        };
        let error = choose(&search(32, 512, 64), &device).unwrap_err();
        assert!(
            error.to_string().contains("max_compute_workgroup_storage_size"),
            "{error}"
        );
    }

    #[test]
    fn the_papers_search_is_short_and_the_longest_is_not() {
        let device = DeviceClass {
            software: true,
            ..SMALLEST
        };
        let iterations = |p: &Hierarchical| loop_iterations(p, &choose(p, &device).unwrap());
        let mut p = search(32, 256, 64);
        p.attention.keys = 1 << 28;
        assert!(iterations(&p) < device.loop_iterations());
        let long = Hierarchical {
            query_block: 1024,
            block_size: 64,
            top_k: 512,
            ..p
        };
        assert!(iterations(&long) > device.loop_iterations());
    }
}
