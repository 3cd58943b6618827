//! What can be wrong with a batch: a word that stays for each, what it means, and what to do.

use fencepost_core::BatchId;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// A line has no input.
    RowMissing,
    /// There are inputs beyond the batch.
    RowBeyond,
    /// A line is nowhere.
    RowLost,
    /// A line has several outcomes.
    TwoOutcomes,
    /// A line has an outcome and is open.
    OutcomeAndOpen,
    /// A line is in several spans.
    TwoSpans,
    /// A line that was never claimed was.
    BeyondCursor,
    /// There are outcomes or spans of lines that the batch does not have.
    OutsideBatch,
    /// A span's lines cannot be read.
    SpanUnreadable,
    /// A span's count or first line is not that of its lines.
    SpanMiscounted,
    /// An ended batch has a span.
    SpanInEndedBatch,
    /// A batch has ended with lines that were never claimed.
    CursorBehind,
    /// Nothing is open, and the batch is.
    BatchNotEnded,
    /// The batch's status is not what its outcomes make it.
    BatchStatus,
    /// The time of the batch's end is there or not, against its status.
    BatchEndTime,
    /// S6: its purge has begun, and it is still there.
    PurgeBegun,
    /// A stored count is not the real one.
    CountDiffers,
    /// A span is held by a lease that has ended.
    HeldByEndedLease,
    /// A span is held by a lease that is not there.
    HeldByUnknownLease,
    /// A span is held by a silent lease for longer than a recovery takes.
    RecoveryOverdue,
    /// A span is of a claim that its lease never made.
    ClaimUnknown,
    /// A token was never drawn.
    TokenNotIssued,
    /// A token is not one lease's.
    TokenShared,
    /// A line changed hands under a token that was not newer.
    TokenNotNewest,
    /// One token recorded a line twice.
    RecordedTwice,
    /// A line was recorded under a token that it had been taken from.
    RecordedAfterLoss,
    /// An answer was dropped under a token that was not out of date.
    FencedWrongly,
    /// An outcome's attempts are not those of the log.
    AttemptsDiffer,
    /// An outcome's crashes are not those of the log.
    CrashesDiffer,
    /// A crash was withdrawn that was never charged.
    WithdrawnWithoutCrash,
    /// An outcome lacks its result or its error.
    OutcomeIncomplete,
    /// Something is of a generation that the batch has not had.
    GenerationUnknown,
    /// An end has no completion call.
    CallMissing,
    /// There is a completion call of no end.
    CallWithoutEnd,
    /// A completion call tells something else than what came of the batch.
    CallDiffers,
    /// A completion call is held by nobody who could make it.
    CallHeldWrongly,
    /// What may still run of an aborted batch cannot.
    StoppingWrong,
    /// An append's rows are not the batch's.
    AppendDiffers,
}

