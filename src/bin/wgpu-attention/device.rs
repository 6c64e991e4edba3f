//! Which GPU to use, and how to describe it.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use wgpu_attention::tier::{Abilities, Tier};
use wgpu_attention::{Gpu, GpuOptions, gpu};

use crate::Failure;
use crate::bench::Device;

/// Which adapters are meant.
#[derive(Debug, Args)]
#[command(next_help_heading = "GPU")]
pub struct AdapterArgs {
    /// Use an adapter with this in its name, upper or lower case.
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Use this back end.
    #[arg(long, value_enum)]
    backend: Option<Backend>,
}

/// Options of every command that uses a GPU.
#[derive(Debug, Args)]
#[command(next_help_heading = "GPU")]
pub struct GpuArgs {
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Use the kernels of this tier: portable, subgroup, cooperative, or (`verify` and `bench`) each that the GPU has, one after
    /// the other [default: the best for each problem]
    #[arg(long, num_args = 0..=1, default_missing_value = "each")]
    tier: Option<TierChoice>,
    /// Request no optional feature, and the limits that every WebGPU device has.
    #[arg(long)]
    minimal: bool,
}

/// Back ends, as [`gpu::backend_named`] calls them.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Backend {
    Vulkan,
    Metal,
    Dx12,
    Gl,
}

/// What `--tier` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierChoice {
    One(Tier),
    Each,
}

impl FromStr for TierChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match (name, name.parse()) {
            ("each", _) => Ok(TierChoice::Each),
            (_, Ok(tier)) => Ok(TierChoice::One(tier)),
            (_, Err(_)) => Err("portable, subgroup, cooperative or each".into()),
        }
    }
}

impl AdapterArgs {
    /// The environment's wishes, overridden by those of the command line.
    pub fn options(&self) -> Result<GpuOptions, Failure> {
        let mut options = GpuOptions::from_env()?;
        if let Some(backend) = self.backend {
            options.backends = Some(gpu::backend_named(match backend {
                Backend::Vulkan => "vulkan",
                Backend::Metal => "metal",
                Backend::Dx12 => "dx12",
                Backend::Gl => "gl",
            })?);
        }
        if let Some(adapter) = &self.adapter {
            options.adapter = Some(adapter.clone());
        }
        Ok(options)
    }
}

impl GpuArgs {
    fn options(&self) -> Result<GpuOptions, Failure> {
        let mut options = self.adapter.options()?;
        options.minimal = self.minimal;
        if let Some(TierChoice::One(tier)) = self.tier {
            options.tier = Some(tier);
        }
        Ok(options)
    }

    /// The device, for a command that runs in one tier.
    pub fn request(&self) -> Result<Gpu, Failure> {
        if self.tier == Some(TierChoice::Each) {
            return Err(Failure::Message(
                "--tier each: only `verify` and `bench` run in one tier after the other".into(),
            ));
        }
        Ok(Gpu::request_blocking(&self.options()?)?)
    }

    /// The device, once for every tier to run in.
    pub fn request_tiers(&self) -> Result<Vec<Gpu>, Failure> {
        let gpu = Gpu::request_blocking(&self.options()?)?;
        match self.tier {
            Some(TierChoice::Each) => every_tier(&gpu),
            _ => Ok(vec![gpu]),
        }
    }

    /// Whether a tier is named, or each asked for.
    pub fn names_tier(&self) -> bool {
        self.tier.is_some()
    }
}

/// The device, once for every tier it has.
pub fn every_tier(gpu: &Gpu) -> Result<Vec<Gpu>, Failure> {
    let tiers = gpu.abilities().tiers().into_iter();
    Ok(tiers.map(|tier| gpu.with_tier(tier)).collect::<Result<_, _>>()?)
}

/// What an adapter can do for kernels, as far as the library uses it.
pub fn abilities(adapter: &wgpu::Adapter) -> Abilities {
    let matrices = adapter.cooperative_matrix_properties();
    Abilities::of(adapter.features(), &adapter.get_info(), &matrices)
}

/// The tier that is forced, with a comma before it; nothing where the planner chooses.
pub fn forced(gpu: &Gpu) -> String {
    gpu.forced_tier().map_or(String::new(), |tier| format!(", {tier} tier"))
}

/// `name, back end, driver`.
pub fn describe(info: &wgpu::AdapterInfo) -> String {
    let driver = driver(info);
    let separator = if driver.is_empty() { "" } else { ", " };
    format!("{}, {}{separator}{driver}", info.name, backend(info.backend))
}

/// The driver's name and version; adapters leave out either.
pub fn driver(info: &wgpu::AdapterInfo) -> String {
    format!("{} {}", info.driver, info.driver_info).trim().to_string()
}

pub fn backend(backend: wgpu::Backend) -> &'static str {
    match backend {
        wgpu::Backend::Noop => "none",
        wgpu::Backend::Vulkan => "Vulkan",
        wgpu::Backend::Metal => "Metal",
        wgpu::Backend::Dx12 => "DX12",
        wgpu::Backend::Gl => "OpenGL",
        wgpu::Backend::BrowserWebGpu => "WebGPU",
    }
}

pub fn kind(kind: wgpu::DeviceType) -> &'static str {
    match kind {
        wgpu::DeviceType::DiscreteGpu => "discrete GPU",
        wgpu::DeviceType::IntegratedGpu => "integrated GPU",
        wgpu::DeviceType::VirtualGpu => "virtual GPU",
        wgpu::DeviceType::Cpu => "software, on the CPU",
        wgpu::DeviceType::Other => "unknown",
    }
}

pub fn to_json(info: &wgpu::AdapterInfo) -> Value {
    json!({
        "name": info.name,
        "backend": backend(info.backend),
        "driver": info.driver,
        "driver_info": info.driver_info,
        "type": kind(info.device_type),
    })
}

/// As [`to_json`], for a benchmark.
pub fn to_bench(info: &wgpu::AdapterInfo) -> Device {
    Device {
        name: info.name.clone(),
        backend: backend(info.backend).into(),
        driver: info.driver.clone(),
        driver_info: info.driver_info.clone(),
        kind: kind(info.device_type).into(),
    }
}
