//! What was kept here is on an operator's machine as well, sealed: this host gave it away whole, and what arrived there is the same bytes.

use super::Work;
use crate::{
    durable,
    error::ActionError,
    facts::{self, RECEIPT, kept},
    off_host,
};

pub(super) fn ensure(work: &Work<'_>) -> Result<(), ActionError> {
    if facts::off_host(work.paths)?.is_some() {
        return Ok(());
    }
    let expected = |seen: &str| {
        ActionError::unexpected(
            "the operator's machine to have this host's backup",
            seen,
            "run `quorate convert` again: it carries the backup there",
        )
    };
    let Some(receipt) = &work.receipt else {
        return Err(expected("no receipt for it"));
    };
    let offer = off_host::offer(work.paths)?;
    let same =
        offer.is_some_and(|offer| offer.bytes == receipt.bytes && offer.sha256 == receipt.sha256);
    if !same {
        return Err(expected(
            "a receipt for something else than was given away last",
        ));
    }
    Ok(durable::write_json(&kept(work.paths, RECEIPT), receipt)?)
}

#[cfg(test)]
mod tests {
    use quorate_plan::observation::Receipt;

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn only_what_arrived_whole_counts() {
        let machine = testing::machine();
        let receipt = Receipt {
            bytes: 5,
            sha256: "aa".into(),
            recipients: ["age1x".to_owned()].into(),
            machine: "desk".into(),
            file: "/b/cp-1.age".into(),
        };
        let tried = async |receipt: Option<Receipt>| {
            testing::with_work_async(&machine, "cp-1", async |work| {
                ensure(&Work {
                    receipt: receipt.clone(),
                    sealed: Vec::new(),
                    ..*work
                })
            })
            .await
        };
        tried(None).await.unwrap_err();
        tried(Some(receipt.clone())).await.unwrap_err();
        machine.write(
            "/var/lib/quorate/conversion/offer.json",
            r#"{"bytes":5,"sha256":"bb"}"#,
        );
        tried(Some(receipt.clone())).await.unwrap_err();
        assert_eq!(facts::off_host(&machine.paths).unwrap(), None);
        machine.write(
            "/var/lib/quorate/conversion/offer.json",
            r#"{"bytes":5,"sha256":"aa"}"#,
        );
        tried(Some(receipt.clone())).await.unwrap();
        assert_eq!(facts::off_host(&machine.paths).unwrap(), Some(receipt));
        tried(None).await.unwrap();
    }
}
