//! Removing members, and members that lost something.

use std::time::Duration;

use quorate_etcd::{EtcdError, MemberId};

use crate::lab::{Lab, SOON, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn removing_judges_the_members_that_are_connected() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1, 2, 3], &[]).await;
    let m1 = lab.client(1);
    let id = async |n: u8| {
        m1.members(false, SOON)
            .await
            .unwrap()
            .iter()
            .find(|m| m.name == format!("m{n}"))
            .expect("it is a member")
            .id
    };
    let (two, three) = (id(2).await, id(3).await);
    let unknown = m1.member_remove(MemberId(7), SOON).await.unwrap_err();
    assert!(matches!(unknown, EtcdError::MemberNotFound), "{unknown:?}");

    // One is down: a connected one may not go, the one that is down may.
    lab.kill(3);
    lab.leader(&[1, 2]).await;
    let refused = m1.member_remove(two, SOON).await.unwrap_err();
    assert!(
        matches!(refused, EtcdError::UnhealthyCluster),
        "{refused:?}"
    );
    let left = eventually(
        Duration::from_secs(20),
        "the dead one is removed",
        || async {
            match m1.member_remove(three, SOON).await {
                Ok(left) => Some(left),
                // Until the peer's streams are known to be broken it counts as connected.
                Err(EtcdError::UnhealthyCluster) => None,
                Err(err) => panic!("{err:?}"),
            }
        },
    )
    .await;
    assert_eq!(left.len(), 2);
    let again = m1.member_remove(three, SOON).await.unwrap_err();
    assert!(matches!(again, EtcdError::MemberNotFound), "{again:?}");

    // The removed one comes back with its data: it is told and ends.
    lab.start(3, "existing", &[1, 2, 3], &[]);
    let status = lab.ended(3, Duration::from_secs(30)).await;
    eprintln!(
        "the removed member ended with {status}; {}",
        lab.log(3)
            .lines()
            .filter(|l| l.contains("removed"))
            .take(3)
            .collect::<Vec<_>>()
            .join("\n")
    );
    // Its old peer URL is free again, under a new id.
    let back = eventually(Duration::from_secs(20), "it is accepted as new", || async {
        m1.member_add_learner(&lab.peer_url(3), SOON).await.ok()
    })
    .await;
    assert_ne!(back.id, three);
    // With its old data it is still the removed one.
    lab.start(3, "existing", &[1, 2, 3], &[]);
    lab.ended(3, Duration::from_secs(30)).await;
    m1.member_remove(back.id, SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_voters_and_one() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1], &[]).await;
    let m1 = lab.client(1);
    let one = m1.status(SOON).await.unwrap().member_id;
    let last = m1.member_remove(one, SOON).await.unwrap_err();
    assert!(matches!(last, EtcdError::NotEnoughStarted), "{last:?}");
    assert!(!last.may_have_applied());

    // Of two, a connected voter may go only after it has been connected for 5 s.
    lab.join(1, 2, &[1, 2]).await;
    lab.ready(2).await;
    let two = lab.client(2).status(SOON).await.unwrap().member_id;
    let early = m1.member_remove(two, SOON).await;
    assert!(
        matches!(early, Err(EtcdError::UnhealthyCluster)),
        "{early:?}"
    );
    let left = eventually(
        Duration::from_secs(20),
        "the second voter is removed",
        || async { m1.member_remove(two, SOON).await.ok() },
    )
    .await;
    assert_eq!(left.len(), 1);
    m1.put(b"alone", b"again", SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_without_its_data_stays_out_while_a_leader_remembers_it() {
    let Some(mut lab) = Lab::new() else { return };
    let all = [1, 2, 3];
    lab.found(&all, &[]).await;
    let m1 = lab.client(1);
    lab.lead(1, &all).await;
    m1.put(b"a", b"1", SOON).await.unwrap();
    let term = m1.status(SOON).await.unwrap().raft_term;
    lab.kill(3);

    std::fs::remove_dir_all(lab.path("m3")).unwrap();
    lab.start(3, "new", &all, &[]);
    lab.ended(3, Duration::from_secs(30)).await;
    assert!(
        lab.log(3).contains("has already been bootstrapped"),
        "{}",
        lab.log(3)
    );

    // On a busy machine an election may come in between; then the next test's rule holds instead of this one's.
    if m1.status(SOON).await.unwrap().raft_term == term {
        lab.start(3, "existing", &all, &[]);
        lab.ended(3, Duration::from_secs(30)).await;
        assert!(
            lab.log(3).contains("is out of range [lastIndex(0)]"),
            "{}",
            lab.log(3)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_without_its_data_is_back_after_an_election() {
    let Some(mut lab) = Lab::new() else { return };
    let all = [1, 2, 3];
    lab.found(&all, &[]).await;
    lab.lead(3, &all).await;
    let m3 = lab.client(3);
    m3.put(b"a", b"1", SOON).await.unwrap();
    let before = m3.status(SOON).await.unwrap();
    lab.kill(3);
    lab.leader(&[1, 2]).await;
    std::fs::remove_dir_all(lab.path("m3")).unwrap();
    // The new leader has no idea how much of the log it had confirmed: nobody objects to a voter that forgot its promises.
    lab.start(3, "existing", &all, &[]);
    lab.ready(3).await;
    let after = m3.status(SOON).await.unwrap();
    assert_eq!(
        (after.member_id, after.is_learner),
        (before.member_id, false)
    );
    assert!(after.raft_term > before.raft_term);
    eventually(SOON, "the log is sent again", || async {
        m3.get_local(b"a", SOON).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_urls_are_updated_and_unique() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1, 2, 3], &[]).await;
    let m1 = lab.client(1);
    let two = lab.client(2).status(SOON).await.unwrap().member_id;
    let taken = m1
        .member_update(two, &[lab.peer_url(3)], SOON)
        .await
        .unwrap_err();
    assert!(matches!(taken, EtcdError::PeerUrlExists), "{taken:?}");
    let stranger = m1
        .member_update(MemberId(7), &[lab.peer_url(6)], SOON)
        .await
        .unwrap_err();
    assert!(
        matches!(stranger, EtcdError::MemberNotFound),
        "{stranger:?}"
    );
    let urls = [lab.peer_url(2), lab.peer_url(5)];
    m1.member_update(two, &urls, SOON).await.unwrap();
    let members = m1.members(true, SOON).await.unwrap();
    assert_eq!(
        members
            .iter()
            .find(|m| m.id == two)
            .expect("still a member")
            .peer_urls,
        urls
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founder_without_its_data_founds_again_when_it_is_alone() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1], &[]).await;
    let m1 = lab.client(1);
    m1.put(b"precious", b"1", SOON).await.unwrap();
    let before = m1.status(SOON).await.unwrap();
    lab.kill(1);
    std::fs::remove_dir_all(lab.path("m1")).unwrap();
    // kubeadm's manifest of the first master says exactly this, for ever.
    lab.found(&[1], &[]).await;
    let after = eventually(SOON, "the new m1 answers", || async {
        m1.status(SOON).await.ok()
    })
    .await;
    assert_eq!(
        (after.cluster_id, after.member_id),
        (before.cluster_id, before.member_id)
    );
    assert_eq!(m1.get(b"precious", SOON).await.unwrap(), None);
}
