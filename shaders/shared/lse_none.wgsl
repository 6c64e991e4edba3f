// No log-sum-exp output.
fn store_lse(index: u32, bits: u32) {}
