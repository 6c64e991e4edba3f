// A word of a list of live tiles: the tile's number, and a bit that every row of the list sees all of its keys.
const WHOLE: u32 = 0x80000000u;
const TILE_NUMBER: u32 = 0x7fffffffu;
