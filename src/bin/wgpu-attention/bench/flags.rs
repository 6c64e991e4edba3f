//! Problems of one's own, by flags.

use clap::{Args, ValueEnum};
use wgpu_attention::bench::Problem;
use wgpu_attention::{DType, Decay, Dense, Linear, Scoring, TopK, Weighting};

use super::dtype;
use super::suites::Entry;
use crate::Failure;

/// A problem of one's own. Lists, as in `--n 1024,4096`, give every combination.
#[derive(Debug, Args)]
#[command(next_help_heading = "One's own problems (a list, as in --n 1024,4096, gives every combination)")]
pub struct OwnArgs {
    /// Measure this op, on the problems that the flags below give, in the tier that the planner picks or --tier names.
    #[arg(long, value_enum)]
    pub op: Option<Op>,
    /// Queries; of linear attention, tokens [default: 4096].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = length(), requires = "op")]
    n: Vec<u32>,
    /// Keys [default: as many as queries].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = length(), requires = "op")]
    keys: Vec<u32>,
    /// Head size D [default: 128].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = dim(), requires = "op")]
    d: Vec<u32>,
    /// Head size of values, Dv [default: D].
    #[arg(long, value_parser = dim(), requires = "op")]
    dv: Option<u32>,
    /// Query heads [default: 32].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = count(), requires = "op")]
    heads: Vec<u32>,
    /// Heads of keys and values, a divisor of --heads [default: as many].
    #[arg(long, value_parser = count(), requires = "op")]
    kv_heads: Option<u32>,
    /// Batch entries [default: 1].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = count(), requires = "op")]
    batch: Vec<u32>,
    /// Storage: f32, f16 or bf16 [default: f32].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = dtype, requires = "op")]
    dtype: Vec<DType>,
    /// full, causal, or window:W, the query's own position and W − 1 before it [default: causal].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = mask, requires = "op")]
    mask: Vec<Mask>,
    /// softmax or sigmoid [default: softmax].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum, requires = "op")]
    weighting: Vec<WeightingName>,
    /// Decay of linear attention [default: head].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum, requires = "op")]
    decay: Vec<DecayName>,
    /// Tokens, or blocks, that top-k attention keeps.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = count(), requires = "op")]
    top_k: Vec<u32>,
    /// Keys of a block of top-k attention, and queries that share a list; blocks are scored by their means [default: 1, tokens].
    #[arg(long, value_parser = count(), requires = "op")]
    block: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Op {
    Dense,
    Linear,
    Topk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WeightingName {
    Softmax,
    Sigmoid,
}

/// Shape of the log-decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DecayName {
    None,
    Head,
    Token,
    Channel,
}

impl DecayName {
    pub fn decay(self) -> Decay {
        match self {
            DecayName::None => Decay::None,
            DecayName::Head => Decay::Head,
            DecayName::Token => Decay::Token,
            DecayName::Channel => Decay::Channel,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mask {
    Full,
    Causal,
    /// Keys before the query's own.
    Window(u32),
}

pub fn length() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 28)
}

pub fn dim() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=256)
}

pub fn count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=65535)
}

/// A duration that is one.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds.is_finite() => Ok(seconds),
        _ => Err("a number of seconds greater than 0".into()),
    }
}

fn mask(text: &str) -> Result<Mask, String> {
    let window = |keys: &str| keys.parse::<u32>().ok().filter(|n| (1..=1 << 28).contains(n));
    match (text, text.strip_prefix("window:").and_then(window)) {
        ("full", _) => Ok(Mask::Full),
        ("causal", _) => Ok(Mask::Causal),
        (_, Some(keys)) => Ok(Mask::Window(keys - 1)),
        _ => Err("full, causal, or window:W with W at least 1".into()),
    }
}

/// The list, or its default.
fn or<T: Copy>(list: &[T], default: T) -> Vec<T> {
    if list.is_empty() { vec![default] } else { list.to_vec() }
}

/// Every combination of what there is so far with a list.
fn times<P: Clone, T: Copy>(all: Vec<P>, list: &[T], set: impl Fn(&P, T) -> P) -> Vec<P> {
    all.iter()
        .flat_map(|p| list.iter().map(|&value| set(p, value)).collect::<Vec<_>>())
        .collect()
}

