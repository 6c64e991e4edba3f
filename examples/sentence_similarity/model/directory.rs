//! Where the model is.

use std::env::var_os;
use std::path::PathBuf;

/// The model's directory: `WGPU_ATTENTION_MODEL`, or where `scripts/similarity` puts it. `None` where the environment
/// says neither. Nothing may be there.
pub fn directory() -> Option<PathBuf> {
    let set = |name| var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let cache = || set("WGPU_ATTENTION_CACHE").or_else(|| Some(caches()?.join("wgpu-attention")));
    set("WGPU_ATTENTION_MODEL").or_else(|| Some(cache()?.join("all-minilm-l6-v2")))
}
