//! Simulated handlers and completion calls, as the driver runs them.

use std::time::Duration;

use fencepost::handler::call::Caller;
use fencepost::handler::{CancelToken, Handler, HandlerAnswer, Row};
use fencepost_core::calls::CallGrant;
use fencepost_core::worker::{CallAnswer, RunAnswer, RunKey};
use fencepost_model::history::OutcomeStatus;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use madsim::time::sleep;

use super::coverage::NetMark;
use super::world::{Action, ProcessAt, Shared};
use crate::rows::{Nature, RowPlan};

const PURPOSE_AT_ONCE: u64 = 0xa70;

/// Runs the rows of a process.
pub(super) struct RowsOf {
    shared: Shared,
    process: ProcessAt,
}

impl RowsOf {
    pub(super) const fn new(shared: Shared, process: ProcessAt) -> Self {
        Self { shared, process }
    }

    /// The row's nature, whether it answers at once, how soon its handler ends when cancelled, and at the latest.
    fn begin(&self, key: RunKey) -> (RowPlan, bool, Duration, Duration) {
        let mut world = self.shared.lock();
        let at = self.process;
        if !world.ordered.contains(&key) || !world.ran.insert(key) {
            world.violate("L6", format!("a handler is called for {key:?}, which was not ordered, or was run before"));
        }
        let (batch, line) = (world.batches[&key.batch], key.line as usize - 1);
        let plan = world.rows[batch][line];
        let options = &world.schedule.options;
        let latest = options.batches[batch].timeout_us + options.cancel_grace_us + options.ttl_us;
        let after_cancel = world.number_of(&[at as u64, key.token.0, key.line]) % 1000;
        // All rows of some batches: the driver takes rows together after many that did.
        let at_once = world.number_of(&[PURPOSE_AT_ONCE, batch as u64]).is_multiple_of(4);
        (plan, at_once, Duration::from_micros(after_cancel), Duration::from_micros(latest))
    }

    fn end(&self, key: RunKey, answer: HandlerAnswer) -> HandlerAnswer {
        let mut world = self.shared.lock();
        world.processes[self.process].running.remove(&key);
        match &answer {
            HandlerAnswer::Success(_) => world.answers.insert(key, OutcomeStatus::Success),
            HandlerAnswer::Failed(_) => world.answers.insert(key, OutcomeStatus::Failed),
            _ => None,
        };
        answer
    }

    async fn kill(&self, key: RunKey) {
        {
            let mut world = self.shared.lock();
            let now = world.now();
            world.plan(now, Action::RowKills { process: self.process, key });
        }
        std::future::pending().await
    }
}

impl Handler for RowsOf {
    async fn run(&self, row: Row, mut cancel: CancelToken) -> HandlerAnswer {
        let key = RunKey { batch: row.batch, line: row.line, token: row.token };
        let (plan, at_once, after_cancel, latest) = self.begin(key);
        let run = Duration::from_micros(plan.run_us);
        let poison = matches!(plan.nature, Nature::Poison { .. });
        let (takes, answer) = match (plan.nature, plan.answer(row.attempt)) {
            (Nature::Poison { at_once }, _) => {
                (if at_once { Duration::ZERO } else { run / 2 }, HandlerAnswer::Cancelled)
            }
            (_, Some(answer)) => (run, answer_of(answer)),
            (_, None) => (latest, HandlerAnswer::Cancelled),
        };
        if at_once && !poison && answer != HandlerAnswer::Cancelled {
            self.shared.lock().coverage.mark(NetMark::AnsweredAtOnce);
            return self.end(key, answer);
        }
        tokio::select! {
            biased;
            () = sleep(takes) => {
                if poison {
                    self.kill(key).await;
                }
                self.end(key, answer)
            }
            () = cancel.cancelled(), if !plan.deaf => {
                sleep(after_cancel).await;
                self.end(key, HandlerAnswer::Cancelled)
            }
        }
    }
}

fn answer_of(answer: RunAnswer) -> HandlerAnswer {
    match answer {
        RunAnswer::Success(result) => HandlerAnswer::Success(result),
        RunAnswer::Failed(error) => HandlerAnswer::Failed(error),
        RunAnswer::Retry(error) => HandlerAnswer::Retry(error),
        RunAnswer::Cancelled => HandlerAnswer::Cancelled,
        RunAnswer::Interrupted => HandlerAnswer::Interrupted,
    }
}

/// S7: makes calls.
pub(super) struct CallsOf {
    shared: Shared,
}

impl CallsOf {
    pub(super) const fn new(shared: Shared) -> Self {
        Self { shared }
    }
}

impl Caller for CallsOf {
    /// A call takes a while; now and then it fails, but not for ever.
    fn call(&self, grant: CallGrant, mut cancel: CancelToken) -> BoxFuture<'_, CallAnswer> {
        async move {
            let (fails, takes) = {
                let world = self.shared.lock();
                let drawn = world.number_of(&[0xca11, grant.key.batch.number(), grant.key.token.0]);
                let takes = 1000 + (drawn >> 8) % world.schedule.options.run_us_max.max(1);
                (grant.attempt < 3 && drawn.is_multiple_of(4), Duration::from_micros(takes))
            };
            tokio::select! {
                biased;
                () = sleep(takes) => if fails { CallAnswer::Failed("not now".into()) } else { CallAnswer::Delivered },
                () = cancel.cancelled() => CallAnswer::Cancelled,
            }
        }
        .boxed()
    }
}
