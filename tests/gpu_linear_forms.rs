//! Linear attention on a device, every form against the reference: lengths around a chunk's, head sizes, feature maps,
//! normalisers, documents, what a state alone contributes, and problems that are not causal.

mod common;

use common::linear::{self, DECAYS, Strength, check, check_on, feature_maps, forced, forms};
use common::{Random, gpu, tiles};
use wgpu_attention::linear::tile::{Form, LinearTuning};
use wgpu_attention::{Decay, FeatureMap, Linear};

const C: u32 = tiles::SMALL.rows();

/// Ragged sizes, grouped heads, both states.
fn plain(decay: Decay) -> Linear {
    Linear {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        tokens: 3 * C + 1,
        head_dim: 12,
        value_dim: Some(20),
        scale: Some(0.3),
        decay,
        initial_state: true,
        final_state: true,
        total_decay: decay != Decay::None,
        ..Linear::default()
    }
}

fn split(chunks: u32) -> Form {
    Form::Split {
        tile: tiles::SMALL,
        segment: chunks * C,
    }
}

#[test]
fn lengths_around_a_chunk() {
    let Some(gpu) = gpu() else { return };
    for decay in DECAYS {
        for tokens in [1, 2, C - 1, C, C + 1, 2 * C - 1, 2 * C, 2 * C + 1, 3 * C, 5 * C + 3] {
            let p = Linear { tokens, ..plain(decay) };
            for form in forms(&p).into_iter().chain([split(2)]) {
                check(&format!("{decay:?}, {tokens} tokens"), &gpu, &p, &forced(form));
            }
        }
    }
}

#[test]
fn heads_that_share_keys_and_values() {
    let Some(gpu) = gpu() else { return };
    for (heads, kv_heads) in [(1, None), (3, None), (3, Some(1)), (6, Some(2)), (6, Some(3))] {
        let p = Linear {
            heads,
            kv_heads,
            ..plain(Decay::Head)
        };
        for form in forms(&p) {
            check(&format!("{heads} heads, {kv_heads:?}"), &gpu, &p, &forced(form));
        }
    }
}

#[test]
fn head_sizes() {
    let Some(gpu) = gpu() else { return };
    let sizes = [
        (1, 1),
        (3, 5),
        (5, 3),
        (20, 64),
        (64, 20),
        (64, 64),
        (3, 128),
        (128, 128),
        (256, 5),
        (256, 256),
    ];
    for (n, (head_dim, value_dim)) in sizes.into_iter().enumerate() {
        let sized = |decay| Linear {
            batch: 1,
            heads: 2,
            tokens: 4 * C + 3,
            head_dim,
            value_dim: Some(value_dim),
            ..plain(decay)
        };
        let (tile, other) = match head_dim.max(value_dim) {
            ..=64 => (tiles::SMALL, tiles::WIDE),
            _ => (tiles::TALL, tiles::TALL),
        };
        let segment = tile.rows();
        let name = format!("D = {head_dim}, Dv = {value_dim}");
        // One decay in three dispatches, another in one.
        let p = sized(DECAYS[n % 4]);
        check(&name, &gpu, &p, &forced(Form::Split { tile, segment }));
        let p = sized(DECAYS[(n + 1 + n / 4) % 4]);
        check(&name, &gpu, &p, &forced(Form::Step(tiles::step(&p))));
        check(&name, &gpu, &p, &forced(Form::Serial(other)));
    }
}

#[test]
fn feature_maps_decays_and_normalizers() {
    let Some(gpu) = gpu() else { return };
    let mut turn = 0;
    for feature_map in feature_maps() {
        for decay in DECAYS {
            for normalize in [None, Some(0.01)] {
                turn += 1;
                let p = Linear {
                    // φ of what a row lacks to a multiple of four would count, were it not left out.
                    head_dim: if turn % 2 == 0 { 10 } else { 12 },
                    feature_map: feature_map.clone(),
                    normalize,
                    ..plain(decay)
                };
                let name = format!("{feature_map:?} {decay:?} {normalize:?}");
                // A split is three kernels to compile: few of them.
                let form = match turn % 7 {
                    0 => split(1),
                    1 | 3 | 5 => Form::Step(tiles::step(&p)),
                    _ => Form::Serial(tiles::SMALL),
                };
                check(&name, &gpu, &p, &forced(form));
            }
        }
    }
}

#[test]
fn normalizers_in_every_form() {
    let Some(gpu) = gpu() else { return };
    for (decay, in_place) in [(Decay::Token, false), (Decay::Token, true), (Decay::Channel, false)] {
        let p = Linear {
            normalize: Some(1e-3),
            feature_map: FeatureMap::Elu1,
            in_place,
            ..plain(decay)
        };
        for form in forms(&p) {
            check(&format!("{decay:?}, in place {in_place}"), &gpu, &p, &forced(form));
        }
    }
    // With all the columns in one workgroup, the serial form works in place too.
    let p = Linear {
        normalize: Some(1e-3),
        in_place: true,
        ..plain(Decay::Token)
    };
    check("all columns", &gpu, &p, &forced(Form::Serial(tiles::WIDE)));
}

