//! The guard over what leaves, as tables: who may be called dead, what may follow, and whom the change leans on.

mod seeing;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use quorate_plan::{
    Acceptance, Change, Fence, HostEnsure, Missing, NodeName, Observation, Quorum, Request, Seen,
    admit,
    health::Condition,
    observation::{
        EtcdView, Fencing, HostFacts, InfraView, MachineKind, Manifest, Node, Power, Sightings,
    },
    permit,
};
use seeing::{id, node, peer, seen};

fn remove(name: &str, next: Option<&str>) -> Change {
    Change::RemoveMember {
        id: id(name),
        next: next.map(node),
    }
}

fn says(seen: &Observation, change: &Change, accepted: &[&str]) -> String {
    let accepted: BTreeSet<Acceptance> = accepted
        .iter()
        .map(|text| text.parse().expect("a risk that can be accepted"))
        .collect();
    match permit(seen, change, &accepted) {
        Ok(permit) => {
            assert_eq!(permit.change(), change, "a permit is for its change");
            "allowed".into()
        }
        Err(refusal) => format!("{}: {refusal}", refusal.code()),
    }
}

fn view<'a>(seen: &'a mut Observation, name: &str) -> &'a mut EtcdView {
    match seen.etcd.get_mut(&node(name)) {
        Some(Seen::Known {
            value: Some(view), ..
        }) => view,
        _ => panic!("{name} tells of etcd"),
    }
}

fn facts<'a>(seen: &'a mut Observation, name: &str) -> &'a mut HostFacts {
    match seen.hosts.get_mut(&node(name)) {
        Some(Seen::Known { value, .. }) => value,
        _ => panic!("{name} answers"),
    }
}

fn power(power: Power) -> Seen<InfraView> {
    Seen::now(InfraView {
        power,
        kind: MachineKind {
            cgroup: quorate_plan::observation::Cgroup::V2,
            oom_score_adjustable: true,
            swap: false,
            shared_disk: false,
        },
    })
}

/// a's apiserver tells of c's node, whose kubelet renewed its lease that long ago.
fn lease(seen: &mut Observation, seconds: u64) {
    let object = Node {
        ready: true,
        reason: String::new(),
        pressures: BTreeSet::new(),
        control_plane: true,
        tainted: true,
        kubelet: String::new(),
        addresses: BTreeSet::new(),
        heartbeat: Some(Duration::from_secs(seconds)),
    };
    match seen.api.get_mut(&node("a")) {
        Some(Seen::Known {
            value: Some(api), ..
        }) => api.nodes = Seen::now(BTreeMap::from([(node("c"), object)])),
        _ => panic!("a has an apiserver"),
    }
}

fn condition(seen: &Observation, name: &str) -> Condition {
    let quorum = Quorum::of(seen).unwrap().unwrap();
    Condition::of(seen, &quorum, id(name), &quorum.members[&id(name)])
}

/// Two looks more or less make or break it, and each witness has a veto.
#[test]
fn a_verdict_takes_three_witnesses() {
    let dead = |seen: &Observation| match condition(seen, "c") {
        Condition::Dead(_) => true,
        Condition::Doubtful(_) => false,
        other => panic!("{other:?}"),
    };
    assert!(dead(&seen("a+ b+ c-")));
    assert!(!dead(&seen("a+ b+ c,")), "one look");

    for (looks, apart, verdict) in [(3, 5, true), (2, 30, false), (5, 2, false), (6, 2, true)] {
        let mut seen = seen("a+ b+ c-");
        let mut sightings = Sightings::default();
        for _ in 0..looks {
            sightings.look(false, Duration::from_secs(apart));
        }
        seen.sightings.insert(node("c"), sightings);
        assert_eq!(dead(&seen), verdict, "{looks} looks, {apart} s apart");
        // An answer in between begins it anew.
        sightings.look(true, Duration::from_secs(1));
        sightings.look(false, Duration::from_secs(1));
        seen.sightings.insert(node("c"), sightings);
        assert!(!dead(&seen), "it answered meanwhile");
        // A provider that says that its machine is off is better than any number of looks; a frozen one may go on.
        seen.infra.insert(node("c"), power(Power::Off));
        assert!(dead(&seen));
        seen.infra.insert(node("c"), power(Power::Frozen));
        assert!(!dead(&seen));
    }

    let mut heard = seen("a+ b+ c-");
    view(&mut heard, "a").active_peers = Seen::now([id("b"), id("c")].into());
    assert!(!dead(&heard), "the leader hears of it");
    view(&mut heard, "a").active_peers = Seen::Unknown(Missing::not_looked("metrics"));
    assert!(!dead(&heard), "the leader cannot say");

    let mut renewed = seen("a+ b+ c-");
    lease(&mut renewed, 19);
    assert!(!dead(&renewed), "its kubelet lives");
    lease(&mut renewed, 20);
    assert!(dead(&renewed));
}

