//! Whether one member of etcd is well, in doubt or dead. Start at [`Condition::of`].
//!
//! A member that did not answer once is not dead. A verdict takes three witnesses that do not depend on each other: the looks at its host,
//! the leader of etcd, and the lease of its kubelet. The first two have to say that it is gone, and the third may not say that it
//! lives. What each of them says is an [`Account`].

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Intent, MemberId, NodeName, Observation, Seen,
    observation::{Member, Power, Sightings},
    quorum::Quorum,
};

/// Looks in a row that a host has to leave unanswered: one lost packet, one restart of its SSH daemon and one more.
pub const SILENT_LOOKS_MIN: u32 = 3;

/// The time those looks have to span. A leader misses a follower after 5 s, and a kubelet renews its lease every 10 s: before that the other
/// witnesses cannot have noticed anything.
pub const SILENT_MIN: Duration = Duration::from_secs(10);

/// The age at which a kubelet's lease says that it is gone: one renewal, every 10 s, was missed, also when the two hosts' clocks differ by
/// the 5 s that are allowed.
pub const HEARTBEAT_AGE_MIN: Duration = Duration::from_secs(20);

/// The time after which every witness has noticed that a host is gone: the latest is its kubelet's lease, which may have been renewed just
/// before. Accounts that contradict each other for longer than that do so for good.
pub const WITNESSES_MAX: Duration = Duration::from_secs(30);

/// The rule of the verdict as the reason of a step: its numbers are those above and never what was measured.
pub(crate) fn verdict_rule(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        f,
        "it is dead: {SILENT_LOOKS_MIN} looks over {} s unanswered or its machine off, unheard of by etcd's leader, no lease renewed for {} s",
        SILENT_MIN.as_secs(),
        HEARTBEAT_AGE_MIN.as_secs()
    )
}

/// What one witness says of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Account {
    /// It is gone, and how that shows.
    Gone(String),
    /// It lives, and how that shows.
    Alive(String),
    /// The witness cannot say, and why.
    Unknown(String),
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(how) | Self::Alive(how) | Self::Unknown(how) => f.write_str(how),
        }
    }
}

/// What the witnesses say of a member whose host does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accounts {
    /// Looks at the host, and what its provider says of the machine.
    pub host: Account,
    /// What the leader of etcd has heard of it.
    pub peers: Account,
    /// The lease of its kubelet.
    pub kubelet: Account,
    /// For how long its host has been seen not to answer.
    pub silent: Duration,
}

impl Accounts {
    fn verdict(self) -> Condition {
        match (&self.host, &self.peers, &self.kubelet) {
            (Account::Gone(_), Account::Gone(_), Account::Gone(_) | Account::Unknown(_)) => {
                Condition::Dead(self)
            }
            (Account::Gone(_), Account::Gone(_), Account::Alive(_))
            | (
                Account::Gone(_),
                Account::Alive(_) | Account::Unknown(_),
                Account::Gone(_) | Account::Alive(_) | Account::Unknown(_),
            )
            | (
                Account::Alive(_) | Account::Unknown(_),
                Account::Gone(_) | Account::Alive(_) | Account::Unknown(_),
                Account::Gone(_) | Account::Alive(_) | Account::Unknown(_),
            ) => Condition::Doubtful(self),
        }
    }

    /// Whether more looks may turn the doubt into a verdict: not every witness can have noticed yet.
    pub fn may_become_a_verdict(&self) -> bool {
        self.silent < WITNESSES_MAX
    }
}

impl fmt::Display for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            peers,
            kubelet,
            silent: _,
        } = self;
        write!(f, "{host}; {peers}; {kubelet}")
    }
}

/// How one member is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Condition {
    /// It answers for itself, follows the leader of the quorum and raises no alarm.
    Healthy,
    /// It was added and never started: it never voted.
    Unstarted,
    /// Its host answers and carries no etcd data: what was this member is gone for good.
    Emptied,
    /// Its host answers, its etcd did not, and yet the leader hears of it: a look that failed, or an etcd too busy to answer.
    Mute {
        /// What its peers say.
        why: String,
    },
    /// Its host answers, and it does not take part.
    Sick {
        /// What is seen of it.
        why: String,
    },
    /// No way to its host is known: what its peers and its kubelet say is all there is.
    Unreached(Accounts),
    /// Its host does not answer, and the witnesses do not agree that it is gone, or not yet.
    Doubtful(Accounts),
    /// Its host does not answer, and the witnesses agree that it is gone.
    Dead(Accounts),
}

