//! A cluster of local hosts, as everything outside this crate uses it: [`Cluster`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

use crate::cuts::{Cut, Side};
use crate::error::{During, Error, Result, tail};
use crate::home::Home;
use crate::launch;
use crate::local::{Destroyed, Local};
use crate::names::{BridgeName, ClusterName, HostName};
use crate::openings::Opening;
use crate::program;
use crate::spec::{HostSpec, Uplink};
use crate::ssh::SshAccess;
use crate::status::{HostStatus, Power};
use crate::subnet::Subnet;

/// How often a booting host is tried. A try costs a few packets on the machine itself.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// How long one connection attempt may take. The host's kernel answers in microseconds once it has its address; what
/// was sent before is lost, and TCP would repeat it only after a second.
const CONNECT_FOR: Duration = Duration::from_millis(100);

/// How long sshd may take to greet once connected: a busy host takes some hundred milliseconds.
const GREET_FOR: Duration = Duration::from_secs(1);

/// The most that is kept of each output of a program run by [`Cluster::enter`], in bytes.
const OUTPUT_MAX: u64 = 16 << 20;

/// A handle of a cluster. Handles hold nothing open: any number of them, in any number of programs, see and change
/// the same hosts, and hosts run on when all handles are gone.
///
/// Calls on one host wait for each other; calls on different hosts run side by side. A call whose future is dropped
/// still runs to its end.
#[derive(Debug, Clone)]
pub struct Cluster {
    home: Arc<Home>,
}

/// What a program run inside a host said.
#[derive(Debug, Clone)]
pub struct Entered {
    /// How it ended.
    pub status: ExitStatus,
    /// Its stdout, at most 16 MiB of it.
    pub stdout: Vec<u8>,
    /// Its stderr, likewise.
    pub stderr: Vec<u8>,
}

/// Runs what blocks beside the runtime. It is not interrupted when the caller loses interest.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => unreachable!("blocking work is not cancelled"),
        },
    }
}