#[test]
fn other_conditions() {
    assert_eq!(condition(&seen("a+ b+ c+"), "c"), Condition::Healthy);
    let mut emptied = seen("a+ b+ c?");
    facts(&mut emptied, "c").etcd_data = Seen::now(Default::default());
    assert_eq!(condition(&emptied, "c"), Condition::Emptied);
    assert!(matches!(
        condition(&seen("a+ b+ c?"), "c"),
        Condition::Sick { .. }
    ));
    // Its host answers, its etcd did not: with streams to its peers that is a look that failed.
    let mut mute = seen("a+ b+ c+");
    let silent = || Seen::Unknown(Missing::no_answer("etcd on c", "deadline"));
    mute.etcd.insert(node("c"), silent());
    assert!(matches!(condition(&mute, "c"), Condition::Mute { .. }));
    view(&mut mute, "a").active_peers = Seen::now([id("b")].into());
    assert!(matches!(condition(&mute, "c"), Condition::Sick { .. }));
    let mut unreached = seen("a+ b+ c-");
    unreached.hosts.remove(&node("c"));
    unreached.etcd.remove(&node("c"));
    assert!(matches!(
        condition(&unreached, "c"),
        Condition::Unreached(_)
    ));
}

#[test]
fn one_look_is_not_a_death() {
    let there = seen("a+ b+ c+ d+ e,");
    let said = says(&there, &remove("e", None), &[]);
    assert!(
        said.starts_with("not-proven-dead: nobody can say that e (member e1) is dead: e did not answer the last 1 of 1 looks, over 0 s (3 over 10 s are needed)"),
        "{said}"
    );
    assert_eq!(
        says(&there, &remove("e", None), &["not-proven-dead=e"]),
        "allowed"
    );
    let said = says(&there, &remove("e", None), &["not-proven-dead=d"]);
    assert!(said.starts_with("not-proven-dead"), "{said}");
    // Its healthy peers are judged all the same.
    let there = seen("a+ b+ c- d- e,");
    assert_eq!(
        says(&there, &remove("e", None), &["not-proven-dead=e"]),
        "missing: a quorum of etcd could not be seen: 2 members answer, none reached a quorum"
    );
    let there = seen("a+ b+ c+ d? e,");
    assert_eq!(
        says(&there, &remove("e", None), &["not-proven-dead=e"]),
        "allowed"
    );
    let there = seen("a+ b+ c+ d? e? f,");
    let said = says(&there, &remove("f", None), &["not-proven-dead=f"]);
    assert!(said.starts_with("missing"), "{said}");
}

#[test]
fn who_may_still_run_is_not_removed_without_a_quorum() {
    let mut there = seen("a+ b+ c+ d? e-");
    // c loses its leader just now: a and b still tell of a quorum.
    view(&mut there, "c").leader = None;
    view(&mut there, "c").linearizable = false;
    let said = says(&there, &remove("e", None), &[]);
    assert!(
        said.starts_with("may-still-run: member e1 may still run (e did not answer"),
        "{said}"
    );
    assert!(
        said.ends_with("without it 2 of 4 voters are healthy, 3 needed"),
        "{said}"
    );
}

