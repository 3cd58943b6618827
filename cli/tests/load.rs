//! Submitting to a store whose answers are lost.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Mutex;

use fencepost::load::{self, LoadError};
use fencepost::store::loading::{BatchSpec, LoadEnd, Loaded};
use fencepost::store::{Loads, StoreError};
use fencepost_core::BatchId;

/// Keeps lines and the end of one load. What is asked for the first time happens, but its answer is lost.
#[derive(Default)]
struct LosesFirstAnswers {
    lines: Mutex<Vec<Box<str>>>,
    asked: Mutex<u32>,
    ended: Mutex<bool>,
    /// After a lost answer it cannot be reached for some tries.
    away: Mutex<u32>,
    removed: Mutex<bool>,
}

fn batch() -> BatchId {
    BatchId::from_random(7)
}

impl LosesFirstAnswers {
    fn answer<T>(&self, answer: T) -> Result<T, StoreError> {
        let mut asked = self.asked.lock().unwrap();
        *asked += 1;
        let mut away = self.away.lock().unwrap();
        if *asked % 3 == 1 {
            *away = 1;
            return Err(StoreError::unknown("cut off", None));
        }
        if *away > 0 {
            *away -= 1;
            return Err(StoreError::not_done("connection refused", None));
        }
        Ok(answer)
    }
}

impl Loads for LosesFirstAnswers {
    async fn begin_load(&self, _: BatchSpec) -> Result<BatchId, StoreError> {
        Ok(batch())
    }

    async fn load_rows(&self, _: BatchId, first_line: u64, inputs: &[Box<str>]) -> Result<(), StoreError> {
        {
            let mut lines = self.lines.lock().unwrap();
            lines.truncate(usize::try_from(first_line).unwrap() - 1);
            lines.extend_from_slice(inputs);
        }
        self.answer(())
    }

    async fn finish_load(&self, batch: BatchId, end: LoadEnd) -> Result<Loaded, StoreError> {
        assert_eq!(self.lines.lock().unwrap().len() as u64, end.total);
        let before = std::mem::replace(&mut *self.ended.lock().unwrap(), true);
        self.answer(if before { Loaded::Same(batch) } else { Loaded::New })
    }

    async fn remove_load(&self, _: BatchId) -> Result<(), StoreError> {
        *self.removed.lock().unwrap() = true;
        Ok(())
    }
}

#[tokio::test]
async fn lost_answers_are_asked_for_until_they_are_known() {
    let store = LosesFirstAnswers::default();
    let loaded = load::values(&store, BatchSpec::new("op"), None, 1..=3).await.unwrap();
    assert_eq!((loaded.batch, loaded.rows, loaded.new), (batch(), 3, true), "no key is needed for that");
    assert_eq!(store.lines.lock().unwrap().len(), 3);
    assert_eq!(*store.asked.lock().unwrap(), 6, "each was asked thrice: lost, away, answered");
    assert!(!*store.removed.lock().unwrap());
}

/// A store that refuses: nothing happened, and nothing is repeated.
struct Refuses;

impl Loads for Refuses {
    async fn begin_load(&self, _: BatchSpec) -> Result<BatchId, StoreError> {
        Ok(batch())
    }

    async fn load_rows(&self, _: BatchId, _: u64, _: &[Box<str>]) -> Result<(), StoreError> {
        Err(StoreError::not_done("the disk is full", None))
    }

    async fn finish_load(&self, _: BatchId, _: LoadEnd) -> Result<Loaded, StoreError> {
        unreachable!("no row is there")
    }

    async fn remove_load(&self, _: BatchId) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test]
async fn what_did_not_happen_is_an_error_at_once() {
    let error = load::values(&Refuses, BatchSpec::new("op"), None, 1..=3).await.unwrap_err();
    assert!(matches!(error, LoadError::Store(_)), "{error}");
}
