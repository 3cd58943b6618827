use fencepost_core::rules::transactions::*;

use crate::rig::*;
use fencepost_core::{BatchId, Token};

#[test]
fn t1_all_transactions_lock_batches_in_one_order_and_each_once() {
    let [a, b, c] = [3, 1, 2].map(BatchId::from_random);
    assert_eq!(t1_lock_order([a, b, c, a]), [b, c, a]);
    assert_eq!(t1_lock_order([c, a, b]), t1_lock_order([a, b, c]));
}

#[test]
fn t2_limits_lie_well_below_the_ttl() {
    assert_eq!(t2_limit(secs(60)), secs(5));
    assert_eq!(t2_limit(secs(6)), secs(1));
    assert!(t2_limit(ms(200)) * 4 <= ms(200), "the shortest ttl too");
    assert!(!t2_limit(ms(1)).is_zero(), "no limit is no limit in SQL");
}

#[test]
fn t3_every_draw_is_larger_than_all_before() {
    let mut last = Token(41);
    let drawn = [(); 3].map(|()| t3_draw_token(&mut last));
    assert_eq!(drawn, [Token(42), Token(43), Token(44)]);
    assert_eq!(last, Token(44));
}
