// Two IEEE binary16 in one word, the first in the lower half.
fn pack_pair(pair: vec2<f32>) -> u32 {
    return pack2x16float(pair);
}

fn unpack_pair(word: u32) -> vec2<f32> {
    return unpack2x16float(word);
}
