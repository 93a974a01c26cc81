//! Silence, crashes and bad news: who is reset, who is not.

use std::time::Duration;

use quorate_lb::Balancer;
use quorate_lb::health::State;

use crate::backends::{Ca, Fake, Mode};
use crate::client::{Held, hold, until};
use crate::{Rig, all_up, backend, becomes};

fn split(held: Vec<Held>, name: &str) -> (Vec<Held>, Vec<Held>) {
    held.into_iter().partition(|held| held.backend == name)
}

#[tokio::test]
async fn a_frozen_backend_loses_its_connections_and_nobody_else_does() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a", "b", "c"]);
    let balancer = rig
        .balancer(rig.config(&fakes.iter().collect::<Vec<_>>()))
        .await;
    all_up(&balancer).await;
    let (mut on_a, mut others) = split(hold(balancer.listen_address(), 30).await, "a");
    assert!(!on_a.is_empty() && !others.is_empty());
    fakes[0].set(Mode::Frozen);
    for held in &mut on_a {
        held.reset().await;
    }
    let dead = backend(&balancer, "a");
    assert_eq!(dead.state, State::Dead);
    assert_eq!(
        (dead.ejected_total, dead.resets_total),
        (1, on_a.len() as u64)
    );
    for held in &mut others {
        held.alive().await.expect("not touched");
    }
    // Nothing new goes there, nobody is refused.
    assert!(
        hold(balancer.listen_address(), 10)
            .await
            .iter()
            .all(|held| held.backend != "a")
    );
    assert_eq!(balancer.status().totals.unserved, 0);
    // It comes back after three good answers, not after one.
    fakes[0].set(Mode::Ready);
    becomes(&balancer, "a", State::Up).await;
    let held = hold(balancer.listen_address(), 20).await;
    assert!(held.iter().any(|held| held.backend == "a"));
    for name in ["b", "c"] {
        assert_eq!(backend(&balancer, name).ejected_total, 0);
    }
}

/// Backends `a` and `b` that fell silent together, with ten connections to them.
async fn all_silent(rig: &Rig) -> (Vec<Fake>, Balancer, Vec<Held>) {
    let fakes = rig.fakes(&["a", "b"]);
    let balancer = rig.balancer(rig.config(&[&fakes[0], &fakes[1]])).await;
    all_up(&balancer).await;
    let held = hold(balancer.listen_address(), 10).await;
    fakes.iter().for_each(|fake| fake.set(Mode::Frozen));
    for name in ["a", "b"] {
        becomes(&balancer, name, State::Suspect).await;
    }
    (fakes, balancer, held)
}

#[tokio::test]
async fn when_all_are_silent_nobody_is_reset() {
    let rig = Rig::new();
    let (fakes, balancer, mut held) = all_silent(&rig).await;
    // Twice as long as a silence lasts that kills.
    tokio::time::sleep(Duration::from_secs(4)).await;
    for name in ["a", "b"] {
        assert_eq!(backend(&balancer, name).state, State::Suspect);
    }
    assert_eq!(balancer.connections(), 10);
    fakes.iter().for_each(|fake| fake.set(Mode::Ready));
    for name in ["a", "b"] {
        assert_eq!(becomes(&balancer, name, State::Up).await.ejected_total, 0);
    }
    for held in &mut held {
        held.alive().await.expect("it outlived the silence");
    }
}

/// As after a break of the balancer's own link: TCP sends once more to the one sooner, to the other later.
#[tokio::test]
async fn after_a_silence_of_all_the_one_heard_later_is_not_reset() {
    let rig = Rig::new();
    let (fakes, balancer, mut held) = all_silent(&rig).await;
    // With what makes a suspect more than a silence that kills, and less than the kept connections are given up after.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    fakes[0].set(Mode::Ready);
    becomes(&balancer, "a", State::Up).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    fakes[1].set(Mode::Ready);
    assert_eq!(becomes(&balancer, "b", State::Up).await.ejected_total, 0);
    for held in &mut held {
        held.alive().await.expect("it outlived the silence");
    }
}

#[tokio::test]
async fn a_backend_that_is_not_ready_keeps_what_it_has() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a", "b"]);
    let balancer = rig.balancer(rig.config(&[&fakes[0], &fakes[1]])).await;
    all_up(&balancer).await;
    let mut held = hold(balancer.listen_address(), 10).await;
    fakes[0].set(Mode::NotReady);
    let seen = becomes(&balancer, "a", State::NotReady).await;
    let readyz = seen.readyz.expect("it answered");
    assert_eq!(
        (readyz.code, readyz.text.as_str()),
        (500, "[-]etcd failed\\u{1b}[2J")
    );
    assert!(
        hold(balancer.listen_address(), 10)
            .await
            .iter()
            .all(|held| held.backend == "b")
    );
    assert!(!balancer.status().fail_open);
    // The other one too: now any is better than none, and that is said.
    fakes[1].set(Mode::NotReady);
    becomes(&balancer, "b", State::NotReady).await;
    assert!(balancer.status().fail_open);
    hold(balancer.listen_address(), 10).await;
    for held in &mut held {
        held.alive().await.expect("kept");
    }
    fakes.iter().for_each(|fake| fake.set(Mode::Ready));
    all_up(&balancer).await;
    assert!(!balancer.status().fail_open);
    assert_eq!(
        backend(&balancer, "a").resets_total + backend(&balancer, "b").resets_total,
        0
    );
}

