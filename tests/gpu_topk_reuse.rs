//! A selection as a value: taken in one layer and used in others, extended while decoding, written by the host, and
//! lists that are wrong on the device.

mod common;

use std::collections::BTreeSet;

use common::packed::read;
use common::topk::{self, Given};
use common::{Inputs, Random, draw, forced, gpu, gpu_with};
use wgpu_attention::compare;
use wgpu_attention::dense::host::DenseBuffers;
use wgpu_attention::dense::portable::{DecodeTile, PrefillTile};
use wgpu_attention::dense::reference::dense;
use wgpu_attention::dense::serial::SerialTile;
use wgpu_attention::dense::tile::{KernelChoice, Tuning};
use wgpu_attention::topk::host::TopKBuffers;
use wgpu_attention::topk::{TopKTuning, reference};
use wgpu_attention::{Dense, DenseOutput, DenseTensors, Error, Extend, Gpu, Scoring, Selection, Tensor, TopK};

/// Small tiles of all kernels: rows of one list alone, of several heads, and of two queries.
const KERNELS: [KernelChoice; 3] = [
    KernelChoice::Prefill(PrefillTile {
        row_groups: 2,
        row_regs: 2,
        lanes: 4,
        key_regs: 4,
        chunk: 2,
        value_chunk: 4,
        prefetch: true,
        unroll: 2,
        alternate: true,
    }),
    KernelChoice::Decode(DecodeTile {
        rows: 2,
        lanes: 2,
        slots: 8,
        key_regs: 1,
        value_lanes: 4,
        prefetch: true,
    }),
    KernelChoice::DecodeSerial(SerialTile { rows: 2, threads: 8 }),
];

/// A tensor of words on the device.
fn upload(gpu: &Gpu, words: &[u32]) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let buffer = common::mistakes::buffer_for(gpu, 4 * words.len() as u64, usage);
    gpu.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(words));
    buffer
}

fn words(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<u32> {
    bytemuck::pod_collect_to_vec(&read(gpu, buffer))
}

/// Dense attention over lists that lie on the device: no check of the host's sees them.
fn attend(gpu: &Gpu, p: &Dense, inputs: &Inputs, lists: &wgpu::Buffer, tuning: &Tuning) -> DenseOutput<f32> {
    let plan = p
        .plan_with(gpu, tuning)
        .unwrap_or_else(|error| panic!("{error}: {p:?}"));
    let plain = Dense {
        selection: None,
        ..p.clone()
    };
    let buffers = inputs.with(|inputs| DenseBuffers::upload(gpu, &plain, inputs)).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let with_lists = |tensors: &DenseTensors<'_>| {
        let tensors = DenseTensors {
            selection: Some(Tensor::from(lists)),
            ..*tensors
        };
        plan.encode(&mut encoder, &tensors)
    };
    buffers.with_tensors(with_lists).unwrap();
    pollster::block_on(buffers.submit_and_read(gpu, encoder)).unwrap()
}

/// What the reference gives over lists: those entries of each that [`Selection::visible_entries`] leaves.
fn truth(p: &Dense, inputs: &Inputs, lists: &[u32]) -> DenseOutput<f64> {
    let selection = p.selection.unwrap();
    let sound = lists.chunks_exact(1 + selection.capacity as usize).flat_map(|list| {
        let entries = selection.visible_entries(list, selection.entries(p));
        // Entries that are left need not ascend; the keys that they stand for are a set.
        let all = entries.len();
        let set: BTreeSet<u32> = entries.into_iter().collect();
        assert_eq!(set.len(), all, "an entry twice");
        let room = selection.capacity as usize - set.len();
        let count = set.len() as u32;
        std::iter::once(count).chain(set).chain(std::iter::repeat_n(0, room))
    });
    let sound: Vec<u32> = sound.collect();
    draw::with_twins(p, inputs, |hooks| {
        inputs.with(|inputs| {
            let inputs = wgpu_attention::DenseInputs {
                selection: Some(&sound),
                ..*inputs
            };
            dense(p, &inputs, hooks).unwrap()
        })
    })
}

