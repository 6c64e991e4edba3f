// Elements of right factors, beside those of `shared/elements.wgsl`: what is loaded from storage can be put where the device has it,
// with no way through workgroup memory.
//
// A kernel relies on what was found by trying (`measure/places.wgsl`):
//   - element e of any invocation is of the same column as those with the same class, e / RIGHT_RUN % COLUMNS, and no others
//   - elements of different classes are of the same rows, in the same order
//   - invocations whose numbers have the same bits of RIGHT_SHARERS, the lowest ones, have elements of the same rows, those that
//     have all other bits the same have elements of the same columns
//   - halves that f16 had no room for leave no element of a product finite that they are in, whatever they are multiplied by
//   - where a kernel says so, element e of a right factor is where element e of sums is, with row and column exchanged

// Halves, two to a word.
alias RightWords = array<u32, ELEMENTS / 2u>;

fn right_elements_of(factors: MatrixB) -> Elements { return Elements(); }
fn right_of(words: RightWords) -> MatrixB { return MatrixB(); }

// The transpose as a left factor: where elements of right factors are those of sums turned over, an invocation has the same elements
// of either.
fn turned_over(factors: MatrixB) -> MatrixA { return MatrixA(); }

// The magnitudes of both halves of a word, added to those of another, as halves.
fn magnitudes_plus(word: u32, to: u32) -> u32 { return 0u; }
