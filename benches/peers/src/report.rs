//! What is printed, and the JSON of a run.

use std::fs;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};
use wgpu_attention::{Dense, DensePlan, Gpu, wgpu};

use crate::peers::{Peer, Peers};
use crate::problems::{self, Named, Suite, kv_heads, mask_name, value_dim};
use crate::protocol::Clock;
use crate::statistics::Median;

/// The format that `wgpu-attention bench` reads.
const FORMAT: &str = "wgpu-attention-bench/1";
const OURS: &str = "wgpu-attention";

/// One side's measurement of a problem.
pub struct Measured {
    pub seconds: Median,
    pub clock: Clock,
    pub kernel: Option<String>,
    pub rms: f64,
    /// Of the peer's time over this library's.
    pub ratio: Option<Median>,
}

/// A line of the JSON.
#[derive(Debug, Serialize)]
struct Row {
    suite: Suite,
    name: String,
    implementation: String,
    tier: Option<&'static str>,
    kernel: Option<String>,
    problem: Value,
    seconds: Option<Median>,
    clock: Option<Clock>,
    flops: f64,
    bytes: f64,
    bound: Option<&'static str>,
    fraction_of_bound: Option<f64>,
    error: Option<Value>,
    /// Each side runs on one set of buffers, again and again: what fits a cache is found there.
    input_sets: usize,
    rotated_bytes: u64,
    ratio_to_wgpu_attention: Option<Median>,
    failure: Option<String>,
}

pub struct Report {
    info: wgpu::AdapterInfo,
    date: String,
    /// Implementation, program and version of each peer.
    peers: Vec<[String; 3]>,
    absent: Vec<(&'static str, String)>,
    rows: Vec<Row>,
    /// Those of the problem at hand.
    current: Vec<Row>,
    file: Option<PathBuf>,
}

impl Report {
    pub fn new(gpu: &Gpu, peers: &Peers, file: Option<PathBuf>) -> Self {
        let named = |peer: &Peer| {
            let hello = &peer.hello;
            [&hello.implementation, &hello.program, &hello.version].map(String::clone)
        };
        Report {
            info: gpu.info().clone(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            peers: peers.present.iter().map(named).collect(),
            absent: peers.absent.clone(),
            rows: vec![],
            current: vec![],
            file,
        }
    }

    pub fn print_head(&self) {
        let info = &self.info;
        println!(
            "{} on {:?}, driver {} {}, {}",
            info.name, info.backend, info.driver, info.driver_info, self.date
        );
        for [implementation, program, version] in &self.peers {
            println!("peer {implementation}: {program} {version}");
        }
        for (name, why) in &self.absent {
            println!("no {name}: {}", one_line(why));
        }
        if self.peers.is_empty() {
            println!("No peer can run here; this library is measured by itself.");
        }
    }

    /// The problems, and who cannot express them.
    pub fn list(&self, problems: &[Named], peers: &Peers) {
        for named in problems {
            println!("{}", named.path());
            for peer in &peers.present {
                if let Some(why) = peer.cannot(&named.problem) {
                    println!("    not for {}: {why}", peer.hello.implementation);
                }
            }
        }
    }

    pub fn begin(&self, named: &Named) {
        println!("\n{}", named.path());
    }

    pub fn ours(&mut self, named: &Named, plan: &DensePlan, measured: Measured) {
        let mut row = row(named, OURS, Ok(measured));
        row.tier = Some(plan.tier().name());
        self.add(row);
    }

    pub fn ours_failed(&mut self, named: &Named, message: String) {
        self.add(row(named, OURS, Err(message)));
    }

    pub fn peer(&mut self, named: &Named, peer: &Peer, measured: Measured) {
        self.add(row(named, &peer.hello.implementation, Ok(measured)));
    }

    pub fn peer_failed(&mut self, named: &Named, peer: &Peer, message: String) {
        self.add(row(named, &peer.hello.implementation, Err(message)));
    }

    fn add(&mut self, row: Row) {
        self.current.push(row);
    }

    /// Prints the problem's results, this library's first, and writes the file: whatever ends the run later, this much is
    /// kept.
    pub fn end(&mut self) -> Result<(), String> {
        self.current.sort_by_key(|row| row.implementation != OURS);
        for row in &self.current {
            println!("    {:<20} {}", row.implementation, row.line());
        }
        self.rows.append(&mut self.current);
        let Some(path) = &self.file else { return Ok(()) };
        let text = serde_json::to_string_pretty(&self.json()).map_err(|e| e.to_string())?;
        fs::write(path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))
    }

    fn json(&self) -> Value {
        let info = &self.info;
        let program = |name: &str, version: &str| json!({"name": name, "version": version});
        let peers = self.peers.iter().map(|[implementation, name, version]| {
            json!({"implementation": implementation, "program": program(name, version)})
        });
        let absent = self
            .absent
            .iter()
            .map(|(name, why)| json!({"implementation": name, "failure": why}));
        json!({
            "format": FORMAT,
            "date": self.date,
            "program": program("wgpu-attention-peers", env!("CARGO_PKG_VERSION")),
            "peers": peers.chain(absent).collect::<Vec<_>>(),
            "device": {
                "name": info.name,
                "backend": format!("{:?}", info.backend),
                "driver": info.driver,
                "driver_info": info.driver_info,
                "type": device_type(info.device_type),
            },
            "results": self.rows,
        })
    }

