//! Observations from a few words, for tables of small cases. Start at [`seen`].
//!
//! `a+` is a healthy voter on host a, `a-` one whose host has not answered for half a minute, `a,` one that did not answer once, `a?` one that
//! answers without a leader, `a!` a healthy one that raises NOSPACE, `a~` one seen a minute and a bit ago; `a+learner` and `a-learner` are
//! learners, alive and dead; `a(unstarted)` was added and never started. `a.` is a host that runs and carries nothing but a rehearsal, `a=`
//! one that is prepared to join. The hosts' addresses follow their letters.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use quorate_plan::{
    MemberId, Missing, NodeName, Observation, Seen,
    kubeadm::Peer,
    observation::{
        ApiView, Certificate, Cgroup, Components, EtcdView, HostFacts, HostMark, HostReport,
        Machine, Manifest, Member, Pki, Readyz, Rehearsal, Sightings,
    },
};

/// A name.
pub fn node(name: &str) -> NodeName {
    name.parse().expect("a test's node name")
}

/// The ID of the member on the host of that letter: `a` is `a1`, `b` is `b1`.
pub fn id(name: &str) -> MemberId {
    format!("{name}1")
        .parse()
        .expect("letters of a test are hexadecimal")
}

pub fn address(name: &str) -> IpAddr {
    let letter = name.bytes().next().expect("a name") - b'a';
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 11 + letter))
}

pub fn peer(name: &str) -> Peer {
    Peer {
        name: node(name),
        address: address(name),
    }
}

/// A host that runs and carries nothing.
pub fn blank(name: &str) -> HostFacts {
    HostFacts {
        machine: Seen::now(Machine {
            machine_id: format!("id-{name}"),
            boot_id: "boot".into(),
            hostname: name.into(),
            arch: "x86_64".into(),
            os: "debian 12".into(),
            kernel: "6.1.0".into(),
            systemd: Some(252),
            cpus: 2,
            memory_bytes: 4 << 30,
            disk_free_bytes: 40 << 30,
            cgroup: Cgroup::V2,
            oom_score_adjustable: true,
            swap: false,
            clock_ms: 1_800_000_000_000,
            addresses: [address(name)].into(),
            binary: "b1".into(),
        }),
        rehearsed: Seen::now(Some(Rehearsal {
            settings: "s1".into(),
            manifests: BTreeMap::from([("etcd".to_owned(), manifest())]),
        })),
        ..HostFacts::blank(&node(name))
    }
}

/// A host that is prepared to join.
fn ready(name: &str) -> HostFacts {
    HostFacts {
        mark: Seen::now(Some(HostMark {
            cluster: "demo".parse().expect("a name"),
            node: node(name),
            disposable: false,
        })),
        components: Seen::now(Some(Components {
            bundle: "b".into(),
            differing: BTreeSet::new(),
            configuration: "c".into(),
            packages: None,
        })),
        images: Seen::now(["etcd".to_owned()].into()),
        pki: Seen::now(Pki {
            certificates: BTreeMap::from([(
                "pki/apiserver.crt".to_owned(),
                Certificate {
                    not_after: 0,
                    sans: BTreeSet::new(),
                },
            )]),
            ..Pki::default()
        }),
        ..blank(name)
    }
}

fn report(name: &str, etcd: Option<EtcdView>) -> HostReport {
    let mut facts = blank(name);
    let api = etcd.as_ref().map(|etcd| ready_api(etcd.linearizable));
    if etcd.is_some() {
        facts.manifests = Seen::now(BTreeMap::from([("etcd".to_owned(), manifest())]));
        facts.etcd_data = Seen::now(quorate_plan::observation::EtcdData {
            wal: true,
            marker: None,
        });
    }
    HostReport {
        facts,
        etcd: Seen::now(etcd),
        api: Seen::now(api),
    }
}

fn manifest() -> Manifest {
    Manifest {
        image: "etcd".into(),
        flags: Vec::new(),
        mounts: BTreeSet::new(),
        files: BTreeMap::new(),
    }
}

/// An apiserver that says it is ready, or not, and tells nothing else.
pub fn ready_api(ready: bool) -> ApiView {
    fn untold<T>() -> Seen<T> {
        Seen::Unknown(Missing::not_looked("the API's contents"))
    }
    ApiView {
        readyz: Readyz {
            ready,
            status: if ready { 200 } else { 500 },
            failing: BTreeSet::new(),
        },
        version: "1.35.4".into(),
        nodes: untold(),
        endpoints: untold(),
        kubeadm: untold(),
        cluster_info: untold(),
        workloads: untold(),
        notes: untold(),
        tokens: untold(),
        uploaded_certs: untold(),
        conversion: untold(),
    }
}

