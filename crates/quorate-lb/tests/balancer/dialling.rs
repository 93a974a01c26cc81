//! A client never notices a backend that does not take its connection, while another does.

use std::net::SocketAddr;

use quorate_lb::health::State;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::backends::{Fake, Mode};
use crate::client::{Held, hold, until, within};
use crate::{Rig, all_up, backend, becomes};

#[tokio::test]
async fn a_refused_dial_is_tried_elsewhere_unseen() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a", "b"]);
    let balancer = rig.balancer(rig.config(&[&fakes[0], &fakes[1]])).await;
    all_up(&balancer).await;
    // The kept connection answers on: only dials tell that the port is closed.
    fakes[0].set(Mode::PortClosed);
    until(
        "the port closed",
        || std::net::TcpStream::connect(fakes[0].address).is_err(),
        |closed| *closed,
    )
    .await;
    for _ in 0..40 {
        let held = within("a connection", Held::open(balancer.listen_address()))
            .await
            .expect("served");
        assert_eq!(held.backend, "b");
    }
    let status = balancer.status();
    assert_eq!(status.totals.unserved, 0);
    assert!(
        status.totals.retried > 0,
        "no dial went to a: nothing was tested"
    );
    // Each failed dial was tried again, or had been joined by another one before it failed: on a busy machine.
    let failed = backend(&balancer, "a").dials_failed_total;
    let (retried, hedged) = (status.totals.retried, status.totals.hedged);
    assert!(
        (retried..=retried + hedged).contains(&failed),
        "{failed} failed, {retried} tried again, {hedged} joined by another"
    );
    assert_eq!(
        backend(&balancer, "a").state,
        State::Up,
        "its kept connection is fine"
    );
}

#[tokio::test]
async fn an_unanswered_dial_is_joined_by_another() {
    let rig = Rig::new();
    // A full backlog drops what comes: to a client the same as a host without power.
    let deaf = Fake::start_at(
        "deaf",
        &rig.ca,
        SocketAddr::from(([127, 0, 0, 1], 0)),
        "kubernetes",
        0,
    );
    let fine = Fake::start("fine", &rig.ca);
    let balancer = rig.balancer(rig.config(&[&deaf, &fine])).await;
    all_up(&balancer).await;
    // Frozen it accepts nothing; it would be dead in two seconds, and this takes less.
    deaf.set(Mode::Frozen);
    let mut filling = Vec::new();
    for _ in 0..4 {
        let address = deaf.address;
        filling.push(tokio::spawn(TcpStream::connect(address)));
    }
    until(
        "dials there hang",
        || filling.iter().filter(|dial| dial.is_finished()).count(),
        |n| *n >= 1,
    )
    .await;
    let held = hold(balancer.listen_address(), 10).await;
    assert!(held.iter().all(|held| held.backend == "fine"));
    let totals = balancer.status().totals;
    assert_eq!(totals.unserved, 0);
    assert!(
        totals.hedged > 0,
        "no dial went to the deaf one: nothing was tested"
    );
    filling.iter().for_each(|dial| dial.abort());
}

#[tokio::test]
async fn nobody_there_is_a_reset_not_a_hang() {
    let rig = Rig::new();
    let mut fakes = rig.fakes(&["a"]);
    let balancer = rig.balancer(rig.config(&[&fakes[0]])).await;
    all_up(&balancer).await;
    fakes.clear();
    becomes(&balancer, "a", State::Closed).await;
    assert!(balancer.status().fail_open);
    is_reset(balancer.listen_address()).await;
    assert_eq!(balancer.status().totals.unserved, 1);
}

#[tokio::test]
async fn before_the_cluster_exists_clients_are_reset() {
    let rig = Rig::new();
    let mut config = rig.config(&[]);
    config.health.ca_file = None;
    let balancer = rig.balancer(config).await;
    is_reset(balancer.listen_address()).await;
    let status = balancer.status();
    assert!(
        status.accepting && !status.fail_open,
        "there is nobody to fail open to"
    );
    // The cluster comes into being.
    let fakes = rig.fakes(&["a"]);
    let mut config = rig.config(&[&fakes[0]]);
    config.listen = balancer.config().listen;
    balancer.reload(config).expect("taken");
    becomes(&balancer, "a", State::Up).await;
    hold(balancer.listen_address(), 3).await;
}

/// The reset may come so fast that it is the connect that fails.
async fn is_reset(address: SocketAddr) {
    let outcome = async {
        let mut stream = TcpStream::connect(address).await?;
        within("a reset", stream.read(&mut [0])).await
    };
    let err = outcome.await.expect_err("nobody serves");
    assert_eq!(err.kind(), std::io::ErrorKind::ConnectionReset);
}
