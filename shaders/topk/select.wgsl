// The k greatest of each row of scores, exactly, as a list of column numbers in ascending order.
//
//   key      scores as u32 that order alike: 0 for what is no candidate (−∞, NaN), −0 the same as 0, all ones for a
//            candidate that is kept whatever its score
//   cut      kept are all keys above `above`, and of those equal to `tie` the first `ties`
//   list     [1 + capacity]: the number of entries, the entries, zeros
//
// Radix select: a histogram of the keys' uppermost digit, from the top the bin in which the k-th greatest key lies, a
// histogram of the next digit of the keys in that bin, and so on, until a bin is kept whole or the key is known. The
// result depends on no order of operations. Then each block of columns becomes two bit masks (above the cut, equal to
// it), whose set bits a scan over the workgroup gives their places in the list.
//
// One workgroup takes one row; rows run over x, then y of the grid. Workgroup memory: the bins, REPLICAS of each side by
// side so that fewer invocations meet in one; later the two masks in the same words; what the scan takes
// (`topk/scan_workgroup.wgsl`, `topk/scan_subgroup.wgsl`).
//
//   scores   [rows, columns]         bits of f32
//   lists    [rows, 1 + capacity]    capacity ≥ top_k, so that every entry has room
#import shared/numerics

struct Params {
    rows: u32,
    columns: u32,
    top_k: u32,
    first: u32,

