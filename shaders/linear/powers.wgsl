// Powers of two that keep factors inside f16.

// The one that takes a bound to between 2^exponent and twice as much, from 2^-114 to 2^44; 1 for 0, for what is no number and from
// 3e38 on. By bits and without branches: an NVIDIA driver makes four of `ldexp`.
fn power_to(exponent: i32, bound: f32) -> f32 {
    let own = i32(bitcast<u32>(bound) >> 23u) - 127;
    let power = clamp(exponent - own, -114, 44);
    return select(1.0, bitcast<f32>(u32(power + 127) << 23u), bound > 0.0 && bound < 3e38);
}

// The one that takes a bound to between 2^14 and 2^15; for bounds below 2^-30 less, lest what was summed up at the power of a
// large state overflow.
fn power_for(bound: f32) -> f32 {
    return power_to(14, bound);
}

// What f16 has room for and does not lose much of.
const MOST_OF_HALVES = 32768.0;
const LEAST_OF_HALVES = 128.0;

// Whether f16 has no room for what is bounded so times a power of two, or loses much of it.
fn leaves_halves(power: f32, bound: f32) -> bool {
    return bound * power > MOST_OF_HALVES || (bound * power < LEAST_OF_HALVES && bound > 0.0);
}
