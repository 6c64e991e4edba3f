// Elements of cooperative matrices. WGSL has none; these functions get their bodies in SPIR-V (`src/shader/elements.rs`), where
// an invocation can read and write its own elements of a matrix, ELEMENTS of them.
//
// Which row and column an element is of is the device's affair; a kernel relies on what was found by trying
// (`measure/places.wgsl`):
//   - A and C have their elements at the same places
//   - element e of any invocation is of the same row as those with the same class, e / RUN % CLASSES, and no others
//   - the invocations that differ in bits of SHARERS only have elements of the same rows, and no others
alias Elements = array<f32, ELEMENTS>;

fn elements_of(sums: MatrixC) -> Elements { return Elements(); }
fn sums_of(elements: Elements) -> MatrixC { return MatrixC(); }
fn factors_of(elements: Elements) -> MatrixA { return MatrixA(); }
// Element by element.
fn factors_times(factors: MatrixA, by: MatrixA) -> MatrixA { return MatrixA(); }

// Numbers that loads with a stride of 0 make rows or columns of.
var<workgroup> places: array<vec4<f32>, EDGE / 4u>;

// Before a barrier.
fn fill_places(thread: u32) {
    if (thread < EDGE / 4u) {
        places[thread] = f32(4u * thread) + vec4<f32>(0.0, 1.0, 2.0, 3.0);
    }
}

// Of each element its row.
fn element_rows() -> Elements {
    return elements_of(coopLoad<MatrixC>(&places[0], 0u));
}

// And its column.
fn element_columns() -> Elements {
    return elements_of(coopLoadT<MatrixC>(&places[0], 0u));
}

// Over the invocations that have elements of the same rows.
fn sharers_max(x: f32) -> f32 {
    var top = x;
    for (var bit = 1u; bit <= SHARERS; bit *= 2u) {
        if ((SHARERS & bit) != 0u) {
            top = max(top, subgroupShuffleXor(top, bit));
        }
    }
    return top;
}

fn sharers_sum(x: f32) -> f32 {
    var sum = x;
    for (var bit = 1u; bit <= SHARERS; bit *= 2u) {
        if ((SHARERS & bit) != 0u) {
            sum += subgroupShuffleXor(sum, bit);
        }
    }
    return sum;
}
