// Where the elements of matrices are that an invocation has, for `shared/elements.wgsl` and `shared/right_factors.wgsl` to rely on.
// One subgroup writes
//
//   [0]   for each of its invocations the numbers of its elements of sums, row · EDGE + column
//   [1]   the same matrix, its elements used as factors, times a unit matrix: the matrix itself if factors and sums have their
//         elements at the same places
//   [2]   the same matrix, its elements put back
//   [3]   for each invocation the rows of its elements by a load with a stride of 0
//   [4]   and the columns
//   [5]   for each invocation the rows of its elements of right factors, by a load with a stride of 0
//   [6]   and the columns
//   [7]   a unit matrix times the numbers as right factors, their elements taken and put back: the numbers themselves
//   [8]   for each invocation and its elements of zeros times halves that f16 had no room for, as right factors, put there as in [7]:
//         1 where one is not finite
// each EDGE · EDGE words.
@group(0) @binding(1) var<storage, read> input: array<u32>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;

const PLACES = EDGE * EDGE;

var<workgroup> sums: array<f32, PLACES>;
var<workgroup> unit: array<f16, PLACES>;
var<workgroup> halves: array<f16, PLACES>;

#import shared/elements
#import shared/right_elements

fn write_elements(part: u32, lane: u32, all: Elements) {
    var elements = all;
    for (var e = 0u; e < ELEMENTS; e++) {
        output[part * PLACES + lane * ELEMENTS + e] = elements[e];
    }
}

fn write_sums(part: u32, lane: u32) {
    workgroupBarrier();
    for (var n = lane; n < PLACES; n += THREADS) {
        output[part * PLACES + n] = sums[n];
    }
    workgroupBarrier();
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) index: u32, @builtin(subgroup_invocation_id) lane: u32) {
    for (var n = index; n < PLACES; n += THREADS) {
        sums[n] = f32(n);
        halves[n] = f16(n);
        unit[n] = select(0.0h, 1.0h, n / EDGE == n % EDGE);
    }
    fill_places(index);
    fill_right_places(index);
    workgroupBarrier();
    let numbers = coopLoadT<MatrixC>(&sums[0], EDGE);
    write_elements(0u, lane, elements_of(numbers));
    write_elements(3u, lane, element_rows());
    write_elements(4u, lane, element_columns());
    let product = coopMultiplyAdd(factors_of(elements_of(numbers)), coopLoadT<MatrixB>(&unit[0], EDGE), MatrixC());
    workgroupBarrier();
    coopStoreT(product, &sums[0], EDGE);
    write_sums(1u, lane);
    coopStoreT(sums_of(elements_of(numbers)), &sums[0], EDGE);
    write_sums(2u, lane);
    write_elements(5u, lane, right_rows());
    write_elements(6u, lane, right_columns());
    var right = right_elements_of(coopLoadT<MatrixB>(&halves[0], EDGE));
    var words: RightWords;
    for (var w = 0u; w < ELEMENTS / 2u; w++) {
        words[w] = pack2x16float(vec2<f32>(right[2u * w], right[2u * w + 1u]));
    }
    let put_back = coopMultiplyAdd(coopLoadT<MatrixA>(&unit[0], EDGE), right_of(words), MatrixC());
    workgroupBarrier();
    coopStoreT(put_back, &sums[0], EDGE);
    write_sums(7u, lane);
    // What input holds is not known here: no compiler does this beforehand.
    let zero = f32(input[0]);
    for (var n = index; n < PLACES; n += THREADS) {
        halves[n] = f16(zero);
    }
    for (var w = 0u; w < ELEMENTS / 2u; w++) {
        words[w] = pack2x16float(vec2<f32>(65536.0 + zero, -65536.0 - zero));
    }
    workgroupBarrier();
    var products = elements_of(coopMultiplyAdd(coopLoadT<MatrixA>(&halves[0], EDGE), right_of(words), MatrixC()));
    for (var e = 0u; e < ELEMENTS; e++) {
        products[e] = select(1.0, 0.0, abs(products[e]) < 3e38);
    }
    write_elements(8u, lane, products);
}
