// A tree search for the key blocks that matter to a tile of queries ("HiP Attention", Lee et al., 2024).
//
// The `searched` whole blocks before the window are cut into TOP_K groups of neighbours. As long as a group has two
// blocks or more, each is cut in the middle, and of the halves the TOP_K best stay, in ascending order:
//
//   score of a half = max over sampled rows i and keys j of its first block, j ≤ position of i if causal, of scale · q_i·k_j
//
// Equal scores go to the lower block. Sampled are the tile's odd rows; row 0 where it has one. The list is the blocks
// that are left ∪ the sinks ∪ the window, from `searched` on to the end of what the tile's last row sees.
//
// A left half begins where the whole did, so its score is known: only right halves are scored, after the groups once.
// One workgroup takes a tile; x over tiles, y over query heads, z over batch entries. Invocation t owns the groups from
// t·OWN on; scores are compared as integers, so that no value of q or k leads a place astray.
//
//   q       [batch, heads, queries, HEAD_DIM], strided
//   k       [batch, KV heads, keys, HEAD_DIM], strided
//   lists   [batch, heads, tiles, 1 + capacity]: the number of entries, the entries, zeros
//
// A tile whose rows see no key gets an empty list.
#import shared/numerics

struct Params {
    queries: u32,
    keys: u32,
    query_block: u32,
    first_tile: u32,

    window: u32,
    sink_blocks: u32,
    capacity: u32,
    q_offset: i32,

    first_head: u32,
    group: u32,
    causal: u32,
    scale: f32,

    q_base: u32,
    q_batch: u32,
    q_head: u32,
    q_seq: u32,

    k_base: u32,
    k_batch: u32,
    k_head: u32,
    k_seq: u32,

