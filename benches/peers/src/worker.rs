//! A peer's side of the protocol.

use std::any::Any;
use std::io::{self, BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::protocol::{Clock, Hello, Reply, Request, Task};

/// An implementation that can be driven.
pub trait Peer {
    fn hello(&self) -> Hello;

    /// Loads the inputs, runs once, writes the output, and names the kernel that ran if there is a choice.
    fn prepare(&mut self, task: &Task) -> Result<Option<String>, String>;

    /// Seconds of one run of what was prepared, of so many in a row.
    fn time(&mut self, repeats: u32, clock: Clock) -> Result<f64, String>;
}

/// Answers standard input until it ends. A panic is an answer too.
pub fn serve<P: Peer>(start: impl FnOnce() -> Result<P, String>) -> Result<(), String> {
    let mut peer = match caught(start) {
        Ok(peer) => peer,
        Err(message) => return say(&Reply::Failed { message }),
    };
    say(&Reply::Hello(peer.hello()))?;
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|e| format!("standard input: {e}"))?;
        let request = serde_json::from_str(&line).map_err(|e| format!("`{line}`: {e}"))?;
        say(&caught(|| answer(&mut peer, request)).unwrap_or_else(|message| Reply::Failed { message }))?;
    }
    Ok(())
}

fn answer(peer: &mut impl Peer, request: Request) -> Result<Reply, String> {
    match request {
        Request::Prepare(task) => Ok(Reply::Prepared {
            kernel: peer.prepare(&task)?,
        }),
        Request::Time { repeats, clock } => Ok(Reply::Timed {
            seconds: peer.time(repeats, clock)?,
        }),
    }
}

fn say(reply: &Reply) -> Result<(), String> {
    let line = serde_json::to_string(reply).map_err(|e| e.to_string())?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|e| format!("standard output: {e}"))
}

fn caught<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| Err(format!("panic: {}", message(&*payload))))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".into())
}
