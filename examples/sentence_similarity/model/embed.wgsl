// What a token is and where it stands, as two tensors that the layer norm which follows adds.
//
//     hidden[t, c] = word[id_t, c] + kind[0, c]
//     update[t, c] = place[position_t, c]
//
// All rows are `columns` vectors of four. A workgroup takes 64 of them in one row: grid (⌈columns / 64⌉, rows).

struct Params {
    columns: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
// The id and the position of each token.
@group(0) @binding(1) var<storage, read> tokens: array<vec2u>;
@group(0) @binding(2) var<storage, read> word: array<vec4f>;
@group(0) @binding(3) var<storage, read> place: array<vec4f>;
// Kinds of token tell the texts of a pair apart; there is one text, of kind 0.
@group(0) @binding(4) var<storage, read> kind: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> hidden: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> update: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3u) {
    let c = at.x;
    if c >= p.columns {
        return;
    }
    let token = tokens[at.y];
    hidden[at.y * p.columns + c] = word[token.x * p.columns + c] + kind[c];
    update[at.y * p.columns + c] = place[token.y * p.columns + c];
}
