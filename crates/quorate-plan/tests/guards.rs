//! Guards as tables: what is seen, what shall change, what the guard says.

mod seeing;

use std::{collections::BTreeSet, time::Duration};

use quorate_plan::{
    Change, Fence, HostEnsure, Missing, Observation, Request, Seen, admit,
    observation::{ApiView, EtcdData, Fencing, Founding, Manifest, MemberMark, Pki},
    permit,
};
use seeing::{blank, id, node, peer, ready_api, seen};

fn change(text: &str) -> Change {
    let (verb, names) = text.split_once(' ').expect("a verb and names");
    match verb {
        "add" => Change::AddVoter { node: node(names) },
        "remove" => {
            let (name, next) = match names.split_once(" then ") {
                Some((name, next)) => (name, Some(node(next))),
                None => (names, None),
            };
            Change::RemoveMember { id: id(name), next }
        }
        "interrupt" => Change::Interrupt { node: node(names) },
        "found" => Change::Found {
            nodes: names.split(' ').map(node).collect(),
        },
        other => panic!("`{other}` is no change"),
    }
}

fn says(seen: &Observation, text: &str) -> String {
    match permit(seen, &change(text), &BTreeSet::new()) {
        Ok(permit) => {
            assert_eq!(*permit.change(), change(text), "a permit is for its change");
            "allowed".into()
        }
        Err(refusal) => format!("{}: {refusal}", refusal.code()),
    }
}

#[track_caller]
fn check(there: &str, wanted: &str, expected: &str) {
    assert_eq!(says(&seen(there), wanted), expected, "{there}: {wanted}");
}

#[test]
fn adding_a_voter() {
    // From one to two is the step without a net: allowed while the one is healthy.
    check("a+ b.", "add b", "allowed");
    check("a+ b+ c.", "add c", "allowed");
    check("a+ b+ c+ d.", "add d", "allowed");
    check("a+ b+ c+ d+ e+ f.", "add f", "allowed");
    // With one down the newcomer would be needed from its first moment: 3 of 4 is all that is left.
    check(
        "a+ b+ c- d.",
        "add d",
        "would-lose-quorum: add voter d leaves 2 healthy of 4 voters, 3 needed",
    );
    check(
        "a+ b+ c? d.",
        "add d",
        "would-lose-quorum: add voter d leaves 2 healthy of 4 voters, 3 needed",
    );
    check("a+ b+ c+ d- e.", "add e", "allowed");
    check("a+ b+ c+ d+ e- f.", "add f", "allowed");
    check(
        "a+ b+ c+ d- e- f.",
        "add f",
        "would-lose-quorum: add voter f leaves 3 healthy of 6 voters, 4 needed",
    );
}

#[test]
fn adding_beside_what_is_in_flight() {
    check(
        "a+ b+ c+learner d.",
        "add d",
        "learner-present: member c1 (https://10.0.0.13:2380) is still a learner: promote or remove it first",
    );
    check(
        "a+ b+ c(unstarted) d.",
        "add d",
        "member-unstarted: member c1 (https://10.0.0.13:2380) was added and never started",
    );
    // Its own learner is what an interrupted change left: going on is the way out.
    check("a+ b+learner", "add b", "allowed");
    check("a+ b(unstarted)", "add b", "allowed");
    check("a+ b+ c+learner", "add c", "allowed");
    // And once it votes, asking again is not another change.
    check("a+ b+ c+", "add c", "allowed");
}

#[test]
fn adding_where_something_rings() {
    check(
        "a+ b! c+ d.",
        "add d",
        "alarm-raised: etcd raises NOSPACE on member b1",
    );
}

#[test]
fn adding_without_being_able_to_see() {
    check(
        "a? b? c- d.",
        "add d",
        "missing: a quorum of etcd could not be seen: 2 members answer, none reached a quorum",
    );
    check(
        "a- b.",
        "add b",
        "missing: host a could not be seen: no route",
    );
    check(
        "a. b.",
        "add b",
        "missing: a running etcd was not looked at",
    );
    // A voter that does not answer is asked for its addresses in vain, once there is a quorum at all.
    check(
        "a+ b-",
        "add b",
        "missing: a quorum of etcd could not be seen: 1 members answer, none reached a quorum",
    );
    check(
        "a+ b+ c-",
        "add c",
        "missing: host c could not be seen: no route",
    );
    check(
        "a~ b.",
        "add b",
        "missing: a fresh look is missing: the last one is 61 s old, at most 60 s are allowed",
    );
    // A stale witness is no witness: with two of three fresh it is one that is not known to be healthy.
    check(
        "a+ b+ c~ d.",
        "add d",
        "would-lose-quorum: add voter d leaves 2 healthy of 4 voters, 3 needed",
    );
}

