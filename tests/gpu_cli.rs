//! The command line on a GPU: what it prints and how it exits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::{TempDir, tempdir};
use wgpu_attention::case::{Case, Op};
use wgpu_attention::tuned::Tuned;
use wgpu_attention::{Gpu, GpuOptions};

/// Whether there is a GPU to test on. None is a failure where `WGPU_ATTENTION_REQUIRE_GPU` is 1.
fn gpu_found(test: &str) -> bool {
    let options = GpuOptions::from_env().unwrap();
    match Gpu::request_blocking(&options) {
        Ok(_) => true,
        Err(error) if std::env::var("WGPU_ATTENTION_REQUIRE_GPU").is_ok_and(|v| v == "1") => panic!("{test}: {error}"),
        Err(error) => {
            eprintln!("SKIPPED, NOT PASSED: {test}: {error}");
            false
        }
    }
}

/// Runs the program, on the driver this test runs on: where that comes from a folder of its own (`scripts/mesa26`),
/// a child process has to be started through the same runner.
fn cli(arguments: &[&str]) -> Output {
    let runner = std::env::var("WGPU_ATTENTION_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace().chain([env!("CARGO_BIN_EXE_wgpu-attention")]);
    Command::new(words.next().unwrap())
        .args(words)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

/// Stdout as text, if the exit status is this one.
#[track_caller]
fn stdout(output: Output, status: i32) -> String {
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "stdout: {stdout}\nstderr: {stderr}");
    stdout
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name)
}

/// The words of the line about a case.
#[track_caller]
fn line<'a>(stdout: &'a str, name: &str) -> Vec<&'a str> {
    let mut words = stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = words.find(|words| words.first() == Some(&name));
    found.unwrap_or_else(|| panic!("no line about {name}: {stdout}"))
}

/// A right case, one whose answer is wrong in one element, a damaged one, one of another op that is right, and one of an op
/// that does not exist.
fn mixed_cases() -> TempDir {
    let directory = tempdir().unwrap();
    let to = directory.path();
    let good = shipped("dense/softmax_mqa_cross.safetensors");
    fs::copy(&good, to.join("good.safetensors")).unwrap();
    let mut case = Case::load(&good).unwrap();
    let Op::Dense(dense) = &mut case.op else {
        panic!("not a dense case")
    };
    dense.expected_o[7] += 1.0;
    fs::create_dir(to.join("deeper")).unwrap();
    case.save(to.join("deeper/wrong.safetensors")).unwrap();
    let bytes = fs::read(&good).unwrap();
    fs::write(to.join("damaged.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    fs::copy(shipped("topk/token_one.safetensors"), to.join("other.safetensors")).unwrap();
    let unknown = renamed(bytes, b"\"op\":\"dense\"", b"\"op\":\"spare\"");
    fs::write(to.join("unknown.safetensors"), unknown).unwrap();
    directory
}

/// A file with one word of its header changed for another of the same length.
fn renamed(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|found| found == from).unwrap();
    bytes[at..][..from.len()].copy_from_slice(to);
    bytes
}

#[test]
fn verify_tells_right_wrong_damaged_and_unknown_cases_apart() {
    if !gpu_found("verify_tells_right_wrong_damaged_and_unknown_cases_apart") {
        return;
    }
    let cases = mixed_cases();
    let text = stdout(cli(&["verify", cases.path().to_str().unwrap()]), 1);
    assert_eq!(line(&text, "good")[1], "ok");
    let wrong = line(&text, "deeper/wrong");
    assert_eq!(wrong[1], "FAILED");
    assert!(wrong.contains(&"[7]"), "{wrong:?}");
    let damaged = line(&text, "damaged");
    assert_eq!(damaged[1], "FAILED");
    assert!(damaged.join(" ").contains("damaged.safetensors"), "{damaged:?}");
    assert_eq!(line(&text, "other")[1], "ok");
    let unknown = line(&text, "unknown");
    assert_eq!(unknown[1], "FAILED");
    assert!(
        unknown
            .join(" ")
            .contains("unknown op `spare`; known: dense, linear, topk"),
        "{unknown:?}"
    );
    assert_eq!(text.lines().last(), Some("2 passed, 3 failed, 0 unsupported"));
    assert!(!text.contains('\x1b'), "colours although nobody watches");
}

#[test]
fn verify_as_json() {
    if !gpu_found("verify_as_json") {
        return;
    }
    let cases = mixed_cases();
    let text = stdout(cli(&["verify", "--json", cases.path().to_str().unwrap()]), 1);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&json["passed"], &json["failed"], &json["unsupported"]),
        (&2.into(), &3.into(), &0.into())
    );
    assert!(json["tier"].is_null());
    assert!(json["adapter"]["name"].is_string());
    let verdicts: Vec<_> = json["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (&c["name"], &c["verdict"]))
        .collect();
    let expected = [
        ("damaged", "failed"),
        ("deeper/wrong", "failed"),
        ("good", "passed"),
        ("other", "passed"),
        ("unknown", "failed"),
    ];
    for (name, verdict) in expected {
        assert!(
            verdicts.contains(&(&name.into(), &verdict.into())),
            "{name}: {verdicts:?}"
        );
    }
}

