//! The variants of the top-k family.

use std::collections::BTreeMap;

use wgpu_attention::shader::Variant;
use wgpu_attention::topk::extend::ExtendVariant;
use wgpu_attention::topk::select::tile;
use wgpu_attention::topk::select::variant::SelectVariant;
use wgpu_attention::topk::variant::TopKVariant;

use crate::{SMALLEST, classes};

/// Everything that the planners of this family can reach.
pub fn reachable() -> BTreeMap<String, Variant> {
    let variants = select().into_iter().map(TopKVariant::Select);
    let variants = variants.chain([TopKVariant::Extend(ExtendVariant)]).map(Variant::TopK);
    variants.map(|variant| (variant.wgsl(), variant)).collect()
}

/// The selections of rows, short and long, few and many.
fn select() -> Vec<SelectVariant> {
    let mut variants = vec![];
    for device in classes().into_iter().chain([SMALLEST]) {
        let columns = [100, 1000, 4000, 65536, 1 << 20, 1 << 22];
        for (columns, rows) in columns.into_iter().flat_map(|c| [(c, 1), (c, 4096)]) {
            let tile = tile::choose(columns, rows, &device).unwrap();
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
