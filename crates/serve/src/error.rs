//! Why a request is refused, and what each protocol calls it.

use std::time::Duration;

/// What kind of refusal it is: a row for each, read by both protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request is wrong.
    Invalid,
    /// Who asks is not known.
    Unauthenticated,
    /// There is no such model, version or region.
    NotFound,
    /// The body is larger than the server takes.
    TooLarge,
    /// More is asked for than can be done in time.
    Overloaded,
    /// The request's time is over.
    Late,
    /// The model, or the server, is not ready.
    Unavailable,
    /// The server does not do this.
    Unsupported,
    /// The model failed.
    Failed,
}

impl Kind {
    fn codes(self) -> (u16, tonic::Code) {
        use tonic::Code;
        match self {
            Kind::Invalid => (400, Code::InvalidArgument),
            Kind::Unauthenticated => (401, Code::Unauthenticated),
            Kind::NotFound => (404, Code::NotFound),
            Kind::TooLarge => (413, Code::ResourceExhausted),
            Kind::Overloaded => (429, Code::ResourceExhausted),
            Kind::Late => (504, Code::DeadlineExceeded),
            Kind::Unavailable => (503, Code::Unavailable),
            Kind::Unsupported => (501, Code::Unimplemented),
            Kind::Failed => (500, Code::Internal),
        }
    }

    /// The status of HTTP.
    pub(crate) fn status(self) -> u16 {
        self.codes().0
    }
}

/// Why a request is refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    /// When it may be worth trying again.
    pub(crate) again: Option<Duration>,
}

impl Refusal {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Refusal {
        Refusal { kind, text: text.into(), again: None }
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Refusal {
        Refusal::new(Kind::Invalid, text)
    }

    pub(crate) fn overloaded(text: impl Into<String>, again: Duration) -> Refusal {
        Refusal { again: Some(again), ..Refusal::new(Kind::Overloaded, text) }
    }
}

impl Refusal {
    /// Whole seconds until it may be worth trying again, at least one.
    pub(crate) fn again_s(&self) -> Option<u64> {
        self.again.map(|again| again.as_secs_f64().ceil().max(1.0) as u64)
    }
}

impl From<Refusal> for tonic::Status {
    fn from(refusal: Refusal) -> tonic::Status {
        let mut status = tonic::Status::new(refusal.kind.codes().1, &refusal.text);
        if let Some(seconds) = refusal.again_s() {
            status.metadata_mut().insert("retry-after", seconds.into());
        }
        status
    }
}
