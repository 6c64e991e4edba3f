// Output elements: f16 or bf16 (`pack_pair` decides), eight to an access where eight are written at once.
alias OutputUnit = vec4<u32>;

fn store_o8(index: u32, first: vec4<f32>, second: vec4<f32>) {
    o[index >> 3u] = vec4<u32>(pack_pair(first.xy), pack_pair(first.zw), pack_pair(second.xy), pack_pair(second.zw));
}

fn store_o4(index: u32, value: vec4<f32>, count: u32) {
    let part = index >> 1u & 2u;
    o[index >> 3u][part] = pack_pair(value.xy);
    o[index >> 3u][part + 1u] = pack_pair(value.zw);
}
