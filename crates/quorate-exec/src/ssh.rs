//! Hosts over SSH: the user's own `ssh`, one long-lived channel to `quorate node serve` for looking and one for acting. Start at
//! [`SshHosts::new`].
//!
//! Commands are values ([`command`]), what `ssh` says is told apart in [`failure`], frames travel in `channel`, files in `send`. The
//! binary is brought to a host once, by its hash.
//!
//! Two channels, since a host that is busy acting for minutes still has to tell how it is.

mod binary;
mod channel;
pub mod command;
pub mod failure;
mod fetch;
mod send;

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use futures_util::future::join_all;
use quorate_plan::{
    Claim, Ensure, Fence, Handover, HostEnsure, Missing, NodeName, Request, Sealed, Seen,
    admit::Recipient,
    observation::{Fencing, HostReport, Look, Receipt},
    spec::EtcdDevice,
    wire::{Answer, Call, Outcome},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    hostile,
    seam::{HostError, Hosts, Ticket},
};
use channel::{Channel, Opened};
use send::LocalBundle;

pub use binary::NodeBinary;
pub use command::{Control, SetupError, SshAccess};
pub use failure::SshFailure;
pub use fetch::Backups;

/// One look at a host, with the connection made for it. Its own questions, to etcd and the API, have shorter limits.
const REPORT_MAX: Duration = Duration::from_secs(50);

/// A question that needs no work there.
const QUESTION_MAX: Duration = Duration::from_secs(30);

/// Sealing: making a join token asks the API.
const SEAL_MAX: Duration = Duration::from_secs(60);

/// What an action may take beyond its own patience before its channel counts as lost.
const ENSURE_SLACK: Duration = Duration::from_secs(60);

/// What all hosts have in common.
#[derive(Clone, Debug)]
pub struct SshSettings {
    /// The shared connections.
    pub control: Control,
    /// The binary for the hosts.
    pub binary: NodeBinary,
    /// The bundle's directory on this machine, for hosts that do not have it. `None`: a host that lacks it says so.
    pub bundle: Option<PathBuf>,
    /// Where backups of hosts go. `None`: nowhere, and a host that is to have given one says so.
    pub backups: Option<Backups>,
    /// What hosts are asked to look at, see [`crate::look_for`].
    pub look: Look,
    /// The block devices that single ones are asked about besides, see [`crate::etcd_devices`].
    pub etcd_devices: BTreeMap<NodeName, EtcdDevice>,
}

/// The way into a host: known beforehand, or looked up when it is needed, for hosts whose keys are made with them.
#[derive(Clone)]
pub struct Way(Arc<dyn Fn() -> Result<SshAccess, String> + Send + Sync>);

impl Way {
    /// One that is looked up each time a connection is made; the error is a message.
    pub fn when_needed(
        look: impl Fn() -> Result<SshAccess, String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(look))
    }

    /// What it is now.
    ///
    /// # Errors
    /// [`SshFailure::Here`] when it cannot be told yet.
    pub fn look(&self) -> Result<SshAccess, SshFailure> {
        (self.0)().map_err(|detail| SshFailure::Here {
            detail: hostile::line(&detail),
        })
    }
}

impl From<SshAccess> for Way {
    fn from(access: SshAccess) -> Self {
        Self(Arc::new(move || Ok(access.clone())))
    }
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Way")
    }
}

/// The hosts of one cluster over SSH.
#[derive(Debug)]
pub struct SshHosts {
    common: Arc<SshSettings>,
    hosts: BTreeMap<NodeName, Host>,
}

/// One host and its channels. A channel is taken out while it is in use: whoever gives up in the middle leaves none behind, and the next
/// one opens another.
#[derive(Debug)]
struct Host {
    way: Way,
    looking: Mutex<Option<Channel>>,
    acting: Mutex<Option<Channel>>,
    /// Held while the binary is being copied there.
    copying: Arc<Mutex<()>>,
}

impl SshHosts {
    /// Hosts by name. Nothing is connected before it is asked for.
    ///
    /// # Errors
    /// When the directory for control sockets cannot be used.
    pub fn new(
        settings: SshSettings,
        hosts: BTreeMap<NodeName, impl Into<Way>>,
    ) -> Result<Self, SetupError> {
        settings.control.prepare()?;
        let hosts = hosts
            .into_iter()
            .map(|(node, way)| {
                let host = Host {
                    way: way.into(),
                    looking: Mutex::default(),
                    acting: Mutex::default(),
                    copying: Arc::default(),
                };
                (node, host)
            })
            .collect();
        Ok(Self {
            common: Arc::new(settings),
            hosts,
        })
    }

