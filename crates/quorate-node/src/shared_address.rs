//! The address that masters share: keepalived holds it on one of them, and a table of nftables leads what comes for it to the balancer here. Start
//! at [`look`] and [`set`].
//!
//! keepalived is the distribution's, run by a unit of ours with a configuration of ours: whatever else it is used for on this host stays as it is.
//! It asks the balancer here once a second for a connection, and gives the address up when there is none to be had. The rules are loaded at boot by
//! a unit, before there is a network.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use nix::ifaddrs::getifaddrs;
use quorate_plan::{
    Missing, NodeName, Seen,
    kubeadm::Peer,
    observation::{Share, Sharing, Unit},
    ports::BALANCER_ON_MASTER,
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    command::{Command, Tools},
    durable::{self, FileError},
    ensure::{BALANCER_CA, TOOL_WITHIN, Work},
    error::ActionError,
    facts::{self, installed},
    packets,
    paths::Paths,
    shown,
};

const TABLE: &str = "quorate-shared-address";
const RULES_UNIT: &str = "quorate-shared-address.service";
const RULES: &str = "shared-address.nft";
const UNIT: &str = "quorate-keepalived.service";
const BALANCER_UNIT: &str = "quorate-lb.service";
const NOTE: &str = "shared-address.json";
const CONFIG: &str = "/etc/quorate/keepalived.conf";
const CHECK: &str = "/etc/quorate/balancer-serves";

/// How long a balancer may take to end: it gives open connections a minute.
const BALANCER_ENDS_WITHIN: Duration = Duration::from_secs(75);

/// How long one attempt to reach the address may take.
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);

/// Of hosts whose keepalived begins at once, the one with the lowest address wins by this much each.
const PRIORITY_STEP: usize = 20;

/// What was asked for, from which everything else follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    address: IpAddr,
    port: u16,
    node: NodeName,
    own: IpAddr,
    interface: String,
    peers: BTreeMap<NodeName, IpAddr>,
}

/// What there is of it on this host.
pub(crate) async fn look(paths: &Paths, tools: &Tools) -> Seen<Sharing> {
    let unknown = |error: &(dyn std::error::Error + 'static)| {
        const WHAT: &str = "this host's part in the shared address";
        Seen::Unknown(Missing::no_answer(WHAT, shown::line(&shown::chain(error))))
    };
    let keepalived = installed(paths, "keepalived");
    let note = match durable::read_json::<Note>(&paths.state(NOTE)) {
        Ok(Some(note)) => note,
        Ok(None) => {
            return Seen::now(Sharing {
                keepalived,
                share: None,
            });
        }
        Err(error) => return unknown(&error),
    };
    let redirects = match packets::has_table(tools, "ip", TABLE).await {
        Ok(redirects) => redirects,
        Err(error) => return unknown(&error),
    };
    let intact = match intact(paths, &note) {
        Ok(intact) => intact,
        Err(error) => return unknown(&error),
    };
    Seen::now(Sharing {
        keepalived,
        share: Some(Share {
            intact,
            redirects,
            active: false,
            holds: facts::addresses().contains(&note.address),
            address: note.address,
            port: note.port,
            peers: note.peers,
        }),
    })
}

/// With what systemd tells of keepalived's unit.
pub(crate) fn with_unit(
    sharing: Seen<Sharing>,
    units: &Seen<BTreeMap<String, Unit>>,
) -> Seen<Sharing> {
    match (
        sharing.get().map(|sharing| sharing.share.is_some()),
        units.get(),
    ) {
        (Ok(true), Err(missing)) => Seen::Unknown(missing),
        (_, Ok(units)) => {
            let active = units
                .get("quorate-keepalived")
                .is_some_and(|unit| unit.active);
            sharing.map(|mut sharing| {
                if let Some(share) = &mut sharing.share {
                    share.active = active;
                }
                sharing
            })
        }
        (Ok(false) | Err(_), Err(_)) => sharing,
    }
}

/// Files that follow from the note, with their modes.
fn files(paths: &Paths, note: &Note) -> [(std::path::PathBuf, String, u32); 5] {
    [
        (paths.state(RULES), rules(note), 0o600),
        (paths.unit(RULES_UNIT), rules_unit(), 0o644),
        (paths.at(CHECK), check(), 0o755),
        (paths.at(CONFIG), config(note), 0o644),
        (paths.unit(UNIT), unit(), 0o644),
    ]
}

