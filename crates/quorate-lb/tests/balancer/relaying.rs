//! Bytes, ends and resets pass as they came.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Rig;
use crate::backends::Sum;
use crate::client::{Held, hold, line, until, within};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_large_upload_arrives_whole_and_its_end_is_passed_on() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a"]);
    let balancer = rig.balancer(rig.config(&[&fakes[0]])).await;
    let mut stream = TcpStream::connect(balancer.listen_address())
        .await
        .expect("connected");
    stream.write_all(b"digest\n").await.expect("written");
    let mut sum = Sum::default();
    // Odd pieces, small and large: copying, splicing and the change between them.
    for piece in [1, 100, 70_000, MIB, 33_000, 16, 4 * MIB, 9 * MIB, 5] {
        let bytes = sum.produce(piece);
        within("room", stream.write_all(&bytes))
            .await
            .expect("written");
    }
    // Half-closed: the answer comes back over a connection whose other half has ended.
    stream.shutdown().await.expect("shut");
    assert_eq!(line(&mut stream).await.expect("an answer"), sum.shown());
    assert_eq!(stream.read(&mut [0]).await.expect("the end"), 0);
    until(
        "no connection left",
        || balancer.connections(),
        |left| *left == 0,
    )
    .await;
    let totals = balancer.status().totals;
    assert_eq!(totals.bytes_up, sum.count + 7);
    assert_eq!(totals.bytes_down, sum.shown().len() as u64 + 1);
}

#[tokio::test]
async fn a_large_download_to_a_slow_reader_arrives_whole() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a"]);
    let balancer = rig.balancer(rig.config(&[&fakes[0]])).await;
    let count = 48 * MIB;
    let mut stream = TcpStream::connect(balancer.listen_address())
        .await
        .expect("connected");
    stream
        .write_all(format!("send {count}\n").as_bytes())
        .await
        .expect("written");
    // Nobody reads for a while: everything in between fills up and has to wait for the reader.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut heard = Sum::default();
    let mut buffer = vec![0; 300_000];
    loop {
        match within("bytes", stream.read(&mut buffer))
            .await
            .expect("read")
        {
            0 => break,
            count => heard.consume(&buffer[..count]),
        }
    }
    let mut sent = Sum::default();
    while sent.count < count as u64 {
        sent.produce((count - sent.count as usize).min(100_000));
    }
    assert_eq!(heard.shown(), sent.shown());
}

#[tokio::test]
async fn both_directions_at_once() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a"]);
    let balancer = rig.balancer(rig.config(&[&fakes[0]])).await;
    let held = within("a connection", Held::open(balancer.listen_address()))
        .await
        .expect("served");
    let (mut reads, mut writes) = held.stream.into_split();
    let writing = tokio::spawn(async move {
        let mut sum = Sum::default();
        for _ in 0..200 {
            writes
                .write_all(&sum.produce(77_777))
                .await
                .expect("written");
        }
        writes.shutdown().await.expect("shut");
        sum
    });
    let mut heard = Sum::default();
    let mut buffer = vec![0; 50_000];
    loop {
        match within("bytes", reads.read(&mut buffer))
            .await
            .expect("read")
        {
            0 => break,
            count => heard.consume(&buffer[..count]),
        }
    }
    assert_eq!(heard.shown(), writing.await.expect("written").shown());
}

#[tokio::test]
async fn a_backend_that_ends_first_still_hears_the_client() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a"]);
    let balancer = rig.balancer(rig.config(&[&fakes[0]])).await;
    let mut stream = TcpStream::connect(balancer.listen_address())
        .await
        .expect("connected");
    stream.write_all(b"take\n").await.expect("written");
    assert_eq!(line(&mut stream).await.expect("a word"), "bye");
    assert_eq!(
        within("its end", stream.read(&mut [0]))
            .await
            .expect("read"),
        0
    );
    for _ in 0..100 {
        stream.write_all(&[7; 1000]).await.expect("written");
    }
    stream.shutdown().await.expect("shut");
    until(
        "everything taken",
        || fakes[0].seen.taken.load(Ordering::SeqCst),
        |n| *n == 100_000,
    )
    .await;
    until(
        "no connection left",
        || balancer.connections(),
        |left| *left == 0,
    )
    .await;
}

#[tokio::test]
async fn resets_are_passed_on_as_resets() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a"]);
    let balancer = rig.balancer(rig.config(&[&fakes[0]])).await;
    // From the backend, after a word that must not be lost.
    let mut stream = TcpStream::connect(balancer.listen_address())
        .await
        .expect("connected");
    stream.write_all(b"reset\n").await.expect("written");
    assert_eq!(line(&mut stream).await.expect("a word"), "word");
    let err = within("a reset", stream.read(&mut [0]))
        .await
        .expect_err("no end in peace");
    assert_eq!(err.kind(), std::io::ErrorKind::ConnectionReset);
    // From the client.
    let held = within("a connection", Held::open(balancer.listen_address()))
        .await
        .expect("served");
    socket2::SockRef::from(&held.stream)
        .set_linger(Some(Duration::ZERO))
        .expect("set");
    drop(held);
    until(
        "a reset at the backend",
        || fakes[0].seen.resets.load(Ordering::SeqCst),
        |n| *n == 1,
    )
    .await;
    until(
        "no connection left",
        || balancer.connections(),
        |left| *left == 0,
    )
    .await;
}

#[tokio::test]
async fn clients_past_the_limit_wait_and_are_served_later() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a"]);
    let mut config = rig.config(&[&fakes[0]]);
    config.connections.max = Some(5);
    let balancer = rig.balancer(config).await;
    let address = balancer.listen_address();
    let mut held = hold(address, 5).await;
    // The kernel lets it in, the balancer does not yet.
    let waiting = tokio::spawn(async move { Held::open(address).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!waiting.is_finished());
    assert_eq!(balancer.connections(), 5);
    held.pop();
    within("its turn", waiting)
        .await
        .expect("no panic")
        .expect("served");
}

#[tokio::test]
async fn connections_are_spread_evenly() {
    let rig = Rig::new();
    let fakes = rig.fakes(&["a", "b", "c"]);
    let balancer = rig
        .balancer(rig.config(&fakes.iter().collect::<Vec<_>>()))
        .await;
    crate::all_up(&balancer).await;
    let held = hold(balancer.listen_address(), 60).await;
    for name in ["a", "b", "c"] {
        let there = held.iter().filter(|held| held.backend == name).count();
        // Two workers choose at the same time, so a difference of a few is possible.
        assert!((17..=23).contains(&there), "{there} of 60 on {name}");
    }
}
