// Scores of keys or blocks for lists, tiled over many rows.
//
//   s_e = max over the list's rows i, and over the places p of entry e, of  score(i, p)
//
// A place is what one product scores: a key (`topk/places_keys.wgsl`) or a block (`topk/places_blocks.wgsl`). One workgroup
// owns ENTRIES entries. With ROW_LISTS every row is a list of its own, and it takes ROWS of them; otherwise it takes one
// list and walks its rows, ROWS at a time, keeping the maxima in registers:
//
//   best       maximum over the rows so far, of the invocation's places
//   maxima     the same over row groups; then, over places, in `entry_best`
//
// Entries longer than a tile are walked in STEPS tiles of places. What no row can see by its position is not computed.
//
// Work split and workgroup memory of the product: `dense/products.wgsl`. Grid: x = list tiles × entry tiles, y = heads, or
// KV heads with INTERLEAVED, z = batch entries.

#import shared/numerics
#import dense/params
#import dense/position
#import dense/visibility
#import dense/products
#import topk/rows

const SCORE_UNIT = 1.0;
const ENTRIES = max(1u, KEYS / ENTRY_PLACES);
const PLACES = ENTRIES * ENTRY_PLACES;
const STEPS = (PLACES + KEYS - 1u) / KEYS;

const_assert !ROW_LISTS || ENTRY_PLACES == 1u;

var<workgroup> tile: array<vec4<f32>, QK_WORDS>;
var<workgroup> rows: array<Row, ROWS>;
var<workgroup> maxima: array<f32, select(ROW_GROUPS * KEYS, 1u, ROW_LISTS)>;
var<workgroup> entry_best: array<f32, select(ENTRIES, 1u, ROW_LISTS)>;

// The rows of the workgroup: its head, the first and one past the last.
var<private> head: u32;
var<private> last_row: u32;

fn q_row(base: u32, row: u32) -> u32 {
    return query_at(base, head, min(row, last_row));
}