#[test]
fn two_clusters_are_no_cluster() {
    let mut two = seen("a+ b+ c.");
    let Some(Seen::Known {
        value: Some(view), ..
    }) = two.etcd.get_mut(&node("b"))
    else {
        panic!("b tells of etcd")
    };
    view.cluster_id = "c2".into();
    assert_eq!(
        says(&two, "add c"),
        "missing: etcd could not be understood: two clusters answer: c2 and c1"
    );
}

#[test]
fn removing_a_member() {
    check("a+ b+ c+ d+", "remove c", "allowed");
    check("a+ b+ c+ d+ e+", "remove c", "allowed");
    // A dead one goes: two of two are left, and healthy, and a third comes at once.
    check("a+ b+ c- d=", "remove c then d", "allowed");
    // It is well again, or always was.
    check(
        "a+ b+ c+ d=",
        "remove c then d",
        "plan-departed: the plan was not approved like this: `Join d before c1 leaves, which is healthy`",
    );
    check("a+ b+ c! d=", "remove c then d", "allowed");
    check("a+ b+ c+", "remove c then c", "allowed");
    // A living one of three with one dead does not.
    check(
        "a+ b+ c-",
        "remove b",
        "would-lose-quorum: remove member b1 leaves 1 healthy of 2 voters, 2 needed",
    );
    check("a+ b+", "remove b", "allowed");
    check(
        "a+",
        "remove a",
        "would-lose-quorum: remove member a1 leaves 0 healthy of 0 voters, 1 needed",
    );
    check(
        "a+ b+ c+ d- e-",
        "remove c",
        "would-lose-quorum: remove member c1 leaves 2 healthy of 4 voters, 3 needed",
    );
    check("a+ b+ c+ d- e-", "remove d", "allowed");
    check("a+ b-learner", "remove b", "allowed");
    check("a+ b+ c(unstarted)", "remove c", "allowed");
    check(
        "a+ b+ c+learner",
        "remove b",
        "learner-present: member c1 (https://10.0.0.13:2380) is still a learner: promote or remove it first",
    );
    check(
        "a? b- c-",
        "remove c",
        "missing: a quorum of etcd could not be seen: 1 members answer, none reached a quorum",
    );
}

#[test]
fn interrupting_a_voter() {
    check("a+ b+ c+", "interrupt b", "allowed");
    check(
        "a+ b+ c-",
        "interrupt b",
        "would-lose-quorum: interrupt b leaves 1 healthy of 3 voters, 2 needed",
    );
    check(
        "a+",
        "interrupt a",
        "would-lose-quorum: interrupt a leaves 0 healthy of 1 voters, 1 needed",
    );
    check(
        "a+ b+",
        "interrupt b",
        "would-lose-quorum: interrupt b leaves 1 healthy of 2 voters, 2 needed",
    );
    check("a+ b+ c+ d+ e-", "interrupt b", "allowed");
    check(
        "a+ b+ c+ d+learner",
        "interrupt b",
        "learner-present: member d1 (https://10.0.0.14:2380) is still a learner: promote or remove it first",
    );
    check(
        "a+ b+ c-",
        "interrupt c",
        "missing: host c could not be seen: no route",
    );
}

/// Three blank hosts, one of them changed.
fn founders(change: impl FnOnce(&mut quorate_plan::observation::HostFacts)) -> Observation {
    let mut seen = seen("a. b. c.");
    let mut facts = blank("b");
    change(&mut facts);
    seen.hosts.insert(node("b"), Seen::now(facts));
    seen
}

fn founding(names: &str, done: bool) -> Seen<Option<Founding>> {
    Seen::now(Some(Founding {
        nodes: names.split(' ').map(node).collect(),
        done,
        restarts: 0,
    }))
}

