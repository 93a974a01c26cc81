//! The balancer runs here, as the binary with that hash. Before there is a cluster it has no backends.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{TOOL_WITHIN, Work};
use crate::{
    bundle::{digest_of, is_id},
    command::Command,
    durable::{self, FileError},
    error::ActionError,
    paths::Paths,
};

const UNIT: &str = "quorate-lb.service";

pub(super) async fn ensure(
    work: &Work<'_>,
    listen: SocketAddr,
    binary: &str,
) -> Result<(), ActionError> {
    let program = work.paths.binaries().join(format!("quorate-{binary}"));
    check(&program, binary)?;
    let configured = configure(work.paths, listen)?;
    let text = unit(&format!("/var/lib/quorate/bin/quorate-{binary}"));
    let renewed = durable::write_if_different(&work.paths.unit(UNIT), text.as_bytes(), 0o644)?;
    let systemctl = |args: &[&str]| {
        work.tools
            .run(Command::new("systemctl", TOOL_WITHIN).args(args))
    };
    if renewed {
        systemctl(&["daemon-reload"]).await?;
    }
    systemctl(&["enable", UNIT]).await?;
    // A new listener or binary takes a new process; it starts at once when it does not run.
    let verb = if renewed || configured {
        "restart"
    } else {
        "start"
    };
    systemctl(&[verb, UNIT]).await?;
    Ok(())
}

/// A unit that names a binary which is not there, or not that one, would fail at the next boot.
fn check(program: &std::path::Path, binary: &str) -> Result<(), ActionError> {
    let next = "copy this run's binary to the host again";
    if !is_id(binary) {
        return Err(ActionError::unexpected(
            "a binary's hash of 64 hexadecimal digits",
            binary,
            next,
        ));
    }
    let seen = digest_of(program)?;
    if seen != binary {
        return Err(ActionError::unexpected(
            format!("`{}` with hash {binary}", program.display()),
            format!("hash {seen}"),
            next,
        ));
    }
    Ok(())
}

/// Sets the listener and leaves everything else in the file as it is. Says whether it was changed.
fn configure(paths: &Paths, listen: SocketAddr) -> Result<bool, ActionError> {
    let path = paths.balancer();
    let mut config: Value = durable::read_json(&path)?.unwrap_or_else(|| json!({}));
    let object = config
        .as_object_mut()
        .ok_or_else(|| FileError::senseless(&path, "it is not an object"))?;
    let wanted = json!(listen);
    if object.get("listen") == Some(&wanted) {
        return Ok(false);
    }
    object.insert("listen".to_owned(), wanted);
    object.entry("backends").or_insert_with(|| json!([]));
    durable::write_json(&path, &config)?;
    Ok(true)
}

fn unit(program: &str) -> String {
    format!(
        "# Written by Quorate; changes are overwritten.\n\
         [Unit]\nDescription=Quorate load balancer for kube-apiservers\nWants=network-online.target\nAfter=network-online.target\n\
         # Starting it once more is always better than leaving it down.\nStartLimitIntervalSec=0\n\n\
         [Service]\nType=notify\nNotifyAccess=main\nExecStart={program} lb run --config /etc/quorate/lb.json\n\
         ExecReload=/bin/kill -HUP $MAINPID\nRestart=always\nRestartSec=100ms\nWatchdogSec=10s\nTimeoutStopSec=60s\n\
         RuntimeDirectory=quorate\nRuntimeDirectoryMode=0700\nRuntimeDirectoryPreserve=yes\nUMask=0077\nOOMScoreAdjust=-900\n\
         CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nNoNewPrivileges=yes\nProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\n\
         ProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectKernelLogs=yes\nProtectControlGroups=yes\nProtectHostname=yes\n\
         RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX\nRestrictNamespaces=yes\nRestrictRealtime=yes\nRestrictSUIDSGID=yes\n\
         LockPersonality=yes\nMemoryDenyWriteExecute=yes\nSystemCallArchitectures=native\nSystemCallFilter=@system-service\n\
         SystemCallErrorNumber=EPERM\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn the_listener_is_set_and_the_rest_kept() {
        let machine = testing::machine();
        let listen = "0.0.0.0:6443".parse().unwrap();
        assert!(configure(&machine.paths, listen).unwrap());
        assert!(!configure(&machine.paths, listen).unwrap());
        machine.write(
            "/etc/quorate/lb.json",
            r#"{"listen":"0.0.0.0:1","backends":[{"name":"a","address":"10.0.0.1:6443"}],"health":{"rise":5}}"#,
        );
        assert!(configure(&machine.paths, listen).unwrap());
        let kept: Value = serde_json::from_str(&machine.read("/etc/quorate/lb.json")).unwrap();
        assert_eq!(kept["health"]["rise"], 5);
        assert_eq!(kept["backends"][0]["name"], "a");
        assert_eq!(kept["listen"], "0.0.0.0:6443");
        machine.write("/etc/quorate/lb.json", "[]");
        assert!(configure(&machine.paths, listen).is_err());
    }

    #[test]
    fn only_the_binary_with_that_hash() {
        let machine = testing::machine();
        machine.write("/var/lib/quorate/bin/x", "binary");
        let program = machine.paths.binaries().join("x");
        let hash = digest_of(&program).unwrap();
        check(&program, &hash).unwrap();
        assert!(check(&program, &"0".repeat(64)).is_err());
        assert!(check(&program, "x lb run; true").is_err());
        assert!(check(&machine.paths.binaries().join("y"), &hash).is_err());
    }
}
