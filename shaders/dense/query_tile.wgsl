// Which query tile a workgroup takes, of `count` workgroups. Under causality the last tile has the most keys. The longest work
// starts earliest; or, where workgroups are dealt out in advance (ALTERNATE), as a software GPU gives each of its threads a
// run of neighbouring ones, long and short ones alternate, so that every share holds as much work as the next.
fn query_tile(workgroup: u32, count: u32) -> u32 {
    if (ALTERNATE) {
        return select(count - 1u - workgroup / 2u, workgroup / 2u, workgroup % 2u == 1u);
    }
    return count - 1u - workgroup;
}
