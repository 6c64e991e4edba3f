// Factors of cooperative matrices: each one f16, neither scaled nor split.
//
// This piece and `slices_two` declare the same: how k and v are held on their way to workgroup memory, how factors are
// stored there, and how the invocations agree on the scales of a tile.

#import shared/halves

const SECOND_UNIT: f32 = 0.0;

fn put_held(at: u32, held: Held, factor: f32, apart: u32) {
    put_factors(at, vec4<f16>(vec4<f32>(unpack2x16float(held.x), unpack2x16float(held.y))));
}

fn put_slices(at: u32, four: vec4<f32>, apart: u32) {
    put_factors(at, vec4<f16>(four));
}

fn tell_start(thread: u32) {}

fn tell_largest(k_held: array<Held, K_LOADS>, v_held: array<Held, V_LOADS>, lane: u32, lanes: u32, round: u32) {}

fn scales_told(thread: u32, round: u32) -> Scales {
    return Scales(1.0, 1.0, 1.0, 1.0);
}

fn largest(four: vec4<f32>) -> f32 {
    return 1.0;
}

fn factor_for(top: f32) -> f32 {
    return 1.0;
}

fn unit_for(top: f32) -> f32 {
    return 1.0;
}