// What no row sees: −∞ for the entries from e0 on of all lists of the workgroup.
fn store_nothing(thread: u32, b: u32, first_row: u32, end_row: u32, e0: u32) {
    let entries = min(ENTRIES, params.list_entries - e0);
    let lists = select(1u, end_row - first_row, ROW_LISTS);
    for (var n = thread; n < lists * entries; n += THREADS) {
        let row = first_row + n / entries;
        store_score(scores_at(b, head_of(head, row), query_of(row)) + e0 + n % entries, MASKED);
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % LANES;
    let group = thread / LANES;
    let b = params.first_batch + workgroup.z;
    head = workgroup.y;
    let entry_tiles = (params.list_entries + ENTRIES - 1u) / ENTRIES;
    let e0 = workgroup.x % entry_tiles * ENTRIES;
    let all_rows = (params.end_query - params.first_query) * heads_in_turn();
    let list_rows = select(params.query_block * heads_in_turn(), ROWS, ROW_LISTS);
    let first_row = workgroup.x / entry_tiles * list_rows;
    let end_row = min(first_row + list_rows, all_rows);
    last_row = end_row - 1u;
    let q_from = params.q_base + workgroup.z * params.q_batch;
    let k_from = params.k_base + workgroup.z * params.k_batch
        + (head_of(head, 0u) / params.group - params.first_head / params.group) * params.k_head;

    // What the rows' positions leave of these entries, in keys.
    let first = row_of(b, query_of(first_row));
    let last = row_of(b, query_of(last_row));
    let one_document = !HAS_DOCUMENTS || (first.lo == last.lo && first.hi == last.hi);
    let some = one_document_sees_some(first, last, i32(e0 * BLOCK_SIZE), i32(min(e0 + ENTRIES, params.list_entries) * BLOCK_SIZE));
    if (one_document && !some) {
        store_nothing(thread, b, first_row, end_row, e0);
        return;
    }
    let all_places = (params.keys + PLACE_KEYS - 1u) / PLACE_KEYS;
    // What lies behind `kv_len` is not read: it may be anything.
    let last_place = (u32(max(keys_of(b), 1)) - 1u) / PLACE_KEYS;

    if (!ROW_LISTS) {
        for (var e = thread; e < ENTRIES; e += THREADS) {
            entry_best[e] = MASKED;
        }
    }
    // An entry may be far longer than all keys are.
    for (var step = 0u; step < STEPS && e0 * ENTRY_PLACES + step * KEYS < all_places; step++) {
        let p0 = e0 * ENTRY_PLACES + step * KEYS;
        var best: array<f32, KEY_REGS>;
        #unroll
        for (var n = 0u; n < KEY_REGS; n++) {
            best[n] = MASKED;
        }
        for (var r0 = first_row; r0 < end_row; r0 += ROWS) {
            var s: array<f32, ROW_REGS * KEY_REGS>;
            #unroll
            for (var e = 0u; e < ROW_REGS * KEY_REGS; e++) {
                s[e] = 0.0;
            }
            workgroupBarrier();
            for (var r = thread; r < ROWS; r += THREADS) {
                rows[r] = row_of(b, query_of(min(r0 + r, last_row)));
            }
            for (var chunk = 0u; chunk < CHUNKS; chunk++) {
                workgroupBarrier();
                store_q(load_q(q_from, r0, chunk, thread), thread);
                store_k(load_k(k_from, 0u, p0, last_place, chunk, thread), thread);
                workgroupBarrier();
                add_products(&s, group, lane);
            }

            let top_row = rows[0];
            let bottom_row = rows[min(ROWS - 1u, last_row - r0)];
            let j0 = i32(p0 * PLACE_KEYS);
            // Places past the end repeat the last one, which is the last entry's.
            let j1 = i32(min(p0 + KEYS, all_places) * PLACE_KEYS);
            let whole = one_document && !ELEMENT_MASK && sees_all(top_row, bottom_row, j0, j1);
            let own = DIAGONAL && (!one_document || (bottom_row.position >= j0 - i32(BLOCK_SIZE) && top_row.position < j1 + i32(BLOCK_SIZE)));
            if (SCORE_HOOKS || own || !whole) {
                #unroll
                for (var r = 0u; r < ROW_REGS; r++) {
                    let row_index = min(r0 + group + r * ROW_GROUPS, last_row);
                    let row = rows[row_index - r0];
                    let i = query_of(row_index);
                    let h = head_of(head, row_index);
                    #unroll
                    for (var n = 0u; n < KEY_REGS; n++) {
                        let e = r * KEY_REGS + n;
                        let place = p0 + 4u * (lane + (n / 4u) * LANES) + n % 4u;
                        var score = MASKED;
                        if (place < all_places) {
                            score = place_score(s[e], whole, b, h, i, place, row);
                        }
                        s[e] = or_kept(score, place, row);
                    }
                }
            }
            #unroll
            for (var r = 0u; r < ROW_REGS; r++) {
                if (!ROW_LISTS) {
                    // Rows past the end repeat the last one.
                    #unroll
                    for (var n = 0u; n < KEY_REGS; n++) {
                        best[n] = max(best[n], s[r * KEY_REGS + n]);
                    }
                }
                let row_index = r0 + group + r * ROW_GROUPS;
                if (ROW_LISTS && row_index <= last_row) {
                    let at = scores_at(b, head_of(head, row_index), query_of(row_index));
                    #unroll
                    for (var n = 0u; n < KEY_REGS; n++) {
                        let place = p0 + 4u * (lane + (n / 4u) * LANES) + n % 4u;
                        if (place < params.list_entries) {
                            store_score(at + place, s[r * KEY_REGS + n]);
                        }
                    }
                }
            }
        }

        if (!ROW_LISTS) {
            #unroll
            for (var n = 0u; n < KEY_REGS; n++) {
                maxima[group * KEYS + 4u * (lane + (n / 4u) * LANES) + n % 4u] = best[n];
            }
            workgroupBarrier();
            for (var e = thread; e < ENTRIES; e += THREADS) {
                // The entry's places in this step's tile.
                let start = max(e * ENTRY_PLACES, step * KEYS) - step * KEYS;
                let end = min(max((e + 1u) * ENTRY_PLACES, step * KEYS) - step * KEYS, KEYS);
                for (var p = start; p < end; p++) {
                    for (var g = 0u; g < ROW_GROUPS; g++) {
                        entry_best[e] = max(entry_best[e], maxima[g * KEYS + p]);
                    }
                }
            }
        }
    }
    if (!ROW_LISTS) {
        for (var e = thread; e < ENTRIES; e += THREADS) {
            if (e0 + e < params.list_entries) {
                store_score(scores_at(b, head_of(head, first_row), query_of(first_row)) + e0 + e, entry_best[e]);
            }
        }
    }
}
