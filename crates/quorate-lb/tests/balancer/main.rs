//! The balancer as a whole, in this process, against backends on loopback. Counts are asserted, never
//! fine timings: the machine may be busy.

#[path = "../backends/mod.rs"]
mod backends;
#[path = "../backends/client.rs"]
mod client;

mod dialling;
mod failover;
mod relaying;
mod reloading;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use backends::{Ca, Fake};
use quorate_lb::Balancer;
use quorate_lb::admin::BackendStatus;
use quorate_lb::config::{BackendConfig, Config, Connections, Health};
use quorate_lb::health::State;

/// A directory, a CA, and configurations for the backends given.
struct Rig {
    dir: tempfile::TempDir,
    ca: Ca,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = Ca::new(dir.path(), "ca");
        Rig { dir, ca }
    }

    fn fakes(&self, names: &[&str]) -> Vec<Fake> {
        names
            .iter()
            .map(|name| Fake::start(name, &self.ca))
            .collect()
    }

    /// Backends die after two seconds of silence: longer than a busy test machine stalls a thread.
    fn config(&self, backends: &[&Fake]) -> Config {
        let ms = Duration::from_millis;
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            backends: backends
                .iter()
                .map(|fake| BackendConfig {
                    name: fake.name.clone(),
                    address: fake.address,
                })
                .collect(),
            health: Health {
                ca_file: Some(self.ca.file.clone()),
                suspect_after: ms(1000),
                dead_after: ms(2000),
                dead_after_max: ms(4000),
                warm_up: ms(0),
                dial_timeout: ms(4000),
                readyz_interval: ms(100),
                readyz_timeout: ms(10_000),
                redial_interval: ms(100),
                slow_start: ms(0),
                ..Health::default()
            },
            connections: Connections {
                workers: Some(2),
                dial_timeout: ms(20_000),
                ..Connections::default()
            },
            admin_socket: self.dir.path().join("lb.sock"),
        }
    }

    async fn balancer(&self, config: Config) -> Balancer {
        Balancer::start(config, Path::new("lb.json"))
            .await
            .expect("started")
    }
}

fn backend(balancer: &Balancer, name: &str) -> BackendStatus {
    let status = balancer.status();
    status
        .backends
        .into_iter()
        .find(|b| b.name == name && !b.leaving)
        .expect("configured")
}

async fn becomes(balancer: &Balancer, name: &str, state: State) -> BackendStatus {
    let what = format!("{name} {}", state.word());
    client::until(
        &what,
        || backend(balancer, name),
        |seen| seen.state == state,
    )
    .await
}

async fn all_up(balancer: &Balancer) {
    let up = |status: &quorate_lb::admin::Status| {
        status
            .backends
            .iter()
            .filter(|b| !b.leaving)
            .all(|b| b.state == State::Up)
    };
    client::until("every backend up", || balancer.status(), up).await;
}
