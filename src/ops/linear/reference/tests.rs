//! Tiny problems with answers worked out by hand, each by both forms.

use super::*;
use crate::ops::linear::{Join, JoinInputs};

/// D = 1, so that a state is a number and an output a product of two.
fn tiny(tokens: u32) -> Linear {
    Linear {
        tokens,
        head_dim: 1,
        final_state: true,
        ..Default::default()
    }
}

const NONE: LinearInputs<'_> = LinearInputs {
    q: &[],
    k: &[],
    v: &[],
    log_decay: None,
    cu_seqlens: None,
    initial_state: None,
    o: None,
};

const LN_HALF: f32 = -std::f32::consts::LN_2;

/// Both forms, which must agree.
fn solve_with(problem: &Linear, inputs: &LinearInputs<'_>, hooks: &Hooks<'_>) -> LinearOutput<f64> {
    let [a, b] = [linear, masked_matrix].map(|form| form(problem, inputs, hooks).unwrap());
    all_near(&a.o, &b.o);
    for (a, b) in [(&a.final_state, &b.final_state), (&a.total_decay, &b.total_decay)] {
        assert_eq!(a.is_some(), b.is_some());
        all_near(a.as_deref().unwrap_or_default(), b.as_deref().unwrap_or_default());
    }
    a
}

fn solve(problem: &Linear, inputs: &LinearInputs<'_>) -> LinearOutput<f64> {
    solve_with(problem, inputs, &Hooks::default())
}

/// o and the final state.
#[track_caller]
fn gives(problem: &Linear, inputs: &LinearInputs<'_>, o: &[f64], final_state: &[f64]) {
    let output = solve(problem, inputs);
    all_near(&output.o, o);
    all_near(&output.final_state.unwrap(), final_state);
}

#[track_caller]
fn all_near(actual: &[f64], expected: &[f64]) {
    let near = |a: f64, e: f64| a == e || (a - e).abs() <= 1e-6 * e.abs().max(1.0);
    assert!(
        actual.len() == expected.len() && actual.iter().zip(expected).all(|(&a, &e)| near(a, e)),
        "{actual:?} instead of {expected:?}"
    );
}

#[test]
fn outputs_read_the_running_sum() {
    let inputs = LinearInputs {
        q: &[1.0, 10.0, 100.0],
        k: &[1.0, 2.0, 3.0],
        v: &[5.0, 7.0, 11.0],
        ..NONE
    };
    gives(&tiny(3), &inputs, &[5.0, 190.0, 5200.0], &[52.0]);
    let scaled = Linear {
        scale: Some(-0.5),
        ..tiny(3)
    };
    gives(&scaled, &inputs, &[-2.5, -95.0, -2600.0], &[52.0]);
    let open = Linear {
        causal: false,
        ..tiny(3)
    };
    gives(&open, &inputs, &[52.0, 520.0, 5200.0], &[52.0]);
    let unasked = Linear {
        final_state: false,
        ..tiny(3)
    };
    assert_eq!(solve(&unasked, &inputs).final_state, None);
}

#[test]
fn a_state_has_a_row_for_each_key_element_and_a_column_for_each_value_element() {
    let problem = Linear {
        tokens: 1,
        head_dim: 2,
        value_dim: Some(3),
        final_state: true,
        ..Default::default()
    };
    let inputs = LinearInputs {
        q: &[1.0, 100.0],
        k: &[2.0, 3.0],
        v: &[1.0, 10.0, 7.0],
        ..NONE
    };
    gives(
        &problem,
        &inputs,
        &[302.0, 3020.0, 2114.0],
        &[2.0, 20.0, 14.0, 3.0, 30.0, 21.0],
    );
}

