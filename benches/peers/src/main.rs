//! The same attention problems through this library and through others, on one device, in turn.
//!
//! Each peer is a process of its own: one that crashes costs its result and nothing else. All get the same inputs, from
//! files. A peer's output is held against the float64 reference on a small problem of the same kind, and on the timed
//! problem against the output of this library; a wrong output gets no number.

mod compare;
mod cubek;
mod inputs;
mod ours;
mod peers;
mod problems;
mod process;
mod protocol;
mod report;
mod statistics;
mod timing;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use wgpu_attention::{Gpu, GpuOptions, gpu, wgpu};

use crate::problems::Named;
use crate::report::Report;

/// wgpu-attention against other implementations: the same problems and inputs, on one device, in turn.
///
/// Peers are cubek-attention, the attention of burn, on its wgpu runtime, and ONNX Runtime's WebGPU attention where Python has
/// `onnxruntime-webgpu`. A ratio is the peer's time over this library's, the median over rounds in which each ran once.
///
/// WGPU_ATTENTION_BACKEND and WGPU_ATTENTION_ADAPTER choose the GPU where --backend and --adapter do not.
///
/// Exit status: 0 if this library is right everywhere, 1 if not, 2 if the program could not run.
#[derive(Debug, Parser)]
#[command(
    name = "wgpu-attention-peers",
    version,
    max_term_width = 110,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A peer, driven by lines on standard input.
    #[command(hide = true)]
    Worker(cubek::WorkerArgs),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Fewer problems, and less time for each.
    #[arg(long)]
    quick: bool,
    /// Only problems with TEXT in `suite/name`, as --list prints them. May be given several times.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Print the problems and the peers, and what a peer cannot express; time nothing.
    #[arg(long)]
    list: bool,
    /// Use an adapter with this in its name, upper or lower case.
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Use this back end: vulkan, metal, dx12 or gl.
    #[arg(long, value_parser = backend)]
    backend: Option<wgpu::Backends>,
    /// Only this peer. May be given several times.
    #[arg(long, value_enum)]
    peer: Vec<peers::Kind>,
    /// What measures [default: the device's clock where both sides can read it, else the host's].
    #[arg(long, value_enum)]
    clock: Option<ClockChoice>,
    /// Seconds of timed rounds for each problem [default: 6; 1.5 with --quick].
    #[arg(long, value_parser = positive)]
    budget: Option<f64>,
    /// Seconds that a peer may take for an answer, compiling included.
    #[arg(long, value_parser = positive, default_value = "300")]
    patience: f64,
    /// Write the results to FILE too, anew after each problem.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The Python that has onnxruntime-webgpu.
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ClockChoice {
    Host,
    Device,
}

fn backend(name: &str) -> Result<wgpu::Backends, String> {
    gpu::backend_named(name).map_err(|e| e.to_string())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds < 1e6 => Ok(seconds),
        _ => Err("a positive number of seconds, below a million".into()),
    }
}

impl Run {
    fn gpu_options(&self) -> Result<GpuOptions, String> {
        let mut options = GpuOptions::from_env().map_err(|e| e.to_string())?;
        options.backends = self.backend.or(options.backends);
        options.adapter = self.adapter.clone().or(options.adapter);
        Ok(options)
    }

    fn effort(&self) -> timing::Effort {
        let seconds = self.budget.unwrap_or(if self.quick { 1.5 } else { 6.0 });
        timing::Effort {
            seconds,
            ..Default::default()
        }
    }

    fn problems(&self, software: bool) -> Result<Vec<Named>, String> {
        let all = problems::all(software, self.quick);
        let wanted = |n: &Named| self.only.is_empty() || self.only.iter().any(|text| n.path().contains(text.as_str()));
        let (chosen, others): (Vec<_>, Vec<_>) = all.into_iter().partition(wanted);
        match chosen.is_empty() {
            false => Ok(chosen),
            true => {
                let names: Vec<_> = others.iter().take(3).map(Named::path).collect();
                Err(format!(
                    "--only {}: no problem has that in its name; names are like {}",
                    self.only.join(" --only "),
                    names.join(", ")
                ))
            }
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Some(Command::Worker(args)) => cubek::work(args).map(|()| true),
        None => run(&cli.run),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

/// Whether this library was right everywhere.
fn run(args: &Run) -> Result<bool, String> {
    let gpu = Gpu::request_blocking(&args.gpu_options()?).map_err(|e| e.to_string())?;
    let software = gpu.info().device_type == wgpu::DeviceType::Cpu;
    let problems = args.problems(software)?;
    let mut peers = peers::start(&gpu, args);
    let mut report = Report::new(&gpu, &peers, args.json.clone());
    report.print_head();
    if args.list {
        report.list(&problems, &peers);
        return Ok(true);
    }
    let folder = inputs::Folder::new()?;
    for named in &problems {
        timing::measure(&gpu, named, &mut peers, &folder, args, &mut report)?;
    }
    report.print_summary();
    Ok(report.ours_is_right())
}
