// Eight elements of the output, where storage is accessed four at a time.
fn store_o8(index: u32, first: vec4<f32>, second: vec4<f32>) {
    store_o4(index, first, 4u);
    store_o4(index + 4u, second, 4u);
}