fn check(name: &str, gpu: &Gpu, p: &Dense, inputs: &Inputs, lists: &[u32], tuning: &Tuning) {
    let output = attend(gpu, p, inputs, &upload(gpu, lists), tuning);
    let result = compare::dense(&output, &truth(p, inputs, lists), &common::tolerance(p));
    println!("{name}: {result}");
    assert!(result.passed(), "{name}: {result}\n{p:?}\n{tuning:?}");
}

/// Lists as good as they come: every entry drawn or not, as far as there is room.
fn drawn_lists(p: &Dense, r: &mut Random) -> Vec<u32> {
    let selection = p.selection.unwrap();
    let count: u32 = selection.dims(p)[..3].iter().product();
    let mut lists = vec![];
    for _ in 0..count {
        let sparse = r.pick(&[1, 2, 5]);
        let chosen: Vec<u32> = (0..selection.entries(p)).filter(|_| r.one_in(sparse)).collect();
        let held = &chosen[..chosen.len().min(selection.capacity as usize)];
        let held = if r.one_in(9) { &[] } else { held };
        lists.push(held.len() as u32);
        lists.extend(held);
        // What lies behind a list's entries is not read.
        lists.extend((held.len() as u32..selection.capacity).map(|_| r.pick(&[0, 1, u32::MAX])));
    }
    lists
}

/// The same, each with something wrong in it.
fn spoilt_lists(p: &Dense, r: &mut Random) -> Vec<u32> {
    let selection = p.selection.unwrap();
    let entries = selection.entries(p);
    let mut lists = drawn_lists(p, r);
    for list in lists.chunks_exact_mut(1 + selection.capacity as usize) {
        let sound = list.to_vec();
        loop {
            spoil(list, entries, r);
            let mut visible = selection.visible_entries(list, entries);
            let count = visible.len();
            visible.sort_unstable();
            visible.dedup();
            // An entry that is seen twice has twice the weight, which the reference knows nothing of.
            if visible.len() == count {
                break;
            }
            list.copy_from_slice(&sound);
        }
    }
    lists
}

fn spoil(list: &mut [u32], entries: u32, r: &mut Random) {
    let capacity = list.len() as u32 - 1;
    let at = 1 + r.below(capacity) as usize;
    match r.below(6) {
        0 => list[at] = entries,
        1 => list[at] = u32::MAX,
        2 => {
            let same = list[at];
            list[1..].fill(same);
        }
        3 => list[1..].reverse(),
        4 => list[0] = r.pick(&[capacity + 1, u32::MAX, 1 << 31]),
        _ => list[1..].iter_mut().for_each(|word| *word = r.below(entries + 2)),
    }
}

/// H = 4 on 2 KV heads, ragged, over lists that two queries of a KV head share.
fn listed(block_size: u32) -> Dense {
    Dense {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        queries: 10,
        keys: 53,
        head_dim: 12,
        causal: true,
        lse: true,
        selection: Some(Selection {
            block_size,
            query_block: 4,
            per_kv_head: true,
            capacity: 9,
        }),
        ..Dense::default()
    }
}

#[test]
fn a_selection_serves_the_layers_after_the_one_that_made_it() {
    let Some(gpu) = gpu() else { return };
    for (block_size, scoring) in [(1, Scoring::Keys), (5, Scoring::Mean)] {
        let p = TopK {
            attention: Dense {
                selection: None,
                ..listed(1)
            },
            query_block: 4,
            per_kv_head: true,
            top_k: 6,
            room: 2,
            block_size,
            scoring,
            keep: true,
            ..TopK::default()
        };
        let mut r = Random::new(1);
        let given = Given::random(&p, &mut r);
        let plan = p.plan(&gpu).unwrap();
        let buffers = given.with(|inputs| TopKBuffers::upload(&gpu, &p, inputs)).unwrap();
        let lists = upload(&gpu, &vec![7; p.selection().words(&p.attention) as usize]);
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        buffers
            .with_tensors(|tensors| {
                let mut tensors = *tensors;
                tensors.selection = Some(Tensor::from(&lists));
                plan.encode(&mut encoder, &tensors)
            })
            .unwrap();
        gpu.queue().submit([encoder.finish()]);
        let next = Dense {
            selection: Some(p.selection()),
            ..p.attention.clone()
        };
        let kept = words(&gpu, &lists);
        p.selection().check(&next, &kept).unwrap();
        for layer in 0..3 {
            let inputs = Inputs::random(&next, &mut r);
            let output = attend(&gpu, &next, &inputs, &lists, &Tuning::default());
            let result = compare::dense(&output, &truth(&next, &inputs, &kept), &common::tolerance(&next));
            println!("layer {layer}, blocks of {block_size}: {result}");
            assert!(result.passed(), "{result}");
        }
    }
}