#[test]
fn two_voters_are_no_resting_place() {
    let three = seen("a+ b+ c- d=");
    assert_eq!(
        says(&three, &remove("c", None), &[]),
        "no-successor: remove member c1 leaves two voters, which survive no loss, and what follows is not ready: no host joins or leaves after it"
    );
    assert_eq!(says(&three, &remove("c", Some("d")), &[]), "allowed");
    for (lacks, spoil) in [
        (
            "is not prepared",
            (|facts: &mut HostFacts| facts.mark = Seen::now(None)) as fn(&mut HostFacts),
        ),
        ("has no components", |facts| {
            facts.components = Seen::now(None);
        }),
        ("has no images", |facts| {
            facts.images = Seen::now(BTreeSet::new());
        }),
        ("was not compared with the masters", |facts| {
            facts.rehearsed = Seen::now(None);
        }),
        ("has no certificates", |facts| {
            facts.pki = Seen::now(Default::default());
        }),
    ] {
        let mut there = three.clone();
        spoil(facts(&mut there, "d"));
        assert_eq!(
            says(&there, &remove("c", Some("d")), &[]),
            format!(
                "no-successor: remove member c1, then go on with d leaves two voters, which survive no loss, and what follows is not ready: d {lacks}"
            )
        );
    }
    assert_eq!(
        says(&seen("a+ b+ c-"), &remove("c", Some("d")), &[]),
        "missing: host d was not looked at"
    );
    // Down to one, the second goes at once; and a host that is made anew is its own successor.
    assert_eq!(
        says(&seen("a+ b+ c+"), &remove("c", Some("b")), &[]),
        "allowed"
    );
    assert_eq!(
        says(&seen("a+ b+ c-"), &remove("c", Some("c")), &[]),
        "allowed"
    );
    assert_eq!(
        says(&seen("a+ b+ c+ d+ e+"), &remove("e", None), &[]),
        "allowed"
    );
    assert_eq!(says(&seen("a+ b+"), &remove("b", None), &[]), "allowed");
}

/// Health refusals judge who remains; the sick one may go.
#[test]
fn who_remains_is_judged() {
    type Spoil = fn(&mut Observation, &str);
    let cases: [(&str, &str, Spoil); 6] = [
        (
            "raft-lags",
            "etcd on d, which stays, is 5001 entries behind, 5000 are allowed",
            |seen, name| {
                view(seen, name).raft_applied = 100;
                for other in ["a", "b", "c", "d", "e"] {
                    view(seen, other).raft_index = 5101;
                    if other != name {
                        view(seen, other).raft_applied = 5101;
                    }
                }
            },
        ),
        (
            "near-quota",
            "the database on d, which stays, has 1900 of 2048 MiB, 90 % are allowed",
            |seen, name| view(seen, name).db_bytes = 1900 << 20,
        ),
        (
            "disk-full",
            "d, which stays, has 100 MiB of disk left, 2048 MiB are needed",
            |seen, name| {
                let facts = facts(seen, name);
                let Seen::Known { value, .. } = &mut facts.machine else {
                    panic!("it was seen")
                };
                value.disk_free_bytes = 100 << 20;
            },
        ),
        (
            "disk-slow",
            "the disk of d, which stays, is too slow: 99 of 100 syncs of etcd's log end within 512 ms, 500 ms are allowed",
            |seen, name| view(seen, name).fsync_p99_ms = Seen::now(512),
        ),
        (
            "known-bad-version",
            "etcd 3.5.1 on d: its members may hold different data after a crash; upgrade to 3.5.24 or later first",
            |seen, name| view(seen, name).version = "3.5.1".into(),
        ),
        (
            "alarm-raised",
            "etcd raises NOSPACE on member d1",
            |seen, name| {
                for other in ["a", "b", "c", "d", "e"] {
                    view(seen, other).alarms = [("NOSPACE".to_owned(), id(name))].into();
                }
            },
        ),
    ];
    for (code, text, spoil) in cases {
        let mut there = seen("a+ b+ c+ d+ e+ f.");
        spoil(&mut there, "d");
        let refused = format!("{code}: {text}");
        assert_eq!(says(&there, &remove("e", None), &[]), refused);
        let add = Change::AddVoter { node: node("f") };
        assert_eq!(says(&there, &add, &[]), refused);
        assert_eq!(says(&there, &remove("d", None), &[]), "allowed", "{code}");
        if code != "alarm-raised" {
            let accepted = format!("{code}=d");
            assert_eq!(says(&there, &remove("e", None), &[&accepted]), "allowed");
            let other = format!("{code}=a");
            assert_eq!(says(&there, &remove("e", None), &[&other]), refused);
        }
    }
}