impl Condition {
    /// Judges one member.
    pub fn of(seen: &Observation, quorum: &Quorum, id: MemberId, member: &Member) -> Self {
        if quorum.healthy.contains(&id) {
            return Self::Healthy;
        }
        if !member.started() {
            return Self::Unstarted;
        }
        let Some(node) = host_of(seen, id, member) else {
            let node = member.name.parse().ok();
            return Self::Unreached(Accounts {
                host: Account::Unknown("no way to its host is known".into()),
                peers: peers_account(seen, quorum, id),
                kubelet: node.map_or_else(
                    || {
                        Account::Unknown(
                            "its node has a name that no host of a cluster file can have".into(),
                        )
                    },
                    |node| kubelet_account(seen, &node),
                ),
                silent: Duration::ZERO,
            });
        };
        match seen.hosts.get(&node) {
            Some(Seen::Known { value, .. }) => {
                if let Ok(data) = value.etcd_data.get()
                    && !data.wal
                {
                    return Self::Emptied;
                }
                match (seen.etcd_at(&node), peers_account(seen, quorum, id)) {
                    (Err(_), Account::Alive(why)) => Self::Mute { why },
                    (Err(_), Account::Gone(_) | Account::Unknown(_)) | (Ok(_), _) => Self::Sick {
                        why: sickness(seen, &node),
                    },
                }
            }
            Some(Seen::Unknown(_)) | None => Accounts {
                host: host_account(seen, &node),
                peers: peers_account(seen, quorum, id),
                kubelet: kubelet_account(seen, &node),
                silent: seen
                    .sightings
                    .get(&node)
                    .map_or(Duration::ZERO, |sightings| sightings.silent),
            }
            .verdict(),
        }
    }

    /// Whether nobody can promise that it no longer runs: what it serves and what its pods write may go on.
    pub fn may_still_run(&self) -> bool {
        match self {
            Self::Unreached(_) | Self::Doubtful(_) | Self::Dead(_) => true,
            Self::Healthy
            | Self::Unstarted
            | Self::Emptied
            | Self::Mute { .. }
            | Self::Sick { .. } => false,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy => f.write_str("healthy"),
            Self::Unstarted => f.write_str("never started"),
            Self::Emptied => f.write_str("its host answers and carries no etcd data"),
            Self::Mute { why } | Self::Sick { why } => f.write_str(why),
            Self::Unreached(accounts) | Self::Doubtful(accounts) | Self::Dead(accounts) => {
                accounts.fmt(f)
            }
        }
    }
}

/// The host that a member runs on: the one whose etcd says that it is this member, or that has its peer address, or whose name is the
/// member's whole name. `None`: none that was looked at.
pub fn host_of(seen: &Observation, id: MemberId, member: &Member) -> Option<NodeName> {
    let tells =
        |node: &&NodeName| matches!(seen.etcd_at(node), Ok(Some(view)) if view.member == id);
    let has_address = |node: &&NodeName| {
        let addresses = seen
            .host(node)
            .and_then(|facts| facts.machine.get().map(|machine| machine.addresses.clone()));
        addresses.is_ok_and(|addresses| {
            addresses.iter().any(|address| {
                member
                    .peer_urls
                    .contains(&format!("https://{address}:2380"))
            })
        })
    };
    let named = |node: &&NodeName| node.as_str() == member.name;
    let nodes = || seen.hosts.keys();
    nodes()
        .find(tells)
        .or_else(|| nodes().find(has_address))
        .or_else(|| nodes().find(named))
        .cloned()
}

/// The member of that master: by the peer address that the file, or what is known of a machine that left it, gives it; by its whole name
/// where no address is known. `None`: it is no member.
pub fn member_of(intent: &Intent, quorum: &Quorum, node: &NodeName) -> Option<MemberId> {
    match intent.machine(node) {
        Some(machine) => {
            let url = format!("https://{}:2380", machine.address);
            quorum.by_peer_url(&url).map(|(id, _)| id)
        }
        None => quorum
            .members
            .iter()
            .find(|(_, member)| member.name == node.as_str())
            .map(|(id, _)| *id),
    }
}