    lists_base: u32,
    lists_batch: u32,
    lists_head: u32,
    padding: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read_write> lists: array<u32>;

const VECS = (HEAD_DIM + 3u) / 4u;
// Groups of an invocation, whose last ones have fewer or none where TOP_K is no multiple.
const OWN = (TOP_K + THREADS - 1u) / THREADS;
// Steps that go through the keys of a block.
const KEY_STEPS = (BLOCK_SIZE + KEYS - 1u) / KEYS;

// Groups: blocks from `starts` to before `ends`, the score of the first block as a `sort_key`, and what was scored last.
var<workgroup> starts: array<u32, TOP_K>;
var<workgroup> ends: array<u32, TOP_K>;
var<workgroup> scores: array<u32, TOP_K>;
var<workgroup> found: array<f32, TOP_K>;
// Halves that reach a bound, for each of its bits.
var<workgroup> counts: array<atomic<u32>, 32>;
// Halves of each invocation: above the bound in the lower 16 bits, equal to it in the upper.
var<workgroup> totals: array<u32, THREADS>;

struct Tile {
    // Rows, and position of row 0.
    rows: u32,
    position: i32,
    // Blocks that are searched, and those that the last row sees a key of.
    searched: u32,
    seen: u32,
    // Elements of q and k before the tile's first row and the head's first key.
    q_from: u32,
    k_from: u32,
}

fn tile_of(workgroup: vec3<u32>) -> Tile {
    let first_row = (params.first_tile + workgroup.x) * params.query_block;
    let rows = min(params.query_block, params.queries - first_row);
    let position = i32(first_row) + params.q_offset;
    var end = params.keys;
    if (params.causal != 0u) {
        end = u32(clamp(position + i32(rows), 0, i32(params.keys)));
    }
    let kv_head = (params.first_head + workgroup.y) / params.group - params.first_head / params.group;
    return Tile(
        rows,
        position,
        (end - min(end, params.window)) / BLOCK_SIZE,
        (end + BLOCK_SIZE - 1u) / BLOCK_SIZE,
        params.q_base + workgroup.z * params.q_batch + workgroup.y * params.q_head
            + workgroup.x * params.query_block * params.q_seq,
        params.k_base + workgroup.z * params.k_batch + kv_head * params.k_head,
    );
}

// Row of the tile that is the sample of that number, the last one again past the end.
fn sampled_row(tile: Tile, number: u32) -> u32 {
    return select(min(2u * number + 1u, tile.rows / 2u * 2u - 1u), 0u, tile.rows == 1u);
}

fn samples(tile: Tile) -> u32 {
    return max(tile.rows / 2u, 1u);
}

// The last key that a row of the tile sees.
fn sight(tile: Tile, row: u32) -> i32 {
    return select(i32(params.keys) - 1, tile.position + i32(row), params.causal != 0u);
}

// Integers in the order of the numbers, those of both zeros alike; above 0, which stands for none.
fn sort_key(score: f32) -> u32 {
    let bits = bitcast<u32>(score);
    if ((bits & 0x7fffffffu) == 0u) {
        return 0x80000000u;
    }
    return max(select(~bits, bits | 0x80000000u, (bits >> 31u) == 0u), 1u);
}

// Groups that an invocation owns.
fn groups_of(thread: u32) -> u32 {
    return min(OWN, TOP_K - min(thread * OWN, TOP_K));
}

// Scores the invocation's groups: their first blocks, or those of their right halves where they have two.
fn score_groups(tile: Tile, halves: bool, thread: u32) {
    let turns = (samples(tile) + ROWS - 1u) / ROWS;
    for (var turn = 0u; turn < turns; turn++) {
        take_rows(tile, turn * ROWS, thread);
        for (var n = 0u; n < groups_of(thread); n++) {
            let g = thread * OWN + n;
            let size = ends[g] - starts[g];
            if (!halves || size > 1u) {
                let best = best_score(tile, turn * ROWS, starts[g] + select(0u, size / 2u, halves));
                found[g] = select(best, max(best, found[g]), turn > 0u);
            }
        }
    }
}

// Of the halves of all groups, the TOP_K of the greatest scores become the groups, in ascending order.
fn keep_best(thread: u32) {
    let groups = groups_of(thread);
    var start: array<u32, OWN>;
    var end: array<u32, OWN>;
    var left: array<u32, OWN>;
    var right: array<u32, OWN>;
    for (var n = 0u; n < groups; n++) {
        let g = thread * OWN + n;
        start[n] = starts[g];
        end[n] = ends[g];
        left[n] = scores[g];
        right[n] = select(0u, sort_key(found[g]), end[n] - start[n] > 1u);
    }

    // The greatest score that TOP_K halves reach, bit by bit.
    var least = 0u;
    for (var bit = 0u; bit < 32u; bit++) {
        let tried = least | (0x80000000u >> bit);
        var count = 0u;
        for (var n = 0u; n < groups; n++) {
            count += select(0u, 1u, left[n] >= tried) + select(0u, 1u, right[n] >= tried);
        }
        atomicAdd(&counts[bit], count);
        workgroupBarrier();
        least = select(least, tried, atomicLoad(&counts[bit]) >= TOP_K);
    }

    var own = 0u;
    for (var n = 0u; n < groups; n++) {
        own += compared(left[n], least) + compared(right[n], least);
    }
    totals[thread] = own;
    workgroupBarrier();
    var before = 0u;
    var all = 0u;
    for (var t = 0u; t < THREADS; t++) {
        let total = totals[t];
        before += select(0u, total, t < thread);
        all += total;
    }
    // Every count of this round has been read.
    clear_counts(thread);
    let ties = TOP_K - (all & 0xffffu);
    for (var n = 0u; n < groups; n++) {
        let half = (end[n] - start[n]) / 2u;
        let middle = start[n] + half;
        before = keep(before, ties, least, left[n], start[n], select(middle, end[n], half == 0u));
        before = keep(before, ties, least, right[n], middle, end[n]);
    }
    workgroupBarrier();
}

// Whether a score is above the bound, in the lower 16 bits, or equal to it, in the upper.
fn compared(key: u32, least: u32) -> u32 {
    return select(0u, 1u, key > least) + select(0u, 0x10000u, key == least);
}

// Puts a half in its place if it stays: among those before it, all above the bound and the first `ties` equal to it do.
fn keep(before: u32, ties: u32, least: u32, key: u32, start: u32, end: u32) -> u32 {
    let equal_before = before >> 16u;
    if (key > least || (key == least && equal_before < ties)) {
        let at = (before & 0xffffu) + min(equal_before, ties);
        starts[at] = start;
        ends[at] = end;
        scores[at] = key;
    }
    return before + compared(key, least);
}

fn clear_counts(thread: u32) {
    for (var bit = thread; bit < 32u; bit += THREADS) {
        atomicStore(&counts[bit], 0u);
    }
}

// First block of group g: ⌊g · searched / TOP_K⌋, without a product beyond 32 bits.
fn first_block(tile: Tile, g: u32) -> u32 {
    return g * (tile.searched / TOP_K) + g * (tile.searched % TOP_K) / TOP_K;
}

fn search(tile: Tile, thread: u32) {
    for (var n = 0u; n < groups_of(thread); n++) {
        let g = thread * OWN + n;
        starts[g] = first_block(tile, g);
        ends[g] = first_block(tile, g + 1u);
    }
    clear_counts(thread);
    // Blocks of the largest group, at most: halving that leads to the same end in every invocation.
    var largest = (tile.searched + TOP_K - 1u) / TOP_K;
    var halves = false;
    while (largest > 1u) {
        score_groups(tile, halves, thread);
        if (halves) {
            keep_best(thread);
            largest = (largest + 1u) / 2u;
        } else {
            for (var n = 0u; n < groups_of(thread); n++) {
                let g = thread * OWN + n;
                scores[g] = sort_key(found[g]);
            }
            workgroupBarrier();
            halves = true;
        }
    }
}

// Blocks among the `kept` ones, which ascend, that come before `end`.
fn kept_before(end: u32, kept: u32) -> u32 {
    var low = 0u;
    var high = kept;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (starts[middle] < end) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let tile = tile_of(workgroup);
    let kept = min(tile.searched, TOP_K);
    let sinks = min(params.sink_blocks, tile.seen);
    var in_sinks = min(kept, sinks);
    if (tile.searched > TOP_K) {
        search(tile, thread);
        in_sinks = kept_before(sinks, kept);
    }

    let window = max(tile.searched, sinks);
    let window_at = sinks + kept - in_sinks;
    let count = window_at + tile.seen - window;
    let to = params.lists_base + workgroup.z * params.lists_batch + workgroup.y * params.lists_head
        + workgroup.x * (1u + params.capacity);
    for (var n = thread; n <= params.capacity; n += THREADS) {
        let entry = max(n, 1u) - 1u;
        var word = 0u;
        if (n == 0u) {
            word = count;
        } else if (entry < sinks) {
            word = entry;
        } else if (entry < window_at) {
            word = entry - sinks + in_sinks;
            if (tile.searched > TOP_K) {
                word = starts[word];
            }
        } else if (entry < count) {
            word = window + entry - window_at;
        }
        lists[to + n] = word;
    }
}