    /// Each problem's times side by side, then each peer's ratios in a line.
    pub fn print_summary(&self) {
        for [peer, ..] in &self.peers {
            let common: Vec<&Row> = self.rows.iter().filter(|row| row.implementation == *peer).collect();
            println!("\n{:<40} {:>11} {:>11}  {peer} / {OURS}", "", OURS, peer);
            for row in &common {
                let (Some(theirs), Some(ratio)) = (&row.seconds, &row.ratio_to_wgpu_attention) else {
                    continue;
                };
                let ours = self.rows.iter().find(|r| r.is_ours_for(row)).and_then(|r| r.seconds);
                let ours = ours.map_or_else(String::new, |s| duration(s.median));
                println!(
                    "{:<40} {ours:>14} {:>11}  {}",
                    row.name,
                    duration(theirs.median),
                    interval(ratio)
                );
            }
            println!("{}", summary(peer, &common));
        }
    }

    /// Whether no result of this library is wrong or missing.
    pub fn ours_is_right(&self) -> bool {
        self.rows
            .iter()
            .all(|row| row.implementation != OURS || row.failure.is_none())
    }
}

/// The ratios of a peer: their median, the least, and where this library is slower.
fn summary(peer: &str, rows: &[&Row]) -> String {
    let ratios: Vec<(f64, &str)> = rows
        .iter()
        .filter_map(|row| Some((row.ratio_to_wgpu_attention?.median, row.name.as_str())))
        .collect();
    let without = rows.len() - ratios.len();
    let missing = if without == 0 {
        String::new()
    } else {
        format!("; {without} problems without a number")
    };
    let Some(least) = ratios.iter().min_by(|a, b| a.0.total_cmp(&b.0)) else {
        return format!("{peer}: no common problem{missing}");
    };
    let median = Median::of(ratios.iter().map(|r| r.0).collect()).median;
    let slower: Vec<_> = ratios
        .iter()
        .filter(|r| r.0 < 1.0)
        .map(|(ratio, name)| format!("{name} ({ratio:.2})"))
        .collect();
    let slower = match slower.is_empty() {
        true => "wgpu-attention is faster on all".into(),
        false => format!("wgpu-attention is slower on {}", slower.join(", ")),
    };
    format!(
        "{peer} / {OURS}: median {median:.2} over {} common problems, least {:.2} ({}); {slower}{missing}",
        ratios.len(),
        least.0,
        least.1
    )
}

fn row(named: &Named, implementation: &str, result: Result<Measured, String>) -> Row {
    let p = &named.problem;
    let (measured, failure) = match result {
        Ok(measured) => (Some(measured), None),
        Err(message) => (None, Some(message)),
    };
    Row {
        suite: named.suite,
        name: named.name.clone(),
        implementation: implementation.into(),
        tier: None,
        kernel: measured.as_ref().and_then(|m| m.kernel.clone()),
        problem: problem(p),
        seconds: measured.as_ref().map(|m| m.seconds),
        clock: measured.as_ref().map(|m| m.clock),
        flops: problems::flops(p),
        bytes: problems::bytes(p),
        bound: None,
        fraction_of_bound: None,
        error: measured.as_ref().map(|m| json!({"rms": m.rms})),
        input_sets: 1,
        rotated_bytes: problems::bytes(p) as u64,
        ratio_to_wgpu_attention: measured.and_then(|m| m.ratio),
        failure,
    }
}

impl Row {
    fn is_ours_for(&self, other: &Row) -> bool {
        self.implementation == OURS && (self.suite, &self.name, self.clock) == (other.suite, &other.name, other.clock)
    }

    fn line(&self) -> String {
        let (Some(seconds), Some(clock)) = (&self.seconds, self.clock) else {
            return format!("no number: {}", one_line(self.failure.as_deref().unwrap_or_default()));
        };
        let clock = match clock {
            Clock::Device => "device's",
            Clock::Host => "host's",
        };
        let ratio = self
            .ratio_to_wgpu_attention
            .map_or_else(String::new, |r| format!("  ratio {}", interval(&r)));
        let rate = self.flops / seconds.median / 1e9;
        format!(
            "{:>9} ({} … {}), {rate:.1} GFLOP/s, {} runs by the {clock} clock{ratio}",
            duration(seconds.median),
            duration(seconds.low),
            duration(seconds.high),
            seconds.runs,
        )
    }
}

fn problem(p: &Dense) -> Value {
    json!({
        "op": "dense",
        "batch": p.batch,
        "heads": p.heads,
        "kv_heads": kv_heads(p),
        "queries": p.queries,
        "keys": p.keys,
        "head_dim": p.head_dim,
        "value_dim": value_dim(p),
        "dtype": p.dtype.name(),
        "mask": mask_name(p),
        "weighting": "softmax",
        "kept": null,
    })
}

fn interval(m: &Median) -> String {
    format!("{:.2} ({:.2} … {:.2})", m.median, m.low, m.high)
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} µs", s * 1e6),
    }
}

/// A message may hold a backtrace.
fn one_line(message: &str) -> &str {
    message
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("without a message")
}

fn device_type(kind: wgpu::DeviceType) -> &'static str {
    match kind {
        wgpu::DeviceType::DiscreteGpu => "discrete GPU",
        wgpu::DeviceType::IntegratedGpu => "integrated GPU",
        wgpu::DeviceType::VirtualGpu => "virtual GPU",
        wgpu::DeviceType::Cpu => "software, on the CPU",
        wgpu::DeviceType::Other => "unknown",
    }
}
