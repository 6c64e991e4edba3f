// Places that are scored: keys, by all that dense attention makes of a score. An entry's score is the greatest of its keys'.
#import dense/score
#import dense/vectors

const PLACE_KEYS = 1u;
const ENTRY_PLACES = BLOCK_SIZE;

// The score, or MASKED where the row does not see the place.
fn place_score(dot: f32, whole: bool, b: u32, h: u32, i: u32, place: u32, row: Row) -> f32 {
    if (whole && !SCORE_HOOKS) {
        return dot;
    }
    return masked_score(dot, whole, b, h, i, place, row);
}
