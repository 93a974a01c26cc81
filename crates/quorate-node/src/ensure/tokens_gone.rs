//! No bootstrap token that Quorate made is left in the cluster.

use super::{ANSWER_WITHIN, Work, own_api};
use crate::{error::ActionError, facts, token};

pub(super) async fn ensure(work: &Work<'_>) -> Result<(), ActionError> {
    let client = own_api(work)?;
    let tokens = facts::own_tokens(&client)
        .await
        .map_err(ActionError::kube("the bootstrap tokens"))?;
    for id in tokens {
        token::withdraw(&client, &id, ANSWER_WITHIN)
            .await
            .map_err(ActionError::kube("deleting a bootstrap token"))?;
    }
    Ok(())
}