#[test]
fn a_decay_acts_before_its_own_token_is_added() {
    let ones = [1.0; 3];
    let inputs = LinearInputs {
        q: &ones,
        k: &ones,
        v: &[8.0, 4.0, 2.0],
        log_decay: Some(&[LN_HALF]),
        initial_state: Some(&[16.0]),
        ..NONE
    };
    let problem = Linear {
        decay: Decay::Head,
        initial_state: true,
        total_decay: true,
        ..tiny(3)
    };
    gives(&problem, &inputs, &[16.0, 12.0, 8.0], &[8.0]);
    all_near(&solve(&problem, &inputs).total_decay.unwrap(), &[-(8f64.ln())]);

    let tokens = [0.0, f32::NEG_INFINITY, LN_HALF];
    let inputs = LinearInputs {
        log_decay: Some(&tokens),
        ..inputs
    };
    let problem = Linear {
        decay: Decay::Token,
        ..problem
    };
    gives(&problem, &inputs, &[24.0, 4.0, 4.0], &[4.0]);
    assert_eq!(solve(&problem, &inputs).total_decay, Some(vec![f64::NEG_INFINITY]));
}

#[test]
fn a_decay_by_channel_acts_on_rows_of_state_and_normaliser() {
    let problem = Linear {
        tokens: 2,
        head_dim: 2,
        value_dim: Some(1),
        decay: Decay::Channel,
        normalize: Some(0.5),
        final_state: true,
        total_decay: true,
        ..Default::default()
    };
    let inputs = LinearInputs {
        q: &[1.0, 1.0, 1.0, 2.0],
        k: &[1.0, 3.0, 1.0, 1.0],
        v: &[4.0, 8.0],
        // The first token's have nothing to act on, but count.
        log_decay: Some(&[-1.0, -2.0, 0.0, LN_HALF]),
        ..NONE
    };
    // S: (4, 12), then (4 + 8, 6 + 8); z: (1, 3), then (2, 2.5).
    let o = [16.0 / 4.5, 40.0 / 7.5];
    gives(&problem, &inputs, &o, &[12.0, 14.0, 2.0, 2.5]);
    let total = solve(&problem, &inputs).total_decay.unwrap();
    all_near(&total, &[-1.0, -2.0 + f64::from(LN_HALF)]);
}

#[test]
fn a_normaliser_takes_part_in_the_state_and_scale_acts_on_both_sides_of_the_fraction() {
    let problem = Linear {
        normalize: Some(1.0),
        scale: Some(2.0),
        initial_state: true,
        ..tiny(2)
    };
    let inputs = LinearInputs {
        q: &[1.0, 2.0],
        k: &[1.0, 1.0],
        v: &[3.0, 5.0],
        initial_state: Some(&[10.0, 4.0]),
        ..NONE
    };
    gives(&problem, &inputs, &[26.0 / 11.0, 72.0 / 25.0], &[18.0, 6.0]);
    let open = Linear {
        causal: false,
        ..problem
    };
    gives(&open, &inputs, &[36.0 / 13.0, 72.0 / 25.0], &[18.0, 6.0]);
}

#[test]
fn feature_maps_act_on_queries_and_keys() {
    type Map = fn(f64) -> f64;
    let maps: [(FeatureMap, Map); 4] = [
        (FeatureMap::Identity, |x| x),
        (FeatureMap::Silu, |x| x / (1.0 + (-x).exp())),
        (FeatureMap::Relu, |x| x.max(0.0)),
        (FeatureMap::Elu1, |x| if x > 0.0 { x + 1.0 } else { x.exp() }),
    ];
    for (feature_map, map) in maps {
        let problem = Linear { feature_map, ..tiny(1) };
        for (q, k) in [(1.5, 0.5), (-1.5, 0.5), (2.0, -3.0), (0.0, -0.25)] {
            let inputs = LinearInputs {
                q: &[q],
                k: &[k],
                v: &[10.0],
                ..NONE
            };
            let state = 10.0 * map(k.into());
            gives(&problem, &inputs, &[map(q.into()) * state], &[state]);
        }
    }
    assert_eq!(sigmoid(-1e4) + sigmoid(1e4), 1.0);
}

