//! Linear attention: recurrence and masked matrix, and the ways to take a sequence apart.

use std::ops::Range;
use std::path::{Path, PathBuf};

use wgpu_attention::case::{Case, LinearCase, LinearCaseInputs, Op};
use wgpu_attention::compare::{self, LinearComparison, Tolerance};
use wgpu_attention::linear::reference::{Channel, Hooks, join, linear, masked_matrix};
use wgpu_attention::linear::slopes;
use wgpu_attention::{DType, Decay, FeatureMap, Join, JoinInputs, Linear, LinearInputs, LinearOutput, Result};

use crate::{Random, agree, golden};

type Form = fn(&Linear, &LinearInputs<'_>, &Hooks<'_>) -> Result<LinearOutput<f64>>;

const FORMS: [(&str, Form); 2] = [("recurrence", linear), ("masked matrix", masked_matrix)];

/// What is left between two results that differ only in where f64 was rounded to f32.
const ROUNDING: Tolerance = Tolerance {
    rms: 2e-7,
    max: 2e-7,
    ..Tolerance::for_dtype(DType::F32)
};

fn narrow(output: &LinearOutput<f64>) -> LinearOutput<f32> {
    let narrow = |values: &Vec<f64>| values.iter().map(|&v| v as f32).collect();
    LinearOutput {
        o: narrow(&output.o),
        final_state: output.final_state.as_ref().map(narrow),
        total_decay: output.total_decay.as_ref().map(narrow),
    }
}

/// A golden linear case.
fn load(path: &Path) -> (Case, LinearCase) {
    let case = Case::load(path).unwrap();
    let Op::Linear(attention) = case.op.clone() else {
        panic!("{} is not linear", path.display())
    };
    (case, attention)
}

fn named(name: &str) -> LinearCase {
    let path = golden("linear")
        .into_iter()
        .find(|p| p.file_stem() == Some(name.as_ref()));
    load(&path.expect("a golden case of that name")).1
}

#[test]
fn both_forms_pass_every_golden_case() {
    let files = golden("linear");
    assert_eq!(files.len(), 13);
    let mut failed = 0;
    for path in &files {
        let (case, attention) = load(path);
        for (form, solve) in FORMS {
            let output = solve(&attention.problem, &attention.inputs(), &Hooks::default()).unwrap();
            // The inputs in the file are the rounded ones, so that the answer is right to f32 whatever their type.
            let result = attention.compare(&narrow(&output), &ROUNDING);
            let word = if result.passed() { "ok  " } else { "FAIL" };
            println!("{word} {} {} by {form}: {result}", case.name, case.dtype);
            failed += usize::from(!result.passed());
        }
    }
    assert_eq!(failed, 0);
}

#[test]
fn no_golden_case_passes_with_a_row_zeroed() {
    for path in golden("linear") {
        let (case, attention) = load(&path);
        let output = linear(&attention.problem, &attention.inputs(), &Hooks::default()).unwrap();
        let good = narrow(&output);
        let tolerance = Tolerance::for_dtype(case.dtype);
        let columns = attention.problem.value_dim() as usize;
        let zeroed = |values: &mut Vec<f32>| values.rchunks_mut(columns).next().expect("a row").fill(0.0);

        let mut bad = good.clone();
        zeroed(&mut bad.o);
        assert!(!attention.compare(&bad, &tolerance).passed(), "{}", case.name);
        let mut bad = good;
        if let Some(state) = &mut bad.final_state {
            // The last numbers may be a normaliser, which the file does not have.
            state.truncate(attention.expected_state.as_ref().map_or(0, Vec::len));
            zeroed(state);
            assert!(!attention.compare(&bad, &tolerance).passed(), "{}", case.name);
        }
    }
}

#[test]
fn golden_cases_are_written_back_the_same() {
    for path in golden("linear") {
        let case = Case::load(&path).unwrap();
        assert_eq!(Case::from_bytes(&case.name, &case.to_bytes().unwrap()).unwrap(), case);
    }
}