    /// Connects to all hosts side by side, with the binary brought along where it is missing. There is no limit but on standing still:
    /// this is for showing progress of what is slow the first time.
    pub async fn connect(&self) -> BTreeMap<NodeName, Result<(), SshFailure>> {
        join_all(self.hosts.iter().map(async |(node, host)| {
            let mut looking = host.looking.lock().await;
            let end = match &*looking {
                Some(_) => Ok(()),
                None => self.open(host).await.map(|channel| {
                    *looking = Some(channel);
                }),
            };
            (node.clone(), end)
        }))
        .await
        .into_iter()
        .collect()
    }

    /// Closes the channels to one host and the shared connection under them: its machine goes away.
    pub async fn forget(&self, node: &NodeName) {
        let Some(host) = self.hosts.get(node) else {
            return;
        };
        host.looking.lock().await.take();
        host.acting.lock().await.take();
        end_shared(&self.common.control, &host.way).await;
    }

    /// Closes all channels. With `shared` the connections under them as well, which otherwise stay for a while, so that the next command
    /// is fast.
    pub async fn close(&self, shared: bool) {
        for host in self.hosts.values() {
            host.looking.lock().await.take();
            host.acting.lock().await.take();
            if shared {
                end_shared(&self.common.control, &host.way).await;
            }
        }
    }

    fn host(&self, node: &NodeName) -> Result<&Host, SshFailure> {
        self.hosts.get(node).ok_or_else(|| SshFailure::Here {
            detail: format!("nobody told the way to {node}"),
        })
    }

    /// A channel, in a task of its own: copying a binary goes on when nobody waits any longer.
    async fn open(&self, host: &Host) -> Result<Channel, SshFailure> {
        let access = host.way.look()?;
        let (common, copying) = (self.common.clone(), host.copying.clone());
        let opening = tokio::spawn(async move { open(&common, &access, &copying).await });
        match opening.await {
            Ok(opened) => opened,
            Err(error) => Err(SshFailure::Here {
                detail: format!("opening a channel ended early: {error}"),
            }),
        }
    }

    /// Asks one thing; `heard` gets each answer and returns what ends it.
    async fn ask<T>(
        &self,
        node: &NodeName,
        purpose: Purpose,
        call: &Call,
        heard: &mut dyn FnMut(Answer) -> Heard<T>,
    ) -> Result<T, SshFailure> {
        let host = self.host(node)?;
        let mut slot = match purpose {
            Purpose::Look => host.looking.lock().await,
            Purpose::Act | Purpose::ActAsBefore => host.acting.lock().await,
        };
        // A channel that was idle may have died since: that the request did not get out is known, and one more try is no repetition.
        if let Some(mut channel) = slot.take() {
            match channel.ask(call).await {
                Ok(()) => return Self::hear(channel, &mut slot, heard).await,
                Err(failure) => tracing::debug!(%node, %failure, "an idle channel was gone"),
            }
        }
        if let Purpose::ActAsBefore = purpose {
            return Err(SshFailure::Lost {
                detail: "the session that something was sealed to has ended".into(),
            });
        }
        let mut channel = self.open(host).await?;
        channel.ask(call).await?;
        Self::hear(channel, &mut slot, heard).await
    }

    async fn hear<T>(
        mut channel: Channel,
        slot: &mut Option<Channel>,
        heard: &mut dyn FnMut(Answer) -> Heard<T>,
    ) -> Result<T, SshFailure> {
        loop {
            match heard(channel.answer().await?) {
                Heard::More => {}
                Heard::End(end) => {
                    *slot = Some(channel);
                    return Ok(end);
                }
                Heard::Strange(expected) => {
                    return Err(SshFailure::NotUnderstood {
                        expected,
                        seen: "another answer".into(),
                    });
                }
            }
        }
    }

    /// Brings along what an action needs beside its request.
    async fn deliver(
        &self,
        on: &NodeName,
        ensure: &HostEnsure,
        progress: &mut dyn FnMut(String),
    ) -> Result<(), HostError> {
        let (HostEnsure::Bundle { id }, Some(dir)) = (ensure, &self.common.bundle) else {
            return Ok(());
        };
        let deliver = async {
            let access = self.host(on)?.way.look()?;
            LocalBundle::open(dir, id)?
                .deliver(&self.common.control, &access, progress)
                .await
        };
        deliver.await.map_err(|failure| host_error(on, &failure))
    }

    /// Brings here what a host is to be asked to stand by: its backup.
    async fn fetch(
        &self,
        on: &NodeName,
        ensure: &HostEnsure,
        progress: &mut dyn FnMut(String),
    ) -> Result<Option<Receipt>, HostError> {
        let (HostEnsure::BackupOffHost { .. }, Some(backups)) = (ensure, &self.common.backups)
        else {
            return Ok(None);
        };
        let fetch = async {
            let access = self.host(on)?.way.look()?;
            let (control, hash) = (&self.common.control, self.common.binary.hash());
            backups.fetch(control, &access, hash, on, progress).await
        };
        fetch.await.map(Some).map_err(|failure| match failure {
            // The host said why not: it would read and seal everything once more for the same answer.
            SshFailure::Command { .. } => failed(on, &failure.to_string()),
            failure => host_error(on, &failure),
        })
    }

