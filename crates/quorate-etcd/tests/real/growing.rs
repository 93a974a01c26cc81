//! Adding, starting and promoting members.

use std::time::{Duration, Instant};

use quorate_etcd::{ConnectError, EtcdError, MemberId};

use crate::lab::{Lab, SOON, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn one_grows_to_three_by_learners() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1], &[]).await;
    let m1 = lab.client(1);
    let founder = &m1.members(true, SOON).await.unwrap()[0];
    assert!(founder.has_started() && !founder.is_learner && founder.name == "m1");
    assert_eq!(founder.client_urls, [lab.client_url(1)]);

    // The founder is its own quorum: nothing to be connected to, so the first learner needs no 5 s.
    let added = m1.member_add_learner(&lab.peer_url(2), SOON).await.unwrap();
    assert!(added.is_learner && !added.has_started());
    let early = m1.member_promote(added.id, SOON).await.unwrap_err();
    assert!(matches!(early, EtcdError::LearnerNotReady), "{early:?}");
    assert!(!early.may_have_applied());
    let second = m1
        .member_add_learner(&lab.peer_url(3), SOON)
        .await
        .unwrap_err();
    assert!(matches!(second, EtcdError::TooManyLearners), "{second:?}");
    // The peer URL is compared before the learners are counted.
    let twice = m1
        .member_add_learner(&lab.peer_url(2), SOON)
        .await
        .unwrap_err();
    assert!(matches!(twice, EtcdError::PeerUrlExists), "{twice:?}");

    lab.start(2, "existing", &[1, 2], &[]);
    let m2 = lab.client(2);
    let status = eventually(
        Duration::from_secs(20),
        "the learner knows the leader",
        || async { m2.status(SOON).await.ok().filter(|s| s.leader.is_some()) },
    )
    .await;
    assert!(status.is_learner && status.member_id == added.id);
    for answer in [
        m2.members(false, SOON).await.err(),
        m2.members(true, SOON).await.err(),
        m2.get(b"a", SOON).await.err(),
        m2.alarms(SOON).await.err(),
        m2.hash_kv(0, SOON).await.err(),
    ] {
        assert!(
            matches!(answer, Some(EtcdError::IsLearner { .. })),
            "{answer:?}"
        );
    }
    m1.put(b"a", b"1", SOON).await.unwrap();
    eventually(SOON, "the learner has the key", || async {
        m2.get_local(b"a", SOON).await.unwrap()
    })
    .await;
    // An entry that changes nothing is an entry all the same: whoever has it is connected now.
    let before = m1.status(SOON).await.unwrap();
    assert!(!m1.delete(b"nothing", SOON).await.unwrap());
    let after = m1.status(SOON).await.unwrap();
    assert!(after.raft_index > before.raft_index && after.revision == before.revision);
    eventually(SOON, "the learner has the entry", || async {
        let there = m2.status(SOON).await.ok()?;
        (there.raft_index >= after.raft_index && there.leader == after.leader).then_some(())
    })
    .await;
    lab.promote(1, &added).await;
    let again = m1.member_promote(added.id, SOON).await.unwrap_err();
    assert!(matches!(again, EtcdError::NotALearner), "{again:?}");
    // The leader knows no progress of a stranger; etcd looks for it before anything else.
    let stranger = m1.member_promote(MemberId(7), SOON).await.unwrap_err();
    assert!(
        matches!(stranger, EtcdError::MemberNotFound),
        "{stranger:?}"
    );

    // Two voters: the next is refused until they have been connected for 5 s.
    let refused_since = Instant::now();
    let refusal = m1.member_add_learner(&lab.peer_url(3), SOON).await;
    let added_early = refusal.is_ok();
    lab.ready(2).await;
    if !added_early {
        assert!(
            matches!(refusal, Err(EtcdError::UnhealthyCluster)),
            "{refusal:?}"
        );
        lab.join(1, 3, &[1, 2, 3]).await;
    }
    eprintln!(
        "third member: first refused: {}, voter after {:?}",
        !added_early,
        refused_since.elapsed()
    );
    assert!(
        !added_early,
        "etcd accepted a member although two voters were connected for less than 5 s"
    );
    assert!(
        refused_since.elapsed() > Duration::from_secs(2),
        "the refusal lasted only {:?}",
        refused_since.elapsed()
    );

    let members = lab.client(3).members(true, SOON).await.unwrap();
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|m| !m.is_learner));
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_needs_a_majority_of_the_larger_cluster() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1, 2, 3], &[]).await;
    let m1 = lab.client(1);
    // All three connected for 5 s: accepted, and taken back.
    let learner = eventually(Duration::from_secs(20), "a learner is accepted", || async {
        m1.member_add_learner(&lab.peer_url(6), SOON).await.ok()
    })
    .await;
    m1.member_remove(learner.id, SOON).await.unwrap();
    // Of four (three and the new one, counted as down) two are connected, three would be needed.
    lab.kill(3);
    let refused = eventually(Duration::from_secs(20), "etcd notices the loss", || async {
        m1.member_add_learner(&lab.peer_url(5), SOON).await.err()
    })
    .await;
    assert!(
        matches!(refused, EtcdError::UnhealthyCluster),
        "{refused:?}"
    );
    assert!(!refused.may_have_applied());
}

