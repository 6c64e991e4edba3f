//! Published log-decays, one a head: what goes into `log_decay` with [`Decay::Head`](super::Decay::Head).
//!
//! All are negative, as [`super::LinearInputs::log_decay`] takes them; papers often give the slope s = −g, or the
//! factor λ = e^g. Heads and layers count from 0 here. Computed in f64, then rounded.
//!
//! ```
//! use wgpu_attention::linear::slopes;
//!
//! let first_layer = slopes::lightning(8, 0, 24)?;
//! // Heads from short memory to long: factors of e^−0.5 to e^−0.004 a token.
//! assert!((first_layer[0] + 0.5).abs() < 1e-4 && (first_layer[7] + 1.0 / 256.0).abs() < 1e-6);
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

use crate::error::Result;
use crate::ops::dense::check::{MAX_POSITION, invalid, within};

/// The decays of Lightning Attention and TransNormerLLM (Qin et al., 2024), as the authors' code computes them, not as
/// the paper writes them ([`lightning_paper`]): `[heads]`, for layer `layer` of `layers`.
///
/// g_h = −s_h · (1 − `layer`/(`layers` − 1) + 1e-5), so that late layers forget less; the last layer all but keeps
/// everything. s_h is the slope of ALiBi ("Train Short, Test Long", Press et al., 2021): 2^(−8(h+1)/H) where H is a
/// power of two. Otherwise, with P the next power of two below H, the first P heads take the slopes of P heads, and
/// the others every second slope of 2P heads: the first, the third, and so on.
///
/// A model of a single layer, for which the fraction is 0/0, takes it as 0: that layer is a first one.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) if there are no heads or no layers, more than 2²⁸ of them, or `layer` is
/// not below `layers`.
pub fn lightning(heads: u32, layer: u32, layers: u32) -> Result<Vec<f32>> {
    check(heads, layer, layers)?;
    let depth = match layers {
        1 => 0.0,
        _ => f64::from(layer) / f64::from(layers - 1),
    };
    let factor = 1.0 - depth + 1e-5;
    Ok((0..heads).map(|head| (-alibi(head, heads) * factor) as f32).collect())
}

/// The decays of Lightning Attention and TransNormerLLM by the equation in the paper, λ = exp(−(8h/H)·(1 − l/L)), which
/// is not what the authors' code computes ([`lightning`]): `[heads]`, for layer `layer` of `layers`.
///
/// The equation's h counts from 1, so that every head decays, and the last by e^−8 a token in the first layer; its l is
/// `layer`, so that every layer does.
///
/// # Errors
/// As [`lightning`].
pub fn lightning_paper(heads: u32, layer: u32, layers: u32) -> Result<Vec<f32>> {
    check(heads, layer, layers)?;
    let factor = 1.0 - f64::from(layer) / f64::from(layers);
    let slope = |head: u32| 8.0 * f64::from(head + 1) / f64::from(heads);
    Ok((0..heads).map(|head| (-slope(head) * factor) as f32).collect())
}

/// The decays of RetNet ("Retentive Network", Sun et al., 2023), g_h = ln(1 − 2^(−5−h)): `[heads]`, the same in every
/// layer.
///
/// RetNet's scale is 1/√D, which [`super::Linear::scale`] does not default to.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) if there are no heads, or more than 2²⁸ of them.
pub fn retnet(heads: u32) -> Result<Vec<f32>> {
    within("heads", heads, 1, MAX_POSITION)?;
    let decay = |head: u32| (-f64::exp2(-5.0 - f64::from(head))).ln_1p();
    Ok((0..heads).map(|head| decay(head) as f32).collect())
}

fn check(heads: u32, layer: u32, layers: u32) -> Result<()> {
    within("heads", heads, 1, MAX_POSITION)?;
    within("layers", layers, 1, MAX_POSITION)?;
    if layer >= layers {
        let allowed = format!("below `layers`, which is {layers}: layers count from 0");
        return Err(invalid("layer", layer, allowed));
    }
    Ok(())
}