impl Cluster {
    pub(crate) fn of(home: Home) -> Cluster {
        Cluster {
            home: Arc::new(home),
        }
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Home) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let home = Arc::clone(&self.home);
        blocking(move || work(&home)).await
    }

    /// Its name.
    pub fn name(&self) -> &ClusterName {
        &self.home.record.name
    }

    /// Its network.
    pub fn subnet(&self) -> Subnet {
        self.home.record.subnet
    }

    /// Its bridge.
    pub fn bridge(&self) -> &BridgeName {
        &self.home.record.bridge
    }

    /// Whether its hosts reach beyond the machine.
    pub fn uplink(&self) -> Uplink {
        self.home.record.uplink
    }

    /// The directory with everything of the cluster, for root alone.
    pub fn dir(&self) -> PathBuf {
        self.home.dir()
    }

    /// Makes a host, powered off. One that exists with the same specification is left as it is.
    ///
    /// # Errors
    /// [`Error::Spec`], [`Error::Path`], [`Error::AddressOutside`], [`Error::AddressTaken`], [`Error::HostDiffers`],
    /// [`Error::DiskTooSmall`].
    pub async fn create_host(&self, spec: &HostSpec) -> Result<()> {
        let spec = spec.clone();
        self.with(move |home| home.create_host(&spec)).await
    }

    /// Powers a host on, with the disks it had; returns as soon as its first process runs. One that runs already is
    /// left running. See [`Cluster::booted`].
    ///
    /// After a reboot of the machine this also makes the cluster's bridge again and changes the machine's settings
    /// as [`Local::create`] did.
    ///
    /// # Errors
    /// [`Error::NotStarted`], [`Error::MemoryTooSmall`], [`Error::BaseGone`], [`Error::WrongPower`] when frozen, and
    /// after a reboot of the machine [`Error::NameTaken`], [`Error::BridgeTaken`], [`Error::SubnetTaken`].
    pub async fn power_on(&self, host: &HostName) -> Result<()> {
        let host = host.clone();
        self.with(move |home| home.power_on(&host)).await
    }

    /// Pulls the plug: every process of the host is gone at once, without being told, and its network with them.
    /// Returns when nothing is left; one that is off already is left off.
    ///
    /// What the host had written without syncing is *not* lost, because the machine's page cache keeps it: this is an
    /// abrupt stop with the disk cache kept, not a loss of power to a disk.
    ///
    /// # Errors
    /// [`Error::Lingering`], [`Error::NoSuchHost`].
    pub async fn power_off(&self, host: &HostName) -> Result<()> {
        let host = host.clone();
        self.with(move |home| home.power_off(&host)).await
    }

    /// Stops all processes of a host where they are; returns when all have stopped. Its kernel still answers pings
    /// and accepts connections up to the backlog, as that of a machine whose processes hang does.
    ///
    /// # Errors
    /// [`Error::WrongPower`] when it is off; [`Error::Lingering`] when a process cannot be stopped (it is thawed again).
    pub async fn freeze(&self, host: &HostName) -> Result<()> {
        let host = host.clone();
        self.with(move |home| home.freeze(&host)).await
    }

    /// Lets a frozen host go on.
    ///
    /// # Errors
    /// [`Error::WrongPower`] when it is off.
    pub async fn thaw(&self, host: &HostName) -> Result<()> {
        let host = host.clone();
        self.with(move |home| home.thaw(&host)).await
    }

    /// Removes a host with its disks, also what is left of a half-removed one.
    ///
    /// # Errors
    /// [`Error::Lingering`], [`Error::Mounted`]; calling it again goes on.
    pub async fn destroy_host(&self, host: &HostName) -> Result<()> {
        let host = host.clone();
        self.with(move |home| home.destroy_host(&host)).await
    }

    /// Removes the cluster: [`Local::destroy`].
    ///
    /// # Errors
    /// As there.
    pub async fn destroy(self) -> Result<Destroyed> {
        Local::at(&self.home.root)?.destroy(self.name()).await
    }

    /// Puts cuts in force, besides those that are, in one step.
    ///
    /// # Errors
    /// [`Error::NoSuchHost`] for a side that is not a host of this cluster; nothing is cut then.
    pub async fn cut(&self, cuts: impl IntoIterator<Item = Cut>) -> Result<()> {
        let cuts: BTreeSet<Cut> = cuts.into_iter().collect();
        self.with(move |home| home.cut(&cuts)).await
    }

    /// Ends cuts, in one step; what is not cut stays as it is.
    ///
    /// # Errors
    /// What nft refuses.
    pub async fn mend(&self, cuts: impl IntoIterator<Item = Cut>) -> Result<()> {
        let ended: BTreeSet<Cut> = cuts.into_iter().collect();
        self.with(move |home| home.change_cuts(|cuts| cuts.retain(|cut| !ended.contains(cut))))
            .await
    }

    /// Ends all cuts.
    ///
    /// # Errors
    /// What nft refuses.
    pub async fn mend_all(&self) -> Result<()> {
        self.with(|home| home.change_cuts(BTreeSet::clear)).await
    }

    /// The cuts in force.
    ///
    /// # Errors
    /// What nft refuses.
    pub async fn cuts(&self) -> Result<BTreeSet<Cut>> {
        self.with(Home::cuts).await
    }

    /// The cuts that part a host from all other hosts of the cluster, both ways; `outside` adds the machine and what
    /// lies beyond it. To be given to [`Cluster::cut`].
    ///
    /// # Errors
    /// [`Error::NoSuchHost`].
    pub async fn isolation(&self, host: &HostName, outside: bool) -> Result<BTreeSet<Cut>> {
        let host = host.clone();
        self.with(move |home| {
            home.spec(&host)?;
            let others = home.hosts()?.into_iter().filter(|other| other.name != host);
            let sides = others
                .map(|other| Side::Host(other.name))
                .chain(outside.then_some(Side::Outside));
            Ok(sides
                .flat_map(|side| Cut::both_ways(host.clone(), side))
                .collect())
        })
        .await
    }

    /// Makes these the only connections that hosts can open to each other from now on, in one step. Until this is called they can open all.
    /// Connections that are open stay so; cuts hold besides.
    ///
    /// # Errors
    /// What nft refuses.
    pub async fn open_only(&self, openings: &[Opening]) -> Result<()> {
        let openings = openings.to_vec();
        self.with(move |home| home.open_only(&openings)).await
    }

    /// All hosts as seen now, by name.
    ///
    /// # Errors
    /// When state or machine cannot be read.
    pub async fn hosts(&self) -> Result<Vec<HostStatus>> {
        self.with(Home::statuses).await
    }

    /// What a host was made from.
    ///
    /// # Errors
    /// [`Error::NoSuchHost`].
    pub fn spec(&self, host: &HostName) -> Result<HostSpec> {
        self.home.spec(host)
    }

    /// How to log in to a host by SSH.
    ///
    /// # Errors
    /// [`Error::NoSuchHost`].
    pub fn ssh(&self, host: &HostName) -> Result<SshAccess> {
        self.home.access(host)
    }

    /// The directory on the machine behind one of a host's data directories: what lies there when the host is
    /// powered on, the host finds.
    ///
    /// # Errors
    /// [`Error::NoSuchHost`], [`Error::Spec`] when it has no such data directory.
    pub fn data_dir(&self, host: &HostName, inside: &Path) -> Result<PathBuf> {
        self.home.data_dir(host, inside)
    }

    /// The directory on the machine that holds what a host has written, laid over base image and layers. Only to be
    /// written to while the host is off.
    ///
    /// # Errors
    /// [`Error::NoSuchHost`].
    pub fn upper_dir(&self, host: &HostName) -> Result<PathBuf> {
        self.home.spec(host)?;
        Ok(self.home.host_dir(host).join("upper"))
    }

    /// Waits until a host's sshd answers with its greeting, and returns how long that took from now.
    ///
    /// # Errors
    /// [`Error::NotBooted`] when it does not within `deadline`; [`Error::WrongPower`] as soon as it is off.
    pub async fn booted(&self, host: &HostName, deadline: Duration) -> Result<Duration> {
        let access = self.ssh(host)?;
        let start = Instant::now();
        loop {
            let last = match greeting((access.address, access.port)).await {
                Ok(()) => return Ok(start.elapsed()),
                Err(last) => last,
            };
            if self.home.power_of(host)? == Power::Off {
                return Err(Error::WrongPower {
                    host: host.clone(),
                    power: Power::Off,
                    expected: "booting",
                });
            }
            if start.elapsed() >= deadline {
                let console =
                    launch::console_tail(&self.home.host_dir(host), launch::CONSOLE_SHOWN)?;
                return Err(Error::NotBooted {
                    host: host.clone(),
                    waited: deadline,
                    last,
                    console,
                });
            }
            // Nothing tells of a port being opened in another namespace: so it is tried.
            tokio::time::sleep(TRY_EVERY).await;
        }
    }

    /// The command that runs `argv` inside a running host, as root, without SSH; its input and output are the
    /// caller's to set. It is not part of the host's cgroup: freezing the host does not stop it.
    ///
    /// # Errors
    /// [`Error::WrongPower`] when the host has no first process.
    pub fn enter_command(&self, host: &HostName, argv: &[String]) -> Result<std::process::Command> {
        let init = self.home.init_of(host)?;
        let mut command = program::command("nsenter");
        command.args([
            "--target",
            &init.to_string(),
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--cgroup",
            "--",
        ]);
        command
            .args(argv)
            .env("HOME", "/root")
            .env("USER", "root")
            .current_dir("/");
        Ok(command)
    }

    /// Runs `argv` inside a running host to its end, as root, without SSH and without input.
    ///
    /// # Errors
    /// As [`Cluster::enter_command`]. A program that fails is no error here.
    pub async fn enter(&self, host: &HostName, argv: &[String]) -> Result<Entered> {
        let (cluster, host, argv) = (self.clone(), host.clone(), argv.to_vec());
        let command = blocking(move || cluster.enter_command(&host, &argv)).await?;
        let program = Path::new("nsenter");
        let mut command = tokio::process::Command::from(command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().during("run", program)?;
        let stdout = child.stdout.take().expect("stdout was set to a pipe");
        let stderr = child.stderr.take().expect("stderr was set to a pipe");
        let (stdout, stderr) = tokio::join!(capped(stdout), capped(stderr));
        let status = child.wait().await.during("wait for", program)?;
        Ok(Entered {
            status,
            stdout: stdout.during("read from", program)?,
            stderr: stderr.during("read from", program)?,
        })
    }

    /// The end of what a host wrote to its console since it was made, at most `limit` bytes; control characters are
    /// escaped.
    ///
    /// # Errors
    /// [`Error::NoSuchHost`].
    pub fn console_log(&self, host: &HostName, limit: usize) -> Result<String> {
        self.home.spec(host)?;
        launch::console_tail(&self.home.host_dir(host), limit)
    }
}

