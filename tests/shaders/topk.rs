//! The variants of the top-k family.

use std::collections::BTreeMap;

use wgpu_attention::dense::tile::{self, DeviceClass, KernelChoice};
use wgpu_attention::dense::variant_of;
use wgpu_attention::shader::Variant;
use wgpu_attention::topk::extend::ExtendVariant;
use wgpu_attention::topk::hierarchical;
use wgpu_attention::topk::pool::variant::PoolVariant;
use wgpu_attention::topk::score;
use wgpu_attention::topk::score::tile::{ScoreTile, SerialScoreTile};
use wgpu_attention::topk::select;
use wgpu_attention::topk::select::variant::SelectVariant;
use wgpu_attention::topk::variant::TopKVariant;
use wgpu_attention::{Bias, Broadcast, DType, Dense, Error, Hierarchical, Scoring, TopK, TopKInputs, Weighting};

use crate::{DTYPES, SMALLEST, classes, subgroup_classes};

/// Everything that the planners of this family can reach.
pub fn reachable() -> BTreeMap<String, Variant> {
    let mut variants = BTreeMap::new();
    for kernel in selections() {
        add(&mut variants, TopKVariant::Select(kernel));
    }
    add(&mut variants, TopKVariant::Extend(ExtendVariant));
    add_pools(&mut variants);
    add_searches(&mut variants);
    add_score_tiles(&mut variants);
    add_score_options(&mut variants);
    add_gathers(&mut variants);
    variants
}

