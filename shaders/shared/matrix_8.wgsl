// Cooperative matrices of 8 by 8: factors of f16, sums of f32. A subgroup holds one together.
const EDGE: u32 = 8u;
alias MatrixA = coop_mat8x8<f16, A>;
alias MatrixB = coop_mat8x8<f16, B>;
alias MatrixC = coop_mat8x8<f32, C>;
