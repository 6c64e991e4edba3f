// No boolean mask.
fn mask_word(word: u32) -> u32 {
    return 0x01010101u;
}

fn mask_at(index: u32) -> bool {
    return true;
}
