//! Rounds: each side runs once, in turn, until enough is known. A disturbance that outlasts a round slows all sides and
//! cancels in the ratios of that round.

use wgpu_attention::Gpu;

use crate::compare::{Right, Solved};
use crate::inputs::Folder;
use crate::ours::{Ours, has_device_clock};
use crate::peers::{Peer, Peers};
use crate::problems::Named;
use crate::protocol::Clock;
use crate::report::{Measured, Report};
use crate::statistics::Median;
use crate::{ClockChoice, Run};

/// How many rounds.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds at least; six are the fewest that give a 95 % interval.
    pub least: usize,
    /// Rounds at most.
    pub most: usize,
    /// Seconds of timed rounds, all sides together.
    pub seconds: f64,
    /// This precise, half the interval over the median, needs no more.
    pub spread: f64,
}

impl Default for Effort {
    fn default() -> Self {
        Effort {
            least: 6,
            most: 100,
            seconds: 6.0,
            spread: 0.01,
        }
    }
}

/// Rounds begin until this many times [`Effort::seconds`] have passed, even if that makes fewer than the least.
const PATIENCE: f64 = 5.0;

/// A measurement is of as many runs in a row as take this long, so that starting and waiting weigh little; at most so many.
const LONG_ENOUGH: f64 = 2e-3;
const MOST_REPEATS: f64 = 32.0;

/// One that takes part, with what it measured.
struct Side<'a> {
    who: Who<'a>,
    repeats: u32,
    seconds: Vec<f64>,
}

enum Who<'a> {
    Ours(&'a Ours),
    Peer(&'a mut Peer, Right),
}

impl Side<'_> {
    fn run(&mut self, repeats: u32, clock: Clock) -> Result<f64, String> {
        match &mut self.who {
            Who::Ours(ours) => ours.time(repeats, clock),
            Who::Peer(peer, _) => peer.time(repeats, clock),
        }
    }

    /// Finds the number of repeats, and warms up.
    fn warm_up(&mut self, clock: Clock) -> Result<(), String> {
        let one = self.run(1, clock)?;
        self.repeats = (LONG_ENOUGH / one).ceil().clamp(1.0, MOST_REPEATS) as u32;
        self.run(self.repeats, clock).map(drop)
    }
}

/// Measures one problem everywhere, and reports.
pub fn measure(
    gpu: &Gpu,
    named: &Named,
    peers: &mut Peers,
    folder: &Folder,
    args: &Run,
    report: &mut Report,
) -> Result<(), String> {
    report.begin(named);
    let solved = match Solved::new(gpu, named) {
        Ok(solved) => solved,
        Err(message) => {
            report.ours_failed(named, message);
            return report.end();
        }
    };
    let ours_device = has_device_clock(gpu) && args.clock != Some(ClockChoice::Host);
    let mut right: Vec<(&mut Peer, Right, Clock)> = vec![];
    for peer in &mut peers.present {
        if let Some(why) = peer.cannot(&named.problem) {
            report.peer_failed(named, peer, format!("not expressible: {why}"));
            continue;
        }
        if args.clock == Some(ClockChoice::Device) && !(ours_device && peer.hello.device_clock) {
            report.peer_failed(
                named,
                peer,
                "--clock device: not both sides can read the device's clock".into(),
            );
            continue;
        }
        match solved.check(peer, folder) {
            Ok(found) => {
                let clock = if ours_device && peer.hello.device_clock {
                    Clock::Device
                } else {
                    Clock::Host
                };
                right.push((peer, found, clock));
            }
            Err(message) => report.peer_failed(named, peer, message),
        }
    }
    // This library by itself too, where nobody else has a number.
    let alone = right.is_empty();
    for clock in [Clock::Device, Clock::Host] {
        let (here, others): (Vec<_>, Vec<_>) = right.into_iter().partition(|(.., c)| *c == clock);
        right = others;
        let alone_here = alone && (clock == Clock::Device) == ours_device;
        if !here.is_empty() || alone_here {
            let here = here.into_iter().map(|(peer, right, _)| (peer, right)).collect();
            in_turn(&solved, named, here, clock, args.effort(), report);
        }
    }
    report.end()
}

/// Rounds of this library and the peers that share a clock. One that fails leaves, and the others begin again.
fn in_turn(
    solved: &Solved,
    named: &Named,
    peers: Vec<(&mut Peer, Right)>,
    clock: Clock,
    effort: Effort,
    report: &mut Report,
) {
    let side = |who| Side {
        who,
        repeats: 1,
        seconds: vec![],
    };
    let mut sides = vec![side(Who::Ours(&solved.ours))];
    sides.extend(peers.into_iter().map(|(peer, right)| side(Who::Peer(peer, right))));
    while let Err((failed, message)) = rounds(&mut sides, clock, effort) {
        match sides.remove(failed).who {
            Who::Ours(_) => return report.ours_failed(named, message),
            Who::Peer(peer, _) => report.peer_failed(named, peer, message),
        }
    }
    let ours = &sides[0].seconds;
    for side in &sides {
        let ratios = side.seconds.iter().zip(ours).map(|(peer, ours)| peer / ours).collect();
        let measured = |kernel, rms, ratio| Measured {
            seconds: Median::of(side.seconds.clone()),
            clock,
            kernel,
            rms,
            ratio,
        };
        match &side.who {
            Who::Ours(ours) => {
                report.ours(
                    named,
                    &ours.plan,
                    measured(Some(ours.plan.label().into()), solved.rms, None),
                );
            }
            Who::Peer(peer, right) => {
                report.peer(
                    named,
                    peer,
                    measured(right.kernel.clone(), right.rms, Some(Median::of(ratios))),
                );
            }
        }
    }
}

/// Fills in the sides' seconds; an error tells whose it is.
fn rounds(sides: &mut [Side<'_>], clock: Clock, effort: Effort) -> Result<(), (usize, String)> {
    for (i, side) in sides.iter_mut().enumerate() {
        side.seconds.clear();
        side.warm_up(clock).map_err(|e| (i, e))?;
    }
    let mut total = 0.0;
    for round in 1..=effort.most {
        for (i, side) in sides.iter_mut().enumerate() {
            let seconds = side.run(side.repeats, clock).map_err(|e| (i, e))?;
            side.seconds.push(seconds);
            total += seconds * f64::from(side.repeats);
        }
        let precise = || {
            sides
                .iter()
                .all(|s| Median::of(s.seconds.clone()).spread() < effort.spread)
        };
        let enough = round >= effort.least && (total >= effort.seconds || precise());
        if enough || total >= effort.seconds * PATIENCE {
            break;
        }
    }
    Ok(())
}
