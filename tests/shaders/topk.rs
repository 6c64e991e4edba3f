//! The variants of the top-k family.

use std::collections::BTreeMap;

use wgpu_attention::dense::tile::DeviceClass;
use wgpu_attention::shader::Variant;
use wgpu_attention::topk::hierarchical::{tile, variant_of};
use wgpu_attention::topk::pool::variant::PoolVariant;
use wgpu_attention::topk::variant::TopKVariant;
use wgpu_attention::{Dense, Hierarchical};

use crate::{DTYPES, SMALLEST, classes};

fn add(variants: &mut BTreeMap<String, Variant>, kernel: TopKVariant) {
    let variant = Variant::TopK(kernel);
    variants.insert(variant.wgsl(), variant);
}

/// Means and bounds of blocks, of every type, read in fours or singly.
fn add_pools(variants: &mut BTreeMap<String, Variant>) {
    for dtype in DTYPES {
        for (head_dim, vector) in [(64, true), (64, false), (1, false), (7, false)] {
            for bounds in [false, true] {
                for kv_len in [false, true] {
                    let pool = PoolVariant {
                        head_dim,
                        dtype,
                        vector,
                        bounds,
                        kv_len,
                    };
                    add(variants, TopKVariant::Pool(pool));
                }
            }
        }
    }
}

fn searches(class: &DeviceClass, head_dim: u32, query_block: u32, block_size: u32, top_k: u32) -> Vec<TopKVariant> {
    let search = |dtype, unaligned| {
        let attention = Dense {
            queries: 4096,
            keys: 4096,
            head_dim,
            dtype,
            unaligned,
            ..Dense::default()
        };
        let p = Hierarchical {
            attention,
            query_block,
            block_size,
            top_k,
            ..Hierarchical::default()
        };
        TopKVariant::Hierarchical(variant_of(&p, tile::choose(&p, class).unwrap()))
    };
    let all = DTYPES.iter().flat_map(|dtype| [false, true].map(|u| search(*dtype, u)));
    all.collect()
}

/// The hierarchical search with every tile the planner picks.
fn add_searches(variants: &mut BTreeMap<String, Variant>) {
    let mut classes = classes();
    classes.push(DeviceClass {
        invocations: 64,
        ..SMALLEST
    });
    for class in classes {
        for (head_dim, query_block) in [(1, 1), (7, 3), (64, 32), (100, 64), (256, 1024)] {
            for (block_size, top_k) in [(1, 1), (2, 256), (3, 7), (64, 512)] {
                for search in searches(&class, head_dim, query_block, block_size, top_k) {
                    add(variants, search);
                }
            }
        }
    }
}

/// Those of pooling and of the hierarchical search.
fn pools_and_searches() -> BTreeMap<String, Variant> {
    let mut variants = BTreeMap::new();
    add_pools(&mut variants);
    add_searches(&mut variants);
    variants
}

/// Everything the planners can reach.
pub fn reachable() -> BTreeMap<String, Variant> {
    pools_and_searches()
}
