//! Selection of the k greatest of each row, and lists that are extended, against a plain sort on the host.

mod common;

use common::{Random, gpu, gpu_with};
use wgpu_attention::dense::tile::DeviceClass;
use wgpu_attention::topk::select::tile::{self, SelectTuning};
use wgpu_attention::topk::select::variant::SelectTile;
use wgpu_attention::{Error, Extend, Gpu, Select, SelectTensors, Tensor};

const USAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

/// The columns of a row that are kept: forced ones first, then by score, then by column.
fn kept(select: &Select, row: &[f32]) -> Vec<u32> {
    let candidate = |c: u32| !row[c as usize].is_nan() && row[c as usize] != f32::NEG_INFINITY;
    let mut order: Vec<u32> = (0..select.columns).filter(|&c| candidate(c)).collect();
    let end = order.last().map_or(0, |c| c + 1);
    let forced = |c: u32| c < select.first || c + select.last >= end;
    order.sort_by(|&a, &b| {
        let by_score = row[b as usize].partial_cmp(&row[a as usize]).unwrap();
        forced(b).cmp(&forced(a)).then(by_score).then(a.cmp(&b))
    });
    order.truncate(select.top_k as usize);
    order.sort_unstable();
    order
}

fn expected(select: &Select, scores: &[f32]) -> Vec<u32> {
    let mut lists = vec![];
    for row in scores.chunks_exact(select.columns as usize) {
        let mut list = kept(select, row);
        lists.push(list.len() as u32);
        list.resize(select.capacity() as usize, 0);
        lists.extend(list);
    }
    lists
}

/// The first list that is not as expected; what is not written is poison, all ones.
fn difference(select: &Select, actual: &[u32], expected: &[u32]) -> Option<String> {
    assert_eq!(actual.len(), expected.len());
    let list = 1 + select.capacity() as usize;
    let at = actual.iter().zip(expected).position(|(a, b)| a != b)?;
    Some(format!(
        "word {} of list {} is {}, not {} (entries: {}, not {})",
        at % list,
        at / list,
        actual[at],
        expected[at],
        actual[at / list * list],
        expected[at / list * list]
    ))
}

/// That a selection gives what a sort does, twice.
fn check_with(name: &str, gpu: &Gpu, select: &Select, tuning: &SelectTuning, scores: &[f32]) {
    let plan = select.plan_with(gpu, tuning).unwrap_or_else(|e| panic!("{name}: {e}"));
    let lists = plan.run_blocking(scores).unwrap_or_else(|e| panic!("{name}: {e}"));
    if let Some(difference) = difference(select, &lists, &expected(select, scores)) {
        panic!("{name}: {difference}\n{select:?} {:?}", plan.tile());
    }
    assert_eq!(lists, plan.run_blocking(scores).unwrap(), "{name}: the second time");
}

fn check(name: &str, gpu: &Gpu, select: &Select, scores: &[f32]) {
    check_with(name, gpu, select, &SelectTuning::default(), scores);
}

/// A default device, one with the driver's checks on, one without options.
fn devices() -> Vec<Gpu> {
    let checked = gpu_with(|o| o.checked = true);
    let minimal = gpu_with(|o| o.minimal = true);
    [gpu(), checked, minimal].into_iter().flatten().collect()
}

fn select(rows: u32, columns: u32, top_k: u32) -> Select {
    Select {
        rows,
        columns,
        top_k,
        ..Select::default()
    }
}

/// Normal scores with some of everything that is special.
fn drawn(r: &mut Random, n: usize) -> Vec<f32> {
    let special = [
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -f32::NAN,
        0.0,
        -0.0,
        1e-40,
        -1e-40,
    ];
    let draw = |r: &mut Random| match r.below(20) {
        0 => r.pick(&special),
        1..4 => r.range(-3, 3) as f32,
        _ => (0..4).map(|_| r.float(-1.0, 1.0)).sum(),
    };
    (0..n).map(|_| draw(r)).collect()
}

