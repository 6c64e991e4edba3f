//! cubek-attention, the attention of burn, on cubecl's wgpu runtime.

use std::fs;
use std::path::Path;
use std::time::Instant;

use clap::{Args, ValueEnum};
use cubecl::Device;
use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::Scalar;
use cubecl::std::tensor::TensorHandle;
use cubecl::wgpu::{WgpuBackend, WgpuDevice, WgpuDeviceKind};
use cubek_attention::forward::definition::{AttentionGlobalTypes, AttentionOptions};
use cubek_attention::forward::launch::{BlueprintStrategy, Strategy, launch_ref};
use cubek_attention::forward::routines::blackbox_accelerated::BlackboxAcceleratedStrategy;
use half::f16;
use wgpu_attention::{DType, gpu, wgpu};

use crate::inputs::read;
use crate::protocol::{Clock, Hello, Task};
use crate::worker::{Peer, serve};

/// The versions that Cargo.toml asks for.
const PROGRAM: &str = "cubek-attention";
const VERSION: &str = "0.3.1";

#[derive(Debug, Args)]
pub struct WorkerArgs {
    #[arg(long, value_enum)]
    routine: Routine,
    /// The whole name of an adapter.
    #[arg(long)]
    adapter: String,
    /// vulkan, metal, dx12 or gl
    #[arg(long)]
    backend: String,
}

/// cubek's ways to do the two products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Routine {
    /// Each invocation by itself; runs everywhere.
    Unit,
    /// On cooperative matrices.
    Blackbox,
}

impl Routine {
    /// Its settings for a task. cubek picks Unit's itself; those of the other are the caller's to find, as burn does by
    /// trying some.
    fn strategies(self) -> Vec<(Option<String>, Strategy)> {
        match self {
            Routine::Unit => vec![(None, Strategy::Unit(BlueprintStrategy::Inferred(())))],
            Routine::Blackbox => [
                (1, 1, 1),
                (2, 1, 1),
                (4, 1, 1),
                (8, 1, 1),
                (4, 1, 2),
                (4, 2, 2),
                (8, 1, 4),
            ]
            .map(|(num_planes, seq_q, seq_kv)| {
                let settings = BlackboxAcceleratedStrategy {
                    num_planes,
                    seq_q,
                    seq_kv,
                };
                let label = format!("planes {num_planes}, seq_q {seq_q}, seq_kv {seq_kv}");
                (
                    Some(label),
                    Strategy::BlackboxAccelerated(BlueprintStrategy::Inferred(settings)),
                )
            })
            .into(),
        }
    }
}

/// Answers requests until standard input ends.
pub fn work(args: &WorkerArgs) -> Result<(), String> {
    serve(|| Cubek::start(args))
}

struct Cubek {
    client: Client,
    routine: Routine,
    software: bool,
    loaded: Option<Loaded>,
}

/// A problem on the device.
struct Loaded {
    strategy: Strategy,
    /// q, k, v and o.
    tensors: [TensorHandle; 4],
    types: AttentionGlobalTypes,
    causal: bool,
}

impl Cubek {
    fn start(args: &WorkerArgs) -> Result<Self, String> {
        let (device, software) = find(&args.adapter, &args.backend)?;
        Ok(Cubek {
            client: Device::Wgpu(device).client(),
            routine: args.routine,
            software,
            loaded: None,
        })
    }

    fn launch(&self) -> Result<(), String> {
        let loaded = self.loaded.as_ref().ok_or("nothing is prepared")?;
        let [q, k, v, o] = loaded.tensors.clone().map(TensorHandle::binding);
        let options = AttentionOptions {
            causal: loaded.causal,
            ..Default::default()
        };
        let strategy = loaded.strategy.clone();
        launch_ref(strategy, &self.client, q, k, v, None, o, &loaded.types, options).map_err(|e| e.to_string())
    }

    fn wait(&self) -> Result<(), String> {
        pollster::block_on(self.client.sync()).map_err(|e| format!("{e:?}"))
    }

