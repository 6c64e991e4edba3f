// Cooperative matrices of 16 by 16: factors of f16, sums of f32. A subgroup holds one together.
const EDGE: u32 = 16u;
alias MatrixA = coop_mat16x16<f16, A>;
alias MatrixB = coop_mat16x16<f16, B>;
alias MatrixC = coop_mat16x16<f32, C>;