#[test]
fn a_changed_option_changes_the_answer() {
    type Change = fn(&mut Linear);
    let changes: [(&str, Change); 6] = [
        ("no_decay", |p| p.causal = false),
        ("lightning", |p| p.scale = Some(0.125)),
        ("lightning_silu", |p| p.feature_map = FeatureMap::Relu),
        ("normalized_elu1", |p| p.normalize = None),
        ("normalized_elu1", |p| p.normalize = Some(0.1)),
        ("noncausal_elu1", |p| p.causal = true),
    ];
    for (name, change) in changes {
        let case = named(name);
        let mut problem = case.problem.clone();
        change(&mut problem);
        let output = narrow(&linear(&problem, &case.inputs(), &Hooks::default()).unwrap());
        let result = compare::output(&output.o, &case.expected().o, &Tolerance::for_dtype(DType::F32));
        assert!(!result.passed(), "{name}: {result}");
    }
}

#[test]
fn golden_decays_are_the_published_ones() {
    // In the first layer, where the layer's factor is 1.00001.
    for (name, heads) in [("lightning", 4), ("lightning_six_heads", 6), ("grouped_heads", 8)] {
        let golden = named(name).tensors.log_decay.unwrap();
        let ours = slopes::lightning(heads, 0, 8).unwrap();
        assert_eq!(golden.len(), ours.len());
        let near = |(g, o): (&f32, &f32)| (o / g - 1.00001).abs() < 1e-6;
        assert!(golden.iter().zip(&ours).all(near), "{golden:?} {ours:?}");
    }
    let reaching_eight = named("lightning_strong_decay").tensors.log_decay.unwrap();
    assert_eq!(reaching_eight[0], slopes::lightning_paper(2, 0, 8).unwrap()[1]);
}

/// Positive, so that it can be normalised.
fn square_by_place(x: f64, at: &Channel) -> f64 {
    let place = at.head + 2 * at.token + 3 * at.channel + u32::from(at.is_query);
    0.2 + x * x * f64::from(1 + place % 5)
}

fn hooks(problem: &Linear) -> Hooks<'static> {
    Hooks {
        feature: matches!(problem.feature_map, FeatureMap::Custom(_)).then_some(&square_by_place),
    }
}

impl Random {
    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize].clone()
    }

    /// From 0 to −∞, with much of what is hard in it.
    fn decay(&mut self) -> f32 {
        match self.below(12) {
            0 => 0.0,
            1 => -1e-6,
            2 => -30.0 * self.number().abs(),
            3 => -300.0,
            4 => f32::NEG_INFINITY,
            _ => -0.3 * self.number().abs(),
        }
    }

    fn linear_problem(&mut self) -> Linear {
        let kv_heads = 1 + self.below(2);
        let documents = self.maybe(3, |r| 1 + r.below(4));
        // With features of either sign a normaliser may be next to nothing, and its quotient mean nothing.
        let normalize = self.maybe(3, |r| 0.01 + r.number().abs());
        let custom = FeatureMap::Custom("square_by_place".into());
        let feature_map = match normalize {
            Some(_) => self.pick(&[FeatureMap::Relu, FeatureMap::Elu1, custom]),
            None => self.pick(&[
                FeatureMap::Identity,
                FeatureMap::Silu,
                FeatureMap::Relu,
                FeatureMap::Elu1,
                custom,
            ]),
        };
        let causal = !self.one_in(4);
        let decay = match causal {
            true => self.pick(&[Decay::None, Decay::Head, Decay::Token, Decay::Channel]),
            false => Decay::None,
        };
        let initial_state = self.one_in(2);
        let state_only = causal && normalize.is_none() && initial_state && self.one_in(3);
        let final_state = !state_only && self.one_in(2);
        Linear {
            batch: if documents.is_some() { 1 } else { 1 + self.below(3) },
            heads: kv_heads * (1 + self.below(3)),
            kv_heads: Some(kv_heads),
            tokens: 1 + self.below(24),
            head_dim: 1 + self.below(9),
            value_dim: self.maybe(2, |r| 1 + r.below(9)),
            scale: self.maybe(3, |r| 0.1 + r.number().abs()),
            causal,
            decay,
            feature_map,
            normalize,
            documents,
            initial_state,
            final_state,
            in_place: initial_state && final_state && self.one_in(2),
            total_decay: decay != Decay::None && self.one_in(2),
            state_only,
            ..Default::default()
        }
    }

    fn linear_tensors(&mut self, p: &Linear) -> LinearCaseInputs {
        let decays = match p.decay {
            Decay::None => 0,
            Decay::Head => p.heads,
            Decay::Token => p.batch * p.heads * p.tokens,
            Decay::Channel => p.batch * p.heads * p.tokens * p.head_dim,
        };
        let initial_state = p.initial_state.then(|| {
            let state = (0..p.state_len()).map(|_| self.number());
            // A normaliser's are sums of what is positive.
            state.map(|s| if p.normalize.is_some() { s.abs() } else { s }).collect()
        });
        LinearCaseInputs {
            q: self.numbers(&[p.batch, p.heads, p.tokens, p.head_dim]),
            k: self.numbers(&[p.batch, p.kv_heads(), p.tokens, p.head_dim]),
            v: self.numbers(&[p.batch, p.kv_heads(), p.tokens, p.value_dim()]),
            log_decay: (decays > 0).then(|| (0..decays).map(|_| self.decay()).collect()),
            cu_seqlens: p.documents.map(|s| self.offsets(s, p.tokens)),
            initial_state,
            o: p.state_only
                .then(|| self.numbers(&[p.batch, p.heads, p.tokens, p.value_dim()])),
        }
    }

    /// A causal problem without documents, with features that do not depend on the token's number, all of whose
    /// outputs are asked for.
    fn whole_sequence(&mut self) -> Linear {
        let mut problem = self.linear_problem();
        while !problem.causal || matches!(problem.feature_map, FeatureMap::Custom(_)) {
            problem = self.linear_problem();
        }
        Linear {
            documents: None,
            final_state: true,
            in_place: false,
            state_only: false,
            total_decay: problem.decay != Decay::None,
            ..problem
        }
    }

    /// Consecutive ranges that make up 0..tokens.
    fn segments(&mut self, tokens: u32) -> Vec<Range<usize>> {
        let mut ends = vec![0, tokens as usize];
        ends.extend((0..self.below(5)).map(|_| self.below(tokens) as usize));
        ends.sort();
        ends.dedup();
        ends.windows(2).map(|ends| ends[0]..ends[1]).collect()
    }
}

