//! `info`: the GPUs here and what they can do.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use clap::builder::styling::Style;
use serde_json::{Value, json};
use wgpu::Features;
use wgpu_attention::{Tier, gpu};

use crate::device::{self, AdapterArgs};
use crate::{Failure, status};

/// Show the GPUs here: back end, driver, features and limits that matter, and the tiers of kernels they can run.
///
/// The first is the one that the other commands use. OpenGL is looked at where nothing else is found, or where it is
/// asked for with --backend gl.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    adapter: AdapterArgs,
}

/// Features that decide what kernels a device can run, or how well it can be measured.
const FEATURES: [(&str, Features); 5] = [
    ("SHADER_F16", Features::SHADER_F16),
    ("SUBGROUP", Features::SUBGROUP),
    ("SUBGROUP_BARRIER", Features::SUBGROUP_BARRIER),
    (
        "EXPERIMENTAL_COOPERATIVE_MATRIX",
        Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
    ),
    ("TIMESTAMP_QUERY", Features::TIMESTAMP_QUERY),
];

/// Limits that decide about tiles and about how problems are split: what they count, name, value, bytes or not.
fn limits(limits: &wgpu::Limits) -> [(&'static str, &'static str, u64, bool); 6] {
    [
        (
            "workgroup memory",
            "max_compute_workgroup_storage_size",
            limits.max_compute_workgroup_storage_size.into(),
            true,
        ),
        (
            "invocations a workgroup",
            "max_compute_invocations_per_workgroup",
            limits.max_compute_invocations_per_workgroup.into(),
            false,
        ),
        (
            "workgroups a dimension",
            "max_compute_workgroups_per_dimension",
            limits.max_compute_workgroups_per_dimension.into(),
            false,
        ),
        (
            "storage buffers",
            "max_storage_buffers_per_shader_stage",
            limits.max_storage_buffers_per_shader_stage.into(),
            false,
        ),
        (
            "binding",
            "max_storage_buffer_binding_size",
            limits.max_storage_buffer_binding_size,
            true,
        ),
        ("buffer", "max_buffer_size", limits.max_buffer_size, true),
    ]
}

pub fn info(args: &InfoArgs, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let adapters = pollster::block_on(gpu::adapters(&args.adapter.options()?))?;
    if args.json {
        let adapters: Vec<_> = adapters.iter().map(to_json).collect();
        writeln!(out, "{:#}", json!({ "adapters": adapters }))?;
        return Ok(status(true));
    }
    for (n, adapter) in adapters.iter().enumerate() {
        if n > 0 {
            writeln!(out)?;
        }
        print(adapter, out)?;
    }
    Ok(status(true))
}

fn print(adapter: &wgpu::Adapter, out: &mut dyn Write) -> Result<(), Failure> {
    let info = adapter.get_info();
    let bold = Style::new().bold();
    writeln!(out, "{bold}{}{bold:#}", info.name)?;
    writeln!(out, "  back end  {}", device::backend(info.backend))?;
    writeln!(out, "  driver    {}", device::driver(&info))?;
    writeln!(out, "  type      {}", device::kind(info.device_type))?;
    let (has, lacks): (Vec<_>, Vec<_>) = FEATURES.iter().partition(|(_, f)| adapter.features().contains(*f));
    writeln!(out, "  features  {}", names(&has))?;
    writeln!(out, "  without   {}", names(&lacks))?;
    if adapter.features().contains(Features::SUBGROUP) {
        let sizes = (info.subgroup_min_size, info.subgroup_max_size);
        writeln!(out, "  subgroups of {} to {}", sizes.0, sizes.1)?;
    }
    let abilities = device::abilities(adapter);
    if let Some(edge) = abilities.matrices {
        writeln!(out, "  matrices  {edge}×{edge}, f16 with f32 sums")?;
    }
    let limits: Vec<_> = limits(&adapter.limits())
        .iter()
        .map(|&(what, _, value, bytes)| format!("{what} {}", if bytes { size(value) } else { value.to_string() }))
        .collect();
    writeln!(out, "  limits    {}", limits[..3].join(", "))?;
    writeln!(out, "            {}", limits[3..].join(", "))?;
    let tiers: Vec<_> = abilities.tiers().into_iter().map(Tier::name).collect();
    writeln!(out, "  tiers     {}", tiers.join(", "))?;
    Ok(())
}

fn names(features: &[&(&str, Features)]) -> String {
    if features.is_empty() {
        return "none".into();
    }
    features.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Bytes in the largest unit that divides them, as limits are round numbers.
fn size(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 => format!("{:.3} GiB", b as f64 / (1u64 << 30) as f64).replace(".000", ""),
        b if b >= 1 << 20 => format!("{} MiB", b >> 20),
        b => format!("{} KiB", b >> 10),
    }
}

fn to_json(adapter: &wgpu::Adapter) -> Value {
    let features: serde_json::Map<_, _> = FEATURES
        .iter()
        .map(|(name, f)| (name.to_string(), adapter.features().contains(*f).into()))
        .collect();
    let limits: serde_json::Map<_, _> = limits(&adapter.limits())
        .iter()
        .map(|&(_, name, value, _)| (name.to_string(), value.into()))
        .collect();
    let info = adapter.get_info();
    let mut json = device::to_json(&info);
    json["features"] = features.into();
    json["subgroup_sizes"] = json!([info.subgroup_min_size, info.subgroup_max_size]);
    json["limits"] = limits.into();
    let abilities = device::abilities(adapter);
    json["matrix_edge"] = abilities.matrices.into();
    json["tiers"] = abilities.tiers().into_iter().map(Tier::name).collect::<Vec<_>>().into();
    json
}
