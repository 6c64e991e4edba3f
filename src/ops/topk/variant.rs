//! Which shader an op of this family runs: the typed specs behind the files under `shaders/topk/`.

use crate::ops::topk::extend::ExtendVariant;
use crate::ops::topk::select::variant::SelectVariant;
use crate::shader::Spec;

/// A kernel of the top-k family with everything its code depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TopKVariant {
    /// `topk/select.wgsl`
    Select(SelectVariant),
    /// `topk/extend.wgsl`
    Extend(ExtendVariant),
}

impl TopKVariant {
    /// The spec that writes its header.
    pub fn spec(&self) -> &dyn Spec {
        match self {
            TopKVariant::Select(v) => v,
            TopKVariant::Extend(v) => v,
        }
    }
}