#[test]
fn states_read_written_and_in_place() {
    let Some(gpu) = gpu() else { return };
    for (initial_state, final_state, in_place) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (true, true, true),
    ] {
        for tokens in [1, 2 * C + 1] {
            let p = Linear {
                tokens,
                initial_state,
                final_state,
                in_place,
                ..plain(Decay::Head)
            };
            for form in forms(&p) {
                let name = format!("{tokens} tokens {initial_state} {final_state} {in_place}");
                check(&name, &gpu, &p, &forced(form));
            }
        }
    }
}

#[test]
fn every_token_sees_all_of_them() {
    let Some(gpu) = gpu() else { return };
    for (n, feature_map) in feature_maps().into_iter().enumerate() {
        for documents in [None, Some(3)].into_iter().take(if n < 2 { 2 } else { 1 }) {
            let p = Linear {
                batch: if documents.is_some() { 1 } else { 2 },
                causal: false,
                normalize: (n % 2 == 0).then_some(1e-6),
                feature_map: feature_map.clone(),
                initial_state: n != 1,
                final_state: n != 2,
                documents,
                ..plain(Decay::None)
            };
            for chunks in [1, 3, 8] {
                check(&format!("{feature_map:?}"), &gpu, &p, &forced(split(chunks)));
            }
        }
    }
}

/// Boundaries with empty documents, tokens before, and tokens after all of them.
const BOUNDARIES: [[i32; 5]; 7] = [
    [0, 10, 20, 30, 41],
    [0, 0, 41, 41, 41],
    [3, 4, 4, 5, 6],
    [7, 7, 7, 7, 7],
    [0, 8, 16, 24, 32],
    [0, 7, 16, 33, 40],
    [9, 9, 40, 40, 41],
];

#[test]
fn documents_each_with_a_state_of_its_own() {
    let Some(gpu) = gpu() else { return };
    for decay in DECAYS {
        let normalizers = [None, Some(0.01)];
        for normalize in normalizers.into_iter().take(if decay == Decay::Token { 2 } else { 1 }) {
            let p = Linear {
                batch: 1,
                tokens: 41,
                documents: Some(4),
                normalize,
                ..plain(decay)
            };
            let mut inputs = linear::random(&p, Strength::Medium, &mut Random::new(3));
            for boundaries in BOUNDARIES {
                inputs.cu_seqlens = Some(boundaries.to_vec());
                for form in [split(1), split(2), split(6), Form::Serial(tiles::SMALL)] {
                    let name = format!("{decay:?} {boundaries:?}");
                    check_on(&name, &gpu, &p, &inputs.inputs(), &forced(form));
                }
            }
        }
    }
}

#[test]
fn more_documents_than_tokens() {
    let Some(gpu) = gpu() else { return };
    let p = Linear {
        batch: 1,
        tokens: 5,
        documents: Some(300),
        ..plain(Decay::Token)
    };
    for form in [split(1), Form::Serial(tiles::SMALL)] {
        check("300 documents", &gpu, &p, &forced(form));
    }
}

#[test]
fn what_a_state_alone_contributes() {
    let Some(gpu) = gpu() else { return };
    for decay in DECAYS {
        for documents in [None, Some(4)] {
            let p = Linear {
                batch: if documents.is_some() { 1 } else { 2 },
                tokens: 41,
                documents,
                final_state: false,
                state_only: true,
                ..plain(decay)
            };
            let mut inputs = linear::random(&p, Strength::Medium, &mut Random::new(4));
            // k and v play no part, whatever they hold.
            inputs.k.fill(f32::NAN);
            inputs.v.fill(f32::NAN);
            for boundaries in BOUNDARIES.iter().take(if documents.is_some() { 7 } else { 1 }) {
                inputs.cu_seqlens = documents.map(|_| boundaries.to_vec());
                for form in [split(1), split(3), Form::Serial(tiles::SMALL)] {
                    let name = format!("{decay:?} {:?}", inputs.cu_seqlens);
                    check_on(&name, &gpu, &p, &inputs.inputs(), &forced(form));
                }
            }
        }
    }
}

#[test]
fn what_the_planner_picks() {
    let Some(gpu) = gpu() else { return };
    // A step, the serial form, a split, each with the tiles that users get.
    for (heads, tokens) in [(2, 1), (2, 3), (64, 150), (1, 400)] {
        for decay in [Decay::Head, Decay::Channel] {
            let p = Linear {
                batch: 1,
                heads,
                kv_heads: None,
                tokens,
                head_dim: 64,
                value_dim: None,
                ..plain(decay)
            };
            check(&format!("{tokens} tokens"), &gpu, &p, &LinearTuning::default());
        }
    }
}
