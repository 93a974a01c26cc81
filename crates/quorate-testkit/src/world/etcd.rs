//! etcd's rules of membership: who may be added, promoted and removed, who has a quorum, and what a member without data becomes.
//! Start at [`EtcdCluster`]; every refusal is in etcd's own words.

use std::collections::{BTreeMap, BTreeSet};

use quorate_plan::{MemberId, NodeName, kubeadm::Peer, quorum::needed};

use super::{World, kube::Kube, machine::Pod};

/// Ticks without a break after which a member counts as connected: 5 s of half a second.
pub const HEALTH_TICKS: u8 = 10;

/// A cluster's ID. Static founders compute it from their `initial-cluster`, each for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// One etcd cluster: what its log says, by whoever has a quorum of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct EtcdCluster {
    /// Members.
    pub members: BTreeMap<MemberId, RaftMember>,
    /// Members that were removed: none of them ever comes back under its old ID.
    pub removed: BTreeSet<MemberId>,
    /// Members that were added so far: a part of the next one's ID.
    pub added: u64,
    /// Length of the log.
    pub index: u64,
    /// Elections so far.
    pub term: u64,
    /// Who leads.
    pub leader: Option<MemberId>,
    /// Alarms: kind and member.
    pub alarms: BTreeSet<(String, MemberId)>,
    /// Voters that came back under their old ID with an empty log: their votes and acknowledgements are forgotten.
    pub amnesiacs: BTreeSet<MemberId>,
    /// It answered a write once: from then on it holds somebody's data.
    pub served: bool,
    /// Clients were led to one of its masters, by a balancer of Quorate's or a cloud's.
    pub has_clients: bool,
    /// It had clients, and a founding was begun again over its data.
    pub begun_anew: bool,
    /// What Kubernetes keeps in it.
    pub kube: Kube,
}

/// A member, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RaftMember {
    /// Its name. A static founder has one from the beginning; one that was added gets it when it starts.
    pub name: String,
    /// Where its peers reach it.
    pub peer_url: String,
    /// Where clients reach it; told by the member itself when it starts.
    pub client_url: Option<String>,
    /// It does not vote.
    pub learner: bool,
    /// How much of the log it confirmed to the present leader, which goes on believing it when the member dies.
    pub confirmed: u64,
    /// Ticks for which it has been connected without a break, up to [`HEALTH_TICKS`].
    pub connected: u8,
}

impl World {
    /// Somebody leads clients to that master.
    pub(super) fn led_to(&mut self, master: &NodeName) {
        let data = self.machine(master).disk.etcd.as_ref();
        let cluster = data.map(|data| data.cluster);
        if let Some(cluster) = cluster.and_then(|id| self.clusters.get_mut(&id)) {
            cluster.has_clients = true;
        }
    }
}

impl EtcdCluster {
    /// Members that vote.
    pub fn voters(&self) -> impl Iterator<Item = (MemberId, &RaftMember)> {
        self.members
            .iter()
            .filter(|(_, member)| !member.learner)
            .map(|(id, member)| (*id, member))
    }

    /// That member leads from now on, in a new term.
    pub(super) fn led_by(&mut self, member: MemberId) {
        self.leader = Some(member);
        for member in self.members.values_mut() {
            member.confirmed = 0;
        }
        self.term += 1;
        self.index += 1;
    }

    /// The member with that peer URL.
    pub fn by_peer_url(&self, url: &str) -> Option<(MemberId, &RaftMember)> {
        self.members
            .iter()
            .find(|(_, member)| member.peer_url == url)
            .map(|(id, member)| (*id, member))
    }

    /// `--initial-cluster` for a member that joins now, by kubeadm's rule: the member list, with the joiner's own name put in.
    pub fn initial_cluster_for(&self, joiner: &Peer) -> String {
        let url = joiner.peer_url();
        let entries: BTreeSet<String> = self
            .members
            .values()
            .map(|member| {
                let name = if member.peer_url == url {
                    joiner.name.as_str()
                } else {
                    &member.name
                };
                format!("{name}={}", member.peer_url)
            })
            .collect();
        entries.into_iter().collect::<Vec<_>>().join(",")
    }
}

