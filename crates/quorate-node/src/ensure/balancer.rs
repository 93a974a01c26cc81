//! The balancer runs here, as the binary with that hash. Before there is a cluster it has no backends.
//!
//! What the unit has to say is known to the program that it runs: that one is asked for it, and nothing here repeats it.

use std::{net::SocketAddr, path::Path};

use serde_json::{Value, json};

use super::{TOOL_WITHIN, Work};
use crate::{
    bundle::{digest_of, is_id},
    command::{Command, Tools},
    durable::{self, FileError},
    error::ActionError,
    facts::binary_of_unit,
    paths::Paths,
    shown,
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
    let text = unit(work.tools, &program, binary).await?;
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
fn check(program: &Path, binary: &str) -> Result<(), ActionError> {
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

/// The unit that runs the balancer, by the account of `program`, which is the one it shall run.
async fn unit(tools: &Tools, program: &Path, binary: &str) -> Result<String, ActionError> {
    let runs = format!("/var/lib/quorate/bin/quorate-{binary}");
    let ask = Command::new(program.to_string_lossy(), TOOL_WITHIN).args([
        "lb",
        "unit",
        "--program",
        &runs,
        "--config",
        "/etc/quorate/lb.json",
    ]);
    let text = tools.run(ask).await?.text();
    // What a later look reads back has to be what was asked for.
    if binary_of_unit(&text) == Some(binary) {
        Ok(text)
    } else {
        Err(ActionError::unexpected(
            format!("a unit that runs `{runs}` from `quorate lb unit`"),
            shown::tail(text.as_bytes()),
            "copy this run's binary to the host again",
        ))
    }
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

    #[tokio::test]
    async fn the_program_is_asked_for_its_unit() {
        let machine = testing::machine();
        let program = machine.paths.binaries().join("x");
        let script = |text: &str| {
            machine.write("/var/lib/quorate/bin/x", format!("#!/bin/sh\n{text}\n"));
            let run = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(&program, run).unwrap();
        };
        let tools = Tools::default();
        let ask = || unit(&tools, &program, "abc");
        script(r#"printf '%s\n' "[Service]" "ExecStart=$4 $1 run $5 $6""#);
        assert_eq!(
            ask().await.unwrap(),
            "[Service]\nExecStart=/var/lib/quorate/bin/quorate-abc lb run --config /etc/quorate/lb.json\n"
        );
        script("echo ExecStart=/var/lib/quorate/bin/quorate-def lb run");
        let err = ask().await.unwrap_err().to_string();
        assert!(
            err.contains("quorate-abc") && err.contains("quorate-def"),
            "{err}"
        );
        script("exit 3");
        assert!(ask().await.is_err());
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
