//! There is no Secret with the cluster's certificate authorities in it, encrypted or not: a join of ours needs none, and one that somebody
//! else prepared is over within two hours anyway.

use super::{ANSWER_WITHIN, Work, own_api};
use crate::{error::ActionError, facts};

pub(super) async fn ensure(work: &Work<'_>) -> Result<(), ActionError> {
    let client = own_api(work)?;
    facts::present(client.delete(facts::UPLOADED_CERTS, ANSWER_WITHIN).await)
        .map_err(ActionError::kube("deleting the uploaded certificates"))?;
    Ok(())
}
