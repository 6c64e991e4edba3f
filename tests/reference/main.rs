//! The float64 references against the golden cases, and against second forms of the same.

mod dense;
mod linear;
mod topk;

use std::path::PathBuf;

fn golden(op: &str) -> Vec<PathBuf> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(op);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.next() % u64::from(end)) as u32
    }

    /// True once in `n`.
    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    /// −2 to 2.
    fn number(&mut self) -> f32 {
        self.next() as i32 as f32 / 2f32.powi(30)
    }

    fn numbers(&mut self, dims: &[u32]) -> Vec<f32> {
        (0..dims.iter().product()).map(|_| self.number()).collect()
    }

    fn maybe<T>(&mut self, n: u32, draw: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.one_in(n).then(|| draw(self))
    }

    /// Non-decreasing, inside 0..=end.
    fn offsets(&mut self, documents: u32, end: u32) -> Vec<i32> {
        let mut offsets: Vec<_> = (0..=documents).map(|_| self.below(end + 1) as i32).collect();
        offsets.sort();
        offsets
    }
}

/// Both to 1e-11, infinities exactly.
fn agree(a: &[f64], b: &[f64]) -> bool {
    let near = |a: f64, b: f64| a == b || (a - b).abs() <= 1e-11 * (1.0 + b.abs());
    a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| near(a, b))
}
