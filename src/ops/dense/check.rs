//! Whether a problem makes sense, before any device is asked.

use crate::error::{Error, Result};
use crate::ops::dense::{Dense, Weighting, custom};
use crate::tensor::Strides;

/// Lengths and offsets are at most this, so that positions and their differences fit an i32.
pub(crate) const MAX_POSITION: u32 = 1 << 28;

/// Head sizes are at most this.
pub(crate) const MAX_DIM: u32 = 256;

pub(crate) fn invalid(field: &'static str, value: impl ToString, allowed: impl Into<String>) -> Error {
    Error::Invalid {
        field,
        value: value.to_string(),
        allowed: allowed.into(),
    }
}

pub(crate) fn within(field: &'static str, value: u32, low: u32, high: u32) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(invalid(field, value, format!("{low} to {high}")))
}

/// Every rule that concerns the problem alone, except that custom code must be right WGSL: only a plan runs that.
pub(crate) fn check(p: &Dense) -> Result<()> {
    check_shape(p)?;
    check_numbers(p)?;
    check_reach(p)?;
    check_combinations(p)?;
    check_layouts(p)?;
    p.selection.map_or(Ok(()), |s| s.check_shape(p))?;
    p.custom.as_ref().map_or(Ok(()), custom::check)
}

fn check_shape(p: &Dense) -> Result<()> {
    within("batch", p.batch, 1, MAX_POSITION)?;
    within("heads", p.heads, 1, MAX_POSITION)?;
    within("queries", p.queries, 1, MAX_POSITION)?;
    within("keys", p.keys, 1, MAX_POSITION)?;
    within("head_dim", p.head_dim, 1, MAX_DIM)?;
    within("value_dim", p.value_dim(), 1, MAX_DIM)?;
    let kv_heads = p.kv_heads();
    if kv_heads == 0 || !p.heads.is_multiple_of(kv_heads) {
        let allowed = format!("a divisor of `heads`, {}", p.heads);
        return Err(invalid("kv_heads", kv_heads, allowed));
    }
    Ok(())
}

fn check_numbers(p: &Dense) -> Result<()> {
    if !p.scale().is_finite() {
        return Err(invalid("scale", p.scale(), "a finite number"));
    }
    if let Some(c) = p.softcap
        && !(c.is_finite() && c > 0.0)
    {
        return Err(invalid("softcap", c, "a finite number above 0"));
    }
    if let Weighting::Sigmoid { bias: Some(b) } = p.weighting
        && !b.is_finite()
    {
        return Err(invalid("weighting.bias", b, "a finite number; `None` for −ln Nk"));
    }
    Ok(())
}

fn check_reach(p: &Dense) -> Result<()> {
    if let Some(offset) = p.q_offset
        && offset.unsigned_abs() > MAX_POSITION
    {
        let allowed = format!("−{MAX_POSITION} to {MAX_POSITION}");
        return Err(invalid("q_offset", offset, allowed));
    }
    within("sink_tokens", p.sink_tokens, 0, MAX_POSITION)?;
    within("prefix", p.prefix, 0, MAX_POSITION)
}

fn check_combinations(p: &Dense) -> Result<()> {
    let sigmoid = matches!(p.weighting, Weighting::Sigmoid { .. });
    if sigmoid && p.lse {
        let allowed = "false with sigmoid weighting, which has no normaliser";
        return Err(invalid("lse", true, allowed));
    }
    if sigmoid && p.sinks {
        let allowed = "false with sigmoid weighting, which has no denominator";
        return Err(invalid("sinks", true, allowed));
    }
    if let Some(documents) = p.documents {
        within("documents", documents, 1, MAX_POSITION)?;
        if p.batch != 1 {
            let allowed = "1 with packed documents";
            return Err(invalid("batch", p.batch, allowed));
        }
    }
    Ok(())
}

fn check_layouts(p: &Dense) -> Result<()> {
    let (h, hkv, dv) = (p.heads, p.kv_heads(), p.value_dim());
    let tensors = [
        (
            "q_layout",
            p.q_layout.strides(h, p.queries, p.head_dim),
            h,
            p.queries,
            p.head_dim,
        ),
        (
            "k_layout",
            p.k_layout.strides(hkv, p.keys, p.head_dim),
            hkv,
            p.keys,
            p.head_dim,
        ),
        ("v_layout", p.v_layout.strides(hkv, p.keys, dv), hkv, p.keys, dv),
        ("o_layout", p.o_layout.strides(h, p.queries, dv), h, p.queries, dv),
    ];
    for (field, s, heads, seq, dim) in tensors {
        extent(s, p.batch, heads, seq, dim).ok_or_else(|| {
            let allowed = "strides whose last element's index fits 48 bits";
            invalid(field, format!("{s:?}"), allowed)
        })?;
    }
    for (field, shape) in [("bias", p.bias.map(|b| b.shape)), ("mask", p.mask)] {
        let dims = shape.map(|s| s.dims(p)).unwrap_or_default();
        let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d.into()));
        if elements.is_none_or(|n| n >= 1 << 48) {
            return Err(invalid(
                field,
                format!("a tensor of shape {dims:?}"),
                "fewer than 2^48 elements",
            ));
        }
    }
    let o = p.o_layout.strides(h, p.queries, dv);
    if overlaps(o, p.batch, h, p.queries, dv) {
        let allowed = "strides that give every element of o a place of its own";
        return Err(invalid("o_layout", format!("{o:?}"), allowed));
    }
    Ok(())
}

/// Elements from the first to one past the last, if that is a sane number.
pub(crate) fn extent(s: Strides, batch: u32, heads: u32, seq: u32, dim: u32) -> Option<u64> {
    let reach = |n: u32, stride: u64| u64::from(n - 1).checked_mul(stride);
    let sum = reach(batch, s.batch)?
        .checked_add(reach(heads, s.head)?)?
        .checked_add(reach(seq, s.seq)?)?
        .checked_add(dim.into())?;
    (sum < 1 << 48).then_some(sum)
}

/// Whether two index triples can mean the same element. Sufficient test, exact for nested layouts: sorted by stride,
/// each dimension must step over all that the smaller ones span.
pub(crate) fn overlaps(s: Strides, batch: u32, heads: u32, seq: u32, dim: u32) -> bool {
    let mut dimensions = [(s.batch, batch), (s.head, heads), (s.seq, seq)];
    dimensions.sort_unstable();
    let mut span = u64::from(dim);
    for (stride, n) in dimensions {
        if n > 1 {
            if stride < span {
                return true;
            }
            span += u64::from(n - 1) * stride;
        }
    }
    false
}
