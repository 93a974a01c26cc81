//! Clients of the API while a case goes on: new connections, one that is kept, writes and a watch, through the endpoint from outside; what
//! was acknowledged is read back in the end. Start at [`Load::start`].

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use quorate_drill::{
    history::{self, Outcome},
    probe::Probe,
    timeline::Summary,
};
use quorate_kube::Kubeconfig;
use tokio::runtime::{self, Runtime};

use crate::stage::Stage;

/// Where the writes go, where nobody says anything else.
const NAMESPACE: &str = "quorate-live-load";

/// Fewer acknowledged writes say nothing.
const WRITES_MIN: usize = 50;

/// No stream of requests may see nothing for longer than this while masters come and go.
const GAP_MAX: Duration = Duration::from_secs(5);

/// Streams of requests, as they are called where their figures are.
pub const STREAMS: [&str; 3] = ["new connections", "a kept connection", "writes"];

/// Streams of requests that go on by themselves.
pub struct Load {
    runtime: Runtime,
    probe: Probe,
    kubeconfig: Kubeconfig,
    address: Option<SocketAddr>,
    namespace: &'static str,
}

/// A time of a load.
#[derive(Clone, Copy)]
pub struct Moment(Duration);

/// What clients may have noticed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// Requests that failed twice, and the watch cut.
    Failures,
    /// Requests that succeeded at the second try.
    Retries,
    None,
}

impl Load {
    /// Begins, with an administrator's kubeconfig.
    pub fn start(kubeconfig: &Path) -> Result<Self> {
        Self::start_at(kubeconfig, None, NAMESPACE)
    }

    /// Begins at an address, whatever the kubeconfig's name resolves to here, in a namespace of its own.
    pub fn start_at(
        kubeconfig: &Path,
        address: Option<SocketAddr>,
        namespace: &'static str,
    ) -> Result<Self> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let kubeconfig = Kubeconfig::load(kubeconfig)?;
        let probe = runtime
            .block_on(Probe::start(&kubeconfig, address, namespace))
            .context("the load could not begin")?;
        Ok(Self {
            runtime,
            probe,
            kubeconfig,
            address,
            namespace,
        })
    }

    /// Now.
    pub fn now(&self) -> Moment {
        Moment(self.probe.now())
    }

    /// Ends it, reads everything back and checks what each part of the case has cost: a part is called by its name and ends where the next
    /// one begins.
    pub fn finish(self, stage: &mut Stage, parts: &[(&str, Moment)]) -> Result<()> {
        self.end(stage, parts, Harm::Failures).map(drop)
    }

    /// As [`Load::finish`], for whoever measures: what each of [`STREAMS`] saw in the one part there is.
    pub fn finish_measured(self, stage: &mut Stage, part: (&str, Moment)) -> Result<[Summary; 3]> {
        let mut parts = self.end(stage, &[part], Harm::Failures)?;
        parts.pop().context("there is one part")
    }

    /// As [`Load::finish`], where nobody may have noticed anything: no request failed twice, and the watch was never cut.
    pub fn finish_unharmed(self, stage: &mut Stage, parts: &[(&str, Moment)]) -> Result<()> {
        self.end(stage, parts, Harm::Retries).map(drop)
    }

    /// As [`Load::finish_unharmed`], where no request failed even once.
    pub fn finish_unfailed(self, stage: &mut Stage, parts: &[(&str, Moment)]) -> Result<()> {
        self.end(stage, parts, Harm::None).map(drop)
    }

    fn end(
        self,
        stage: &mut Stage,
        parts: &[(&str, Moment)],
        may: Harm,
    ) -> Result<Vec<[Summary; 3]>> {
        let end = self.probe.now();
        let (seen, found) = self
            .runtime
            .block_on(self.probe.finish())
            .context("what was written could not be read back")?;
        self.runtime
            .block_on(Probe::clean_up(
                &self.kubeconfig,
                self.address,
                self.namespace,
            ))
            .context("the load's namespace could not be deleted")?;
        let acknowledged = |write: &&history::Write| {
            matches!(
                write.outcome,
                Outcome::Acknowledged { .. } | Outcome::FoundThere
            )
        };
        let acknowledged = seen.writes.iter().filter(acknowledged).count();
        stage.check(
            &format!("{acknowledged} writes were acknowledged"),
            acknowledged >= WRITES_MIN,
        );
        let violations = history::check(&seen.writes, &found, &seen.watched);
        stage.check_eq(
            "no acknowledged write is lost, moved, out of order or untold",
            &violations,
            &Vec::new(),
        );
        let ends = parts.iter().skip(1).map(|(_, begin)| begin.0).chain([end]);
        let mut summaries = Vec::new();
        for ((part, begin), until) in parts.iter().zip(ends) {
            let streams =
                [&seen.new, &seen.kept, &seen.write].map(|all| all.summary(begin.0, until));
            for (stream, summary) in STREAMS.into_iter().zip(&streams) {
                let gap = Duration::from_millis(summary.longest_gap_ms);
                stage.say(&format!(
                    "{part}: {stream}: longest gap {} ms, {} of {} requests failed, {} of them twice{}",
                    gap.as_millis(),
                    summary.failed,
                    summary.requests,
                    summary.failed_after_retry,
                    summary
                        .errors
                        .first()
                        .map_or(String::new(), |error| format!(" ({error})"))
                ));
                stage.check(
                    &format!("{part}: {stream}: no gap above {} s", GAP_MAX.as_secs()),
                    gap <= GAP_MAX,
                );
                match may {
                    Harm::Failures => {}
                    Harm::Retries => stage.check_eq(
                        &format!("{part}: {stream}: no request failed twice"),
                        &summary.failed_after_retry,
                        &0,
                    ),
                    Harm::None => stage.check_eq(
                        &format!("{part}: {stream}: no request failed"),
                        &summary.failed,
                        &0,
                    ),
                }
            }
            summaries.push(streams);
        }
        if may != Harm::Failures {
            stage.check_eq("the watch was never cut", &seen.watch_cuts, &Vec::new());
        }
        Ok(summaries)
    }
}
