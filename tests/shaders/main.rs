//! Every shader that a planner can pick, without a GPU: assembled, validated, translated for every back end.

mod dense;
mod linear;
mod topk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use wgpu_attention::DType;
use wgpu_attention::dense::tile::DeviceClass;
use wgpu_attention::measure::Probe;
use wgpu_attention::ops::merge::variant::MergeVariant;
use wgpu_attention::shader::{SOURCES, Spec, Variant};
use wgpu_attention::tier::{Abilities, MatrixElements, RightElements, Tier};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Workgroup memory in KiB and invocations of the kinds of device there are.
fn classes() -> Vec<DeviceClass> {
    let mut classes = vec![];
    for software in [false, true] {
        for kib in [16, 32, 48] {
            for invocations in [128, 256, 1024] {
                classes.push(DeviceClass {
                    workgroup_memory: kib * 1024,
                    invocations,
                    software,
                    processors: if software { 4 } else { 0 },
                    ..SMALLEST
                });
            }
        }
    }
    classes
}

/// Kinds of device with cooperative matrices: tensor cores, simdgroup matrices, subgroups of open size, and a processor that
/// emulates them.
fn matrix_classes() -> Vec<DeviceClass> {
    let right = |run, classes, sharers| {
        Some(RightElements {
            run,
            classes,
            sharers,
            turned: true,
        })
    };
    let elements = |each, run, classes, sharers, right| {
        Some(MatrixElements {
            each,
            run,
            classes,
            sharers,
            right,
        })
    };
    let kinds = [
        (16, (32, 32), 48_u32, false, false, None),
        (16, (32, 32), 48, false, false, elements(8, 4, 2, 3, right(4, 2, 3))),
        (16, (32, 64), 32, false, false, None),
        (8, (32, 32), 32, false, true, None),
        (8, (8, 8), 32, true, false, None),
        (8, (8, 8), 32, true, false, elements(8, 1, 8, 7, right(1, 8, 7))),
    ];
    type Kind = (u32, (u32, u32), u32, bool, bool, Option<MatrixElements>);
    let class = |(edge, subgroups, kib, software, scalar_matrices, elements): Kind| DeviceClass {
        workgroup_memory: kib * 1024,
        invocations: 1024,
        software,
        processors: if software { 4 } else { 0 },
        abilities: Abilities {
            subgroups: Some(subgroups),
            half: true,
            subgroup_barriers: subgroups.0 == subgroups.1,
            matrices: Some(edge),
            elements,
        },
        tier: Some(Tier::Cooperative),
        scalar_matrices,
    };
    kinds.map(class).to_vec()
}

/// Kinds of device with subgroups: of each size, and of sizes that leave open whether they hold the lanes of a row; with
/// the tier forced and left to the planner.
fn subgroup_classes() -> Vec<DeviceClass> {
    let sizes = [
        (4, 4),
        (8, 8),
        (16, 16),
        (32, 32),
        (64, 64),
        (128, 128),
        (8, 32),
        (4, 64),
    ];
    let mut classes = vec![];
    for subgroups in sizes {
        for (software, tier) in [
            (false, None),
            (false, Some(Tier::Subgroup)),
            (true, Some(Tier::Subgroup)),
            (true, None),
        ] {
            classes.push(DeviceClass {
                software,
                abilities: Abilities {
                    subgroups: Some(subgroups),
                    half: subgroups.1 != 64,
                    subgroup_barriers: false,
                    matrices: None,
                    elements: None,
                },
                tier,
                ..SMALLEST
            });
        }
    }
    classes
}

/// What every WebGPU device has.
const SMALLEST: DeviceClass = DeviceClass {
    workgroup_memory: 16 << 10,
    invocations: 256,
    software: false,
    processors: 0,
    abilities: Abilities::NONE,
    tier: None,
    scalar_matrices: false,
};

/// The merge of partial results and the kernels that have no options, by their code.
fn others() -> BTreeMap<String, Variant> {
    let mut variants = BTreeMap::new();
    for (dtype, output_dtype) in DTYPES.iter().flat_map(|a| DTYPES.map(|b| (*a, b))) {
        for (vector_inputs, vector_output) in [(true, true), (true, false), (false, false)] {
            for (additive, lse, lanes) in [
                (true, false, 1),
                (false, false, 1),
                (false, true, 1),
                (true, false, 4),
                (false, true, 4),
            ] {
                let merge = MergeVariant {
                    dim: if vector_inputs { 64 } else { 65 },
                    dtype,
                    vector_inputs,
                    output_dtype,
                    vector_output,
                    additive,
                    lse,
                    lanes,
                };
                let variant = Variant::Merge(merge);
                variants.insert(variant.wgsl(), variant);
            }
        }
    }
    let mut probes = vec![Probe::Fma, Probe::FmaHalf, Probe::Copy, Probe::Read];
    probes.extend([(8, 32), (16, 128)].map(|(edge, threads)| Probe::Multiply { edge, threads }));
    probes.extend([(8, 8), (16, 32)].map(|(edge, threads)| Probe::Places { edge, threads }));
    let probes = probes.into_iter().map(Variant::Probe);
    for variant in probes.chain([Variant::CopyWords]) {
        variants.insert(variant.wgsl(), variant);
    }
    variants
}