#[test]
fn a_joiner_is_compared_before_it_is_added() {
    let add = Change::AddVoter { node: node("d") };
    let spoil = |change: fn(&mut Manifest)| {
        let mut there = seen("a+ b+ c+ d.");
        let Seen::Known { value, .. } = &mut facts(&mut there, "d").rehearsed else {
            panic!("it was rehearsed")
        };
        let rehearsal = value.as_mut().expect("it was rehearsed");
        change(rehearsal.manifests.get_mut("etcd").expect("it is in it"));
        there
    };
    assert_eq!(says(&spoil(|_| {}), &add, &[]), "allowed");
    let flag = spoil(|manifest| {
        manifest
            .flags
            .push("--auto-compaction-mode=revision".into())
    });
    assert_eq!(
        says(&flag, &add, &[]),
        "joiner-differs: d would run with other settings than the masters:\netcd.yaml: --auto-compaction-mode: revision on the joiner, nothing on the masters"
    );
    assert_eq!(says(&flag, &add, &["joiner-differs=d"]), "allowed");
    let image = spoil(|manifest| manifest.image = "etcd:other".into());
    assert_eq!(
        says(&image, &add, &[]),
        "joiner-differs: d would run with other settings than the masters:\netcd.yaml: image: etcd:other on the joiner, etcd on the masters"
    );
    let mount = spoil(|manifest| {
        manifest.mounts.insert("/etc/kubernetes/enc".into());
    });
    assert_eq!(
        says(&mount, &add, &[]),
        "joiner-differs: d would run with other settings than the masters:\netcd.yaml: mount /etc/kubernetes/enc: there on the joiner, nothing on the masters"
    );
    let mut file = spoil(|manifest| {
        let path = "/etc/kubernetes/encryption.yaml".to_owned();
        manifest.files.insert(path, "missing".into());
    });
    for name in ["a", "b", "c"] {
        let Seen::Known { value, .. } = &mut facts(&mut file, name).manifests else {
            panic!("they are seen")
        };
        let etcd = value.get_mut("etcd").expect("it is there");
        let path = "/etc/kubernetes/encryption.yaml".to_owned();
        etcd.files.insert(path, "0123abcd".into());
    }
    assert_eq!(
        says(&file, &add, &[]),
        "joiner-differs: d would run with other settings than the masters:\netcd.yaml: file /etc/kubernetes/encryption.yaml: missing on the joiner, 0123abcd on the masters"
    );
    // Names, addresses, the way it starts and what the distribution mounts are its own.
    let own = spoil(|manifest| {
        manifest.flags = vec![
            "--initial-cluster=d=https://10.0.0.14:2380".into(),
            "--initial-cluster-state=new".into(),
        ];
        manifest.mounts.insert("/usr/share/ca-certificates".into());
    });
    assert_eq!(says(&own, &add, &[]), "allowed");
    let mut named = spoil(|manifest| {
        manifest.flags = vec![
            "--name=d".into(),
            "--listen-peer-urls=https://10.0.0.14:2380".into(),
        ];
    });
    for (name, address) in [("a", 11), ("b", 12), ("c", 13)] {
        let manifest = Manifest {
            image: "etcd".into(),
            flags: vec![
                format!("--name={name}"),
                format!("--listen-peer-urls=https://10.0.0.{address}:2380"),
            ],
            mounts: BTreeSet::new(),
            files: BTreeMap::new(),
        };
        facts(&mut named, name).manifests =
            Seen::now(BTreeMap::from([("etcd".to_owned(), manifest)]));
    }
    assert_eq!(says(&named, &add, &[]), "allowed");
    // Masters that differ among themselves: the joiner is like one of them.
    let mut differing = flag;
    let manifest = Manifest {
        image: "etcd".into(),
        flags: vec!["--auto-compaction-mode=revision".into()],
        mounts: BTreeSet::new(),
        files: BTreeMap::new(),
    };
    facts(&mut differing, "b").manifests =
        Seen::now(BTreeMap::from([("etcd".to_owned(), manifest)]));
    assert_eq!(says(&differing, &add, &[]), "allowed");
}

