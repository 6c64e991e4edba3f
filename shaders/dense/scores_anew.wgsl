// Where `dense/prefill_elements.wgsl` has the scores from when it moves the references of rows: from another product, so that
// no registers hold them while weights are made. NVIDIA's compiler had moved half of O out of its way and back for want of
// registers there. In milliseconds (NVIDIA H200, driver 580.159.04, 32 heads, N = 4096, D = 128):
//                      no masks   causal
//   this                 0.891     0.626
//   scores kept          0.916     0.641
// with values ahead of which there are none, one or three blocks, this takes 0.925, 0.918 and 0.924.
//
// This piece and `scores_kept` declare the same: whether scores are kept, and how many blocks of v's columns are loaded before
// the hooks, which are what separates the products: NVIDIA's compiler moves no load across them.
const SCORES_KEPT = false;
const VALUES_AHEAD = 2u;
