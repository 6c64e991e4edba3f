// Which key tiles masks leave: a look at boolean masks, biases and the caller's own mask, before attention walks the rest.
//
// A workgroup writes the list of one tile of rows: the tiles of BLOCK_SIZE keys of which a row sees a key, ascending, each
// marked WHOLE if every row sees every key. Tiles that positions rule out are not looked at.
//
//   lists      u32 [batch or 1, heads or KV heads or 1, row tiles, a count, then as many entries]
//   row        counted over a head, or with INTERLEAVED over a KV head: its query heads, then those of the next query
//   strip      STRIP keys of a tile, for all rows
//   state      SEEN, HIDDEN: whether a row sees a key of a strip or tile, and whether a row does not
//
// Work split: TILES tiles at a time, each of STRIPS strips, one an invocation, so that neighbours read neighbouring words.
// An invocation goes down its strip until it has met both; so a mixed strip costs next to nothing, and one that is all
// the same its size. With a bias it stops at the first key that a row sees, since a bias has to be read again anyway.
// Boolean masks are read a word at a time first, and elements one by one only where that does not decide.

#import shared/numerics
#import dense/params
#import dense/position
#import dense/visibility
#import dense/element
#import dense/live_entry

@group(0) @binding(9) var<storage, read_write> lists: array<u32>;

const STRIPS = BLOCK_SIZE / STRIP;
const TILES = THREADS / STRIPS;

const SEEN = 1u;
const HIDDEN = 2u;
const BOTH = 3u;

const_assert STRIP % 4u == 0u;
const_assert BLOCK_SIZE % STRIP == 0u;
const_assert TILES > 0u;

var<workgroup> rows: array<Row, ROWS>;
var<workgroup> strip_states: array<u32, THREADS>;
var<workgroup> tile_states: array<u32, TILES>;

// The rows of a list.
struct RowTile {
    batch: u32,
    // Its first head, and its first row counted from there.
    head: u32,
    row: u32,
    count: u32,
    first: Row,
    last: Row,
    one_document: bool,
}

// Query heads that take turns.
fn heads_in_turn() -> u32 {
    return select(1u, params.group, INTERLEAVED);
}

fn query_of(row: u32) -> u32 {
    return params.first_query + row / heads_in_turn();
}

fn head_of(tile: RowTile, r: u32) -> u32 {
    return tile.head + (tile.row + r) % heads_in_turn();
}

// Whether all rows of a tile have the same row of the mask, and of the bias.
fn rows_share_masks() -> bool {
    return params.mask_query == 0u && (heads_in_turn() == 1u || params.mask_head == 0u);
}

fn rows_share_biases() -> bool {
    return params.bias_query == 0u && (heads_in_turn() == 1u || params.bias_head == 0u);
}

// State of the STRIP bytes of the mask from `index`, which may be anywhere in a word.
fn state_of_bytes(index: u32) -> u32 {
    let shift = (index & 3u) * 8u;
    let last = (index + STRIP - 1u) / 4u;
    var seen = 0u;
    var hidden = 0u;
    var low = mask_word(index / 4u);
    #unroll
    for (var n = 0u; n < STRIP / 4u; n++) {
        let high = mask_word(min(index / 4u + n + 1u, last));
        let four = select((low >> shift) | (high << ((32u - shift) & 31u)), low, shift == 0u);
        seen |= four;
        // Its high bits are those of the bytes that are 0, and perhaps of one above such a byte.
        hidden |= (four - 0x01010101u) & ~four & 0x80808080u;
        low = high;
    }
    return select(0u, SEEN, seen != 0u) | select(0u, HIDDEN, hidden != 0u);
}

// State of a strip as the boolean mask has it, as far as it matters: whether it is HIDDEN only if the mask alone decides.
fn state_of_mask(tile: RowTile, j0: u32, decides: bool) -> u32 {
    let count = select(tile.count, 1u, rows_share_masks());
    let enough = select(SEEN, BOTH, decides);
    var state = 0u;
    for (var r = 0u; r < count && (state & enough) != enough; r++) {
        let i = query_of(tile.row + r);
        let h = head_of(tile, r);
        let at = local_index(params.mask_base, params.mask_batch, params.mask_head, params.mask_query, tile.batch, h, i);
        state |= state_of_bytes(at + j0);
    }
    return state;
}

