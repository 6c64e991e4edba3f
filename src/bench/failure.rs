//! Why a problem gets no number.

use std::fmt;

use crate::error::Error;

/// Why a problem gets no number.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// It was refused, or the device failed.
    Refused(Error),
    /// Its kernel gives a wrong result; with what is wrong.
    Wrong(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(error) => error.fmt(f),
            Failure::Wrong(what) => write!(f, "WRONG {what}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Refused(error)
    }
}

impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        failure.to_string()
    }
}