    /// A recipient, by either of the calls that end with one.
    async fn recipient_by(&self, on: &NodeName, call: &Call) -> Result<Recipient, HostError> {
        self.request(
            on,
            Purpose::Act,
            call,
            QUESTION_MAX,
            &mut |answer| match answer {
                Answer::Recipient(recipient) => Heard::End(Ok(recipient)),
                Answer::Failed { error } => Heard::End(Err(failed(on, &error))),
                _ => Heard::Strange("a recipient"),
            },
        )
        .await
    }

    /// As [`Self::ask`], for what a host can refuse: the outer error is the way there, the inner one the host's.
    async fn request<T>(
        &self,
        node: &NodeName,
        purpose: Purpose,
        call: &Call,
        within: Duration,
        heard: &mut dyn FnMut(Answer) -> Heard<Result<T, HostError>>,
    ) -> Result<T, HostError> {
        let asked = timeout(within, self.ask(node, purpose, call, heard)).await;
        match asked {
            Ok(Ok(end)) => end,
            Ok(Err(failure)) => Err(host_error(node, &failure)),
            Err(_) => Err(HostError::Unreachable {
                node: node.clone(),
                detail: format!("no answer within {} s", within.as_secs()),
            }),
        }
    }
}

/// What a channel is for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Look,
    Act,
    /// In the session that is open, or not at all: what was sealed to it no other one can open.
    ActAsBefore,
}

