//! Where linear attention is hard for f32: strong decays, weak ones over many tokens, both in turn; and that tiles and
//! segments change nothing but rounding. Every test prints the errors; none has bounds of its own.

mod common;

use common::linear::{self, DECAYS, Strength, check_on, forced};
use common::{Random, gpu, tiles};
use wgpu_attention::compare::{self, Tolerance};
use wgpu_attention::dense::tile::DeviceClass;
use wgpu_attention::linear::tile::{self, Form, LinearTuning};
use wgpu_attention::linear::variant::ChunkTile;
use wgpu_attention::{DType, Decay, Gpu, Linear};

fn split(tile: ChunkTile, chunks: u32) -> Form {
    Form::Split {
        tile,
        segment: chunks * tile.rows(),
    }
}

/// The planner's form, and others with shorter chunks.
fn ways(p: &Linear) -> Vec<LinearTuning> {
    let step = Form::Step(tiles::step(p));
    let forms = [Form::Serial(tiles::WIDE), split(tiles::SMALL, 16), step];
    let mut ways = vec![LinearTuning::default()];
    // What has a loop for every chunk or token is for shorter sequences: a software GPU leaves a shader after 65 535
    // iterations of all its loops together.
    ways.extend(forms.map(forced).into_iter().filter(|way| match way.form {
        Some(Form::Split { .. }) => true,
        _ => p.tokens < 4096,
    }));
    ways
}

fn long(decay: Decay, tokens: u32, dim: u32) -> Linear {
    Linear {
        heads: 2,
        tokens,
        head_dim: dim,
        decay,
        initial_state: true,
        final_state: true,
        ..Linear::default()
    }
}

/// Every way to compute the problem, its log-decays drawn by `draw`.
fn check(gpu: &Gpu, p: &Linear, draw: impl Fn(&mut Random) -> f32) {
    let mut r = Random::new(11);
    let mut inputs = linear::random(p, Strength::Medium, &mut r);
    for g in inputs.log_decay.iter_mut().flatten() {
        *g = draw(&mut r);
    }
    for tuning in ways(p) {
        let name = format!("{:?}, {} tokens, {:?}", p.decay, p.tokens, tuning.form);
        check_on(&name, gpu, p, &inputs.inputs(), &tuning);
    }
}

#[test]
fn strong_decay_of_a_head() {
    let Some(gpu) = gpu() else { return };
    check(&gpu, &long(Decay::Head, 300, 24), |_| -8.0);
}

#[test]
fn strong_decay_of_a_token() {
    let Some(gpu) = gpu() else { return };
    check(&gpu, &long(Decay::Token, 300, 24), |r| r.float(-8.0, -7.0));
}

#[test]
fn strong_decay_of_a_channel() {
    let Some(gpu) = gpu() else { return };
    check(&gpu, &long(Decay::Channel, 300, 24), |r| r.float(-8.0, -7.0));
}

#[test]
fn decay_that_wipes_every_state_out() {
    let Some(gpu) = gpu() else { return };
    for decay in [Decay::Head, Decay::Token, Decay::Channel] {
        for g in [-104.0, -1e30, f32::MIN, f32::NEG_INFINITY] {
            check(&gpu, &long(decay, 40, 24), |_| g);
        }
    }
}

#[test]
fn weak_decay_of_a_head_over_65536_tokens() {
    let Some(gpu) = gpu() else { return };
    check(&gpu, &long(Decay::Head, 65_536, 8), |_| -1e-4);
}

#[test]
fn weak_decay_of_a_token_over_65536_tokens() {
    let Some(gpu) = gpu() else { return };
    check(&gpu, &long(Decay::Token, 65_536, 8), |_| -1e-4);
}

#[test]
fn weak_decay_of_a_channel_over_65536_tokens() {
    let Some(gpu) = gpu() else { return };
    check(&gpu, &long(Decay::Channel, 65_536, 8), |_| -1e-4);
}

#[test]
fn weak_and_uneven_decay_over_65536_tokens() {
    let Some(gpu) = gpu() else { return };
    check(&gpu, &long(Decay::Token, 65_536, 8), |r| r.float(-2e-4, 0.0));
}

#[test]
fn no_decay_over_65536_tokens() {
    let Some(gpu) = gpu() else { return };
    check(&gpu, &long(Decay::None, 65_536, 8), |_| 0.0);
}

