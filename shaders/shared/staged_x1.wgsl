// Workgroup memory between vectors and cooperative matrices, an element to a word, for compilers that load matrices from
// scalars only (Metal): factors as f16, sums as f32. Places are counted in elements; a matrix is loaded or stored at
// [place / STAGED], its rows so many / STAGED apart.
const STAGED: u32 = 1u;

var<workgroup> factors: array<f16, FACTORS>;
var<workgroup> sums: array<f32, SUMS>;

fn put_factors(at: u32, four: vec4<f16>) {
    factors[at] = four.x;
    factors[at + 1u] = four.y;
    factors[at + 2u] = four.z;
    factors[at + 3u] = four.w;
}

fn put_sums(at: u32, four: vec4<f32>) {
    sums[at] = four.x;
    sums[at + 1u] = four.y;
    sums[at + 2u] = four.z;
    sums[at + 3u] = four.w;
}

fn get_sums(at: u32) -> vec4<f32> {
    return vec4<f32>(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]);
}
