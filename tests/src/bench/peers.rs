//! Part (e).

use super::figures::Figures;
use super::ground::Ground;
use super::sizes::Sizes;

/// Measures them.
pub fn measure_all(_: &Ground, _: &Sizes, _: &mut Figures, _: &mut dyn FnMut(&str)) {}
