//! The hierarchical search against its definition on the host.

mod common;

use common::mistakes::{assert_says, assert_unharmed, buffer, strided, watched};
use common::{Random, gpu, gpu_with};
use wgpu_attention::dense::tile::DeviceClass;
use wgpu_attention::topk::hierarchical::tile;
use wgpu_attention::topk::hierarchical::variant::HierarchicalTile;
use wgpu_attention::topk::{HierarchicalInputs, HierarchicalPlan, HierarchicalTensors, reference};
use wgpu_attention::{DType, Dense, Gpu, Hierarchical, Layout, Tensor};

/// q and k of small whole numbers: every product is exact in f32 and in all storage types, and many are equal.
fn whole_numbers(a: &Dense, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let mut r = Random::new(seed);
    let mut draw = |heads: u32, n: u32| -> Vec<f32> {
        let count = a.batch * heads * n * a.head_dim;
        (0..count).map(|_| r.range(-3, 3) as f32).collect()
    };
    (draw(a.heads, a.queries), draw(a.kv_heads(), a.keys))
}

fn run(plan: &HierarchicalPlan, q: &[f32], k: &[f32]) -> Vec<u32> {
    plan.run_blocking(&HierarchicalInputs { q, k }).unwrap()
}

/// That the device finds what the definition does, twice, in lists that dense attention takes; with its own tile and
/// with one for the other kind of device.
fn check(name: &str, gpu: &Gpu, p: &Hierarchical) {
    let a = &p.attention;
    let (q, k) = whole_numbers(a, 5);
    let expected = reference::hierarchical(p, &q, &k).unwrap();
    let words = 1 + p.selection().capacity as usize;
    let class = common::class(gpu);
    let other = DeviceClass {
        software: !class.software,
        ..class
    };
    for class in [class, other] {
        let plan = p.plan_with(gpu, tile::choose(p, &class).unwrap());
        let plan = plan.unwrap_or_else(|error| panic!("{name}: {error}: {p:?}"));
        let found = run(&plan, &q, &k);
        assert_eq!(found.len(), expected.len(), "{name}");
        for (n, (list, truth)) in found.chunks(words).zip(expected.chunks(words)).enumerate() {
            assert_eq!(list, truth, "{name}, {}: list {n} of {p:?}", plan.label());
        }
        p.selection().check(a, &found).unwrap();
        assert_eq!(run(&plan, &q, &k), found, "{name}: the same twice");
    }
}

/// Two batch entries, grouped heads, several tiles whose last is short, rounds enough, a whole scale.
fn problem() -> Hierarchical {
    let attention = Dense {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        queries: 45,
        keys: 331,
        head_dim: 8,
        scale: Some(0.5),
        causal: true,
        ..Dense::default()
    };
    Hierarchical {
        attention,
        query_block: 8,
        block_size: 2,
        top_k: 7,
        window: 11,
        sink_tokens: 3,
    }
}

type Change = fn(&mut Hierarchical);

