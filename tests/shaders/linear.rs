//! The linear op's variants.

use std::collections::BTreeMap;

use wgpu_attention::dense::tile::DeviceClass;
use wgpu_attention::linear::tile::{self, Form};
use wgpu_attention::linear::variant::{LinearVariant, Scan, Start, TotalDecay};
use wgpu_attention::linear::variants_of;
use wgpu_attention::shader::Variant;
use wgpu_attention::tier::{Abilities, MatrixElements, RightElements, Tier};
use wgpu_attention::{DType, Decay, Error, FeatureMap, Layout, Linear, LinearInputs};

use crate::{DTYPES, SMALLEST, classes};

#[path = "../common/tiles.rs"]
mod tiles;

const DECAYS: [Decay; 4] = [Decay::None, Decay::Head, Decay::Token, Decay::Channel];

type Change = fn(&mut Linear);

/// Options that change the code, one at a time.
const OPTIONS: &[(&str, Change)] = &[
    ("decay of a head", |p| p.decay = Decay::Head),
    ("decay of a token", |p| p.decay = Decay::Token),
    ("decay of a channel", |p| p.decay = Decay::Channel),
    ("silu", |p| p.feature_map = FeatureMap::Silu),
    ("relu", |p| p.feature_map = FeatureMap::Relu),
    ("elu1", |p| p.feature_map = FeatureMap::Elu1),
    ("custom", |p| p.feature_map = FeatureMap::Custom(FEATURE.into())),
    ("normalize", |p| p.normalize = Some(1e-6)),
    ("not causal", |p| p.causal = false),
    ("documents", |p| p.documents = Some(3)),
    ("initial state", |p| p.initial_state = true),
    ("final state", |p| p.final_state = true),
    ("in place", |p| {
        (p.initial_state, p.final_state, p.in_place) = (true, true, true);
    }),
    ("state only", |p| (p.state_only, p.initial_state) = (true, true)),
    ("unaligned", |p| p.unaligned = true),
    ("unaligned output", |p| {
        p.o_layout = Layout::packed(p.tokens, p.heads * 40 + 1, 40)
    }),
    ("f16", |p| p.dtype = DType::F16),
    ("bf16", |p| p.dtype = DType::BF16),
    ("output f32", |p| p.output_dtype = Some(DType::F32)),
    ("output f16", |p| p.output_dtype = Some(DType::F16)),
    ("output bf16", |p| p.output_dtype = Some(DType::BF16)),
];

const FEATURE: &str = "fn feature(x: f32, at: Channel) -> f32 { return x * x + f32(at.channel % 2u); }";

/// One token; many of few heads, which are cut into segments; many of many heads, which are not.
const SIZES: [(u32, u32); 3] = [(1, 1), (1000, 1), (1000, 2048)];

/// On matrices: tokens for one pass; for segments.
const SIZES_ON_MATRICES: [(u32, u32); 2] = [(60, 4), (1000, 4)];

fn problem((tokens, heads): (u32, u32)) -> Linear {
    Linear {
        heads,
        tokens,
        ..Linear::default()
    }
}

/// Whether the op takes such a problem: its own rules come before any tensor is missed.
fn is_sound(p: &Linear) -> bool {
    match LinearInputs::default().check(p) {
        Err(Error::Invalid { .. }) => false,
        Err(Error::Data { .. }) => true,
        other => panic!("{other:?}: nothing is a problem's input"),
    }
}

fn add(variants: &mut BTreeMap<String, Variant>, kernels: impl IntoIterator<Item = LinearVariant>) {
    for kernel in kernels {
        for kernel in [kernel.clone().with_half(), kernel] {
            let variant = Variant::Linear(kernel);
            variants.insert(variant.wgsl(), variant);
        }
    }
}

/// Every tile the planner picks for every storage type and decay.
fn add_tiles(variants: &mut BTreeMap<String, Variant>) {
    for size in SIZES {
        for class in classes() {
            for (n, decay) in DECAYS.into_iter().enumerate() {
                for (m, head_dim) in [1, 3, 20, 64, 65, 128, 256].into_iter().enumerate() {
                    let p = Linear {
                        head_dim,
                        value_dim: (head_dim == 20).then_some(96),
                        decay,
                        dtype: DTYPES[(n + m) % 3],
                        ..problem(size)
                    };
                    let form = tile::choose(&p, &class).unwrap_or_else(|error| panic!("{error}: {p:?} on {class:?}"));
                    add(variants, variants_of(&p, form));
                }
            }
        }
    }
}