#[test]
fn founding_needs_hosts_that_carry_nothing() {
    let says = |seen: Observation| says(&seen, "found a b c");
    assert_eq!(says(founders(|_| {})), "allowed");
    assert_eq!(
        says(founders(|facts| facts.founding = founding("a b c", false))),
        "allowed",
        "its own founding goes on"
    );
    let own_with_data = founders(|facts| {
        facts.founding = founding("a b c", false);
        facts.etcd_data = Seen::now(EtcdData {
            wal: true,
            marker: None,
        });
    });
    assert_eq!(says(own_with_data), "allowed", "its own founding goes on");
    assert_eq!(
        says(founders(|facts| facts.founding = founding("a b", false))),
        "not-blank: b shall found a cluster, but carries a founding of a, b (in progress)"
    );
    assert_eq!(
        says(founders(|facts| facts.founding = founding("a b c", true))),
        "not-blank: b shall found a cluster, but carries a founding of a, b, c (over)"
    );
    let data =
        |wal, marker| founders(|facts| facts.etcd_data = Seen::now(EtcdData { wal, marker }));
    assert_eq!(
        says(data(true, None)),
        "not-blank: b shall found a cluster, but carries etcd data"
    );
    let marker = Some(MemberMark {
        cluster_id: "c1".into(),
        member: id("b"),
    });
    assert_eq!(
        says(data(false, marker)),
        "not-blank: b shall found a cluster, but carries the marker of an etcd member"
    );
    let authority = founders(|facts| {
        facts.pki = Seen::now(Pki {
            authority: Some("somebody's".into()),
            ..Pki::default()
        });
    });
    assert_eq!(
        says(authority),
        "not-blank: b shall found a cluster, but carries certificate authorities"
    );
    let manifest = founders(|facts| {
        let manifest = Manifest {
            image: "etcd".into(),
            flags: Vec::new(),
            mounts: BTreeSet::new(),
            files: [].into(),
        };
        facts.manifests = Seen::now([("etcd".to_owned(), manifest)].into());
    });
    assert_eq!(
        says(manifest),
        "not-blank: b shall found a cluster, but carries an etcd manifest"
    );
}

#[test]
fn founding_needs_hosts_that_were_seen() {
    check(
        "a. b- c.",
        "found a b c",
        "missing: host b could not be seen: no route",
    );
    check("a. b.", "found a b c", "missing: host c was not looked at");
    let part = founders(|facts| {
        facts.etcd_data =
            Seen::Unknown(Missing::unreadable("etcd's data on b", "permission denied"));
    });
    assert_eq!(
        says(&part, "found a b c"),
        "missing: etcd's data on b could not be understood: permission denied"
    );
    let mut old = founders(|_| {});
    old.hosts.insert(
        node("c"),
        Seen::Known {
            value: blank("c"),
            age: Duration::from_secs(61),
        },
    );
    assert_eq!(
        says(&old, "found a b c"),
        "missing: a fresh look is missing: the last one is 61 s old, at most 60 s are allowed"
    );
}

fn request(ensure: HostEnsure, change: Option<Change>, fence: u64) -> Request {
    Request {
        fence: Fence(fence),
        ensure,
        change,
        sealed: Vec::new(),
        receipt: None,
        accepted: BTreeSet::new(),
        testimony: Observation::default(),
    }
}

fn asked(request: Request, highest: u64, there: &Observation) -> String {
    let fencing = Fencing {
        highest: Fence(highest),
        ..Fencing::default()
    };
    match admit(request, &fencing, there) {
        Ok(admitted) => match admitted.permit {
            Some(permit) => format!("admitted to {}", permit.change()),
            None => "admitted".into(),
        },
        Err(refusal) => format!("{}: {refusal}", refusal.code()),
    }
}

#[track_caller]
fn admits(request: Request, highest: u64, there: &str, expected: &str) {
    assert_eq!(asked(request, highest, &seen(there)), expected, "{there}");
}