fn asks(ensure: HostEnsure, change: Option<Change>, there: &Observation) -> String {
    let request = Request {
        fence: Fence(5),
        ensure,
        change,
        sealed: Vec::new(),
        receipt: None,
        accepted: BTreeSet::new(),
        testimony: Observation::default(),
    };
    match admit(request, &Fencing::default(), there) {
        Ok(admitted) => match admitted.permit {
            Some(permit) => format!("admitted to {}", permit.change()),
            None => "admitted".into(),
        },
        Err(refusal) => format!("{}: {refusal}", refusal.code()),
    }
}

#[test]
fn hosts_admit_leaving_for_the_member_it_is_about() {
    let there = seen("a+ b+ c+ d+");
    let gone = |name: &str| HostEnsure::MemberGone {
        member: id(name),
        peer_urls: BTreeSet::new(),
    };
    let moved = |name: &str| HostEnsure::LeaderMoved {
        member: id(name),
        to: BTreeSet::new(),
    };
    let ended = |name: &str| HostEnsure::ControlPlaneGone { member: id(name) };
    for ensure in [gone("d"), moved("d"), ended("d")] {
        assert_eq!(
            asks(ensure.clone(), Some(remove("d", None)), &there),
            "admitted to remove member d1"
        );
        let unpermitted = format!("unpermitted: `{ensure}` needs a permitted change");
        let add = Change::AddVoter { node: node("d") };
        for change in [None, Some(remove("c", None)), Some(add)] {
            assert_eq!(asks(ensure.clone(), change, &there), unpermitted);
        }
    }
    let reset = |name: &str| HostEnsure::Reset { node: peer(name) };
    assert_eq!(
        asks(reset("d"), None, &there),
        "still-member: d shall be reset and is still member d1 of etcd"
    );
    assert_eq!(asks(reset("e"), None, &there), "admitted");
    assert_eq!(
        asks(reset("d"), None, &seen("a? b- c- d.")),
        "missing: a quorum of etcd could not be seen: 1 members answer, none reached a quorum"
    );
    // Without testimony a host sees only itself, and its own etcd is stopped.
    let mut alone = seen("d.");
    alone.etcd.insert(node("d"), Seen::now(None));
    assert_eq!(
        asks(reset("d"), None, &alone),
        "missing: a running etcd was not looked at"
    );
}

#[test]
fn a_node_is_named_to_accept_a_risk() {
    for code in quorate_plan::refusal::RefusalCode::ALL {
        let text = format!("{code}=cp-1");
        let parsed = text.parse::<Acceptance>();
        assert_eq!(parsed.is_ok(), code.acceptable(), "{code}");
        if let Ok(accepted) = parsed {
            assert_eq!(accepted.node, "cp-1".parse::<NodeName>().unwrap());
        }
    }
}
