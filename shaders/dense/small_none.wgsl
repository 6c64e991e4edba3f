// None of the short vectors.
fn small_word(index: u32) -> u32 {
    return 0u;
}
