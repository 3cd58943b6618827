//! S7: completion calls by HTTP: a POST of the message as JSON. Any 2xx is delivered; no redirect is followed, since it would lead to
//! where nobody allowed.

use std::error::Error;
use std::time::Duration;

use fencepost_core::calls::CallGrant;
use fencepost_core::rules::calls::s7_url_allowed;
use fencepost_core::worker::CallAnswer;
use reqwest::header::CONTENT_TYPE;

use super::{CallMessage, idempotency_key};
use crate::handler::CancelToken;
use crate::masked::without_query;

/// How long a connection may take; the call as a whole has the worker's timeout for calls.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// An answer's body is kept up to so many bytes, as the error of a call that failed.
const BODY_KEPT: usize = 500;

/// Calls URLs.
pub struct HttpCaller {
    client: reqwest::Client,
    allowed: Vec<String>,
}

/// The HTTP client cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot prepare for HTTP calls")]
pub struct HttpError(#[from] reqwest::Error);

impl HttpCaller {
    /// Calls URLs under these prefixes, which are in the form of [`url_prefix`](super::url::url_prefix).
    ///
    /// # Errors
    ///
    /// Where the system gives no TLS.
    pub fn new(allowed: Vec<String>) -> Result<Self, HttpError> {
        // The provider that all else here uses. Where one is installed already, that one stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_LIMIT)
            .user_agent(concat!("fencepost/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, allowed })
    }

    /// Makes a completion call.
    pub async fn call(&self, grant: CallGrant, mut cancel: CancelToken) -> CallAnswer {
        let Some(url) = &grant.end.url else { return CallAnswer::Failed("the batch has no URL".into()) };
        // The store looked before; whoever writes to it otherwise must not be able to send this worker anywhere.
        let in_form = super::url::call_url(url).is_ok_and(|parsed| parsed == *url);
        if !in_form || !self.allowed.iter().any(|prefix| s7_url_allowed(prefix, url)) {
            return CallAnswer::Failed(format!("{} is not allowed here (--allow-url)", without_query(url)).into());
        }
        let post = async {
            let request = self
                .client
                .post(url)
                .header(CONTENT_TYPE, "application/json")
                .header("Idempotency-Key", idempotency_key(&grant.key))
                .body(CallMessage::of(&grant).to_json());
            match request.send().await {
                Ok(answer) if answer.status().is_success() => CallAnswer::Delivered,
                Ok(answer) => CallAnswer::Failed(refused(answer).await),
                Err(error) => CallAnswer::Failed(described(error).into()),
            }
        };
        tokio::select! {
            biased;
            answer = post => answer,
            () = cancel.cancelled() => CallAnswer::Cancelled,
        }
    }
}

async fn refused(mut answer: reqwest::Response) -> Box<str> {
    let status = answer.status();
    let note = if status.is_redirection() { " (redirects are not followed)" } else { "" };
    let mut body = Vec::new();
    while body.len() < BODY_KEPT {
        // What cannot be read has nothing more to say.
        let Ok(Some(chunk)) = answer.chunk().await else { break };
        body.extend_from_slice(&chunk);
    }
    body.truncate(BODY_KEPT);
    let body = String::from_utf8_lossy(&body);
    let body = body.trim();
    format!("answered {status}{note}{}{body}", if body.is_empty() { "" } else { ": " }).into()
}

/// The error with its causes, which say what happened. Its URL is left out: it may have a token, and an error is stored and shown.
fn described(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(below) = cause {
        text.push_str(": ");
        text.push_str(&below.to_string());
        cause = below.source();
    }
    text
}
