//! The rule for who comes by this master's address from before there was an endpoint: it stands, now and after every boot, or there is none.

use quorate_plan::observation::OldAddressRule;

use super::Work;
use crate::{error::ActionError, old_address};

pub(super) async fn ensure(
    work: &Work<'_>,
    rule: Option<&OldAddressRule>,
) -> Result<(), ActionError> {
    match rule {
        Some(rule) => old_address::set(work.paths, work.tools, rule).await,
        None => old_address::lift(work.paths, work.tools).await,
    }
}
