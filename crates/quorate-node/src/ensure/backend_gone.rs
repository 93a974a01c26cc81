//! The balancer no longer knows that apiserver. Taking it out of the configuration is what drains it: it gets no new connection from then
//! on, and keeps those it has until they end. Those of all others are not touched.

use std::time::{Duration, Instant};

use quorate_plan::NodeName;
use serde_json::Value;

use super::{ANSWER_WITHIN, TOOL_WITHIN, Work};
use crate::{
    balancer::{self, Status},
    command::Command,
    durable::{self, FileError},
    error::ActionError,
    paths::Paths,
};

/// How long open connections are given to end by themselves. Requests take far less. A client that keeps its connection is told to go by
/// the apiserver itself, when that ends: waiting for it longer would be waiting for ever.
const CONNECTIONS_END_WITHIN: Duration = Duration::from_secs(15);

/// How long another apiserver may take to be up: one that has just come back has to say three times that it is ready.
const OTHER_UP_WITHIN: Duration = Duration::from_secs(20);

/// How long the balancer may take to read its configuration again.
const READ_WITHIN: Duration = Duration::from_secs(20);

pub(super) async fn ensure(work: &Work<'_>, backend: &NodeName) -> Result<(), ActionError> {
    let path = work.paths.balancer();
    let Some(mut config) = durable::read_json::<Value>(&path)? else {
        return Ok(());
    };
    if lists(&config, backend) {
        another_serves(work, &config, backend).await?;
        take_out(work.paths, &mut config, backend)?;
    }
    // Also when the file was right: whoever wrote it may have been killed before this.
    let reload = ["reload-or-restart", "quorate-lb.service"];
    work.tools
        .run(Command::new("systemctl", TOOL_WITHIN).args(reload))
        .await?;
    if lists_running(work, backend).await {
        work.wait_for(
            "the balancer to read its configuration",
            READ_WITHIN,
            || async {
                match lists_running(work, backend).await {
                    true => Err(format!("it still sends connections to {backend}")),
                    false => Ok(()),
                }
            },
        )
        .await?;
    }
    let within = CONNECTIONS_END_WITHIN.min(work.patience);
    let left = connections_end(work, backend, within).await;
    if left > 0 {
        work.progress.say(format!(
            "{left} connections go on until their clients or {backend} end them"
        ));
    }
    Ok(())
}

fn backends(config: &Value) -> impl Iterator<Item = &Value> {
    config["backends"].as_array().into_iter().flatten()
}

fn lists(config: &Value, backend: &NodeName) -> bool {
    backends(config).any(|there| there["name"] == backend.as_str())
}

/// A balancer that would have nobody to send connections to is not made to.
async fn another_serves(
    work: &Work<'_>,
    config: &Value,
    backend: &NodeName,
) -> Result<(), ActionError> {
    if backends(config).all(|there| there["name"] == backend.as_str()) {
        return Err(ActionError::unexpected(
            format!("another apiserver than {backend} behind the balancer"),
            "it is the only one",
            "run `quorate status` to see which apiservers are ready",
        ));
    }
    if told(work).await.is_none() {
        // It does not run: nobody is sent anywhere, and what it starts with is in the file.
        return Ok(());
    }
    work.wait_for(
        "another apiserver to be up behind the balancer",
        OTHER_UP_WITHIN,
        || async {
            let Some(status) = told(work).await else {
                return Err("the balancer does not answer".to_owned());
            };
            let others = || {
                let named = |name: &str| name == backend.as_str();
                status.backends.iter().filter(move |b| !named(&b.name))
            };
            if others().any(balancer::Backend::serves) {
                return Ok(());
            }
            let seen: Vec<String> = others()
                .map(|other| format!("{} is {}", other.name, other.state))
                .collect();
            Err(crate::shown::line(&seen.join(", ")))
        },
    )
    .await
}

fn take_out(paths: &Paths, config: &mut Value, backend: &NodeName) -> Result<(), FileError> {
    let path = paths.balancer();
    config
        .get_mut("backends")
        .and_then(Value::as_array_mut)
        .ok_or_else(|| FileError::senseless(&path, "it is not a balancer's configuration"))?
        .retain(|there| there["name"] != backend.as_str());
    durable::write_json(&path, config)
}

/// What the balancer says of itself. `None`: nothing.
async fn told(work: &Work<'_>) -> Option<Status> {
    let config: Value = durable::read_json(&work.paths.balancer()).ok()??;
    let socket = config["admin_socket"].as_str().unwrap_or(balancer::SOCKET);
    balancer::status(&work.paths.at(socket), ANSWER_WITHIN)
        .await
        .ok()
}