/// Options in pairs, on the smallest device.
fn add_options(variants: &mut BTreeMap<String, Variant>) {
    for size in SIZES {
        for (n, (_, first)) in OPTIONS.iter().enumerate() {
            for (_, second) in &OPTIONS[n..] {
                let mut p = Linear {
                    head_dim: 40,
                    ..problem(size)
                };
                first(&mut p);
                second(&mut p);
                if is_sound(&p) {
                    add(variants, variants_of(&p, tile::choose(&p, &SMALLEST).unwrap()));
                }
            }
        }
    }
}

/// Forms that the tests on a device force.
fn add_forced(variants: &mut BTreeMap<String, Variant>) {
    for decay in DECAYS {
        for tile in [tiles::SMALL, tiles::WIDE, tiles::TALL] {
            for head_dim in [5, 128] {
                let p = Linear {
                    head_dim,
                    decay,
                    ..problem((100, 1))
                };
                add(variants, variants_of(&p, Form::Serial(tile)));
                add(variants, variants_of(&p, Form::Split { tile, segment: 16 }));
                add(variants, variants_of(&p, Form::Step(tiles::step(&p))));
            }
        }
    }
}

/// Devices with cooperative matrices of either edge, with much workgroup memory and with little; where they are emulated,
/// the tier has to be forced.
fn with_matrices() -> Vec<DeviceClass> {
    let mut classes = vec![];
    for (edge, subgroups, software) in [
        (16, (32, 32), false),
        (8, (32, 32), false),
        (8, (16, 64), false),
        (8, (8, 8), true),
    ] {
        for (kib, scalar_matrices) in [(32, false), (48, false), (48, true)] {
            // Right factors' elements are those of sums turned over.
            let elements = |each, run, classes, sharers| MatrixElements {
                each,
                run,
                classes,
                sharers,
                right: Some(RightElements {
                    run,
                    classes,
                    sharers,
                    turned: true,
                }),
            };
            let elements = match (edge, subgroups) {
                (16, (32, 32)) => Some(elements(8, 4, 2, 3)),
                (8, (8, 8)) => Some(elements(8, 1, 8, 7)),
                _ => None,
            };
            classes.push(DeviceClass {
                workgroup_memory: kib << 10,
                invocations: 1024,
                software,
                abilities: Abilities {
                    subgroups: Some(subgroups),
                    half: true,
                    subgroup_barriers: true,
                    matrices: Some(edge),
                    elements: elements.filter(|_| (kib, scalar_matrices) == (48, false)),
                },
                tier: Some(Tier::Cooperative),
                scalar_matrices,
                ..SMALLEST
            });
        }
    }
    classes
}

/// The kernels on cooperative matrices: every head size that a tile may depend on, and options.
fn add_cooperative(variants: &mut BTreeMap<String, Variant>) {
    let mut add_on = |p: &Linear, class: &DeviceClass| {
        let form = tile::choose(p, class).unwrap();
        let on_matrices = matches!(
            form,
            Form::Cooperative(_) | Form::CooperativeSplit { .. } | Form::Carried { .. }
        );
        assert!(on_matrices, "{form:?}: {p:?} on {class:?}");
        assert!(
            needs(p, form).0 <= class.workgroup_memory,
            "{form:?}: {p:?} on {class:?}"
        );
        add(variants, variants_of(p, form));
        if let Form::CooperativeSplit { state, output, segment } = form {
            let split = |output| Form::CooperativeSplit { state, output, segment };
            if let Some(output) = output.in_registers(&class.abilities) {
                add(variants, variants_of(p, split(output)));
            }
        }
    };
    for class in with_matrices() {
        for (n, head_dim) in [1, 20, 64, 65, 128, 256].into_iter().enumerate() {
            let p = Linear {
                head_dim,
                value_dim: (head_dim == 20).then_some(96),
                decay: DECAYS[n % 2],
                dtype: DTYPES[n % 3],
                reduced_precision: true,
                normalize: (n % 3 == 0).then_some(1e-6),
                ..problem(SIZES[1])
            };
            for (tokens, heads) in SIZES_ON_MATRICES {
                add_on(
                    &Linear {
                        tokens,
                        heads,
                        ..p.clone()
                    },
                    &class,
                );
            }
        }
    }
    for edge in [8, 16] {
        let of_edge = |c: &DeviceClass| c.abilities.matrices == Some(edge);
        let class = with_matrices().into_iter().find(of_edge).unwrap();
        for (_, option) in OPTIONS {
            for size in SIZES_ON_MATRICES {
                let mut p = Linear {
                    head_dim: 40,
                    dtype: DType::F16,
                    reduced_precision: true,
                    ..problem(size)
                };
                option(&mut p);
                if matches!(p.decay, Decay::None | Decay::Head) && !p.state_only {
                    add_on(&p, &class);
                }
            }
        }
    }
}