/// Problems by what is special about them.
const CHANGES: &[(&str, Change)] = &[
    ("as it is", |_| {}),
    ("not causal", |p| p.attention.causal = false),
    ("no window", |p| p.window = 0),
    ("no sinks", |p| p.sink_tokens = 0),
    ("neither, in blocks of one", |p| {
        (p.window, p.sink_tokens, p.block_size) = (0, 0, 1)
    }),
    ("blocks of three", |p| p.block_size = 3),
    ("blocks of 16", |p| p.block_size = 16),
    ("blocks of 64", |p| p.block_size = 64),
    ("sinks over the window", |p| p.sink_tokens = 400),
    ("a window over everything", |p| p.window = 1000),
    ("sinks and kept blocks overlap", |p| p.sink_tokens = 100),
    ("one kept", |p| p.top_k = 1),
    ("two kept", |p| p.top_k = 2),
    ("as many kept as invocations", |p| p.top_k = 8),
    ("more kept than a software GPU's invocations", |p| p.top_k = 21),
    ("all kept", |p| (p.top_k, p.attention.causal) = (160, false)),
    ("one block too many", |p| (p.top_k, p.attention.causal) = (159, false)),
    ("one query", |p| p.attention.queries = 1),
    ("tiles of one", |p| p.query_block = 1),
    ("tiles of two", |p| p.query_block = 2),
    ("tiles of three", |p| p.query_block = 3),
    ("a last tile of one", |p| p.query_block = 11),
    ("one tile", |p| p.query_block = 1024),
    ("rows in several turns", |p| {
        (p.query_block, p.attention.queries) = (100, 120)
    }),
    ("more queries than keys", |p| p.attention.queries = 360),
    ("one key", |p| p.attention.keys = 1),
    ("rows before the keys", |p| p.attention.q_offset = Some(-20)),
    ("rows in the middle", |p| p.attention.q_offset = Some(100)),
    ("rows behind the keys", |p| p.attention.q_offset = Some(1000)),
    ("rows that see different keys", |p| (p.window, p.query_block) = (0, 45)),
    ("one head", |p| (p.attention.heads, p.attention.kv_heads) = (1, None)),
    ("multi-query", |p| p.attention.kv_heads = Some(1)),
    ("a negative scale", |p| p.attention.scale = Some(-0.25)),
    ("no scale", |p| p.attention.scale = Some(0.0)),
    ("D of one", |p| p.attention.head_dim = 1),
    ("D of seven", |p| p.attention.head_dim = 7),
    ("D of 64", |p| p.attention.head_dim = 64),
    ("D of 100", |p| (p.attention.head_dim, p.query_block) = (100, 5)),
    ("D of 256", |p| (p.attention.head_dim, p.query_block) = (256, 3)),
    ("f16", |p| p.attention.dtype = DType::F16),
    ("bf16", |p| p.attention.dtype = DType::BF16),
    ("f16 of odd rows", |p| {
        (p.attention.dtype, p.attention.head_dim) = (DType::F16, 5)
    }),
    ("unaligned", |p| p.attention.unaligned = true),
    ("heads inside", |p| {
        (p.attention.q_layout, p.attention.k_layout) = (Layout::Bnhd, Layout::Bnhd);
    }),
    ("rows apart", |p| {
        p.attention.q_layout = strided(45 * 40, 8, 40);
        p.attention.k_layout = strided(13 + 331 * 23, 11, 23);
    }),
];

fn check_all(gpu: &Gpu) {
    for (name, change) in CHANGES {
        let mut p = problem();
        change(&mut p);
        check(name, gpu, &p);
    }
}

#[test]
fn finds_what_the_definition_does() {
    let Some(gpu) = gpu() else { return };
    check_all(&gpu);
}

#[test]
fn finds_the_same_with_every_access_checked() {
    let Some(gpu) = gpu_with(|options| options.checked = true) else {
        return;
    };
    check_all(&gpu);
}

#[test]
fn finds_the_same_on_the_smallest_device() {
    let Some(gpu) = gpu_with(|options| options.minimal = true) else {
        return;
    };
    check_all(&gpu);
    let largest = Hierarchical {
        attention: Dense {
            keys: 2500,
            head_dim: 256,
            ..problem().attention
        },
        query_block: 5,
        top_k: 512,
        ..problem()
    };
    check("the largest", &gpu, &largest);
}

/// Everything at once, at random.
#[test]
fn random_problems_find_what_the_definition_does() {
    let Some(gpu) = gpu() else { return };
    let mut r = Random::new(17);
    for n in 0..24 {
        let kv_heads = r.range(1, 2) as u32;
        let attention = Dense {
            batch: r.range(1, 2) as u32,
            heads: kv_heads * r.range(1, 3) as u32,
            kv_heads: Some(kv_heads),
            queries: r.range(1, 90) as u32,
            keys: r.range(1, 700) as u32,
            head_dim: r.range(1, 12) as u32,
            scale: Some(r.pick(&[1.0, 0.25, -0.5])),
            causal: !r.one_in(4),
            q_offset: r.one_in(3).then(|| r.range(-50, 700)),
            dtype: r.pick(&[DType::F32, DType::F16, DType::BF16]),
            ..Dense::default()
        };
        let p = Hierarchical {
            attention,
            query_block: r.range(1, 40) as u32,
            block_size: r.range(1, 5) as u32,
            top_k: r.range(1, 40) as u32,
            window: r.below(40),
            sink_tokens: r.below(20),
        };
        check(&format!("problem {n}"), &gpu, &p);
    }
}

