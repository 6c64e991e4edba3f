//! The device: the caller's own, or one this library requests.
//!
//! ```no_run
//! use wgpu_attention::{Gpu, GpuOptions, wgpu};
//!
//! // The library's own choice, or the caller's by name and back end.
//! let options = GpuOptions { backends: Some(wgpu::Backends::VULKAN), adapter: Some("radeon".into()), ..Default::default() };
//! let gpu = Gpu::request_blocking(&options)?;
//! println!("{}", gpu.info().name);
//!
//! // Or the device that a program has already.
//! # fn adopt(device: &wgpu::Device, queue: &wgpu::Queue) {
//! let gpu = Gpu::new(device, queue);
//! # }
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;

use crate::error::{Error, Result};
use crate::measure::ProbeRun;
use crate::ops::host;
use crate::shader::{self, Pipeline, Variant};
use crate::tier::{Abilities, Tier};

/// A device, its queue and what they can do, with the pipelines compiled on it so far.
///
/// Cheap to clone; clones share their pipelines.
#[derive(Clone, Debug)]
pub struct Gpu {
    inner: Arc<Inner>,
    /// The tier that plans must use.
    tier: Option<Tier>,
    pipeline_cache: Option<wgpu::PipelineCache>,
}

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    limits: wgpu::Limits,
    features: wgpu::Features,
    abilities: Abilities,
    checked: bool,
    pipelines: Mutex<HashMap<Variant, Arc<Pipeline>>>,
    workspaces: Mutex<[Option<wgpu::Buffer>; 2]>,
}

/// Buffers that plans use between their own dispatches. A dispatch may not read and write one buffer, so an op of several
/// steps goes from the one to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workspace {
    /// Partial results, and scores.
    Partials,
    /// Lists, and what stands for blocks of keys.
    Lists,
}

/// What to request, where the library requests the device. The default takes the fastest adapter there is, with the
/// features and limits this library can use.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Back ends to look at. `None`: all that were compiled in.
    pub backends: Option<wgpu::Backends>,
    /// Part of the adapter's name, upper or lower case. `None`: any.
    pub adapter: Option<String>,
    /// No optional feature and the limits every WebGPU device has, to see what a small device will see.
    pub minimal: bool,
    /// Limits to request instead of the adapter's own.
    pub limits: Option<wgpu::Limits>,
    /// Keep the driver-side checks on every array access and loop. The kernels check their own bounds and do without;
    /// with this on, a test can show that they are right to. Custom code is always checked.
    pub checked: bool,
    /// As [`Gpu::with_tier`].
    pub tier: Option<Tier>,
}

impl GpuOptions {
    /// The default, with `WGPU_ATTENTION_BACKEND` (`vulkan`, `metal`, `dx12` or `gl`) and `WGPU_ATTENTION_ADAPTER` (part of
    /// an adapter's name) from the environment where they are set.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a back end that does not exist.
    pub fn from_env() -> Result<Self> {
        let variable = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let backends = match variable("WGPU_ATTENTION_BACKEND").as_deref() {
            None => None,
            Some(name) => Some(backend_named(name)?),
        };
        Ok(GpuOptions {
            backends,
            adapter: variable("WGPU_ATTENTION_ADAPTER"),
            ..Default::default()
        })
    }
}

/// The back end with this lower-case name.
///
/// # Errors
/// [`Error::Invalid`] if there is none.
pub fn backend_named(name: &str) -> Result<wgpu::Backends> {
    match name {
        "vulkan" => Ok(wgpu::Backends::VULKAN),
        "metal" => Ok(wgpu::Backends::METAL),
        "dx12" => Ok(wgpu::Backends::DX12),
        "gl" => Ok(wgpu::Backends::GL),
        other => Err(Error::Invalid {
            field: "backend",
            value: format!("`{other}`"),
            allowed: "vulkan, metal, dx12 or gl".into(),
        }),
    }
}

