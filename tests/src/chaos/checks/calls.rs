//! Completion calls (S7): each end is told at least once, and each call beyond the first has a known cause.

use std::collections::BTreeMap;

use super::super::facts::{CallEnd, CallFacts, Facts};
use super::super::ledger::Run;
use super::super::rows::Op;
use super::Say;

/// Holds the calls that commands noted against what the store says of them.
pub fn check(facts: &Facts, noted: &BTreeMap<(i64, u64), Vec<&Run>>, say: &mut Say<'_>) {
    for (at, call) in facts.calls.iter().filter(|(_, call)| call.operation == Op::Plain.name()) {
        let tokens: Vec<u64> = noted.get(at).into_iter().flatten().map(|run| run.token).collect();
        say.findings.calls += tokens.len() as u64;
        match judge(call, &tokens) {
            Ok(repeats) => {
                say.findings.ends_told += u64::from(!tokens.is_empty());
                for cause in repeats {
                    *say.findings.calls_repeated.entry(cause).or_default() += 1;
                }
            }
            Err(what) => say.wrong("calls", || format!("batch {} generation {}: {what}; {call:?}", at.0, at.1)),
        }
    }
    for (at, runs) in noted.iter().filter(|(at, _)| !facts.calls.contains_key(at)) {
        say.wrong("calls", || format!("{at:?} has not ended, and {runs:?}"));
    }
}

/// What ended the call before each repeat; or what is wrong. `tokens`: of the calls that were made, in their order.
fn judge(call: &CallFacts, tokens: &[u64]) -> Result<Vec<&'static str>, String> {
    let end_of = |token: u64| call.claims.iter().find(|claim| claim.0 == token);
    for token in tokens {
        end_of(*token).ok_or_else(|| format!("a call under {token} was made and never claimed"))?;
    }
    let delivered: Vec<u64> =
        call.claims.iter().filter(|claim| claim.1 == Some(CallEnd::Delivered)).map(|claim| claim.0).collect();
    match delivered[..] {
        [] if call.purged => {}
        [] => return Err("it was never delivered".to_owned()),
        [token] if !tokens.contains(&token) => {
            return Err(format!("delivered under {token}, and no such call was made"));
        }
        [_] => {}
        _ => return Err(format!("delivered more than once, under {delivered:?}")),
    }
    let cause = |pair: &[u64]| match end_of(pair[0]) {
        _ if pair[0] == pair[1] => Err(format!("one token, {}, was called twice", pair[0])),
        Some((_, Some(CallEnd::Freed(cause)))) => Ok(*cause),
        _ => Err(format!("nothing tells why it was called again under {}", pair[1])),
    };
    tokens.windows(2).map(cause).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(claims: &[(u64, Option<CallEnd>)]) -> CallFacts {
        CallFacts { operation: Op::Plain.name().to_owned(), claims: claims.to_vec(), purged: false }
    }

    #[test]
    fn calls_are_made_at_least_once_and_repeated_for_a_reason() {
        let delivered = || Some(CallEnd::Delivered);
        let ended = || Some(CallEnd::Freed("lease ended"));
        assert_eq!(judge(&call(&[(1, delivered())]), &[1]), Ok(vec![]));
        let twice = call(&[(1, ended()), (2, delivered())]);
        assert_eq!(judge(&twice, &[1, 2]), Ok(vec!["lease ended"]));
        assert_eq!(judge(&twice, &[2]), Ok(vec![]), "the first was not begun");
        let broken: [(CallFacts, &[u64]); 7] = [
            (call(&[]), &[]),
            (call(&[(1, ended())]), &[1]),
            (call(&[(1, delivered())]), &[]),
            (call(&[(1, delivered())]), &[1, 1]),
            (call(&[(1, delivered())]), &[1, 2]),
            (call(&[(1, delivered()), (2, delivered())]), &[1, 2]),
            (call(&[(1, None), (2, delivered())]), &[1, 2]),
        ];
        for (call, tokens) in broken {
            assert!(judge(&call, tokens).is_err(), "{call:?} {tokens:?}");
        }
        let purged = CallFacts { purged: true, ..call(&[(1, ended())]) };
        assert_eq!(judge(&purged, &[1]), Ok(vec![]));
    }
}
