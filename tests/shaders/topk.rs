//! The variants of the top-k family.

use std::collections::BTreeMap;

use wgpu_attention::dense::tile::DeviceClass;
use wgpu_attention::shader::Variant;
use wgpu_attention::topk::extend::ExtendVariant;
use wgpu_attention::topk::hierarchical;
use wgpu_attention::topk::pool::variant::PoolVariant;
use wgpu_attention::topk::select;
use wgpu_attention::topk::select::variant::SelectVariant;
use wgpu_attention::topk::variant::TopKVariant;
use wgpu_attention::{Dense, Hierarchical};

use crate::{DTYPES, SMALLEST, classes};

/// Everything that the planners of this family can reach.
pub fn reachable() -> BTreeMap<String, Variant> {
    let mut variants = BTreeMap::new();
    for kernel in selections() {
        add(&mut variants, TopKVariant::Select(kernel));
    }
    add(&mut variants, TopKVariant::Extend(ExtendVariant));
    add_pools(&mut variants);
    add_searches(&mut variants);
    variants
}

/// The selections of rows, short and long, few and many.
fn selections() -> Vec<SelectVariant> {
    let mut variants = vec![];
    for device in classes().into_iter().chain([SMALLEST]) {
        let columns = [100, 1000, 4000, 65536, 1 << 20, 1 << 22];
        for (columns, rows) in columns.into_iter().flat_map(|c| [(c, 1), (c, 4096)]) {
            let tile = select::tile::choose(columns, rows, &device).unwrap();
            for (vector, forced) in [(false, false), (false, true), (true, false), (true, true)] {
                variants.push(SelectVariant { tile, vector, forced });
            }
        }
    }
    variants
}

#[test]
fn selections_of_every_kind_are_reached() {
    let labels: Vec<_> = reachable().values().map(|v| v.spec().label()).collect();
    for part in [
        "t8 6 bits",
        "t8 11 bits",
        "t1024 11 bits",
        "t64 8 bits",
        "x1 forced",
        "topk/extend",
    ] {
        assert!(labels.iter().any(|label| label.contains(part)), "{part}: {labels:?}");
    }
}

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
        let tile = hierarchical::tile::choose(&p, class).unwrap();
        TopKVariant::Hierarchical(hierarchical::variant_of(&p, tile))
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
