//! The row store as the driver sees it: one call per request, and stores that answer it.
//!
//! | looking for | it is in |
//! |---|---|
//! | what is asked and answered | [`fencepost_core::store`] |
//! | what each request does, exactly | `docs/store.md` |
//! | the embedded store | [`sqlite`] |

use std::error::Error;
use std::future::Future;

use fencepost_core::store::{StoreFailure, StoreReply, StoreRequest};

pub mod sqlite;

/// A row store. Clones are handles to the same store, over the same connections.
pub trait Store: Clone + Send + Sync + 'static {
    /// Performs one request. A future that is dropped leaves the request's end unknown: it may happen yet.
    fn call(&self, request: StoreRequest) -> impl Future<Output = Result<StoreReply, StoreError>> + Send;
}

/// Why a request has no reply.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// What is known of the request's end.
    pub failure: StoreFailure,
    /// What went wrong, for people.
    pub message: String,
    /// The driver's own error, where there is one.
    #[source]
    pub cause: Option<Box<dyn Error + Send + Sync>>,
}

impl StoreError {
    /// It did not happen, and will not.
    pub fn not_done(message: impl Into<String>, cause: impl Into<Option<Box<dyn Error + Send + Sync>>>) -> Self {
        Self { failure: StoreFailure::NotDone, message: message.into(), cause: cause.into() }
    }

    /// It may have happened, or may happen yet.
    pub fn unknown(message: impl Into<String>, cause: impl Into<Option<Box<dyn Error + Send + Sync>>>) -> Self {
        Self { failure: StoreFailure::Unknown, message: message.into(), cause: cause.into() }
    }
}
