//! The subgroup tier on a device: every way that values take from lane to lane, native f16, and what is refused.

mod common;

use common::{Inputs, Random, check, gpu, gpu_with};
use wgpu_attention::dense::portable::{DecodeTile, PrefillTile};
use wgpu_attention::dense::serial::SerialPrefillTile;
use wgpu_attention::dense::subgroup::Subgroup;
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::{DType, Dense, Error, Gpu, Linear, Tier, Weighting};

fn prefill(lanes: u32) -> PrefillTile {
    PrefillTile {
        row_groups: 2,
        row_regs: 2,
        lanes,
        key_regs: 4,
        chunk: 2,
        value_chunk: 4,
        prefetch: true,
        unroll: 2,
        alternate: true,
    }
}

fn decode(lanes: u32) -> DecodeTile {
    DecodeTile {
        rows: 2.min(lanes),
        lanes,
        slots: 2,
        key_regs: 2,
        value_lanes: lanes,
        prefetch: true,
    }
}

/// Both kernels with so many lanes, on subgroups of which so much is known.
fn kernels(lanes: u32, (least, most): (u32, u32), half: bool) -> [KernelChoice; 2] {
    [
        KernelChoice::SubgroupPrefill(Subgroup {
            tile: prefill(lanes),
            least,
            most,
            half,
        }),
        KernelChoice::SubgroupDecode(Subgroup {
            tile: decode(lanes),
            least,
            most,
            half,
        }),
    ]
}

/// The serial kernel of prefill.
fn serial(threads: u32, keys: u32) -> KernelChoice {
    KernelChoice::PrefillSerial(SerialPrefillTile {
        row_regs: 2,
        keys,
        threads,
    })
}

fn problem() -> Dense {
    Dense {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        queries: 9,
        keys: 75,
        head_dim: 20,
        causal: true,
        lse: true,
        ..Dense::default()
    }
}

/// The device with the sizes of its subgroups; `None` where it has none, and is seen to refuse the tier.
fn with_subgroups() -> Option<(Gpu, (u32, u32))> {
    let gpu = gpu()?;
    let Some(sizes) = gpu.abilities().subgroups else {
        let error = gpu.with_tier(Tier::Subgroup).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        return None;
    };
    println!("subgroups of {} to {}", sizes.0, sizes.1);
    Some((gpu, sizes))
}

#[test]
fn fewer_lanes_than_a_subgroup_as_many_and_more() {
    let Some((gpu, (least, most))) = with_subgroups() else {
        return;
    };
    for lanes in [1, least / 2, least, 4 * most].map(|n| n.clamp(1, 64)) {
        // The sizes; and less than there is to know, so that a run has to find out whether subgroups hold the lanes.
        for sizes in [(least, most), (1, 128)] {
            for (kernel, weighting) in kernels(lanes, sizes, false)
                .into_iter()
                .flat_map(|k| [Weighting::Softmax, Weighting::Sigmoid { bias: None }].map(|weighting| (k, weighting)))
            {
                let p = Dense {
                    weighting,
                    lse: weighting == Weighting::Softmax,
                    ..problem()
                };
                check(&format!("{kernel:?}"), &gpu, &p, &common::forced(kernel));
            }
        }
    }
}

#[test]
fn native_f16_loads_give_the_same_bits() {
    let Some((gpu, sizes)) = with_subgroups() else { return };
    if !gpu.abilities().half {
        return println!("no native f16");
    }
    for head_dim in [20, 21] {
        let p = Dense {
            head_dim,
            dtype: DType::F16,
            ..problem()
        };
        let inputs = Inputs::random(&p, &mut Random::new(4));
        let both = [false, true].map(|half| kernels(sizes.0.min(4), sizes, half));
        for (packed, native) in both[0].into_iter().zip(both[1]) {
            let [packed, native] = [packed, native].map(|kernel| {
                let plan = p.plan_with(&gpu, &common::forced(kernel)).unwrap();
                assert_eq!(plan.tier(), Tier::Subgroup);
                (plan.label().to_string(), inputs.with(|i| plan.run_blocking(i)).unwrap())
            });
            assert_ne!(packed.0, native.0);
            assert!(
                packed
                    .1
                    .o
                    .iter()
                    .zip(&native.1.o)
                    .all(|(a, b)| a.to_bits() == b.to_bits())
            );
        }
    }
}

