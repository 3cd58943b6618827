//! No rate without its proof: every row has one outcome, nothing was run or recorded twice, and `fencepost verify` agrees.

use fencepost_core::BatchId;

use crate::process::run_fencepost;

/// What was counted beside a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Rows without an outcome.
    pub lost: u64,
    /// Runs beyond one for each row.
    pub duplicate: u64,
    /// Answers that the fence dropped.
    pub fenced: u64,
}

impl std::fmt::Display for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "lost {}, duplicate {}, fenced {}", self.lost, self.duplicate, self.fenced)
    }
}

/// Has the command verify a batch, and counts. `runs` is how many the handlers counted, where they did. Panics where anything is
/// off: such a rate is none.
pub fn verify(store: &str, batch: BatchId, rows: u64, runs: Option<u64>) -> Verified {
    let output = run_fencepost(["verify", &batch.to_string(), "--store", store, "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("verify says no JSON ({error}): {}", String::from_utf8_lossy(&output.stderr));
    });
    assert!(output.status.success() && told["problems"] == 0, "verify finds something: {told}");
    let count =
        |of: &str, name: &str| told[of][name].as_u64().unwrap_or_else(|| panic!("verify counts no {name}: {told}"));
    let found = Verified {
        lost: rows - count("counts", "success").min(rows),
        duplicate: runs.map_or(0, |runs| runs.abs_diff(rows)),
        fenced: count("log", "fenced"),
    };
    assert_eq!((found.lost, found.duplicate), (0, 0), "{told}");
    found
}