async fn capped(mut from: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    (&mut from).take(OUTPUT_MAX).read_to_end(&mut kept).await?;
    // The rest is read and dropped, so that the program does not wait for us.
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(kept)
}

/// One try to be greeted by an SSH server, or what was met instead.
async fn greeting(at: (std::net::Ipv4Addr, u16)) -> Result<(), String> {
    let within = |time| move |_| format!("no answer within {time:?}");
    let connected = tokio::time::timeout(CONNECT_FOR, TcpStream::connect(at));
    let connected = connected.await.map_err(within(CONNECT_FOR))?;
    let mut stream = connected.map_err(|err| err.to_string())?;
    let mut hello = [0; 4];
    let greeted = tokio::time::timeout(GREET_FOR, stream.read_exact(&mut hello));
    let greeted = greeted.await.map_err(within(GREET_FOR))?;
    greeted.map_err(|err| format!("connected, but {err}"))?;
    match &hello {
        b"SSH-" => Ok(()),
        other => Err(format!("connected, but greeted with `{}`", tail(other, 4))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    async fn greeted_by(words: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.write_all(words).await.expect("written");
        };
        tokio::join!(server, greeting((std::net::Ipv4Addr::LOCALHOST, port))).1
    }

    #[tokio::test]
    async fn only_an_ssh_server_counts_as_booted() {
        assert_eq!(greeted_by(b"SSH-2.0-x\r\n").await, Ok(()));
        assert_eq!(
            greeted_by(b"HTTP/1.1").await,
            Err("connected, but greeted with `HTTP`".to_owned())
        );
        assert!(
            greeted_by(b"SS")
                .await
                .is_err_and(|e| e.starts_with("connected, but "))
        );
    }

    #[tokio::test]
    async fn output_is_kept_whole_below_the_limit() {
        assert_eq!(capped(&b"all of it"[..]).await.expect("read"), b"all of it");
    }
}
