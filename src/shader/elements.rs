//! Elements of cooperative matrices, which WGSL has no way to get at and SPIR-V has.
//!
//! A kernel calls the functions of `shared/elements.wgsl`. Here it is translated to SPIR-V, and those functions get their bodies:
//! `OpCompositeExtract` and `OpCompositeInsert`, element by element, of those that an invocation has of a matrix, or two by two where
//! a word has two halves. wgpu takes the result on Vulkan, for devices with the feature `PASSTHROUGH_SHADERS`.

use std::collections::HashMap;

use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

use super::Binding;

/// Whether a module calls for elements.
pub(super) fn wanted(wgsl: &str) -> bool {
    wgsl.contains("\nfn elements_of(")
}

/// A module's entry point as SPIR-V, with bindings numbered as wgpu does it on Vulkan: without gaps. With `loads_stay` nothing says
/// that the kernel does not write what it reads ([`super::Spec::loads_stay`]). With `checked` indices into buffers and arrays are
/// kept in their bounds.
///
/// # Errors
/// What is wrong with the text, which is the library's own but for a caller's code in it.
pub(super) fn spirv(wgsl: &str, bindings: &[Binding], loads_stay: bool, checked: bool) -> Result<Vec<u32>, String> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|e| e.emit_to_string(wgsl))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .subgroup_stages(ShaderStages::all())
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|e| e.emit_to_string(wgsl))?;
    let mut numbers: Vec<u32> = bindings.iter().map(|b| b.number).collect();
    numbers.sort_unstable();
    let place = |(n, number): (usize, &u32)| {
        let binding = naga::ResourceBinding {
            group: 0,
            binding: *number,
        };
        let info = spv::BindingInfo {
            descriptor_set: 0,
            binding: n as u32,
            binding_array_size: None,
        };
        (binding, info)
    };
    let policy = match checked {
        true => BoundsCheckPolicy::Restrict,
        false => BoundsCheckPolicy::Unchecked,
    };
    let options = spv::Options {
        lang_version: (1, 6),
        // With names, which tell the functions.
        flags: spv::WriterFlags::DEBUG,
        capabilities: None,
        force_loop_bounding: checked,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        bounds_check_policies: BoundsCheckPolicies {
            index: policy,
            buffer: policy,
            image_load: policy,
            binding_array: policy,
        },
        binding_map: numbers.iter().enumerate().map(place).collect(),
        ..Default::default()
    };
    let entry = spv::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: "main".into(),
    };
    let words = spv::write_vec(&module, &info, &options, Some(&entry)).map_err(|e| e.to_string())?;
    let words = with_bodies(&words)?;
    Ok(if loads_stay { without_promises(&words) } else { words })
}

/// A module without the promise that it writes nothing to what it reads.
fn without_promises(words: &[u32]) -> Vec<u32> {
    let promises = |code: u32, words: &[u32]| code == op::DECORATE && words[2] == op::NON_WRITABLE;
    let kept = instructions(&words[HEADER..]).filter(|(code, words)| !promises(*code, words));
    let mut out = words[..HEADER].to_vec();
    out.extend(kept.flat_map(|(_, words)| words));
    out
}

/// Opcodes of SPIR-V.
mod op {
    pub const NAME: u32 = 5;
    pub const EXT_INST_IMPORT: u32 = 11;
    pub const EXT_INST: u32 = 12;
    pub const TYPE_INT: u32 = 21;
    pub const TYPE_FLOAT: u32 = 22;
    pub const TYPE_VECTOR: u32 = 23;
    pub const TYPE_ARRAY: u32 = 28;
    pub const CONSTANT: u32 = 43;
    pub const FUNCTION: u32 = 54;
    pub const FUNCTION_PARAMETER: u32 = 55;
    pub const FUNCTION_END: u32 = 56;
    pub const DECORATE: u32 = 71;
    pub const COMPOSITE_CONSTRUCT: u32 = 80;
    pub const COMPOSITE_EXTRACT: u32 = 81;
    pub const COMPOSITE_INSERT: u32 = 82;
    pub const F_CONVERT: u32 = 115;
    pub const BITCAST: u32 = 124;
    pub const F_ADD: u32 = 129;
    pub const F_MUL: u32 = 133;
    pub const LABEL: u32 = 248;
    pub const BRANCH: u32 = 249;
    pub const RETURN_VALUE: u32 = 254;

