//! Every mistake in a problem or its inputs, with its own message.

use super::*;
use crate::ops::linear::{JoinInputs, LinearInputs};
use crate::tensor::Layout;

/// Which inputs there are, all of the right length, to be spoilt.
struct Given {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    log_decay: Option<Vec<f32>>,
    cu_seqlens: Option<Vec<i32>>,
    initial_state: Option<Vec<f32>>,
    o: Option<Vec<f32>>,
}

impl Given {
    fn check(&self, problem: &Linear) -> Result<()> {
        let inputs = LinearInputs {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            log_decay: self.log_decay.as_deref(),
            cu_seqlens: self.cu_seqlens.as_deref(),
            initial_state: self.initial_state.as_deref(),
            o: self.o.as_deref(),
        };
        inputs.check(problem)
    }
}

/// H = 4, Hkv = 2, N = 3, D = 2, Dv = 5, two documents, normalised, with states.
fn good() -> (Linear, Given) {
    let problem = Linear {
        heads: 4,
        kv_heads: Some(2),
        tokens: 3,
        head_dim: 2,
        value_dim: Some(5),
        decay: Decay::Token,
        normalize: Some(1e-6),
        documents: Some(2),
        initial_state: true,
        final_state: true,
        in_place: true,
        total_decay: true,
        ..Default::default()
    };
    let given = Given {
        q: vec![1.0; 24],
        k: vec![1.0; 12],
        v: vec![1.0; 30],
        log_decay: Some(vec![-1.0; 12]),
        cu_seqlens: Some(vec![0, 1, 3]),
        initial_state: Some(vec![1.0; 2 * 4 * 12]),
        o: None,
    };
    (problem, given)
}

#[track_caller]
fn refused(result: Result<()>, message: &str) {
    assert_eq!(result.map_err(|error| error.to_string()), Err(message.to_string()));
}

#[test]
fn what_is_right_passes() {
    let (problem, mut given) = good();
    assert_eq!(given.check(&problem), Ok(()));
    given.log_decay = Some([0.0, -0.0, f32::NEG_INFINITY, f32::MIN].repeat(3));
    assert_eq!(given.check(&problem), Ok(()));
    given.cu_seqlens = Some(vec![1, 1, 2]);
    assert_eq!(given.check(&problem), Ok(()));
    for (decay, len) in [(Decay::Head, 4), (Decay::Channel, 24)] {
        given.log_decay = Some(vec![-1.0; len]);
        let problem = Linear {
            decay,
            ..problem.clone()
        };
        assert_eq!(given.check(&problem), Ok(()));
    }
    given.log_decay = None;
    let problem = Linear {
        causal: false,
        decay: Decay::None,
        total_decay: false,
        ..problem
    };
    assert_eq!(given.check(&problem), Ok(()));
    let problem = Linear {
        causal: true,
        normalize: None,
        final_state: false,
        in_place: false,
        state_only: true,
        ..problem
    };
    (given.initial_state, given.o) = (Some(vec![1.0; 80]), Some(vec![1.0; 60]));
    assert_eq!(given.check(&problem), Ok(()));
}

