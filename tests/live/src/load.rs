//! Clients of the API while a case goes on: new connections, one that is kept, writes and a watch, through the endpoint from outside; what
//! was acknowledged is read back in the end. Start at [`Load::start`].

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use quorate_drill::{
    history::{self, Outcome},
    probe::Probe,
    timeline::Timeline,
};
use quorate_kube::Kubeconfig;
use tokio::runtime::{self, Runtime};

use crate::stage::Stage;

/// Where the writes go.
const NAMESPACE: &str = "quorate-live-load";

/// Fewer acknowledged writes say nothing.
const WRITES_MIN: usize = 50;

/// No stream of requests may see nothing for longer than this while masters come and go.
const GAP_MAX: Duration = Duration::from_secs(5);

/// Streams of requests that go on by themselves.
pub struct Load {
    runtime: Runtime,
    probe: Probe,
    kubeconfig: Kubeconfig,
}

/// A time of a load.
#[derive(Clone, Copy)]
pub struct Moment(Duration);

impl Load {
    /// Begins, with an administrator's kubeconfig.
    pub fn start(kubeconfig: &Path) -> Result<Self> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let kubeconfig = Kubeconfig::load(kubeconfig)?;
        let probe = runtime
            .block_on(Probe::start(&kubeconfig, None, NAMESPACE))
            .context("the load could not begin")?;
        Ok(Self {
            runtime,
            probe,
            kubeconfig,
        })
    }

    /// Now.
    pub fn now(&self) -> Moment {
        Moment(self.probe.now())
    }

    /// Ends it, reads everything back and checks what each part of the case has cost: a part is called by its name and ends where the next
    /// one begins.
    pub fn finish(self, stage: &mut Stage, parts: &[(&str, Moment)]) -> Result<()> {
        let end = self.probe.now();
        let (seen, found) = self
            .runtime
            .block_on(self.probe.finish())
            .context("what was written could not be read back")?;
        self.runtime
            .block_on(Probe::clean_up(&self.kubeconfig, None, NAMESPACE))
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
        for ((part, begin), until) in parts.iter().zip(ends) {
            let streams: [(&str, &Timeline); 3] = [
                ("new connections", &seen.new),
                ("a kept connection", &seen.kept),
                ("writes", &seen.write),
            ];
            for (stream, timeline) in streams {
                let summary = timeline.summary(begin.0, until);
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
            }
        }
        Ok(())
    }
}
