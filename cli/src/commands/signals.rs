//! SIGTERM and Ctrl-C: the first asks to leave, the second leaves.

use tokio::signal::unix::{SignalKind, signal};

use super::failure::{Exit, Failure};

/// Waits for SIGTERM and SIGINT.
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on neither ends the process by itself.
    pub fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::new(Exit::Unexpected, "cannot listen for signals").because(error))
        };
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Ends at the next signal.
    pub async fn next(&mut self) {
        let (terminate, interrupt) = (self.terminate.recv(), self.interrupt.recv());
        tokio::select! {
            biased;
            _ = terminate => {}
            _ = interrupt => {}
        }
    }
}