#[test]
fn a_hook_sees_every_element_with_its_place() {
    let problem = Linear {
        heads: 2,
        kv_heads: Some(1),
        tokens: 2,
        head_dim: 2,
        value_dim: Some(1),
        feature_map: FeatureMap::Custom("twin below".into()),
        ..Default::default()
    };
    let (q, k) = ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [10.0, 11.0, 12.0, 13.0]);
    let inputs = LinearInputs {
        q: &q,
        k: &k,
        v: &[1.0, 1.0],
        ..NONE
    };
    let seen = std::cell::RefCell::new(Vec::new());
    let feature = |x: f64, at: &Channel| {
        let index = (at.head * 2 + at.token) * 2 + at.channel;
        let first = if at.is_query { 0.0 } else { 10.0 };
        assert_eq!(x, first + f64::from(index));
        seen.borrow_mut().push(*at);
        x * x
    };
    let hooks = Hooks {
        feature: Some(&feature),
    };
    let output = solve_with(&problem, &inputs, &hooks);
    assert_eq!(output.o[..2], [121.0, 4.0 * (100.0 + 144.0) + 9.0 * (121.0 + 169.0)]);
    let seen = seen.borrow();
    assert!(seen.contains(&Channel {
        head: 1,
        token: 0,
        channel: 1,
        is_query: true
    }));
    assert!(seen.iter().all(|at| at.is_query || at.head == 0));

    let message = linear(&problem, &inputs, &Hooks::default()).unwrap_err().to_string();
    assert_eq!(
        message,
        "input `hooks.feature`: None; needed: the CPU twin of the problem's custom WGSL"
    );
    let plain = Linear {
        feature_map: FeatureMap::Relu,
        ..problem
    };
    let message = masked_matrix(&plain, &inputs, &hooks).unwrap_err().to_string();
    assert_eq!(
        message,
        "input `hooks.feature`: a function; needed: None, since the problem's feature map is not custom"
    );
}

#[test]
fn query_heads_share_keys_in_groups_and_have_states_of_their_own() {
    let problem = Linear {
        heads: 4,
        kv_heads: Some(2),
        decay: Decay::Head,
        ..tiny(2)
    };
    let inputs = LinearInputs {
        q: &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0],
        k: &[1.0; 4],
        v: &[2.0, 4.0, 20.0, 40.0],
        log_decay: Some(&[0.0, LN_HALF, LN_HALF, f32::NEG_INFINITY]),
        ..NONE
    };
    gives(
        &problem,
        &inputs,
        &[2.0, 6.0, 4.0, 10.0, 60.0, 150.0, 80.0, 160.0],
        &[6.0, 5.0, 50.0, 40.0],
    );
}

#[test]
fn batch_entries_have_states_and_decays_of_their_own() {
    let problem = Linear {
        batch: 2,
        heads: 2,
        decay: Decay::Token,
        initial_state: true,
        ..tiny(1)
    };
    let inputs = LinearInputs {
        q: &[1.0; 4],
        k: &[1.0, 2.0, 3.0, 4.0],
        v: &[1.0; 4],
        log_decay: Some(&[0.0, LN_HALF, 0.0, LN_HALF]),
        initial_state: Some(&[10.0, 20.0, 30.0, 40.0]),
        ..NONE
    };
    let states = [11.0, 12.0, 33.0, 24.0];
    gives(&problem, &inputs, &states, &states);
}

/// Tokens 1 and 2, none, and token 3 of five.
fn three_documents() -> (Linear, LinearInputs<'static>) {
    let problem = Linear {
        documents: Some(3),
        decay: Decay::Head,
        initial_state: true,
        total_decay: true,
        ..tiny(5)
    };
    let inputs = LinearInputs {
        q: &[1.0; 5],
        k: &[1.0; 5],
        v: &[1.0, 2.0, 4.0, 8.0, 16.0],
        log_decay: Some(&[LN_HALF]),
        cu_seqlens: Some(&[1, 3, 3, 4]),
        initial_state: Some(&[32.0, 64.0, 128.0]),
        ..NONE
    };
    (problem, inputs)
}

