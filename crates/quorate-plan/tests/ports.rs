//! The port matrix: what was made from it is fresh, and nothing is open that must not be. `QUORATE_BLESS=1` writes `ports.json` anew.

use std::{collections::BTreeSet, fs, path::Path};

use quorate_plan::{
    ports::{LOOPBACK, OPENINGS, Party, Protocol, needed, terraform},
    spec::Role,
};

#[test]
fn the_modules_have_the_matrix() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../terraform/modules/control-plane/ports.json");
    let text = terraform();
    serde_json::from_str::<serde_json::Value>(&text).unwrap();
    if std::env::var_os("QUORATE_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == text,
        "terraform/modules/control-plane/ports.json is not fresh: QUORATE_BLESS=1 cargo test -p quorate-plan --test ports, and then \
         terraform/tests/tables.py"
    );
}

#[test]
fn names_are_unique_and_ranges_go_up() {
    let names: BTreeSet<&str> = OPENINGS
        .iter()
        .map(|row| row.name)
        .chain(LOOPBACK.iter().map(|row| row.name))
        .collect();
    assert_eq!(names.len(), OPENINGS.len() + LOOPBACK.len());
    for row in OPENINGS {
        assert!(row.first <= row.last && !row.from.is_empty(), "{row:?}");
    }
}

#[test]
fn etcd_is_open_to_masters_alone_and_loopback_ports_to_nobody() {
    let on = |port: u16| {
        OPENINGS.iter().filter(move |row| {
            row.protocol == Protocol::Tcp && (row.first..=row.last).contains(&port)
        })
    };
    for port in [2379, 2380] {
        for row in on(port) {
            assert_eq!((row.from, row.to), (&[Party::Master][..], Party::Master));
        }
        assert_eq!(on(port).count(), 1);
    }
    for row in LOOPBACK {
        assert_eq!(on(row.port).count(), 0, "{row:?}");
    }
}

#[test]
fn from_outside_only_what_the_operator_names() {
    let outside = |party: &Party| match party {
        Party::ApiClients | Party::Operators | Party::NodePortClients | Party::Anywhere => true,
        Party::Balancer | Party::Master | Party::Worker | Party::Node => false,
    };
    let open: Vec<(&str, Party)> = OPENINGS
        .iter()
        .filter(|row| row.from.iter().any(outside))
        .map(|row| (row.name, row.to))
        .collect();
    assert_eq!(
        open,
        [
            ("endpoint", Party::Balancer),
            ("shared-address", Party::Master),
            ("shared-address-balancer", Party::Master),
            ("ssh", Party::Node),
            ("node-ports-tcp", Party::Worker),
            ("node-ports-udp", Party::Worker),
        ]
    );
}

#[test]
fn hosts_need_the_ports_of_what_runs_on_them() {
    let ports = |role| -> Vec<u16> { needed(role).into_iter().map(|(port, _)| port).collect() };
    assert_eq!(
        ports(Role::ControlPlane),
        [2379, 2380, 2381, 6443, 10248, 10250, 10257, 10259]
    );
    assert_eq!(ports(Role::Worker), [10248, 10250]);
    assert_eq!(ports(Role::Balancer), [0; 0]);
}
