//! Backends for tests: a TLS server that answers PING over HTTP/2 and `/readyz` over HTTP/1.1 like a
//! kube-apiserver (which ends an HTTP/2 connection after one anonymous request), and on the
//! same port a plain one that does what a client's first line says. Each lives in a thread of its own,
//! so that holding the balancer's runtime still does not hold them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A certificate authority and its file.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub file: PathBuf,
}

impl Ca {
    pub fn new(dir: &Path, name: &str) -> Ca {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("signed");
        let file = dir.join(format!("{name}.crt"));
        std::fs::write(&file, issuer.pem()).expect("written");
        Ca { issuer, file }
    }

    fn server(&self, name: &str) -> Arc<ServerConfig> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a fitting key");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// How a backend behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As it should.
    Ready,
    /// `/readyz` says 500; everything else works.
    NotReady,
    /// As if stopped by SIGSTOP: the kernel takes connections and bytes, nobody reads them.
    Frozen,
    /// The port is closed; what was accepted goes on.
    PortClosed,
    /// Goodbye to the kept connection (GOAWAY); everything else works.
    Leaving,
}

/// What backends have seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Bytes read by `take`.
    pub taken: AtomicU64,
    /// Connections that ended in a reset.
    pub resets: AtomicU64,
    /// Requests for `/readyz`.
    pub readyz: AtomicU64,
    /// TLS connections.
    pub handshakes: AtomicU64,
}

/// One backend. Dropping it is a crash: everything closes at once.
pub struct Fake {
    pub name: String,
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    mode: watch::Sender<Mode>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub fn start(name: &str, ca: &Ca) -> Fake {
        Fake::start_at(
            name,
            ca,
            SocketAddr::from(([127, 0, 0, 1], 0)),
            "kubernetes",
            1024,
        )
    }

