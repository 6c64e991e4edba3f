//! That the pages are well formed, whole, and ask for nothing from elsewhere.

use super::*;

fn row(suite: &str, name: &str, tier: &str, keys: u32, seconds: Option<f64>) -> serde_json::Value {
    let seconds =
        seconds.map(|s| serde_json::json!({"median": s, "low": s, "high": s * 1.1, "confidence": 0.95, "runs": 9}));
    serde_json::json!({
        "suite": suite, "name": name, "implementation": "wgpu-attention", "tier": tier, "seconds": seconds, "clock": "device",
        "flops": 1e9, "bytes": 1e6, "bound": "f32", "fraction_of_bound": 0.4, "error": {"rms": 1e-6},
        "failure": if seconds.is_none() { Some("left out: <long> & \"slow\"") } else { None },
        "problem": {"op": "dense", "batch": 1, "heads": 8, "kv_heads": 8, "queries": keys, "keys": keys,
                    "head_dim": 64, "value_dim": 64, "dtype": "f32", "mask": "causal"},
    })
}

fn run() -> Run {
    let rows = [
        row("prefill", "D64/causal/f32/softmax/N512", "portable", 512, Some(1e-3)),
        row("prefill", "D64/causal/f32/softmax/N1024", "portable", 1024, Some(4e-3)),
        row(
            "prefill",
            "D64/causal/f32/softmax/N1024",
            "cooperative",
            1024,
            Some(1e-3),
        ),
        row(
            "topk",
            "D64/causal/f32/softmax/N1024/top 8 of 64",
            "portable",
            1024,
            Some(1e-3),
        ),
        row(
            "topk",
            "D64/causal/f32/softmax/N4096/top 8 of 64",
            "portable",
            4096,
            None,
        ),
    ];
    let json = serde_json::json!({
        "format": "wgpu-attention-bench/1", "date": "2026-01-01T00:00:00Z",
        "program": {"name": "wgpu-attention", "version": "1"},
        "device": {"name": "<GPU & Co>", "backend": "Vulkan", "driver": "d", "driver_info": "1"},
        "ceilings": {"copy_bytes_per_second": 1e11, "f32_flops_per_second": 1e12, "cooperative_flops_per_second": 1e13},
        "settings": {"confidence": 0.95, "half_width": 0.02, "budget_seconds": 5.0, "rotation_bytes": 268435456},
        "results": rows,
    });
    Run::parse(&json.to_string()).unwrap()
}

fn parsed(html: &str) -> roxmltree::Document<'_> {
    let options = roxmltree::ParsingOptions {
        allow_dtd: true,
        ..Default::default()
    };
    roxmltree::Document::parse_with_options(html, options).unwrap_or_else(|e| panic!("{e}\n{html}"))
}

#[test]
fn a_report_is_well_formed_and_whole() {
    let html = report(&run());
    let page = parsed(&html);
    let count = |tag: &str| page.descendants().filter(|n| n.has_tag_name(tag)).count();
    // Two plots of prefill; bars for top-k, which has one length; the roofline; swatches: 2 suites and 2 tiers, 2 tiers, 1 form.
    assert_eq!(count("svg"), 2 + 1 + 1 + 4 + 2 + 1);
    assert_eq!(count("polyline"), 4);
    assert_eq!(
        page.descendants()
            .filter(|n| n.has_tag_name("td") && n.attribute("data-by").is_some())
            .count(),
        5 * 12
    );
    let text: String = page.descendants().filter_map(|n| n.text()).collect();
    for part in [
        "<GPU & Co>",
        "2026-01-01T00:00:00Z",
        "left out: <long> & \"slow\"",
        "Vulkan",
        "40.0 %",
        "prefill",
    ] {
        assert!(text.contains(part), "no {part}");
    }
}

#[test]
fn a_comparison_is_well_formed_and_whole() {
    let mut other = run();
    other.device.name = "another".into();
    for row in &mut other.results {
        row.seconds = row.seconds.map(|s| super::super::format::Seconds {
            median: s.median * 2.0,
            ..s
        });
    }
    let html = comparison(&[run(), other]);
    let page = parsed(&html);
    let text: String = page.descendants().filter_map(|n| n.text()).collect();
    assert!(
        text.contains("2.000") && text.contains("A  wgpu-attention 1 on <GPU & Co>"),
        "{text}"
    );
}

#[test]
fn pages_ask_for_nothing_else() {
    for html in [report(&run()), comparison(&[run(), run()])] {
        for word in ["http:", "https:", "src=", "href=", "@import", "url("] {
            assert!(!html.contains(word), "{word}");
        }
    }
}

#[test]
fn a_run_of_another_program_has_a_report_too() {
    let bare = r#"{"format": "wgpu-attention-bench/1", "program": {"name": "p", "version": "1"}, "device": {"name": "d"}, "results": []}"#;
    parsed(&report(&Run::parse(bare).unwrap()));
}
