// Output elements: f16 or bf16 (`pack_pair` decides), four to an access.
alias OutputUnit = vec2<u32>;

fn store_o4(index: u32, value: vec4<f32>, count: u32) {
    o[index >> 2u] = vec2<u32>(pack_pair(value.xy), pack_pair(value.zw));
}
