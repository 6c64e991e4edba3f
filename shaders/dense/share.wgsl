// The tiles that a split of the keys walks.

// Tiles `first` to `end` − 1 of a walk.
struct Share {
    first: u32,
    end: u32,
}

fn share_of(tiles: Tiles, split: u32) -> Share {
    let count = tile_count(tiles);
    let size = (count + params.splits - 1u) / params.splits;
    let first = min(split * size, count);
    return Share(first, min(first + size, count));
}