    pub fn start_at(name: &str, ca: &Ca, address: SocketAddr, san: &str, backlog: i32) -> Fake {
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("set");
        socket.set_nonblocking(true).expect("set");
        socket.bind(&address.into()).expect("bound");
        socket.listen(backlog).expect("listening");
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr().expect("bound");
        let (mode, modes) = watch::channel(Mode::Ready);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let seen = Arc::new(Seen::default());
        let serving = Serving {
            name: name.to_owned(),
            tls: TlsAcceptor::from(ca.server(san)),
            modes,
            seen: Arc::clone(&seen),
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                tokio::select! {
                    () = serving.accept(listener) => {}
                    _ = stopped => {}
                }
            });
            // Dropping the runtime drops every connection.
        });
        Fake {
            name: name.to_owned(),
            address,
            seen,
            mode,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Serving {
    name: String,
    tls: TlsAcceptor,
    modes: watch::Receiver<Mode>,
    seen: Arc<Seen>,
}

impl Serving {
    async fn accept(mut self, listener: std::net::TcpListener) {
        let mut listener = Some(TcpListener::from_std(listener).expect("a listener"));
        loop {
            let mode = *self.modes.borrow_and_update();
            if mode == Mode::PortClosed {
                listener = None;
            }
            let Some(open) = &listener else {
                if self.modes.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tokio::select! {
                biased;
                changed = self.modes.changed() => if changed.is_err() { return },
                accepted = open.accept(), if mode != Mode::Frozen => {
                    let Ok((stream, _)) = accepted else { continue };
                    tokio::spawn(self.clone().serve(stream));
                }
            }
        }
    }

    /// Waits while frozen.
    async fn thawed(&mut self) {
        let _ = self.modes.wait_for(|mode| *mode != Mode::Frozen).await;
    }

    async fn serve(mut self, stream: TcpStream) {
        stream.set_nodelay(true).expect("set");
        let mut first = [0];
        if stream.peek(&mut first).await.is_err() {
            return;
        }
        self.thawed().await;
        let seen = Arc::clone(&self.seen);
        // A TLS handshake begins with this byte; the lines below are letters.
        let outcome = if first[0] == 0x16 {
            self.watched(stream).await
        } else {
            self.obey(stream).await
        };
        if outcome.is_err_and(|err| err.kind() == std::io::ErrorKind::ConnectionReset) {
            seen.resets.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn watched(mut self, stream: TcpStream) -> std::io::Result<()> {
        self.seen.handshakes.fetch_add(1, Ordering::SeqCst);
        let stream = self.tls.accept(stream).await?;
        if stream.get_ref().1.alpn_protocol() == Some(b"http/1.1") {
            return self.asked(stream).await;
        }
        let mut connection = h2::server::handshake(stream)
            .await
            .map_err(std::io::Error::other)?;
        // Goodbye is said to those who are there, as apiservers do to spread clients; not to newcomers.
        let mut left = *self.modes.borrow() == Mode::Leaving;
        loop {
            self.thawed().await;
            let mode = *self.modes.borrow_and_update();
            if mode == Mode::Leaving && !left {
                left = true;
                connection.graceful_shutdown();
            }
            tokio::select! {
                biased;
                // While frozen the connection is not even polled: PINGs stay unanswered.
                changed = self.modes.changed() => if changed.is_err() { return Ok(()) },
                request = connection.accept() => {
                    let Some(request) = request else { return Ok(()) };
                    let (_, mut answer) = request.map_err(std::io::Error::other)?;
                    let response = http::Response::builder().status(200).body(()).expect("a response");
                    let _ = answer.send_response(response, true);
                    connection.graceful_shutdown();
                }
            }
        }
    }

    /// `/readyz`, as often as it is asked.
    async fn asked(mut self, mut stream: TlsStream<TcpStream>) -> std::io::Result<()> {
        let mut heard = Vec::new();
        loop {
            self.thawed().await;
            heard.push(stream.read_u8().await?);
            if !heard.ends_with(b"\r\n\r\n") {
                continue;
            }
            self.thawed().await;
            assert!(heard.starts_with(b"GET /readyz HTTP/1.1\r\n"), "{heard:?}");
            heard.clear();
            self.seen.readyz.fetch_add(1, Ordering::SeqCst);
            let (code, text) = match *self.modes.borrow() {
                Mode::NotReady => ("500 Internal Server Error", "[-]etcd failed\u{1b}[2J"),
                Mode::Ready | Mode::Frozen | Mode::PortClosed | Mode::Leaving => ("200 OK", "ok"),
            };
            let length = text.len();
            let answer = format!("HTTP/1.1 {code}\r\nContent-Length: {length}\r\n\r\n{text}");
            stream.write_all(answer.as_bytes()).await?;
            stream.flush().await?;
        }
    }

    /// Does what the client's first line says.
    async fn obey(mut self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut line = String::new();
        loop {
            match stream.read_u8().await? {
                b'\n' => break,
                byte => line.push(byte.into()),
            }
        }
        let (word, number) = line.split_once(' ').unwrap_or((&line, "0"));
        let number: u64 = number.parse().expect("a number");
        match word {
            // Says its name, then repeats everything.
            "hold" => {
                stream
                    .write_all(format!("{}\n", self.name).as_bytes())
                    .await?;
                self.echo(&mut stream).await?;
                stream.shutdown().await
            }
            // Sends so many bytes and ends.
            "send" => {
                let mut sum = Sum::default();
                let mut left = number;
                while left > 0 {
                    let piece = sum.produce(left.min(100_000) as usize);
                    left -= piece.len() as u64;
                    stream.write_all(&piece).await?;
                    // A large stream must not keep this thread from answering PINGs.
                    tokio::task::yield_now().await;
                }
                stream.shutdown().await
            }
            // Reads to the end, then says what it was.
            "digest" => {
                let mut sum = Sum::default();
                let mut buffer = vec![0; 100_000];
                loop {
                    match stream.read(&mut buffer).await? {
                        0 => break,
                        count => sum.consume(&buffer[..count]),
                    }
                    tokio::task::yield_now().await;
                }
                stream.write_all(format!("{sum:?}\n").as_bytes()).await?;
                stream.shutdown().await
            }
            // Says bye, ends, and goes on reading.
            "take" => {
                stream.write_all(b"bye\n").await?;
                stream.shutdown().await?;
                let mut buffer = [0; 4096];
                loop {
                    match stream.read(&mut buffer).await? {
                        0 => return Ok(()),
                        count => self.seen.taken.fetch_add(count as u64, Ordering::SeqCst),
                    };
                }
            }
            // Says a word and resets.
            "reset" => {
                stream.write_all(b"word\n").await?;
                // The word must be gone before the reset, which discards what is not.
                tokio::time::sleep(Duration::from_millis(100)).await;
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))
            }
            other => panic!("a client said `{other}`"),
        }
    }

    async fn echo(&mut self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            self.thawed().await;
            let count = tokio::select! {
                biased;
                changed = self.modes.changed() => {
                    if changed.is_err() { return Ok(()) }
                    continue;
                }
                count = stream.read(&mut buffer) => count?,
            };
            if count == 0 {
                return Ok(());
            }
            stream.write_all(&buffer[..count]).await?;
        }
    }
}

/// A running digest over bytes that are easy to produce and hard to confuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    pub count: u64,
    pub digest: u64,
    state: u64,
}

impl Sum {
    /// The next bytes of a stream that never repeats itself, already counted.
    pub fn produce(&mut self, count: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..count)
            .map(|_| {
                self.state = self
                    .state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (self.state >> 33) as u8
            })
            .collect();
        let state = self.state;
        self.consume(&bytes);
        self.state = state;
        bytes
    }

    /// Counts bytes in.
    pub fn consume(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.digest =
                self.digest.rotate_left(5) ^ u64::from(*byte).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        self.count += bytes.len() as u64;
        // What was produced and what was consumed must compare equal.
        self.state = 0;
    }

    /// How [`Fake`] shows it, whoever produced it.
    pub fn shown(mut self) -> String {
        self.state = 0;
        format!("{self:?}")
    }
}