fn row_sees_element(tile: RowTile, r: u32, j: u32, in_reach: bool) -> bool {
    let row = rows[r];
    let h = head_of(tile, r);
    let i = query_of(tile.row + r);
    var seen = in_reach || row_sees(row, i32(j));
    if (seen) {
        seen = element_visible(tile.batch, h, i, j, row);
    }
    if (HAS_BIAS && seen) {
        let at = local_index(params.bias_base, params.bias_batch, params.bias_head, params.bias_query, tile.batch, h, i);
        // What is not a number is not masked.
        seen = !(bias_at(at + j) < MASKED_BELOW);
    }
    return seen;
}

// State of a strip from j0, `before` being known already. Ends with BOTH.
fn state_of_elements(tile: RowTile, j0: u32, in_reach: bool, before: u32) -> u32 {
    let end = min(j0 + STRIP, params.keys);
    let alike = in_reach && !CUSTOM_MASK && rows_share_masks() && rows_share_biases();
    let count = select(tile.count, 1u, alike);
    var state = before;
    for (var r = 0u; r < count && state != BOTH; r++) {
        for (var j = j0; j < end && state != BOTH; j += 4u) {
            #unroll
            for (var n = 0u; n < 4u; n++) {
                if (j + n < end && state != BOTH) {
                    state |= select(HIDDEN, SEEN, row_sees_element(tile, r, j + n, in_reach));
                }
            }
        }
    }
    return state;
}

fn state_of_strip(tile: RowTile, j0: u32) -> u32 {
    let end = j0 + STRIP;
    let in_reach = tile.one_document && sees_all(tile.first, tile.last, i32(j0), i32(min(end, params.keys)));
    let decides = HAS_MASK && !HAS_BIAS && !CUSTOM_MASK && in_reach && end <= params.keys;
    // Keys that do not exist are hidden, and with a bias no tile is whole.
    var state = select(0u, HIDDEN, end > params.keys || HAS_BIAS);
    var left = j0 < params.keys;
    if (HAS_MASK && end <= params.keys) {
        let of_mask = state_of_mask(tile, j0, decides);
        state = select(state, HIDDEN, of_mask == HIDDEN);
        state = select(state, of_mask, decides);
        left = of_mask != HIDDEN && !decides;
    }
    if (left) {
        state = state_of_elements(tile, j0, in_reach, state);
    }
    return state;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let b = params.first_batch + workgroup.z;
    let row0 = workgroup.x * ROWS;
    let count = min(ROWS, (params.end_query - params.first_query) * heads_in_turn() - row0);
    for (var r = thread; r < ROWS; r += THREADS) {
        rows[r] = row_of(b, query_of(row0 + min(r, count - 1u)));
    }
    workgroupBarrier();
    let first = row_of(b, query_of(row0));
    let last = row_of(b, query_of(row0 + count - 1u));
    let one_document = !HAS_DOCUMENTS || (first.lo == last.lo && first.hi == last.hi);
    let head = params.first_head + workgroup.y * heads_in_turn();
    let tile = RowTile(b, head, row0, count, first, last, one_document);
    let tiles = tiles_of(first, last, one_document, BLOCK_SIZE);
    let all_tiles = tile_count(tiles);

    let at = params.list_base + workgroup.z * params.list_batch + workgroup.y * params.list_head
        + workgroup.x * params.list_row;
    var live = 0u;
    for (var n0 = 0u; n0 < all_tiles; n0 += TILES) {
        let strip_tile = n0 + thread / STRIPS;
        var state = 0u;
        if (thread < TILES * STRIPS && strip_tile < all_tiles) {
            state = state_of_strip(tile, tile_at(tiles, strip_tile) * BLOCK_SIZE + thread % STRIPS * STRIP);
        }
        strip_states[thread] = state;
        workgroupBarrier();
        if (thread < TILES) {
            var all = 0u;
            for (var n = 0u; n < STRIPS; n++) {
                all |= strip_states[thread * STRIPS + n];
            }
            tile_states[thread] = all;
        }
        workgroupBarrier();
        // The live tiles before one's own say where it goes.
        var before = 0u;
        var found = 0u;
        for (var n = 0u; n < TILES; n++) {
            let one = tile_states[n] & SEEN;
            before += select(0u, one, n < thread);
            found += one;
        }
        if (thread < TILES && (tile_states[thread % TILES] & SEEN) != 0u) {
            let whole = select(0u, WHOLE, tile_states[thread % TILES] == SEEN);
            lists[at + 1u + live + before] = tile_at(tiles, n0 + thread) | whole;
        }
        live += found;
    }
    if (thread == 0u) {
        lists[at] = live;
    }
}
