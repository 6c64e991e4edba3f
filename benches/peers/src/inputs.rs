//! Inputs, the same for all, and the folder they lie in.

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use wgpu_attention::{DType, Dense, DenseInputs};

use crate::problems::elements;

/// q, k and v on the host, already rounded to the problem's storage type.
pub struct Inputs {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

impl Inputs {
    /// Numbers from −1 to 1, the same for the same problem.
    pub fn random(p: &Dense) -> Self {
        let [q, k, v, _] = elements(p);
        let tensor = |seed: u64, n: u64| -> Vec<f32> {
            let mut rng = fastrand::Rng::with_seed(seed);
            (0..n).map(|_| rounded(rng.f32() * 2.0 - 1.0, p.dtype)).collect()
        };
        Inputs {
            q: tensor(1, q),
            k: tensor(2, k),
            v: tensor(3, v),
        }
    }

    pub fn host(&self) -> DenseInputs<'_> {
        DenseInputs {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            ..Default::default()
        }
    }
}

/// A folder of inputs and outputs that goes when the program ends.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("wgpu-attention-peers-").tempdir();
        folder.map(Folder).map_err(|e| format!("a folder for the inputs: {e}"))
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().into()
    }

    /// Writes the inputs, and takes any earlier output away: nobody gets the credit for another's.
    pub fn fill(&self, inputs: &Inputs, dtype: DType) -> Result<(), String> {
        self.discard_output()?;
        for (name, numbers) in [("q", &inputs.q), ("k", &inputs.k), ("v", &inputs.v)] {
            let path = self.0.path().join(name);
            fs::write(&path, to_bytes(numbers, dtype)).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    }

    pub fn discard_output(&self) -> Result<(), String> {
        match fs::remove_file(self.0.path().join("o")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("the last output: {e}")),
            _ => Ok(()),
        }
    }

    pub fn output(&self, dtype: DType) -> Result<Vec<f32>, String> {
        Ok(from_bytes(&read(self.0.path(), "o")?, dtype))
    }
}

/// A tensor's file.
pub fn read(folder: &Path, name: &str) -> Result<Vec<u8>, String> {
    let path = folder.join(name);
    fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
}

fn rounded(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(x).to_f32(),
        _ => x,
    }
}

/// As a device stores them: f16 or f32, the types of all problems here.
pub fn to_bytes(numbers: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F16 => numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        _ => bytemuck::cast_slice(numbers).to_vec(),
    }
}

pub fn from_bytes(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F16 => bytes
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        _ => bytemuck::pod_collect_to_vec(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_back_what_was_written() {
        let p = Dense {
            heads: 2,
            queries: 3,
            keys: 5,
            dtype: DType::F16,
            ..Default::default()
        };
        let inputs = Inputs::random(&p);
        let folder = Folder::new().unwrap();
        folder.fill(&inputs, p.dtype).unwrap();
        assert_eq!(from_bytes(&read(&folder.path(), "k").unwrap(), p.dtype), inputs.k);
        assert_ne!(inputs.k[..10], inputs.v[..10]);
    }

    #[test]
    fn an_output_of_before_is_not_found_again() {
        let p = Dense::default();
        let folder = Folder::new().unwrap();
        fs::write(folder.path().join("o"), [0; 4]).unwrap();
        folder.fill(&Inputs::random(&p), p.dtype).unwrap();
        assert!(folder.output(p.dtype).is_err());
    }
}
