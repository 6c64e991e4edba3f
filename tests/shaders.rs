//! Every shader that a planner can pick, without a GPU: assembled, validated, translated for every back end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use wgpu_attention::dense::tile::{self, DeviceClass};
use wgpu_attention::dense::variant_of;
use wgpu_attention::measure::Probe;
use wgpu_attention::ops::merge::variant::MergeVariant;
use wgpu_attention::shader::{SOURCES, Variant};
use wgpu_attention::{Bias, Broadcast, Custom, CustomData, CustomElement, DType, Dense, Weighting};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Workgroup memory in KiB and invocations of the kinds of device there are.
fn classes() -> Vec<DeviceClass> {
    let mut classes = vec![];
    for software in [false, true] {
        for kib in [16, 32, 48] {
            for invocations in [128, 256, 1024] {
                classes.push(DeviceClass {
                    workgroup_memory: kib << 10,
                    invocations,
                    software,
                });
            }
        }
    }
    classes
}

/// What every WebGPU device has.
const SMALLEST: DeviceClass = DeviceClass {
    workgroup_memory: 16 << 10,
    invocations: 256,
    software: false,
};

type Change = fn(&mut Dense);

/// Options that change the code, one at a time.
const OPTIONS: &[(&str, Change)] = &[
    ("softcap", |p| p.softcap = Some(30.0)),
    ("sigmoid", |p| {
        p.weighting = Weighting::Sigmoid { bias: None };
        p.sinks = false;
        p.lse = false;
    }),
    ("bias f32", |p| p.bias = bias(DType::F32)),
    ("bias f16", |p| p.bias = bias(DType::F16)),
    ("bias bf16", |p| p.bias = bias(DType::BF16)),
    ("mask", |p| p.mask = Some(Broadcast::FULL)),
    ("kv_len", |p| p.kv_len = true),
    ("documents", |p| p.documents = Some(3)),
    ("alibi", |p| p.alibi = true),
    ("sinks", |p| p.sinks = p.weighting == Weighting::Softmax),
    ("lse", |p| p.lse = p.weighting == Weighting::Softmax),
    ("custom score", |p| {
        p.custom.get_or_insert_default().score = Some(SCORE.into())
    }),
    ("custom mask", |p| {
        p.custom.get_or_insert_default().mask = Some(MASK.into())
    }),
    ("custom data", |p| p.custom = Some(custom_data())),
    ("unaligned", |p| p.unaligned = true),
    ("f16", |p| p.dtype = DType::F16),
    ("bf16", |p| p.dtype = DType::BF16),
    ("output f32", |p| p.output_dtype = Some(DType::F32)),
    ("output f16", |p| p.output_dtype = Some(DType::F16)),
    ("output bf16", |p| p.output_dtype = Some(DType::BF16)),
    ("groups", |p| p.kv_heads = Some(2)),
];

const SCORE: &str = "fn score(s: f32, at: Position) -> f32 { return s - 0.5 * f32(at.query_pos - at.key_pos); }";
const MASK: &str = "fn mask(at: Position) -> bool { return at.key % 2u == 0u; }";

fn bias(dtype: DType) -> Option<Bias> {
    Some(Bias {
        dtype,
        shape: Broadcast::FULL,
    })
}

fn custom_data() -> Custom {
    let elements = [CustomElement::F32, CustomElement::U32, CustomElement::I32];
    Custom {
        score: Some(
            "fn score(s: f32, at: Position) -> f32 { return s + a0[at.head] + f32(a1[at.key]) * f32(a2[0]); }".into(),
        ),
        mask: None,
        data: elements
            .iter()
            .enumerate()
            .map(|(n, element)| CustomData {
                name: format!("a{n}"),
                element: *element,
            })
            .collect(),
    }
}

/// Few and many queries: both kernels.
const QUERIES: [u32; 2] = [1, 300];

fn problem(queries: u32) -> Dense {
    Dense {
        heads: 8,
        queries,
        keys: 300,
        ..Dense::default()
    }
}

/// The variants of one problem on one kind of device: whole, and one of several splits where that is a thing.
fn add(variants: &mut BTreeMap<String, Variant>, p: &Dense, class: &DeviceClass) {
    let choice = tile::choose(p, class).unwrap_or_else(|error| panic!("{error}: {p:?} on {class:?}"));
    for partial in [false, true] {
        if partial && matches!(choice, tile::KernelChoice::Prefill(_)) {
            continue;
        }
        let variant = Variant::Dense(variant_of(p, choice, partial));
        // Labels leave out what is in the code already; the code is the identity.
        variants.insert(variant.wgsl(), variant);
    }
}