impl Code {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::RowMissing,
        Self::RowBeyond,
        Self::RowLost,
        Self::TwoOutcomes,
        Self::OutcomeAndOpen,
        Self::TwoSpans,
        Self::BeyondCursor,
        Self::OutsideBatch,
        Self::SpanUnreadable,
        Self::SpanMiscounted,
        Self::SpanInEndedBatch,
        Self::CursorBehind,
        Self::BatchNotEnded,
        Self::BatchStatus,
        Self::BatchEndTime,
        Self::PurgeBegun,
        Self::CountDiffers,
        Self::HeldByEndedLease,
        Self::HeldByUnknownLease,
        Self::RecoveryOverdue,
        Self::ClaimUnknown,
        Self::TokenNotIssued,
        Self::TokenShared,
        Self::TokenNotNewest,
        Self::RecordedTwice,
        Self::RecordedAfterLoss,
        Self::FencedWrongly,
        Self::AttemptsDiffer,
        Self::CrashesDiffer,
        Self::WithdrawnWithoutCrash,
        Self::OutcomeIncomplete,
        Self::GenerationUnknown,
        Self::CallMissing,
        Self::CallWithoutEnd,
        Self::CallDiffers,
        Self::CallHeldWrongly,
        Self::StoppingWrong,
        Self::AppendDiffers,
    ];

    /// Its name: a word that stays.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RowMissing => "row-missing",
            Self::RowBeyond => "row-beyond",
            Self::RowLost => "row-lost",
            Self::TwoOutcomes => "two-outcomes",
            Self::OutcomeAndOpen => "outcome-and-open",
            Self::TwoSpans => "two-spans",
            Self::BeyondCursor => "beyond-cursor",
            Self::OutsideBatch => "outside-batch",
            Self::SpanUnreadable => "span-unreadable",
            Self::SpanMiscounted => "span-miscounted",
            Self::SpanInEndedBatch => "span-in-ended-batch",
            Self::CursorBehind => "cursor-behind",
            Self::BatchNotEnded => "batch-not-ended",
            Self::BatchStatus => "batch-status",
            Self::BatchEndTime => "batch-end-time",
            Self::PurgeBegun => "purge-begun",
            Self::CountDiffers => "count-differs",
            Self::HeldByEndedLease => "held-by-ended-lease",
            Self::HeldByUnknownLease => "held-by-unknown-lease",
            Self::RecoveryOverdue => "recovery-overdue",
            Self::ClaimUnknown => "claim-unknown",
            Self::TokenNotIssued => "token-not-issued",
            Self::TokenShared => "token-shared",
            Self::TokenNotNewest => "token-not-newest",
            Self::RecordedTwice => "recorded-twice",
            Self::RecordedAfterLoss => "recorded-after-loss",
            Self::FencedWrongly => "fenced-wrongly",
            Self::AttemptsDiffer => "attempts-differ",
            Self::CrashesDiffer => "crashes-differ",
            Self::WithdrawnWithoutCrash => "withdrawn-without-crash",
            Self::OutcomeIncomplete => "outcome-incomplete",
            Self::GenerationUnknown => "generation-unknown",
            Self::CallMissing => "call-missing",
            Self::CallWithoutEnd => "call-without-end",
            Self::CallDiffers => "call-differs",
            Self::CallHeldWrongly => "call-held-wrongly",
            Self::StoppingWrong => "stopping-wrong",
            Self::AppendDiffers => "append-differs",
        }
    }

    /// What it means, where nothing more can be said.
    pub const fn found(self) -> &'static str {
        match self {
            Self::RowMissing => "rows of the batch have no input",
            Self::RowBeyond => "there are inputs that are neither the batch's nor those of an append under way",
            Self::RowLost => "rows have no outcome, and nobody holds or ever gets them",
            Self::TwoOutcomes => "rows have more than one outcome",
            Self::OutcomeAndOpen => "rows have an outcome and are in a span: they would be run and recorded again",
            Self::TwoSpans => "rows are in more than one span: two workers could run them at once",
            Self::BeyondCursor => {
                "rows count as never claimed, and have an outcome, a span or a story: they would run again"
            }
            Self::OutsideBatch => "there are outcomes or spans of lines that the batch does not have",
            Self::SpanUnreadable => "a span's lines cannot be read",
            Self::SpanMiscounted => "a span's stored count or first line is not that of its lines",
            Self::SpanInEndedBatch => "the batch has ended, and rows of it are still in spans",
            Self::CursorBehind => "the batch has ended, and its cursor says that rows of it were never claimed",
            Self::BatchNotEnded => "every row has its outcome, and the batch is still open",
            Self::BatchStatus => "the batch's status is not what its outcomes make it",
            Self::BatchEndTime => "the batch has an end without a time, or a time without an end",
            Self::PurgeBegun => "a purge of the batch has begun, and yet it is there: its rows are about to go",
            Self::CountDiffers => "a stored count is not the real one",
            Self::HeldByEndedLease => "rows are held by a lease that has ended: nobody will recover them",
            Self::HeldByUnknownLease => "rows are held by a lease that is not there: nobody will recover them",
            Self::RecoveryOverdue => "rows are held by a worker that has been silent for longer than a recovery takes",
            Self::ClaimUnknown => "rows are held under a claim that their lease never made",
            Self::TokenNotIssued => "a token was never drawn",
            Self::TokenShared => "a token is of two leases, or of one and of a span that nobody has claimed",
            Self::TokenNotNewest => {
                "rows were held under a token that is not older than that of their outcome, or of their span"
            }
            Self::RecordedTwice => "one token recorded the same row more than once",
            Self::RecordedAfterLoss => {
                "rows were recorded under a token that they had been taken from: the fence did not hold"
            }
            Self::FencedWrongly => {
                "answers were dropped by the fence under a token that is not older than that of their row's outcome or span"
            }
            Self::AttemptsDiffer => "outcomes say another number of attempts than their rows' stories",
            Self::CrashesDiffer => "outcomes say another number of crashes than their rows' stories",
            Self::WithdrawnWithoutCrash => "a crash was withdrawn that was never charged",
            Self::OutcomeIncomplete => "outcomes lack their result or their error, or have both",
            Self::GenerationUnknown => "outcomes or stories are of a generation that the batch has not had",
            Self::CallMissing => "an end of the batch has no completion call: it is told to nobody",
            Self::CallWithoutEnd => "there is a completion call for an end that never was",
            Self::CallDiffers => "a completion call tells something else than what came of the batch",
            Self::CallHeldWrongly => "a completion call is held by a lease that cannot make it",
            Self::StoppingWrong => "rows are listed as what may still run, and cannot",
            Self::AppendDiffers => "an append that is done has rows that the batch does not have",
        }
    }

    /// What to do about it. `line`: one that it is about.
    pub fn to_do(self, batch: BatchId, line: Option<u64>, store_option: &str) -> String {
        let story = || match line {
            Some(line) => format!("`fencepost rows {batch} --line {line}{store_option}` tells the row's story"),
            None => format!("`fencepost status {batch}{store_option}` shows the batch"),
        };
        match self {
            Self::RowLost => format!(
                "keep a copy of the store, then submit these rows as a batch of their own: here they never run; {}",
                story()
            ),
            Self::RowMissing => "restore the store from a copy: what was submitted is not in it any more".to_owned(),
            Self::HeldByEndedLease | Self::HeldByUnknownLease | Self::SpanUnreadable | Self::ClaimUnknown => format!(
                "keep a copy of the store, then `fencepost abort {batch}{store_option}` and submit the rows that have no outcome \
                 as a batch of their own"
            ),
            Self::RecoveryOverdue => format!(
                "`fencepost doctor{store_option}` says who should recover them; after a step of the clock, a pause of the machine, \
                 or with a --scan of more than a minute, ask again later"
            ),
            Self::OutcomeAndOpen | Self::TwoSpans | Self::BeyondCursor => format!(
                "`fencepost hold {batch}{store_option}` before these rows run, and keep a copy of the store; {}",
                story()
            ),
            Self::BatchNotEnded => {
                format!("nobody will end it: keep a copy of the store, then `fencepost abort {batch}{store_option}`")
            }
            Self::CallMissing => "tell whoever waits for the call; keep a copy of the store".to_owned(),
            _ => format!(
                "something else than fencepost wrote to the store, or fencepost has a bug: keep a copy of it; {}",
                story()
            ),
        }
    }
}