#[test]
fn rows_of_many_lengths() {
    for gpu in devices() {
        let mut r = Random::new(1);
        for columns in [
            1u32, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1000, 4096, 4100,
        ] {
            let rows = 3;
            let scores = drawn(&mut r, (rows * columns) as usize);
            for k in [1, 2, columns.div_ceil(3), columns, columns + 5, 4096] {
                check(&format!("{k} of {columns}"), &gpu, &select(rows, columns, k), &scores);
            }
        }
    }
}

#[test]
fn long_rows() {
    let Some(gpu) = gpu() else { return };
    let mut r = Random::new(2);
    for columns in [65536, 100_003] {
        let scores = drawn(&mut r, 2 * columns as usize);
        for k in [1, 2048, 4096, columns - 1] {
            check(&format!("{k} of {columns}"), &gpu, &select(2, columns, k), &scores);
        }
    }
}

#[test]
fn more_rows_than_a_dimension_of_a_grid() {
    let Some(gpu) = gpu() else { return };
    let scores = drawn(&mut Random::new(3), 70_000 * 8);
    check("70000 rows", &gpu, &select(70_000, 8, 3), &scores);
}

/// Rows that one kind of mistake each would show in.
fn peculiar(columns: usize) -> Vec<(&'static str, Vec<f32>)> {
    let row = |f: &dyn Fn(usize) -> f32| (0..columns).map(f).collect::<Vec<_>>();
    let bits = |f: &dyn Fn(u32) -> u32| row(&|c| f32::from_bits(f(c as u32)));
    let only = |place: usize, x: f32| row(&|c| if c == place { x } else { f32::NEG_INFINITY });
    vec![
        ("all equal", row(&|_| 1.5)),
        ("all 0 and -0", row(&|c| if c % 3 == 0 { 0.0 } else { -0.0 })),
        ("all -inf", row(&|_| f32::NEG_INFINITY)),
        ("all NaN", row(&|c| if c % 2 == 0 { f32::NAN } else { -f32::NAN })),
        ("all +inf", row(&|_| f32::INFINITY)),
        ("only the first", only(0, -2.0)),
        ("only the last", only(columns - 1, f32::MIN)),
        (
            "every seventh",
            row(&|c| if c % 7 == 3 { c as f32 } else { f32::NEG_INFINITY }),
        ),
        ("three values", row(&|c| [3.0, -1.0, 2.0][c * 5 % 3])),
        ("last bit", bits(&|c| 0x3f80_0000 + c.wrapping_mul(2_654_435_761) % 7)),
        (
            "last bit below 0",
            bits(&|c| 0xbf80_0000 + c.wrapping_mul(2_654_435_761) % 7),
        ),
        (
            "denormals",
            bits(&|c| ((c % 2) << 31) | (c.wrapping_mul(2_654_435_761) % 100)),
        ),
        ("all negative", row(&|c| -1.0 - ((c * 37) % 101) as f32)),
        (
            "greatest and least",
            row(&|c| [f32::MAX, f32::MIN, f32::MIN_POSITIVE, -f32::MIN_POSITIVE][c * 3 % 4]),
        ),
        ("any bits", bits(&|c| c.wrapping_mul(2_654_435_761) ^ (c << 7))),
        ("ascending", row(&|c| c as f32)),
        ("descending", row(&|c| -(c as f32))),
    ]
}

#[test]
fn ties_and_what_is_no_number() {
    for gpu in devices() {
        for columns in [1u32, 5, 40, 700, 5001] {
            let rows = peculiar(columns as usize);
            let scores: Vec<f32> = rows.iter().flat_map(|(_, row)| row.iter().copied()).collect();
            for k in [1, 2, columns.div_ceil(2), columns, columns + 1] {
                check(
                    &format!("{k} of {columns}"),
                    &gpu,
                    &select(rows.len() as u32, columns, k),
                    &scores,
                );
            }
        }
    }
}

