// Rows and columns of the elements of right factors (`shared/right_factors.wgsl`).
#import shared/right_factors

// Numbers that loads with a stride of 0 make rows or columns of.
var<workgroup> right_places: array<vec4<f16>, EDGE / 4u>;

// Before a barrier.
fn fill_right_places(thread: u32) {
    if (thread < EDGE / 4u) {
        right_places[thread] = f16(4u * thread) + vec4<f16>(0.0h, 1.0h, 2.0h, 3.0h);
    }
}

// Of each element its row.
fn right_rows() -> Elements {
    return right_elements_of(coopLoad<MatrixB>(&right_places[0], 0u));
}

// And its column.
fn right_columns() -> Elements {
    return right_elements_of(coopLoadT<MatrixB>(&right_places[0], 0u));
}