#[test]
fn a_problem_that_makes_no_sense_is_refused() {
    type Spoil = fn(&mut Linear);
    #[rustfmt::skip]
    let cases: [(Spoil, &str); 27] = [
        (|p| p.batch = 0, "`batch` is 0; allowed: 1 to 268435456"),
        (|p| p.heads = 0, "`heads` is 0; allowed: 1 to 268435456"),
        (|p| p.tokens = 1 << 29, "`tokens` is 536870912; allowed: 1 to 268435456"),
        (|p| p.head_dim = 257, "`head_dim` is 257; allowed: 1 to 256"),
        (|p| p.value_dim = Some(0), "`value_dim` is 0; allowed: 1 to 256"),
        (|p| p.kv_heads = Some(3), "`kv_heads` is 3; allowed: a divisor of `heads`, which is 4"),
        (|p| p.kv_heads = Some(0), "`kv_heads` is 0; allowed: a divisor of `heads`, which is 4"),
        (|p| p.documents = Some(0), "`documents` is 0; allowed: 1 to 268435456"),
        (|p| p.batch = 2, "`batch` is 2; allowed: 1 with packed documents: they replace the batch dimension"),
        (|p| (p.heads, p.documents) = (1 << 28, Some(1 << 28)),
            "`heads` is 268435456; allowed: so many that all states, of up to 12 numbers for each sequence and head, \
             stay below 2^48"),
        (|p| (p.heads, p.tokens) = (1 << 24, 1 << 28),
            "`tokens` is 268435456; allowed: so many that q and o have fewer than 2^48 elements a batch entry"),
        (|p| p.scale = Some(f32::NAN), "`scale` is NaN; allowed: a finite number"),
        (|p| p.scale = Some(f32::INFINITY), "`scale` is inf; allowed: a finite number"),
        (|p| p.normalize = Some(-1.0),
            "`normalize` is -1; allowed: a finite number, 0 or above; `None` for outputs that are not normalised"),
        (|p| p.normalize = Some(f32::NAN),
            "`normalize` is NaN; allowed: a finite number, 0 or above; `None` for outputs that are not normalised"),
        (|p| p.causal = false,
            "`decay` is Token; allowed: `Decay::None` where not causal: every token sees the same sums"),
        (|p| p.decay = Decay::None,
            "`total_decay` is true; allowed: false with `Decay::None`: there is nothing to add up"),
        (|p| p.initial_state = false,
            "`in_place` is true; allowed: false without both `initial_state` and `final_state`, which it makes one \
             tensor"),
        (|p| p.final_state = false,
            "`in_place` is true; allowed: false without both `initial_state` and `final_state`, which it makes one \
             tensor"),
        (|p| (p.state_only, p.causal, p.decay, p.total_decay) = (true, false, Decay::None, false),
            "`state_only` is true; allowed: false where not `causal`: what a state contributes is then part of one \
             sum"),
        (|p| p.state_only = true,
            "`state_only` is true; allowed: false with `normalize`: parts of a quotient cannot be added up"),
        (|p| (p.state_only, p.normalize) = (true, None),
            "`state_only` is true; allowed: false with `final_state`: without k and v there is none"),
        (|p| (p.state_only, p.normalize, p.initial_state, p.in_place) = (true, None, false, false),
            "`state_only` is true; allowed: false without `initial_state`, whose contribution it is"),
        (|p| p.q_layout = Layout::Strided(Strides { batch: 0, head: 2, seq: 1 << 48 }),
            "`q_layout` is Strides"),
        (|p| (p.tokens, p.decay_layout) = (1 << 28, Layout::packed(1 << 28, u32::MAX, 1)),
            "`decay_layout` is Strides"),
        (|p| p.o_layout = Layout::packed(3, 20, 4),
            "`o_layout` is Strides { batch: 60, head: 4, seq: 20 }; allowed: strides that give every element of o a \
             place of its own"),
        (|p| p.k_layout = Layout::Strided(Strides { batch: 1, head: 1 << 50, seq: 1 }),
            "`k_layout` is Strides { batch: 1, head: 1125899906842624, seq: 1 }; allowed: strides whose last \
             element's index fits 48 bits"),
    ];
    for (spoil, message) in cases {
        let (mut problem, given) = good();
        spoil(&mut problem);
        let error = check(&problem).unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}, not {message}");
        assert_eq!(given.check(&problem), Err(error));
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    type Spoil = fn(&mut Given);
    #[rustfmt::skip]
    let cases: [(Spoil, &str); 15] = [
        (|i| i.q.truncate(23), "input `q`: 23 elements; needed: [B, H, N, D] = [1, 4, 3, 2], 24 elements"),
        (|i| i.k.push(0.0), "input `k`: 13 elements; needed: [B, Hkv, N, D] = [1, 2, 3, 2], 12 elements"),
        (|i| i.v.clear(), "input `v`: 0 elements; needed: [B, Hkv, N, Dv] = [1, 2, 3, 5], 30 elements"),
        (|i| i.log_decay = None,
            "input `log_decay`: not given; needed: [B, H, N] = [1, 4, 3], since the problem's `decay` asks for it"),
        (|i| i.log_decay = Some(vec![-1.0; 4]),
            "input `log_decay`: 4 elements; needed: [B, H, N] = [1, 4, 3], 12 elements"),
        (|i| i.log_decay = Some([vec![-1.0; 11], vec![0.25]].concat()),
            "input `log_decay`: 0.25 at index 11; needed: 0 or below, −∞ included"),
        (|i| i.log_decay = Some(vec![f32::NAN; 12]),
            "input `log_decay`: NaN at index 0; needed: 0 or below, −∞ included"),
        (|i| i.cu_seqlens = None,
            "input `cu_seqlens`: not given; needed: [S + 1] = [3], since the problem's `documents` asks for it"),
        (|i| i.cu_seqlens = Some(vec![0, 3]), "input `cu_seqlens`: 2 elements; needed: [S + 1] = [3], 3 elements"),
        (|i| i.cu_seqlens = Some(vec![0, 4, 4]), "input `cu_seqlens`: 4 at index 1; needed: 0 to N = 3"),
        (|i| i.cu_seqlens = Some(vec![-1, 0, 3]), "input `cu_seqlens`: -1 at index 0; needed: 0 to N = 3"),
        (|i| i.cu_seqlens = Some(vec![0, 2, 1]),
            "input `cu_seqlens`: 2 at index 1, then 1; needed: values that never decrease"),
        (|i| i.initial_state = None,
            "input `initial_state`: not given; needed: [sequences, H, D·Dv + D] = [2, 4, 12], since the problem's \
             `initial_state` asks for it"),
        (|i| i.initial_state = Some(vec![0.0; 80]),
            "input `initial_state`: 80 elements; needed: [sequences, H, D·Dv + D] = [2, 4, 12], 96 elements"),
        (|i| i.o = Some(vec![0.0; 60]),
            "input `o`: 60 elements; needed: None, since the problem's `state_only` does not ask for it"),
    ];
    for (spoil, message) in cases {
        let (problem, mut given) = good();
        spoil(&mut given);
        refused(given.check(&problem), message);
    }
    let (problem, mut given) = good();
    given.o = None;
    let problem = Linear {
        decay: Decay::None,
        normalize: None,
        documents: None,
        initial_state: true,
        final_state: false,
        in_place: false,
        total_decay: false,
        state_only: true,
        ..problem
    };
    refused(
        given.check(&problem),
        "input `log_decay`: 12 elements; needed: None, since the problem's `decay` does not ask for it",
    );
    given.log_decay = None;
    refused(
        given.check(&problem),
        "input `cu_seqlens`: 3 elements; needed: None, since the problem's `documents` does not ask for it",
    );
    given.cu_seqlens = None;
    refused(
        given.check(&problem),
        "input `initial_state`: 96 elements; needed: [sequences, H, D·Dv] = [1, 4, 10], 40 elements",
    );
    given.initial_state = Some(vec![0.0; 40]);
    refused(
        given.check(&problem),
        "input `o`: not given; needed: [B, H, N, Dv] = [1, 4, 3, 5], since the problem's `state_only` asks for it",
    );
}

