//! Whether a linear problem, or a joining of segments, makes sense before any data or device is asked.

use crate::error::Result;
use crate::ops::dense::check::{MAX_DIM, MAX_POSITION, extent, invalid, overlaps, within};
use crate::ops::linear::{Decay, Join, Linear};
use crate::tensor::Strides;

#[cfg(test)]
mod tests;

/// Tensors have fewer elements than this, so that every index and byte offset is far from the end of a u64.
const MAX_ELEMENTS: u64 = 1 << 48;

/// Every rule that concerns the problem alone.
pub(crate) fn check(p: &Linear) -> Result<()> {
    check_shape(p)?;
    check_numbers(p)?;
    check_combinations(p)?;
    check_state_only(p)?;
    check_layouts(p)
}

/// Every rule that concerns the joining alone.
pub(crate) fn check_join(p: &Join) -> Result<()> {
    within("segments", p.segments, 1, MAX_POSITION)?;
    within("sequences", p.sequences, 1, MAX_POSITION)?;
    within("heads", p.heads, 1, MAX_POSITION)?;
    within("head_dim", p.head_dim, 1, MAX_DIM)?;
    within("value_dim", p.value_dim(), 1, MAX_DIM)?;
    check_states(
        [p.segments, p.sequences, p.heads],
        head_state(p.head_dim, p.value_dim()),
    )
}

fn check_shape(p: &Linear) -> Result<()> {
    within("batch", p.batch, 1, MAX_POSITION)?;
    within("heads", p.heads, 1, MAX_POSITION)?;
    within("tokens", p.tokens, 1, MAX_POSITION)?;
    within("head_dim", p.head_dim, 1, MAX_DIM)?;
    within("value_dim", p.value_dim(), 1, MAX_DIM)?;
    let kv_heads = p.kv_heads();
    if kv_heads == 0 || !p.heads.is_multiple_of(kv_heads) {
        let allowed = format!("a divisor of `heads`, which is {}", p.heads);
        return Err(invalid("kv_heads", kv_heads, allowed));
    }
    if let Some(documents) = p.documents {
        within("documents", documents, 1, MAX_POSITION)?;
        if p.batch != 1 {
            let allowed = "1 with packed documents: they replace the batch dimension";
            return Err(invalid("batch", p.batch, allowed));
        }
    }
    check_states([1, p.sequences(), p.heads], head_state(p.head_dim, p.value_dim()))
}

/// Numbers of one head's state at most, i.e. with a normaliser.
fn head_state(head_dim: u32, value_dim: u32) -> u64 {
    u64::from(head_dim) * (u64::from(value_dim) + 1)
}

/// The size of `[segments, sequences, heads]` states.
fn check_states(dims: [u32; 3], head_state: u64) -> Result<()> {
    if fits(&dims, head_state) {
        return Ok(());
    }
    let allowed =
        format!("so many that all states, of up to {head_state} numbers for each sequence and head, stay below 2^48");
    Err(invalid("heads", dims[2], allowed))
}

/// Whether a tensor of this shape has a sane number of elements.
fn fits(dims: &[u32], last: u64) -> bool {
    let elements = dims.iter().try_fold(last, |n, &d| n.checked_mul(d.into()));
    elements.is_some_and(|n| n < MAX_ELEMENTS)
}

fn check_numbers(p: &Linear) -> Result<()> {
    if !p.scale().is_finite() {
        return Err(invalid("scale", p.scale(), "a finite number"));
    }
    if let Some(epsilon) = p.normalize
        && !(epsilon.is_finite() && epsilon >= 0.0)
    {
        let allowed = "a finite number, 0 or above; `None` for outputs that are not normalised";
        return Err(invalid("normalize", epsilon, allowed));
    }
    Ok(())
}

fn check_combinations(p: &Linear) -> Result<()> {
    if !p.causal && p.decay != Decay::None {
        let allowed = "`Decay::None` where not causal: every token sees the same sums";
        return Err(invalid("decay", format!("{:?}", p.decay), allowed));
    }
    if p.total_decay && p.decay == Decay::None {
        let allowed = "false with `Decay::None`: there is nothing to add up";
        return Err(invalid("total_decay", true, allowed));
    }
    if p.in_place && !(p.initial_state && p.final_state) {
        let allowed = "false without both `initial_state` and `final_state`, which it makes one tensor";
        return Err(invalid("in_place", true, allowed));
    }
    Ok(())
}

fn check_state_only(p: &Linear) -> Result<()> {
    if !p.state_only {
        return Ok(());
    }
    let refused = |allowed: &str| Err(invalid("state_only", true, allowed));
    if !p.causal {
        return refused("false where not `causal`: what a state contributes is then part of one sum");
    }
    if p.normalize.is_some() {
        return refused("false with `normalize`: parts of a quotient cannot be added up");
    }
    if !p.initial_state {
        return refused("false without `initial_state`, whose contribution it is");
    }
    if p.final_state {
        return refused("false with `final_state`: without k and v there is none");
    }
    Ok(())
}

fn check_layouts(p: &Linear) -> Result<()> {
    let (h, hkv, n, d, dv) = (p.heads, p.kv_heads(), p.tokens, p.head_dim, p.value_dim());
    // Strides of contiguous layouts are products of these.
    if !fits(&[h, n], d.max(dv).into()) {
        let allowed = "so many that q and o have fewer than 2^48 elements a batch entry";
        return Err(invalid("tokens", n, allowed));
    }
    let tensors = [
        ("q_layout", p.q_layout, h, Some(d)),
        ("k_layout", p.k_layout, hkv, Some(d)),
        ("v_layout", p.v_layout, hkv, Some(dv)),
        ("o_layout", p.o_layout, h, Some(dv)),
        ("decay_layout", p.decay_layout, h, decay_dim(p)),
    ];
    for (field, layout, heads, dim) in tensors {
        // A decay without tokens has no layout to check.
        let Some(dim) = dim else { continue };
        check_extent(field, layout.strides(heads, n, dim), [p.batch, heads, n, dim])?;
    }
    let o = p.o_layout.strides(h, n, dv);
    if overlaps(o, p.batch, h, n, dv) {
        let allowed = "strides that give every element of o a place of its own";
        return Err(invalid("o_layout", format!("{o:?}"), allowed));
    }
    Ok(())
}

/// The last dimension of `log_decay`, where it has tokens.
fn decay_dim(p: &Linear) -> Option<u32> {
    match p.decay {
        Decay::None | Decay::Head => None,
        Decay::Token => Some(1),
        Decay::Channel => Some(p.head_dim),
    }
}

fn check_extent(field: &'static str, s: Strides, [batch, heads, seq, dim]: [u32; 4]) -> Result<()> {
    match extent(s, batch, heads, seq, dim) {
        Some(_) => Ok(()),
        None => Err(invalid(
            field,
            format!("{s:?}"),
            "strides whose last element's index fits 48 bits",
        )),
    }
}
