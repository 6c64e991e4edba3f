// Workgroup memory between vectors and cooperative matrices, four elements to a word: factors as f16, sums as f32. Places
// are counted in elements; a matrix is loaded or stored at [place / STAGED], its rows so many / STAGED apart.
const STAGED: u32 = 4u;

var<workgroup> factors: array<vec4<f16>, FACTORS / STAGED>;
var<workgroup> sums: array<vec4<f32>, SUMS / STAGED>;

fn put_factors(at: u32, four: vec4<f16>) {
    factors[at / STAGED] = four;
}

fn put_sums(at: u32, four: vec4<f32>) {
    sums[at / STAGED] = four;
}

fn get_sums(at: u32) -> vec4<f32> {
    return sums[at / STAGED];
}