/// FNV-1a over text: the same IDs in every run, on every machine.
pub(super) fn id_of(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The host name in front of `=` and the URL behind it, of each entry of an `initial-cluster`.
pub(super) fn entries(initial_cluster: &str) -> Vec<(String, String)> {
    initial_cluster
        .split(',')
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, url)| (name.to_owned(), url.to_owned()))
        .collect()
}

impl World {
    /// The member this host's etcd takes part as: its process runs, it has data, and nobody removed it.
    pub fn participant(&self, node: &NodeName) -> Option<(ClusterId, MemberId)> {
        let machine = self.machine(node);
        let disk = machine.disk.etcd.as_ref()?;
        let running = machine.on()
            && matches!(
                machine.memory.pods.get("etcd"),
                Some(Pod::Starting | Pod::Serving)
            );
        let member = self
            .clusters
            .get(&disk.cluster)?
            .members
            .contains_key(&disk.member);
        (running && member).then_some((disk.cluster, disk.member))
    }

    /// Hosts whose etcd takes part in that cluster, with their members.
    pub fn participants(&self, cluster: ClusterId) -> Vec<(NodeName, MemberId)> {
        self.machines
            .keys()
            .filter_map(|node| {
                let (in_cluster, member) = self.participant(node)?;
                (in_cluster == cluster).then(|| (node.clone(), member))
            })
            .collect()
    }

    /// Two hosts' etcds talk to each other: packets pass, and both believe the same certificate authority.
    pub fn peers(&self, a: &NodeName, b: &NodeName) -> bool {
        let authority = |node| &self.machine(node).disk.pki.authority;
        self.connected(a, b) && authority(a) == authority(b)
    }

    /// Voters of that cluster that take part and that `node` can talk to, itself included.
    pub fn voters_at(&self, cluster: ClusterId, node: &NodeName) -> usize {
        let Some(of) = self.clusters.get(&cluster) else {
            return 0;
        };
        self.participants(cluster)
            .iter()
            .filter(|(host, member)| !of.members[member].learner && self.peers(node, host))
            .count()
    }

    /// Whether `node` can have something decided in that cluster.
    pub fn quorum_at(&self, cluster: ClusterId, node: &NodeName) -> bool {
        let voters = self
            .clusters
            .get(&cluster)
            .map_or(0, |cluster| cluster.voters().count());
        voters > 0 && self.voters_at(cluster, node) >= needed(voters)
    }

    /// The cluster and member of a host whose etcd answers clients and can have something decided. Learners serve no such thing.
    ///
    /// # Errors
    /// In etcd's words.
    pub fn etcd_client(&self, on: &NodeName) -> Result<(ClusterId, MemberId), String> {
        let machine = self.machine(on);
        let (id, member) = self
            .participant(on)
            .filter(|_| machine.serves("etcd"))
            .ok_or("connection refused")?;
        let cluster = &self.clusters[&id];
        if cluster.members[&member].learner {
            return Err("etcdserver: rpc not supported for learner".into());
        }
        if cluster.leader.is_none() || !self.quorum_at(id, on) {
            return Err("etcdserver: no leader".into());
        }
        Ok((id, member))
    }

    /// Voters that have been connected for long enough to count, by the member on `on`, which always counts.
    fn connected_voters(&self, id: ClusterId, on: &NodeName) -> BTreeSet<MemberId> {
        let cluster = &self.clusters[&id];
        self.participants(id)
            .into_iter()
            .filter(|(host, member)| {
                let found = &cluster.members[member];
                !found.learner
                    && (host == on || (self.peers(on, host) && found.connected >= HEALTH_TICKS))
            })
            .map(|(_, member)| member)
            .collect()
    }

