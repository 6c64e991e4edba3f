// Which keys a query row sees, and which key tiles a tile of query rows has to visit.
//
//   a        absolute position of a query row, in the coordinates of the keys
//   lo, hi   the keys of its document, lo ≤ j < hi
//   left, right, ahead   reach of the window to both sides and of causality (0 or unlimited); see `Params`
//
// visible(j) = lo ≤ j < hi  and  ( ((a − left ≤ j ≤ a + right) or j < lo + sink_tokens) and j ≤ a + ahead
//                                  or j < lo + prefix )
struct Row {
    position: i32,
    lo: i32,
    hi: i32,
    // Position of key `lo` and of the row in the document's own count differ from the above by this.
    origin: i32,
}

// End of the keys of batch entry b.
fn keys_of(b: u32) -> i32 {
    if (HAS_KV_LEN) {
        return clamp(bitcast<i32>(small_word(params.kv_len_at + b)), 0, i32(params.keys));
    }
    return i32(params.keys);
}

// The smallest d in 0..=documents with cu_seqlens_q[d] > i, or documents + 1: one more than the document that owns
// query row i, which has the last d with cu_seqlens_q[d] ≤ i. 0 and documents + 1 are before and after all of them.
fn document_after(i: u32) -> u32 {
    var below = 0u;
    var above = params.documents + 1u;
    while (below < above) {
        let middle = (below + above) / 2u;
        if (bitcast<i32>(small_word(params.cu_q_at + middle)) > i32(i)) {
            above = middle;
        } else {
            below = middle + 1u;
        }
    }
    return below;
}

fn row_of(b: u32, i: u32) -> Row {
    let end = keys_of(b);
    var row: Row;
    if (HAS_DOCUMENTS) {
        let after = document_after(i);
        if (after == 0u || after > params.documents) {
            // No keys, at the end where the row is: `tiles_of` spans what lies between two rows.
            let edge = clamp(bitcast<i32>(small_word(params.cu_k_at + min(after, params.documents))), 0, end);
            return Row(edge, edge, edge, edge);
        }
        let d = after - 1u;
        let q_first = bitcast<i32>(small_word(params.cu_q_at + d));
        let q_end = bitcast<i32>(small_word(params.cu_q_at + d + 1u));
        let k_first = clamp(bitcast<i32>(small_word(params.cu_k_at + d)), 0, i32(params.keys));
        let k_end = clamp(bitcast<i32>(small_word(params.cu_k_at + d + 1u)), 0, i32(params.keys));
        var offset = (k_end - k_first) - (q_end - q_first);
        if (params.q_offset_given != 0u) {
            offset = params.q_offset;
        }
        row = Row(i32(i) - q_first + offset + k_first, k_first, min(k_end, end), k_first);
    } else {
        var offset = end - i32(params.queries);
        if (params.q_offset_given != 0u) {
            offset = params.q_offset;
        }
        row = Row(i32(i) + offset, 0, end, 0);
    }
    return row;
}

fn row_sees(row: Row, j: i32) -> bool {
    let a = row.position;
    let window = (j >= a - params.left && j <= a + params.right) || j < row.lo + params.sink_tokens;
    let seen = (window && j <= a + params.ahead) || j < row.lo + params.prefix;
    return seen && j >= row.lo && j < row.hi;
}

// Whether a row sees one of the keys from j0 to j1 − 1.
fn row_sees_some(row: Row, j0: i32, j1: i32) -> bool {
    return one_document_sees_some(row, row, j0, j1);
}

// The key tiles a range of rows has to visit: those of 0 .. head_end that hold sink tokens or the prefix, then
// body_start .. body_end. Tiles are counted in units of `tile` keys from key 0.
struct Tiles {
    start: u32,
    head_end: u32,
    body_start: u32,
    body_end: u32,
}

fn tiles_of(first: Row, last: Row, one_document: bool, tile: u32) -> Tiles {
    let size = i32(tile);
    if (first.hi <= first.lo && last.hi <= last.lo && one_document) {
        return Tiles(0u, 0u, 0u, 0u);
    }
    if (!one_document) {
        // Rows of several documents: whatever those span. Masks sort it out; the documents are short.
        let start = max(first.lo, 0) / size;
        let end = (max(last.hi, first.hi) + size - 1) / size;
        return Tiles(u32(start), u32(start), u32(start), u32(max(end, start)));
    }
    let lo = first.lo;
    let hi = first.hi;
    let reach = last.position + min(params.right, params.ahead);
    let head = max(lo + params.prefix, min(lo + params.sink_tokens, last.position + params.ahead + 1));
    let head_end = clamp(head, lo, hi);
    let body = max(lo, first.position - params.left);
    let body_end = clamp(reach + 1, lo, hi);
    let start_tile = lo / size;
    let head_tiles = select(start_tile, (head_end + size - 1) / size, head_end > lo);
    let body_tile = max(max(body, 0) / size, head_tiles);
    let body_tiles = select(head_tiles, (body_end + size - 1) / size, body_end > body);
    let end = max(body_tiles, head_tiles);
    return Tiles(u32(start_tile), u32(head_tiles), u32(min(body_tile, end)), u32(end));
}

// The tile to visit first, and the one after `t`.
fn first_tile(tiles: Tiles) -> u32 {
    return select(tiles.start, tiles.body_start, tiles.start >= tiles.head_end);
}

fn next_tile(tiles: Tiles, t: u32) -> u32 {
    return select(t + 1u, max(t + 1u, tiles.body_start), t + 1u >= tiles.head_end);
}

// How many there are to visit, and the n-th of them.
fn tile_count(tiles: Tiles) -> u32 {
    return tiles.head_end - tiles.start + tiles.body_end - tiles.body_start;
}

fn tile_at(tiles: Tiles, n: u32) -> u32 {
    let head_tiles = tiles.head_end - tiles.start;
    return select(tiles.body_start + n - head_tiles, tiles.start + n, n < head_tiles);
}

// Whether every row from `first` to `last`, of one document, sees every key from j0 to j1 − 1.
fn sees_all(first: Row, last: Row, j0: i32, j1: i32) -> bool {
    let window = (j0 >= last.position - params.left && j1 - 1 <= first.position + params.right)
        || j1 <= first.lo + params.sink_tokens;
    let seen = (window && j1 - 1 <= first.position + params.ahead) || j1 <= first.lo + params.prefix;
    return seen && j0 >= first.lo && j1 <= first.hi;
}

// Whether a row from `first` to `last`, of one document, may see one of the keys from j0 to j1 − 1.
fn one_document_sees_some(first: Row, last: Row, j0: i32, j1: i32) -> bool {
    let begin = max(j0, first.lo);
    let end = min(j1, first.hi);
    let window = max(begin, first.position - params.left) < min(end, last.position + min(params.right, params.ahead) + 1);
    let sinks = begin < min(end, min(first.lo + params.sink_tokens, last.position + params.ahead + 1));
    let prefix = begin < min(end, first.lo + params.prefix);
    return window || sinks || prefix;
}
