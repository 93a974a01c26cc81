//! Answering an operator's machine: a greeting line, then frames. Start at [`serve`].

use std::{io, sync::Arc};

use quorate_plan::wire::{Answer, Call, Carried, GREETING};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use crate::{
    durable::FileError,
    ensure::Progress,
    frame::{self, FrameError},
    paths::Paths,
    session::Session,
    shown,
};

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Our own binary could not be read.
    #[error("cannot say which binary this is")]
    Binary(#[source] FileError),
    /// The greeting was not taken.
    #[error("cannot write to the channel")]
    Greeting(#[source] io::Error),
    /// What came was no frame. What was in hand was finished.
    #[error("the channel is of no use any more")]
    Frame(#[source] FrameError),
}

/// Serves one operator's machine until its channel closes. An action in hand is finished all the same; its answer is lost then, and
/// whoever asks next sees what came of it.
///
/// # Errors
/// See [`ServeError`]; a channel that was closed is none.
pub async fn serve<R, W>(input: R, mut output: W, paths: Paths) -> Result<(), ServeError>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin,
{
    outlive_hangup();
    let session = Arc::new(Session::begin(paths).map_err(ServeError::Binary)?);
    let greeting = format!("{GREETING} {}\n", session.binary());
    output
        .write_all(greeting.as_bytes())
        .await
        .map_err(ServeError::Greeting)?;
    output.flush().await.map_err(ServeError::Greeting)?;

    let (send, mut calls) = mpsc::channel(1);
    tokio::spawn(listen(input, session.clone(), send));
    while let Some(frame) = calls.recv().await {
        match frame {
            Ok(bytes) => answer(&session, &bytes, &mut output).await,
            Err(err) => {
                say(&mut output, &failed(&shown::chain(&err))).await;
                return Err(ServeError::Frame(err));
            }
        }
    }
    Ok(())
}

/// Reads frames while calls are answered: that the channel is closed shall be known while an action runs.
async fn listen<R: AsyncRead + Unpin>(
    mut input: R,
    session: Arc<Session>,
    calls: mpsc::Sender<Result<Vec<u8>, FrameError>>,
) {
    loop {
        let frame = frame::read(&mut input).await.transpose();
        let over = !matches!(frame, Some(Ok(_)));
        if over {
            session.disconnected();
        }
        if let Some(frame) = frame
            && calls.send(frame).await.is_err()
        {
            return;
        }
        if over {
            return;
        }
    }
}

async fn answer<W: AsyncWrite + Unpin>(session: &Session, frame: &[u8], output: &mut W) {
    let call: Call = match serde_json::from_slice(frame) {
        Ok(call) => call,
        Err(err) => {
            let text = format!("expected a call, seen something else: {err}");
            return say(output, &failed(&shown::line(&text))).await;
        }
    };
    let (send, mut news) = mpsc::unbounded_channel();
    let progress = Progress(send);
    let answering = session.answer(call, &progress);
    tokio::pin!(answering);
    let answer = loop {
        tokio::select! {
            biased;
            Some(line) = news.recv() => say(output, &Answer::Progress(line)).await,
            answer = &mut answering => break answer,
        }
    };
    while let Ok(line) = news.try_recv() {
        say(output, &Answer::Progress(line)).await;
    }
    say(output, &answer).await;
}

fn failed(error: &str) -> Answer {
    Answer::Failed {
        error: error.to_owned(),
    }
}

/// Writes an answer. A channel that takes none any more is found closed by whoever reads it.
async fn say<W: AsyncWrite + Unpin>(output: &mut W, answer: &Answer) {
    if let Err(err) = frame::write(output, answer).await
        && err.kind() == io::ErrorKind::Other
    {
        // Too long for a frame: nothing was written.
        let _ = frame::write(output, &failed(&shown::line(&err.to_string()))).await;
    }
}

/// A terminal or channel that goes away does not end an action.
fn outlive_hangup() {
    // Registering it is what keeps the signal from ending the process; nobody needs to know when it comes.
    let _ = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup());
}

/// Answers one request without a session around it, as configuration management asks: the fence must have been taken on this host
/// before, and a ticket been issued for it.
///
/// # Errors
/// When our own binary cannot be read; everything else is in the answer.
pub async fn run(
    carried: Carried,
    paths: Paths,
    progress: &mut dyn FnMut(String),
) -> Result<Answer, ServeError> {
    outlive_hangup();
    let session = Session::begin(paths).map_err(ServeError::Binary)?;
    let (send, mut news) = mpsc::unbounded_channel();
    let sender = Progress(send);
    let answering = session.carried(carried, &sender);
    tokio::pin!(answering);
    loop {
        tokio::select! {
            biased;
            Some(line) = news.recv() => progress(line),
            answer = &mut answering => return Ok(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs::File};

    use quorate_plan::{
        Claim, Fence, HostEnsure, Observation, Operator, Request, Seen,
        kubeadm::Peer,
        observation::{HostMark, Look},
        wire::{FRAME_BYTES_MAX, Outcome},
    };
    use tokio::{
        io::{AsyncBufReadExt, BufReader, DuplexStream, ReadHalf, WriteHalf, split},
        task::JoinHandle,
    };

    use super::*;
    use crate::testing::{self, Machine};

    /// An operator's end of a channel.
    struct Channel {
        from: BufReader<ReadHalf<DuplexStream>>,
        to: WriteHalf<DuplexStream>,
        served: JoinHandle<Result<(), ServeError>>,
    }

    async fn open(machine: &Machine) -> Channel {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (input, output) = split(theirs);
        let served = tokio::spawn(serve(input, output, machine.paths.clone()));
        let (from, to) = split(ours);
        let mut from = BufReader::new(from);
        let mut greeting = String::new();
        from.read_line(&mut greeting).await.unwrap();
        let hash = greeting
            .strip_prefix("quorate-node ")
            .and_then(|rest| rest.strip_suffix('\n'))
            .unwrap();
        assert!(crate::bundle::is_id(hash), "{greeting}");
        Channel { from, to, served }
    }

    impl Channel {
        async fn ask(&mut self, call: &Call) -> Answer {
            frame::write(&mut self.to, call).await.unwrap();
            self.next().await
        }

        async fn next(&mut self) -> Answer {
            loop {
                let bytes = frame::read(&mut self.from).await.unwrap().unwrap();
                match serde_json::from_slice(&bytes).unwrap() {
                    Answer::Progress(_) => {}
                    answer => return answer,
                }
            }
        }

        async fn close(mut self) -> Result<(), ServeError> {
            self.to.shutdown().await.unwrap();
            self.served.await.unwrap()
        }
    }

    fn claim(fence: u64, user: &str) -> Call {
        Call::Claim(Box::new(Claim {
            fence: Fence(fence),
            operator: Operator {
                user: user.into(),
                machine: "desk".into(),
                pid: 1,
                run: format!("{user}-{fence}"),
            },
            since: 0,
            intent: testing::intent(),
        }))
    }

    fn prepare(fence: u64) -> Call {
        Call::Ensure(Box::new(Request {
            fence: Fence(fence),
            ensure: HostEnsure::Prepared {
                mark: HostMark {
                    cluster: "demo".parse().unwrap(),
                    node: "cp-1".parse().unwrap(),
                    disposable: true,
                },
                sysctls: BTreeMap::new(),
                hosts_file: [("api.demo.internal".to_owned(), [10, 0, 0, 9].into())].into(),
            },
            change: None,
            sealed: vec![],
            receipt: None,
            accepted: [].into(),
            testimony: Observation::default(),
        }))
    }

    fn outcome(answer: Answer) -> Outcome {
        match answer {
            Answer::Outcome(outcome) => *outcome,
            other => panic!("{other:?}"),
        }
    }

    /// A process that another test starts holds this host's lock until it is what it shall be.
    async fn when_free(channel: &mut Channel, call: &Call) -> Answer {
        for _ in 0..500 {
            match channel.ask(call).await {
                Answer::Busy { .. } => {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await
                }
                answer => return answer,
            }
        }
        panic!("busy for five seconds");
    }

    #[tokio::test]
    async fn a_session_from_greeting_to_outcome() {
        let machine = testing::machine();
        let mut channel = open(&machine).await;
        let look = Call::Report(Look {
            cluster: "demo".parse().unwrap(),
            endpoint: None,
            dns: None,
            etcd_device: None,
            conversion: None,
        });
        let Answer::Report(report) = channel.ask(&look).await else {
            panic!("no report");
        };
        assert_eq!(report.facts.mark.get().unwrap(), &None);

        let Answer::Failed { error } = channel.ask(&prepare(1)).await else {
            panic!("acted without a claim");
        };
        assert!(error.contains("expected token 1 to be granted"), "{error}");
        let Answer::Claimed(fencing) = channel.ask(&claim(1, "ann")).await else {
            panic!("not claimed");
        };
        assert!(fencing.connected);

        let first = outcome(when_free(&mut channel, &prepare(1)).await);
        assert_eq!(first.changed.len(), 2, "{:?}", first.changed);
        assert!(first.report.facts.mark.get().unwrap().is_some());
        let second = outcome(when_free(&mut channel, &prepare(1)).await);
        assert!(second.changed.is_empty(), "{:?}", second.changed);
        assert!(!machine.paths.run("action.json").exists());

        let Answer::Claimed(fencing) = channel.ask(&Call::Release(Fence(1))).await else {
            panic!("not released");
        };
        assert!(!fencing.connected && fencing.claim.is_none());
        assert!(matches!(
            when_free(&mut channel, &prepare(1)).await,
            Answer::Failed { .. }
        ));
        channel.close().await.unwrap();
    }

    #[tokio::test]
    async fn an_outranked_operator_is_refused() {
        let machine = testing::machine();
        let mut ann = open(&machine).await;
        ann.ask(&claim(1, "ann")).await;
        let mut bob = open(&machine).await;
        let answer = bob.ask(&claim(2, "bob")).await;
        assert!(
            matches!(answer, Answer::Refused(_)),
            "ann is there: {answer:?}"
        );
        // Ann's connection is cut, not her session's memory.
        ann.to.shutdown().await.unwrap();
        ann.served.await.unwrap().unwrap();
        let answer = bob.ask(&claim(2, "bob")).await;
        assert!(matches!(answer, Answer::Claimed(_)), "{answer:?}");
        let mut again = open(&machine).await;
        let answer = again.ask(&prepare(1)).await;
        assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
        outcome(bob.ask(&prepare(2)).await);
        again.close().await.unwrap();
        bob.close().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_in_hand_is_finished_when_the_channel_closes() {
        let machine = testing::machine();
        let mut channel = open(&machine).await;
        channel.ask(&claim(1, "ann")).await;
        frame::write(&mut channel.to, &prepare(1)).await.unwrap();
        channel.close().await.unwrap();
        assert!(machine.paths.state("mark.json").exists());
        assert!(
            machine
                .read("/etc/hosts")
                .contains("10.0.0.9 api.demo.internal")
        );
    }

    #[tokio::test]
    async fn an_action_of_another_session_is_told_and_not_joined() {
        let machine = testing::machine();
        let mut channel = open(&machine).await;
        channel.ask(&claim(7, "ann")).await;
        let lock = File::create(machine.paths.run("lock")).unwrap();
        lock.lock().unwrap();
        machine.write(
            "/run/quorate/action.json",
            r#"{"action":"kubelet runs","sinceMs":1,"fence":6}"#,
        );
        let answer = channel.ask(&prepare(7)).await;
        let Answer::Busy {
            action,
            since_ms,
            fence,
        } = answer
        else {
            panic!("{answer:?}");
        };
        assert_eq!((action.as_str(), fence), ("kubelet runs", Fence(6)));
        assert!(since_ms > 0);
        assert!(!machine.paths.state("mark.json").exists());
        drop(lock);
        outcome(when_free(&mut channel, &prepare(7)).await);
        channel.close().await.unwrap();
    }

    #[tokio::test]
    async fn garbage_is_told_and_too_much_of_it_ends_the_session() {
        let machine = testing::machine();
        let mut channel = open(&machine).await;
        for garbage in ["", "{", "[1]", "{\"nosuch\":1}", "\"\u{1b}[2J\""] {
            let mut bytes = u32::try_from(garbage.len()).unwrap().to_be_bytes().to_vec();
            bytes.extend_from_slice(garbage.as_bytes());
            channel.to.write_all(&bytes).await.unwrap();
            let answer = channel.next().await;
            let Answer::Failed { error } = answer else {
                panic!("{garbage}: {answer:?}");
            };
            assert!(!error.contains('\u{1b}'), "{error}");
        }
        assert!(matches!(
            channel.ask(&Call::Recipient).await,
            Answer::Recipient(_)
        ));
        channel
            .to
            .write_all(&(FRAME_BYTES_MAX + 1).to_be_bytes())
            .await
            .unwrap();
        assert!(matches!(channel.next().await, Answer::Failed { .. }));
        let result = channel.served.await.unwrap();
        assert!(matches!(result, Err(ServeError::Frame(_))), "{result:?}");
    }

    #[tokio::test]
    async fn a_channel_that_breaks_within_a_frame_ends_the_session() {
        let machine = testing::machine();
        let mut channel = open(&machine).await;
        channel.to.write_all(b"\0\0\x01").await.unwrap();
        let result = channel.close().await;
        assert!(matches!(result, Err(ServeError::Frame(_))), "{result:?}");
    }

    #[tokio::test]
    async fn one_request_without_a_session() {
        let machine = testing::machine();
        let ask = async |ticket: Answer| {
            let (Answer::Recipient(ticket), Call::Ensure(request)) = (ticket, prepare(1)) else {
                panic!("no ticket");
            };
            let carried = Carried {
                ticket,
                request: *request,
            };
            run(carried, machine.paths.clone(), &mut drop)
                .await
                .unwrap()
        };
        let mut channel = open(&machine).await;
        let ticket = channel.ask(&Call::Ticket).await;
        let Answer::Failed { error } = ask(ticket).await else {
            panic!("acted without a claim");
        };
        assert!(error.contains("expected token 1 to be granted"), "{error}");
        channel.ask(&claim(1, "ann")).await;
        let ticket = channel.ask(&Call::Ticket).await;
        channel.close().await.unwrap();
        outcome(ask(ticket.clone()).await);
        let Answer::Failed { error } = ask(ticket).await else {
            panic!("a ticket was good twice");
        };
        assert!(error.contains("not used yet"), "{error}");
    }

    /// What a guard believes must not get younger on its way: a laptop that slept hands over what it saw before.
    #[tokio::test]
    async fn testimony_grows_older_on_its_way() {
        let machine = testing::machine();
        let mut channel = open(&machine).await;
        channel.ask(&claim(1, "ann")).await;
        let Answer::Recipient(ticket) = channel.ask(&Call::Ticket).await else {
            panic!("no ticket");
        };
        channel.close().await.unwrap();
        // Issued two minutes earlier than it was.
        let file = machine.paths.run("tickets").join(&ticket.0);
        let text = std::fs::read_to_string(&file).unwrap();
        let (issued, identity) = text.split_once(' ').unwrap();
        let issued: u64 = issued.parse().unwrap();
        let earlier = issued.checked_sub(120_000).expect("booted two minutes ago");
        std::fs::write(&file, format!("{earlier} {identity}")).unwrap();
        machine.write(
            "/var/lib/quorate/mark.json",
            r#"{"cluster":"demo","node":"lb-1","disposable":true}"#,
        );
        let backend = Peer {
            name: "cp-1".parse().unwrap(),
            address: [10, 0, 0, 1].into(),
        };
        let view = testing::ready_api();
        let mut testimony = Observation::default();
        testimony
            .api
            .insert(backend.name.clone(), Seen::now(Some(view)));
        let carried = Carried {
            ticket,
            request: Request {
                fence: Fence(1),
                ensure: HostEnsure::Backend {
                    backend,
                    address: ([10, 0, 0, 1], 6443).into(),
                },
                change: None,
                sealed: vec![],
                receipt: None,
                accepted: [].into(),
                testimony,
            },
        };
        let answer = run(carried, machine.paths.clone(), &mut drop)
            .await
            .unwrap();
        let Answer::Refused(refusal) = answer else {
            panic!("{answer:?}");
        };
        assert!(refusal.to_string().contains("a fresh look"), "{refusal}");
    }
}
