//! Changing the set of backends, the listener, and who is drained, under live connections.

use std::time::Duration;

use quorate_lb::health::State;
use quorate_lb::{DrainError, StartError};

use crate::backends::{Fake, Mode};
use crate::client::{Held, hold, until, within};
use crate::{Rig, all_up, backend, becomes};

#[tokio::test]
async fn a_reload_keeps_two_hundred_connections() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a", "b", "c"]);
    let config = rig.config(&[&fakes[0], &fakes[1]]);
    let balancer = rig.balancer(config.clone()).await;
    all_up(&balancer).await;
    let mut held = hold(balancer.listen_address(), 200).await;
    let up_for = backend(&balancer, "b").state_for_ms;

    let mut next = rig.config(&[&fakes[1], &fakes[2]]);
    next.listen = config.listen;
    let reloaded = balancer.reload(next).expect("taken");
    assert_eq!(
        reloaded.to_string(),
        "backends added: c; removed: a; kept: b"
    );

    let b = backend(&balancer, "b");
    assert_eq!(b.state, State::Up, "its state was not forgotten");
    assert!(b.state_for_ms >= up_for);
    becomes(&balancer, "c", State::Up).await;
    for held in &mut held {
        held.alive().await.expect("a reload cuts nobody");
    }
    let new = hold(balancer.listen_address(), 20).await;
    assert!(new.iter().all(|held| held.backend != "a"));
    assert!(
        new.iter().any(|held| held.backend == "c"),
        "the new one has the fewest"
    );
    let leaving = |status: quorate_lb::admin::Status| {
        status
            .backends
            .into_iter()
            .find(|b| b.leaving)
            .map(|b| (b.name, b.connections))
    };
    let on_a = held.iter().filter(|held| held.backend == "a").count() as u32;
    assert_eq!(leaving(balancer.status()), Some(("a".to_owned(), on_a)));
    // When the last of them ends, it is gone; not before.
    held.retain(|held| held.backend != "a");
    until("a gone", || leaving(balancer.status()), Option::is_none).await;
    for held in &mut held {
        held.alive().await.expect("still there");
    }
    assert_eq!(balancer.status().totals.reloads, 1);
}

#[tokio::test]
async fn a_removed_backend_is_let_go_after_its_time() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a", "b"]);
    let balancer = rig.balancer(rig.config(&[&fakes[0], &fakes[1]])).await;
    all_up(&balancer).await;
    let held = hold(balancer.listen_address(), 10).await;
    let (mut on_a, mut on_b): (Vec<Held>, Vec<Held>) =
        held.into_iter().partition(|h| h.backend == "a");
    assert!(!on_a.is_empty());
    let mut next = rig.config(&[&fakes[1]]);
    next.connections.drain_max = Duration::from_millis(300);
    balancer.reload(next).expect("taken");
    for held in &mut on_a {
        held.reset().await;
    }
    until(
        "a gone",
        || balancer.status().backends.len(),
        |count| *count == 1,
    )
    .await;
    for held in &mut on_b {
        held.alive().await.expect("not touched");
    }
}

#[tokio::test]
async fn a_removed_backend_that_dies_is_still_reset() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a", "b"]);
    let balancer = rig.balancer(rig.config(&[&fakes[0], &fakes[1]])).await;
    all_up(&balancer).await;
    let held = hold(balancer.listen_address(), 10).await;
    let mut on_a: Vec<Held> = held
        .into_iter()
        .filter(|held| held.backend == "a")
        .collect();
    balancer.reload(rig.config(&[&fakes[1]])).expect("taken");
    fakes[0].set(Mode::Frozen);
    for held in &mut on_a {
        held.reset().await;
    }
}

#[tokio::test]
async fn the_listener_moves_and_connections_do_not() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a"]);
    let balancer = rig.balancer(rig.config(&[&fakes[0]])).await;
    let before = balancer.listen_address();
    let mut held = hold(before, 5).await;
    let mut next = rig.config(&[&fakes[0]]);
    next.listen = ([127, 0, 0, 2], 0).into();
    balancer.reload(next).expect("taken");
    let after = balancer.listen_address();
    assert_ne!(before, after);
    hold(after, 5).await;
    until(
        "the old one closed",
        || std::net::TcpStream::connect(before).is_err(),
        |closed| *closed,
    )
    .await;
    for held in &mut held {
        held.alive().await.expect("kept");
    }
}

