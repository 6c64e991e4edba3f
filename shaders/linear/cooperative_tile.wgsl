// Sizes that follow from the tile of a kernel that keeps a state in cooperative matrices, `linear/chunk_cooperative.wgsl` or
// `linear/chunk_state_cooperative.wgsl`; the first has the meaning of each. The kernels say what lies where in workgroup memory.
const SUBGROUPS = STRIPS * SHARES;
const HEAD_BLOCKS = (HEAD_DIM + EDGE - 1u) / EDGE;
const STATE_BLOCKS = (HEAD_BLOCKS + STRIPS - 1u) / STRIPS;
const HEAD_ROWS = STRIPS * STATE_BLOCKS * EDGE;
const STRIP_ROWS = ROW_BLOCKS * EDGE;
const ROWS = STRIPS * STRIP_ROWS;
const KEY_BLOCKS = ROWS / EDGE;
const COLUMNS = SHARES * VALUE_BLOCKS * EDGE;

// Matrices of the state that a subgroup has.
const STATES = STATE_BLOCKS * VALUE_BLOCKS;

const VALUE_VECS_ALL = (VALUE_DIM + 3u) / 4u;

// From here on places and pitches are in words of four elements.
const EDGE_WORDS = EDGE / 4u;
const HEAD_WORDS = HEAD_ROWS / 4u;
const VALUE_WORDS = COLUMNS / 4u;
const HEAD_PITCH = HEAD_WORDS + 2u;
const VALUE_PITCH = VALUE_WORDS + 2u;
const MATRIX_PITCH = EDGE_WORDS + 1u;
const MATRIX = EDGE * MATRIX_PITCH;
const MATRIX_WORDS = EDGE * EDGE_WORDS;

const_assert STATES % STATES_STAGED == 0u;