/// What an answer means to whoever asked.
enum Heard<T> {
    More,
    End(T),
    Strange(&'static str),
}

async fn open(
    common: &SshSettings,
    access: &SshAccess,
    copying: &Mutex<()>,
) -> Result<Channel, SshFailure> {
    let (control, binary) = (&common.control, &common.binary);
    if let Opened::Greeted(channel) = Channel::open(control, access, binary.hash()).await? {
        return Ok(channel);
    }
    let _alone = copying.lock().await;
    // Somebody else may have brought it while we waited.
    let machine = match Channel::open(control, access, binary.hash()).await? {
        Opened::Greeted(channel) => return Ok(channel),
        Opened::Absent { machine } => machine,
    };
    send::binary(control, access, binary, &machine).await?;
    match Channel::open(control, access, binary.hash()).await? {
        Opened::Greeted(channel) => Ok(channel),
        Opened::Absent { .. } => Err(SshFailure::NotGreeted {
            seen: "that it is still not there after it was copied".into(),
        }),
    }
}

/// Ends a shared connection; that there is none is as well.
async fn end_shared(control: &Control, way: &Way) {
    let Ok(access) = way.look() else { return };
    let Ok(args) = control.exit(&access) else {
        return;
    };
    let ended = tokio::process::Command::new(&control.program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .status();
    if timeout(Duration::from_secs(5), ended).await.is_err() {
        tracing::debug!(address = %access.address, "the shared connection did not end");
    }
}

/// What the way to a host says, as the host's error: what lasts is a failure, everything else may pass.
fn host_error(node: &NodeName, failure: &SshFailure) -> HostError {
    let detail = failure.to_string();
    if failure.is_lasting() {
        HostError::Failed {
            node: node.clone(),
            error: detail,
        }
    } else {
        HostError::Unreachable {
            node: node.clone(),
            detail,
        }
    }
}

fn refused(node: &NodeName, refusal: Box<quorate_plan::Refusal>) -> HostError {
    HostError::Refused {
        node: node.clone(),
        refusal,
    }
}

fn failed(node: &NodeName, error: &str) -> HostError {
    HostError::Failed {
        node: node.clone(),
        error: hostile::text(error),
    }
}

impl Hosts for SshHosts {
    async fn report(&self, on: &NodeName) -> Seen<HostReport> {
        let begun = Instant::now();
        let call = Call::Report(Look {
            etcd_device: self.common.etcd_devices.get(on).cloned(),
            ..self.common.look.clone()
        });
        let mut heard = |answer| match answer {
            Answer::Report(report) => Heard::End(Ok(report)),
            Answer::Failed { error } => Heard::End(Err(hostile::line(&error))),
            _ => Heard::Strange("a report"),
        };
        let what = format!("host {on}");
        match timeout_at(
            begun + REPORT_MAX,
            self.ask(on, Purpose::Look, &call, &mut heard),
        )
        .await
        {
            Ok(Ok(Ok(report))) => Seen::now(*report),
            Ok(Ok(Err(detail))) => Seen::Unknown(Missing::no_answer(what, detail)),
            Ok(Err(failure)) => {
                let detail = failure.to_string();
                Seen::Unknown(if failure.is_lasting() {
                    Missing::no_answer(what, detail)
                } else {
                    Missing::not_yet(what, detail)
                })
            }
            Err(_) => {
                let copying = self
                    .hosts
                    .get(on)
                    .is_some_and(|host| host.copying.try_lock().is_err());
                let doing = if copying {
                    "; the binary is still being copied there, ask again"
                } else {
                    ""
                };
                Seen::Unknown(Missing::not_yet(
                    what,
                    format!("no answer within {} s{doing}", REPORT_MAX.as_secs()),
                ))
            }
        }
    }

    async fn claim(&self, on: &NodeName, claim: &Claim) -> Result<Fencing, HostError> {
        let call = Call::Claim(Box::new(claim.clone()));
        self.request(on, Purpose::Act, &call, QUESTION_MAX, &mut |answer| {
            fenced(on, answer)
        })
        .await
    }

    async fn release(&self, on: &NodeName, fence: Fence) -> Result<(), HostError> {
        let call = Call::Release(fence);
        self.request(on, Purpose::Act, &call, QUESTION_MAX, &mut |answer| {
            fenced(on, answer)
        })
        .await
        .map(|_fencing| ())
    }

    async fn recipient(&self, on: &NodeName) -> Result<Recipient, HostError> {
        // On the channel that will carry what is sealed to it: the identity lives in that session.
        self.recipient_by(on, &Call::Recipient).await
    }

    async fn ticket(&self, on: &NodeName, ensure: &HostEnsure) -> Result<Ticket, HostError> {
        let mut progress = |line| tracing::debug!(%on, "{line}");
        self.deliver(on, ensure, &mut progress).await?;
        // A ticket is good for minutes, and a backup may take longer.
        let receipt = self.fetch(on, ensure, &mut progress).await?;
        let recipient = self.recipient_by(on, &Call::Ticket).await?;
        Ok(Ticket { recipient, receipt })
    }

    async fn seal(
        &self,
        fence: Fence,
        what: &Handover,
        to: &Recipient,
    ) -> Result<Sealed, HostError> {
        let on = what.from();
        let call = Call::Seal {
            fence,
            what: what.clone(),
            to: to.clone(),
        };
        // The giving host may be in the middle of an action of its own.
        self.request(
            on,
            Purpose::Look,
            &call,
            SEAL_MAX,
            &mut |answer| match answer {
                Answer::Sealed(sealed) => Heard::End(Ok(sealed)),
                Answer::Refused(refusal) => Heard::End(Err(refused(on, refusal))),
                Answer::Failed { error } => Heard::End(Err(failed(on, &error))),
                Answer::Busy {
                    action,
                    since_ms,
                    fence,
                } => Heard::End(Err(busy(on, &action, since_ms, fence))),
                _ => Heard::Strange("something sealed"),
            },
        )
        .await
    }

    async fn ensure(
        &self,
        on: &NodeName,
        mut request: Request,
        progress: &mut dyn FnMut(String),
    ) -> Result<Outcome, HostError> {
        self.deliver(on, &request.ensure, progress).await?;
        request.receipt = self.fetch(on, &request.ensure, progress).await?;
        let within = Ensure::Host(request.ensure.clone()).patience() + ENSURE_SLACK;
        let purpose = if request.sealed.is_empty() {
            Purpose::Act
        } else {
            Purpose::ActAsBefore
        };
        let call = Call::Ensure(Box::new(request));
        self.request(on, purpose, &call, within, &mut |answer| match answer {
            Answer::Progress(line) => {
                progress(hostile::line(&line));
                Heard::More
            }
            Answer::Outcome(outcome) => Heard::End(Ok(*outcome)),
            Answer::Refused(refusal) => Heard::End(Err(refused(on, refusal))),
            Answer::Busy {
                action,
                since_ms,
                fence,
            } => Heard::End(Err(busy(on, &action, since_ms, fence))),
            Answer::Failed { error } => Heard::End(Err(failed(on, &error))),
            _ => Heard::Strange("the outcome of an action"),
        })
        .await
    }
}

fn fenced(on: &NodeName, answer: Answer) -> Heard<Result<Fencing, HostError>> {
    match answer {
        Answer::Claimed(fencing) => Heard::End(Ok(*fencing)),
        Answer::Refused(refusal) => Heard::End(Err(refused(on, refusal))),
        Answer::Busy {
            action,
            since_ms,
            fence,
        } => Heard::End(Err(busy(on, &action, since_ms, fence))),
        Answer::Failed { error } => Heard::End(Err(failed(on, &error))),
        _ => Heard::Strange("the fence"),
    }
}

fn busy(on: &NodeName, action: &str, since_ms: u64, fence: Fence) -> HostError {
    HostError::Busy {
        node: on.clone(),
        action: hostile::line(action),
        since_ms,
        fence,
    }
}