/// The selections of rows, short and long, few and many.
fn selections() -> Vec<SelectVariant> {
    let mut variants = vec![];
    for device in classes().into_iter().chain([SMALLEST]).chain(subgroup_classes()) {
        let columns = [100, 1000, 4000, 65536, 1 << 20, 1 << 22];
        for (columns, rows) in columns.into_iter().flat_map(|c| [(c, 1), (c, 4096)]) {
            let tile = select::tile::choose(columns, rows, &device).unwrap();
            for (vector, forced) in [(false, false), (false, true), (true, false), (true, true)] {
                variants.push(SelectVariant {
                    tile,
                    vector,
                    forced,
                    subgroups: select::tile::subgroups(columns, &device),
                });
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
        "x1 forced subgroups",
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

type Change = fn(&mut TopK);

/// Options that change the code of the scoring, one at a time.
const OPTIONS: &[Change] = &[
    |p| p.scoring = Scoring::Mean,
    |p| p.scoring = Scoring::Bound,
    |p| p.block_size = 5,
    |p| p.block_size = 200,
    |p| (p.diagonal, p.top_k) = (true, 300),
    |p| p.query_block = 3,
    |p| p.query_block = 64,
    |p| p.per_kv_head = true,
    |p| p.attention.kv_heads = Some(2),
    |p| p.attention.softcap = Some(30.0),
    |p| p.attention.weighting = Weighting::Sigmoid { bias: None },
    |p| p.attention.bias = bias(DType::F32),
    |p| p.attention.bias = bias(DType::F16),
    |p| p.attention.bias = bias(DType::BF16),
    |p| p.attention.mask = Some(Broadcast::FULL),
    |p| p.attention.kv_len = true,
    |p| p.attention.documents = Some(3),
    |p| p.attention.alibi = true,
    |p| p.attention.custom.get_or_insert_default().score = Some(SCORE.into()),
    |p| p.attention.custom.get_or_insert_default().mask = Some(MASK.into()),
    |p| p.attention.unaligned = true,
    |p| p.attention.dtype = DType::F16,
    |p| p.attention.dtype = DType::BF16,
];

const SCORE: &str = "fn score(s: f32, at: Position) -> f32 { return s - 0.5 * f32(at.query_pos - at.key_pos); }";
const MASK: &str = "fn mask(at: Position) -> bool { return at.key % 2u == 0u; }";

fn bias(dtype: DType) -> Option<Bias> {
    Some(Bias {
        dtype,
        shape: Broadcast::FULL,
    })
}

/// One query and many: on a software GPU, both kernels.
const QUERIES: [u32; 2] = [1, 300];

fn scored(queries: u32, head_dim: u32) -> TopK {
    let attention = Dense {
        heads: 8,
        queries,
        keys: 300,
        head_dim,
        ..Dense::default()
    };
    TopK {
        attention,
        ..TopK::default()
    }
}

/// Whether the op takes such a problem: its own rules come before any tensor is missed.
fn is_sound(p: &TopK) -> bool {
    match TopKInputs::default().check(p) {
        Err(Error::Invalid { .. }) => false,
        Err(Error::Data { .. }) => true,
        other => panic!("{other:?}: nothing is a problem's input"),
    }
}

fn add_score(variants: &mut BTreeMap<String, Variant>, p: &TopK, class: &DeviceClass) {
    assert!(is_sound(p), "{p:?}");
    let tile = score::tile::choose(p, class).unwrap_or_else(|error| panic!("{error}: {p:?} on {class:?}"));
    add(variants, TopKVariant::Score(score::variant_of(p, tile)));
}

/// Lists of one row, of some and of many, and what they are scored by.
const LISTS: [(u32, u32, Scoring); 6] = [
    (1, 1, Scoring::Keys),
    (1, 16, Scoring::Mean),
    (5, 1, Scoring::Keys),
    (20, 200, Scoring::Keys),
    (64, 64, Scoring::Bound),
    (1, 7, Scoring::Bound),
];

/// Every tile the planner picks for every storage type and kind of list.
fn add_score_tiles(variants: &mut BTreeMap<String, Variant>) {
    for class in classes() {
        for queries in QUERIES {
            for (n, (query_block, block_size, scoring)) in LISTS.into_iter().enumerate() {
                for (m, head_dim) in [1, 3, 40, 65, 128, 256].into_iter().enumerate() {
                    let mut p = TopK {
                        query_block,
                        block_size,
                        scoring,
                        ..scored(queries, head_dim)
                    };
                    p.attention.dtype = DTYPES[(n + m) % 3];
                    add_score(variants, &p, &class);
                }
            }
        }
    }
}

/// Options in pairs, of the tiled kernel on the smallest device, and of the serial one.
fn add_score_options(variants: &mut BTreeMap<String, Variant>) {
    let software = DeviceClass {
        software: true,
        processors: 4,
        ..SMALLEST
    };
    for (n, first) in OPTIONS.iter().enumerate() {
        for second in &OPTIONS[n..] {
            for head_dim in [40, 65] {
                let mut p = scored(1, head_dim);
                p.attention.queries = 2;
                first(&mut p);
                second(&mut p);
                if is_sound(&p) {
                    add_score(variants, &p, &SMALLEST);
                    add_score(variants, &p, &software);
                }
            }
        }
    }
}

/// Attention over the lists, with every tile the planner picks, whole and one split of several.
fn add_gathers(variants: &mut BTreeMap<String, Variant>) {
    for class in classes() {
        for queries in QUERIES {
            for (n, (query_block, block_size, _)) in LISTS.into_iter().enumerate() {
                for (m, head_dim) in [1, 40, 65, 128, 256].into_iter().enumerate() {
                    let lists = TopK {
                        query_block,
                        block_size,
                        per_kv_head: n % 2 == 0,
                        ..scored(queries, head_dim)
                    };
                    let p = Dense {
                        selection: Some(lists.selection()),
                        kv_heads: Some(2),
                        dtype: DTYPES[(n + m) % 3],
                        ..lists.attention
                    };
                    let choice = tile::choose(&p, &class).unwrap_or_else(|error| panic!("{error}: {p:?} on {class:?}"));
                    let splits = !matches!(choice, KernelChoice::Prefill(_));
                    for partial in [false, true].into_iter().filter(|&partial| splits || !partial) {
                        let variant = Variant::Dense(variant_of(&p, choice, partial));
                        variants.insert(variant.wgsl(), variant);
                    }
                }
            }
        }
    }
}

#[test]
fn the_smallest_device_scores_every_head_size() {
    for head_dim in 1..=256 {
        for queries in QUERIES {
            for (query_block, block_size, scoring) in LISTS {
                for per_kv_head in [false, true] {
                    let mut p = TopK {
                        query_block,
                        block_size,
                        scoring,
                        per_kv_head,
                        ..scored(queries, head_dim)
                    };
                    p.attention.kv_heads = Some(1);
                    let tile = score::tile::choose(&p, &SMALLEST).unwrap_or_else(|error| panic!("{error}: {p:?}"));
                    let variant = TopKVariant::Score(score::variant_of(&p, tile));
                    let bytes = variant.spec().workgroup_bytes();
                    let threads = match tile {
                        ScoreTile::Tiled(t) => t.threads(),
                        ScoreTile::Serial(SerialScoreTile { threads, .. }) => threads,
                    };
                    assert!(
                        bytes <= 16 << 10 && threads <= 256,
                        "{bytes} bytes, {threads} threads: {tile:?}, {p:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn both_kernels_score_by_everything() {
    let labels: Vec<_> = reachable().values().map(|v| v.spec().label()).collect();
    for kernel in ["topk/score ", "topk/score_serial "] {
        for by in ["keys of 1 rows", "keys of 5 lists", "means of 5 ", "bounds of 5 "] {
            let wanted = format!("{kernel}{by}");
            let same = |label: &&String| label.contains(&wanted);
            assert!(labels.iter().any(|label| same(&label)), "{wanted}: {labels:?}");
        }
    }
}