    /// `member add --learner`, asked of the etcd on `on`.
    ///
    /// # Errors
    /// In etcd's words.
    pub fn add_learner(&mut self, on: &NodeName, peer_url: &str) -> Result<MemberId, String> {
        let (id, _) = self.etcd_client(on)?;
        let connected = self.connected_voters(id, on).len();
        let cluster = self.clusters.get_mut(&id).expect("a client has a cluster");
        // `strict-reconfig-check` counts one more voter, and that one as down; a single voter is never refused.
        let voters = cluster.voters().count();
        if voters > 1 && connected < needed(voters + 1) {
            return Err("etcdserver: unhealthy cluster".into());
        }
        if cluster.by_peer_url(peer_url).is_some() {
            return Err("etcdserver: Peer URLs already exists".into());
        }
        // `max-learners` is one.
        if cluster.members.values().any(|member| member.learner) {
            return Err("etcdserver: too many learner members in cluster".into());
        }
        cluster.added += 1;
        let member = MemberId(id_of(&format!("{id} {peer_url} {}", cluster.added)));
        cluster.members.insert(
            member,
            RaftMember {
                name: String::new(),
                peer_url: peer_url.to_owned(),
                client_url: None,
                learner: true,
                confirmed: 0,
                connected: 0,
            },
        );
        cluster.index += 1;
        Ok(member)
    }

    /// `member promote`, asked of the etcd on `on`. Nobody asks whether the learner is still alive.
    ///
    /// # Errors
    /// In etcd's words.
    pub fn promote(&mut self, on: &NodeName, member: MemberId) -> Result<(), String> {
        let (id, _) = self.etcd_client(on)?;
        let cluster = self.clusters.get_mut(&id).expect("a client has a cluster");
        let Some(found) = cluster.members.get(&member) else {
            return Err("etcdserver: member not found".into());
        };
        // In sync: nine tenths of the leader's log are confirmed.
        if found.learner && found.confirmed * 10 < cluster.index * 9 {
            return Err(
                "etcdserver: can only promote a learner member which is in sync with leader".into(),
            );
        }
        // The learner itself counts as started; of the voters after it a quorum must have started.
        let started = 1 + cluster
            .voters()
            .filter(|(_, voter)| !voter.name.is_empty())
            .count();
        if started < needed(cluster.voters().count() + 1) {
            return Err(
                "etcdserver: re-configuration failed due to not enough started members".into(),
            );
        }
        if !found.learner {
            return Err("etcdserver: can only promote a learner member".into());
        }
        let promoted = cluster.members.get_mut(&member).expect("found above");
        promoted.learner = false;
        cluster.index += 1;
        Ok(())
    }

    /// `member remove`, asked of the etcd on `on`.
    ///
    /// # Errors
    /// In etcd's words.
    pub fn remove_member(&mut self, on: &NodeName, member: MemberId) -> Result<(), String> {
        let (id, _) = self.etcd_client(on)?;
        let connected = self.connected_voters(id, on);
        let streaming = self
            .participants(id)
            .iter()
            .any(|(host, of)| *of == member && self.peers(on, host));
        let cluster = self.clusters.get_mut(&id).expect("a client has a cluster");
        let Some(found) = cluster.members.get(&member) else {
            return Err("etcdserver: member not found".into());
        };
        if !found.learner {
            let remaining = cluster.voters().count() - 1;
            let started = cluster
                .voters()
                .filter(|(id, voter)| *id != member && !voter.name.is_empty())
                .count();
            if remaining == 0 || started < needed(remaining) {
                return Err(
                    "etcdserver: re-configuration failed due to not enough started members".into(),
                );
            }
            // Removing one that is down takes nothing from the active quorum.
            if streaming && connected.len().saturating_sub(1) < needed(remaining) {
                return Err("etcdserver: unhealthy cluster".into());
            }
        }
        cluster.members.remove(&member);
        cluster.removed.insert(member);
        cluster.alarms.retain(|(_, of)| *of != member);
        cluster.index += 1;
        if cluster.leader == Some(member) {
            cluster.leader = None;
        }
        Ok(())
    }
}
