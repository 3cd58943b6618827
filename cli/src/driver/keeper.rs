//! The loop of a lease's keeper.

use fencepost_core::keeper::{Keeper, KeeperEffect, KeeperInput, KeeperOptions, LeaseEvent};
use tokio::sync::mpsc;

use super::{Clock, Liveness, Ports, Processes, Spawn, ask, sleep};
use crate::store::Store;

/// Keeps a lease until it is dropped or its name is in use elsewhere, or nobody can tell it anything any more: a worker whose
/// loop is gone must not keep its rows. `tell` hears what becomes of the lease.
pub async fn drive<S: Store, L: Liveness, C: Clock, T: Spawn, P: Processes>(
    options: KeeperOptions,
    ports: Ports<S, L, C, T, P>,
    inbox: mpsc::WeakUnboundedSender<KeeperInput>,
    mut inputs: mpsc::UnboundedReceiver<KeeperInput>,
    tell: impl Fn(LeaseEvent),
) {
    let mut keeper = Keeper::new(options, ports.clock.now());
    loop {
        keeper.handle_timeout(ports.clock.now());
        while let Some(effect) = keeper.poll_effect() {
            match effect {
                KeeperEffect::Store(id, request) => {
                    let Some(inbox) = inbox.upgrade() else { return };
                    let ports = ports.clone();
                    ports.spawn.clone().spawn(async move {
                        let reply = ask(&ports.store, &ports.observer, request).await;
                        // The keeper may have ended; then nobody waits for the reply.
                        let _ = inbox.send(KeeperInput::Store(id, reply));
                    });
                }
                KeeperEffect::Liveness(id, request) => {
                    let Some(inbox) = inbox.upgrade() else { return };
                    let ports = ports.clone();
                    ports.spawn.clone().spawn(async move {
                        let reply = ports.liveness.call(request).await;
                        let _ = inbox.send(KeeperInput::Liveness(id, reply));
                    });
                }
                KeeperEffect::CheckProcess(lease, process) => {
                    let state = ports.processes.state(&process);
                    keeper.handle_input(ports.clock.now(), KeeperInput::Process(lease, state));
                }
                KeeperEffect::Tell(event) => tell(event),
            }
        }
        if keeper.is_gone() {
            return;
        }
        tokio::select! {
            biased;
            input = inputs.recv() => match input {
                Some(input) => keeper.handle_input(ports.clock.now(), input),
                None => return,
            },
            () = sleep(&ports.clock, keeper.poll_timeout()) => {}
        }
    }
}
