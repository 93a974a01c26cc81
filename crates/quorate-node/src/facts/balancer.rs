//! The balancer on this host: its configuration, its unit, and which backends it would send connections to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use quorate_plan::{
    NodeName, Seen,
    observation::{Balancer, Unit},
};
use serde::Deserialize;

use super::{PATIENCE, certificate_digest, no_answer};
use crate::{
    balancer::{SOCKET, Status, status},
    durable::{self, FileError},
    paths::Paths,
};

/// What is read of its configuration.
#[derive(Deserialize)]
struct Config {
    listen: SocketAddr,
    #[serde(default)]
    backends: Vec<Backend>,
    #[serde(default)]
    health: Health,
    #[serde(default = "default_socket")]
    admin_socket: PathBuf,
}

#[derive(Deserialize)]
struct Backend {
    name: String,
    address: SocketAddr,
}

#[derive(Default, Deserialize)]
struct Health {
    ca_file: Option<PathBuf>,
}

fn default_socket() -> PathBuf {
    SOCKET.into()
}

pub(super) async fn look(paths: &Paths) -> Seen<Option<Balancer>> {
    let config: Config = match durable::read_json(&paths.balancer()) {
        Ok(Some(config)) => config,
        Ok(None) => return Seen::now(None),
        Err(err) => return Seen::Unknown(no_answer("the balancer's configuration", &err)),
    };
    let (cluster_ca, binary) = match (ca(paths, &config), binary(paths)) {
        (Ok(ca), Ok(binary)) => (ca, binary),
        (Err(err), _) | (_, Err(err)) => {
            return Seen::Unknown(no_answer("the balancer's files", &err));
        }
    };
    let (backends, up) = match status(&paths.at(&config.admin_socket), PATIENCE).await {
        // What it runs with, rather than what its file says: a new file may not have been read yet.
        Ok(status) => told(status),
        Err(_) => {
            let configured = config.backends.into_iter();
            let named = configured.filter_map(|b| Some((b.name.parse().ok()?, b.address)));
            (named.collect(), BTreeSet::new())
        }
    };
    Seen::now(Some(Balancer {
        listen: config.listen,
        backends,
        up,
        active: false,
        cluster_ca,
        binary,
    }))
}

/// The balancer with what systemd tells of its unit.
pub(super) fn with_unit(
    balancer: Seen<Option<Balancer>>,
    units: &Seen<BTreeMap<String, Unit>>,
) -> Seen<Option<Balancer>> {
    match (balancer.get(), units.get()) {
        (Ok(Some(_)), Err(missing)) => Seen::Unknown(missing),
        (_, Ok(units)) => {
            let active = units.get("quorate-lb").is_some_and(|unit| unit.active);
            balancer.map(|balancer| balancer.map(|balancer| Balancer { active, ..balancer }))
        }
        (Ok(None) | Err(_), Err(_)) => balancer,
    }
}

fn ca(paths: &Paths, config: &Config) -> Result<Option<String>, FileError> {
    match &config.health.ca_file {
        Some(file) => certificate_digest(&paths.at(file)),
        None => Ok(None),
    }
}

/// The hash in the name of the binary that the unit runs. Empty when it runs none of ours.
fn binary(paths: &Paths) -> Result<String, FileError> {
    let unit = durable::read_text(&paths.unit("quorate-lb.service"))?.unwrap_or_default();
    Ok(binary_of_unit(&unit).unwrap_or_default().to_owned())
}

/// The hash in the name of the program that this unit runs, when it is one of ours.
pub(crate) fn binary_of_unit(unit: &str) -> Option<&str> {
    let command = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))?;
    let program = Path::new(command.split_whitespace().next()?);
    program.file_name()?.to_str()?.strip_prefix("quorate-")
}

/// The backends, and which of them serve, by the balancer's own account.
fn told(status: Status) -> (BTreeMap<NodeName, SocketAddr>, BTreeSet<NodeName>) {
    let (mut all, mut up) = (BTreeMap::new(), BTreeSet::new());
    for backend in status.backends.iter().filter(|backend| !backend.leaving) {
        // A name that is none of ours cannot be a host's of the cluster file.
        if let Ok(name) = backend.name.parse::<NodeName>() {
            if backend.serves() || backend.suspected() {
                up.insert(name.clone());
            }
            all.insert(name, backend.address);
        }
    }
    (all, up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn the_unit_names_its_binary() {
        let unit = "[Service]\nExecStart=/var/lib/quorate/bin/quorate-abc123 lb run --config /etc/quorate/lb.json\n";
        assert_eq!(binary_of_unit(unit), Some("abc123"));
        assert_eq!(binary_of_unit("ExecStart=/usr/bin/haproxy -f x\n"), None);
    }

    #[test]
    fn backends_that_are_up() {
        let status: Status =
            serde_json::from_str(crate::balancer::tests::STATUS).expect("a status");
        let (backends, up) = told(status);
        assert_eq!(backends.len(), 4, "the one that leaves is none any more");
        assert_eq!(
            up,
            ["cp-1", "cp-5"].map(|name| name.parse().unwrap()).into()
        );
    }

    #[tokio::test]
    async fn a_balancer_from_its_files() {
        let machine = testing::machine();
        machine.write(
            "/etc/quorate/lb.json",
            r#"{"listen":"0.0.0.0:6443","backends":[{"name":"cp-1","address":"10.0.0.1:6443"}],"health":{"ca_file":"/etc/quorate/ca.crt"}}"#,
        );
        let seen = look(&machine.paths).await;
        let balancer = seen.get().unwrap().clone().unwrap();
        assert_eq!(balancer.backends.len(), 1);
        assert!(!balancer.active && balancer.up.is_empty());
        assert_eq!(balancer.cluster_ca, None, "the file it names is not there");
        let unit = Unit {
            active: true,
            enabled: true,
            state: "active/running".into(),
        };
        let units = Seen::now([("quorate-lb".to_owned(), unit)].into());
        let with = with_unit(seen.clone(), &units);
        assert!(with.get().unwrap().as_ref().unwrap().active);
        let unseen = Seen::Unknown(quorate_plan::Missing::not_looked("units"));
        assert!(with_unit(seen, &unseen).get().is_err());
        assert_eq!(with_unit(Seen::now(None), &unseen).get().unwrap(), &None);
        machine.write("/etc/quorate/lb.json", "{");
        assert!(look(&machine.paths).await.get().is_err());
    }
}