#[tokio::test]
async fn a_refused_reload_changes_nothing() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a", "b"]);
    let config = rig.config(&[&fakes[0]]);
    let balancer = rig.balancer(config.clone()).await;
    let mut held = hold(balancer.listen_address(), 5).await;

    let mut bad = rig.config(&[&fakes[1]]);
    bad.health.ca_file = Some(rig.dir.path().join("nothing.crt"));
    match balancer.reload(bad) {
        Err(StartError::Config(_)) => {}
        other => panic!("{other:?}"),
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let mut bad = rig.config(&[&fakes[1]]);
    bad.listen = taken.local_addr().expect("bound");
    match balancer.reload(bad) {
        Err(StartError::Listen { address, .. }) => {
            assert_eq!(address, taken.local_addr().expect("bound"))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(balancer.config(), config);
    assert_eq!(backend(&balancer, "a").state, State::Up);
    for held in &mut held {
        held.alive().await.expect("kept");
    }
    hold(balancer.listen_address(), 5).await;
}

#[tokio::test]
async fn a_drained_backend_gets_nothing_new_and_keeps_what_it_has() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a", "b"]);
    let config = rig.config(&[&fakes[0], &fakes[1]]);
    let balancer = rig.balancer(config.clone()).await;
    all_up(&balancer).await;
    let mut held = hold(balancer.listen_address(), 10).await;
    balancer.drain("a", false).expect("b is up");
    assert!(
        hold(balancer.listen_address(), 10)
            .await
            .iter()
            .all(|held| held.backend == "b")
    );
    match balancer.drain("b", false) {
        Err(DrainError::NothingLeft { .. }) => {}
        other => panic!("{other:?}"),
    }
    // A reload is no reason to forget it.
    balancer.reload(config).expect("taken");
    assert!(backend(&balancer, "a").drained);
    for held in &mut held {
        held.alive().await.expect("kept");
    }
    balancer.undrain("a").expect("there");
    assert!(
        hold(balancer.listen_address(), 30)
            .await
            .iter()
            .any(|held| held.backend == "a")
    );
}

#[tokio::test]
async fn stopping_waits_for_connections_and_not_for_ever() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a"]);
    let balancer = rig.balancer(rig.config(&[&fakes[0]])).await;
    let address = balancer.listen_address();
    let held = hold(address, 3).await;
    let ending = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(held);
    });
    let cut = within("the stop", balancer.stop(Duration::from_secs(60))).await;
    assert_eq!(cut, 0);
    ending.await.expect("ended");
    std::net::TcpStream::connect(address).expect_err("nobody listens any more");

    let balancer = rig.balancer(rig.config(&[&fakes[0]])).await;
    let mut held = hold(balancer.listen_address(), 3).await;
    assert_eq!(
        within("the stop", balancer.stop(Duration::from_millis(200))).await,
        3
    );
    for held in &mut held {
        held.reset().await;
    }
}

#[tokio::test]
async fn a_backend_that_joins_late_gets_nothing_before_it_is_ready() {
    let rig = Rig::new();
    let a = Fake::start("a", &rig.ca);
    let late = Fake::start("late", &rig.ca);
    late.set(Mode::NotReady);
    let balancer = rig.balancer(rig.config(&[&a])).await;
    all_up(&balancer).await;
    balancer.reload(rig.config(&[&a, &late])).expect("taken");
    assert!(
        hold(balancer.listen_address(), 20)
            .await
            .iter()
            .all(|held| held.backend == "a")
    );
    becomes(&balancer, "late", State::NotReady).await;
    assert!(
        hold(balancer.listen_address(), 20)
            .await
            .iter()
            .all(|held| held.backend == "a")
    );
    late.set(Mode::Ready);
    becomes(&balancer, "late", State::Up).await;
    assert!(
        hold(balancer.listen_address(), 20)
            .await
            .iter()
            .any(|held| held.backend == "late")
    );
}