fn sickness(seen: &Observation, node: &NodeName) -> String {
    match seen.etcd_at(node) {
        Ok(Some(view)) if view.leader.is_none() => "it answers and knows no leader".into(),
        Ok(Some(view)) if !view.errors.is_empty() => {
            view.errors.iter().cloned().collect::<Vec<_>>().join(", ")
        }
        Ok(Some(_)) => {
            "it answers and does not follow the quorum's leader, or raises an alarm".into()
        }
        Ok(None) => "its host runs no etcd".into(),
        Err(missing) => missing.to_string(),
    }
}

/// Whether a host was looked at in vain for so long that nobody need wait for it: the first of the witnesses, which alone is no verdict.
pub fn is_silent(seen: &Observation, node: &NodeName) -> bool {
    match (seen.host(node), host_account(seen, node)) {
        (Err(_), Account::Gone(_)) => true,
        (Err(_), Account::Alive(_) | Account::Unknown(_)) | (Ok(_), _) => false,
    }
}

/// Whether the lease of a node says that its kubelet lives.
pub(crate) fn kubelet_lives(seen: &Observation, node: &NodeName) -> bool {
    match kubelet_account(seen, node) {
        Account::Alive(_) => true,
        Account::Gone(_) | Account::Unknown(_) => false,
    }
}

/// What the looks at a host and its provider say of it.
pub(crate) fn host_account(seen: &Observation, node: &NodeName) -> Account {
    let power = seen.infra.get(node).and_then(|view| view.get().ok());
    match power.map(|view| view.power) {
        Some(Power::Off) => return Account::Gone(format!("the machine of {node} is off")),
        Some(Power::Absent) => return Account::Gone(format!("{node} has no machine")),
        // It may go on at any moment; whether it answers is seen like anybody else's silence.
        Some(Power::Frozen | Power::Running) | None => {}
    }
    let Sightings {
        looks,
        silent_looks,
        silent,
        ..
    } = seen.sightings.get(node).copied().unwrap_or_default();
    let told = format!(
        "{node} did not answer the last {silent_looks} of {looks} looks, over {} s",
        silent.as_secs()
    );
    if silent_looks >= SILENT_LOOKS_MIN && silent >= SILENT_MIN {
        Account::Gone(told)
    } else {
        Account::Unknown(format!(
            "{told} ({SILENT_LOOKS_MIN} over {} s are needed)",
            SILENT_MIN.as_secs()
        ))
    }
}

/// Only the leader hears of everybody; who leads changes within a second of a leader's death.
fn peers_account(seen: &Observation, quorum: &Quorum, id: MemberId) -> Account {
    let mut heard = Vec::new();
    let mut unheard = Vec::new();
    for (node, view) in &seen.etcd {
        let Ok(Some(view)) = view.get() else { continue };
        if view.member == id || !quorum.healthy.contains(&view.member) {
            continue;
        }
        match view.active_peers.get() {
            Ok(peers) if peers.contains(&id) => heard.push(node.as_str()),
            Ok(_) => unheard.push(node.as_str()),
            Err(_) => {}
        }
    }
    match (heard.first(), unheard.first()) {
        (Some(leader), _) => Account::Alive(format!("etcd on {leader}, which leads, hears of it")),
        (None, Some(leader)) => Account::Gone(format!(
            "etcd on {leader}, which leads, has not heard of it for 5 s"
        )),
        (None, None) => Account::Unknown("no leader could say whether it hears of it".into()),
    }
}

fn kubelet_account(seen: &Observation, node: &NodeName) -> Account {
    let nodes = match seen.api() {
        Ok(Some(api)) => api.nodes.get(),
        Ok(None) => return Account::Unknown("there is no API to ask for its lease".into()),
        Err(missing) => Err(missing),
    };
    match nodes {
        Err(missing) => Account::Unknown(missing.to_string()),
        Ok(nodes) => match nodes.get(node) {
            None => Account::Gone(format!("there is no node {node}")),
            Some(object) => match object.heartbeat {
                None => Account::Gone(format!("node {node} has no lease")),
                Some(age) if age >= HEARTBEAT_AGE_MIN => Account::Gone(format!(
                    "its kubelet renewed its lease {} s ago",
                    age.as_secs()
                )),
                Some(age) => Account::Alive(format!(
                    "its kubelet renewed its lease {} s ago",
                    age.as_secs()
                )),
            },
        },
    }
}