struct Word<'a> {
    name: &'a str,
    state: &'a str,
    learner: bool,
}

fn words(text: &str) -> Vec<Word<'_>> {
    text.split_whitespace()
        .map(|word| {
            let (name, rest) = word.split_at(1);
            let (state, learner) = match rest.strip_suffix("learner") {
                Some(state) => (state, true),
                None => (rest, false),
            };
            Word {
                name,
                state,
                learner,
            }
        })
        .collect()
}

/// What is seen of the hosts in those words.
pub fn seen(text: &str) -> Observation {
    let words = words(text);
    let members: BTreeMap<MemberId, Member> = words
        .iter()
        .filter(|word| !matches!(word.state, "." | "="))
        .map(|word| {
            let started = word.state != "(unstarted)";
            let told = Member {
                name: if started {
                    word.name.into()
                } else {
                    String::new()
                },
                peer_urls: [peer(word.name).peer_url()].into(),
                client_urls: BTreeSet::new(),
                learner: word.learner || !started,
            };
            (id(word.name), told)
        })
        .collect();
    let alarms: BTreeSet<(String, MemberId)> = words
        .iter()
        .filter(|word| word.state == "!")
        .map(|word| ("NOSPACE".to_owned(), id(word.name)))
        .collect();
    let voters = words
        .iter()
        .filter(|word| !word.learner && !matches!(word.state, "." | "=" | "(unstarted)"));
    let alive: Vec<&str> = voters
        .clone()
        .filter(|word| matches!(word.state, "+" | "!" | "~"))
        .map(|word| word.name)
        .collect();
    let quorum = alive.len() > voters.count() / 2;
    let leader = alive.first().filter(|_| quorum).map(|name| id(name));
    let connected: BTreeSet<MemberId> = words
        .iter()
        .filter(|word| matches!(word.state, "+" | "!" | "~" | "?" | ","))
        .map(|word| id(word.name))
        .collect();
    let mut seen = Observation::default();
    for word in &words {
        let mut sightings = Sightings::default();
        for _ in 0..(if word.state == "," { 1 } else { 7 }) {
            sightings.look(!matches!(word.state, "-" | ","), Duration::from_secs(5));
        }
        seen.sightings.insert(node(word.name), sightings);
        let view = |leader: Option<MemberId>| EtcdView {
            cluster_id: "c1".into(),
            member: id(word.name),
            version: "3.6.16".into(),
            leader,
            raft_term: 2,
            raft_index: 100,
            raft_applied: 100,
            db_bytes: 0,
            db_in_use_bytes: 0,
            db_quota_bytes: 2 << 30,
            fsync_p99_ms: Seen::now(2),
            // Only the leader hears of everybody.
            active_peers: if leader == Some(id(word.name)) {
                let others = connected.iter().copied();
                Seen::now(others.filter(|other| *other != id(word.name)).collect())
            } else {
                Seen::Unknown(Missing::unreadable("who is active", "it does not lead"))
            },
            linearizable: leader.is_some() && !word.learner,
            members: if word.learner {
                BTreeMap::new()
            } else {
                members.clone()
            },
            alarms: alarms.clone(),
            errors: BTreeSet::new(),
        };
        let known = match word.state {
            "." | "(unstarted)" => Seen::now(report(word.name, None)),
            "+" | "!" => Seen::now(report(word.name, Some(view(leader)))),
            "~" => Seen::Known {
                value: report(word.name, Some(view(leader))),
                age: Duration::from_secs(61),
            },
            "?" => Seen::now(report(word.name, Some(view(None)))),
            "=" => Seen::now(HostReport {
                facts: ready(word.name),
                ..report(word.name, None)
            }),
            "-" | "," => Seen::Unknown(Missing::no_answer(
                format!("host {}", word.name),
                "no route",
            )),
            other => panic!("`{other}` is no state"),
        };
        match known {
            Seen::Known { value, age } => {
                seen.record(
                    &node(word.name),
                    Seen::Known {
                        value: value.clone(),
                        age,
                    },
                );
                // The host's own account of etcd is as old as its facts.
                let etcd = value.etcd.get().expect("told above").clone();
                seen.etcd
                    .insert(node(word.name), Seen::Known { value: etcd, age });
            }
            unknown @ Seen::Unknown(_) => seen.record(&node(word.name), unknown),
        }
    }
    seen
}