#[test]
fn strong_and_weak_decay_token_by_token() {
    let Some(gpu) = gpu() else { return };
    for decay in [Decay::Token, Decay::Channel] {
        let p = long(decay, 1500, 24);
        check(&gpu, &p, |r| Strength::Mixed.draw(r));
        // Rare strong ones: what comes after them in the same chunk must be as accurate as without.
        check(&gpu, &p, |r| if r.one_in(40) { -90.0 } else { r.float(-1e-3, 0.0) });
    }
}

/// Every way to compute the problem, its log-decays being `strong` for half of every 16 tokens, then weak: what the
/// running sums of a chunk have come to must not blur the differences after it.
fn check_after_strong(gpu: &Gpu, decay: Decay, strong: f32) {
    let p = long(decay, 256, 24);
    let mut inputs = linear::random(&p, Strength::Medium, &mut Random::new(19));
    let channels = if decay == Decay::Channel { p.head_dim } else { 1 };
    for (n, g) in inputs.log_decay.iter_mut().flatten().enumerate() {
        let token = n as u32 / channels % p.tokens;
        *g = if token % 16 < 8 { strong } else { -1e-3 };
    }
    for tuning in ways(&p) {
        let name = format!("{decay:?} {strong}, {:?}", tuning.form);
        check_on(&name, gpu, &p, &inputs.inputs(), &tuning);
    }
}

#[test]
fn weak_decay_of_a_token_after_strong() {
    let Some(gpu) = gpu() else { return };
    check_after_strong(&gpu, Decay::Token, -8.0);
    check_after_strong(&gpu, Decay::Token, -100.0);
}

#[test]
fn weak_decay_of_a_channel_after_strong() {
    let Some(gpu) = gpu() else { return };
    check_after_strong(&gpu, Decay::Channel, -8.0);
}

#[test]
fn strong_and_weak_decay_with_a_normalizer() {
    let Some(gpu) = gpu() else { return };
    for decay in [Decay::Token, Decay::Channel] {
        let p = Linear {
            normalize: Some(1e-6),
            ..long(decay, 700, 24)
        };
        check(&gpu, &p, |r| Strength::Mixed.draw(r));
    }
}

#[test]
fn chunk_and_segment_length_change_rounding_only() {
    let Some(gpu) = gpu() else { return };
    for decay in DECAYS {
        let p = long(decay, 333, 24);
        let inputs = linear::random(&p, Strength::Mixed, &mut Random::new(13));
        let result = |tuning| linear::run(&gpu, &p, &inputs.inputs(), &tuning).unwrap();
        let first = result(forced(Form::Serial(tiles::SMALL)));
        let widened = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let (o, state) = (widened(&first.o), widened(first.final_state.as_ref().unwrap()));
        // A tenth of what results may differ from the truth by.
        let rounding = Tolerance {
            rms: 1e-6,
            max: 2e-6,
            ..Tolerance::for_dtype(DType::F32)
        };
        let tilings = [tiles::SMALL, tiles::WIDE, tiles::TALL];
        let splits = tilings.iter().flat_map(|&tile| [1, 2, 7, 100].map(|n| split(tile, n)));
        let serial = [tiles::WIDE, tiles::TALL].map(Form::Serial);
        for form in splits.chain(serial) {
            let other = result(forced(form));
            for (found, expected) in [(&other.o, &o), (other.final_state.as_ref().unwrap(), &state)] {
                let found = compare::output(found, expected, &rounding);
                assert!(found.passed(), "{decay:?} {form:?}: {found}");
            }
        }
    }
}

#[test]
fn total_decays_over_65536_tokens() {
    let Some(gpu) = gpu() else { return };
    for decay in [Decay::Head, Decay::Token, Decay::Channel] {
        let p = Linear {
            total_decay: true,
            ..long(decay, 65_536, 8)
        };
        check(&gpu, &p, |_| -1e-4);
    }
}

/// A software GPU leaves a shader after 65 535 iterations of all its loops together: no workgroup may need so many,
/// also where there are more heads than processors.
#[test]
fn long_sequences_of_many_heads() {
    let Some(gpu) = gpu() else { return };
    let few = DeviceClass {
        processors: 2,
        ..common::class(&gpu)
    };
    for (decay, head_dim, value_dim) in [(Decay::Token, 256, 4), (Decay::Channel, 64, 8)] {
        let p = Linear {
            heads: 4,
            value_dim: Some(value_dim),
            ..long(decay, 65_536, head_dim)
        };
        let inputs = linear::random(&p, Strength::Weak, &mut Random::new(17));
        let form = tile::choose(&p, &few).unwrap();
        let name = format!("{decay:?}, D = {head_dim}");
        check_on(&name, &gpu, &p, &inputs.inputs(), &forced(form));
    }
}