impl Gpu {
    /// Uses the caller's own device. Any feature the device lacks is done without, and so are cooperative matrices, whose
    /// shapes only the adapter tells: [`Gpu::of_adapter`] uses them. What to request is in [`device_descriptor`].
    ///
    /// `checked` as in [`GpuOptions::checked`] is off.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self::with_checks(device, queue, false)
    }

    /// As [`Gpu::new`], with the adapter that the device is from. Of its features these make kernels faster: `SUBGROUP`,
    /// `SUBGROUP_BARRIER`, `SHADER_F16`, and `EXPERIMENTAL_COOPERATIVE_MATRIX`, which takes `SUBGROUP` and `SHADER_F16` as well and
    /// `wgpu::ExperimentalFeatures::enabled()` when the device is requested; beside that one, on Vulkan, `PASSTHROUGH_SHADERS`.
    ///
    /// With both, a small dispatch is run here and waited for: how invocations have elements of matrices, only trying tells.
    pub fn of_adapter(adapter: &wgpu::Adapter, device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self::with_matrices(device, queue, false, &adapter.cooperative_matrix_properties())
    }

    /// As [`Gpu::new`], with every access checked by the driver too if `checked`.
    pub fn with_checks(device: &wgpu::Device, queue: &wgpu::Queue, checked: bool) -> Self {
        Self::with_matrices(device, queue, checked, &[])
    }

    fn with_matrices(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        checked: bool,
        matrices: &[wgpu::CooperativeMatrixProperties],
    ) -> Self {
        let info = device.adapter_info();
        let mut gpu = Gpu {
            tier: None,
            pipeline_cache: None,
            inner: Arc::new(Inner {
                abilities: Abilities::of(device.features(), &info, matrices),
                info,
                limits: device.limits(),
                features: device.features(),
                device: device.clone(),
                queue: queue.clone(),
                checked,
                pipelines: Mutex::new(HashMap::new()),
                workspaces: Mutex::new([None, None]),
            }),
        };
        let elements = ProbeRun::places(&gpu);
        if let Some(inner) = Arc::get_mut(&mut gpu.inner) {
            inner.abilities.elements = elements;
            // The probe's own is not needed again.
            inner.pipelines = Mutex::default();
        }
        gpu
    }

    /// Requests a device.
    ///
    /// Where the adapter has cooperative matrices that kernels can use, that includes wgpu's experimental feature for them.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] with what was asked for and what was found; [`Error::Device`] if the adapter refuses;
    /// [`Error::Unsupported`] if it lacks what `tier` takes.
    pub async fn request(options: &GpuOptions) -> Result<Self> {
        let adapter = find_adapter(options).await?;
        let mut descriptor = device_descriptor(&adapter);
        if options.minimal {
            descriptor = wgpu::DeviceDescriptor {
                label: descriptor.label,
                // Downlevel adapters (OpenGL) have less than the defaults in places that compute never touches.
                required_limits: wgpu::Limits::default().or_worse_values_from(&adapter.limits()),
                ..Default::default()
            };
        }
        if let Some(limits) = &options.limits {
            descriptor.required_limits = limits.clone();
        }
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| Error::Device { message: e.to_string() })?;
        let matrices = adapter.cooperative_matrix_properties();
        let gpu = Self::with_matrices(&device, &queue, options.checked, &matrices);
        match options.tier {
            Some(tier) => gpu.with_tier(tier),
            None => Ok(gpu),
        }
    }

    /// [`Gpu::request`], blocking. Not for browsers, where nothing may block.
    pub fn request_blocking(options: &GpuOptions) -> Result<Self> {
        pollster::block_on(Self::request(options))
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    /// Its queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.inner.queue
    }

    /// Name, driver and back end of the adapter.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.inner.info
    }

    /// The limits the device was created with.
    pub fn limits(&self) -> &wgpu::Limits {
        &self.inner.limits
    }

    /// The features the device was created with.
    pub fn features(&self) -> wgpu::Features {
        self.inner.features
    }

    /// What the device has beyond the portable tier.
    pub fn abilities(&self) -> Abilities {
        self.inner.abilities
    }

    /// The same device, whose plans use kernels of this tier. A dense or linear problem that none of them serves is refused
    /// with [`Error::Unsupported`], and so is a top-k problem whose attention is; other steps take the best there is up to
    /// the tier.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the device lacks what the tier takes.
    pub fn with_tier(&self, tier: Tier) -> Result<Self> {
        if !self.inner.abilities.serve(tier) {
            return Err(Error::Unsupported {
                what: format!("the {tier} tier"),
                why: format!("it takes {}", tier.needs()),
            });
        }
        Ok(Gpu {
            tier: Some(tier),
            ..self.clone()
        })
    }

    /// The same device, whose plans take what the planner picks.
    pub fn with_any_tier(&self) -> Self {
        Gpu {
            tier: None,
            ..self.clone()
        }
    }

    /// The same device, whose pipelines are compiled with a cache of the driver's: what it holds from an earlier run of the
    /// program need not be compiled again. The cache is the caller's to make ([`wgpu::Device::create_pipeline_cache`], feature
    /// `PIPELINE_CACHE`, today on Vulkan only), and to save ([`wgpu::PipelineCache::get_data`]).
    ///
    /// ```no_run
    /// # use wgpu_attention::{Gpu, wgpu};
    /// # fn f(gpu: &Gpu, saved: Option<Vec<u8>>) -> Gpu {
    /// let descriptor = wgpu::PipelineCacheDescriptor { label: None, data: saved.as_deref(), fallback: true };
    /// // SAFETY: `saved` is what `get_data` gave, or nothing.
    /// let cache = unsafe { gpu.device().create_pipeline_cache(&descriptor) };
    /// gpu.with_pipeline_cache(&cache)
    /// # }
    /// ```
    pub fn with_pipeline_cache(&self, cache: &wgpu::PipelineCache) -> Self {
        Gpu {
            pipeline_cache: Some(cache.clone()),
            ..self.clone()
        }
    }

    pub(crate) fn pipeline_cache(&self) -> Option<&wgpu::PipelineCache> {
        self.pipeline_cache.as_ref()
    }

    /// Pipelines compiled so far.
    pub fn pipeline_count(&self) -> usize {
        lock(&self.inner.pipelines).len()
    }

    /// Bytes of device memory that plans use between their own dispatches: two buffers, shared by all plans of this device
    /// and as large as the largest of them needs, rounded up to a power of two
    /// where buffers may be so large.
    pub fn workspace_bytes(&self) -> u64 {
        lock(&self.inner.workspaces)
            .iter()
            .flatten()
            .map(wgpu::Buffer::size)
            .sum()
    }

    /// Lets go of that memory. What was recorded keeps what it uses until it has run; the next call that needs some takes it
    /// anew.
    pub fn trim(&self) {
        *lock(&self.inner.workspaces) = [None, None];
    }

    /// The tier that plans must use, if one is forced.
    pub fn forced_tier(&self) -> Option<Tier> {
        self.tier
    }

    /// Submits what was recorded, waits for it, and brings the contents of a buffer back: the end of a program that kept
    /// everything on the device until then.
    ///
    /// ```no_run
    /// # use wgpu_attention::{DensePlan, DenseTensors, Gpu, Result};
    /// # async fn f(gpu: &Gpu, plan: &DensePlan, tensors: &DenseTensors<'_>, o: &wgpu::Buffer) -> Result<()> {
    /// let mut encoder = gpu.device().create_command_encoder(&Default::default());
    /// plan.encode(&mut encoder, tensors)?;
    /// let bytes = gpu.submit_and_read(encoder, o).await?;
    /// let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Tensor`] for a buffer without usage `COPY_SRC`, or whose size is no multiple of 4, which wgpu cannot copy;
    /// [`Error::Device`] if what was recorded is refused or the device is lost.
    pub async fn submit_and_read(&self, encoder: wgpu::CommandEncoder, buffer: &wgpu::Buffer) -> Result<Vec<u8>> {
        let wrong = |found: String, needed: &str| Error::Tensor {
            tensor: "buffer",
            found,
            needed: needed.into(),
        };
        if !buffer.usage().contains(wgpu::BufferUsages::COPY_SRC) {
            return Err(wrong(format!("usage {:?}", buffer.usage()), "usage `COPY_SRC`"));
        }
        if !buffer.size().is_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT) {
            return Err(wrong(format!("{} bytes", buffer.size()), "a multiple of 4"));
        }
        let mut contents = host::submit_and_read(self, encoder, &[("buffer", buffer)]).await?;
        Ok(contents.remove(0))
    }

    /// [`Gpu::submit_and_read`], blocking. Not for browsers, where nothing may block.
    pub fn submit_and_read_blocking(&self, encoder: wgpu::CommandEncoder, buffer: &wgpu::Buffer) -> Result<Vec<u8>> {
        pollster::block_on(self.submit_and_read(encoder, buffer))
    }

    /// The pipeline of a variant, compiled the first time it is asked for.
    pub(crate) fn pipeline(&self, variant: &Variant) -> Result<Arc<Pipeline>> {
        if let Some(found) = self.cached_pipeline(variant) {
            return Ok(found);
        }
        // Compiled outside the lock: other plans go on meanwhile. Two threads may compile the same variant once.
        let pipeline = Arc::new(shader::compile(self, variant)?);
        Ok(lock(&self.inner.pipelines)
            .entry(variant.clone())
            .or_insert(pipeline)
            .clone())
    }

    /// The pipeline of a variant, if it was compiled before.
    pub(crate) fn cached_pipeline(&self, variant: &Variant) -> Option<Arc<Pipeline>> {
        lock(&self.inner.pipelines).get(variant).cloned()
    }

    pub(crate) fn checked(&self) -> bool {
        self.inner.checked
    }

    /// A buffer of at least `size` bytes that plans use between their own dispatches. Dispatches on one queue run
    /// in order, so plans can share it.
    pub(crate) fn workspace(&self, which: Workspace, size: u64) -> Result<wgpu::Buffer> {
        let mut slots = lock(&self.inner.workspaces);
        let slot = &mut slots[which as usize];
        if let Some(buffer) = slot.as_ref()
            && buffer.size() >= size
        {
            return Ok(buffer.clone());
        }
        let buffer = self.guarded(|device| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu-attention workspace"),
                // Some to spare, as far as buffers may be so large.
                size: size
                    .next_power_of_two()
                    .min(self.inner.limits.max_buffer_size)
                    .max(size),
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        })?;
        *slot = Some(buffer.clone());
        Ok(buffer)
    }

    /// Runs something that creates resources and turns what wgpu says into an error.
    pub(crate) fn guarded<T>(&self, create: impl FnOnce(&wgpu::Device) -> T) -> Result<T> {
        self.caught(create)
            .map_err(|e| Error::Device { message: e.to_string() })
    }

    /// As [`Gpu::guarded`], with wgpu's own error.
    pub(crate) fn caught<T>(&self, create: impl FnOnce(&wgpu::Device) -> T) -> std::result::Result<T, wgpu::Error> {
        let device = &self.inner.device;
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let made = create(device);
        // Native back ends answer at once; a browser answers later, and then its console has the message.
        for scope in [internal, memory, validation] {
            if let Some(Some(error)) = scope.pop().now_or_never() {
                return Err(error);
            }
        }
        Ok(made)
    }
}

