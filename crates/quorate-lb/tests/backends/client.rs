//! Clients for tests. Every wait is bounded, generously: a busy machine is slow, not wrong.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something, and says what if it does not come.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Looks again and again until it is so.
pub async fn until<T: std::fmt::Debug>(
    what: &str,
    mut look: impl FnMut() -> T,
    so: impl Fn(&T) -> bool,
) -> T {
    let started = std::time::Instant::now();
    loop {
        let seen = look();
        if so(&seen) {
            return seen;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}; last seen {seen:#?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A connection through the balancer that says its backend's name and repeats what it hears.
#[derive(Debug)]
pub struct Held {
    pub stream: TcpStream,
    pub backend: String,
}

impl Held {
    pub async fn open(address: SocketAddr) -> std::io::Result<Held> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(b"hold\n").await?;
        let backend = line(&mut stream).await?;
        Ok(Held { stream, backend })
    }

    /// Whether it still works.
    pub async fn alive(&mut self) -> std::io::Result<()> {
        self.stream.write_all(b"ping!").await?;
        let mut heard = [0; 5];
        within("an echo", self.stream.read_exact(&mut heard)).await?;
        assert_eq!(&heard, b"ping!");
        Ok(())
    }

    /// Waits for the end that a dead backend brings: a reset.
    pub async fn reset(&mut self) {
        let mut byte = [0];
        match within("a reset", self.stream.read(&mut byte)).await {
            Err(err) => assert_eq!(err.kind(), std::io::ErrorKind::ConnectionReset, "{err}"),
            Ok(count) => panic!("{count} bytes instead of a reset"),
        }
    }
}

/// Many of them, one after the other.
pub async fn hold(address: SocketAddr, count: usize) -> Vec<Held> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(
            within("a connection", Held::open(address))
                .await
                .expect("served"),
        );
    }
    all
}

/// One line, without its end.
pub async fn line(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    loop {
        match within("a line", stream.read_u8()).await? {
            b'\n' => return Ok(text),
            byte => text.push(byte.into()),
        }
    }
}
