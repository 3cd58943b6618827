//! The loop of a judge.

use fencepost_core::judge::{Judge, JudgeEffect, JudgeInput, JudgeOptions};
use tokio::sync::mpsc;

use super::{Clock, Liveness, Ports, Processes, Report, Spawn, ask, sleep};
use crate::store::Store;

/// Judges until nobody can tell it anything any more.
pub async fn drive<S: Store, L: Liveness, C: Clock, T: Spawn, P: Processes>(
    options: JudgeOptions,
    ports: Ports<S, L, C, T, P>,
    inbox: mpsc::WeakUnboundedSender<JudgeInput>,
    mut inputs: mpsc::UnboundedReceiver<JudgeInput>,
) {
    let mut judge = Judge::new(options, ports.clock.now());
    loop {
        judge.handle_timeout(ports.clock.now());
        while let Some(effect) = judge.poll_effect() {
            match effect {
                JudgeEffect::Store(id, request) => {
                    let Some(inbox) = inbox.upgrade() else { return };
                    let ports = ports.clone();
                    ports.spawn.clone().spawn(async move {
                        let reply = ask(&ports.store, &ports.observer, request).await;
                        let _ = inbox.send(JudgeInput::Store(id, reply));
                    });
                }
                JudgeEffect::Liveness(id, request) => {
                    let Some(inbox) = inbox.upgrade() else { return };
                    let ports = ports.clone();
                    ports.spawn.clone().spawn(async move {
                        let reply = ports.liveness.call(request).await;
                        let _ = inbox.send(JudgeInput::Liveness(id, reply));
                    });
                }
                JudgeEffect::CheckProcess(lease, process) => {
                    let state = ports.processes.state(&process);
                    judge.handle_input(ports.clock.now(), JudgeInput::Process(lease, state));
                }
                JudgeEffect::Tell(event) => (ports.observer)(Report::Judge(&event)),
            }
        }
        tokio::select! {
            biased;
            input = inputs.recv() => match input {
                Some(input) => judge.handle_input(ports.clock.now(), input),
                None => return,
            },
            () = sleep(&ports.clock, judge.poll_timeout()) => {}
        }
    }
}
