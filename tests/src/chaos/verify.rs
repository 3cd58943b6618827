//! What the product itself says of a batch in the end.

use crate::process::run_fencepost;

/// What `fencepost verify BATCH --json` finds wrong with an ended batch that was not purged; or that it cannot be asked.
pub fn complaints(store: &str, batch: &str) -> Vec<String> {
    let output = run_fencepost(["verify", batch, "--json", "--store", store]);
    let told: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
    let findings = told.as_ref().and_then(|told| told["findings"].as_array());
    match (output.status.code(), findings) {
        (Some(0), Some(findings)) if findings.is_empty() => Vec::new(),
        (_, Some(findings)) if !findings.is_empty() => {
            findings.iter().map(|finding| format!("{batch}: {finding}")).collect()
        }
        _ => vec![format!("{batch}: {} {}", output.status, String::from_utf8_lossy(&output.stderr))],
    }
}