async fn lists_running(work: &Work<'_>, backend: &NodeName) -> bool {
    told(work).await.is_some_and(|status| {
        status
            .backends
            .iter()
            .any(|there| there.name == backend.as_str() && !there.leaving)
    })
}

/// Waits a bounded time, and says how many are left. Those are their clients' own: they were given the chance.
async fn connections_end(work: &Work<'_>, backend: &NodeName, within: Duration) -> u32 {
    let began = Instant::now();
    let mut said = 0;
    loop {
        let status = told(work).await;
        let of = |b: &&balancer::Backend| b.leaving && b.name == backend.as_str();
        let left: u32 = status
            .iter()
            .flat_map(|status| status.backends.iter().filter(of))
            .map(|backend| backend.connections)
            .sum();
        if left == 0 || began.elapsed() >= within {
            return left;
        }
        if said != left {
            said = left;
            work.progress
                .say(format!("{left} connections to {backend} are open"));
        }
        tokio::time::sleep(super::POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        balancer::tests::{STATUS, answering},
        testing,
    };

    const CONFIG: &str = r#"{"listen":"0.0.0.0:6443","backends":[
        {"name":"cp-1","address":"10.0.0.1:6443"},{"name":"cp-2","address":"10.0.0.2:6443"}],
        "health":{"ca_file":"/etc/quorate/ca.crt","rise":5}}"#;

    #[test]
    fn one_backend_goes_and_the_rest_stays() {
        let machine = testing::machine();
        let mut config: Value = serde_json::from_str(CONFIG).unwrap();
        let (one, other) = ("cp-2".parse().unwrap(), "cp-1".parse().unwrap());
        assert!(lists(&config, &one));
        take_out(&machine.paths, &mut config, &one).unwrap();
        let kept: Value = serde_json::from_str(&machine.read("/etc/quorate/lb.json")).unwrap();
        assert!(!lists(&kept, &one) && lists(&kept, &other));
        assert_eq!(kept["health"]["rise"], 5);
        take_out(&machine.paths, &mut config, &one).unwrap();
        let again: Value = serde_json::from_str(&machine.read("/etc/quorate/lb.json")).unwrap();
        assert_eq!(again, kept, "twice is once");
        assert!(take_out(&machine.paths, &mut Value::Null, &one).is_err());
    }

    #[tokio::test]
    async fn the_last_one_that_serves_stays() {
        let machine = testing::machine();
        machine.write("/etc/quorate/lb.json", CONFIG);
        let config: Value = serde_json::from_str(CONFIG).unwrap();
        let judge = async |config: &Value, backend: &str| {
            let backend: NodeName = backend.parse().unwrap();
            testing::with_work_async(&machine, "lb-1", async |work| {
                another_serves(work, config, &backend).await
            })
            .await
        };
        let mut alone = config.clone();
        alone["backends"].as_array_mut().unwrap().pop();
        let err = judge(&alone, "cp-1").await.unwrap_err();
        assert!(err.to_string().contains("it is the only one"), "{err}");
        // A balancer that does not run sends nobody anywhere.
        judge(&config, "cp-1").await.unwrap();

        let socket = machine.paths.at(balancer::SOCKET);
        let _running = answering(&socket, &STATUS.replace('\n', ""));
        judge(&config, "cp-2").await.unwrap();
        // cp-2 is dead, cp-4 drained, cp-3 leaving.
        let err = judge(&config, "cp-1").await.unwrap_err();
        assert!(err.to_string().contains("cp-2 is dead"), "{err}");
    }

    #[tokio::test]
    async fn connections_are_waited_for_and_not_for_ever() {
        let machine = testing::machine();
        machine.write("/etc/quorate/lb.json", CONFIG);
        let backend: NodeName = "cp-3".parse().unwrap();
        let end = async |within_s| {
            let within = Duration::from_secs(within_s);
            testing::with_work_async(&machine, "lb-1", async |work| {
                connections_end(work, &backend, within).await
            })
            .await
        };
        assert_eq!(end(60).await, 0, "nobody tells");
        let socket = machine.paths.at(balancer::SOCKET);
        let running = answering(&socket, &STATUS.replace('\n', ""));
        assert_eq!(end(0).await, 2);
        let (left, ()) = tokio::join!(end(60), async {
            tokio::task::yield_now().await;
            let mut status = running.status.lock().unwrap();
            *status = status.replace("\"connections\":2", "\"connections\":0");
        });
        assert_eq!(left, 0);
    }
}
