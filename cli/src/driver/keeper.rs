//! The loop of a lease's keeper.

use fencepost_core::keeper::{Keeper, KeeperEffect, KeeperInput, KeeperOptions, LeaseEvent};
use fencepost_core::rules::recovery::ProcessState;
use fencepost_core::store::{LeaseView, StoreReply, TakeLeaseReply};
use tokio::sync::mpsc;

use super::{Clock, Liveness, Ports, Processes, Report, Spawn, ask, sleep};
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
    let mut name_held: Option<NameHeld> = None;
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
                    if let Some(held) = name_held.as_mut().filter(|held| held.holder.lease == lease) {
                        held.process = state;
                    }
                    keeper.handle_input(ports.clock.now(), KeeperInput::Process(lease, state));
                }
                KeeperEffect::Tell(event) => tell(event),
            }
        }
        if let Some(NameHeld { holder, process, told: told @ false }) = &mut name_held {
            *told = true;
            // Where the process is gone nothing is waited for.
            if *process != ProcessState::Gone {
                (ports.observer)(Report::NameHeld { holder, process: *process });
            }
        }
        if keeper.is_gone() {
            return;
        }
        tokio::select! {
            biased;
            input = inputs.recv() => match input {
                Some(input) => {
                    if let Some(holder) = holder(&input)
                        && name_held.as_ref().is_none_or(|held| held.holder.lease != holder.lease)
                    {
                        name_held = Some(NameHeld { holder: holder.clone(), process: ProcessState::Unknown, told: false });
                    }
                    keeper.handle_input(ports.clock.now(), input);
                }
                None => return,
            },
            () = sleep(&ports.clock, keeper.poll_timeout()) => {}
        }
    }
}

/// R5: who has the name. It is said once, since a worker that waits to see whether it lives would else say nothing until it is decided.
struct NameHeld {
    holder: LeaseView,
    /// What the keeper had looked up of it.
    process: ProcessState,
    told: bool,
}

fn holder(input: &KeeperInput) -> Option<&LeaseView> {
    match input {
        KeeperInput::Store(_, Ok(StoreReply::TakeLease(TakeLeaseReply::NameHeld { holder, .. }))) => Some(holder),
        _ => None,
    }
}