    /// An instruction of `GLSL.std.450`.
    pub const F_ABS: u32 = 4;
    /// A decoration.
    pub const NON_WRITABLE: u32 = 24;
}

/// Words before the first instruction.
const HEADER: usize = 5;
/// Which of them is one more than the largest id.
const BOUND: usize = 3;

/// The instructions of a module or of a part of it: each its opcode and all of its words.
fn instructions(words: &[u32]) -> impl Iterator<Item = (u32, &[u32])> {
    let mut rest = words;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let length = ((first >> 16) as usize).clamp(1, rest.len());
        let (instruction, after) = rest.split_at(length);
        rest = after;
        Some((first & 0xffff, instruction))
    })
}

/// The functions whose bodies are written here.
#[derive(Clone, Copy, PartialEq)]
enum Marker {
    Elements,
    RightElements,
    Sums,
    Factors,
    FactorsTimes,
    RightWords,
    TurnedOver,
    MagnitudesPlus,
}

impl Marker {
    fn named(name: &str) -> Option<Self> {
        match name {
            "elements_of" => Some(Marker::Elements),
            "right_elements_of" => Some(Marker::RightElements),
            "sums_of" => Some(Marker::Sums),
            "factors_of" => Some(Marker::Factors),
            "factors_times" => Some(Marker::FactorsTimes),
            "right_of" => Some(Marker::RightWords),
            "turned_over" => Some(Marker::TurnedOver),
            "magnitudes_plus" => Some(Marker::MagnitudesPlus),
            _ => None,
        }
    }
}

fn name(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    String::from_utf8_lossy(&bytes.take_while(|byte| *byte != 0).collect::<Vec<_>>()).into_owned()
}

/// What of a module the bodies refer to.
#[derive(Default)]
struct Types {
    f16: u32,
    f32: u32,
    u32: u32,
    /// Two f16.
    halves: u32,
    /// The instructions of `GLSL.std.450`.
    further: u32,
    /// Lengths of arrays, by their types.
    arrays: HashMap<u32, u32>,
    /// Elements that an invocation has of a matrix: as many as `elements_of` gives.
    elements: u32,
}

fn with_bodies(words: &[u32]) -> Result<Vec<u32>, String> {
    let mut markers = HashMap::new();
    let mut numbers = HashMap::new();
    let mut types = Types::default();
    for (code, words) in instructions(&words[HEADER..]) {
        match code {
            op::NAME => {
                markers.extend(Marker::named(&name(&words[2..])).map(|marker| (words[1], marker)));
            }
            op::EXT_INST_IMPORT => types.further = words[1],
            op::TYPE_FLOAT if words[2] == 16 => types.f16 = words[1],
            op::TYPE_FLOAT if words[2] == 32 => types.f32 = words[1],
            op::TYPE_INT if words[2..] == [32, 0] => types.u32 = words[1],
            op::TYPE_VECTOR if words[2..] == [types.f16, 2] => types.halves = words[1],
            op::CONSTANT => {
                numbers.insert(words[2], words[3]);
            }
            op::TYPE_ARRAY => {
                types.arrays.extend(numbers.get(&words[3]).map(|n| (words[1], *n)));
            }
            op::FUNCTION if markers.get(&words[2]) == Some(&Marker::Elements) => {
                types.elements = types.arrays.get(&words[1]).copied().unwrap_or(0);
            }
            _ => {}
        }
    }
    let mut out = words[..HEADER].to_vec();
    let mut bound = words[BOUND];
    // A type is declared once.
    let of_halves = |m: &Marker| matches!(m, Marker::RightWords | Marker::MagnitudesPlus);
    let declares = types.halves == 0 && types.f16 != 0 && markers.values().any(of_halves);
    if declares {
        types.halves = bound;
        bound += 1;
    }
    let mut function: Vec<u32> = vec![];
    let mut marker = None;
    for (code, words) in instructions(&words[HEADER..]) {
        if code == op::FUNCTION {
            marker = markers.get(&words[2]).copied();
        }
        match marker {
            None => {
                out.extend(words);
                if declares && code == op::TYPE_FLOAT && words[1] == types.f16 {
                    out.extend([op::TYPE_VECTOR | 4 << 16, types.halves, types.f16, 2]);
                }
            }
            Some(kind) => {
                function.extend(words);
                if code == op::FUNCTION_END {
                    body(kind, &function, &types, &mut bound, &mut out)?;
                    function.clear();
                    marker = None;
                }
            }
        }
    }
    out[BOUND] = bound;
    Ok(out)
}

