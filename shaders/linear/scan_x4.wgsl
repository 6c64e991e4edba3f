// Four neighbouring elements of a state to an invocation of `linear/scan.wgsl`, which are of one row.
alias Own = vec4<f32>;
const WIDTH = 4u;

@group(0) @binding(10) var<storage, read_write> slots: array<vec4<f32>>;

fn own_in(index: u32) -> Own {
    return state_in4(index, WIDTH);
}

fn store_own(index: u32, value: Own) {
    store_state4(index, value, WIDTH);
}

// Of the normaliser, whose rows are elements.
fn change_of_rows(total: u32) -> Own {
    return expm1(vec4<f32>(total_at(total), total_at(total + 1u), total_at(total + 2u), total_at(total + 3u)));
}
