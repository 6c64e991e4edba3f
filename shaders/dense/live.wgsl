// Which key tiles masks leave: a look at boolean masks, biases and the caller's own mask, before attention walks the rest.
//
// A workgroup writes the list of one tile of rows: the tiles of BLOCK_SIZE keys of which a row sees a key, ascending, each
// marked WHOLE if every row sees every key. Tiles that positions rule out are not looked at.
//
//   lists      u32 [batch or 1, heads or KV heads or 1, row tiles, a count, then as many entries]
//   row        counted over a head, or with INTERLEAVED over a KV head: its query heads, then those of the next query
//   strip      4 keys of a tile, of all rows
//   state      SEEN, HIDDEN: whether a row sees a key of a strip or tile, and whether a row does not
//
// Work split: TILES tiles at a time, each of STRIPS strips, one an invocation, so that neighbours read neighbouring words.
// An invocation goes down its strip until it has met both; so a mixed strip costs next to nothing, and one that is all
// the same its size. With a bias it stops at the first key that a row sees, since a bias has to be read again anyway.

#import shared/numerics
#import dense/params
#import dense/position
#import dense/visibility
#import dense/element
#import dense/live_entry

@group(0) @binding(9) var<storage, read_write> lists: array<u32>;

const STRIP = 4u;
const STRIPS = BLOCK_SIZE / STRIP;
const TILES = THREADS / STRIPS;

const SEEN = 1u;
const HIDDEN = 2u;
const BOTH = 3u;

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

// Whether all rows of a tile that see the same positions have the same masks.
fn rows_are_alike() -> bool {
    let queries = params.mask_query == 0u && params.bias_query == 0u;
    let heads = heads_in_turn() == 1u || (params.mask_head == 0u && params.bias_head == 0u);
    return queries && heads && !CUSTOM_MASK;
}

fn has_zero_byte(word: u32) -> bool {
    return ((word - 0x01010101u) & ~word & 0x80808080u) != 0u;
}

// State of `keys` keys from j0 for a row; `in_reach` says that its position rules none of them out.
fn row_state(tile: RowTile, r: u32, j0: u32, keys: u32, in_reach: bool) -> u32 {
    let b = tile.batch;
    let h = tile.head + (tile.row + r) % heads_in_turn();
    let i = query_of(tile.row + r);
    var four = 0x01010101u;
    if (HAS_MASK) {
        let at = local_index(params.mask_base, params.mask_batch, params.mask_head, params.mask_query, b, h, i) + j0;
        four = mask_four(at, at + keys - 1u);
        if (four == 0u) {
            return HIDDEN;
        }
        if (!HAS_BIAS && !CUSTOM_MASK && in_reach) {
            return select(SEEN, BOTH, has_zero_byte(four));
        }
    }
    let row = rows[r];
    let bias_from = local_index(params.bias_base, params.bias_batch, params.bias_head, params.bias_query, b, h, i) + j0;
    var state = 0u;
    #unroll
    for (var n = 0u; n < STRIP; n++) {
        if (n < keys && state != BOTH) {
            let j = j0 + n;
            var seen = ((four >> (n * 8u)) & 0xffu) != 0u && (in_reach || row_sees(row, i32(j)));
            if (HAS_BIAS && seen) {
                seen = bias_at(bias_from + n) >= MASKED_BELOW;
            }
            if (CUSTOM_MASK && seen) {
                seen = mask(position_of(b, h, i, j, row));
            }
            state |= select(HIDDEN, SEEN, seen);
        }
    }
    return state;
}

fn strip_state(tile: RowTile, j0: u32) -> u32 {
    if (j0 >= params.keys) {
        return HIDDEN;
    }
    let keys = min(STRIP, params.keys - j0);
    let in_reach = tile.one_document && sees_all(tile.first, tile.last, i32(j0), i32(j0 + keys));
    let count = select(tile.count, 1u, in_reach && rows_are_alike());
    var state = select(0u, HIDDEN, keys < STRIP || HAS_BIAS);
    for (var r = 0u; r < count && state != BOTH; r++) {
        state |= row_state(tile, r, j0, keys, in_reach);
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
            state = strip_state(tile, tile_at(tiles, strip_tile) * BLOCK_SIZE + thread % STRIPS * STRIP);
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
