// No packed documents.
fn document_start(n: u32) -> u32 {
    return 0u;
}