fn intact(paths: &Paths, note: &Note) -> Result<bool, FileError> {
    for (path, text, _) in files(paths, note) {
        if durable::read(&path)?.as_deref() != Some(text.as_bytes()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes part in it, beside `peers` and those that were known before, and waits until somebody holds it.
///
/// # Errors
/// When a program is not installed or refuses, or nobody comes to hold it.
pub(crate) async fn set(
    work: &Work<'_>,
    node: &Peer,
    address: IpAddr,
    port: u16,
    peers: &BTreeSet<Peer>,
) -> Result<(), ActionError> {
    for program in ["keepalived", "nft"] {
        if !installed(work.paths, program) {
            return Err(ActionError::unexpected(
                format!("{program} on this host"),
                "it is not installed",
                "run `quorate apply`, which installs it, or install the package of that name there",
            ));
        }
    }
    let interface = interface_of(node.address).ok_or_else(|| {
        ActionError::unexpected(
            format!(
                "an interface with {}, where its peers reach it",
                node.address
            ),
            "none has it",
            "look at `ip address` on this host, and at its `address` in the cluster file",
        )
    })?;
    let before: Option<Note> = durable::read_json(&work.paths.state(NOTE))?;
    let mut known = before
        .as_ref()
        .map(|note| note.peers.clone())
        .unwrap_or_default();
    let others = peers.iter().filter(|peer| *peer != node);
    known.extend(others.map(|peer| (peer.name.clone(), peer.address)));
    let note = Note {
        address,
        port,
        node: node.name.clone(),
        own: node.address,
        interface,
        peers: known,
    };
    place(work, before.as_ref(), &note).await?;
    let endpoint = SocketAddr::new(address, port);
    work.wait(&format!("a balancer to answer at {endpoint}"), || async {
        match timeout(CONNECTS_WITHIN, TcpStream::connect(endpoint)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("nobody answers".to_owned()),
        }
    })
    .await
}

/// Writes what follows from the note and lets it be read. The note comes last: whoever is killed before it does it again.
async fn place(work: &Work<'_>, before: Option<&Note>, note: &Note) -> Result<(), ActionError> {
    let mut renewed = before != Some(note);
    for (path, text, mode) in files(work.paths, note) {
        renewed |= durable::write_if_different(&path, text.as_bytes(), mode)?;
    }
    open_folder(work.paths)?;
    let systemctl = |args: &[&str]| {
        work.tools
            .run(Command::new("systemctl", TOOL_WITHIN).args(args))
    };
    systemctl(&["daemon-reload"]).await?;
    systemctl(&["enable", RULES_UNIT, UNIT]).await?;
    // The rules take their place in one transaction. keepalived reads its configuration again and goes on holding what it holds.
    let verb = if renewed {
        "reload-or-restart"
    } else {
        "start"
    };
    systemctl(&[verb, RULES_UNIT]).await?;
    systemctl(&[verb, UNIT]).await?;
    Ok(durable::write_json(&work.paths.state(NOTE), note)?)
}

/// The check is run by nobody, who has to come there. What is secret in the folder has a mode of its own.
fn open_folder(paths: &Paths) -> Result<(), ActionError> {
    let check = paths.at(CHECK);
    let folder = check.parent().expect("the check lies in a folder");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
        .map_err(FileError::new("open to everybody", folder))?;
    Ok(())
}

/// Forgets a peer.
///
/// # Errors
/// When a program refuses.
pub(crate) async fn forget(work: &Work<'_>, peer: &NodeName) -> Result<(), ActionError> {
    let Some(before) = durable::read_json::<Note>(&work.paths.state(NOTE))? else {
        return Ok(());
    };
    let mut note = before.clone();
    note.peers.remove(peer);
    place(work, Some(&before), &note).await
}

/// Has no part in it any more: another one holds it, and nothing is redirected or balanced here.
///
/// # Errors
/// When a program refuses.
pub(crate) async fn leave(work: &Work<'_>) -> Result<(), ActionError> {
    let paths = work.paths;
    // In the order of what comes in. keepalived tells the others that it ends, and another one holds the address at once.
    for (unit, within) in [
        (UNIT, TOOL_WITHIN),
        (RULES_UNIT, TOOL_WITHIN),
        (BALANCER_UNIT, BALANCER_ENDS_WITHIN),
    ] {
        if paths.unit(unit).exists() {
            let stop = Command::new("systemctl", within).args(["disable", "--now", unit]);
            work.tools.run(stop).await?;
            durable::remove(&paths.unit(unit))?;
        }
    }
    let reload = Command::new("systemctl", TOOL_WITHIN).arg("daemon-reload");
    work.tools.run(reload).await?;
    for file in [CONFIG, CHECK, BALANCER_CA] {
        durable::remove(&paths.at(file))?;
    }
    durable::remove(&paths.balancer())?;
    durable::remove(&paths.state(RULES))?;
    // Last: it is what is seen of it.
    Ok(durable::remove(&paths.state(NOTE))?)
}

/// Whether there is anything of it here.
pub(crate) fn has_part(paths: &Paths) -> bool {
    paths.state(NOTE).exists() || paths.balancer().exists()
}

/// The interface that has that address.
fn interface_of(address: IpAddr) -> Option<String> {
    let mut interfaces = getifaddrs().ok()?;
    interfaces
        .find(|interface| {
            let own = interface.address.as_ref().and_then(|a| a.as_sockaddr_in());
            own.is_some_and(|own| IpAddr::V4(own.ip()) == address)
        })
        .map(|interface| interface.interface_name)
}

/// One number for all hosts of a cluster, and seldom that of another cluster in the same network. Never 0.
fn router_id(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) if address.octets()[3] != 0 => address.octets()[3],
        IpAddr::V4(_) | IpAddr::V6(_) => 255,
    }
}

fn config(note: &Note) -> String {
    let Note {
        address,
        node,
        own,
        interface,
        peers,
        ..
    } = note;
    let lower = peers.values().filter(|peer| *peer < own).count();
    let priority = 200_usize.saturating_sub(PRIORITY_STEP * lower).max(1);
    // Without any it would tell the whole network.
    let unicast = if peers.is_empty() {
        String::new()
    } else {
        let lines: Vec<String> = peers
            .values()
            .map(|peer| format!("        {peer}\n"))
            .collect();
        format!("    unicast_peer {{\n{}    }}\n", lines.concat())
    };
    format!(
        "# Written by Quorate; changes are overwritten. The address that the masters share.\n\
         global_defs {{\n    router_id {node}\n    vrrp_version 3\n    enable_script_security\n    script_user nobody\n}}\n\
         vrrp_script balancer {{\n    script \"{CHECK}\"\n    interval 1\n    timeout 2\n    fall 2\n    rise 2\n}}\n\
         vrrp_instance endpoint {{\n    state BACKUP\n    nopreempt\n    interface {interface}\n    virtual_router_id {}\n    priority {priority}\n    \
         advert_int 0.5\n    unicast_src_ip {own}\n{unicast}    \
         virtual_ipaddress {{\n        {address}/32 dev {interface}\n    }}\n    track_script {{\n        balancer\n    }}\n}}\n",
        router_id(*address),
    )
}

/// A balancer that takes a connection and keeps it has somebody behind it, who waits for the client to speak first.
fn check() -> String {
    format!(
        "#!/bin/bash\n\
         # Written by Quorate; changes are overwritten. Whether the balancer on this host leads on.\n\
         exec 2>/dev/null 3<>/dev/tcp/127.0.0.1/{BALANCER_ON_MASTER} || exit 1\n\
         read -r -t 0.5 -N 1 -u 3\n\
         [ $? -gt 128 ]\n"
    )
}

/// What `nft` is given: the table takes its place at once. Only the host that holds the address redirects; from the others packets go to it.
fn rules(note: &Note) -> String {
    let rule = format!(
        "ip daddr {} fib daddr type local tcp dport {} redirect to :{BALANCER_ON_MASTER}",
        note.address, note.port
    );
    format!(
        "# Written by Quorate; changes are overwritten. What comes for the address that the masters share goes to the balancer here.\n\
         table ip {TABLE}\n\
         delete table ip {TABLE}\n\
         table ip {TABLE} {{\n\
         \tchain prerouting {{\n\t\ttype nat hook prerouting priority -100; policy accept;\n\t\t{rule}\n\t}}\n\
         \tchain output {{\n\t\ttype nat hook output priority -100; policy accept;\n\t\t{rule}\n\t}}\n\
         }}\n"
    )
}

fn rules_unit() -> String {
    format!(
        "# Written by Quorate; changes are overwritten.\n\
         [Unit]\n\
         Description=What comes for the shared address of this cluster's API goes to the balancer here\n\
         DefaultDependencies=no\n\
         After=local-fs.target nftables.service\n\
         Before=network-pre.target shutdown.target\n\
         Wants=network-pre.target\n\
         Conflicts=shutdown.target\n\n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart=/usr/bin/env nft -f /var/lib/quorate/{RULES}\n\
         ExecReload=/usr/bin/env nft -f /var/lib/quorate/{RULES}\n\
         ExecStop=-/usr/bin/env nft delete table ip {TABLE}\n\n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

fn unit() -> String {
    format!(
        "# Written by Quorate; changes are overwritten.\n\
         [Unit]\n\
         Description=keepalived for the shared address of this cluster's API\n\
         After=network-online.target {RULES_UNIT} {BALANCER_UNIT}\n\
         Wants=network-online.target\n\
         # Down is worse than restarting once more.\n\
         StartLimitIntervalSec=0\n\n\
         [Service]\n\
         ExecStart=/usr/bin/env keepalived --dont-fork --log-console --vrrp --use-file {CONFIG} --pid /run/quorate-keepalived.pid --vrrp_pid /run/quorate-keepalived-vrrp.pid\n\
         ExecReload=/bin/kill -HUP $MAINPID\n\
         KillMode=mixed\n\
         Restart=always\n\
         RestartSec=1s\n\n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

#[cfg(test)]
#[path = "shared_address_tests.rs"]
mod tests;
