// No list, or one of the library's own, which is sound.
fn list_is_clean(list: List, thread: u32) -> bool {
    return true;
}
