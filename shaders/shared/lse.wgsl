// Log-sum-exp output, as bits: −inf cannot be written as a number, since shaders may assume there is none.
@group(0) @binding(5) var<storage, read_write> lse_out: array<u32>;

fn store_lse(index: u32, bits: u32) {
    lse_out[index] = bits;
}
