// Total log-decays of segments.
@group(0) @binding(9) var<storage, read_write> totals: array<f32>;

fn total_at(index: u32) -> f32 {
    return totals[index];
}
