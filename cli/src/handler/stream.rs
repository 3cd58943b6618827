//! Runs rows with long-lived children that get one row per line and answer one line per row.
//!
//! A child reads on stdin, one per line:
//!
//! ```json
//! {"batch":"k3v9x2mq","line":7,"attempt":1,"token":31,"key":"k3v9x2mq:7","input":{"name":"Ada"}}
//! ```
//!
//! and answers on stdout, in any order, with `line` and `token` as they came:
//!
//! ```json
//! {"line":7,"token":31,"status":"success","result":{"length":3}}
//! {"line":8,"token":31,"status":"failed","error":"no such name"}
//! {"line":9,"token":31,"status":"retry","error":"the service is busy"}
//! ```
//!
//! `key` is the same on every run of the row. `result` may be any JSON, or left out for `null`. The end of stdin asks
//! the child to leave. Its stderr goes to the worker's.
//!
//! | the child | and that means |
//! |---|---|
//! | answers `success`, `failed` or `retry` | success; failed for good; try again, if the row has an attempt left |
//! | answers in another way, but names the row | failed for good, with what is wrong with the answer |
//! | answers with a result that is too large, or that no store keeps | failed for good |
//! | writes a line that names no row it has | the line is ignored, counted, and (the first few) shown on stderr |
//! | writes a line over the limit, or closes stdout | it is killed, and that is a death |
//! | dies with one row | try again, if the row has an attempt left; the error has the end of stderr |
//! | dies with several | see below: none of them has used an attempt |
//!
//! # Deaths
//!
//! When a child dies over several rows, nobody knows which of them killed it. Only the rows that it has read are
//! *suspects*: what is still in the pipe goes to the next child as if nothing had happened. The suspects are interrupted
//! ([`HandlerAnswer::Interrupted`]): they go back to the store, use no attempt, and come again under new tokens, to this worker or
//! to another. Here each runs alone in its child from then on, before the child's other rows, until it has an answer. A
//! row that kills its child while it is alone is to be tried again, which is an attempt. A worker that has not seen the death
//! runs the row in company once more, and learns of it in the same way.
//!
//! The next child is started at once; when that dies without having answered, the pauses double, up to five seconds
//! while not even a row is read, and up to a tenth of a second otherwise. After five starts in a row that read no row,
//! all waiting rows are to be tried again, so that their attempts end.
//!
//! # Cancelling
//!
//! A cancelled row is answered at once. The child is not told, and its late answer is ignored; but if there is none
//! within [`StreamOptions::kill_after`], the child counts as hanging and is killed. Its other rows are suspects then.
//!
//! The time that a row waits inside a child counts as its own: [`StreamOptions::window`] rows have to be done within the
//! rows' timeout. And when a child hangs over one row, those behind it time out as well, and that is an attempt of
//! theirs. Where rows may hang, let the child watch the time itself, or keep the window small.
//!
//! # Process groups
//!
//! A child has a process group under the [guard](super::guard), which kills it when the worker dies, as with the
//! [`command`](super::command) handler; what escapes from that escapes here.

mod backoff;
mod child;
mod complaints;
mod desk;
mod flight;
mod lines;
mod relay;
mod slot;
mod wire;

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use self::child::Recipe;
use self::desk::Desk;
use self::slot::{Shop, Slot};
use super::command::groups::Groups;
use super::command::{CommandError, GuardError, program};
use super::guard::GUARD_MARK;
use super::{CancelToken, Handler, HandlerAnswer, Row};

/// How children are run.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// How many children, at least one. The rows are spread over them.
    pub children: usize,
    /// The most rows that a child has at once, at least one.
    pub window: usize,
    /// The most bytes that a line of a child may have.
    pub line_limit: usize,
    /// The most bytes that a result may have.
    pub result_limit: usize,
    /// How long a child may leave a cancelled row unanswered; and how long it has, at the handler's end, from the end of
    /// its input to SIGTERM, and from there to SIGKILL.
    pub kill_after: Duration,
    /// The program the guard is started from: see [`CommandOptions::guard`](super::command::CommandOptions::guard).
    pub guard: PathBuf,
}