impl OwnArgs {
    /// The problems, every combination.
    pub fn entries(&self) -> Result<Vec<Entry>, Failure> {
        let problems = match self.op {
            None => vec![],
            Some(Op::Dense) => {
                self.refuse(&[
                    ("--decay", !self.decay.is_empty()),
                    ("--top-k", !self.top_k.is_empty()),
                    ("--block", self.block.is_some()),
                ])?;
                self.dense()?.into_iter().map(Problem::Dense).collect()
            }
            Some(Op::Linear) => self.linear()?.into_iter().map(Problem::Linear).collect(),
            Some(Op::Topk) => self.top_k()?.into_iter().map(Problem::TopK).collect(),
        };
        Ok(problems.into_iter().map(entry).collect())
    }

    /// An error for a flag that the op does not have.
    fn refuse(&self, flags: &[(&str, bool)]) -> Result<(), Failure> {
        match flags.iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((flag, _)) => {
                let op = self
                    .op
                    .and_then(|op| Some(op.to_possible_value()?.get_name().to_string()));
                Err(Failure::Message(format!(
                    "{flag}: --op {} has none",
                    op.unwrap_or_default()
                )))
            }
        }
    }

    fn dense(&self) -> Result<Vec<Dense>, Failure> {
        let base = Dense {
            kv_heads: self.kv_heads,
            value_dim: self.dv,
            ..Default::default()
        };
        let all = times(vec![base], &or(&self.dtype, DType::F32), |p, dtype| Dense {
            dtype,
            ..p.clone()
        });
        let all = times(all, &or(&self.batch, 1), |p, batch| Dense { batch, ..p.clone() });
        let all = times(all, &or(&self.heads, 32), |p, heads| Dense { heads, ..p.clone() });
        let all = times(all, &or(&self.d, 128), |p, head_dim| Dense { head_dim, ..p.clone() });
        let all = times(all, &or(&self.mask, Mask::Causal), |p, mask| Dense {
            causal: mask != Mask::Full,
            window_left: match mask {
                Mask::Window(n) => Some(n),
                _ => None,
            },
            ..p.clone()
        });
        let all = times(all, &or(&self.weighting, WeightingName::Softmax), |p, weighting| {
            Dense {
                weighting: match weighting {
                    WeightingName::Softmax => Weighting::Softmax,
                    WeightingName::Sigmoid => Weighting::Sigmoid { bias: None },
                },
                ..p.clone()
            }
        });
        let all = times(all, &or(&self.n, 4096), |p, n| Dense {
            queries: n,
            keys: n,
            ..p.clone()
        });
        let all = match self.keys.is_empty() {
            true => all,
            false => times(all, &self.keys, |p, keys| Dense { keys, ..p.clone() }),
        };
        all.iter().try_for_each(|p| self.check_heads(p.heads))?;
        Ok(all)
    }

    fn linear(&self) -> Result<Vec<Linear>, Failure> {
        self.refuse(&[
            ("--keys", !self.keys.is_empty()),
            ("--weighting", !self.weighting.is_empty()),
            ("--mask window", self.mask.iter().any(|m| matches!(m, Mask::Window(_)))),
            ("--top-k", !self.top_k.is_empty()),
            ("--block", self.block.is_some()),
        ])?;
        let base = Linear {
            kv_heads: self.kv_heads,
            value_dim: self.dv,
            ..Default::default()
        };
        let all = times(vec![base], &or(&self.dtype, DType::F32), |p, dtype| Linear {
            dtype,
            ..p.clone()
        });
        let all = times(all, &or(&self.batch, 1), |p, batch| Linear { batch, ..p.clone() });
        let all = times(all, &or(&self.heads, 32), |p, heads| Linear { heads, ..p.clone() });
        let all = times(all, &or(&self.d, 128), |p, head_dim| Linear { head_dim, ..p.clone() });
        let all = times(all, &or(&self.mask, Mask::Causal), |p, mask| Linear {
            causal: mask == Mask::Causal,
            ..p.clone()
        });
        let all = times(all, &or(&self.decay, DecayName::Head), |p, decay| Linear {
            decay: decay.decay(),
            ..p.clone()
        });
        // One token is a step of decoding, whose state is updated where it lies.
        let all = times(all, &or(&self.n, 4096), |p, tokens| Linear {
            tokens,
            initial_state: tokens == 1,
            final_state: tokens == 1,
            in_place: tokens == 1,
            ..p.clone()
        });
        all.iter().try_for_each(|p| self.check_heads(p.heads))?;
        Ok(all)
    }

    fn top_k(&self) -> Result<Vec<TopK>, Failure> {
        self.refuse(&[("--decay", !self.decay.is_empty())])?;
        if self.top_k.is_empty() {
            return Err(Failure::Message(
                "--op topk needs --top-k: how many tokens, or blocks, a list keeps".into(),
            ));
        }
        let block = self.block.unwrap_or(1);
        let of = |attention: Dense| TopK {
            query_block: if attention.queries == 1 { 1 } else { block },
            attention,
            block_size: block,
            scoring: if block == 1 { Scoring::Keys } else { Scoring::Mean },
            diagonal: block > 1,
            per_kv_head: true,
            ..Default::default()
        };
        let all = self.dense()?.into_iter().map(of).collect();
        let all = times(all, &self.top_k, |p, top_k| TopK { top_k, ..p.clone() });
        Ok(all)
    }

    fn check_heads(&self, heads: u32) -> Result<(), Failure> {
        match self.kv_heads {
            Some(kv) if !heads.is_multiple_of(kv) => Err(Failure::Message(format!(
                "--kv-heads {kv}: must divide --heads, {heads}"
            ))),
            _ => Ok(()),
        }
    }
}