/// Panics with the case in a file, if the format can hold it.
fn fail(name: &str, message: &str, p: &Linear, tensors: &LinearCaseInputs, expected: &LinearOutput<f64>) -> ! {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.safetensors"));
    let case = Case::linear(name, "the reference's recurrence", p, &tensors.inputs(), expected);
    let written = match case.save(&file) {
        Ok(()) => format!("written to {}", file.display()),
        Err(error) => error.to_string(),
    };
    panic!("{name}: {message}\n{p:?}\n{written}");
}

#[test]
fn both_forms_agree_on_random_problems() {
    let mut random = Random(30);
    let mut counts = [0; 7];
    for seed in 0..4000 {
        let problem = random.linear_problem();
        let tensors = random.linear_tensors(&problem);
        let [a, b] = FORMS.map(|(_, solve)| solve(&problem, &tensors.inputs(), &hooks(&problem)).unwrap());
        let both = [
            ("o", Some(&a.o), Some(&b.o)),
            ("final_state", a.final_state.as_ref(), b.final_state.as_ref()),
            ("total_decay", a.total_decay.as_ref(), b.total_decay.as_ref()),
        ];
        for (name, a_values, b_values) in both {
            let same = match (a_values, b_values) {
                (None, None) => true,
                (Some(a), Some(b)) => a.iter().all(|a| !a.is_nan()) && agree(a, b),
                _ => false,
            };
            if !same {
                fail(
                    &format!("linear_{seed}"),
                    &format!("{name} differs"),
                    &problem,
                    &tensors,
                    &a,
                );
            }
        }
        assert_eq!(a.final_state.is_some(), problem.final_state);
        assert_eq!(a.total_decay.is_some(), problem.total_decay);
        let met = [
            problem.documents.is_some(),
            problem.normalize.is_some(),
            !problem.causal,
            problem.state_only,
            problem.decay == Decay::Channel,
            problem.initial_state && problem.final_state,
            hooks(&problem).feature.is_some(),
        ];
        counts
            .iter_mut()
            .zip(met)
            .for_each(|(count, met)| *count += usize::from(met));
    }
    println!("documents, normalised, not causal, state only, by channel, both states, hooked: {counts:?}");
    assert!(
        counts.iter().all(|&n| n > 100),
        "{counts:?}: the draw misses what it is for"
    );
}

