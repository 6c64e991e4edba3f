// Which keys a tile of rows visits: those of a list, BLOCK_SIZE to an entry. Place n of the walk is key n % BLOCK_SIZE of
// the list's entry n / BLOCK_SIZE, so that any block size goes with any tile.
//
// A list is its number of entries, then the entries, ascending. It is not trusted: an entry that is out of range or not
// greater than the one before it has no keys, and neither has a place past the end.
//
//   lists      u32 [batch, heads or KV heads, lists of a head, 1 + list_capacity]
@group(0) @binding(9) var<storage, read> lists: array<u32>;

const ABSENT: u32 = 0xffffffffu;

struct List {
    // Index of the entry count.
    at: u32,
    count: u32,
}

fn list_of(b: u32, h: u32, i: u32, row_tile: u32) -> List {
    let at = params.list_base + (b - params.first_batch) * params.list_batch
        + (h / params.list_group - params.first_head / params.list_group) * params.list_head
        + (i / params.query_block - params.first_query / params.query_block) * params.list_row;
    return List(at, min(lists[at], params.list_capacity));
}

fn tiles_to_visit(list: List, first: Row, last: Row, one_document: bool, tile: u32) -> Tiles {
    // Without keys nothing may be read, not even to be masked.
    if (max(first.hi, last.hi) <= 0) {
        return Tiles(0u, 0u, 0u, 0u);
    }
    return Tiles(0u, 0u, 0u, (list.count * BLOCK_SIZE + tile - 1u) / tile);
}

fn place_of(list: List, t: u32, tile: u32) -> u32 {
    return t * tile;
}

fn entry_is_sound(list: List, n: u32) -> bool {
    let entry = lists[list.at + 1u + n];
    return entry < params.list_entries && (n == 0u || entry > lists[list.at + n]);
}

// The key at a place, or ABSENT, which no row sees.
fn key_at(list: List, place: u32) -> u32 {
    let n = place / BLOCK_SIZE;
    if (n >= list.count || !entry_is_sound(list, n)) {
        return ABSENT;
    }
    return lists[list.at + 1u + n] * BLOCK_SIZE + place % BLOCK_SIZE;
}

// Whether every row from `first` to `last` sees the keys at all places from p0 to p1 − 1; `clean` says that all entries
// of the list are sound.
fn whole_tile(list: List, clean: bool, first: Row, last: Row, one_document: bool, t: u32, p0: u32, p1: u32) -> bool {
    if (ELEMENT_MASK || !clean || !one_document || p1 > list.count * BLOCK_SIZE) {
        return false;
    }
    return sees_all(first, last, i32(key_at(list, p0)), i32(key_at(list, p1 - 1u)) + 1);
}
