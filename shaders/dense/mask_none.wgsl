// No boolean mask.
fn mask_four(index: u32, last: u32) -> u32 {
    return 0x01010101u;
}

fn mask_at(index: u32) -> bool {
    return true;
}