#[tokio::test(flavor = "multi_thread")]
async fn five_with_one_down_still_take_a_member() {
    let Some(mut lab) = Lab::new() else { return };
    let all = [1, 2, 3, 4, 5];
    lab.found(&all, &[]).await;
    lab.kill(5);
    let m1 = lab.client(1);
    // Of six, four are connected, which is a majority. Up to 3.6.10 and 3.5.29 etcd demanded all of them.
    lab.leader(&[1, 2, 3, 4]).await;
    let learner = eventually(Duration::from_secs(20), "a learner is accepted", || async {
        m1.member_add_learner(&lab.peer_url(6), SOON).await.ok()
    })
    .await;
    assert!(learner.is_learner);
    m1.member_remove(learner.id, SOON).await.unwrap();
    lab.kill(4);
    // It may have been the leader: an election takes longer than a call may.
    lab.leader(&[1, 2, 3]).await;
    // Of six, three.
    eventually(
        Duration::from_secs(20),
        "etcd notices the second loss",
        || async {
            match m1.member_add_learner(&lab.peer_url(6), SOON).await {
                Err(EtcdError::UnhealthyCluster) => Some(()),
                Ok(early) => m1
                    .member_remove(early.id, SOON)
                    .await
                    .map(|_| None)
                    .unwrap(),
                Err(err) => panic!("{err:?}"),
            }
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_learner_is_promoted_and_takes_the_quorum_with_it() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1], &[]).await;
    let m1 = lab.client(1);
    let added = m1.member_add_learner(&lab.peer_url(2), SOON).await.unwrap();
    lab.start(2, "existing", &[1, 2], &[]);
    lab.ready(2).await;
    let target = m1.status(SOON).await.unwrap().raft_applied_index;
    let m2 = lab.client(2);
    eventually(SOON, "the learner is in sync", || async {
        m2.status(SOON)
            .await
            .ok()
            .filter(|s| s.raft_applied_index >= target)
    })
    .await;
    lab.kill(2);
    // etcd looks at how much of the log the learner had confirmed, not at whether it lives.
    m1.member_promote(added.id, SOON).await.unwrap();
    let lost = m1
        .put(b"a", b"1", Duration::from_secs(3))
        .await
        .unwrap_err();
    assert!(matches!(lost, EtcdError::Deadline { .. }), "{lost:?}");
    assert!(lost.may_have_applied());
    eventually(SOON, "the founder steps down", || async {
        m1.status(SOON).await.ok().filter(|s| s.leader.is_none())
    })
    .await;
    // Only the other half of the quorum helps.
    lab.start(2, "existing", &[1, 2], &[]);
    eventually(Duration::from_secs(20), "writes work again", || async {
        m1.put(b"b", b"1", SOON).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_names_exactly_the_members() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1], &[]).await;
    let m1 = lab.client(1);
    let added = m1.member_add_learner(&lab.peer_url(4), SOON).await.unwrap();
    for (members, last_words) in [
        (&[1, 3, 4][..], "member count is unequal"),
        (&[3, 4], "cannot fetch cluster info from peer urls"),
        (&[1, 2], "couldn't find local name"),
    ] {
        // The data folder stays empty: a later try with the right members may use it.
        lab.start(4, "existing", members, &[]);
        lab.ended(4, Duration::from_secs(30)).await;
        assert!(
            lab.log(4).contains(last_words),
            "{members:?}: {}",
            lab.log(4)
        );
    }
    lab.start(4, "existing", &[1, 4], &[]);
    lab.promote(1, &added).await;

    // With `new` it founds a cluster of its own id, which the others do not talk to, and never serves clients.
    let stray = eventually(Duration::from_secs(20), "a learner is accepted", || async {
        m1.member_add_learner(&lab.peer_url(5), SOON).await.ok()
    })
    .await;
    lab.start(5, "new", &[1, 4, 5], &[]);
    eventually(Duration::from_secs(20), "m5 meets the others", || async {
        lab.log(5).contains("cluster ID mismatch").then_some(())
    })
    .await;
    let err = lab.client(5).status(SOON).await.unwrap_err();
    assert!(
        matches!(
            err,
            EtcdError::Unreachable {
                source: ConnectError::Silent { .. },
                ..
            }
        ),
        "{err:?}"
    );
    let early = m1.member_promote(stray.id, SOON).await.unwrap_err();
    assert!(matches!(early, EtcdError::LearnerNotReady), "{early:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn within_one_second_an_id_comes_back() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1], &[]).await;
    let m1 = lab.client(1);
    let url = lab.peer_url(2);
    // Three calls take milliseconds; when they straddle a second's end the add is accepted, and the next try begins early in one.
    let mut refusal = None;
    for _ in 0..10 {
        let Ok(first) = m1.member_add_learner(&url, SOON).await else {
            continue;
        };
        m1.member_remove(first.id, SOON).await.unwrap();
        match m1.member_add_learner(&url, SOON).await {
            Ok(second) => {
                assert_ne!(second.id, first.id);
                m1.member_remove(second.id, SOON).await.unwrap();
            }
            Err(err) => {
                refusal = Some(err);
                break;
            }
        }
    }
    // The hash of the same URL and the same second is the id that was just removed, and removed ids never return.
    assert!(
        matches!(refusal, Some(EtcdError::MemberNotFound)),
        "{refusal:?}"
    );
    let later = eventually(SOON, "the second is over", || async {
        m1.member_add_learner(&url, SOON).await.ok()
    })
    .await;
    assert!(later.is_learner);
}