#[test]
fn verify_passes_on_right_cases_and_fails_on_none() {
    if !gpu_found("verify_passes_on_right_cases_and_fails_on_none") {
        return;
    }
    let case = shipped("dense/softmax_d40.safetensors");
    let text = stdout(cli(&["verify", "--minimal", case.to_str().unwrap()]), 0);
    assert_eq!(text.lines().last(), Some("1 passed, 0 failed, 0 unsupported"));

    let empty = tempdir().unwrap();
    let output = cli(&["verify", empty.path().to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("error: no case files"));
    let text = stdout(output, 1);
    assert_eq!(text.lines().last(), Some("0 passed, 0 failed, 0 unsupported"));
}

#[test]
fn run_writes_outputs_that_read_back() {
    if !gpu_found("run_writes_outputs_that_read_back") {
        return;
    }
    let file = shipped("dense/softmax_gqa_ragged.safetensors");
    let directory = tempdir().unwrap();
    let to = directory.path().join("outputs.safetensors");
    let text = stdout(cli(&["run", file.to_str().unwrap(), "--out", to.to_str().unwrap()]), 0);
    for part in ["adapter", "kernel", "time", "errors", "ok"] {
        assert!(text.contains(part), "no {part}: {text}");
    }

    let Op::Dense(dense) = Case::load(&file).unwrap().op else {
        panic!("not a dense case")
    };
    let bytes = fs::read(&to).unwrap();
    let outputs = SafeTensors::deserialize(&bytes).unwrap();
    let p = &dense.problem;
    let shape = [p.batch, p.heads, p.queries, p.value_dim()].map(|n| n as usize);
    let o = outputs.tensor("o").unwrap();
    assert_eq!(o.shape(), shape);
    let values: Vec<f32> = o
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    for (found, expected) in values.iter().zip(&dense.expected_o) {
        assert!((found - expected).abs() < 1e-4, "{found} instead of {expected}");
    }
    assert_eq!(outputs.tensor("lse").unwrap().shape(), &shape[..3]);
}

#[test]
fn run_writes_a_final_state_and_its_normaliser_apart() {
    if !gpu_found("run_writes_a_final_state_and_its_normaliser_apart") {
        return;
    }
    let file = shipped("linear/normalized_elu1.safetensors");
    let directory = tempdir().unwrap();
    let to = directory.path().join("outputs.safetensors");
    let text = stdout(cli(&["run", file.to_str().unwrap(), "--out", to.to_str().unwrap()]), 0);
    assert!(text.contains("final_state: rms"), "{text}");

    let Op::Linear(linear) = Case::load(&file).unwrap().op else {
        panic!("not a linear case")
    };
    let bytes = fs::read(&to).unwrap();
    let outputs = SafeTensors::deserialize(&bytes).unwrap();
    let p = &linear.problem;
    let shape = [p.batch, p.heads, p.head_dim, p.value_dim()].map(|n| n as usize);
    let state = outputs.tensor("final_state").unwrap();
    assert_eq!(state.shape(), shape);
    let values = state.data().as_chunks().0.iter().copied().map(f32::from_le_bytes);
    for (found, expected) in values.zip(linear.expected_state.as_ref().unwrap()) {
        assert!((found - expected).abs() < 1e-3, "{found} instead of {expected}");
    }
    assert_eq!(outputs.tensor("final_normalizer").unwrap().shape(), &shape[..3]);
}

#[test]
fn run_says_when_a_result_is_wrong() {
    if !gpu_found("run_says_when_a_result_is_wrong") {
        return;
    }
    let cases = mixed_cases();
    let wrong = cases.path().join("deeper/wrong.safetensors");
    let text = stdout(cli(&["run", wrong.to_str().unwrap()]), 1);
    assert!(text.contains("FAILED"), "{text}");
    let text = stdout(cli(&["run", "--json", wrong.to_str().unwrap()]), 1);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["passed"], false);
}

