//! The balancer as a process: signals, what systemd hears, exit codes, and the replacement of the
//! program under live connections. The process is this same program with `balancer CONFIG` as its
//! arguments, which is why this target brings its own `main`.

#[path = "../backends/mod.rs"]
#[expect(
    dead_code,
    reason = "shared with the other target, which uses the rest"
)]
mod backends;
#[path = "../backends/client.rs"]
mod client;

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use backends::{Ca, Fake, Sum};
use client::{Held, hold, until, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use quorate_lb::admin::{self, Request, Response, Status};
use quorate_lb::config::{BackendConfig, Config, Connections, Health};
use quorate_lb::health::State;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, config] = arguments.as_slice()
        && word == "balancer"
    {
        return balancer(Path::new(config));
    }
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let tests: [(&str, fn()); 5] = [
        ("a_life", || run(a_life())),
        ("the_watchdog_is_fed", || run(the_watchdog_is_fed())),
        ("two_do_not_share_a_socket", || {
            run(two_do_not_share_a_socket())
        }),
        ("a_bad_configuration_is_an_exit", || {
            run(a_bad_configuration_is_an_exit())
        }),
        ("an_upgrade_cuts_nobody", || run(an_upgrade_cuts_nobody())),
    ];
    let mut failed = 0;
    for (name, test) in tests {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        match std::panic::catch_unwind(test) {
            Ok(()) => println!("test {name} ... ok"),
            Err(_) => {
                println!("test {name} ... FAILED");
                failed += 1;
            }
        }
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What `quorate lb run` does.
fn balancer(config: &Path) -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(filter)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let outcome = runtime.block_on(async {
        let shutdown = quorate_lb::terminated().expect("signals");
        quorate_lb::run(config, shutdown).await
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(test);
}

/// A directory, backends, a configuration file and a place to hear what systemd would.
struct Rig {
    dir: tempfile::TempDir,
    ca: Ca,
    notify: UnixDatagram,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = Ca::new(dir.path(), "ca");
        let notify = UnixDatagram::bind(dir.path().join("notify")).expect("bound");
        notify
            .set_read_timeout(Some(client::PATIENCE))
            .expect("set");
        Rig { dir, ca, notify }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, backends: &[&Fake], listen: SocketAddr) -> Config {
        let ms = Duration::from_millis;
        Config {
            listen,
            backends: backends
                .iter()
                .map(|fake| BackendConfig {
                    name: fake.name.clone(),
                    address: fake.address,
                })
                .collect(),
            health: Health {
                ca_file: Some(self.ca.file.clone()),
                // Nobody dies here, however busy the machine is.
                suspect_after: ms(20_000),
                dead_after: ms(40_000),
                dead_after_max: ms(40_000),
                dial_timeout: ms(40_000),
                readyz_interval: ms(100),
                ..Health::default()
            },
            connections: Connections {
                stop_max: ms(300),
                ..Connections::default()
            },
            admin_socket: self.path("lb.sock"),
        }
    }

    /// Writes as the other component does: whole or not at all.
    fn write(&self, config: &Config) {
        let text = serde_json::to_vec(config).expect("plain data");
        std::fs::write(self.path("lb.json.new"), text).expect("written");
        std::fs::rename(self.path("lb.json.new"), self.path("lb.json")).expect("renamed");
    }

    fn start(&self, program: &Path) -> Process {
        let log = std::fs::File::create(self.path("log")).expect("a log");
        let child = Command::new(program)
            .arg("balancer")
            .arg(self.path("lb.json"))
            .env("NOTIFY_SOCKET", self.path("notify"))
            .env("WATCHDOG_USEC", "600000")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("started");
        Process { child }
    }

    /// Waits until systemd would have heard a line.
    fn told(&self, line: &str) {
        let mut buffer = [0; 4096];
        loop {
            let count = match self.notify.recv(&mut buffer) {
                Ok(count) => count,
                Err(err) => panic!("systemd never heard {line}: {err}; log:\n{}", self.log()),
            };
            let text = String::from_utf8_lossy(&buffer[..count]);
            if text.lines().any(|heard| heard == line) {
                return;
            }
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    async fn ask(&self, request: Request) -> Response {
        match admin::request(&self.path("lb.sock"), &request).await {
            Ok(response) => response,
            Err(err) => panic!("{err}; log:\n{}", self.log()),
        }
    }

    async fn status(&self) -> Status {
        match self.ask(Request::Status).await {
            Response::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }
}

/// A child that does not outlive its test.
struct Process {
    child: Child,
}

impl Process {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it is ours");
    }

    async fn exit(&mut self) -> ExitStatus {
        let exited = until(
            "the exit",
            || self.child.try_wait().expect("waited"),
            Option::is_some,
        )
        .await;
        exited.expect("looked for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn this_program() -> PathBuf {
    std::env::current_exe().expect("known")
}

/// A free port. Another test could take it before we do; the kernel hands them out in turn, so that
/// takes a full round.
fn free_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().expect("bound")
}

async fn a_life() {
    let rig = Rig::new();
    let (a, b) = (Fake::start("a", &rig.ca), Fake::start("b", &rig.ca));
    let listen = free_port();
    rig.write(&rig.config(&[&a], listen));
    let mut process = rig.start(&this_program());
    rig.told("READY=1");
    let mut held = hold(listen, 5).await;

    // A good file.
    rig.write(&rig.config(&[&a, &b], listen));
    process.signal(Signal::SIGHUP);
    rig.told("RELOADING=1");
    rig.told("READY=1");
    let names = |status: &Status| {
        status
            .backends
            .iter()
            .map(|b| b.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&rig.status().await), ["a", "b"]);

    // A bad one changes nothing, by signal or by request.
    std::fs::write(
        rig.path("lb.json"),
        r#"{"listen": "127.0.0.1:1", "backend": []}"#,
    )
    .expect("written");
    process.signal(Signal::SIGHUP);
    rig.told("RELOADING=1");
    rig.told("READY=1");
    match rig.ask(Request::Reload).await {
        Response::Refused { why } => assert!(why.contains("unknown field `backend`"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(names(&rig.status().await), ["a", "b"]);
    assert!(
        rig.log().contains("configuration not taken"),
        "{}",
        rig.log()
    );

    // Drain and its end, by the socket.
    let drain = |force| Request::Drain {
        backend: "a".to_owned(),
        force,
    };
    within("b up", async {
        while rig
            .status()
            .await
            .backends
            .iter()
            .any(|b| b.state != State::Up)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(matches!(rig.ask(drain(false)).await, Response::Done { .. }));
    assert!(hold(listen, 5).await.iter().all(|held| held.backend == "b"));
    assert!(matches!(
        rig.ask(Request::Undrain {
            backend: "a".to_owned()
        })
        .await,
        Response::Done { .. }
    ));
    match rig
        .ask(Request::Undrain {
            backend: "\u{1b}[31mx".to_owned(),
        })
        .await
    {
        Response::Refused { why } => {
            assert_eq!(why, "no backend is named `\\u{1b}[31mx`; there are a, b")
        }
        other => panic!("{other:?}"),
    }

    for held in &mut held {
        held.alive().await.expect("nothing above cuts anybody");
    }
    process.signal(Signal::SIGTERM);
    rig.told("STOPPING=1");
    // It does not wait for ever for clients that stay.
    assert!(process.exit().await.success(), "{}", rig.log());
    for held in &mut held {
        held.reset().await;
    }
    assert!(!rig.path("lb.sock").exists());
}

async fn the_watchdog_is_fed() {
    let rig = Rig::new();
    let listen = free_port();
    rig.write(&Config {
        health: Health::default(),
        ..rig.config(&[], listen)
    });
    let mut process = rig.start(&this_program());
    rig.told("READY=1");
    for _ in 0..3 {
        rig.told("WATCHDOG=1");
    }
    assert!(matches!(
        rig.ask(Request::Stop).await,
        Response::Done { .. }
    ));
    assert!(process.exit().await.success());
}

async fn two_do_not_share_a_socket() {
    let rig = Rig::new();
    let listen = free_port();
    rig.write(&Config {
        health: Health::default(),
        ..rig.config(&[], listen)
    });
    let _first = rig.start(&this_program());
    rig.told("READY=1");
    let mut second = rig.start(&this_program());
    assert_eq!(second.exit().await.code(), Some(1));
    assert!(
        rig.log()
            .contains("another balancer already runs with the admin socket"),
        "{}",
        rig.log()
    );
    assert!(rig.status().await.accepting, "the first is not disturbed");
}

async fn a_bad_configuration_is_an_exit() {
    let rig = Rig::new();
    std::fs::write(rig.path("lb.json"), "{}").expect("written");
    let mut process = rig.start(&this_program());
    assert_eq!(process.exit().await.code(), Some(1));
    assert!(
        rig.log().contains("is not a balancer configuration"),
        "{}",
        rig.log()
    );
}

async fn an_upgrade_cuts_nobody() {
    let rig = Rig::new();
    let fakes = [Fake::start("a", &rig.ca), Fake::start("b", &rig.ca)];
    let listen = free_port();
    rig.write(&rig.config(&[&fakes[0], &fakes[1]], listen));
    // A program that can be replaced as a package manager does: by a rename.
    let program = rig.path("quorate");
    std::fs::copy(this_program(), &program).expect("copied");
    let mut process = rig.start(&program);
    rig.told("READY=1");
    let mut held = hold(listen, 200).await;

    // Streams in full flow: one read steadily, one not read at all until later, so that bytes are held
    // in the balancer; one upload.
    const BYTES: u64 = 48 << 20;
    let steady = tokio::spawn(async move { download(listen, BYTES, Duration::ZERO).await });
    let late =
        tokio::spawn(async move { download(listen, BYTES / 4, Duration::from_secs(3)).await });
    let uploaded = Arc::new(AtomicU64::new(0));
    let upload = tokio::spawn(upload(listen, BYTES, Arc::clone(&uploaded)));
    // New clients all the while.
    let stop = Arc::new(AtomicBool::new(false));
    let arriving = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut served = 0;
            while !stop.load(Ordering::SeqCst) {
                within("a new client", Held::open(listen))
                    .await
                    .expect("nobody is refused");
                served += 1;
            }
            served
        }
    });
    assert!(matches!(
        rig.ask(Request::Drain {
            backend: "a".to_owned(),
            force: true
        })
        .await,
        Response::Done { .. }
    ));
    until(
        "bytes under way",
        || uploaded.load(Ordering::SeqCst),
        |sent| *sent > BYTES / 16,
    )
    .await;

    for round in 1..=3 {
        let before = rig.status().await;
        std::fs::copy(this_program(), rig.path("quorate.new")).expect("copied");
        std::fs::rename(rig.path("quorate.new"), &program).expect("renamed");
        match rig.ask(Request::Upgrade).await {
            Response::Done { note } => assert!(note.contains("connections"), "{note}"),
            other => panic!("{other:?}"),
        }
        rig.told("READY=1");
        let after = rig.status().await;
        assert_eq!(after.pid, before.pid, "systemd still knows the process");
        let taken_over = rig.log().matches("connections taken over").count();
        assert_eq!(
            taken_over,
            round,
            "another program runs; log:\n{}",
            rig.log()
        );
        assert!(
            after.backends.iter().any(|b| b.name == "a" && b.drained),
            "the drain went along"
        );
        // Counted from the first moment, whoever of the threads has got to them by then.
        assert!(after.connections >= 200, "{after:?}");
    }
    for held in &mut held {
        if let Err(err) = held.alive().await {
            panic!(
                "an upgrade cuts nobody, but: {err} on {}; log:
{}",
                held.backend,
                rig.log()
            );
        }
    }
    steady.await.expect("whole");
    late.await.expect("whole");
    upload.await.expect("whole");
    stop.store(true, Ordering::SeqCst);
    assert!(arriving.await.expect("never refused") > 0);
    drop(held);
    until(
        "descriptors given back",
        || descriptors(&process),
        |open| *open < 150,
    )
    .await;
    process.signal(Signal::SIGTERM);
    assert!(process.exit().await.success(), "{}", rig.log());
}

/// Open descriptors of the process: those of connections that ended must not be among them.
fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.child.id()))
        .expect("it runs")
        .count()
}

async fn download(listen: SocketAddr, count: u64, first: Duration) {
    let mut stream = TcpStream::connect(listen).await.expect("connected");
    stream
        .write_all(format!("send {count}\n").as_bytes())
        .await
        .expect("written");
    tokio::time::sleep(first).await;
    let mut heard = Sum::default();
    let mut buffer = vec![0; 200_000];
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
    while sent.count < count {
        sent.produce((count - sent.count).min(100_000) as usize);
    }
    assert_eq!(heard.shown(), sent.shown());
}

async fn upload(listen: SocketAddr, count: u64, progress: Arc<AtomicU64>) {
    let mut stream = TcpStream::connect(listen).await.expect("connected");
    stream.write_all(b"digest\n").await.expect("written");
    let mut sum = Sum::default();
    while sum.count < count {
        let piece = sum.produce(100_000);
        within("room", stream.write_all(&piece))
            .await
            .expect("written");
        progress.store(sum.count, Ordering::SeqCst);
    }
    stream.shutdown().await.expect("shut");
    assert_eq!(
        client::line(&mut stream).await.expect("an answer"),
        sum.shown()
    );
}
