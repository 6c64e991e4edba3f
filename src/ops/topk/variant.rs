//! Which shader an op of this family runs: the typed specs behind the files under `shaders/topk/`.

use crate::ops::topk::hierarchical::variant::HierarchicalVariant;
use crate::ops::topk::pool::variant::PoolVariant;
use crate::shader::Spec;

/// A kernel of the top-k family with everything its code depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TopKVariant {
    /// `topk/pool.wgsl`
    Pool(PoolVariant),
    /// `topk/hierarchical.wgsl`
    Hierarchical(HierarchicalVariant),
}

impl TopKVariant {
    /// The spec that writes its header.
    pub fn spec(&self) -> &dyn Spec {
        match self {
            TopKVariant::Pool(v) => v,
            TopKVariant::Hierarchical(v) => v,
        }
    }
}