/// The error of something that hardly fails on a device that is there. wgpu tells only a callback that a device is
/// lost, and a device has but one, which is the caller's.
pub(crate) fn lost(doing: impl std::fmt::Display, error: impl std::fmt::Display) -> Error {
    Error::Device {
        message: format!("{doing} failed; the device seems to be lost: {error}"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What to request of an adapter for the fastest kernels: the features among those it has that they or measurements make use of,
/// and all of its limits, since the defaults leave a workgroup 16 KiB of memory and a buffer's binding 128 MiB. For a program
/// that requests its own device, and adds what else it needs:
///
/// ```no_run
/// use wgpu_attention::{Gpu, gpu, wgpu};
///
/// # async fn f(adapter: &wgpu::Adapter) -> Result<Gpu, wgpu::RequestDeviceError> {
/// let mut descriptor = gpu::device_descriptor(adapter);
/// descriptor.required_features |= wgpu::Features::TEXTURE_COMPRESSION_BC;
/// let (device, queue) = adapter.request_device(&descriptor).await?;
/// // With the adapter, because only that tells the shapes of its cooperative matrices.
/// Ok(Gpu::of_adapter(adapter, &device, &queue))
/// # }
/// ```
///
/// Cooperative matrices are an experimental feature of wgpu, so that the descriptor allows those where the adapter has matrices
/// that kernels can use, and with them `PASSTHROUGH_SHADERS`: on Vulkan, kernels that get at the elements of matrices are given to
/// the driver as SPIR-V.
pub fn device_descriptor(adapter: &wgpu::Adapter) -> wgpu::DeviceDescriptor<'static> {
    let features = useful_features(adapter);
    wgpu::DeviceDescriptor {
        label: Some("wgpu-attention"),
        required_features: features,
        experimental_features: experimental(features),
        required_limits: adapter.limits(),
        ..Default::default()
    }
}

/// Optional features of an adapter that kernels or measurements make use of.
fn useful_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    let wanted = wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS
        | wgpu::Features::SHADER_F16
        | wgpu::Features::SUBGROUP
        | wgpu::Features::SUBGROUP_BARRIER
        | wgpu::Features::PASSTHROUGH_SHADERS
        | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    let features = adapter.features() & wanted;
    let abilities = Abilities::of(features, &adapter.get_info(), &adapter.cooperative_matrix_properties());
    match abilities.matrices {
        Some(_) => features,
        None => features - wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX - wgpu::Features::PASSTHROUGH_SHADERS,
    }
}

/// Experimental features are off unless one is among these.
fn experimental(features: wgpu::Features) -> wgpu::ExperimentalFeatures {
    if !features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: kernels with cooperative matrices are this library's own. They load and store matrices inside their arrays,
    // in control flow that is uniform in a subgroup, with shapes that the adapter reports.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// The adapters that match, the fastest kind first.
///
/// Where `options.backends` is `None`, OpenGL is looked at only if no other back end has a match: it mostly shows the
/// same GPUs again, with less to offer, and looking at it makes some drivers print warnings.
///
/// # Errors
/// [`Error::NoAdapter`] where none does.
pub async fn adapters(options: &GpuOptions) -> Result<Vec<wgpu::Adapter>> {
    let all = wgpu::Backends::all();
    match options.backends {
        Some(backends) => adapters_on(backends, options).await,
        None => match adapters_on(all - wgpu::Backends::GL, options).await {
            Err(Error::NoAdapter { .. }) => adapters_on(all, options).await,
            found => found,
        },
    }
}

async fn adapters_on(backends: wgpu::Backends, options: &GpuOptions) -> Result<Vec<wgpu::Adapter>> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    let instance = wgpu::Instance::new(descriptor);
    let all = instance.enumerate_adapters(backends).await;
    let named = |info: wgpu::AdapterInfo| format!("{} on {:?}", info.name, info.backend);
    let names: Vec<String> = all.iter().map(|a| named(a.get_info())).collect();
    let wanted = options.adapter.as_deref().unwrap_or("").to_lowercase();
    let mut found: Vec<_> = all
        .into_iter()
        .filter(|a| a.get_info().name.to_lowercase().contains(&wanted))
        .filter(|a| {
            a.get_downlevel_capabilities()
                .flags
                .contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
        })
        .collect();
    found.sort_by_key(|a| rank(&a.get_info()));
    if found.is_empty() {
        return Err(none_found(backends, options.adapter.as_deref(), &names));
    }
    Ok(found)
}

/// What was asked for, and what there is instead.
fn none_found(backends: wgpu::Backends, wanted: Option<&str>, found: &[String]) -> Error {
    let on = match backends == wgpu::Backends::all() {
        true => String::new(),
        false => {
            let names = backends.iter_names().map(|(name, _)| name.to_lowercase());
            format!(", on {}", names.collect::<Vec<_>>().join(" or "))
        }
    };
    let named = wanted.map_or(String::new(), |name| format!(", with `{name}` in its name"));
    let found = match found.is_empty() {
        true => "none; the driver may be missing, or the back end from this build".into(),
        false => found.join("; "),
    };
    Error::NoAdapter {
        message: format!("wanted one that computes{on}{named}; found: {found}"),
    }
}

async fn find_adapter(options: &GpuOptions) -> Result<wgpu::Adapter> {
    let mut found = adapters(options).await?;
    Ok(found.swap_remove(0))
}

/// Discrete before integrated before software, native back ends before OpenGL.
fn rank(info: &wgpu::AdapterInfo) -> (u8, u8) {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    (kind, (info.backend == wgpu::Backend::Gl) as u8)
}