    last: u32,
    capacity: u32,
    scores_base: u32,
    lists_base: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read_write> lists: array<u32>;

const BINS = 1u << RADIX_BITS;
const WORDS = BINS * REPLICAS;
const DIGITS = (31u + RADIX_BITS) / RADIX_BITS;
const BINS_EACH = (BINS + THREADS - 1u) / THREADS;

// Words of one mask, and the quads of columns that it covers.
// The columns of a block are fewer than 2^16.
const MASK_WORDS = min(WORDS / 2u, 1024u);
const BLOCK_QUADS = MASK_WORDS * 8u;
// Quads whose bits an invocation brings together before it writes them.
const LOADS = UNROLL * MASK_QUADS;

const_assert MASK_QUADS <= 8u && 8u % MASK_QUADS == 0u;

// Keys of candidates run from the least to the greatest; a forced one is above both, and no key is NO_TIE.
const LEAST_KEY = 0x00800000u;
const GREATEST_KEY = 0xff800000u;
const FORCED_KEY = 0xffffffffu;
const NO_TIE = 0xfffffffeu;
const NO_DIGIT = 0xffffffffu;

var<workgroup> words: array<atomic<u32>, WORDS>;
// One past the last candidate.
var<workgroup> candidates_end: atomic<u32>;
// Digit of the bin that holds the k-th greatest key, how many of its keys are kept, how many it has.
var<workgroup> picked: vec3<u32>;

struct Cut {
    above: u32,
    tie: u32,
    ties: u32,
}

// A row, and the columns from which on candidates are forced.
struct Row {
    base: u32,
    forced_from: u32,
}

fn quads() -> u32 {
    return (params.columns + 3u) / 4u;
}

fn ordered(bits: vec4<u32>) -> vec4<u32> {
    let number = select(bits, vec4<u32>(0u), bits == vec4<u32>(0x80000000u));
    let negative = number >= vec4<u32>(0x80000000u);
    let keys = number ^ select(vec4<u32>(0x80000000u), vec4<u32>(0xffffffffu), negative);
    let candidate = keys - vec4<u32>(LEAST_KEY) <= vec4<u32>(GREATEST_KEY - LEAST_KEY);
    return select(vec4<u32>(0u), keys, candidate);
}

fn keys_of(row: Row, bits: vec4<u32>, quad: u32) -> vec4<u32> {
    let keys = ordered(bits);
    if (!FORCED) {
        return keys;
    }
    let columns = vec4<u32>(quad * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
    let forced = (columns < vec4<u32>(params.first)) | (columns >= vec4<u32>(row.forced_from));
    return select(keys, vec4<u32>(FORCED_KEY), forced & (keys != vec4<u32>(0u)));
}

fn clear_words(thread: u32) {
    for (var n = thread; n < WORDS; n += THREADS) {
        atomicStore(&words[n], 0u);
    }
}

// Walks back from the row's end until a candidate, this invocation's or another's, is met.
fn forced_from(base: u32, thread: u32) -> u32 {
    if (thread == 0u) {
        atomicStore(&candidates_end, 0u);
    }
    workgroupBarrier();
    for (var n = thread; n < quads(); n += THREADS) {
        let quad = quads() - 1u - n;
        let candidate = ordered(row_quad(base, quad)) != vec4<u32>(0u);
        if (any(candidate)) {
            let places = select(vec4<u32>(0u), vec4<u32>(1u, 2u, 3u, 4u), candidate);
            atomicMax(&candidates_end, quad * 4u + max(max(places.x, places.y), max(places.z, places.w)));
        }
        if (atomicLoad(&candidates_end) > quad * 4u) {
            break;
        }
    }
    workgroupBarrier();
    let end = atomicLoad(&candidates_end);
    return end - min(end, params.last);
}

// Counts, by their digit at `shift`, the candidates whose digits above it are those of `prefix`.
fn count_digits(row: Row, above: u32, prefix: u32, shift: u32, thread: u32) {
    let replica = thread % REPLICAS;
    for (var quad = thread; quad < quads(); quad += THREADS * UNROLL) {
        var loaded: array<vec4<u32>, UNROLL>;
        #unroll
        for (var u = 0u; u < UNROLL; u++) {
            loaded[u] = row_quad(row.base, quad + u * THREADS);
        }
        #unroll
        for (var u = 0u; u < UNROLL; u++) {
            let keys = keys_of(row, loaded[u], quad + u * THREADS);
            let counts = (keys != vec4<u32>(0u)) & ((keys & vec4<u32>(above)) == vec4<u32>(prefix));
            let bins = ((keys >> vec4<u32>(shift)) & vec4<u32>(BINS - 1u)) * REPLICAS + replica;
            #unroll
            for (var c = 0u; c < 4u; c++) {
                if (counts[c]) {
                    atomicAdd(&words[bins[c]], 1u);
                }
            }
        }
    }
}

// Keys in the n-th bin from the top.
fn bin(n: u32) -> u32 {
    var count = 0u;
    if (BINS_EACH * THREADS == BINS || n < BINS) {
        for (var r = 0u; r < REPLICAS; r++) {
            count += atomicLoad(&words[(BINS - 1u - n) * REPLICAS + r]);
        }
    }
    return count;
}

// The bin in which the `wanted` greatest keys end; NO_DIGIT if there are fewer.
fn pick(wanted: u32, thread: u32) -> vec3<u32> {
    var own = 0u;
    for (var n = 0u; n < BINS_EACH; n++) {
        own += bin(thread * BINS_EACH + n);
    }
    let sums = scan(own, thread);
    if (thread == 0u && sums.y < wanted) {
        picked = vec3<u32>(NO_DIGIT, 0u, 0u);
    }
    if (sums.x < wanted && wanted <= sums.x + own) {
        var left = wanted - sums.x;
        for (var n = thread * BINS_EACH; n < (thread + 1u) * BINS_EACH; n++) {
            let count = bin(n);
            if (left <= count) {
                picked = vec3<u32>(BINS - 1u - n, left, count);
                break;
            }
            left -= count;
        }
    }
    return workgroupUniformLoad(&picked);
}

fn find_cut(row: Row, thread: u32) -> Cut {
    let all = Cut(0u, NO_TIE, 0u);
    if (params.columns <= params.top_k) {
        return all;
    }
    var wanted = params.top_k;
    var above = 0u;
    var prefix = 0u;
    var shift = 32u;
    for (var digit = 0u; digit < DIGITS; digit++) {
        // The last digit may overlap the one before.
        shift -= min(shift, RADIX_BITS);
        clear_words(thread);
        workgroupBarrier();
        count_digits(row, above, prefix, shift, thread);
        workgroupBarrier();
        let choice = pick(wanted, thread);
        if (choice.x == NO_DIGIT) {
            return all;
        }
        prefix |= choice.x << shift;
        above |= (BINS - 1u) << shift;
        wanted = choice.y;
        if (choice.y == choice.z) {
            // The whole bin, down to its least key.
            return Cut(max(prefix, 1u) - 1u, NO_TIE, 0u);
        }
    }
    return Cut(prefix, prefix, wanted);
}

fn set_bits(values: vec4<bool>) -> u32 {
    let bits = select(vec4<u32>(0u), vec4<u32>(1u, 2u, 4u, 8u), values);
    return bits.x | bits.y | bits.z | bits.w;
}

// Sets the bits of the block of columns that begins with `first`, in quads, and ends before `end`.
fn mark(row: Row, cut: Cut, first: u32, end: u32, thread: u32) {
    for (var at = first + thread * MASK_QUADS; at < end; at += THREADS * LOADS) {
        var loaded: array<vec4<u32>, LOADS>;
        #unroll
        for (var n = 0u; n < LOADS; n++) {
            loaded[n] = row_quad(row.base, at + n / MASK_QUADS * THREADS * MASK_QUADS + n % MASK_QUADS);
        }
        #unroll
        for (var u = 0u; u < UNROLL; u++) {
            let quad = at + u * THREADS * MASK_QUADS;
            var greater = 0u;
            var equal = 0u;
            #unroll
            for (var n = 0u; n < MASK_QUADS; n++) {
                let keys = keys_of(row, loaded[u * MASK_QUADS + n], quad + n);
                greater |= set_bits(keys > vec4<u32>(cut.above)) << (4u * n);
                equal |= set_bits(keys == vec4<u32>(cut.tie)) << (4u * n);
            }
            let word = (quad - first) / 8u;
            let shift = 4u * (quad % 8u);
            if (quad < end && greater != 0u) {
                atomicOr(&words[word], greater << shift);
            }
            if (quad < end && equal != 0u) {
                atomicOr(&words[MASK_WORDS + word], equal << shift);
            }
        }
    }
}

// Writes the columns of one mask word from `at` on, as many ties among them as are left; returns both moved on.
fn write_word(at: u32, ties: u32, column: u32, greater: u32, equal: u32) -> vec2<u32> {
    var next = at;
    var left = ties;
    for (var bits = greater | equal; bits != 0u; bits &= bits - 1u) {
        let bit = firstTrailingBit(bits);
        let tie = (equal >> bit) & 1u;
        if (tie == 0u || left > 0u) {
            lists[next] = column + bit;
            next += 1u;
            left -= tie;
        }
    }
    return vec2<u32>(next, left);
}

// Writes the entries of a block of so many mask words; returns how many, and how many of them were ties.
fn write_block(list: u32, ties: u32, column: u32, block_words: u32, thread: u32) -> vec2<u32> {
    let each = (block_words + THREADS - 1u) / THREADS;
    let first = min(thread * each, block_words);
    let end = min(first + each, block_words);
    // Both counts of a block fit 16 bits.
    var count = 0u;
    for (var w = first; w < end; w++) {
        let equal = countOneBits(atomicLoad(&words[MASK_WORDS + w]));
        count += countOneBits(atomicLoad(&words[w])) + (equal << 16u);
    }
    let sums = scan(count, thread);
    let ties_before = min(sums.x >> 16u, ties);
    var place = vec2<u32>(list + (sums.x & 0xffffu) + ties_before, ties - ties_before);
    for (var w = first; w < end; w++) {
        let greater = atomicLoad(&words[w]);
        let equal = atomicLoad(&words[MASK_WORDS + w]);
        place = write_word(place.x, place.y, column + w * 32u, greater, equal);
    }
    let ties_written = min(sums.y >> 16u, ties);
    return vec2<u32>((sums.y & 0xffffu) + ties_written, ties_written);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        invocation: Invocation) {
    let thread = thread_of(invocation);
    let number = workgroup.y * grid.x + workgroup.x;
    if (number >= params.rows) {
        return;
    }
    var row = Row(params.scores_base + number * params.columns, params.columns);
    if (FORCED) {
        row.forced_from = forced_from(row.base, thread);
    }
    let cut = find_cut(row, thread);
    let list = params.lists_base + number * (1u + params.capacity);
    var kept = 0u;
    var ties = cut.ties;
    for (var first = 0u; first < quads(); first += BLOCK_QUADS) {
        let end = min(first + BLOCK_QUADS, quads());
        workgroupBarrier();
        clear_words(thread);
        workgroupBarrier();
        mark(row, cut, first, end, thread);
        workgroupBarrier();
        let written = write_block(list + 1u + kept, ties, first * 4u, (end - first + 7u) / 8u, thread);
        kept += written.x;
        ties -= written.y;
    }
    if (thread == 0u) {
        lists[list] = kept;
    }
    for (var n = kept + thread; n < params.capacity; n += THREADS) {
        lists[list + 1u + n] = 0u;
    }
}
