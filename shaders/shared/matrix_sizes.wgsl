// Rows of HEAD_DIM and VALUE_DIM elements as matrices have them: in blocks, and in words of four elements in workgroup memory,
// where rows are 16 bytes longer than what they hold, so that eight rows of a matrix fall into different banks.
const HEAD_BLOCKS = (HEAD_DIM + EDGE - 1u) / EDGE;
const VALUE_BLOCKS = (VALUE_DIM + EDGE - 1u) / EDGE;
const EDGE_WORDS = EDGE / 4u;
const HEAD_WORDS = HEAD_BLOCKS * EDGE_WORDS;
const VALUE_WORDS = VALUE_BLOCKS * EDGE_WORDS;
const HEAD_PITCH = HEAD_WORDS + 2u;
const VALUE_PITCH = VALUE_WORDS + 2u;