#[tokio::test]
async fn a_crashed_backend_is_known_by_its_connection_and_comes_back() {
    let rig = Rig::new();
    let a = Fake::start("a", &rig.ca);
    let b = Fake::start("b", &rig.ca);
    let balancer = rig.balancer(rig.config(&[&a, &b])).await;
    all_up(&balancer).await;
    let address = a.address;
    drop(a);
    let closed = becomes(&balancer, "a", State::Closed).await;
    assert_eq!(closed.error.as_deref(), Some("connection refused"));
    assert_eq!(
        closed.ejected_total, 0,
        "its kernel has ended its connections, we need not"
    );
    assert!(
        hold(balancer.listen_address(), 10)
            .await
            .iter()
            .all(|held| held.backend == "b")
    );
    let _again = Fake::start_at("a", &rig.ca, address, "kubernetes", 1024);
    becomes(&balancer, "a", State::Up).await;
    assert!(
        hold(balancer.listen_address(), 20)
            .await
            .iter()
            .any(|held| held.backend == "a")
    );
    assert_eq!(balancer.status().totals.unserved, 0);
}

#[tokio::test]
async fn a_goodbye_is_followed_by_a_new_hello() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a", "b"]);
    let balancer = rig.balancer(rig.config(&[&fakes[0], &fakes[1]])).await;
    all_up(&balancer).await;
    let shaken = || {
        fakes[0]
            .seen
            .handshakes
            .load(std::sync::atomic::Ordering::SeqCst)
    };
    let before = shaken();
    fakes[0].set(Mode::Leaving);
    until("a new connection", shaken, |now| *now > before).await;
    fakes[0].set(Mode::Ready);
    becomes(&balancer, "a", State::Up).await;
    assert_eq!(
        backend(&balancer, "a").suspected_total,
        0,
        "apiservers say goodbye to spread clients"
    );
}

#[tokio::test]
async fn an_impostor_is_never_up() {
    let rig = Rig::new();
    let good = Fake::start("good", &rig.ca);
    let other_ca = Ca::new(rig.dir.path(), "other");
    let impostor = Fake::start("impostor", &other_ca);
    let misnamed = Fake::start_at(
        "misnamed",
        &rig.ca,
        ([127, 0, 0, 1], 0).into(),
        "example",
        1024,
    );
    let balancer = rig
        .balancer(rig.config(&[&good, &impostor, &misnamed]))
        .await;
    becomes(&balancer, "good", State::Up).await;
    for (name, said) in [
        ("impostor", "UnknownIssuer"),
        ("misnamed", "not valid for name"),
    ] {
        let seen = becomes(&balancer, name, State::NotReady).await;
        let error = seen.error.expect("a reason");
        assert!(error.contains(said), "{error}");
    }
    assert!(
        hold(balancer.listen_address(), 10)
            .await
            .iter()
            .all(|held| held.backend == "good")
    );
    // Asked in words, nothing is checked.
    let mut config = rig.config(&[&good, &impostor, &misnamed]);
    config.health.ca_file = None;
    config.health.insecure_skip_verify = true;
    config.health.server_name = "anything".to_owned();
    balancer.reload(config).expect("taken");
    all_up(&balancer).await;
}

#[tokio::test]
async fn our_own_lateness_is_nobodys_fault() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a", "b"]);
    let mut config = rig.config(&[&fakes[0], &fakes[1]]);
    // This test's own thread is the watch's, and stands still far longer than a silence that kills.
    config.health.suspect_after = Duration::from_millis(100);
    config.health.dead_after = Duration::from_millis(200);
    let balancer = rig.balancer(config).await;
    all_up(&balancer).await;
    let mut held = hold(balancer.listen_address(), 10).await;
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(1000));
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    all_up(&balancer).await;
    let status = balancer.status();
    assert!(
        status.totals.stalls > 0,
        "no timer was late: nothing was tested"
    );
    for backend in status.backends {
        assert_eq!(
            (backend.ejected_total, backend.resets_total),
            (0, 0),
            "{}",
            backend.name
        );
    }
    for held in &mut held {
        held.alive().await.expect("not touched");
    }
}
