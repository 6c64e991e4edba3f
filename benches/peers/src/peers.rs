//! The others: which there are, how to start them, and what they cannot express.

use std::env;
use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;
use wgpu_attention::{Dense, Gpu, wgpu};

use crate::Run;
use crate::problems::kv_heads;
use crate::process::Process;
use crate::protocol::{Clock, Hello, Reply, Request, Task};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// cubek-attention, each invocation by itself.
    CubekUnit,
    /// cubek-attention on cooperative matrices.
    CubekBlackbox,
    /// ONNX Runtime's WebGPU attention.
    OnnxWebgpu,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::CubekUnit => "cubek unit",
            Kind::CubekBlackbox => "cubek blackbox",
            Kind::OnnxWebgpu => "onnxruntime webgpu",
        }
    }
}

/// How a peer is started.
#[derive(Clone)]
struct Launch {
    kind: Kind,
    info: wgpu::AdapterInfo,
    python: String,
    patience: Duration,
}

impl Launch {
    fn command(&self) -> Command {
        let routine = match self.kind {
            Kind::CubekUnit => "unit",
            Kind::CubekBlackbox => "blackbox",
            Kind::OnnxWebgpu => {
                let mut command = under_runner(OsStr::new(&self.python));
                command.args(["-c", include_str!("../onnx_webgpu.py")]);
                return command;
            }
        };
        let mut command = this_program();
        let backend = backend(self.info.backend);
        command.args([
            "worker",
            "--routine",
            routine,
            "--adapter",
            &self.info.name,
            "--backend",
            backend,
        ]);
        command
    }

    /// A process that can work, and how it introduced itself.
    fn start(&self) -> Result<(Process, Hello), String> {
        let mut process = Process::start(self.command(), self.patience)?;
        let hello = match process.reply()? {
            Reply::Hello(hello) => hello,
            Reply::Failed { message } => return Err(message),
            other => return Err(format!("it began with {other:?}")),
        };
        match hello.adapter.as_ref().filter(|name| **name != self.info.name) {
            Some(other) => Err(format!("it runs on `{other}`, not on `{}`", self.info.name)),
            None => Ok((process, hello)),
        }
    }
}

/// The others of a run.
pub struct Peers {
    pub present: Vec<Peer>,
    /// Those that cannot run here, and why.
    pub absent: Vec<(&'static str, String)>,
}

/// A peer that can run here.
pub struct Peer {
    pub hello: Hello,
    launch: Launch,
    /// `None` after it failed to answer, until it is needed again.
    process: Option<Process>,
    /// Kinds of problems that it gave no answer to, and why: waiting for each of a kind would take hours.
    hopeless: Vec<(Compiled, String)>,
}

/// What a peer compiles a kernel for: type, head dimension, causality, and whether there is one query.
type Compiled = (String, u32, bool, bool);

/// Starts all that are wanted. One that is not there, or runs on another adapter, is told of and left out.
pub fn start(gpu: &Gpu, args: &Run) -> Peers {
    let wanted = match args.peer.is_empty() {
        true => Kind::value_variants(),
        false => &args.peer,
    };
    let mut peers = Peers {
        present: vec![],
        absent: vec![],
    };
    for &kind in wanted {
        let launch = Launch {
            kind,
            info: gpu.info().clone(),
            python: args.python.clone(),
            patience: Duration::from_secs_f64(args.patience),
        };
        match launch.start() {
            Ok((process, hello)) => peers.present.push(Peer {
                hello,
                launch,
                process: Some(process),
                hopeless: vec![],
            }),
            Err(message) => peers.absent.push((kind.name(), message)),
        }
    }
    peers
}

impl Peer {
    /// Why it cannot express a problem, if it cannot.
    pub fn cannot(&self, p: &Dense) -> Option<&'static str> {
        match self.launch.kind {
            Kind::CubekUnit | Kind::CubekBlackbox => (kv_heads(p) != p.heads).then_some("it has no grouped heads"),
            Kind::OnnxWebgpu => None,
        }
    }

    /// Loads and runs a problem; the kernel's name, where it has one.
    pub fn prepare(&mut self, task: &Task) -> Result<Option<String>, String> {
        let compiled = (task.dtype.clone(), task.head_dim, task.causal, task.queries == 1);
        if let Some((_, why)) = self.hopeless.iter().find(|(kind, _)| *kind == compiled) {
            return Err(format!(
                "not tried again, a problem of the same kind failed before: {why}"
            ));
        }
        match self.ask(&Request::Prepare(task.clone())) {
            Ok(Reply::Prepared { kernel }) => Ok(kernel),
            Ok(other) => Err(format!("it answered {other:?}")),
            Err(message) => {
                if self.process.is_none() {
                    self.hopeless.push((compiled, message.clone()));
                }
                Err(message)
            }
        }
    }

    /// Seconds of one run of what was prepared last, of so many in a row.
    pub fn time(&mut self, repeats: u32, clock: Clock) -> Result<f64, String> {
        match self.ask(&Request::Time { repeats, clock })? {
            Reply::Timed { seconds } if seconds > 0.0 => Ok(seconds),
            other => Err(format!("it answered {other:?}")),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, String> {
        let mut process = match self.process.take() {
            Some(process) => process,
            None => self.launch.start()?.0,
        };
        // Whatever is no reply ends the process: the next answer could be one to this question.
        let reply = process.ask(request)?;
        self.process = Some(process);
        match reply {
            Reply::Failed { message } => Err(message),
            reply => Ok(reply),
        }
    }
}

/// A program, started by the one that `scripts/mesa26 run` names: its children do not inherit its libraries.
fn under_runner(program: &OsStr) -> Command {
    let runner = env::var("WGPU_ATTENTION_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(first) = words.next() else {
        return Command::new(program);
    };
    let mut command = Command::new(first);
    command.args(words).arg(program);
    command
}

/// This program, to be started again. Under a runner the system takes the runner for it.
fn this_program() -> Command {
    let own_name = env::args_os().next().unwrap_or_default();
    match env::var_os("WGPU_ATTENTION_RUNNER") {
        Some(_) => under_runner(&own_name),
        None => Command::new(env::current_exe().unwrap_or_else(|_| own_name.into())),
    }
}

fn backend(backend: wgpu::Backend) -> &'static str {
    match backend {
        wgpu::Backend::Vulkan => "vulkan",
        wgpu::Backend::Metal => "metal",
        wgpu::Backend::Dx12 => "dx12",
        _ => "gl",
    }
}
