//! Attempts (P1): a run is told which one it is, and neither crashes nor what was given back count.

use std::collections::BTreeMap;

use super::super::facts::Facts;
use super::super::ledger::Run;
use super::Say;

/// Each run's attempt is one more than the answers before it that asked for another try.
pub fn check(facts: &Facts, by_line: &BTreeMap<(i64, u64), Vec<&Run>>, say: &mut Say<'_>) {
    for (&at, runs) in by_line {
        for run in runs {
            let attempt = facts.attempt(at, run.token);
            if run.attempt != attempt {
                say.wrong("attempts", || format!("by the log it was attempt {attempt}: {run:?}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::{CrashFacts, OutcomeFacts};
    use super::super::super::report::Findings;
    use super::*;

    #[test]
    fn an_attempt_is_counted_by_what_asked_for_another_try() {
        let at = (1, 1);
        let mut facts = Facts::default();
        // Tokens 10 and 30 asked for another try, 20 crashed, 40 failed; an operator had it run again.
        facts.tries.insert(at, vec![10, 30, 50]);
        facts.crashes.insert(at, vec![CrashFacts { token: 20, lease: 1, withdrawn: false }]);
        let failed = OutcomeFacts { token: 40, success: false, text: String::new(), superseded: true };
        facts.outcomes.insert(at, vec![failed]);
        let wrong = |token, attempt| {
            let run = Run { batch: String::new(), line: 1, token, attempt, pid: 1, at_us: 0 };
            let mut findings = Findings::default();
            check(&facts, &BTreeMap::from([(at, vec![&run])]), &mut Say { findings: &mut findings });
            findings.violations
        };
        for (token, attempt) in [(10, 1), (20, 2), (30, 2), (40, 3), (50, 1), (60, 2)] {
            assert_eq!(wrong(token, attempt), [""; 0], "token {token}");
            for other in [attempt - 1, attempt + 1] {
                assert_eq!(wrong(token, other).len(), 1, "token {token} is not attempt {other}");
            }
        }
    }
}
