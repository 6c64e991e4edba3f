// Workgroup memory between vectors and cooperative matrices: factors as f16, sums as f32, four elements to an entry. Places
// are counted in words of four elements; a matrix is loaded or stored at [place * WORD], its rows so many words * WORD
// apart.
//
// Matrices are loaded from multiples of 16 bytes only (Vulkan asks for it, and an NVIDIA driver takes the multiple of 8 before an
// address for it, silently), but drivers lay variables out as their types need it. So all variables of a kernel on matrices are
// multiples of 16 bytes long, whatever their order.
const WORD: u32 = 1u;

var<workgroup> factors: array<vec4<f16>, FACTORS>;
var<workgroup> sums: array<vec4<f32>, SUMS>;

fn put_factors(at: u32, four: vec4<f16>) {
    factors[at] = four;
}

// One element of a word; others may write its other elements meanwhile.
fn put_factor(at: u32, part: u32, x: f16) {
    factors[at][part] = x;
}

fn get_factors(at: u32) -> vec4<f16> {
    return factors[at];
}

fn put_sums(at: u32, four: vec4<f32>) {
    sums[at] = four;
}

fn get_sums(at: u32) -> vec4<f32> {
    return sums[at];
}

// One element of a word; others may write its other elements meanwhile.
fn put_sum(at: u32, part: u32, x: f32) {
    sums[at][part] = x;
}

fn get_sum(at: u32, part: u32) -> f32 {
    return sums[at][part];
}
