//! Random problems: the draw, and what becomes of a problem that fails.

use std::path::PathBuf;

use wgpu_attention::Gpu;
use wgpu_attention::case::Case;

use super::{Random, describe, gpu, gpu_with};

fn variable(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().unwrap_or_else(|_| panic!("{name}={text}")),
        _ => default,
    }
}

/// One share of the problems, so that shares run beside one another. `set` draws a set of options, tries several sizes of
/// it, and says how each went; it is given a name to build on.
pub fn share(number: u64, of: u64, set: impl Fn(&Gpu, &str, &mut Random) -> Vec<Result<(), String>>) {
    let Some(trusted) = gpu() else { return };
    let Some(checked) = gpu_with(|o| o.checked = true) else {
        return;
    };
    let problems = variable("WGPU_ATTENTION_PROBLEMS", 300).div_ceil(of);
    let seed = variable("WGPU_ATTENTION_SEED", 1);
    let mut failures = vec![];
    let (mut done, mut sets) = (0, 0);
    while done < problems {
        // Every option set from a seed of its own, so that one can be drawn without those before it.
        let mut r = Random::new(seed.wrapping_mul(1_000_003) + number * 1_000_000_007 + sets);
        // The driver's own checks on for a quarter of them: an index out of bounds would give another result.
        let gpu = if sets % 4 == 3 { &checked } else { &trusted };
        let outcomes = set(gpu, &format!("{seed}-{number}-{sets}"), &mut r);
        done += outcomes.len() as u64;
        failures.extend(outcomes.into_iter().filter_map(Result::err));
        sets += 1;
    }
    println!(
        "{}: {done} problems, {sets} option sets, seed {seed}",
        describe(&trusted)
    );
    let shown = failures.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} of {done} failed:\n{shown}", failures.len());
}

/// A failing problem as a file, with how to see it fail again.
pub fn write(name: &str, case: &Case) -> String {
    // A test binary may run on another machine than the one it was built on; and several may run at a time, each on a driver.
    let built = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let folder = if built.is_dir() { built } else { std::env::temp_dir() };
    let path = folder.join(format!("{name}-{}.safetensors", std::process::id()));
    match case.save(&path) {
        Ok(()) => format!("replay: wgpu-attention run {}", path.display()),
        Err(error) => format!("no case file: {error}"),
    }
}
