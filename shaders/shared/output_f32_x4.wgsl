// Output elements: f32, four to an access.
alias OutputUnit = vec4<f32>;

fn store_o4(index: u32, value: vec4<f32>, count: u32) {
    o[index >> 2u] = value;
}

fn load_o4(index: u32, count: u32) -> vec4<f32> {
    return o[index >> 2u];
}
