// Keys and values on their way to workgroup memory, where matrices read them: STAGED_KEYS rows a time by STAGERS
// invocations, four elements to an invocation and turn. Turns are written out where STAGING_WRITTEN_OUT is not 0.
//
//   p0       place in the walk of the first row
//   stager   number of the invocation among those that stage these rows
//   factor   what the rows are multiplied by
//   at       where in workgroup memory the rows go, in words; rows are HEAD_PITCH or VALUE_PITCH words apart, and a second
//            slice lies K_SLICE or V_SLICE words behind the first

// Where the words of a row divide the invocations, each stays with its word, and what it needs for a turn is a constant
// away from the first.
const HEAD_FILLS = STAGERS % HEAD_WORDS == 0u;
const VALUE_FILLS = STAGERS % VALUE_WORDS == 0u;
const K_LOADS = (STAGED_KEYS * HEAD_WORDS + STAGERS - 1u) / STAGERS;
const V_LOADS = (STAGED_KEYS * VALUE_WORDS + STAGERS - 1u) / STAGERS;
const K_EVEN = STAGED_KEYS * HEAD_WORDS % STAGERS == 0u;
const V_EVEN = STAGED_KEYS * VALUE_WORDS % STAGERS == 0u;

// Row and word of a turn.
struct Turn {
    row: u32,
    word: u32,
}

// Of a turn u, where a row has so many words.
fn turn_of(stager: u32, u: u32, words: u32) -> Turn {
    if (STAGERS % words == 0u) {
        return Turn(stager / words + u * (STAGERS / words), stager % words);
    }
    return Turn((stager + u * STAGERS) / words, (stager + u * STAGERS) % words);
}

fn load_k(base: u32, list: List, p0: u32, last_key: u32, stager: u32) -> array<Held, K_LOADS> {
    var values: array<Held, K_LOADS>;
    #unroll if STAGING_WRITTEN_OUT
    for (var u = 0u; u < K_LOADS; u++) {
        let turn = turn_of(stager, u, HEAD_WORDS);
        if (HEAD_WORDS == HEAD_VECS || turn.word < HEAD_VECS) {
            values[u] = k_four(base, min(key_at(list, p0 + turn.row), last_key), turn.word);
        }
    }
    return values;
}

fn store_k(values: array<Held, K_LOADS>, factor: f32, stager: u32, at: u32) {
    let own = at + (stager / HEAD_WORDS) * HEAD_PITCH + stager % HEAD_WORDS;
    #unroll if STAGING_WRITTEN_OUT
    for (var u = 0u; u < K_LOADS; u++) {
        if (K_EVEN || stager + u * STAGERS < STAGED_KEYS * HEAD_WORDS) {
            if (HEAD_FILLS) {
                put_held(own + u * (STAGERS / HEAD_WORDS) * HEAD_PITCH, values[u], factor, K_SLICE);
            } else {
                let turn = turn_of(stager, u, HEAD_WORDS);
                put_held(at + turn.row * HEAD_PITCH + turn.word, values[u], factor, K_SLICE);
            }
        }
    }
}

fn load_v(base: u32, list: List, p0: u32, last_key: u32, stager: u32) -> array<Held, V_LOADS> {
    var values: array<Held, V_LOADS>;
    #unroll if STAGING_WRITTEN_OUT
    for (var u = 0u; u < V_LOADS; u++) {
        let turn = turn_of(stager, u, VALUE_WORDS);
        if (VALUE_WORDS == VALUE_VECS || turn.word < VALUE_VECS) {
            values[u] = v_four(base, min(key_at(list, p0 + turn.row), last_key), turn.word);
        }
    }
    return values;
}

fn store_v(values: array<Held, V_LOADS>, factor: f32, stager: u32, at: u32) {
    let own = at + (stager / VALUE_WORDS) * VALUE_PITCH + stager % VALUE_WORDS;
    #unroll if STAGING_WRITTEN_OUT
    for (var u = 0u; u < V_LOADS; u++) {
        if (V_EVEN || stager + u * STAGERS < STAGED_KEYS * VALUE_WORDS) {
            if (VALUE_FILLS) {
                put_held(own + u * (STAGERS / VALUE_WORDS) * VALUE_PITCH, values[u], factor, V_SLICE);
            } else {
                let turn = turn_of(stager, u, VALUE_WORDS);
                put_held(at + turn.row * VALUE_PITCH + turn.word, values[u], factor, V_SLICE);
            }
        }
    }
}

// What the keys and the values of a tile are multiplied by when they are stored, and what undoes it.
struct Scales {
    k: f32,
    k_unit: f32,
    v: f32,
    v_unit: f32,
}
