//! A peer's process, from this program's side.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::protocol::{Reply, Request};

/// Lines of a peer's standard error that are kept, for when it ends without an answer.
const KEPT: usize = 20;

/// A running peer. Ends when dropped.
pub struct Process {
    child: Child,
    requests: ChildStdin,
    replies: Receiver<String>,
    patience: Duration,
    complaints: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    /// Starts it; its first reply is still to be read. `patience`: how long it may take for an answer.
    pub fn start(mut command: Command, patience: Duration) -> Result<Self, String> {
        let program = command.get_program().to_string_lossy().into_owned();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
        let (Some(requests), Some(out), Some(err)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(format!("{program}: no pipes"));
        };
        let complaints = Arc::new(Mutex::new(VecDeque::new()));
        let kept = complaints.clone();
        read_lines(err, move |line| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(line);
            true
        });
        let (sender, replies) = channel();
        read_lines(out, move |line| sender.send(line).is_ok());
        Ok(Process {
            child,
            requests,
            replies,
            patience,
            complaints,
        })
    }

    /// Sends a request and waits for its reply. After an error the process is of no more use.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, String> {
        let line = serde_json::to_string(request).map_err(|e| e.to_string())?;
        match writeln!(self.requests, "{line}").and_then(|()| self.requests.flush()) {
            Ok(()) => self.reply(),
            Err(_) => Err(self.end()),
        }
    }

    /// The next reply.
    pub fn reply(&mut self) -> Result<Reply, String> {
        match self.replies.recv_timeout(self.patience) {
            Ok(line) => serde_json::from_str(&line).map_err(|e| format!("it said `{line}`: {e}")),
            Err(RecvTimeoutError::Timeout) => Err(format!("no answer in {} s", self.patience.as_secs_f64())),
            Err(RecvTimeoutError::Disconnected) => Err(self.end()),
        }
    }

    /// How it ended, and its last words.
    fn end(&mut self) -> String {
        let status = self
            .child
            .wait()
            .map_or_else(|e| e.to_string(), |status| status.to_string());
        let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let last = complaints.iter().rev().find(|line| !line.trim().is_empty());
        match last {
            Some(line) => format!("its process ended: {status}: {line}"),
            None => format!("its process ended: {status}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Hands over each line until `take` has enough.
fn read_lines(from: impl Read + Send + 'static, mut take: impl FnMut(String) -> bool + Send + 'static) {
    thread::spawn(move || {
        let lines = BufReader::new(from).lines();
        let _ = lines.map_while(Result::ok).all(&mut take);
    });
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::protocol::Clock;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start(command, Duration::from_millis(2000)).unwrap()
    }

    #[test]
    fn an_answer_is_read() {
        let mut process = shell(r#"read request; echo '{"timed": {"seconds": 0.5}}'"#);
        let request = Request::Time {
            repeats: 1,
            clock: Clock::Host,
        };
        assert!(matches!(process.ask(&request), Ok(Reply::Timed { seconds: 0.5 })));
    }

    #[test]
    fn a_crash_is_an_error_with_the_last_words() {
        let mut process = shell("echo 'cannot go on' >&2; kill -SEGV $$");
        let message = process.reply().unwrap_err();
        assert!(
            message.contains("signal") && message.contains("cannot go on"),
            "{message}"
        );
    }

    #[test]
    fn silence_is_an_error_after_a_while() {
        let mut process = shell("sleep 60");
        process.patience = Duration::from_millis(10);
        assert_eq!(process.reply().unwrap_err(), "no answer in 0.01 s");
    }

    #[test]
    fn nonsense_is_an_error_that_shows_it() {
        let message = shell("echo hello").reply().unwrap_err();
        assert!(message.contains("`hello`"), "{message}");
    }
}
