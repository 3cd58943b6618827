//! `fencepost results`

use std::path::Path;

use fencepost_core::BatchId;

use super::args::{FileFormat, Global, ResultsArgs};
use super::failure::{Exit, Failure};
use super::{outlet, overview, store};
use crate::results::{InputColumns, Output, ResultError, ResultLayout, ResultWriter};
use crate::say::say;
use crate::store::view::{BatchView, RowPage};
use crate::store::{Reads, StoreError};

/// Rows are read so many at a time.
const PAGE_ROWS: u32 = 1_000;

pub async fn results(global: &Global, args: ResultsArgs) -> Result<Exit, Failure> {
    let store = store::open(global).await?;
    let batch = store::batch(global, &store, &args.batch).await?;
    outlet::check(&args.output, &store::url(global)?.files(), batch.source.as_deref().map(Path::new))?;
    write(&store, &batch, &args.output, args.format, args.failed).await?;
    if batch.ended_at.is_none() && !global.quiet {
        say!("Batch {} has not ended: rows without an outcome yet are among these.", batch.batch);
    }
    Ok(Exit::Done)
}

/// Writes every row in input order, or only the failed ones.
pub async fn write(
    store: &impl Reads,
    batch: &BatchView,
    output: &Path,
    format: Option<FileFormat>,
    failed_only: bool,
) -> Result<(), Failure> {
    match write_all(store, batch, output, format, failed_only).await {
        Err(WriteError::Result(error)) if error.is_closed_pipe() => Ok(()),
        Err(WriteError::Result(error)) => Err(Failure::from_error(Exit::Unexpected, error)),
        Err(WriteError::Failure(failure)) => Err(failure),
        Ok(()) => Ok(()),
    }
}

enum WriteError {
    Failure(Failure),
    Result(ResultError),
}

impl From<ResultError> for WriteError {
    fn from(error: ResultError) -> Self {
        Self::Result(error)
    }
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        Self::Failure(error.into())
    }
}

async fn write_all(
    store: &impl Reads,
    batch: &BatchView,
    output: &Path,
    format: Option<FileFormat>,
    failed_only: bool,
) -> Result<(), WriteError> {
    let layout = layout(output, format, failed_only);
    let columns = match layout {
        ResultLayout::Jsonl => InputColumns::new(),
        ResultLayout::Csv { .. } | ResultLayout::FailedCsv { .. } => columns(store, batch, failed_only).await?,
    };
    let out = Output::open(output)?;
    let name = out.name().to_owned();
    let mut writer = ResultWriter::begin(out, &name, layout, &columns)?;
    let mut after = 0;
    loop {
        let page = page(store, batch.batch, after, failed_only).await?;
        for row in page.rows {
            writer.write(&overview::result_row(row))?;
        }
        match page.next_after {
            Some(line) => after = line,
            None => break,
        }
    }
    // S6: then pages may have been empty, and what is written is no whole.
    if store.batch(batch.batch).await?.is_none() {
        let message = format!("batch {} was purged while its results were written: they are not complete", batch.batch);
        return Err(WriteError::Failure(Failure::new(Exit::NotFound, message)));
    }
    writer.finish()?.commit()?;
    Ok(())
}

async fn page(store: &impl Reads, batch: BatchId, after: u64, failed_only: bool) -> Result<RowPage, StoreError> {
    if failed_only {
        store.results(batch, after, PAGE_ROWS, true).await
    } else {
        store.rows(batch, None, after, PAGE_ROWS).await
    }
}

fn layout(output: &Path, format: Option<FileFormat>, failed_only: bool) -> ResultLayout {
    let by_name = || {
        let name = output.to_string_lossy().to_ascii_lowercase();
        match name.rsplit_once('.') {
            Some((_, "csv")) => FileFormat::Csv,
            Some((_, "tsv")) => FileFormat::Tsv,
            _ => FileFormat::Jsonl,
        }
    };
    let delimiter = match format.unwrap_or_else(by_name) {
        FileFormat::Jsonl => return ResultLayout::Jsonl,
        FileFormat::Csv => b',',
        FileFormat::Tsv => b'\t',
    };
    if failed_only { ResultLayout::FailedCsv { delimiter } } else { ResultLayout::Csv { delimiter } }
}

/// The input's columns: those of its header, else all keys of all rows.
async fn columns(store: &impl Reads, batch: &BatchView, failed_only: bool) -> Result<InputColumns, WriteError> {
    if let Some(header) = &batch.header {
        return Ok(header.iter().cloned().collect());
    }
    let mut columns = InputColumns::new();
    let mut after = 0;
    loop {
        let page = page(store, batch.batch, after, failed_only).await?;
        for row in &page.rows {
            columns.see(row.line, &row.input)?;
        }
        match page.next_after {
            Some(line) => after = line,
            None => return Ok(columns),
        }
    }
}