#[test]
fn rows_that_see_nothing_have_empty_lists() {
    let Some(gpu) = gpu() else { return };
    let mut p = problem();
    p.attention.q_offset = Some(-20);
    let (q, k) = whole_numbers(&p.attention, 1);
    let lists = run(&p.plan(&gpu).unwrap(), &q, &k);
    let words = 1 + p.selection().capacity as usize;
    // Tiles of rows 0 to 15 stand before key 0; that of rows 16 to 23 ends at key 3.
    assert!(lists[..2 * words].iter().all(|&word| word == 0));
    assert_eq!(lists[2 * words..][..3], [2, 0, 1]);
}

/// Numbers that no score should be, and no list may suffer from.
#[test]
fn infinities_leave_lists_sound() {
    let Some(gpu) = gpu() else { return };
    let p = problem();
    let (q, mut k) = whole_numbers(&p.attention, 1);
    let mut r = Random::new(9);
    for x in &mut k {
        if r.one_in(50) {
            *x = r.pick(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX]);
        }
    }
    let found = run(&p.plan(&gpu).unwrap(), &q, &k);
    p.selection().check(&p.attention, &found).unwrap();
}

/// Windows of the tensors, one head or a few tiles a dispatch.
#[test]
fn calls_beyond_a_devices_limits_are_cut() {
    let Some(limits) = common::limits() else { return };
    let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
    let p = problem();
    // A head's keys fit, two heads' do not; so do few tiles of q.
    let binding = 331 * 8 * 4 + alignment;
    let small = wgpu::Limits {
        max_storage_buffer_binding_size: binding.next_multiple_of(4),
        ..limits.clone()
    };
    let short = wgpu::Limits {
        max_compute_workgroups_per_dimension: 3,
        ..limits
    };
    for limits in [small, short] {
        let Some(gpu) = gpu_with(|options| options.limits = Some(limits)) else {
            return;
        };
        check("in parts", &gpu, &p);
        check("in parts, strided", &gpu, &{
            let mut p = p.clone();
            (p.attention.q_layout, p.attention.head_dim) = (Layout::Bnhd, 7);
            p
        });
    }
}

/// How many of the blocks that exact selection would take the search finds.
#[test]
fn recall_on_random_numbers() {
    let Some(gpu) = gpu() else { return };
    let attention = Dense {
        queries: 128,
        keys: 4096,
        // Half of the usual: OpenGL drivers compile while they hold a lock for which wgpu waits six seconds.
        head_dim: 32,
        causal: true,
        ..Dense::default()
    };
    let p = Hierarchical {
        attention,
        ..Hierarchical::default()
    };
    let a = &p.attention;
    let mut r = Random::new(3);
    let q = r.floats((a.queries * a.head_dim) as usize, -1.0, 1.0);
    // Neighbouring keys are alike, as they are in a text.
    let mut k = r.floats((a.keys * a.head_dim) as usize, -1.0, 1.0);
    for n in a.head_dim as usize..k.len() {
        k[n] = 0.9 * k[n - a.head_dim as usize] + 0.4 * k[n];
    }
    let found = run(&p.plan(&gpu).unwrap(), &q, &k);
    let words = 1 + p.selection().capacity as usize;
    let dim = a.head_dim as usize;
    let (mut hits, mut all) = (0, 0);
    for (tile, list) in found.chunks(words).enumerate() {
        let first = tile * p.query_block as usize;
        let end = (a.keys - a.queries) as usize + first + p.query_block as usize;
        let searched = (end - p.window as usize) / 2;
        let best = |e: usize| {
            let rows = q[first * dim..].chunks(dim).take(p.query_block as usize);
            let keys = &k[2 * e * dim..][..2 * dim];
            rows.flat_map(|row| keys.chunks(dim).map(move |key| (row, key)))
                .map(|(row, key)| row.iter().zip(key).map(|(x, y)| x * y).sum::<f32>())
                .fold(f32::MIN, f32::max)
        };
        let mut blocks: Vec<_> = (0..searched).map(|e| (best(e), e as u32)).collect();
        blocks.sort_by(|x, y| y.0.total_cmp(&x.0));
        let kept = &list[1..1 + list[0] as usize];
        hits += blocks[..p.top_k as usize]
            .iter()
            .filter(|(_, e)| kept.contains(e))
            .count();
        all += p.top_k as usize;
    }
    println!("recall {hits} of {all}, {:.3}", hits as f64 / all as f64);
    // A choice by lot would find one in eight.
    assert!(hits * 4 > all);
}