/// Writes a function: its head as it is, and its body.
fn body(marker: Marker, function: &[u32], types: &Types, bound: &mut u32, out: &mut Vec<u32>) -> Result<(), String> {
    let mut result_type = 0;
    let mut parameters = vec![];
    let mut returned = 0;
    let mut labelled = false;
    for (code, words) in instructions(function) {
        match code {
            op::FUNCTION => result_type = words[1],
            op::FUNCTION_PARAMETER => parameters.push((words[1], words[2])),
            // The first block is the only one, whatever naga splits it into.
            op::LABEL if !labelled => labelled = true,
            op::LABEL | op::BRANCH | op::FUNCTION_END => continue,
            // An empty matrix, to begin with.
            op::RETURN_VALUE => {
                returned = words[1];
                continue;
            }
            _ => return Err("a function of elements with a body of its own".into()),
        }
        out.extend(words);
    }
    let mut id = || {
        *bound += 1;
        *bound - 1
    };
    let mut write = |code: u32, operands: &[u32]| {
        out.push(code | (operands.len() as u32 + 1) << 16);
        out.extend(operands);
    };
    if matches!(marker, Marker::FactorsTimes | Marker::MagnitudesPlus) {
        let &[(_, left), (_, right)] = &parameters[..] else {
            return Err("a function of two that takes not two".into());
        };
        let result = if marker == Marker::FactorsTimes {
            let product = id();
            write(op::F_MUL, &[result_type, product, left, right]);
            product
        } else {
            if types.further == 0 {
                return Err("magnitudes in a module without `GLSL.std.450`".into());
            }
            let halves = types.halves;
            let [of_left, of_right, magnitudes, sum, word] = [(); 5].map(|()| id());
            write(op::BITCAST, &[halves, of_left, left]);
            write(op::BITCAST, &[halves, of_right, right]);
            write(op::EXT_INST, &[halves, magnitudes, types.further, op::F_ABS, of_left]);
            write(op::F_ADD, &[halves, sum, magnitudes, of_right]);
            write(op::BITCAST, &[result_type, word, sum]);
            word
        };
        write(op::RETURN_VALUE, &[result]);
        write(op::FUNCTION_END, &[]);
        return Ok(());
    }
    let &[(parameter_type, parameter)] = &parameters[..] else {
        return Err("a function of elements takes them and nothing else".into());
    };
    let takes_apart = matches!(marker, Marker::Elements | Marker::RightElements);
    let array = if takes_apart { result_type } else { parameter_type };
    let length = match marker {
        Marker::TurnedOver => Some(types.elements).filter(|n| *n > 0),
        _ => types.arrays.get(&array).copied(),
    };
    let length = length.ok_or("elements are no array of constant length")?;
    let mut all = vec![];
    for n in 0..length {
        let given = id();
        let given_type = match marker {
            Marker::RightElements | Marker::TurnedOver => types.f16,
            Marker::RightWords => types.u32,
            _ => types.f32,
        };
        write(op::COMPOSITE_EXTRACT, &[given_type, given, parameter, n]);
        match marker {
            Marker::RightElements | Marker::Factors => {
                let converted_type = if takes_apart { types.f32 } else { types.f16 };
                let converted = id();
                write(op::F_CONVERT, &[converted_type, converted, given]);
                all.push(converted);
            }
            Marker::RightWords => {
                let two = id();
                write(op::BITCAST, &[types.halves, two, given]);
                for half in 0..2 {
                    let element = id();
                    write(op::COMPOSITE_EXTRACT, &[types.f16, element, two, half]);
                    all.push(element);
                }
            }
            _ => all.push(given),
        }
    }
    let mut value = returned;
    if takes_apart {
        value = id();
        write(op::COMPOSITE_CONSTRUCT, &[&[result_type, value][..], &all].concat());
    } else {
        for (n, element) in all.iter().enumerate() {
            let next = id();
            write(op::COMPOSITE_INSERT, &[result_type, next, *element, value, n as u32]);
            value = next;
        }
    }
    write(op::RETURN_VALUE, &[value]);
    write(op::FUNCTION_END, &[]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shader::BindingKind;

    const TEXT: &str = "enable f16;
enable wgpu_cooperative_matrix;
alias MatrixA = coop_mat8x8<f16, A>;
alias MatrixC = coop_mat8x8<f32, C>;
alias MatrixB = coop_mat8x8<f16, B>;
alias Elements = array<f32, 8>;
alias RightWords = array<u32, 4>;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;
var<workgroup> sums: array<f32, 64>;

fn elements_of(sums: MatrixC) -> Elements { return Elements(); }
fn sums_of(elements: Elements) -> MatrixC { return MatrixC(); }
fn factors_of(elements: Elements) -> MatrixA { return MatrixA(); }
fn right_elements_of(factors: MatrixB) -> Elements { return Elements(); }
fn right_of(words: RightWords) -> MatrixB { return MatrixB(); }
fn factors_times(factors: MatrixA, by: MatrixA) -> MatrixA { return MatrixA(); }
fn turned_over(factors: MatrixB) -> MatrixA { return MatrixA(); }
fn magnitudes_plus(word: u32, to: u32) -> u32 { return 0u; }
fn other(x: f32) -> f32 { return x + 1.0; }

@compute @workgroup_size(8)
fn main(@builtin(local_invocation_index) n: u32) {
    sums[n] = other(input[n]);
    workgroupBarrier();
    let a = factors_of(elements_of(coopLoad<MatrixC>(&sums[0], 8u)));
    let product = factors_times(a, a);
    coopStore(sums_of(elements_of(coopLoad<MatrixC>(&sums[0], 8u))), &sums[0], 8u);
    let right = right_elements_of(right_of(RightWords(n, n, n, n)));
    workgroupBarrier();
    output[n] = sums[n];
}
";

    fn bindings() -> Vec<Binding> {
        let binding = |(number, kind)| Binding { number, kind };
        [(4, BindingKind::Write), (1, BindingKind::Read)].map(binding).to_vec()
    }

    /// How often an opcode occurs, and all words of the instructions that have it.
    fn all(words: &[u32], code: u32) -> Vec<Vec<u32>> {
        let of_code = |(found, words): (u32, &[u32])| (found == code).then(|| words.to_vec());
        instructions(&words[HEADER..]).filter_map(of_code).collect()
    }

    #[test]
    fn functions_of_elements_get_their_bodies_and_others_keep_theirs() {
        assert!(wanted(TEXT) && !wanted("fn other() {}"));
        let words = spirv(TEXT, &bindings(), false, false).unwrap();
        // 8 of each function, and 4 words; `factors_of` narrows its own, `right_elements_of` widens them.
        assert_eq!(all(&words, op::COMPOSITE_EXTRACT).len(), 6 * 8 + 4);
        assert_eq!(all(&words, op::COMPOSITE_INSERT).len(), 4 * 8);
        assert_eq!(all(&words, op::F_CONVERT).len(), 2 * 8);
        // Of words to halves, those of two words to be added and of their sum back.
        assert_eq!(all(&words, op::BITCAST).len(), 4 + 3);
        let places = all(&words, op::COMPOSITE_INSERT)
            .iter()
            .map(|w| w[5])
            .collect::<Vec<_>>();
        assert_eq!(
            places,
            [0..8, 0..8, 0..8, 0..8].into_iter().flatten().collect::<Vec<_>>()
        );
        // A product, of both parameters, in their order.
        let [product] = &all(&words, op::F_MUL)[..] else {
            panic!("{:?}", all(&words, op::F_MUL))
        };
        let parameters: Vec<_> = all(&words, op::FUNCTION_PARAMETER)
            .iter()
            .filter(|w| w[1] == product[1])
            .map(|w| w[2])
            .collect();
        assert_eq!(product[3..], parameters);
        // A sum of halves: of the first word's magnitudes and of the second word.
        let [of_left, of_right] = [4, 5].map(|n| all(&words, op::BITCAST)[n][2]);
        let [magnitudes] = &all(&words, op::EXT_INST)[..] else {
            panic!("{:?}", all(&words, op::EXT_INST))
        };
        assert_eq!(magnitudes[4..], [op::F_ABS, of_left]);
        let sums = all(&words, op::F_ADD);
        let of_halves = sums.iter().find(|w| w[1] == magnitudes[1]).unwrap();
        assert_eq!(of_halves[3..], [magnitudes[2], of_right]);
        // Two halves are a type of their own, declared once and before it is used.
        let halves = all(&words, op::BITCAST)[0][1];
        let declared = all(&words, op::TYPE_VECTOR).iter().filter(|w| w[1] == halves).count();
        assert_eq!(declared, 1);
        assert_eq!(of_halves[1], halves);
        // Ids are new, and below the bound.
        let codes = [
            op::COMPOSITE_EXTRACT,
            op::COMPOSITE_INSERT,
            op::F_CONVERT,
            op::BITCAST,
            op::F_MUL,
        ];
        let made = codes.map(|code| all(&words, code));
        let mut ids: Vec<u32> = made.concat().iter().map(|w| w[2]).collect();
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]) && ids.last() < Some(&words[BOUND]));
        // Functions begin, are labelled and end as often, and the addition is still there.
        let count = |code| all(&words, code).len();
        assert_eq!(count(op::FUNCTION), 10);
        assert_eq!(count(op::FUNCTION_END), 10);
        assert_eq!(count(op::F_ADD), 2);
    }

    #[test]
    fn bindings_are_numbered_without_gaps() {
        const BINDING: u32 = 33;
        let words = spirv(TEXT, &bindings(), false, true).unwrap();
        let decorations = all(&words, op::DECORATE);
        let numbers: Vec<_> = decorations.iter().filter(|w| w[2] == BINDING).map(|w| w[3]).collect();
        assert_eq!(numbers, [0, 1]);
    }

    #[test]
    fn where_loads_stay_nothing_promises_not_to_write() {
        let promises = |words: &[u32]| {
            let decorations = all(words, op::DECORATE);
            decorations.iter().filter(|w| w[2] == op::NON_WRITABLE).count()
        };
        let usual = spirv(TEXT, &bindings(), false, false).unwrap();
        let staying = spirv(TEXT, &bindings(), true, false).unwrap();
        assert_eq!([promises(&usual), promises(&staying)], [1, 0]);
        assert_eq!(usual.len(), staying.len() + 3);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let error = spirv(
            &TEXT.replace("return Elements();", "return Elemnts();"),
            &bindings(),
            false,
            false,
        )
        .unwrap_err();
        assert!(error.contains("Elemnts"), "{error}");
        let own = TEXT.replace(
            "fn sums_of(elements: Elements) -> MatrixC { return MatrixC(); }",
            "fn sums_of(elements: Elements) -> MatrixC { return MatrixC() * elements[0]; }",
        );
        let error = spirv(&own, &bindings(), false, false).unwrap_err();
        assert!(error.contains("body of its own"), "{error}");
        let two = TEXT
            .replace("right_of(words: RightWords)", "right_of(words: RightWords, by: f32)")
            .replace(
                "right_of(RightWords(n, n, n, n))",
                "right_of(RightWords(n, n, n, n), 1.0)",
            );
        let error = spirv(&two, &bindings(), false, false).unwrap_err();
        assert!(error.contains("nothing else"), "{error}");
    }
}
