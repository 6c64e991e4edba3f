// Sizes and places that follow from the tile of `linear/chunk_cooperative.wgsl`, whose header has the meaning of each.
const SUBGROUPS = STRIPS * SHARES;
const HEAD_BLOCKS = (HEAD_DIM + EDGE - 1u) / EDGE;
const STATE_BLOCKS = (HEAD_BLOCKS + STRIPS - 1u) / STRIPS;
const HEAD_ROWS = STRIPS * STATE_BLOCKS * EDGE;
const STRIP_ROWS = ROW_BLOCKS * EDGE;
const ROWS = STRIPS * STRIP_ROWS;
const KEY_BLOCKS = ROWS / EDGE;
const SHARE_KEYS = KEY_BLOCKS / KEY_SHARES;
const COLUMNS = SHARES * VALUE_BLOCKS * EDGE;

// Matrices of a subgroup, and how many of them pass through workgroup memory at once.
const STATES = STATE_BLOCKS * VALUE_BLOCKS;
const OUTPUTS = ROW_BLOCKS * VALUE_BLOCKS;

const VALUE_VECS_ALL = (VALUE_DIM + 3u) / 4u;

// From here on places and pitches are in words of four elements.
const EDGE_WORDS = EDGE / 4u;
const HEAD_WORDS = HEAD_ROWS / 4u;
const VALUE_WORDS = COLUMNS / 4u;
const HEAD_PITCH = HEAD_WORDS + 2u;
const VALUE_PITCH = VALUE_WORDS + 2u;
const W_PITCH = ROWS / 4u + 2u;
const S_PITCH = ROWS / 4u + 1u;
const STATE_AT = ROWS * HEAD_PITCH;
const K_AT = STATE_AT;
const V_AT = K_AT + ROWS * HEAD_PITCH;
const W_AT = V_AT + ROWS * VALUE_PITCH;
const FACTORS = max(STATE_AT + HEAD_ROWS * VALUE_PITCH, select(0u, W_AT + ROWS * W_PITCH, CAUSAL));
const MATRIX_PITCH = EDGE_WORDS + 1u;
const MATRIX = EDGE * MATRIX_PITCH;
const MATRIX_WORDS = EDGE * EDGE_WORDS;
const SUMS = max(SUBGROUPS * max(STATES_STAGED, OUTPUTS_STAGED) * MATRIX, select(0u, ROWS * S_PITCH, CAUSAL));

const_assert KEY_BLOCKS % KEY_SHARES == 0u && KEY_SHARES <= SHARES;
const_assert STATES % STATES_STAGED == 0u && OUTPUTS % OUTPUTS_STAGED == 0u;