/// ALiBi's slope of a head.
fn alibi(head: u32, heads: u32) -> f64 {
    let geometric = |head: u32, of: u32| f64::exp2(-8.0 * f64::from(head + 1) / f64::from(of));
    let power = 1 << heads.ilog2();
    if head < power {
        geometric(head, power)
    } else {
        geometric(2 * (head - power), 2 * power)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(actual: Vec<f32>, expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        for (&a, &e) in actual.iter().zip(expected) {
            assert!(
                (f64::from(a) - e).abs() <= 1e-7 * e.abs(),
                "{actual:?}, not {expected:?}"
            );
        }
    }

    #[test]
    fn lightning_follows_the_code() {
        near(
            lightning(4, 0, 1).unwrap(),
            &[-0.2500025, -0.062500625, -0.01562515625, -0.0039062890625],
        );
        near(lightning(2, 0, 3).unwrap(), &[-0.062500625, -0.0039062890625]);
        near(lightning(2, 1, 3).unwrap(), &[-0.031250625, -0.0019531640625]);
        near(lightning(2, 2, 3).unwrap(), &[-6.25e-7, -3.90625e-8]);
        near(lightning(1, 1, 2).unwrap(), &[-3.90625e-8]);
    }

    #[test]
    fn head_counts_between_powers_of_two_take_every_second_slope_of_the_next() {
        // The slopes of 4 heads, then the first and the third of 8.
        let six = [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125].map(|s| -1.00001 * s);
        near(lightning(6, 0, 8).unwrap(), &six);
        near(
            lightning(3, 0, 1).unwrap(),
            &[0.0625, 0.00390625, 0.25].map(|s| -1.00001 * s),
        );
        let seven = lightning(7, 0, 1).unwrap();
        near(vec![seven[6]], &[-1.00001 * 0.03125]);
    }

    #[test]
    fn lightning_paper_follows_the_equation() {
        near(lightning_paper(4, 0, 10).unwrap(), &[-2.0, -4.0, -6.0, -8.0]);
        near(lightning_paper(4, 5, 10).unwrap(), &[-1.0, -2.0, -3.0, -4.0]);
        near(lightning_paper(2, 3, 4).unwrap(), &[-1.0, -2.0]);
        near(lightning_paper(3, 0, 1).unwrap(), &[-8.0 / 3.0, -16.0 / 3.0, -8.0]);
    }

    #[test]
    fn retnet_follows_the_paper() {
        near(
            retnet(3).unwrap(),
            &[(31f64 / 32.0).ln(), (63f64 / 64.0).ln(), (127f64 / 128.0).ln()],
        );
        // Where 1 − 2^(−5−h) rounds to 1, the logarithm is still there.
        near(vec![retnet(100).unwrap()[95]], &[-(2f64.powi(-100))]);
    }

    #[test]
    fn every_decay_is_one_that_the_op_takes() {
        for heads in [1, 5, 64, 300] {
            let all = [
                lightning(heads, 1, 2).unwrap(),
                lightning_paper(heads, 1, 2).unwrap(),
                retnet(heads).unwrap(),
            ];
            assert!(all.iter().all(|g| g.len() == heads as usize));
            assert!(all.iter().flatten().all(|&g| g <= 0.0), "{all:?}");
        }
    }

    #[test]
    fn no_heads_and_layers_out_of_range_are_refused() {
        let message = |result: Result<Vec<f32>>| result.unwrap_err().to_string();
        for decays in [lightning, lightning_paper] {
            assert_eq!(message(decays(0, 0, 1)), "`heads` is 0; allowed: 1 to 268435456");
            assert_eq!(message(decays(8, 0, 0)), "`layers` is 0; allowed: 1 to 268435456");
            let allowed = "allowed: below `layers`, which is 3: layers count from 0";
            assert_eq!(message(decays(8, 3, 3)), format!("`layer` is 3; {allowed}"));
        }
        assert_eq!(message(retnet(0)), "`heads` is 0; allowed: 1 to 268435456");
        assert!(retnet(u32::MAX).is_err());
    }
}