/// Everything the planners can reach, up to options in threes.
fn reachable() -> BTreeMap<String, Variant> {
    let mut variants = BTreeMap::new();
    for queries in QUERIES {
        for class in classes() {
            for head_dim in [1, 3, 4, 40, 64, 65, 128, 256] {
                for dtype in DTYPES {
                    add(
                        &mut variants,
                        &Dense {
                            head_dim,
                            dtype,
                            ..problem(queries)
                        },
                        &class,
                    );
                }
            }
        }
        for (n, (_, first)) in OPTIONS.iter().enumerate() {
            for (_, second) in &OPTIONS[n..] {
                for head_dim in [40, 65] {
                    let mut p = Dense {
                        head_dim,
                        ..problem(queries)
                    };
                    first(&mut p);
                    second(&mut p);
                    if p.weighting != Weighting::Softmax {
                        (p.sinks, p.lse) = (false, false);
                    }
                    add(&mut variants, &p, &SMALLEST);
                }
            }
        }
        add(
            &mut variants,
            &Dense {
                head_dim: 64,
                value_dim: Some(96),
                ..problem(queries)
            },
            &SMALLEST,
        );
    }
    for (dtype, output_dtype) in DTYPES.iter().flat_map(|a| DTYPES.map(|b| (*a, b))) {
        for (vector_inputs, vector_output) in [(true, true), (true, false), (false, false)] {
            for (additive, lse) in [(true, false), (false, false), (false, true)] {
                let merge = MergeVariant {
                    dim: if vector_inputs { 64 } else { 65 },
                    dtype,
                    vector_inputs,
                    output_dtype,
                    vector_output,
                    additive,
                    lse,
                };
                let variant = Variant::Merge(merge);
                variants.insert(variant.wgsl(), variant);
            }
        }
    }
    let others = [Probe::Fma, Probe::Copy, Probe::Read].map(Variant::Probe);
    for variant in others.into_iter().chain([Variant::CopyWords]) {
        variants.insert(variant.wgsl(), variant);
    }
    variants
}

/// All checks; conversions between packed f16 and f32 are core WGSL, though naga counts them as a capability.
fn validator() -> Validator {
    let capabilities = Capabilities::default() | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    Validator::new(ValidationFlags::all(), capabilities)
}

fn validated(label: &str, wgsl: &str) -> (naga::Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(wgsl).unwrap_or_else(|e| panic!("{label}: {}", e.emit_to_string(wgsl)));
    let info = validator()
        .validate(&module)
        .unwrap_or_else(|e| panic!("{label}: {}", e.emit_to_string(wgsl)));
    (module, info)
}

fn translate(label: &str, module: &naga::Module, info: &ModuleInfo, variant: &Variant) {
    use naga::back::{glsl, hlsl, msl, spv};
    let words = spv::write_vec(module, info, &spv::Options::default(), None);
    assert!(!words.unwrap_or_else(|e| panic!("{label}: SPIR-V: {e}")).is_empty());

    let options = msl::Options {
        lang_version: (2, 4),
        ..Default::default()
    };
    let text = msl::write_string(module, info, &options, &msl::PipelineOptions::default());
    assert!(!text.unwrap_or_else(|e| panic!("{label}: MSL: {e}")).0.is_empty());

    let options = hlsl::Options::default();
    let pipeline_options = hlsl::PipelineOptions::default();
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &pipeline_options)
        .write(module, info, None)
        .unwrap_or_else(|e| panic!("{label}: HLSL: {e}"));
    assert!(!text.is_empty());

    // As wgpu's OpenGL back end does: uniform and storage buffers numbered apart from each other.
    let mut next = [0u8; 2];
    let mut options = glsl::Options {
        version: glsl::Version::new_gles(310),
        ..Default::default()
    };
    for binding in variant.spec().bindings() {
        let kind = usize::from(binding.number == 0);
        let resource = naga::ResourceBinding {
            group: 0,
            binding: binding.number,
        };
        options.binding_map.insert(resource, next[kind]);
        next[kind] += 1;
    }
    let pipeline_options = glsl::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: "main".into(),
        multiview: None,
    };
    let policies = naga::proc::BoundsCheckPolicies::default();
    let mut text = String::new();
    glsl::Writer::new(&mut text, module, info, &options, &pipeline_options, policies)
        .and_then(|mut writer| writer.write())
        .unwrap_or_else(|e| panic!("{label}: GLSL: {e}"));
    assert!(!text.is_empty());
}

/// Bytes of the workgroup variables, each at a multiple of 16, as drivers lay them out.
fn workgroup_bytes(module: &naga::Module) -> u32 {
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    let variables = module.global_variables.iter().map(|(_, v)| v);
    variables
        .filter(|v| v.space == naga::AddressSpace::WorkGroup)
        .map(|v| layouter[v.ty].size.next_multiple_of(16))
        .sum()
}