    fn host_seconds(&self, repeats: u32) -> Result<f64, String> {
        let start = Instant::now();
        (0..repeats).try_for_each(|_| self.launch())?;
        self.wait()?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn device_seconds(&self, repeats: u32) -> Result<f64, String> {
        let runs = || (0..repeats).try_for_each(|_| self.launch());
        let (ran, duration) = self.client.profile(runs, "attention").map_err(|e| format!("{e:?}"))?;
        ran?;
        let ticks = pollster::block_on(duration.resolve()).ok_or("the device gave no timestamps")?;
        Ok(ticks.duration().as_secs_f64())
    }

    /// Seconds of a run with these settings, the better of two after one that compiles.
    fn try_out(&mut self, strategy: Strategy) -> Result<f64, String> {
        self.loaded.as_mut().ok_or("nothing is loaded")?.strategy = strategy;
        self.host_seconds(1)?;
        Ok(self.host_seconds(1)?.min(self.host_seconds(1)?))
    }

    /// The fastest settings that run; if none does, why not the first.
    fn choose(&mut self) -> Result<Option<String>, String> {
        let mut best: Option<(f64, Option<String>, Strategy)> = None;
        let mut failure = None;
        for (label, strategy) in self.routine.strategies() {
            match self.try_out(strategy.clone()) {
                Ok(seconds) if best.as_ref().is_none_or(|(least, ..)| seconds < *least) => {
                    best = Some((seconds, label, strategy));
                }
                Ok(_) => {}
                Err(message) => _ = failure.get_or_insert(message),
            }
        }
        match best {
            Some((_, label, strategy)) => {
                self.loaded.as_mut().ok_or("nothing is loaded")?.strategy = strategy;
                Ok(label)
            }
            None => Err(failure.unwrap_or_default()),
        }
    }

    fn write_output(&self, folder: &Path) -> Result<(), String> {
        let loaded = self.loaded.as_ref().ok_or("nothing is prepared")?;
        let bytes = self
            .client
            .read_one(loaded.tensors[3].handle.clone())
            .map_err(|e| format!("{e:?}"))?;
        fs::write(folder.join("o"), &bytes[..]).map_err(|e| format!("the output: {e}"))
    }
}

impl Peer for Cubek {
    fn hello(&self) -> Hello {
        let routine = match self.routine {
            Routine::Unit => "cubek unit",
            Routine::Blackbox => "cubek blackbox",
        };
        let language = if self.client.name().contains("spirv") {
            " spirv"
        } else {
            ""
        };
        let properties = self.client.properties();
        Hello {
            implementation: format!("{routine}{language}"),
            program: PROGRAM.into(),
            version: VERSION.into(),
            adapter: Some(properties.identity.name.clone()),
            // A software GPU's timestamps do not bracket its work.
            device_clock: !self.software && format!("{:?}", properties.timing_method) == "Device",
        }
    }

    fn prepare(&mut self, task: &Task) -> Result<Option<String>, String> {
        // Frees the last problem first: two large ones may not fit.
        self.loaded = None;
        self.loaded = Some(Loaded::new(&self.client, task)?);
        let kernel = self.choose()?;
        self.launch()?;
        self.write_output(&task.folder)?;
        Ok(kernel)
    }

    fn time(&mut self, repeats: u32, clock: Clock) -> Result<f64, String> {
        let seconds = match clock {
            Clock::Host => self.host_seconds(repeats),
            Clock::Device => self.device_seconds(repeats),
        };
        Ok(seconds? / f64::from(repeats))
    }
}

impl Loaded {
    fn new(client: &Client, task: &Task) -> Result<Self, String> {
        if task.kv_heads != task.heads {
            return Err("it has no grouped heads".into());
        }
        let dtype = task.dtype()?;
        let element: ElemType = match dtype {
            DType::F16 => f16::elem_type_native(),
            _ => f32::elem_type_native(),
        };
        let shape = |rows: u32, dim: u32| [task.batch, task.heads, rows, dim].map(|n| n as usize);
        let input = |name: &str, shape: [usize; 4]| -> Result<TensorHandle, String> {
            let handle = client.create_from_slice(&read(&task.folder, name)?);
            Ok(TensorHandle::new_contiguous(shape, handle, element))
        };
        let output = shape(task.queries, task.value_dim);
        let bytes = output.iter().product::<usize>() * dtype.size() as usize;
        Ok(Loaded {
            strategy: Strategy::Unit(BlueprintStrategy::Inferred(())),
            tensors: [
                input("q", shape(task.queries, task.head_dim))?,
                input("k", shape(task.keys, task.head_dim))?,
                input("v", shape(task.keys, task.value_dim))?,
                TensorHandle::new_contiguous(output, client.empty(bytes), element),
            ],
            // There is no mask tensor, but its type has to be one that the device stores.
            types: AttentionGlobalTypes::from_single_float_dtype(element, u32::elem_type_native()),
            causal: task.causal,
        })
    }
}

/// cubecl's name for an adapter, and whether it is a software GPU.
fn find(name: &str, backend: &str) -> Result<(WgpuDevice, bool), String> {
    let backends = gpu::backend_named(backend).map_err(|e| e.to_string())?;
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    let instance = wgpu::Instance::new(descriptor);
    let infos: Vec<_> = pollster::block_on(instance.enumerate_adapters(backends))
        .iter()
        .map(wgpu::Adapter::get_info)
        .collect();
    let position = infos.iter().position(|info| info.name == name);
    let position = position.ok_or_else(|| format!("no adapter `{name}` on {backend}"))?;
    let kind = infos[position].device_type;
    // cubecl counts the adapters of each kind by itself.
    let number = infos[..position].iter().filter(|info| info.device_type == kind).count();
    let kind = match (kind, number) {
        (wgpu::DeviceType::DiscreteGpu, n) => WgpuDeviceKind::DiscreteGpu(n),
        (wgpu::DeviceType::IntegratedGpu, n) => WgpuDeviceKind::IntegratedGpu(n),
        (wgpu::DeviceType::VirtualGpu, n) => WgpuDeviceKind::VirtualGpu(n),
        (wgpu::DeviceType::Other, n) => WgpuDeviceKind::Other(n),
        (wgpu::DeviceType::Cpu, 0) => WgpuDeviceKind::Cpu,
        (wgpu::DeviceType::Cpu, _) => return Err("cubecl reaches the first software adapter only".into()),
    };
    let on = match backend {
        "vulkan" => WgpuBackend::Vulkan,
        "metal" => WgpuBackend::Metal,
        "dx12" => WgpuBackend::Dx12,
        _ => WgpuBackend::Gl,
    };
    let software = kind == WgpuDeviceKind::Cpu;
    Ok((WgpuDevice::new(kind).on(on), software))
}
