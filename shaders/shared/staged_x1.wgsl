// Workgroup memory between vectors and cooperative matrices: factors as f16, sums as f32, an element to an entry, for
// compilers that load matrices from scalars only (Metal). Places are counted in words of four elements; a matrix is loaded or
// stored at [place * WORD], its rows so many words * WORD apart.
const WORD: u32 = 4u;

var<workgroup> factors: array<f16, FACTORS * 4u>;
var<workgroup> sums: array<f32, SUMS * 4u>;

fn put_factors(at: u32, four: vec4<f16>) {
    factors[at * 4u] = four.x;
    factors[at * 4u + 1u] = four.y;
    factors[at * 4u + 2u] = four.z;
    factors[at * 4u + 3u] = four.w;
}

// One element of a word.
fn put_factor(at: u32, part: u32, x: f16) {
    factors[at * 4u + part] = x;
}

fn get_factors(at: u32) -> vec4<f16> {
    return vec4<f16>(factors[at * 4u], factors[at * 4u + 1u], factors[at * 4u + 2u], factors[at * 4u + 3u]);
}

fn put_sums(at: u32, four: vec4<f32>) {
    sums[at * 4u] = four.x;
    sums[at * 4u + 1u] = four.y;
    sums[at * 4u + 2u] = four.z;
    sums[at * 4u + 3u] = four.w;
}

fn get_sums(at: u32) -> vec4<f32> {
    return vec4<f32>(sums[at * 4u], sums[at * 4u + 1u], sums[at * 4u + 2u], sums[at * 4u + 3u]);
}

// One element of a word.
fn put_sum(at: u32, part: u32, x: f32) {
    sums[at * 4u + part] = x;
}

fn get_sum(at: u32, part: u32) -> f32 {
    return sums[at * 4u + part];
}
