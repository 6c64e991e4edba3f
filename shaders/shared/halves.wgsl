// k and v on their way to cooperative matrices as halves.

// Four halves in two words.
alias Held = vec2<u32>;

// Rounded before they are packed, because packing may round in any way.
fn words_of(four: vec4<f32>) -> Held {
    let rounded = vec4<f32>(vec4<f16>(four));
    return vec2<u32>(pack2x16float(rounded.xy), pack2x16float(rounded.zw));
}
