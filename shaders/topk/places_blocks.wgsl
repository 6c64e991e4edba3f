// Places that are scored: blocks of keys, by what stands for them. A row sees a block if it sees one of its keys.
const PLACE_KEYS = BLOCK_SIZE;
const ENTRY_PLACES = 1u;

// The score, or MASKED where the row does not see the place.
fn place_score(dot: f32, whole: bool, b: u32, h: u32, i: u32, place: u32, row: Row) -> f32 {
    let begin = i32(place * BLOCK_SIZE);
    if (whole || row_sees_some(row, begin, begin + i32(BLOCK_SIZE))) {
        return dot;
    }
    return MASKED;
}
