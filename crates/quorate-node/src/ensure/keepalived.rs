//! keepalived is installed: the distribution's package, unless it is there already. Nothing of ours is held or configured yet, and the package's
//! own unit has nothing to do without a configuration.

use super::{Work, packages};
use crate::{error::ActionError, facts::installed};

pub(super) async fn ensure(work: &Work<'_>) -> Result<(), ActionError> {
    if installed(work.paths, "keepalived") {
        return Ok(());
    }
    if !installed(work.paths, "apt-get") {
        return Err(ActionError::unexpected(
            "keepalived on this host, or `apt-get` to install it",
            "neither is there",
            "install keepalived there, or give the balancer hosts of its own: `balancer: { on: hosts }`",
        ));
    }
    packages::of_the_distribution(work, "keepalived").await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn one_that_is_there_is_enough_and_where_none_can_be_had_it_is_said() {
        let machine = testing::machine();
        let ensure = async || {
            testing::with_work_async(&machine, "cp-1", async |work| ensure(work).await).await
        };
        let err = ensure().await.unwrap_err().to_string();
        assert!(
            err.contains("keepalived") && err.contains("neither"),
            "{err}"
        );
        machine.write("/usr/sbin/keepalived", "");
        ensure().await.unwrap();
    }
}
