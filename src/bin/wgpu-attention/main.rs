//! The command line: what the GPUs here can do, whether the kernels are right on them and how fast, and a
//! demonstration.

mod bench;
mod cases;
mod demo;
mod device;
mod heat_map;
mod info;
mod ops;
mod progress;
mod run;
mod verify;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::builder::styling::AnsiColor;
use clap::{Parser, Subcommand};

/// Attention kernels in WGSL for every GPU that wgpu reaches.
///
/// WGPU_ATTENTION_BACKEND and WGPU_ATTENTION_ADAPTER choose the GPU where --backend and --adapter do not.
///
/// Exit status: 0 if all is well, 1 if a result is wrong, 2 if something else is.
#[derive(Debug, Parser)]
#[command(name = "wgpu-attention", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Info(info::InfoArgs),
    Verify(verify::VerifyArgs),
    Run(run::RunArgs),
    Demo(demo::DemoArgs),
    Bench(Box<bench::BenchArgs>),
}

/// Why a command could not do its work.
#[derive(Debug)]
enum Failure {
    /// Nobody reads the output any more, as in `… | head`.
    Closed,
    /// Anything else.
    Message(String),
}

impl From<wgpu_attention::Error> for Failure {
    fn from(error: wgpu_attention::Error) -> Self {
        Failure::Message(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::Message(format!("output: {error}")),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = &mut anstream::stdout();
    let done = match &cli.command {
        Command::Info(args) => info::info(args, out),
        Command::Verify(args) => verify::verify(args, out),
        Command::Run(args) => run::run(args, out),
        Command::Demo(args) => demo::demo(args, out),
        Command::Bench(args) => bench::bench(args, out),
    };
    done.unwrap_or_else(|failure| {
        if let Failure::Message(message) = failure {
            complain(message);
        }
        ExitCode::from(2)
    })
}

/// An error, on stderr.
fn complain(message: impl fmt::Display) {
    let red = AnsiColor::Red.on_default().bold();
    let _ = writeln!(anstream::stderr(), "{red}error:{red:#} {message}");
}

/// 0 or 1: whether everything was right.
fn status(right: bool) -> ExitCode {
    if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A duration at a readable scale.
fn duration(seconds: f64) -> String {
    if seconds < 1e-3 {
        format!("{:.1} µs", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.2} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}
