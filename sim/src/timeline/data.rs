//! What the page draws.

use serde::Serialize;

/// A run, ready to be drawn. Times are true microseconds since its start.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Timeline {
    /// Which run.
    pub title: String,
    /// What it is like, in a few words each.
    pub about: Vec<String>,
    /// What it violates.
    pub violation: Option<Broken>,
    /// The schedule as a file.
    pub schedule: String,
    /// How to have the run again.
    pub replay: String,
    /// When it ends.
    pub end_us: u64,
    /// Places of workers.
    pub workers: usize,
    /// Whether there is a second witness.
    pub witness: bool,
    /// By their place in the options.
    pub batches: Vec<Batch>,
    /// Leases, in the order in which they were chosen. An owner elsewhere is an index of this.
    pub owners: Vec<Owner>,
    /// What lasts.
    pub bars: Vec<Bar>,
    /// What happens at a moment, in order.
    pub events: Vec<Event>,
    /// Requests on their way.
    pub messages: Vec<Message>,
    /// So many events are not here, since there are too many.
    pub left_out: usize,
}

/// A violation.
#[derive(Debug, Clone, Serialize)]
pub struct Broken {
    /// The check.
    pub check: String,
    /// When.
    pub at: u64,
    /// What.
    pub text: String,
}

/// A batch.
#[derive(Debug, Clone, Serialize)]
pub struct Batch {
    /// Its id.
    pub id: String,
    /// How people call it here.
    pub name: String,
    /// How many lines it has in the end.
    pub lines: u64,
}

/// A lease.
#[derive(Debug, Clone, Serialize)]
pub struct Owner {
    /// Its id.
    pub lease: String,
    /// Worker's place, process, and which of its leases if not the first: `w1·2/2`.
    pub label: String,
}

/// Where something is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Faults and operators.
    Faults,
    /// A worker's place, and which of the processes that are there at once.
    Worker(usize, usize),
    /// The row store.
    Store,
    /// The second witness.
    Redis,
    /// A batch's line.
    Row(usize, u64),
}

impl Serialize for Lane {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Faults => ("f", 0, 0).serialize(serializer),
            Self::Worker(place, nth) => ("w", place, nth).serialize(serializer),
            Self::Store => ("s", 0, 0).serialize(serializer),
            Self::Redis => ("r", 0, 0).serialize(serializer),
            Self::Row(batch, line) => ("b", batch, line).serialize(serializer),
        }
    }
}

/// Something that lasts.
#[derive(Debug, Clone, Serialize)]
pub struct Bar {
    /// Where.
    pub lane: Lane,
    /// What.
    pub kind: &'static str,
    /// Since when.
    pub from: u64,
    /// Until when.
    pub to: u64,
    /// Whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<usize>,
    /// Which of several side by side.
    pub track: usize,
    /// On the bar itself.
    pub label: String,
    /// In words.
    pub text: String,
}

/// Something that happens.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// When.
    pub at: u64,
    /// Where.
    pub lane: Lane,
    /// What.
    pub kind: &'static str,
    /// Whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<usize>,
    /// Which rows it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Rows>,
    /// In words.
    pub text: String,
}

/// Rows of one batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rows {
    /// The batch.
    pub batch: usize,
    /// Ranges of lines, first and last.
    pub lines: Vec<(u64, u64)>,
}

/// A request's way and that of its reply.
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    /// From there.
    pub from: Lane,
    /// To the store or Redis.
    pub to: Lane,
    /// What.
    pub kind: &'static str,
    /// Whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<usize>,
    /// When it was sent.
    pub sent: u64,
    /// When it was done; never: it was lost, refused, or the run was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// When its sender had the reply, or knew that something was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heard: Option<u64>,
    /// Whether what was heard is a reply.
    pub ok: bool,
    /// In words.
    pub text: String,
}