/// Segments that carry the state: every head size that a tile may depend on, and options.
fn add_carried(variants: &mut BTreeMap<String, Variant>) {
    for class in with_matrices() {
        let mut add_all = |p: &Linear| {
            let forms = tile::alternatives(p, &class).into_iter().chain(tile::choose(p, &class));
            for form in forms.filter(|form| matches!(form, Form::Carried { .. })) {
                assert!(
                    needs(p, form).0 <= class.workgroup_memory,
                    "{form:?}: {p:?} on {class:?}"
                );
                // In one section and, where heads decay, in two.
                for segment in [form.segment().unwrap(), 2048] {
                    add(variants, variants_of(p, form.with_segment(segment)));
                }
            }
        };
        for (n, (head_dim, value_dim)) in [(16, 16), (64, 64), (128, 128), (48, 80), (256, 64), (64, 256)]
            .into_iter()
            .enumerate()
        {
            let p = Linear {
                head_dim,
                value_dim: Some(value_dim),
                decay: DECAYS[n % 2],
                dtype: DType::F16,
                ..problem((4096, 32))
            };
            add_all(&p);
        }
        for (n, (_, option)) in OPTIONS.iter().enumerate() {
            let mut p = Linear {
                head_dim: 48,
                dtype: DTYPES[n % 3],
                output_dtype: (n % 4 == 0).then_some(DType::F32),
                reduced_precision: true,
                ..problem((4096, 32))
            };
            option(&mut p);
            if is_sound(&p) {
                add_all(&p);
            }
        }
    }
    let of_sections = |v: &Variant| matches!(v, Variant::Linear(LinearVariant::CooperativeState(s)) if s.sections == 2);
    assert!(variants.values().filter(|v| of_sections(v)).count() > 10);
    let carried = |v: &Variant| matches!(v, Variant::Linear(LinearVariant::Carried(_)));
    assert!(variants.values().filter(|v| carried(v)).count() > 30);
}

/// Kernels with few options: all of them.
fn add_scans_and_totals(variants: &mut BTreeMap<String, Variant>) {
    for decay in [Decay::None, Decay::Token, Decay::Channel] {
        for start in [Start::Zero, Start::Read, Start::InPlace] {
            for flags in 0..32u32 {
                let flag = |n: u32| flags >> n & 1 == 1;
                let scan = Scan {
                    head_dim: 20,
                    value_dim: 12,
                    normalize: flag(0),
                    causal: flag(1),
                    vector: flag(4),
                    documents: flag(2),
                    decay,
                    start,
                    writes_state: flag(3) || start == Start::InPlace,
                    sections: 1,
                };
                let halved = decay == Decay::Token && scan.causal && !scan.normalize;
                for sections in 1..=1 + u32::from(halved) {
                    add(
                        variants,
                        [LinearVariant::Scan(Scan {
                            sections,
                            ..scan.clone()
                        })],
                    );
                }
            }
        }
    }
    for decay in [Decay::Head, Decay::Token, Decay::Channel] {
        for documents in [false, true] {
            let total = TotalDecay {
                head_dim: 65,
                decay,
                documents,
            };
            add(variants, [LinearVariant::TotalDecay(total)]);
        }
    }
}

/// Everything the planner can reach, options up to pairs, and what tests force.
pub fn reachable() -> BTreeMap<String, Variant> {
    let mut variants = BTreeMap::new();
    add_tiles(&mut variants);
    add_options(&mut variants);
    add_forced(&mut variants);
    add_cooperative(&mut variants);
    add_carried(&mut variants);
    add_scans_and_totals(&mut variants);
    variants
}

/// Workgroup memory and invocations that a form's kernels claim.
fn needs(p: &Linear, form: Form) -> (u32, u32) {
    let bytes = variants_of(p, form).iter().map(|v| v.spec().workgroup_bytes()).max();
    let threads = match form {
        Form::Step(tile) => tile.threads(),
        Form::Serial(tile) | Form::Split { tile, .. } => tile.threads(),
        Form::Cooperative(tile) => tile.threads,
        Form::CooperativeSplit { state, output, .. } => state.threads.max(output.threads),
        Form::Carried { state, output, .. } => state.threads.max(output.threads),
    };
    (bytes.unwrap(), threads)
}

