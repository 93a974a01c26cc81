//! What changes etcd's membership and leadership, held against real etcd processes. Where there is no etcd 3.6 this says so and is skipped,
//! except in CI; see `lab::etcd_binary`.

#[path = "../../../quorate-etcd/tests/real/lab.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod lab;

use std::{collections::BTreeSet, time::Duration};

use quorate_plan::{
    Change, MemberId, NodeName, Observation, Seen, change::Permit, kubeadm::Peer,
    observation::EtcdView, permit,
};

use super::{Work, first_start, leader_moved, member_gone};
use crate::{
    error::ActionError,
    facts,
    testing::{self, Machine},
};
use lab::{Lab, SOON, eventually};

/// A host's folder with the certificates that its own etcd is asked with.
fn machine(lab: &Lab) -> Machine {
    let machine = testing::machine();
    let tls = lab.tls();
    machine.write("/etc/kubernetes/pki/etcd/ca.crt", tls.ca_pem);
    machine.write(
        "/etc/kubernetes/pki/etcd/healthcheck-client.crt",
        tls.cert_pem,
    );
    machine.write(
        "/etc/kubernetes/pki/etcd/healthcheck-client.key",
        tls.key_pem,
    );
    machine
}

async fn id(lab: &Lab, n: u8) -> MemberId {
    let status = lab.client(n).status(SOON).await.expect("it runs");
    MemberId(status.member_id.0)
}

fn peer(lab: &Lab, n: u8) -> Peer {
    Peer {
        name: node(n),
        address: lab.ip(n).into(),
    }
}

fn node(n: u8) -> NodeName {
    format!("cp-{n}").parse().expect("a name")
}

/// What these members tell, once a removal is permitted by it.
async fn permitted(lab: &Lab, witnesses: &[u8], id: MemberId) -> Permit {
    let change = Change::RemoveMember { id, next: None };
    eventually(Duration::from_secs(20), "it is permitted", async || {
        let mut seen = Observation::default();
        for n in witnesses {
            let view: EtcdView = facts::etcd_view(&lab.client(*n)).await.ok()?;
            seen.etcd.insert(node(*n), Seen::now(Some(view)));
        }
        permit(&seen, &change, &BTreeSet::new()).ok()
    })
    .await
}