#[test]
fn random_problems_are_written_and_read_back() {
    let mut random = Random(31);
    let mut written = 0;
    for _ in 0..300 {
        let problem = random.linear_problem();
        if matches!(problem.feature_map, FeatureMap::Custom(_)) {
            continue;
        }
        let tensors = random.linear_tensors(&problem);
        let output = linear(&problem, &tensors.inputs(), &Hooks::default()).unwrap();
        let case = Case::linear("random", "the reference", &problem, &tensors.inputs(), &output);
        let back = Case::from_bytes("random", &case.to_bytes().unwrap()).unwrap();
        let Op::Linear(read) = &back.op else {
            panic!("not linear")
        };
        assert_eq!(read.tensors, tensors);
        let again = linear(&read.problem, &read.inputs(), &Hooks::default()).unwrap();
        assert_eq!(again, output, "{problem:?}");
        assert!(read.compare(&narrow(&output), &ROUNDING).passed());
        assert_eq!(Case::from_bytes("random", &back.to_bytes().unwrap()).unwrap(), back);
        written += 1;
    }
    assert!(written > 100);
}

/// Some tokens of a contiguous `[…, tokens, width]` tensor.
fn tokens_of<T: Copy>(tensor: &[T], tokens: u32, width: u32, range: &Range<usize>) -> Vec<T> {
    let (tokens, width) = (tokens as usize, width as usize);
    let rows = |slice: &[T]| slice[range.start * width..range.end * width].to_vec();
    tensor.chunks(tokens * width).flat_map(rows).collect()
}

/// The problem of some tokens alone, from zero state.
fn segment(p: &Linear, t: &LinearCaseInputs, range: &Range<usize>) -> (Linear, LinearCaseInputs) {
    let of = |tensor: &[f32], width| tokens_of(tensor, p.tokens, width, range);
    let problem = Linear {
        tokens: range.len() as u32,
        documents: None,
        initial_state: false,
        in_place: false,
        ..p.clone()
    };
    let log_decay = t.log_decay.as_ref().map(|g| match p.decay {
        Decay::None | Decay::Head => g.clone(),
        Decay::Token => of(g, 1),
        Decay::Channel => of(g, p.head_dim),
    });
    let tensors = LinearCaseInputs {
        q: of(&t.q, p.head_dim),
        k: of(&t.k, p.head_dim),
        v: of(&t.v, p.value_dim()),
        log_decay,
        cu_seqlens: None,
        initial_state: None,
        o: None,
    };
    (problem, tensors)
}

fn solve(p: &Linear, t: &LinearCaseInputs) -> LinearOutput<f64> {
    linear(p, &t.inputs(), &Hooks::default()).unwrap()
}

/// Holds o of some tokens against that of the whole sequence, relative to the largest of the whole: a segment may be
/// where everything has decayed.
#[track_caller]
fn assert_part(p: &Linear, whole: &LinearOutput<f64>, range: &Range<usize>, part: &[f64]) {
    let mut o = whole.o.clone();
    let width = p.value_dim() as usize;
    let slices = o.chunks_mut(p.tokens as usize * width);
    for (slice, part) in slices.zip(part.chunks(range.len() * width)) {
        slice[range.start * width..range.end * width].copy_from_slice(part);
    }
    let o: Vec<f32> = o.iter().map(|&o| o as f32).collect();
    let result = compare::output(&o, &whole.o, &Tolerance::for_dtype(DType::F32));
    assert!(result.passed(), "{range:?}: {result}\n{p:?}");
}

#[track_caller]
fn assert_passed(p: &Linear, result: &LinearComparison) {
    assert!(result.passed(), "{result}\n{p:?}");
}

#[test]
fn segments_fed_one_after_another_give_the_whole() {
    let mut random = Random(32);
    for _ in 0..400 {
        let problem = random.whole_sequence();
        let tensors = random.linear_tensors(&problem);
        let whole = solve(&problem, &tensors);
        let mut state = tensors.initial_state.clone();
        let mut last = None;
        for range in random.segments(problem.tokens) {
            let (part, inputs) = segment(&problem, &tensors, &range);
            let part = Linear {
                initial_state: state.is_some(),
                ..part
            };
            let inputs = LinearCaseInputs {
                initial_state: state,
                ..inputs
            };
            let output = solve(&part, &inputs);
            assert_part(&problem, &whole, &range, &output.o);
            state = narrow(&output).final_state;
            last = Some(output);
        }
        let output = LinearOutput {
            o: whole.o.clone(),
            total_decay: whole.total_decay.clone(),
            ..last.unwrap()
        };
        let tolerance = Tolerance::for_dtype(DType::F32);
        assert_passed(
            &problem,
            &compare::linear(&problem, &narrow(&output), &whole, &tolerance),
        );
    }
}