#[test]
fn run_says_when_the_outputs_cannot_be_written() {
    if !gpu_found("run_says_when_the_outputs_cannot_be_written") {
        return;
    }
    let file = shipped("dense/softmax_d40.safetensors");
    let directory = tempdir().unwrap();
    let to = directory.path().join("no/such/outputs.safetensors");
    let output = cli(&["run", file.to_str().unwrap(), "--out", to.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("outputs.safetensors"));
    stdout(output, 2);
}

#[test]
fn info_shows_the_adapter_that_is_used() {
    if !gpu_found("info_shows_the_adapter_that_is_used") {
        return;
    }
    let gpu = Gpu::request_blocking(&GpuOptions::from_env().unwrap()).unwrap();
    let text = stdout(cli(&["info"]), 0);
    assert_eq!(text.lines().next(), Some(gpu.info().name.as_str()));
    assert!(text.contains("tiers     portable"), "{text}");
    let json: Value = serde_json::from_str(&stdout(cli(&["info", "--json"]), 0)).unwrap();
    assert_eq!(json["adapters"][0]["name"], gpu.info().name);
    assert!(json["adapters"][0]["limits"]["max_compute_workgroup_storage_size"].is_u64());
}

#[test]
fn demo_passes() {
    if !gpu_found("demo_passes") {
        return;
    }
    let text = stdout(cli(&["demo"]), 0);
    assert!(text.contains("every row adds up to 1"), "{text}");
    assert!(text.contains(['░', '▒', '▓', '█']), "no picture: {text}");
    let last = text.lines().last().unwrap();
    assert!(last.contains(" passed, 0 failed, "), "{last}");

    let output = cli(&["demo", "--head", "12"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("heads 0 to 11"));
    stdout(output, 2);
}

/// A row of a benchmark that must have a number.
#[track_caller]
fn assert_measured(row: &Value) {
    assert!(row["failure"].is_null(), "{row}");
    let seconds = &row["seconds"];
    let [low, median, high] = ["low", "median", "high"].map(|key| seconds[key].as_f64().unwrap());
    assert!(0.0 < low && low <= median && median <= high, "{seconds}");
    assert!(seconds["runs"].as_u64().unwrap() >= 1 && seconds["confidence"].as_f64().unwrap() <= 0.95);
    for key in ["flops", "bytes", "fraction_of_bound"] {
        assert!(row[key].as_f64().unwrap() > 0.0, "{key}: {row}");
    }
    // An error of nothing would be one that was not computed.
    let rms = row["error"]["rms"].as_f64().unwrap();
    assert!(0.0 < rms && rms < 1e-2, "{rms}");
    assert!(
        ["f32", "cooperative", "copy"].map(Value::from).contains(&row["bound"]),
        "{row}"
    );
    assert!(row["input_sets"].as_u64().unwrap() >= 2, "{row}");
}

#[test]
fn bench_measures_every_op() {
    if !gpu_found("bench_measures_every_op") {
        return;
    }
    let to = tempdir().unwrap();
    let own: [&[&str]; 3] = [
        &[
            "--op",
            "dense",
            "--n",
            "96,200",
            "--d",
            "32",
            "--heads",
            "2",
            "--weighting",
            "sigmoid",
            "--mask",
            "window:64",
        ],
        &[
            "--op", "linear", "--n", "1,300", "--d", "32", "--heads", "2", "--dtype", "f16",
        ],
        &[
            "--op", "topk", "--n", "256", "--d", "32", "--heads", "2", "--top-k", "3", "--block", "32",
        ],
    ];
    for (own, suite_rows) in own.into_iter().zip([2, 2, 1]) {
        let (json, html) = (to.path().join("bench.json"), to.path().join("bench.html"));
        let files = [
            "--json",
            json.to_str().unwrap(),
            "--html",
            html.to_str().unwrap(),
            // Room for a driver that shares its cores.
            "--budget",
            "2",
        ];
        let text = stdout(cli(&[&["bench"], own, &files].concat()), 0);
        assert!(text.contains("ceilings  copy "), "{text}");
        assert!(text.contains(&format!("{suite_rows} measured")), "{text}");
        let json: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        assert_eq!(json["format"], "wgpu-attention-bench/1");
        assert!(json["device"]["name"].is_string() && json["date"].as_str().unwrap().ends_with('Z'));
        assert!(text.contains("\nlaunches  "), "{text}");
        for ceiling in [
            "copy_bytes_per_second",
            "read_bytes_per_second",
            "f32_flops_per_second",
            "launch_seconds",
            "dependent_launch_seconds",
        ] {
            assert!(json["ceilings"][ceiling].as_f64().unwrap() > 0.0, "{ceiling}");
        }
        let rows = json["results"].as_array().unwrap();
        assert_eq!(rows.len(), suite_rows);
        rows.iter().for_each(assert_measured);
        assert!(fs::read_to_string(&html).unwrap().contains("</html>"));
    }
}

#[test]
fn bench_of_a_suite_goes_through_every_tier_and_compares() {
    if !gpu_found("bench_of_a_suite_goes_through_every_tier_and_compares") {
        return;
    }
    let directory = tempdir().unwrap();
    let to = directory.path().join("a.json");
    let suite = [
        "bench",
        "--suite",
        "linear",
        "--filter",
        "D64/decay of a head/f32/N1/B1",
        "--budget",
        "1",
    ];
    let text = stdout(cli(&[&suite[..], &["--json", "-"]].concat()), 0);
    let json: Value = serde_json::from_str(&text).unwrap();
    let rows = json["results"].as_array().unwrap();
    assert_eq!(
        (&rows[0]["suite"], &rows[0]["tier"]),
        (&"linear decode".into(), &"portable".into())
    );
    rows.iter().for_each(assert_measured);
    let planned = rows.iter().filter(|row| row["planned"] == true).count();
    assert_eq!(planned, 1, "one of the tiers is the planner's");

    fs::write(&to, &text).unwrap();
    let file = to.to_str().unwrap();
    let text = stdout(cli(&["bench", "--compare", file, file]), 0);
    assert!(
        text.contains("by the planner's choice: geometric mean 1.000, median 1.000, over 1 problems"),
        "{text}"
    );
    assert!(
        text.contains("B / A: geometric mean 1.000, median 1.000, over "),
        "{text}"
    );
}

#[test]
fn bench_tells_what_is_wrong_with_its_flags() {
    if !gpu_found("bench_tells_what_is_wrong_with_its_flags") {
        return;
    }
    let mistakes: [(&[&str], &str); 5] = [
        (
            &["--filter", "D999"],
            "--filter `D999`: no problem has that in its name",
        ),
        (&["--n", "512"], "--op"),
        (&["--op", "dense", "--quick"], "cannot be used with"),
        (&["--op", "topk"], "--op topk needs --top-k"),
        (&["--compare", "no such file.json"], "no such file.json: "),
    ];
    for (flags, expected) in mistakes {
        let output = cli(&[&["bench"], flags].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(expected), "{flags:?}: {error}");
        stdout(output, 2);
    }
}

#[test]
fn tune_writes_what_plans_can_be_given() {
    if !gpu_found("tune_writes_what_plans_can_be_given") {
        return;
    }
    let directory = tempdir().unwrap();
    let to = directory.path().join("tuned.json");
    let file = to.to_str().unwrap();
    let quick = [
        "tune",
        "--d",
        "32",
        "--dtype",
        "f32",
        "--n",
        "200",
        "--keys",
        "300",
        "--seconds",
        "0.001",
        "--out",
        file,
    ];
    let text = stdout(
        cli(&[&quick[..], &["--heads", "2", "--decay", "head,none"]].concat()),
        0,
    );
    for problem in [
        "prefill 2:2 D32 f32 Nk200",
        "decode 2:2 D32 f32 Nk300",
        "linear 2:2 D32 f32 head decay N200",
        "linear 2:2 D32 f32 no decay N200",
        "topk prefill 2:2 D32 f32 Nk200, 4 of 64 keys, scoring",
        "topk prefill 2:2 D32 f32 Nk200, 4 of 64 keys, selecting",
        "topk prefill 2:2 D32 f32 Nk200, 4 of 64 keys, gather",
        "topk decode 2:2 D32 f32 Nk300, 3 keys, scoring",
        "topk decode 2:2 D32 f32 Nk300, 3 keys, selecting",
        "topk decode 2:2 D32 f32 Nk300, 3 keys, gather",
    ] {
        let measured = text.lines().find(|line| line.starts_with(problem));
        let line = measured.unwrap_or_else(|| panic!("no line about {problem}: {text}"));
        let base = line.contains(" planner ") || line.contains(" so far ");
        assert!(base && line.contains(" of it"), "{line}");
    }
    let tuned = Tuned::load(&to).unwrap();
    let tiles = tuned.dense.len() + tuned.linear.len() + tuned.topk.len();
    assert!(text.ends_with(&format!("wrote {tiles} tiles to {file}\n")), "{text}");
    let gpu = Gpu::request_blocking(&GpuOptions::from_env().unwrap()).unwrap();
    tuned.check(&gpu).unwrap();
    let dense = tuned.dense.iter().map(|t| (t.seconds, t.planner_seconds));
    let linear = tuned.linear.iter().map(|t| (t.seconds, t.planner_seconds));
    let topk = tuned.topk.iter().map(|t| (t.seconds, t.planner_seconds));
    for (faster, planner) in dense.chain(linear).chain(topk) {
        assert!(0.0 < faster && faster < planner);
    }

    let text = stdout(cli(&[&quick[..], &["--heads", "2", "--op", "linear"]].concat()), 0);
    assert!(text.contains("linear 2:2") && !text.contains("prefill"), "{text}");
    assert_eq!(Tuned::load(&to).unwrap().dense, []);
    let refused = cli(&[&quick[..], &["--op", "sparse"]].concat());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("dense, linear, topk"));
    stdout(refused, 2);
    for (wrong, says) in [
        (["--d", "0"], "1..=256"),
        (["--n", "0"], "1..="),
        (["--kv-heads", "0"], "1..="),
        (["--seconds", "0"], "greater than 0"),
        (["--top-k", "0"], "1..="),
        (["--block", "0"], "1..="),
    ] {
        let refused = cli(&[&["tune"][..], &wrong].concat());
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains(says),
            "{wrong:?}: {refused:?}"
        );
        stdout(refused, 2);
    }
    // No tile for a problem that cannot be, and yet the file is written.
    let uneven = [
        "tune",
        "--op",
        "dense",
        "--d",
        "32",
        "--heads",
        "3",
        "--kv-heads",
        "2",
        "--out",
        file,
    ];
    let refused = cli(&uneven);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("4 problems could not be measured"),
        "{refused:?}"
    );
    let text = stdout(refused, 2);
    assert!(text.contains("the planner's choice: `kv_heads`"), "{text}");
    assert!(text.ends_with(&format!("wrote 0 tiles to {file}\n")), "{text}");
}