/// Acts on host `n`.
async fn on<T>(machine: &Machine, n: u8, act: impl AsyncFnOnce(&Work<'_>) -> T) -> T {
    testing::with_patience(machine, node(n).as_str(), Duration::from_secs(30), act).await
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_to_a_voter_that_was_named() {
    let Some(mut lab) = Lab::new() else { return };
    let all = [1, 2, 3, 4, 5];
    lab.found(&all, &[]).await;
    lab.lead(1, &all).await;
    let machine = machine(&lab);
    let one = id(&lab, 1).await;
    let client = lab.client(1);
    for _ in 0..2 {
        // The second time leadership has been handed over before.
        let permit = permitted(&lab, &all, one).await;
        let to = [peer(&lab, 3), peer(&lab, 6)].into();
        on(&machine, 1, async |work| {
            leader_moved::hand_over(work, &client, permit, one, &to).await
        })
        .await
        .unwrap();
        assert_eq!(lab.leader(&all).await, 3);
    }

    // Only one that lives takes over.
    lab.lead(1, &all).await;
    lab.kill(3);
    let living = [1, 2, 4, 5];
    let permit = permitted(&lab, &living, one).await;
    let to = [peer(&lab, 3)].into();
    let err = testing::with_work_async(&machine, "cp-1", async |work| {
        leader_moved::hand_over(work, &client, permit, one, &to).await
    })
    .await
    .unwrap_err();
    assert!(err.to_string().contains("nobody can take over"), "{err}");
    let permit = permitted(&lab, &living, one).await;
    let to = [peer(&lab, 3), peer(&lab, 2)].into();
    on(&machine, 1, async |work| {
        leader_moved::hand_over(work, &client, permit, one, &to).await
    })
    .await
    .unwrap();
    assert_eq!(lab.leader(&living).await, 2);

    // Asked on another member's host.
    let permit = permitted(&lab, &living, one).await;
    let other = lab.client(2);
    let to = [peer(&lab, 1)].into();
    let err = on(&machine, 2, async |work| {
        leader_moved::hand_over(work, &other, permit, one, &to).await
    })
    .await
    .unwrap_err();
    assert!(err.to_string().contains("this one is member"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_removed_by_id_and_address_together() {
    let Some(mut lab) = Lab::new() else { return };
    // Of four: what three become has to be joined by somebody at once, which nobody is about to here.
    let all = [1, 2, 3, 4];
    lab.found(&all, &[]).await;
    let machine = machine(&lab);
    let (one, three) = (id(&lab, 1).await, id(&lab, 3).await);
    let client = lab.client(1);
    let urls = |n| BTreeSet::from([lab.peer_url(n)]);
    let (right, wrong, own) = (urls(3), urls(2), urls(1));
    let remove = async |permit: Permit, member: MemberId, urls: &BTreeSet<String>| {
        on(&machine, 1, async |work| {
            member_gone::remove(work, &client, permit, member, urls).await
        })
        .await
    };
    let count = async || client.members(true, SOON).await.expect("a list").len();

    let err = remove(permitted(&lab, &all, three).await, three, &wrong).await;
    let err = err.unwrap_err().to_string();
    assert!(err.contains("the members have changed"), "{err}");
    let err = remove(permitted(&lab, &all, one).await, one, &own).await;
    let err = err.unwrap_err().to_string();
    assert!(err.contains("it is this host's own"), "{err}");
    let err = remove(permitted(&lab, &all, one).await, three, &right).await;
    assert!(matches!(err, Err(ActionError::Refused(_))), "{err:?}");
    assert_eq!(count().await, 4);

    let again = permitted(&lab, &all, three).await;
    remove(permitted(&lab, &all, three).await, three, &right)
        .await
        .unwrap();
    assert_eq!(count().await, 3);
    remove(again, three, &right).await.unwrap();
    assert_eq!(count().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_missed_within_seconds() {
    let Some(mut lab) = Lab::new() else { return };
    let all = [1, 2, 3];
    let url = format!("http://{}:2381", lab.ip(1));
    lab.start(1, "new", &all, &["--listen-metrics-urls", &url]);
    lab.start(2, "new", &all, &[]);
    lab.start(3, "new", &all, &[]);
    for n in all {
        lab.ready(n).await;
    }
    lab.lead(1, &all).await;
    let (two, three) = (id(&lab, 2).await, id(&lab, 3).await);
    let heard = facts::Heard::default();
    let client = lab.client(1);
    let manifests = facts::etcd_with_metrics(&url);
    let peers = async |expected: &[MemberId], within, what: &str| {
        eventually(Duration::from_secs(within), what, async || {
            let view = facts::etcd_counted(&client, &manifests, &heard)
                .await
                .ok()?;
            assert_eq!(view.leader, Some(view.member), "it leads on");
            assert!(view.fsync_p99_ms.get().is_ok());
            let seen = view.active_peers.get().expect("they are told").clone();
            (seen == expected.iter().copied().collect()).then_some(())
        })
        .await;
    };
    peers(&[two, three], 5, "both are there").await;
    // etcd keeps the stream: nothing tells it that the other end is silent.
    lab.signal(3, nix::sys::signal::Signal::SIGSTOP);
    peers(&[two], 10, "the one that is silent is missed").await;
    lab.signal(3, nix::sys::signal::Signal::SIGCONT);
    peers(&[two, three], 10, "it is back").await;
    lab.kill(3);
    peers(&[two], 10, "the one that ended is missed").await;
    lab.start(3, "new", &all, &[]);
    peers(&[two, three], 20, "it started again").await;
    let follower = lab.client(2);
    let view = facts::etcd_counted(&follower, &manifests, &heard).await;
    assert!(view.unwrap().active_peers.get().is_err(), "it cannot say");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_has_the_data_before_the_kubelet_starts_it() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1, 2, 3], &[]).await;
    let client = lab.client(1);
    let added = eventually(
        Duration::from_secs(20),
        "a learner is accepted",
        async || client.member_add_learner(&lab.peer_url(4), SOON).await.ok(),
    )
    .await;
    let url = format!("http://{}:2381", lab.ip(4));
    let metrics = facts::metrics_address(&facts::etcd_with_metrics(&url)["etcd"]).unwrap();
    let mut flags = lab.flags(4, "existing", &[1, 2, 3, 4]);
    flags.push(format!("--listen-metrics-urls={url}"));
    let tools = crate::command::Tools::default();
    let etcd = lab.etcd_folder().join("etcd");
    // The second time as after a run that was killed.
    for _ in 0..2 {
        first_start::run(&tools, &etcd, &flags, metrics)
            .await
            .unwrap();
        assert!(lab.path("m4/member/wal").exists());
        assert_eq!(facts::etcd_applied(metrics).await, None, "it runs no more");
    }
    let members = client.members(true, SOON).await.unwrap();
    let own = members.iter().find(|member| member.id == added.id);
    assert!(own.is_some_and(|member| member.is_learner), "{members:?}");

    lab.start(4, "existing", &[1, 2, 3, 4], &[]);
    lab.promote(1, &added).await;
    lab.ready(4).await;

    // One that cannot start is no news of data.
    flags.push("--no-such-flag=1".to_owned());
    let err = first_start::run(&tools, &etcd, &flags, metrics)
        .await
        .unwrap_err();
    assert!(err.contains("ended with exit code 2"), "{err}");
}
