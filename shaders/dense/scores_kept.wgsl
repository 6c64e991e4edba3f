// Where `dense/prefill_elements.wgsl` has the scores from when it moves the references of rows: they are kept. So it is where
// registers suffice or hooks would have to run again. In milliseconds (NVIDIA H200, driver 580.159.04, 32 heads, N = 4096):
//                      D = 64   D = 64, causal   D = 128, causal, softcap
//   this                0.533        0.361               1.475
//   scores anew         0.603        0.405               1.530
const SCORES_KEPT = true;
const VALUES_AHEAD = 0u;