#[test]
fn a_joining_is_checked_too() {
    let join = Join {
        segments: 2,
        sequences: 3,
        heads: 2,
        head_dim: 2,
        value_dim: Some(1),
        normalize: true,
        decay: Decay::Channel,
        initial_state: true,
        ..Default::default()
    };
    let (states, decay, initial) = ([1.0; 48], [-1.0; 24], [1.0; 24]);
    let right = JoinInputs {
        states: &states,
        total_decay: Some(&decay),
        initial_state: Some(&initial),
    };
    assert_eq!(right.check(&join), Ok(()));

    let inputs = JoinInputs {
        states: &states[..40],
        ..right
    };
    let message = "input `states`: 40 elements; needed: [P, sequences, H, D·Dv + D] = [2, 3, 2, 4], 48 elements";
    refused(inputs.check(&join), message);
    let inputs = JoinInputs {
        total_decay: Some(&decay[..12]),
        ..right
    };
    let message = "input `total_decay`: 12 elements; needed: [P, sequences, H, D] = [2, 3, 2, 2], 24 elements";
    refused(inputs.check(&join), message);
    let by_head = Join {
        decay: Decay::Head,
        ..join.clone()
    };
    assert_eq!(inputs.check(&by_head), Ok(()));
    let none = Join {
        decay: Decay::None,
        ..join.clone()
    };
    let message = "input `total_decay`: 12 elements; needed: None, since the problem's `decay` does not ask for it";
    refused(inputs.check(&none), message);
    let inputs = JoinInputs {
        total_decay: Some(&[f32::NAN; 24]),
        ..right
    };
    let message = "input `total_decay`: NaN at index 0; needed: 0 or below, −∞ included";
    refused(inputs.check(&join), message);
    let inputs = JoinInputs {
        initial_state: None,
        ..right
    };
    let message = "input `initial_state`: not given; needed: [sequences, H, D·Dv + D] = [3, 2, 4], since the \
                   problem's `initial_state` asks for it";
    refused(inputs.check(&join), message);

    type Spoil = fn(&mut Join);
    let cases: [(Spoil, &str); 6] = [
        (|j| j.segments = 0, "`segments` is 0; allowed: 1 to 268435456"),
        (|j| j.sequences = 0, "`sequences` is 0; allowed: 1 to 268435456"),
        (|j| j.heads = 0, "`heads` is 0; allowed: 1 to 268435456"),
        (|j| j.head_dim = 300, "`head_dim` is 300; allowed: 1 to 256"),
        (|j| j.value_dim = Some(300), "`value_dim` is 300; allowed: 1 to 256"),
        (
            |j| (j.segments, j.sequences, j.heads) = (1 << 28, 1 << 28, 1 << 28),
            "`heads` is 268435456; allowed: so many that all states, of up to 4 numbers for each sequence and head, \
             stay below 2^48",
        ),
    ];
    for (spoil, message) in cases {
        let mut join = join.clone();
        spoil(&mut join);
        refused(right.check(&join), message);
    }
}
