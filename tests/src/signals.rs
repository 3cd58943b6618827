//! Signals to a scenario: the first that tells it to stop ends what it does in order, the second ends the process.

use std::sync::atomic::{AtomicI32, Ordering};

use tokio::signal::unix::{SignalKind, signal};

/// The signal that told this process to stop, or 0.
static TOLD: AtomicI32 = AtomicI32::new(0);

/// From now on the first SIGTERM, SIGINT or SIGHUP is for [`told_to_stop`]; the second ends the process.
pub fn heed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // Before this returns: whoever is told that it listens may send one at once.
    let listening = runtime.enter();
    let listen = |kind| signal(kind).expect("signals can be listened to");
    let (mut term, mut int) = (listen(SignalKind::terminate()), listen(SignalKind::interrupt()));
    let mut hup = listen(SignalKind::hangup());
    drop(listening);
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let told = tokio::select! {
                    _ = term.recv() => SignalKind::terminate(),
                    _ = int.recv() => SignalKind::interrupt(),
                    _ = hup.recv() => SignalKind::hangup(),
                };
                if TOLD.swap(told.as_raw_value(), Ordering::SeqCst) != 0 {
                    std::process::exit(128 + told.as_raw_value());
                }
            }
        });
    });
}

/// The signal that told this process to stop.
pub fn told_to_stop() -> Option<i32> {
    Some(TOLD.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
}
