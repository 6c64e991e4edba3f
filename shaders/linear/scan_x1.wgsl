// One element of a state to an invocation of `linear/scan.wgsl`. This piece and `scan_x4` declare the same.
alias Own = f32;
const WIDTH = 1u;

@group(0) @binding(10) var<storage, read_write> slots: array<f32>;

fn own_in(index: u32) -> Own {
    return state_in1(index);
}

fn store_own(index: u32, value: Own) {
    store_state1(index, value);
}

// Of the normaliser, whose rows are elements.
fn change_of_rows(total: u32) -> Own {
    return expm1(vec4<f32>(total_at(total))).x;
}
