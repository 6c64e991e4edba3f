//! What is measured: the suites of the benchmark, from the library's table of problems.

use clap::ValueEnum;
use wgpu_attention::bench::{Problem, problems};

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Suite {
    /// Dense attention over prompts.
    Prefill,
    /// Dense attention of one query over a cache.
    Decode,
    /// Linear attention over prompts, and steps of decoding.
    Linear,
    /// Top-k attention, each beside dense attention of the same shape.
    Topk,
}

/// A problem, and the suite it belongs to, by its name in the JSON.
#[derive(Clone, Debug)]
pub struct Entry {
    pub suite: &'static str,
    pub name: String,
    pub problem: Problem,
}

impl Entry {
    pub fn new(suite: &'static str, problem: Problem) -> Self {
        Entry {
            suite,
            name: problem.name(),
            problem,
        }
    }
}

impl Suite {
    pub const ALL: [Suite; 4] = [Suite::Prefill, Suite::Decode, Suite::Linear, Suite::Topk];

    /// All of it.
    pub fn entries(self, software: bool) -> Vec<Entry> {
        let dense = |suite, p| Entry::new(suite, Problem::Dense(p));
        match self {
            Suite::Prefill => problems::prefill(software)
                .into_iter()
                .map(|p| dense("prefill", p))
                .collect(),
            Suite::Decode => problems::decode(software)
                .into_iter()
                .map(|p| dense("decode", p))
                .collect(),
            Suite::Linear => {
                let sequences = problems::linear(software).into_iter();
                let steps = problems::linear_steps().into_iter();
                let sequences = sequences.map(|p| Entry::new("linear", Problem::Linear(p)));
                sequences
                    .chain(steps.map(|p| Entry::new("linear decode", Problem::Linear(p))))
                    .collect()
            }
            Suite::Topk => top_k(software),
        }
    }

    /// A few problems of each kind.
    pub fn quick(self, software: bool) -> Vec<Entry> {
        let wanted: &[&str] = match (self, software) {
            (Suite::Prefill, true) => &[
                "D64/full/f32/softmax/N512",
                "D64/causal/f32/softmax/N1024",
                "D64/window 256/f32/softmax/N1024",
                "D64/causal/f32/sigmoid/N1024",
                "D128/causal/f16/softmax/N1024",
            ],
            (Suite::Prefill, false) => &[
                "D64/causal/f32/softmax/N2048",
                "D128/full/f16/softmax/N2048",
                "D128/causal/f32/softmax/N4096",
                "D128/causal/f16/softmax/N4096",
                "D128/causal/f16/sigmoid/N4096",
                "D128/window 256/f16/softmax/N8192",
            ],
            (Suite::Decode, true) => &[
                "D64/1:1/f32/softmax/Nk4096",
                "D64/8:1/f32/softmax/Nk16384",
                "D64/8:1/f16/softmax/Nk16384",
            ],
            (Suite::Decode, false) => &[
                "D128/32:32/f32/softmax/Nk16384",
                "D128/64:8/f16/softmax/Nk16384",
                "D128/64:8/f16/softmax/Nk131072",
                "D128/64:8/f16/softmax/Nk16384/B8",
            ],
            (Suite::Linear, true) => &[
                "D64/decay of a head/f32/N4096/B1H1",
                "D64/decay of a head/f32/N1024/B1H8",
                "D64/decay of a head/f32/N1/B1H16",
            ],
            (Suite::Linear, false) => &[
                "D128/decay of a head/f32/N16384/B1H16",
                "D128/decay of a head/f16/N4096/B4H32",
                "D128/decay of a head/f32/N1/B8H16",
            ],
            (Suite::Topk, true) => &["D64/causal/f32/softmax/N4096", "D64/8:1/f32/softmax/Nk16384"],
            (Suite::Topk, false) => &["D128/causal/f32/softmax/N8192", "D128/64:8/f32/softmax/Nk65536"],
        };
        let mut all = self.entries(software);
        all.retain(|e| {
            wanted
                .iter()
                .any(|w| e.name == *w || (self == Suite::Topk && e.name.starts_with(&format!("{w}/top"))))
        });
        all
    }
}

/// Each list's length, and dense attention of the same shape once, before the first.
fn top_k(software: bool) -> Vec<Entry> {
    let mut all: Vec<Entry> = vec![];
    for problems::NamedTopK { problem, .. } in problems::top_k(software) {
        let dense = Entry::new("topk", Problem::Dense(problem.attention.clone()));
        if all.iter().all(|e| e.problem != dense.problem) {
            all.push(dense);
        }
        all.push(Entry::new("topk", Problem::TopK(problem)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu_attention::DType;

    /// A name that no problem has would be left out without a word.
    #[test]
    fn quick_suites_have_all_that_they_name() {
        for software in [false, true] {
            let numbers = Suite::ALL.map(|suite| suite.quick(software).len());
            let expected = if software { [5, 3, 3, 6] } else { [6, 4, 3, 5] };
            assert_eq!(numbers, expected, "software: {software}");
        }
    }

    #[test]
    fn names_tell_problems_of_a_suite_apart() {
        for software in [false, true] {
            for suite in Suite::ALL {
                let mut names: Vec<_> = suite.entries(software).into_iter().map(|e| e.name).collect();
                let all = names.len();
                names.sort();
                names.dedup();
                assert_eq!(names.len(), all, "{suite:?}");
            }
        }
    }

    #[test]
    fn suites_cover_both_storage_types_and_every_mask() {
        let all = Suite::Prefill.entries(false);
        for wanted in [
            "/f16/",
            "/f32/",
            "/full/",
            "/causal/",
            "/window 256/",
            "N512",
            "N32768",
            "D64/",
            "D128/",
            "/sigmoid/",
        ] {
            assert!(all.iter().any(|e| e.name.contains(wanted)), "{wanted}");
        }
        assert!(
            Suite::Decode
                .entries(false)
                .iter()
                .any(|e| e.problem.dtype() == DType::F16 && e.problem.batch() == 8)
        );
    }
}
