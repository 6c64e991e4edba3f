// Adds the entries from..to to the end of every list, in place.
//
// One invocation takes one list: its entry count, then its entries, ascending. A count above the capacity reads as the
// capacity. Entries not greater than the list's last one are left out, as are those for which it has no room, so that
// nothing outside the list is touched. Lists run over x, then y of the grid.
//
//   lists    [lists, 1 + capacity]
struct Params {
    lists: u32,
    capacity: u32,
    from_entry: u32,
    to_entry: u32,

    lists_base: u32,
    padding_0: u32,
    padding_1: u32,
    padding_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read_write> lists: array<u32>;

const THREADS = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let number = (workgroup.y * grid.x + workgroup.x) * THREADS + thread;
    if (number >= params.lists) {
        return;
    }
    let list = params.lists_base + number * (1u + params.capacity);
    let held = min(lists[list], params.capacity);
    var first = params.from_entry;
    if (held > 0u) {
        // The last entry may be anything; one past it must not wrap around.
        first = max(first, min(lists[list + held], params.to_entry) + 1u);
    }
    let count = min(params.to_entry - min(first, params.to_entry), params.capacity - held);
    for (var n = 0u; n < count; n++) {
        lists[list + 1u + held + n] = first + n;
    }
    lists[list] = held + count;
}
