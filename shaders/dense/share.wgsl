// The tiles that a split of the keys walks: each `params.splits`-th of a walk, beginning with the one of its own number. So
// splits that are at work at the same time read what lies side by side in memory.

struct Share {
    first: u32,
    count: u32,
}

fn share_of(tiles: Tiles, split: u32) -> Share {
    let all = tile_count(tiles);
    if (split >= all) {
        return Share(0u, 0u);
    }
    return Share(split, (all - split + params.splits - 1u) / params.splits);
}

// The n-th tile of a share, or, past its end, the last; the first of all where it has none.
fn share_tile(tiles: Tiles, share: Share, n: u32) -> u32 {
    return tile_at(tiles, share.first + min(n, max(share.count, 1u) - 1u) * params.splits);
}
