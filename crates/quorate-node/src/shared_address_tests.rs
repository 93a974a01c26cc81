//! By the kernel itself where a rule is concerned; keepalived's own word on its configuration is heard on real hosts.

use super::*;
use crate::testing;

fn note(peers: &[(&str, u8)]) -> Note {
    Note {
        address: [10, 0, 0, 9].into(),
        port: 6443,
        node: "cp-2".parse().unwrap(),
        own: [10, 0, 0, 12].into(),
        interface: "eth0".into(),
        peers: peers
            .iter()
            .map(|(name, last)| (name.parse().unwrap(), [10, 0, 0, *last].into()))
            .collect(),
    }
}

#[test]
fn nft_takes_the_rules_twice_and_beside_those_of_an_old_address() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules");
    fs::write(&file, rules(&note(&[]))).unwrap();
    let script = format!(
        "nft add table ip quorate-old-address && nft -f {0} && nft -f {0} && nft -j list tables && \
         nft list table ip {TABLE} && nft delete table ip {TABLE} && nft -j list tables",
        file.display()
    );
    let out = std::process::Command::new("unshare")
        .args(["--net", "--map-root-user", "sh", "-c", &script])
        .output()
        .unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(
        out.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let lines: Vec<&str> = said.lines().collect();
    let (first, last) = (lines[0], lines[lines.len() - 1]);
    assert!(packets::lists_table(first, "ip", TABLE), "{first}");
    assert!(!packets::lists_table(last, "ip", TABLE), "{last}");
    assert!(packets::lists_table(last, "ip", "quorate-old-address"));
    let rule = "ip daddr 10.0.0.9 fib daddr type local tcp dport 6443 redirect to :7443";
    assert_eq!(said.matches(rule).count(), 2, "{said}");
}

#[test]
fn every_host_tells_its_peers_and_nobody_else() {
    let text = config(&note(&[("cp-1", 11), ("cp-3", 13)]));
    assert!(text.contains("    unicast_src_ip 10.0.0.12\n    unicast_peer {\n        10.0.0.11\n        10.0.0.13\n    }\n"));
    assert!(text.contains("    virtual_router_id 9\n    priority 180\n"));
    assert!(text.contains("    state BACKUP\n    nopreempt\n"));
    assert!(text.contains("        10.0.0.9/32 dev eth0\n"));
    assert_eq!(text.matches('{').count(), text.matches('}').count());
    assert!(!config(&note(&[])).contains("unicast_peer"));
    assert!(config(&note(&[])).contains("priority 200\n"));
}

#[test]
fn a_router_id_is_never_none() {
    for (last, id) in [(9, 9), (255, 255), (0, 255)] {
        assert_eq!(router_id([10, 0, 0, last].into()), id);
    }
}

/// The check as it is run, against somebody who keeps the connection, one who ends it, and nobody.
#[test]
fn the_check_asks_for_a_connection_that_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let run = |port: u16| {
        let file = folder.path().join("check");
        let own = format!("127.0.0.1/{BALANCER_ON_MASTER}");
        let text = check().replace(&own, &format!("127.0.0.1/{port}"));
        assert_ne!(text, check());
        fs::write(&file, text).unwrap();
        let status = std::process::Command::new("bash").arg(&file).status();
        status.unwrap().success()
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(run(port), "it waits for the client to speak");
    let ends = std::thread::spawn(move || {
        for _ in 0..2 {
            drop(listener.accept().unwrap());
        }
    });
    assert!(!run(port), "nobody is behind it");
    ends.join().unwrap();
    assert!(!run(port), "nobody listens");
}

#[tokio::test]
async fn what_was_written_is_known_to_be_changed() {
    let machine = testing::machine();
    let tools = Tools::default();
    let nothing = look(&machine.paths, &tools).await;
    assert_eq!(nothing.get().unwrap().share, None);
    assert!(!has_part(&machine.paths));
    let note = note(&[("cp-1", 11)]);
    for (path, text, mode) in files(&machine.paths, &note) {
        durable::write(&path, text.as_bytes(), mode).unwrap();
    }
    assert!(intact(&machine.paths, &note).unwrap());
    machine.write(CONFIG, "vrrp_instance mine {}\n");
    assert!(!intact(&machine.paths, &note).unwrap());
    machine.write("/var/lib/quorate/shared-address.json", "{");
    assert!(look(&machine.paths, &tools).await.get().is_err());
    assert!(has_part(&machine.paths));
}

#[test]
fn keepalived_runs_by_its_units_account() {
    let share = Share {
        address: [10, 0, 0, 9].into(),
        port: 6443,
        peers: BTreeMap::new(),
        intact: true,
        active: false,
        redirects: true,
        holds: true,
    };
    let sharing = |share| {
        Seen::now(Sharing {
            keepalived: true,
            share,
        })
    };
    let unit = Unit {
        active: true,
        enabled: true,
        state: "active/running".into(),
    };
    let units = Seen::now([("quorate-keepalived".to_owned(), unit)].into());
    let unseen = Seen::Unknown(Missing::not_looked("units"));
    let with = |share, units: &_| with_unit(sharing(share), units);
    let seen = with(Some(share.clone()), &units);
    assert!(seen.get().unwrap().share.as_ref().unwrap().active);
    assert!(with(Some(share), &unseen).get().is_err());
    assert!(with(None, &unseen).get().is_ok());
}
