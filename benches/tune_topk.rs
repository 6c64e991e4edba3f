//! Times the steps of one top-k problem: for work on its kernels.
//!
//! ```text
//! cargo bench --features bench --bench tune_topk -- keys=8192 queries=8192 dim=64 heads=1 group=1 block=64 tile=64 k=8 by=mean
//! ```
//! `group` is the number of query heads to a KV head, which then share lists; `by` is `keys`, `mean` or `bound`.
//! `WGPU_ATTENTION_BACKEND`, `WGPU_ATTENTION_ADAPTER` choose the device.

use std::process::ExitCode;

use wgpu_attention::measure::{Effort, time};
use wgpu_attention::{Dense, Scoring, TopK};

#[path = "common/mod.rs"]
mod common;

use common::topk::{Run, Step};

fn main() -> ExitCode {
    let gpu = common::gpu();
    println!("{}", common::device_line(&gpu));
    let problem = match problem(std::env::args().skip(1)) {
        Ok(problem) => problem,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let run = match Run::new(&gpu, &problem) {
        Ok(run) => run,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(1);
        }
    };
    println!("{}\n{} parts", run.label(), run.parts());
    for step in [Step::Pool, Step::Score, Step::Select, Step::Gather, Step::Whole] {
        let times = time(&gpu, &Effort::default(), |pass, _| run.record(pass, step)).expect("a run");
        println!("{step:?}: {:.1} µs", times.median() * 1e6);
    }
    ExitCode::SUCCESS
}

fn problem(arguments: impl Iterator<Item = String>) -> Result<TopK, String> {
    let mut p = TopK {
        attention: Dense {
            causal: true,
            ..Default::default()
        },
        ..Default::default()
    };
    let mut group = 1;
    for argument in arguments.filter(|a| a != "--bench") {
        let (name, value) = argument.split_once('=').ok_or(format!("`{argument}`: name=value"))?;
        if name == "by" {
            p.scoring = match value {
                "keys" => Scoring::Keys,
                "mean" => Scoring::Mean,
                "bound" => Scoring::Bound,
                _ => return Err(format!("`by={value}`: keys, mean or bound")),
            };
            continue;
        }
        let number = value.parse().map_err(|_| format!("`{argument}`: a number"))?;
        match name {
            "keys" => p.attention.keys = number,
            "queries" => p.attention.queries = number,
            "dim" => p.attention.head_dim = number,
            "heads" => p.attention.heads = number,
            "group" => group = number,
            "block" => p.block_size = number,
            "tile" => p.query_block = number,
            "k" => p.top_k = number,
            _ => {
                return Err(format!(
                    "`{name}`: keys, queries, dim, heads, group, block, tile, k or by"
                ));
            }
        }
    }
    p.attention.kv_heads = Some(p.attention.heads / group);
    p.per_kv_head = group > 1;
    Ok(p)
}