#[test]
fn a_selection_grows_by_the_tokens_that_are_decoded() {
    let Some(gpu) = gpu() else { return };
    let (prompt, steps) = (40, 20);
    let attention = Dense {
        heads: 4,
        kv_heads: Some(2),
        keys: prompt,
        head_dim: 8,
        ..Dense::default()
    };
    let first = TopK {
        attention,
        per_kv_head: true,
        top_k: 6,
        room: steps,
        keep: true,
        ..TopK::default()
    };
    let mut r = Random::new(2);
    let given = Given::random(&first, &mut r);
    let output = topk::run(&gpu, &first, &given, &TopKTuning::default()).unwrap();
    let lists = upload(&gpu, &output.selection);
    let mut expected = output.selection;
    for step in 0..steps {
        let keys = prompt + step + 1;
        let extend = Extend {
            lists: 2,
            capacity: 6 + steps,
            held: 6 + step,
            from: keys - 1,
            to: keys,
        };
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        extend
            .plan(&gpu)
            .unwrap()
            .encode(&mut encoder, Tensor::from(&lists))
            .unwrap();
        gpu.queue().submit([encoder.finish()]);
        expected = reference::extend(&extend, &expected).unwrap();
        assert_eq!(words(&gpu, &lists), expected, "step {step}");
        let p = Dense {
            keys,
            selection: Some(first.selection()),
            ..first.attention.clone()
        };
        let inputs = Inputs::random(&p, &mut r);
        let output = attend(&gpu, &p, &inputs, &lists, &Tuning::default());
        let result = compare::dense(&output, &truth(&p, &inputs, &expected), &common::tolerance(&p));
        assert!(result.passed(), "step {step}: {result}");
    }
}

#[test]
fn lists_of_the_hosts_own() {
    let Some(gpu) = gpu() else { return };
    let mut r = Random::new(3);
    // Blocks that no tile divides, that divide no tile, and that are longer than all keys.
    for block_size in [1, 3, 7, 24, 1 << 28] {
        let p = listed(block_size);
        let inputs = Inputs::random(&p, &mut r);
        for kernel in KERNELS {
            let lists = drawn_lists(&p, &mut r);
            check(
                &format!("blocks of {block_size}"),
                &gpu,
                &p,
                &inputs,
                &lists,
                &forced(kernel),
            );
        }
        let mut lists = drawn_lists(&p, &mut r);
        let output = inputs.with(|inputs| {
            let inputs = wgpu_attention::DenseInputs {
                selection: Some(&lists),
                ..*inputs
            };
            p.plan(&gpu).unwrap().run_blocking(&inputs).unwrap()
        });
        let result = compare::dense(&output, &truth(&p, &inputs, &lists), &common::tolerance(&p));
        assert!(result.passed(), "{result}");
        lists[0] = 99;
        let error = inputs.with(|inputs| {
            let inputs = wgpu_attention::DenseInputs {
                selection: Some(&lists),
                ..*inputs
            };
            p.plan(&gpu).unwrap().run_blocking(&inputs).unwrap_err()
        });
        assert_eq!(
            error.to_string(),
            "input `selection`: list [0, 0, 0] has 99 entries; needed: at most `capacity`, 9"
        );
    }
}

/// What lists on the device mean that break every rule.
fn check_spoilt(gpu: &Gpu) {
    let mut r = Random::new(4);
    for block_size in [1, 7] {
        let p = listed(block_size);
        for kernel in KERNELS {
            for round in 0..4 {
                let inputs = Inputs::random(&p, &mut r);
                let lists = spoilt_lists(&p, &mut r);
                assert!(p.selection.unwrap().check(&p, &lists).is_err());
                check(
                    &format!("spoilt, blocks of {block_size}, {round}"),
                    gpu,
                    &p,
                    &inputs,
                    &lists,
                    &forced(kernel),
                );
            }
        }
    }
}