#[test]
fn forced_columns() {
    for gpu in devices() {
        let mut r = Random::new(4);
        for columns in [1, 6, 64, 333, 4800] {
            let mut rows: Vec<f32> = peculiar(columns as usize)
                .into_iter()
                .flat_map(|(_, row)| row)
                .collect();
            // Causal rows: candidates end early, with holes before.
            for end in [0, 1, columns / 3, columns - 1] {
                let visible = |c: u32, hole: bool| c < end && !hole;
                rows.extend((0..columns).map(|c| match visible(c, r.one_in(4)) {
                    true => r.float(-1.0, 1.0),
                    false => f32::NEG_INFINITY,
                }));
            }
            for (k, first, last) in [
                (1, 1, 0),
                (1, 0, 1),
                (9, 3, 6),
                (40, 0, 17),
                (40, 30, 2),
                (5000, 2000, 2500),
            ] {
                let select = Select {
                    first,
                    last,
                    capacity: Some(k + 3),
                    ..select(rows.len() as u32 / columns, columns, k)
                };
                check(
                    &format!("{k} of {columns}, {first} and {last} forced"),
                    &gpu,
                    &select,
                    &rows,
                );
            }
        }
    }
}

#[test]
fn other_tiles() {
    let Some(gpu) = gpu() else { return };
    check_tiles(&gpu, &[(4, 4), (6, 1), (8, 1), (8, 4), (11, 1)], 125);
}

#[test]
fn other_tiles_in_subgroups() {
    let Some(gpu) = common::in_subgroups() else { return };
    check_tiles(&gpu, &[(6, 2)], 25);
}

/// Tiles with such bits of a digit and copies of a bin, so many in all.
fn check_tiles(gpu: &Gpu, bins: &[(u32, u32)], all: usize) {
    let mut r = Random::new(5);
    let mut tiles = 0;
    for threads in [1, 8, 32, 128, 256] {
        for &(radix_bits, replicas) in bins {
            for (mask_quads, unroll) in [(1, 1), (1, 3), (2, 2), (4, 1), (8, 2)] {
                let tile = SelectTile {
                    threads,
                    radix_bits,
                    replicas,
                    mask_quads,
                    unroll,
                };
                let columns = r.pick(&[3, 100, 1024, 2051]);
                let forced = r.below(2);
                let select = Select {
                    first: 2 * forced,
                    last: 3 * forced,
                    ..select(2, columns, 5 + r.below(columns))
                };
                let scores = drawn(&mut r, 2 * columns as usize);
                let tuning = SelectTuning { tile: Some(tile) };
                check_with(&format!("{tile:?}"), gpu, &select, &tuning, &scores);
                tiles += 1;
            }
        }
    }
    assert_eq!(tiles, all);
}

#[test]
fn tiles_that_other_devices_get() {
    let Some(gpu) = gpu() else { return };
    let class = common::class(&gpu);
    let mut r = Random::new(12);
    for software in [false, true] {
        let class = DeviceClass { software, ..class };
        for columns in [300, 900, 3000, 9001] {
            for rows in [1, 1000] {
                let tile = tile::choose(columns, rows, &class).unwrap();
                let select = Select {
                    first: 1,
                    last: 2,
                    ..select(3, columns, columns / 20)
                };
                let tuning = SelectTuning { tile: Some(tile) };
                let scores = drawn(&mut r, 3 * columns as usize);
                check_with(&format!("{tile:?}"), &gpu, &select, &tuning, &scores);
            }
        }
    }
}

#[test]
fn the_longest_rows_that_a_tile_takes() {
    let Some(gpu) = gpu() else { return };
    // Ties cost most. A software GPU would leave the shader, with a list half written, if its loops were longer than
    // the planner thinks.
    let plan = |columns: u32| select(1, columns, columns - 1).plan(&gpu).unwrap();
    let tile = plan(1 << 16).tile();
    let lengths = (16..100).map(|n| n * 4096);
    let columns = lengths.take_while(|&n| plan(n).tile() == tile).last().unwrap();
    println!("{columns} columns with {} invocations", tile.threads);
    check(
        "ties",
        &gpu,
        &select(1, columns, columns - 1),
        &vec![1.0; columns as usize],
    );
    let scores = drawn(&mut Random::new(13), columns as usize);
    check("drawn", &gpu, &select(1, columns, columns - 1), &scores);
}