#[test]
fn mistakes_are_named() {
    let Some((gpu, complaints)) = watched() else { return };
    let invalid = |what: &str, change: Change, words: &[&str]| {
        let mut p = problem();
        change(&mut p);
        assert_says(what, p.plan(&gpu), "Invalid", words);
    };
    invalid("no rows", |p| p.query_block = 0, &["query_block", "1 to 1024"]);
    invalid("many rows", |p| p.query_block = 1025, &["query_block", "1025"]);
    invalid("no keys", |p| p.block_size = 0, &["block_size", "1 to 64"]);
    invalid("many keys", |p| p.block_size = 65, &["block_size", "65"]);
    invalid("none kept", |p| p.top_k = 0, &["top_k", "1 to 512"]);
    invalid("many kept", |p| p.top_k = 513, &["top_k", "513"]);
    invalid("a long window", |p| p.window = (1 << 28) + 1, &["window"]);
    invalid("many sinks", |p| p.sink_tokens = u32::MAX, &["sink_tokens"]);
    invalid(
        "documents",
        |p| (p.attention.batch, p.attention.documents) = (1, Some(2)),
        &["attention.documents", "None"],
    );
    invalid("kv_len", |p| p.attention.kv_len = true, &["attention.kv_len", "false"]);
    invalid("no heads", |p| p.attention.heads = 0, &["heads"]);
    invalid(
        "a scale that is none",
        |p| p.attention.scale = Some(f32::NAN),
        &["scale", "finite"],
    );

    let p = problem();
    let tile = tile::choose(&p, &common::class(&gpu)).unwrap();
    for tile in [
        HierarchicalTile { threads: 0, ..tile },
        HierarchicalTile { rows: 257, ..tile },
        HierarchicalTile { keys: 3, ..tile },
    ] {
        assert_says(
            "a tile that is none",
            p.plan_with(&gpu, tile),
            "Invalid",
            &["`tile`", "1 to 256"],
        );
    }
    let plan = p.plan(&gpu).unwrap();
    let data = |q: &[f32], k: &[f32]| plan.run_blocking(&HierarchicalInputs { q, k });
    let (q, k) = whole_numbers(&p.attention, 1);
    assert_says("q too short", data(&q[1..], &k), "Data", &["`q`", "[B, H, Nq, D]"]);
    assert_says("k too short", data(&q, &k[1..]), "Data", &["`k`", "[B, Hkv, Nk, D]"]);

    let bytes = [
        q.len() as u64 * 4,
        k.len() as u64 * 4,
        p.selection().words(&p.attention) * 4,
    ];
    let [bq, bk, lists] = bytes.map(|size| buffer(&gpu, size));
    let small = buffer(&gpu, bytes[2] - 4);
    let encode = |q: Tensor<'_>, k: Tensor<'_>, selection: Tensor<'_>| {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let result = plan.encode(&mut encoder, &HierarchicalTensors { q, k, selection });
        gpu.queue().submit([encoder.finish()]);
        result
    };
    let (q, k, selection) = ((&bq).into(), (&bk).into(), (&lists).into());
    encode(q, k, selection).unwrap();
    assert_says(
        "short lists",
        encode(q, k, (&small).into()),
        "Tensor",
        &["`selection`", "bytes"],
    );
    assert_says(
        "q from its middle",
        encode(Tensor::at(&bq, 16), k, selection),
        "Tensor",
        &["`q`", "bytes"],
    );
    assert_says(
        "k off",
        encode(q, Tensor::at(&bk, 4), selection),
        "Tensor",
        &["`k`", "16 bytes"],
    );
    assert_says(
        "in place",
        encode(q, k, (&bq).into()),
        "Tensor",
        &["`selection`", "`q`"],
    );
    assert_unharmed(&gpu, &complaints);
}
