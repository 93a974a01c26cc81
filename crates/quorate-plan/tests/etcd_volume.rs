//! Taking over a disk that an earlier machine had for etcd.

mod seeing;

use std::collections::BTreeSet;

use quorate_plan::{
    Fence, HostEnsure, Observation, Request, Seen, admit,
    observation::{EtcdVolume, Fencing, HostFacts, VolumeContent},
    spec::EtcdDevice,
};
use seeing::{node, peer, seen};

fn asked(request: Request, there: &Observation) -> String {
    match admit(request, &Fencing::default(), there) {
        Ok(_) => "admitted".into(),
        Err(refusal) => format!("{}: {refusal}", refusal.code()),
    }
}

/// Of the disk of an earlier machine: what lies on it is moved aside only where nobody counts on it.
#[test]
fn the_disk_of_a_member_is_not_taken_over() {
    let device = EtcdDevice::named("/dev/disk/by-id/etcd");
    let volume = |content| {
        Seen::now(Some(EtcdVolume {
            device: device.to_string(),
            content,
            hides: false,
        }))
    };
    let take = || {
        let ensure = HostEnsure::EtcdVolume {
            node: peer("d"),
            device: device.clone(),
        };
        Request {
            fence: Fence(5),
            ensure,
            change: None,
            sealed: Vec::new(),
            receipt: None,
            accepted: BTreeSet::new(),
            testimony: Observation::default(),
        }
    };
    let judged = |hosts: &str, content| {
        let mut seen = seen(hosts);
        let mut facts = HostFacts::blank(&node("d"));
        facts.etcd_volume = volume(content);
        seen.hosts.insert(node("d"), Seen::now(facts));
        asked(take(), &seen)
    };
    for content in [VolumeContent::Blank, VolumeContent::Made] {
        assert_eq!(judged("a. b. c.", content), "admitted");
    }
    let earlier = || VolumeContent::Earlier;
    assert_eq!(judged("a+ b+ c+", earlier()), "admitted");
    assert_eq!(
        judged("a+ b+ c+ d-", earlier()),
        "still-member: d shall be reset and is still member d1 of etcd"
    );
    assert_eq!(
        judged("a. b. c.", earlier()),
        "not-blank: d shall found a cluster, but carries etcd's volume of an earlier machine, on which a member's data may lie"
    );
    let unseen = asked(take(), &seen("a+ b+ c+"));
    assert_eq!(unseen, "missing: host d was not looked at");
}
