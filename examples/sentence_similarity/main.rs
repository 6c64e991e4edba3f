//! How much texts have in common, by a real model: all-MiniLM-L6-v2, with every attention through this library.
//!
//! ```text
//! scripts/similarity "a text" "another" …                     fetches the model and runs this
//! scripts/similarity --attention topk:32 "a text" "another"   the same with another attention, held against dense
//! ```
//!
//! Texts of different lengths share a batch two ways, padded and packed, and both times are printed. Queries, keys,
//! values and outputs stay on the device between projections and the next layer (`model/mod.rs`).

mod model;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use wgpu_attention::measure::{Effort, Pairs, time_pairs};
use wgpu_attention::{Gpu, GpuOptions};

use model::{Batch, Encoder, Mechanism, Packing, Plan, Result, Tokens};

/// The lengths that all-MiniLM-L6-v2 was made for, in tokens; its position embeddings reach farther.
const INTENDED_TOKENS: usize = 256;

/// What is compared where no text is given.
const TEXTS: [&str; 8] = [
    "A cat sits on the mat.",
    "A kitten is resting on a rug.",
    "The stock market fell sharply on Monday.",
    "Shares dropped at the start of the week.",
    "How do I compile a shader for a graphics card?",
    "Attention lets each word of a sentence look at all the others.",
    "Every query is compared with every key; the weights that come of it say how much of each value goes into the result, \
     and because they add up to one, a word that nothing matches well still gets an answer.",
    "In the morning the fishermen pulled their boats over the shingle, sorted the catch into crates of herring, mackerel \
     and crab, and argued about the weather, the price of diesel and whether the old harbour wall would stand another \
     winter. By noon the crates were on the lorry and the quay was empty but for the gulls, which had been waiting for \
     nothing else, and for two boys who had been told not to swim there and were about to.",
];

/// Prints how similar texts are, and what padded and packed batches of them take.
///
/// WGPU_ATTENTION_BACKEND and WGPU_ATTENTION_ADAPTER choose the device.
#[derive(Debug, Parser)]
struct Arguments {
    /// Directory of the model: config.json, tokenizer.json, model.safetensors
    /// [default: WGPU_ATTENTION_MODEL, or what scripts/similarity fetched]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// dense, linear, or topk:K for the K best tokens of each query
    #[arg(long, value_name = "MECHANISM", default_value = "dense")]
    attention: Mechanism,
    /// Texts to compare [default: a few built in]
    texts: Vec<String>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Arguments) -> Result<()> {
    if arguments.texts.is_empty() {
        arguments.texts = TEXTS.map(String::from).to_vec();
    }
    let directory = arguments.model.or_else(model::directory);
    let directory = directory.ok_or("no model; needed: --model DIR, or WGPU_ATTENTION_MODEL=DIR")?;
    if !directory.is_dir() {
        let missing = directory.display();
        return Err(format!("no model in {missing}; scripts/similarity fetches one, --model DIR names another").into());
    }
    let gpu = Gpu::request_blocking(&GpuOptions::from_env()?)?;
    let encoder = Encoder::read(&gpu, &directory)?;
    let tokens = Tokens::read(&directory, encoder.config())?;
    let ids = arguments
        .texts
        .iter()
        .map(|text| tokens.ids(text))
        .collect::<Result<Vec<_>>>()?;
    for (n, ids) in ids.iter().enumerate().filter(|(_, ids)| ids.len() > INTENDED_TOKENS) {
        let n = n + 1;
        let len = ids.len();
        eprintln!(
            "note: text {n} has {len} tokens, more than the {INTENDED_TOKENS} that the model was made for; all of them count \
             here, where sentence-transformers would cut the text off"
        );
    }
    report::device(&gpu, encoder.config(), arguments.attention);

    let run = Run::new(&gpu, &encoder, &ids, arguments.attention)?;
    let dense = match arguments.attention {
        Mechanism::Dense => None,
        _ => {
            let batch = Batch::new(&ids, Packing::Packed)?;
            Some(encoder.plan(&batch, Mechanism::Dense)?.run()?)
        }
    };
    report::texts(&arguments.texts, &ids, &run.embeddings[1], dense.as_deref());
    report::similarities(&run.embeddings[1]);
    report::batches(&run.rows, &run.times, &run.embeddings);
    Ok(())
}

/// The same texts padded and packed.
struct Run {
    rows: [u32; 2],
    embeddings: [Vec<Vec<f32>>; 2],
    times: Pairs,
}

impl Run {
    fn new(gpu: &Gpu, encoder: &Encoder, ids: &[Vec<u32>], mechanism: Mechanism) -> Result<Self> {
        let batches = [Batch::new(ids, Packing::Padded)?, Batch::new(ids, Packing::Packed)?];
        let plans: [Plan; 2] = [
            encoder.plan(&batches[0], mechanism)?,
            encoder.plan(&batches[1], mechanism)?,
        ];
        let embeddings = [plans[0].run()?, plans[1].run()?];
        let effort = Effort {
            runs: 3,
            ..Default::default()
        };
        let times = time_pairs(
            gpu,
            &effort,
            |pass| plans[0].encode_in(pass),
            |pass| plans[1].encode_in(pass),
        )?;
        Ok(Run {
            rows: [batches[0].rows(), batches[1].rows()],
            embeddings,
            times,
        })
    }
}