/// With the heads in its name where a suite's name leaves them out.
fn entry(problem: Problem) -> Entry {
    let mut entry = Entry::new("custom", problem);
    let (heads, kv_heads) = entry.problem.heads();
    let named = matches!(entry.problem, Problem::Linear(_)) || entry.problem.lengths().0 == 1;
    if !named {
        entry.name += &format!("/{heads}:{kv_heads}");
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Own {
        #[command(flatten)]
        own: OwnArgs,
    }

    fn names(line: &str) -> Result<Vec<String>, String> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let parsed = Own::try_parse_from(words).map_err(|e| e.to_string())?;
        match parsed.own.entries() {
            Ok(entries) => Ok(entries.into_iter().map(|e| e.name).collect()),
            Err(Failure::Message(message)) => Err(message),
            Err(Failure::Closed) => Err("closed".into()),
        }
    }

    #[test]
    fn lists_give_every_combination() {
        let found =
            names("--op dense --n 512,1024 --d 64 --heads 8 --kv-heads 2 --mask full,window:100 --dtype f16").unwrap();
        let expected = [
            "D64/full/f16/softmax/N512/8:2",
            "D64/full/f16/softmax/N1024/8:2",
            "D64/window 100/f16/softmax/N512/8:2",
            "D64/window 100/f16/softmax/N1024/8:2",
        ];
        assert_eq!(found, expected);
        assert_eq!(names("--op linear --n 1 --decay token,none").unwrap().len(), 2);
        let found = names("--op dense --n 1 --keys 777 --batch 3 --heads 4").unwrap();
        assert_eq!(found, ["D128/4:4/f32/softmax/Nk777/B3"]);
        let found = names("--op topk --n 256 --top-k 4 --block 32 --d 32 --dv 16 --weighting sigmoid").unwrap();
        assert_eq!(found, ["D32x16/causal/f32/sigmoid/N256/top 4 of 32/32:32"]);
    }

    #[test]
    fn mistakes_are_told() {
        let mistakes = [
            ("--n 512", "--op"),
            ("--op dense --d 300", "256"),
            ("--op dense --n 0", "1.."),
            ("--op dense --mask window:0", "at least 1"),
            ("--op dense --mask all", "full, causal, or window:W"),
            ("--op dense --dtype f64", "f32, f16 or bf16"),
            ("--op dense --heads 8 --kv-heads 3", "must divide --heads, 8"),
            ("--op dense --decay head", "--decay: --op dense has none"),
            ("--op linear --weighting sigmoid", "--weighting: --op linear has none"),
            ("--op linear --mask window:9", "--mask window: --op linear has none"),
            ("--op topk", "--op topk needs --top-k"),
            ("--op sparse", "dense, linear, topk"),
        ];
        for (line, expected) in mistakes {
            let error = names(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
        assert!(seconds("0").is_err() && seconds("-1").is_err() && seconds("inf").is_err() && seconds("x").is_err());
        assert_eq!(seconds("0.5"), Ok(0.5));
    }
}