#[test]
fn a_wrong_list_would_be_noticed() {
    let Some(gpu) = gpu() else { return };
    let select = Select {
        capacity: Some(12),
        ..select(2, 100, 10)
    };
    let scores = drawn(&mut Random::new(6), 200);
    let lists = select.plan(&gpu).unwrap().run_blocking(&scores).unwrap();
    let truth = expected(&select, &scores);
    assert_eq!(difference(&select, &lists, &truth), None);
    for word in 0..truth.len() {
        let mut corrupted = truth.clone();
        corrupted[word] ^= 1;
        assert!(difference(&select, &lists, &corrupted).is_some(), "word {word}");
    }
    // One score more or less, and another column is kept.
    let mut other = scores.clone();
    let weakest = *kept(&select, &scores[..100])
        .iter()
        .min_by(|&&a, &&b| scores[a as usize].total_cmp(&scores[b as usize]))
        .unwrap();
    other[weakest as usize] = f32::NEG_INFINITY;
    assert!(difference(&select, &lists, &expected(&select, &other)).is_some());
}

/// A device with bindings of so many bytes and so many workgroups in a dimension.
fn small(binding: u64, workgroups: u32) -> Option<Gpu> {
    let mut limits = common::limits()?;
    limits.max_storage_buffer_binding_size = binding;
    limits.max_compute_workgroups_per_dimension = workgroups;
    gpu_with(|o| o.limits = Some(limits))
}

#[test]
fn calls_larger_than_a_binding_or_a_grid_are_cut() {
    for (binding, workgroups, columns, k) in [(4096, 65535, 500, 3), (4096, 65535, 8, 401), (1 << 20, 3, 16, 4)] {
        let Some(gpu) = small(binding, workgroups) else { return };
        let select = select(40, columns, k);
        assert!(select.plan(&gpu).unwrap().parts() > 1);
        let scores = drawn(&mut Random::new(7), 40 * columns as usize);
        check(
            &format!("{binding} bytes, {workgroups} workgroups"),
            &gpu,
            &select,
            &scores,
        );
    }
}

fn upload(gpu: &Gpu, words: &[u32]) -> wgpu::Buffer {
    let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 4 * words.len() as u64,
        usage: USAGE,
        mapped_at_creation: false,
    });
    gpu.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(words));
    buffer
}