#[test]
fn lists_on_the_device_are_not_trusted() {
    let Some(gpu) = gpu() else { return };
    check_spoilt(&gpu);
}

#[test]
fn lists_on_the_device_are_not_trusted_with_driver_checks() {
    let Some(gpu) = gpu_with(|o| o.checked = true) else {
        return;
    };
    check_spoilt(&gpu);
}

#[test]
fn lists_on_the_device_are_not_trusted_on_a_minimal_device() {
    let Some(gpu) = gpu_with(|o| o.minimal = true) else {
        return;
    };
    check_spoilt(&gpu);
}

/// Problems over the whole option space of dense attention, each over lists.
#[test]
fn random_problems_over_lists() {
    common::property::share(7, 3, |gpu, name, r| {
        let tuning = draw::tuning(gpu, r);
        let options = draw::options(r);
        let block_size = r.pick(&[1, 1, 4, 6, 16, 40]);
        let one = |size| {
            let p = Dense {
                selection: Some(Selection {
                    block_size,
                    query_block: r.pick(&[1, 4, 16, 64, 1 << 28]),
                    per_kv_head: r.one_in(2),
                    capacity: 1 + r.below(60),
                }),
                ..draw::sizes(&options, draw::edges(&tuning), r)
            };
            // Not every tile's rows share a list of every problem.
            let tuning = match p.plan_with(gpu, &tuning) {
                Err(Error::Invalid {
                    field: "tuning.kernel", ..
                }) => Tuning::default(),
                _ => Tuning {
                    splits: r.one_in(3).then(|| r.pick(&[1, 2, 3])),
                    ..tuning
                },
            };
            let inputs = draw::inputs(&p, r);
            let lists = if r.one_in(3) {
                spoilt_lists(&p, r)
            } else {
                drawn_lists(&p, r)
            };
            let output = attend(gpu, &p, &inputs, &upload(gpu, &lists), &tuning);
            let result = compare::dense(&output, &truth(&p, &inputs, &lists), &common::tolerance(&p));
            match result.passed() {
                true => Ok(()),
                false => Err(format!("{name}-{size}: {result}\n  {tuning:?}\n  {p:?}\n  {lists:?}")),
            }
        };
        (0..6).map(one).collect()
    });
}

#[test]
fn lists_in_parts() {
    let Some(limits) = common::limits() else { return };
    for (binding, workgroups) in [(8 << 10, 65535), (1 << 20, 3)] {
        let small = wgpu_attention::wgpu::Limits {
            max_storage_buffer_binding_size: binding,
            max_compute_workgroups_per_dimension: workgroups,
            ..limits.clone()
        };
        let Some(gpu) = gpu_with(|o| o.limits = Some(small)) else {
            return;
        };
        let p = Dense {
            queries: 70,
            ..listed(5)
        };
        let mut r = Random::new(5);
        let inputs = Inputs::random(&p, &mut r);
        for kernel in KERNELS {
            let plan = p.plan_with(&gpu, &forced(kernel)).unwrap();
            assert!(plan.parts() > 1, "{kernel:?}");
            let lists = drawn_lists(&p, &mut r);
            check(
                &format!("{} parts", plan.parts()),
                &gpu,
                &p,
                &inputs,
                &lists,
                &forced(kernel),
            );
        }
    }
}

#[test]
fn a_wrong_list_would_be_noticed() {
    let Some(gpu) = gpu() else { return };
    let p = listed(1);
    let mut r = Random::new(6);
    let inputs = Inputs::random(&p, &mut r);
    let mut lists: Vec<u32> = vec![0; p.selection.unwrap().words(&p) as usize];
    lists
        .chunks_exact_mut(10)
        .for_each(|list| list[..3].copy_from_slice(&[2, 1, 30]));
    let output = attend(&gpu, &p, &inputs, &upload(&gpu, &lists), &Tuning::default());
    let judged = |lists: &[u32]| compare::dense(&output, &truth(&p, &inputs, lists), &common::tolerance(&p));
    assert!(judged(&lists).passed());
    lists[2] = 31;
    assert!(!judged(&lists).passed());
}
