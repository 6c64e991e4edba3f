// No boolean mask.
fn mask_at(index: u32) -> bool {
    return true;
}