#[test]
fn a_host_admits_by_fence_and_guard() {
    let guarded = || HostEnsure::Guarded {};
    let learner = || HostEnsure::Learner { joiner: peer("b") };
    let add = |name: &str| Some(Change::AddVoter { node: node(name) });

    admits(request(guarded(), None, 5), 5, "a+", "admitted");
    admits(request(guarded(), None, 6), 5, "a+", "admitted");
    admits(
        request(guarded(), None, 4),
        5,
        "a+",
        "fenced: token 4 is outranked by 5, held by an operation that has ended",
    );
    // The fence comes first, whatever the guard would say.
    admits(
        request(learner(), add("b"), 4),
        5,
        "a+ b.",
        "fenced: token 4 is outranked by 5, held by an operation that has ended",
    );
    admits(
        request(learner(), None, 5),
        5,
        "a+ b.",
        "unpermitted: `etcd has a learner for b` needs a permitted change",
    );
    admits(
        request(learner(), add("b"), 5),
        5,
        "a+ b.",
        "admitted to add voter b",
    );
    admits(
        request(learner(), add("b"), 5),
        5,
        "a+ b. c+learner",
        "learner-present: member c1 (https://10.0.0.13:2380) is still a learner: promote or remove it first",
    );
    // A step that changes nothing itself is held to its stage's change all the same.
    admits(
        request(guarded(), add("d"), 5),
        5,
        "a+ b+ c- d.",
        "would-lose-quorum: add voter d leaves 2 healthy of 4 voters, 3 needed",
    );
}

#[test]
fn traffic_is_admitted_for_whom_somebody_saw_ready() {
    let backend = || HostEnsure::Backend {
        backend: peer("b"),
        address: (peer("b").address, 6443).into(),
    };
    let says = |api: Seen<Option<ApiView>>| {
        let mut there = seen("a+ b+");
        there.api.insert(node("b"), api);
        match admit(request(backend(), None, 5), &Fencing::default(), &there) {
            Ok(_) => "admitted".to_owned(),
            Err(refusal) => format!("{}: {refusal}", refusal.code()),
        }
    };
    assert_eq!(says(Seen::now(Some(ready_api(true)))), "admitted");
    assert_eq!(
        says(Seen::now(Some(ready_api(false)))),
        "missing: the apiserver of b could not be seen: it is not ready"
    );
    assert_eq!(
        says(Seen::now(None)),
        "missing: the apiserver of b could not be seen: none runs there"
    );
    let old = Seen::Known {
        value: Some(ready_api(true)),
        age: Duration::from_secs(61),
    };
    assert_eq!(
        says(old),
        "missing: a fresh look is missing: the last one is 61 s old, at most 60 s are allowed"
    );
}

#[test]
fn a_change_is_for_the_host_it_names() {
    let add = |name: &str| Some(Change::AddVoter { node: node(name) });
    let found = |names: &str| Some(change(&format!("found {names}")));
    let authority = |founding: Option<&str>| HostEnsure::Authority {
        founding: founding.map(|names| Founding {
            nodes: names.split(' ').map(node).collect(),
            done: false,
            restarts: 0,
        }),
        of: None,
    };
    for (ensure, wrong) in [
        (HostEnsure::Learner { joiner: peer("b") }, add("c")),
        (HostEnsure::Voter { joiner: peer("b") }, add("c")),
        (HostEnsure::Voter { joiner: peer("b") }, found("b c")),
        (authority(Some("b c")), None),
        (authority(Some("b c")), found("b")),
        (authority(None), found("b")),
        (authority(None), None),
    ] {
        let said = ensure.to_string();
        admits(
            request(ensure, wrong, 5),
            5,
            "a+ b. c.",
            &format!("unpermitted: `{said}` needs a permitted change"),
        );
    }
    admits(
        request(authority(Some("b c")), found("b c"), 5),
        5,
        "b. c.",
        "admitted to found etcd on b, c",
    );
}

/// etcd promotes a learner that died after it had caught up; with two voters the quorum is gone then.
#[test]
fn a_dead_learner_is_not_promoted() {
    let promote = || {
        request(
            HostEnsure::Voter { joiner: peer("b") },
            Some(Change::AddVoter { node: node("b") }),
            5,
        )
    };
    // c is the joining host's neighbour that tells its facts: only the learner's own account counts.
    admits(promote(), 5, "a+ b+learner", "admitted to add voter b");
    admits(
        promote(),
        5,
        "a+ b?learner",
        "missing: the learner on b could not be seen: it does not follow the leader",
    );
    admits(
        promote(),
        5,
        "a+ b-learner",
        "missing: host b could not be seen: no route",
    );
    // Once it votes, asking again changes nothing and is not refused.
    admits(promote(), 5, "a+ b+", "admitted to add voter b");
}

