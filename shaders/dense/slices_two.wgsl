// Factors of cooperative matrices: each the sum of two f16 slices, so that a product of two is as good as one of f32
// (Ootomo and Yokota, 2022, "Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical
// peak performance").
//
//   x · factor = first + second · SECOND_UNIT
//
// The factor is a power of two that brings the largest of what shares it, a row of q or a tile of k or v, to between 2^14
// and 2^15. What is down to 2^-28 of the largest then has both slices whole, 22 bits and a sign; smaller ones are off by
// at most 2^-40 of the largest.

#import dense/scales
#import shared/subgroup_top

// Four elements as they are.
alias Held = vec4<f32>;

// Half of the last of 11 bits, in the bits of an f32.
const HALF_STEP = 0x1000u;
const SECOND: f32 = 2048.0;
const SECOND_UNIT: f32 = 1.0 / SECOND;

// The second slice lies so many words behind the first.
fn put_slices(at: u32, four: vec4<f32>, apart: u32) {
    // By the bits, because compilers take an f32 for what comes back from its conversion to f16.
    let first = bitcast<vec4<f32>>((bitcast<vec4<u32>>(four) + vec4<u32>(HALF_STEP)) & vec4<u32>(~(2u * HALF_STEP - 1u)));
    put_factors(at, vec4<f16>(first));
    put_factors(at + apart, vec4<f16>((four - first) * SECOND));
}

fn put_held(at: u32, held: Held, factor: f32, apart: u32) {
    put_slices(at, held * factor, apart);
}

// Bits of the largest magnitudes of a tile's keys and values, which are ordered as the numbers are. Of three rounds: one
// that is read while the next one's is written by those who are ahead, and one made ready. Padded to 32 bytes
// (`shared/staged_x4.wgsl`).
var<workgroup> told: array<atomic<u32>, 8>;

// Before the barriers before all others.
fn tell_start(thread: u32) {
    if (thread < 6u) {
        atomicStore(&told[thread], 0u);
    }
}

// Before a barrier: what this invocation has loaded for round `round`.
fn tell_largest(k_held: array<Held, K_LOADS>, v_held: array<Held, V_LOADS>, lane: u32, lanes: u32, round: u32) {
    var k_top = 0.0;
    #unroll
    for (var u = 0u; u < K_LOADS; u++) {
        k_top = max(k_top, largest(k_held[u]));
    }
    var v_top = 0.0;
    #unroll
    for (var u = 0u; u < V_LOADS; u++) {
        v_top = max(v_top, largest(v_held[u]));
    }
    k_top = subgroup_top(k_top, lanes);
    v_top = subgroup_top(v_top, lanes);
    if (lane == 0u) {
        atomicMax(&told[round % 3u * 2u], bitcast<u32>(k_top));
        atomicMax(&told[round % 3u * 2u + 1u], bitcast<u32>(v_top));
    }
}

// After that barrier: the scales of that round.
fn scales_told(thread: u32, round: u32) -> Scales {
    // Read before the barrier, and written to behind the next one.
    if (thread < 2u) {
        atomicStore(&told[(round + 2u) % 3u * 2u + thread], 0u);
    }
    let k_top = bitcast<f32>(atomicLoad(&told[round % 3u * 2u]));
    let v_top = bitcast<f32>(atomicLoad(&told[round % 3u * 2u + 1u]));
    return Scales(factor_for(k_top), unit_for(k_top), factor_for(v_top), unit_for(v_top));
}
