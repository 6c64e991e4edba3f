//! Custom code and its data with mistakes: an error shows the caller's own line, none panics or reaches wgpu's
//! validation, and the device works afterwards.

mod common;

use common::mistakes::{assert_says, assert_unharmed, buffer, encode, good, watched};
use common::{Inputs, Random};
use wgpu_attention::dense::reference::Hooks;
use wgpu_attention::{Custom, CustomData, CustomElement, Dense, DenseTensors, Error, Tensor};

fn with_score(text: &str) -> Dense {
    Dense {
        custom: Some(Custom {
            score: Some(text.into()),
            ..Custom::default()
        }),
        ..good()
    }
}

fn with_mask(text: &str) -> Dense {
    Dense {
        custom: Some(Custom {
            mask: Some(text.into()),
            ..Custom::default()
        }),
        ..good()
    }
}

/// What, the problem, the line and column to be shown, what the message must say.
type CodeMistake = (&'static str, Dense, (u32, u32), &'static [&'static str]);

#[test]
fn custom_code_with_mistakes() {
    let Some((gpu, complaints)) = watched() else { return };
    let score = "fn score(s: f32, at: Position) -> f32 { return s; }";
    // The wanted line and column count from 1 in the caller's own text; 0 is the whole snippet.
    let bad: Vec<CodeMistake> = vec![
        (
            "does not parse",
            with_score("fn score(s: f32, at: Position) -> f32 {\n    return s +;\n}"),
            (2, 15),
            &["score", "line 2"],
        ),
        (
            "unknown name",
            with_mask("fn mask(at: Position) -> bool {\n  let x = 1;\n  return at.key < limit;\n}"),
            (3, 19),
            &["mask", "limit"],
        ),
        (
            "unknown field",
            with_score("fn score(s: f32, at: Position) -> f32 { return s * f32(at.row); }"),
            (1, 59),
            &["row"],
        ),
        (
            "wrong type",
            with_score("fn score(s: f32, at: Position) -> f32 {\n\n  return at.key;\n}"),
            (3, 10),
            &["score"],
        ),
        (
            "no end",
            with_score("fn score(s: f32, at: Position) -> f32 {\n  return s;\n"),
            (2, 0),
            &["score"],
        ),
        (
            "no such function",
            with_mask("fn visible(at: Position) -> bool { return true; }"),
            (0, 0),
            &["mask", "fn mask(at: Position) -> bool"],
        ),
        (
            "wrong signature",
            with_score("fn score(s: f32) -> f32 { return s; }"),
            (0, 0),
            &["fn score(s: f32, at: Position) -> f32"],
        ),
        (
            "wrong result",
            with_mask("fn mask(at: Position) -> f32 { return 1.0; }"),
            (0, 0),
            &["fn mask(at: Position) -> bool"],
        ),
        (
            "no result",
            with_mask("fn mask(at: Position) { }"),
            (0, 0),
            &["fn mask(at: Position) -> bool"],
        ),
        ("empty", with_score(""), (0, 0), &["there is no `fn score"]),
        (
            "binding",
            with_score(&format!(
                "@group(0) @binding(3) var<storage> mine: array<f32>;\n{score}"
            )),
            (0, 0),
            &["Custom::data"],
        ),
        (
            "variable",
            with_score(&format!("var<private> n: u32;\n{score}")),
            (0, 0),
            &["Custom::data"],
        ),
        (
            "entry point",
            with_score(&format!("@compute @workgroup_size(1) fn main() {{}}\n{score}")),
            (0, 0),
            &["entry points"],
        ),
        (
            "enable",
            with_score(&format!("enable f16;\n{score}")),
            (1, 1),
            &["enable"],
        ),
        (
            "the kernel's function",
            with_score(&format!("fn row_sees(x: f32) -> f32 {{ return x; }}\n{score}")),
            (0, 0),
            &["row_sees", "choose another"],
        ),
        (
            "the kernel's constant",
            with_score(&format!("const KEYS = 3;\n{score}")),
            (0, 0),
            &["KEYS", "choose another"],
        ),
        (
            "a built-in function",
            with_score(&format!("fn exp2(x: f32) -> f32 {{ return 0.0; }}\n{score}")),
            (0, 0),
            &["exp2"],
        ),
        (
            "a built-in type",
            with_score(&format!("struct Row {{ x: f32 }}\n{score}")),
            (0, 0),
            &["Row", "choose another"],
        ),
        (
            "recursion",
            with_score("fn score(s: f32, at: Position) -> f32 { return score(s, at); }"),
            (1, 4),
            &["score"],
        ),
        (
            "barrier",
            with_score("fn score(s: f32, at: Position) -> f32 { workgroupBarrier(); return s; }"),
            (0, 0),
            &["arrier"],
        ),
    ];
    let mut elsewhere = vec![];
    for (what, problem, wanted, words) in &bad {
        let result = problem.plan(&gpu);
        if let Err(Error::Snippet {
            line, column, message, ..
        }) = &result
        {
            // An unexpected end may be told at the end of the last line or past it.
            let near = wanted.1 == 0 && wanted.0 > 0;
            if *line != wanted.0 || !(near || *column == wanted.1) {
                elsewhere.push(format!("{what}: {line}:{column}, not {wanted:?}: {message}"));
            }
        }
        assert_says(what, result, "Snippet", words);
        // No mistake finds its way into the cache.
        assert_says(what, problem.plan(&gpu), "Snippet", words);
    }
    assert!(elsewhere.is_empty(), "{}", elsewhere.join("\n"));
    assert_unharmed(&gpu, &complaints);
}

#[test]
fn custom_data_with_mistakes() {
    let Some((gpu, complaints)) = watched() else { return };
    let named = |names: &[&str]| Dense {
        custom: Some(Custom {
            score: Some("fn score(s: f32, at: Position) -> f32 { return s; }".into()),
            mask: None,
            data: names
                .iter()
                .map(|n| CustomData {
                    name: (*n).into(),
                    element: CustomElement::F32,
                })
                .collect(),
        }),
        ..good()
    };
    for name in ["", "9lives", "a b", "x;", "größe", "_", "x: u32; var<private> y"] {
        assert_says(
            "a name",
            named(&[name]).plan(&gpu),
            "Invalid",
            &["custom.data", "letters"],
        );
    }
    assert_says(
        "a name twice",
        named(&["a", "a"]).plan(&gpu),
        "Invalid",
        &["`a`", "each once"],
    );
    assert_says("a keyword", named(&["while"]).plan(&gpu), "Snippet", &["while"]);
    assert_says(
        "a kernel's name",
        named(&["params"]).plan(&gpu),
        "Snippet",
        &["params", "choose another"],
    );
    let nothing = Dense {
        custom: Some(Custom::default()),
        ..good()
    };
    assert_says("no code", nothing.plan(&gpu), "Invalid", &["custom", "at least one"]);

    let two = named(&["a", "b"]);
    let (q, k, v, o) = (
        buffer(&gpu, 4096),
        buffer(&gpu, 4096),
        buffer(&gpu, 4096),
        buffer(&gpu, 4096),
    );
    let extra = buffer(&gpu, 4096);
    let right = DenseTensors::new(&q, &k, &v, &o);
    let wrong: [(&[Tensor<'_>], &[&str]); 4] = [
        (&[], &["0 arrays", "2"]),
        (&[(&extra).into()], &["1 arrays", "2"]),
        (&[(&extra).into(), Tensor::at(&extra, 4)], &["byte 4", "multiple of"]),
        (&[(&extra).into(), (&o).into()], &["`o`", "custom_data"]),
    ];
    for (data, words) in wrong {
        let tensors = DenseTensors {
            custom_data: data,
            ..right
        };
        assert_says("data", encode(&gpu, &two, &tensors), "Tensor", words);
    }
    let inputs = Inputs::random(&two, &mut Random::new(1));
    let result = two.plan(&gpu).unwrap().run_blocking(&inputs.tensors.inputs());
    assert_says("host data", result, "Data", &["`custom_data`", "0 arrays", "2"]);
    let hooks = Hooks::default();
    let truth = inputs.with(|i| wgpu_attention::dense::reference::dense(&good(), i, &hooks));
    assert!(truth.is_ok());
    assert_unharmed(&gpu, &complaints);
}
