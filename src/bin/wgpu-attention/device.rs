//! Which GPU to use, and how to describe it.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use wgpu_attention::{Gpu, GpuOptions, gpu};

use crate::Failure;

/// Options of every command that uses a GPU.
#[derive(Debug, Args)]
#[command(next_help_heading = "GPU")]
pub struct GpuArgs {
    /// Use an adapter with this in its name, upper or lower case.
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Use this back end.
    #[arg(long, value_enum)]
    backend: Option<Backend>,
    /// Use the kernels of this tier.
    #[arg(long, value_enum, default_value_t = Tier::Portable)]
    tier: Tier,
    /// Request no optional feature, and the limits that every WebGPU device has.
    #[arg(long)]
    minimal: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Back ends, as [`gpu::backend_named`] calls them.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Backend {
    Vulkan,
    Metal,
    Dx12,
    Gl,
}

/// Kernels by what they ask of a device.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Tier {
    /// Core WGSL and the limits of every WebGPU device.
    Portable,
}

impl Tier {
    /// The best one that an adapter can have.
    pub fn of(_adapter: &wgpu::Adapter) -> Self {
        Tier::Portable
    }

    pub fn name(self) -> &'static str {
        match self {
            Tier::Portable => "portable",
        }
    }
}

impl GpuArgs {
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
        options.minimal = self.minimal;
        Ok(options)
    }

    pub fn request(&self) -> Result<Gpu, Failure> {
        Ok(Gpu::request_blocking(&self.options()?)?)
    }

    pub fn tier(&self) -> Tier {
        self.tier
    }
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