fn read(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<u32> {
    let staging = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
    gpu.queue().submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    bytemuck::pod_collect_to_vec(&staging.get_mapped_range(..).unwrap())
}

#[test]
fn tensors_anywhere_in_their_buffers() {
    for gpu in devices() {
        // Where columns are no multiple of 4, scores may start at any of them.
        for (columns, scores_at, lists_at) in [(9, 3, 5), (12, 4, 1), (12, 68, 64)] {
            let select = select(5, columns, 4);
            let scores = drawn(&mut Random::new(8), 5 * columns as usize);
            let before = vec![f32::INFINITY; scores_at];
            let words: Vec<u32> = before.iter().chain(&scores).map(|x| x.to_bits()).collect();
            let lists = upload(&gpu, &vec![u32::MAX; lists_at + 5 * 5 + 7]);
            let scores_buffer = upload(&gpu, &words);
            let tensors = SelectTensors {
                scores: Tensor::at(&scores_buffer, 4 * scores_at as u64),
                lists: Tensor::at(&lists, 4 * lists_at as u64),
            };
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            select.plan(&gpu).unwrap().encode(&mut encoder, &tensors).unwrap();
            gpu.queue().submit([encoder.finish()]);
            let found = read(&gpu, &lists);
            let (before, rest) = found.split_at(lists_at);
            let (inside, behind) = rest.split_at(5 * 5);
            assert_eq!(difference(&select, inside, &expected(&select, &scores)), None);
            assert!(before.iter().chain(behind).all(|&w| w == u32::MAX), "{found:?}");
        }
    }
}

/// What an extension makes of a list.
fn extended(e: &Extend, list: &[u32]) -> Vec<u32> {
    let mut list = list.to_vec();
    let mut count = list[0].min(e.capacity);
    for entry in e.from..e.to {
        if count < e.capacity && (count == 0 || entry > list[count as usize]) {
            count += 1;
            list[count as usize] = entry;
        }
    }
    list[0] = count;
    list
}

/// That all lists become what the host makes of them, and nothing around them changes.
fn check_extension(gpu: &Gpu, e: &Extend, lists: &[u32]) {
    let guard = 9;
    let words = [vec![u32::MAX; guard], lists.to_vec(), vec![u32::MAX; guard]].concat();
    let buffer = upload(gpu, &words);
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let tensor = Tensor::at(&buffer, 4 * guard as u64);
    e.plan(gpu).unwrap().encode(&mut encoder, tensor).unwrap();
    gpu.queue().submit([encoder.finish()]);
    let inside = lists
        .chunks_exact(1 + e.capacity as usize)
        .flat_map(|list| extended(e, list));
    let truth = [vec![u32::MAX; guard], inside.collect(), vec![u32::MAX; guard]].concat();
    assert_ne!(truth, words);
    assert_eq!(read(gpu, &buffer), truth, "{e:?}");
}

fn extend() -> Extend {
    Extend {
        lists: 200,
        capacity: 10,
        held: 6,
        from: 50,
        to: 53,
    }
}

/// Lists of up to `held` entries below about 55, so that some hold what is to be added already; then some that are wrong.
fn drawn_lists(r: &mut Random, e: &Extend) -> Vec<u32> {
    let mut lists = vec![];
    for n in 0..e.lists {
        let count = r.below(e.held + 1);
        let mut entries: Vec<u32> = (0..count).map(|_| r.below(55)).collect();
        entries.sort_unstable();
        entries.dedup();
        let mut list = vec![entries.len() as u32];
        list.extend(entries);
        list.resize(1 + e.capacity as usize, 0);
        match n % 8 {
            // More entries than promised, than there is room for, than there are at all; a last entry that is none.
            5 => list[0] = e.capacity - 1,
            6 => list[0] = r.pick(&[e.capacity, e.capacity + 1, u32::MAX]),
            7 => (list[0], list[1]) = (1, u32::MAX),
            _ => {}
        }
        lists.extend(list);
    }
    lists
}

#[test]
fn lists_are_extended_in_place() {
    for gpu in devices() {
        let mut r = Random::new(9);
        for e in [
            extend(),
            Extend {
                lists: 1,
                capacity: 1,
                held: 0,
                from: 0,
                to: 1,
            },
            Extend {
                held: 0,
                from: 0,
                to: 10,
                ..extend()
            },
        ] {
            check_extension(&gpu, &e, &drawn_lists(&mut r, &e));
        }
    }
}

#[test]
fn extensions_larger_than_a_binding_or_a_grid_are_cut() {
    for (binding, workgroups) in [(1024, 65535), (1 << 20, 1)] {
        let Some(gpu) = small(binding, workgroups) else { return };
        assert!(extend().plan(&gpu).unwrap().parts() > 1);
        check_extension(&gpu, &extend(), &drawn_lists(&mut Random::new(10), &extend()));
    }
}

#[test]
fn lists_with_room_are_selected_and_then_extended() {
    let Some(gpu) = gpu() else { return };
    let select = Select {
        capacity: Some(7),
        ..select(3, 50, 5)
    };
    let scores = drawn(&mut Random::new(11), 150);
    let lists = select.plan(&gpu).unwrap().run_blocking(&scores).unwrap();
    let e = Extend {
        lists: 3,
        capacity: 7,
        held: 5,
        from: 50,
        to: 52,
    };
    check_extension(&gpu, &e, &lists);
    assert_eq!(extended(&e, &lists[..8])[6..], [50, 51]);
}

#[test]
fn mistakes_are_errors_and_the_device_goes_on() {
    use common::mistakes::{assert_says, assert_unharmed, buffer, buffer_for, watched};
    let Some((gpu, complaints)) = watched() else { return };
    let good = || select(3, 8, 4);
    type Change = fn(&mut Select);
    let wrong: [(&str, Change, &[&str]); 10] = [
        ("no rows", |s| s.rows = 0, &["`rows` is 0", "1 to"]),
        ("too many rows", |s| s.rows = u32::MAX, &["`rows`"]),
        ("no columns", |s| s.columns = 0, &["`columns` is 0"]),
        ("k of 0", |s| s.top_k = 0, &["`top_k` is 0"]),
        ("k too large", |s| s.top_k = 1 << 29, &["`top_k`"]),
        ("too many first", |s| s.first = 5, &["`first` is 5", "0 to 4"]),
        (
            "too many last",
            |s| (s.first, s.last) = (2, 3),
            &["`last` is 3", "at most `top_k` − `first`, 2"],
        ),
        ("last overflows", |s| s.last = u32::MAX, &["`last`"]),
        (
            "too little room",
            |s| s.capacity = Some(3),
            &["`capacity` is 3", "`top_k`, 4"],
        ),
        ("too much room", |s| s.capacity = Some(u32::MAX), &["`capacity`"]),
    ];
    for (name, change, words) in wrong {
        let mut select = good();
        change(&mut select);
        assert_says(name, select.plan(&gpu), "Invalid", words);
    }
    let tile = good().plan(&gpu).unwrap().tile();
    type Retile = fn(&mut SelectTile);
    let tiles: [(&str, Retile, &str); 5] = [
        ("threads", |t| t.threads = 3, "Invalid"),
        ("digit", |t| t.radix_bits = 32, "Invalid"),
        ("replicas", |t| t.replicas = 0, "Invalid"),
        ("memory", |t| (t.radix_bits, t.replicas) = (12, 32), "Limit"),
        ("absurd threads", |t| t.threads = 1 << 16, "Invalid"),
    ];
    for (name, change, kind) in tiles {
        let mut tile = tile;
        change(&mut tile);
        assert_says(
            name,
            good().plan_with(&gpu, &SelectTuning { tile: Some(tile) }),
            kind,
            &["tile"],
        );
    }
    // A device with room for half as many as a tile may have, or as this one has.
    let threads = 1 << gpu.limits().max_compute_invocations_per_workgroup.min(1024).ilog2();
    let small = common::gpu_with(|options| {
        options.limits = Some(wgpu::Limits {
            max_compute_invocations_per_workgroup: threads / 2,
            ..gpu.limits().clone()
        });
    });
    let too_many = SelectTile { threads, ..tile };
    assert_says(
        "invocations",
        good().plan_with(&small.unwrap(), &SelectTuning { tile: Some(too_many) }),
        "Limit",
        &["max_compute_invocations_per_workgroup", &(threads / 2).to_string()],
    );
    let data = good().plan(&gpu).unwrap().run_blocking(&[0.0; 23]);
    assert_says(
        "scores too short",
        data,
        "Data",
        &["`scores`", "23 elements", "24 elements"],
    );

    let (scores, lists) = (buffer(&gpu, 128), buffer(&gpu, 128));
    let encode = |scores: Tensor<'_>, lists: Tensor<'_>| {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let tensors = SelectTensors { scores, lists };
        let result = good().plan(&gpu).unwrap().encode(&mut encoder, &tensors);
        gpu.queue().submit([encoder.finish()]);
        result
    };
    let (good_scores, good_lists) = (Tensor::from(&scores), Tensor::from(&lists));
    let tensor = |name, result: Result<(), Error>, words: &[&str]| assert_says(name, result, "Tensor", words);
    tensor(
        "odd offset",
        encode(Tensor::at(&scores, 4), good_lists),
        &["`scores`", "byte 4", "16"],
    );
    tensor(
        "odd list offset",
        encode(good_scores, Tensor::at(&lists, 2)),
        &["`lists`", "byte 2", "4"],
    );
    tensor(
        "scores end",
        encode(Tensor::at(&scores, 48), good_lists),
        &["`scores`", "128 bytes", "96"],
    );
    tensor(
        "lists end",
        encode(good_scores, Tensor::at(&lists, 72)),
        &["`lists`", "60"],
    );
    tensor(
        "one buffer",
        encode(good_scores, good_scores),
        &["`lists`", "same buffer as `scores`"],
    );
    let uniform = buffer_for(&gpu, 128, wgpu::BufferUsages::UNIFORM);
    tensor("usage", encode(good_scores, (&uniform).into()), &["`lists`", "STORAGE"]);
    assert!(encode(good_scores, good_lists).is_ok());
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn mistakes_in_extensions_are_errors() {
    use common::mistakes::{assert_says, assert_unharmed, buffer, watched};
    let Some((gpu, complaints)) = watched() else { return };
    type Change = fn(&mut Extend);
    let wrong: [(&str, Change, &[&str]); 7] = [
        ("no lists", |e| e.lists = 0, &["`lists` is 0"]),
        ("no room", |e| e.capacity = 0, &["`capacity` is 0"]),
        ("nothing to add", |e| e.to = e.from, &["`from` is 50", "below `to`, 50"]),
        ("backwards", |e| e.to = 3, &["`from` is 50", "below `to`, 3"]),
        ("too far", |e| e.to = u32::MAX, &["`to`"]),
        ("too full", |e| e.held = 8, &["`held` is 8", "10 − 3"]),
        ("too many", |e| (e.held, e.to) = (0, 61), &["`held` is 0", "10 − 11"]),
    ];
    for (name, change, words) in wrong {
        let mut e = extend();
        change(&mut e);
        assert_says(name, e.plan(&gpu), "Invalid", words);
    }
    let lists = buffer(&gpu, 200 * 11 * 4);
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let plan = extend().plan(&gpu).unwrap();
    let short = plan.encode(&mut encoder, Tensor::at(&lists, 4));
    assert_says("lists end", short, "Tensor", &["`lists`", "8800 bytes"]);
    let odd = plan.encode(&mut encoder, Tensor::at(&lists, 1));
    assert_says("odd offset", odd, "Tensor", &["`lists`", "byte 1"]);
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn what_cannot_be_cut_is_refused_with_the_limit() {
    use common::mistakes::assert_says;
    let Some(gpu) = small(4096, 65535) else { return };
    let limit = "max_storage_buffer_binding_size";
    assert_says(
        "a row",
        select(1, 1200, 4).plan(&gpu),
        "Limit",
        &["a row of tensor `scores`", limit],
    );
    assert_says(
        "a list",
        select(1, 8, 1200).plan(&gpu),
        "Limit",
        &["a list of tensor `lists`", limit],
    );
    let list = Extend {
        capacity: 1200,
        ..extend()
    };
    assert_says("a list", list.plan(&gpu), "Limit", &["a list of tensor `lists`", limit]);
}

#[test]
fn rows_too_long_for_the_loops_of_a_software_gpu_are_refused() {
    use common::mistakes::assert_says;
    let Some(gpu) = gpu() else { return };
    let plan = select(1, 1 << 24, 1).plan(&gpu);
    match gpu.info().device_type {
        wgpu::DeviceType::Cpu => assert_says("long rows", plan, "Unsupported", &["iterations"]),
        _ => assert!(plan.is_ok(), "{plan:?}"),
    }
}
