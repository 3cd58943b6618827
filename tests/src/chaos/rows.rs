//! Rows, and what is to come of them: each says itself what its handler does, so what comes out can be told beforehand.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::options::Drawn;

/// The operation of a batch: which workers take its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Commands and stream handlers of the real `fencepost worker`.
    Plain,
    /// A transactional handler (O7).
    Effects,
}

impl Op {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Effects => "effects",
        }
    }
}

/// What a row's handler does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// It succeeds.
    Succeed,
    /// It fails for good.
    Fail,
    /// Its first attempt asks for another.
    TryAgain,
    /// It is poison: whenever it runs, its worker dies.
    KillItsWorker,
}

/// A row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// No other row of the run has it.
    pub id: u64,
    /// How long it takes.
    pub ms: u64,
    /// What its handler does.
    pub does: Does,
}

impl Row {
    /// So many rows from this id on.
    pub fn draw(first_id: u64, count: u64, drawn: &Drawn, pick: u64) -> Vec<Self> {
        let mut random = StdRng::seed_from_u64(pick);
        let rows = (first_id..first_id + count).map(|id| Self {
            id,
            ms: random.random_range(drawn.row_ms_min..=drawn.row_ms_max),
            does: match random.random_range(0..100) {
                0..8 => Does::Fail,
                8..20 => Does::TryAgain,
                _ => Does::Succeed,
            },
        });
        rows.collect()
    }

    /// The same, one of them poison.
    pub fn draw_with_poison(first_id: u64, count: u64, drawn: &Drawn, pick: u64) -> Vec<Self> {
        let mut rows = Self::draw(first_id, count, drawn, pick);
        if let Some(row) = rows.get_mut(usize::try_from(pick % count).expect("few")) {
            row.does = Does::KillItsWorker;
        }
        rows
    }

    /// Its input, as it is submitted.
    pub fn input(&self) -> String {
        let does = match self.does {
            Does::Succeed => "succeed",
            Does::Fail => "fail",
            Does::TryAgain => "try again",
            Does::KillItsWorker => "kill its worker",
        };
        json!({ "id": self.id, "ms": self.ms, "does": does }).to_string()
    }

    /// Read by a handler.
    pub fn of_input(input: &Value) -> Option<Self> {
        let does = match input["does"].as_str()? {
            "succeed" => Does::Succeed,
            "fail" => Does::Fail,
            "try again" => Does::TryAgain,
            "kill its worker" => Does::KillItsWorker,
            _ => return None,
        };
        Some(Self { id: input["id"].as_u64()?, ms: input["ms"].as_u64()?, does })
    }

    /// What its handler says on this attempt, from 1.
    pub fn answer(&self, attempt: u64) -> Answer {
        match self.does {
            Does::Fail => Answer::Failed(self.error()),
            Does::TryAgain if attempt == 1 => Answer::Retry(format!("row {} asks for another try", self.id)),
            _ => Answer::Success(self.result()),
        }
    }

    /// Its result, if it succeeds.
    pub fn result(&self) -> Value {
        json!({ "id": self.id })
    }

    /// Its error, if it fails.
    pub fn error(&self) -> String {
        format!("row {} fails", self.id)
    }
}

/// What a handler says.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The result.
    Success(Value),
    /// For good.
    Failed(String),
    /// To be tried again.
    Retry(String),
}
