// Sizes that follow from a tile of strips of rows, which all invocations stage KEYS keys a time for, and q in Q_PARTS parts of its
// columns, EDGE rows of each strip at once.
#import shared/matrix_sizes
const STRIP_ROWS = ROW_BLOCKS * EDGE;
const ROWS = STRIPS * STRIP_ROWS;
// Matrices of q and O in a subgroup.
const QUERIES = ROW_BLOCKS * HEAD_BLOCKS;
const OUTPUTS = ROW_BLOCKS * VALUE_BLOCKS;

const STAGED_KEYS = KEYS;
const STAGERS = THREADS;

// Places are in words of four elements.
const K_SLICE = KEYS * HEAD_PITCH;
const V_SLICE = KEYS * VALUE_PITCH;
const Q_BLOCKS = HEAD_BLOCKS / Q_PARTS;
const Q_WORDS = Q_BLOCKS * EDGE_WORDS;
const Q_PITCH = Q_WORDS + 2u;

const_assert HEAD_BLOCKS % Q_PARTS == 0u;