#[test]
fn segments_computed_apart_and_joined_give_the_whole() {
    let mut random = Random(33);
    let mut completed = 0;
    for _ in 0..400 {
        let problem = random.whole_sequence();
        let tensors = random.linear_tensors(&problem);
        let whole = solve(&problem, &tensors);

        let ranges = random.segments(problem.tokens);
        let parts: Vec<_> = ranges.iter().map(|range| segment(&problem, &tensors, range)).collect();
        let local: Vec<_> = parts.iter().map(|(p, t)| narrow(&solve(p, t))).collect();
        let states: Vec<f32> = local.iter().flat_map(|o| o.final_state.clone().unwrap()).collect();
        let decays: Vec<f32> = local
            .iter()
            .flat_map(|o| o.total_decay.clone().unwrap_or_default())
            .collect();
        let joining = Join {
            segments: ranges.len() as u32,
            sequences: problem.sequences(),
            heads: problem.heads,
            head_dim: problem.head_dim,
            value_dim: problem.value_dim,
            normalize: problem.normalize.is_some(),
            decay: problem.decay,
            initial_state: problem.initial_state,
            final_state: true,
        };
        let inputs = JoinInputs {
            states: &states,
            total_decay: (problem.decay != Decay::None).then_some(&*decays),
            initial_state: tensors.initial_state.as_deref(),
        };
        let joined = join(&joining, &inputs).unwrap();
        let output = LinearOutput {
            final_state: joined.final_state,
            ..whole.clone()
        };
        let tolerance = Tolerance::for_dtype(DType::F32);
        assert_passed(
            &problem,
            &compare::linear(&problem, &narrow(&output), &whole, &tolerance),
        );

        let before = joined.states.chunks(problem.state_len() as usize);
        for (((range, (part, inputs)), local), before) in ranges.iter().zip(&parts).zip(&local).zip(before) {
            let part = Linear {
                initial_state: true,
                ..part.clone()
            };
            let inputs = LinearCaseInputs {
                initial_state: Some(before.iter().map(|&s| s as f32).collect()),
                ..inputs.clone()
            };
            // Either the segment again, from the state that stands before it …
            assert_part(&problem, &whole, range, &solve(&part, &inputs).o);
            // … or what that state adds to the outputs there are.
            if problem.normalize.is_none() {
                let part = Linear {
                    state_only: true,
                    final_state: false,
                    total_decay: false,
                    ..part
                };
                let inputs = LinearCaseInputs {
                    o: Some(local.o.clone()),
                    ..inputs
                };
                assert_part(&problem, &whole, range, &solve(&part, &inputs).o);
                completed += 1;
            }
        }
    }
    assert!(completed > 100);
}

#[test]
fn packed_documents_give_what_each_gives_alone() {
    let mut random = Random(34);
    for _ in 0..400 {
        let problem = random.linear_problem();
        if matches!(problem.feature_map, FeatureMap::Custom(_)) || problem.state_only {
            continue;
        }
        let documents = 1 + random.below(4);
        let problem = Linear {
            batch: 1,
            documents: Some(documents),
            ..problem
        };
        let tensors = random.linear_tensors(&problem);
        let packed = solve(&problem, &tensors);
        let offsets = tensors.cu_seqlens.clone().unwrap();
        for (document, ends) in offsets.windows(2).enumerate() {
            let range = ends[0] as usize..ends[1] as usize;
            if range.is_empty() {
                continue;
            }
            let (alone, inputs) = segment(&problem, &tensors, &range);
            let alone = Linear {
                initial_state: problem.initial_state,
                ..alone
            };
            let own = |values: &[f32]| {
                let len = values.len() / documents as usize;
                values[document * len..][..len].to_vec()
            };
            let inputs = LinearCaseInputs {
                initial_state: tensors.initial_state.as_deref().map(own),
                ..inputs
            };
            let output = narrow(&solve(&alone, &inputs));
            let in_pack = narrow(&packed);
            let o = tokens_of(&in_pack.o, problem.tokens, problem.value_dim(), &range);
            assert_eq!(output.o, o, "{problem:?}");
            assert_eq!(output.final_state, in_pack.final_state.as_deref().map(own));
            assert_eq!(output.total_decay, in_pack.total_decay.as_deref().map(own));
        }
    }
}