/// Everything the planners can reach.
fn reachable() -> BTreeMap<String, Variant> {
    [dense::reachable(), linear::reachable(), topk::reachable(), others()]
        .into_iter()
        .flatten()
        .collect()
}

/// All checks, and what the variant's tier has beyond core WGSL; conversions between packed f16 and f32 are core, though
/// naga counts them as a capability.
fn validator(spec: &dyn Spec) -> Validator {
    let mut capabilities = Capabilities::default() | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    if spec.tier() >= Tier::Subgroup {
        capabilities |= Capabilities::SUBGROUP;
    }
    if spec.pieces().contains(&"shared/strip_subgroup") {
        capabilities |= Capabilities::SUBGROUP_BARRIER;
    }
    for extension in spec.enables() {
        capabilities |= match extension {
            "f16" => Capabilities::SHADER_FLOAT16,
            "wgpu_cooperative_matrix" => Capabilities::COOPERATIVE_MATRIX,
            other => panic!("{}: enables `{other}`", spec.label()),
        };
    }
    Validator::new(ValidationFlags::all(), capabilities)
}

fn validated(spec: &dyn Spec, wgsl: &str) -> (naga::Module, ModuleInfo) {
    let label = spec.label();
    let module = naga::front::wgsl::parse_str(wgsl).unwrap_or_else(|e| panic!("{label}: {}", e.emit_to_string(wgsl)));
    let info = validator(spec)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{label}: {}", e.emit_to_string(wgsl)));
    (module, info)
}

fn translate(label: &str, module: &naga::Module, info: &ModuleInfo, variant: &Variant) {
    use naga::back::{glsl, hlsl, msl, spv};
    let spec = variant.spec();
    let options = spv::Options {
        lang_version: (1, 3),
        ..Default::default()
    };
    let words = spv::write_vec(module, info, &options, None);
    assert!(!words.unwrap_or_else(|e| panic!("{label}: SPIR-V: {e}")).is_empty());

    let options = msl::Options {
        lang_version: (2, 4),
        ..Default::default()
    };
    let text = msl::write_string(module, info, &options, &msl::PipelineOptions::default());
    assert!(!text.unwrap_or_else(|e| panic!("{label}: MSL: {e}")).0.is_empty());

    // HLSL has no cooperative matrices.
    if spec.tier() == Tier::Cooperative {
        return;
    }
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_2,
        ..Default::default()
    };
    let pipeline_options = hlsl::PipelineOptions::default();
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &pipeline_options)
        .write(module, info, None)
        .unwrap_or_else(|e| panic!("{label}: HLSL: {e}"));
    assert!(!text.is_empty());

    // wgpu's OpenGL back end has the portable tier only.
    if spec.tier() != Tier::Portable {
        return;
    }
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

/// That matrices lie at multiples of 16 bytes in workgroup memory whatever the order of its variables: all are that long.
fn assert_alignment(label: &str, module: &naga::Module) {
    let matrices = |(_, ty): (_, &naga::Type)| matches!(ty.inner, naga::TypeInner::CooperativeMatrix { .. });
    if !module.types.iter().any(matrices) {
        return;
    }
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    for (_, variable) in module.global_variables.iter() {
        let size = layouter[variable.ty].size;
        let shared = variable.space == naga::AddressSpace::WorkGroup;
        assert!(
            !shared || size.is_multiple_of(16),
            "{label}: {:?} takes {size} bytes",
            variable.name
        );
    }
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
        let (module, info) = validated(variant.spec(), wgsl);
        assert_bindings(&label, &module, variant);
        assert_eq!(variant.spec().workgroup_bytes(), workgroup_bytes(&module), "{label}");
        assert_alignment(&label, &module);
        translate(&label, &module, &info, variant);
    }
    let linear = variants.values().filter(|v| matches!(v, Variant::Linear(_))).count();
    println!("{} variants, {linear} of the linear op", variants.len());
    assert!(
        variants.len() - linear > 700 && linear > 700,
        "{linear} of {}",
        variants.len()
    );
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
            let known =
                line.starts_with("#import ") || line.trim() == "#unroll" || line.trim().starts_with("#unroll if ");
            assert!(known, "{name}: {line}");
        }
        assert!(text.starts_with("//"), "{name} begins with what it is for");
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
            validator(variant.spec()).validate(&module).is_err()
        }
    );
}
