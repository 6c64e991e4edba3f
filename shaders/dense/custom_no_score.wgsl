// The caller gives a mask only.
fn score(s: f32, at: Position) -> f32 {
    return s;
}