#[test]
fn documents_have_states_of_their_own_and_other_tokens_give_zero() {
    let (problem, inputs) = three_documents();
    gives(&problem, &inputs, &[0.0, 18.0, 13.0, 72.0, 0.0], &[13.0, 64.0, 72.0]);
    let ln_half = f64::from(LN_HALF);
    let total = solve(&problem, &inputs).total_decay.unwrap();
    all_near(&total, &[2.0 * ln_half, 0.0, ln_half]);

    let open = Linear {
        causal: false,
        decay: Decay::None,
        total_decay: false,
        ..problem
    };
    let inputs = LinearInputs {
        log_decay: None,
        ..inputs
    };
    gives(&open, &inputs, &[0.0, 38.0, 38.0, 136.0, 0.0], &[38.0, 64.0, 136.0]);
}

#[test]
fn state_only_adds_what_the_state_contributes() {
    let (problem, inputs) = three_documents();
    let problem = Linear {
        state_only: true,
        final_state: false,
        scale: Some(3.0),
        ..problem
    };
    let inputs = LinearInputs {
        k: &[f32::NAN; 5],
        v: &[f32::NAN; 5],
        o: Some(&[1.0, 2.0, 3.0, 4.0, 5.0]),
        ..inputs
    };
    let output = solve(&problem, &inputs);
    all_near(&output.o, &[1.0, 50.0, 27.0, 196.0, 5.0]);
    assert_eq!(output.final_state, None);
}

#[test]
fn strong_decay_neither_overflows_nor_becomes_nan() {
    let ones = [1.0; 300];
    let inputs = LinearInputs {
        q: &ones,
        k: &ones,
        v: &ones,
        log_decay: Some(&[-800.0]),
        ..NONE
    };
    let problem = Linear {
        decay: Decay::Head,
        ..tiny(300)
    };
    gives(&problem, &inputs, &[1.0; 300], &[1.0]);
}

#[test]
fn segments_are_joined_head_by_head_and_row_by_row() {
    let join_problem = Join {
        heads: 2,
        head_dim: 2,
        value_dim: Some(1),
        normalize: true,
        decay: Decay::Channel,
        initial_state: true,
        final_state: true,
        ..Default::default()
    };
    // [P, H] of two rows and a z of two.
    let inputs = JoinInputs {
        states: &[
            1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, //
            10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0,
        ],
        total_decay: Some(&[0.0, LN_HALF, f32::NEG_INFINITY, 0.0, LN_HALF, 0.0, LN_HALF, 0.0]),
        initial_state: Some(&[100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0]),
    };
    let output = join(&join_problem, &inputs).unwrap();
    let first = [100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0];
    let second = [101.0, 102.0, 303.0, 204.0, 5.0, 606.0, 7.0, 808.0];
    let last = [60.5, 122.0, 181.5, 244.0, 52.5, 666.0, 73.5, 888.0];
    all_near(&output.states, &[first, second].concat());
    all_near(&output.final_state.unwrap(), &last);

    let by_head = Join {
        head_dim: 1,
        normalize: false,
        decay: Decay::Token,
        initial_state: false,
        final_state: false,
        ..join_problem
    };
    let inputs = JoinInputs {
        states: &[1.0, 2.0, 3.0, 4.0],
        total_decay: Some(&[0.0; 4]),
        initial_state: None,
    };
    let output = join(&by_head, &inputs).unwrap();
    assert_eq!((output.states, output.final_state), (vec![0.0, 0.0, 1.0, 2.0], None));
}

#[test]
fn a_long_sequence_takes_little_time() {
    let tokens = 65536;
    let problem = Linear {
        tokens,
        head_dim: 16,
        decay: Decay::Head,
        ..Default::default()
    };
    let x = vec![1.0; 16 * tokens as usize];
    let inputs = LinearInputs {
        q: &x,
        k: &x,
        v: &x,
        log_decay: Some(&[LN_HALF]),
        ..NONE
    };
    let output = linear(&problem, &inputs, &Hooks::default()).unwrap();
    all_near(&output.o[output.o.len() - 16..], &[32.0; 16]);
}
