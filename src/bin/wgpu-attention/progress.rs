//! A line on stderr that says what goes on, where somebody watches.

use std::fmt;
use std::io::{IsTerminal, Write};

/// Shows nothing unless stderr is a terminal.
pub struct Progress {
    shown: bool,
}

impl Progress {
    pub fn new() -> Self {
        Progress {
            shown: std::io::stderr().is_terminal(),
        }
    }

    /// Replaces the line.
    pub fn show(&self, text: impl fmt::Display) {
        if self.shown {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K{text} …");
            let _ = stderr.flush();
        }
    }

    /// Takes the line away, before something else is printed.
    pub fn clear(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
