//! The command line, as far as it goes without a GPU.

use std::process::{Command, Output};

fn cli(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wgpu-attention"))
        .args(arguments)
        .env_remove("WGPU_ATTENTION_BACKEND")
        .env_remove("WGPU_ATTENTION_ADAPTER")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

/// Exit status 2, nothing on stdout, and an error that says all of `parts`.
#[track_caller]
fn assert_refused(arguments: &[&str], parts: &[&str]) {
    let output = cli(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    let error = stderr.lines().skip_while(|line| !line.starts_with("error: "));
    let error = error.collect::<Vec<_>>().join("\n");
    for part in parts {
        assert!(error.contains(part), "{arguments:?}: no `{part}` in: {stderr}");
    }
    assert!(!stderr.contains('\x1b'), "colours although nobody watches: {stderr:?}");
}

#[test]
fn help_and_version() {
    for command in ["info", "verify", "run", "demo"] {
        let help = cli(&[command, "--help"]);
        assert!(help.status.success());
        let text = String::from_utf8(help.stdout).unwrap();
        for option in ["--adapter", "--backend", "--json"] {
            assert!(text.contains(option), "{command} --help has no {option}");
        }
        // It runs no kernel.
        assert_eq!(text.contains("--tier"), command != "info", "{command} --help");
        assert!(String::from_utf8(cli(&["--help"]).stdout).unwrap().contains(command));
    }
    let tune = String::from_utf8(cli(&["tune", "--help"]).stdout).unwrap();
    for text in ["every kind of attention", "--op", "--decay", "--top-k", "--out"] {
        assert!(tune.contains(text), "tune --help has no {text}");
    }
    let version = String::from_utf8(cli(&["--version"]).stdout).unwrap();
    assert_eq!(version.trim(), format!("wgpu-attention {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn unknown_options_and_values_are_refused() {
    assert_refused(&["verify", "--fast"], &["--fast"]);
    assert_refused(&["teleport"], &["teleport"]);
    assert_refused(&["verify", "--tier", "golden"], &["golden", "portable"]);
    assert_refused(
        &["info", "--backend", "glide"],
        &["glide", "vulkan", "metal", "dx12", "gl"],
    );
    assert_refused(&["run"], &["CASE"]);
}

#[test]
fn an_unknown_back_end_in_the_environment_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_wgpu-attention"))
        .arg("info")
        .env("WGPU_ATTENTION_BACKEND", "glide")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr.trim_end(),
        "error: `backend` is `glide`; allowed: vulkan, metal, dx12 or gl"
    );
}

#[test]
fn an_adapter_that_is_not_there_is_refused() {
    assert_refused(
        &["info", "--adapter", "no such adapter"],
        &["no adapter", "`no such adapter`", "found: "],
    );
}

#[test]
fn files_that_are_not_there_or_not_cases_are_refused() {
    assert_refused(&["run", "no/such.safetensors"], &["no/such.safetensors"]);
    assert_refused(&["run", "Cargo.toml"], &["Cargo.toml"]);
    assert_refused(
        &["verify", "no/such/directory"],
        &["no/such/directory", "no such file or directory"],
    );
}

#[test]
fn an_unknown_op_is_refused_by_name() {
    let mut bytes = std::fs::read("tests/cases/topk/token_one.safetensors").unwrap();
    let from = b"\"op\":\"topk\"";
    let at = bytes.windows(from.len()).position(|found| found == from).unwrap();
    bytes[at..][..from.len()].copy_from_slice(b"\"op\":\"sink\"");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("unknown_op.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    assert_refused(&["run", path], &[path, "unknown op `sink`; known: dense, linear, topk"]);
}