/// Three founders: what each has of their founding, `data`, a `note` of how often it was begun again, or nothing.
fn begun(there: &[(&str, bool, Option<u32>)]) -> Observation {
    let mut seen = seen("a. b. c.");
    for (name, wal, restarts) in there {
        let mut facts = blank(name);
        facts.etcd_data = Seen::now(EtcdData {
            wal: *wal,
            marker: None,
        });
        facts.founding = Seen::now(restarts.map(|restarts| Founding {
            restarts,
            ..Founding::of(["a", "b", "c"].map(node).into())
        }));
        seen.hosts.insert(node(name), Seen::now(facts));
    }
    seen
}

/// Whoever was made anew does not go on with a founding; the others may.
#[test]
fn a_founding_goes_on_without_who_was_made_anew() {
    let mut late = begun(&[
        ("a", true, Some(0)),
        ("b", true, Some(0)),
        ("c", false, None),
    ]);
    assert_eq!(says(&late, "found a b c"), "allowed");
    // It has joined meanwhile, and carries what a joiner carries.
    let facts = late.hosts.get_mut(&node("c"));
    if let Some(Seen::Known { value, .. }) = facts {
        value.etcd_data = Seen::now(EtcdData {
            wal: true,
            marker: None,
        });
    }
    assert_eq!(says(&late, "found a b c"), "allowed");
    // Nobody has begun: then it is no late founder but a host that carries something.
    let mut foreign = begun(&[
        ("a", false, Some(0)),
        ("b", false, Some(0)),
        ("c", true, None),
    ]);
    assert_eq!(
        says(&foreign, "found a b c"),
        "not-blank: c shall found a cluster, but carries etcd data"
    );
    foreign.hosts.insert(
        node("a"),
        Seen::Unknown(Missing::no_answer("host a", "no route")),
    );
    assert_eq!(
        says(&foreign, "found a b c"),
        "missing: host a could not be seen: no route"
    );
}

/// Data is moved aside where a minority has some, once, and for no other founding.
#[test]
fn a_founding_is_begun_again_once() {
    let aside = |names: &str| {
        let founding = Founding {
            restarts: 1,
            ..Founding::of(names.split(' ').map(node).collect())
        };
        request(
            HostEnsure::FoundingAside { founding },
            Some(change("found a b c")),
            5,
        )
    };
    let judged = |there: &[(&str, bool, Option<u32>)]| asked(aside("a b c"), 5, &begun(there));
    let one = [("a", true, Some(0)), ("b", false, None), ("c", false, None)];
    assert_eq!(judged(&one), "admitted to found etcd on a, b, c");
    assert_eq!(
        judged(&[
            ("a", true, Some(0)),
            ("b", true, Some(0)),
            ("c", false, None)
        ]),
        "would-lose-quorum: moving aside what founders have leaves 1 healthy of 3 voters, 2 needed"
    );
    assert_eq!(
        judged(&[
            ("a", true, Some(1)),
            ("b", false, Some(1)),
            ("c", false, None)
        ]),
        "founding-failed: the founding of a, b, c was begun again once and failed again: 2 of 3 founders have nothing of it (b, c)"
    );
    assert_eq!(
        asked(aside("a b"), 5, &begun(&one)),
        "unpermitted: `what the failed founding left here is moved aside` needs a permitted change"
    );
    let mut served = begun(&one);
    if let Some(Seen::Known { value, .. }) = served.hosts.get_mut(&node("a")) {
        let marker = MemberMark {
            cluster_id: "1".into(),
            member: id("a"),
        };
        value.etcd_data = Seen::now(EtcdData {
            wal: true,
            marker: Some(marker),
        });
    }
    assert_eq!(
        asked(aside("a b c"), 5, &served),
        "not-blank: a shall found a cluster, but carries the marker of an etcd member, whose cluster may have served"
    );
    let mut unseen = begun(&one);
    unseen.hosts.remove(&node("c"));
    assert_eq!(
        asked(aside("a b c"), 5, &unseen),
        "missing: host c was not looked at"
    );
}