impl StreamOptions {
    /// The usual options: one child, 1000 rows at once, lines up to 16 MiB, results up to 1 MiB, two seconds.
    pub fn new(guard: impl Into<PathBuf>) -> Self {
        Self {
            children: 1,
            window: 1000,
            line_limit: 16 << 20,
            result_limit: 1 << 20,
            kill_after: Duration::from_secs(2),
            guard: guard.into(),
        }
    }
}

/// Runs rows with long-lived children. See the [module](self). Dropping it ends the children; [`StreamHandler::closer`]
/// waits for that.
#[derive(Debug)]
pub struct StreamHandler {
    shop: Arc<Shop>,
    slots: Vec<JoinHandle<()>>,
}

impl StreamHandler {
    /// A handler whose children run `program` with `arguments`. The program is found now, a child started with the first
    /// row. Call it on a tokio runtime.
    ///
    /// # Errors
    ///
    /// No row could be run: the error says why, and what to do.
    pub fn new(
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
        options: StreamOptions,
    ) -> Result<Self, CommandError> {
        // Otherwise a program that forgot to be a guard would start guards without end.
        if env::var_os(GUARD_MARK).is_some() {
            return Err(CommandError::GuardAstray);
        }
        let name = program.into();
        let program = program::find(&name, env::var_os("PATH").as_deref())?;
        let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        if let Some(argument) = arguments.iter().find(|argument| argument.as_bytes().contains(&0)) {
            return Err(CommandError::NulInCommand(argument.to_string_lossy().into_owned()));
        }
        let groups = Groups::new(options.guard);
        let recipe = Recipe { name, program, arguments, groups, line_limit: options.line_limit };
        let children = options.children.max(1);
        let shop = Arc::new(Shop {
            desk: Desk::new(children),
            recipe,
            window: options.window.max(1),
            result_limit: options.result_limit,
            line_limit: options.line_limit,
            kill_after: options.kill_after,
            nonsense: complaints::Complaints::default(),
            deaths: complaints::Complaints::default(),
            suspects: slot::Suspects::default(),
        });
        let slots = (0..children).map(|place| tokio::spawn(Slot::new(place, shop.clone()).run())).collect();
        Ok(Self { shop, slots })
    }

    /// Starts the guard now and not with the first row, so that a guard that cannot start is noticed before.
    ///
    /// # Errors
    ///
    /// There is no guard.
    pub async fn ready(&self) -> Result<(), GuardError> {
        self.shop.recipe.groups.lease().await.map(drop)
    }

    /// How many lines the children wrote that are no answer to a row they had.
    pub fn nonsense(&self) -> u64 {
        self.shop.nonsense.count()
    }

    /// What ends the children and waits for it, for when the handler itself is in other hands. Only the first one waits.
    pub fn closer(&mut self) -> StreamCloser {
        StreamCloser { shop: self.shop.clone(), slots: std::mem::take(&mut self.slots) }
    }
}

impl Drop for StreamHandler {
    fn drop(&mut self) {
        self.shop.desk.close();
    }
}

impl Handler for StreamHandler {
    async fn run(&self, row: Row, mut cancel: CancelToken) -> HandlerAnswer {
        if cancel.is_cancelled() {
            return HandlerAnswer::Cancelled;
        }
        let mut visit = self.shop.desk.enter(row);
        tokio::select! {
            biased;
            answer = visit.answer() => answer,
            () = cancel.cancelled() => HandlerAnswer::Cancelled,
        }
    }
}

/// Ends a handler's children. See [`StreamHandler::closer`].
#[derive(Debug)]
pub struct StreamCloser {
    shop: Arc<Shop>,
    slots: Vec<JoinHandle<()>>,
}

impl StreamCloser {
    /// Asks the children to leave, and ends when all have, whether they wanted to or not.
    pub async fn close(self) {
        self.shop.desk.close();
        for slot in self.slots {
            // One that panicked has killed its child by that.
            _ = slot.await;
        }
    }
}
