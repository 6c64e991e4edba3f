// Parts without a log-sum-exp, which simply add.
fn part_lse(index: u32) -> f32 {
    return 0.0;
}