/// That the spec's bindings are the module's.
fn assert_bindings(label: &str, module: &naga::Module, variant: &Variant) {
    use wgpu_attention::shader::BindingKind;
    let mut declared = BTreeMap::new();
    for (_, variable) in module.global_variables.iter() {
        if let Some(binding) = &variable.binding {
            assert_eq!(binding.group, 0, "{label}");
            declared.insert(binding.binding, variable.space);
        }
    }
    for binding in variant.spec().bindings() {
        let writable = naga::StorageAccess::LOAD | naga::StorageAccess::STORE;
        let wanted = match binding.kind {
            BindingKind::Uniform => naga::AddressSpace::Uniform,
            BindingKind::Read => naga::AddressSpace::Storage {
                access: naga::StorageAccess::LOAD,
            },
            BindingKind::Write => naga::AddressSpace::Storage { access: writable },
        };
        assert_eq!(
            declared.remove(&binding.number),
            Some(wanted),
            "{label}: binding {}",
            binding.number
        );
    }
    assert!(declared.is_empty(), "{label}: {declared:?} not in the spec");
}

#[test]
fn every_reachable_variant_is_valid_and_translates() {
    let variants = reachable();
    for (wgsl, variant) in &variants {
        let label = variant.spec().label();
        let (module, info) = validated(&label, wgsl);
        assert_bindings(&label, &module, variant);
        assert_eq!(variant.spec().workgroup_bytes(), workgroup_bytes(&module), "{label}");
        translate(&label, &module, &info, variant);
    }
    println!("{} variants", variants.len());
    assert!(variants.len() > 700, "{} variants", variants.len());
}

#[test]
fn every_source_is_reached_and_none_is_forgotten() {
    let text: BTreeMap<_, _> = SOURCES.iter().copied().collect();
    let mut reached = BTreeSet::new();
    let mut todo = vec![];
    for variant in reachable().values() {
        todo.push(variant.spec().kernel());
        todo.extend(variant.spec().pieces());
    }
    while let Some(name) = todo.pop() {
        if reached.insert(name) {
            let source = text.get(name).unwrap_or_else(|| panic!("no source `{name}`"));
            todo.extend(source.lines().filter_map(|l| l.strip_prefix("#import ")).map(str::trim));
        }
    }
    let listed: BTreeSet<_> = text.keys().copied().collect();
    assert_eq!(listed, reached, "sources that no variant reaches");

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut files = BTreeSet::new();
    for folder in std::fs::read_dir(&root).unwrap() {
        let folder = folder.unwrap().path();
        for file in std::fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().with_extension("");
            files.insert(name.to_str().unwrap().replace('\\', "/"));
        }
    }
    assert_eq!(files, listed.iter().map(|s| s.to_string()).collect());
    let names: Vec<_> = SOURCES.iter().map(|(name, _)| *name).collect();
    assert!(names.is_sorted(), "SOURCES is sorted by name");
}

#[test]
fn sources_know_no_directives_but_import_and_unroll() {
    for (name, text) in SOURCES {
        for line in text.lines().filter(|l| l.trim_start().starts_with('#')) {
            let known = line.starts_with("#import ") || line.trim() == "#unroll";
            assert!(known, "{name}: {line}");
        }
        assert!(text.starts_with("//"), "{name} begins with what it is for");
    }
}

#[test]
fn the_smallest_device_runs_every_head_size() {
    for head_dim in 1..=256 {
        for value_dim in 1..=256 {
            for queries in QUERIES {
                for heads in [1, 8] {
                    let p = Dense {
                        head_dim,
                        value_dim: Some(value_dim),
                        heads,
                        kv_heads: Some(1),
                        ..problem(queries)
                    };
                    let choice = tile::choose(&p, &SMALLEST).unwrap_or_else(|error| panic!("{error}: {p:?}"));
                    let (bytes, threads) = match choice {
                        tile::KernelChoice::Prefill(t) => (t.workgroup_bytes(value_dim), t.threads()),
                        tile::KernelChoice::Decode(t) => (t.workgroup_bytes(), t.threads()),
                        tile::KernelChoice::DecodeSerial(t) => (0, t.threads),
                    };
                    assert!(
                        bytes <= 16 << 10 && threads <= 256,
                        "{bytes} bytes, {threads} threads: {choice:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_wrong_shader_would_be_noticed() {
    let variant = Variant::CopyWords;
    let broken = variant
        .wgsl()
        .replace("words_in[params.start + n]", "words_in[params.start + n] + 1.0");
    assert!(
        naga::front::wgsl::parse_str(&broken).is_err() || {
            let module = naga::front::wgsl::parse_str(&broken).unwrap();
            validator().validate(&module).is_err()
        }
    );
}
