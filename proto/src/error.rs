//! What a caller can do about a failure.

/// The four answers to "what now?" that every public error gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The same request may succeed at the same place: try again before the deadline.
    Retry,
    /// The place was wrong or is gone: look up again, or ask another node.
    Reroute,
    /// The request can never succeed as it is: mend it.
    FixRequest,
    /// This component cannot go on: stop using it and tell the operator.
    Stop,
}

/// An error that says what its caller can do.
pub trait Classified {
    /// What the caller can do about this failure.
    fn kind(&self) -> ErrorKind;
}