#[test]
fn the_smallest_device_runs_every_head_size() {
    let value_dims = (1..=16).chain([20, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 192, 255, 256]);
    for value_dim in value_dims {
        for head_dim in 1..=256 {
            for decay in DECAYS {
                for (size, normalize) in SIZES.iter().flat_map(|s| [(*s, None), (*s, Some(1e-6))]) {
                    let p = Linear {
                        head_dim,
                        value_dim: Some(value_dim),
                        decay,
                        normalize,
                        ..problem(size)
                    };
                    let form = tile::choose(&p, &SMALLEST).unwrap_or_else(|error| panic!("{error}: {p:?}"));
                    let (bytes, threads) = needs(&p, form);
                    assert!(
                        bytes <= 16 << 10 && threads <= 256,
                        "{bytes} bytes, {threads} threads: {form:?}, {p:?}"
                    );
                }
            }
        }
    }
}

/// The shaders assert the same; here for every head size.
#[test]
fn the_state_in_registers_covers_every_row_that_is_staged() {
    for class in classes() {
        for head_dim in 1..=256u32 {
            for decay in DECAYS {
                let p = Linear {
                    head_dim,
                    decay,
                    ..problem(SIZES[1])
                };
                let tile = match tile::choose(&p, &class).unwrap() {
                    Form::Serial(tile) => tile,
                    Form::Split { tile, segment } => {
                        assert!(segment.is_multiple_of(tile.rows()), "{segment} {tile:?}");
                        tile
                    }
                    form => panic!("{form:?}"),
                };
                let quads = head_dim.div_ceil(4);
                assert!(
                    quads.next_multiple_of(tile.chunk) <= quads.next_multiple_of(tile.row_groups),
                    "{tile:?}"
                );
                assert_eq!(tile.rows(), tile.lanes * tile.key_regs, "{tile:?}");
                assert!(tile.rows().is_multiple_of(tile.tokens), "{tile:?}");
            }
        }
    }
}

/// Where the tier is forced, f16 problems take matrices, others where they may be rounded; what matrices cannot do, and
/// what is too short for them, has no kernel there. Left to itself the planner takes them where they were measured to pay.
#[test]
fn matrices_serve_what_they_can() {
    let device = with_matrices()[0];
    let half = |(tokens, heads)| Linear {
        dtype: DType::F16,
        ..problem((tokens, heads))
    };
    let on_matrices = |p: &Linear, device: &DeviceClass| {
        matches!(
            tile::choose(p, device).unwrap(),
            Form::Cooperative(_) | Form::CooperativeSplit { .. }
        )
    };
    let forms = SIZES_ON_MATRICES.map(|size| tile::choose(&half(size), &device).unwrap());
    assert!(
        matches!(forms, [Form::Cooperative(_), Form::CooperativeSplit { .. }]),
        "{forms:?}"
    );
    let whole = Linear {
        causal: false,
        ..half(SIZES_ON_MATRICES[0])
    };
    let form = tile::choose(&whole, &device).unwrap();
    assert!(matches!(form, Form::CooperativeSplit { .. }), "{form:?}");
    let p = half(SIZES[2]);
    let changes: [(Change, bool); 8] = [
        (|p| p.decay = Decay::Head, true),
        (|p| p.decay = Decay::Token, false),
        (|p| p.decay = Decay::Channel, false),
        (|p| (p.state_only, p.initial_state) = (true, true), false),
        (|p| p.feature_map = FeatureMap::Custom(FEATURE.into()), false),
        (|p| p.dtype = DType::F32, false),
        (|p| (p.dtype, p.reduced_precision) = (DType::F32, true), true),
        (|p| p.tokens = 16, false),
    ];
    for (change, expected) in changes {
        let mut p = p.clone();
        change(&mut p);
        assert_eq!(on_matrices(&p, &device), expected, "{p:?}");
    }
    for tier in [Tier::Portable, Tier::Subgroup].map(Some) {
        assert!(!on_matrices(&p, &DeviceClass { tier, ..device }), "{tier:?}");
    }
    for (edge, software, head_dim, expected) in [
        (16, false, 64, true),
        (16, false, 128, true),
        (16, false, 129, false),
        (8, false, 64, false),
        (16, true, 64, false),
    ] {
        let free = DeviceClass {
            tier: None,
            software,
            abilities: Abilities {
                matrices: Some(edge),
                ..device.abilities
            },
            ..device
        };
        let p = Linear { head_dim, ..p.clone() };
        assert_eq!(on_matrices(&p, &free), expected, "{edge}, {software}, {head_dim}");
    }
}

#[test]
fn every_form_is_picked_for_some_size() {
    let forms = SIZES.map(|size| tile::choose(&problem(size), &SMALLEST).unwrap());
    assert!(
        matches!(forms, [Form::Step(_), Form::Split { .. }, Form::Serial(_)]),
        "{forms:?}"
    );
}
