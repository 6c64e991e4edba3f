// Output elements: f16 or bf16 (`pack_pair` decides), four to an access.
alias OutputUnit = vec2<u32>;

fn store_o4(index: u32, value: vec4<f32>, count: u32) {
    o[index >> 2u] = vec2<u32>(pack_pair(value.xy), pack_pair(value.zw));
}

fn load_o4(index: u32, count: u32) -> vec4<f32> {
    let pairs = o[index >> 2u];
    return vec4<f32>(unpack_pair(pairs.x), unpack_pair(pairs.y));
}