#[test]
fn the_same_input_gives_the_same_bits() {
    let Some((gpu, sizes)) = with_subgroups() else { return };
    let p = problem();
    let inputs = Inputs::random(&p, &mut Random::new(5));
    for kernel in kernels(sizes.0, sizes, false) {
        let bits = || -> Vec<u32> {
            let output = common::run(&gpu, &p, &inputs, &common::forced(kernel)).unwrap();
            let lse = output.lse.unwrap();
            output.o.iter().chain(&lse).map(|x| x.to_bits()).collect()
        };
        assert_eq!(bits(), bits());
    }
}

/// What planning with a tile says.
fn refusal(gpu: &Gpu, kernel: KernelChoice) -> String {
    let plan = problem().plan_with(gpu, &common::forced(kernel));
    plan.map(|plan| plan.label().to_string()).unwrap_err().to_string()
}

#[test]
fn tiles_that_the_kernels_or_the_device_cannot_take_are_refused() {
    let Some((gpu, (least, most))) = with_subgroups() else {
        return;
    };
    let right = Subgroup {
        tile: decode(4),
        least,
        most,
        half: false,
    };
    let wrong = [
        DecodeTile { rows: 8, ..decode(4) },
        DecodeTile {
            key_regs: 3,
            ..decode(4)
        },
        DecodeTile {
            value_lanes: 8,
            ..decode(4)
        },
        decode(3),
    ];
    for tile in wrong {
        let error = refusal(&gpu, KernelChoice::SubgroupDecode(Subgroup { tile, ..right }));
        assert!(error.contains("tuning.kernel") && error.contains("rules"), "{error}");
    }
    let error = refusal(
        &gpu,
        KernelChoice::SubgroupPrefill(Subgroup {
            tile: prefill(3),
            least,
            most,
            half: false,
        }),
    );
    assert!(error.contains("rules"), "{error}");
    let larger = Subgroup {
        least: 2 * most,
        most: 2 * most,
        ..right
    };
    let error = refusal(&gpu, KernelChoice::SubgroupDecode(larger));
    assert!(error.contains(&format!("{least} to {most}")), "{error}");
    let error = refusal(&gpu, serial(2 * most, 4));
    assert!(error.contains(&format!("{least} to {most}")), "{error}");
    for keys in [0, 17] {
        let error = refusal(&gpu, serial(most, keys));
        assert!(error.contains("rules"), "{error}");
    }
}

#[test]
fn a_device_without_subgroups_refuses_their_tiles() {
    let Some(gpu) = gpu_with(|o| o.minimal = true) else {
        return;
    };
    for kernel in kernels(4, (8, 8), false).into_iter().chain([serial(8, 4)]) {
        let error = refusal(&gpu, kernel);
        assert!(error.contains("SUBGROUP"), "{error}");
    }
}

#[test]
fn a_forced_tier_is_used_or_refused() {
    let Some((gpu, _)) = with_subgroups() else { return };
    let forced = gpu.with_tier(Tier::Subgroup).unwrap();
    for queries in [1, 100] {
        let p = Dense { queries, ..problem() };
        assert_eq!(p.plan(&forced).unwrap().tier(), Tier::Subgroup);
        let portable = p.plan(&gpu.with_tier(Tier::Portable).unwrap()).unwrap();
        assert_eq!(portable.tier(), Tier::Portable);
        // A tile of another tier than the one that is forced.
        let kernel = Tuning {
            kernel: Some(KernelChoice::Decode(DecodeTile {
                value_lanes: 4,
                ..decode(4)
            })),
            ..Tuning::default()
        };
        assert!(matches!(p.plan_with(&forced, &kernel), Err(Error::Unsupported { .. })));
    }
    let linear = |dtype| Linear {
        tokens: 20,
        dtype,
        ..Linear::default()
    };
    let error = linear(DType::F32).plan(&forced).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert_eq!(linear(DType::F32).plan(&gpu).unwrap().tier(), Tier::Portable);
    if gpu.abilities().half {
        assert_eq!(linear(DType::F16).plan(&forced).unwrap().tier(), Tier::Subgroup);
    }
}
