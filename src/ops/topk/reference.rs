//! What the top-k kernels compute, in float64 and in the plainest form.
