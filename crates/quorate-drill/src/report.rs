//! What a drill found: numbers, rules broken, a verdict. [`Report`] is the JSON; [`Report::text`] is for people.

use std::fmt::Write as _;

use quorate_plan::NodeName;
use serde::{Deserialize, Serialize};

use crate::{fault::Fault, history::Violation, timeline::Summary};

/// The loose ceiling of a gap that a drill accepts, in milliseconds: etcd elects a leader within two of its election timeouts, 2 s by
/// default, and the balancer needs a fraction of a second. Anything above is a fault of somebody.
pub const GAP_MS_MAX: u64 = 5_000;

/// What a drill found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `quorate/v1`.
    pub api_version: String,
    /// `DrillReport`.
    pub kind: String,
    /// The cluster.
    pub cluster: String,
    /// What was done.
    pub fault: Fault,
    /// To which host.
    pub node: NodeName,
    /// It led etcd then.
    pub led_etcd: bool,
    /// New connections, from the fault until the host was mended.
    pub new_connections: Summary,
    /// The kept connection.
    pub kept_connection: Summary,
    /// Writes.
    pub writes: Summary,
    /// Times the watch was cut in that window.
    pub watch_cuts: usize,
    /// Milliseconds from the fault until every stream had succeeded again.
    pub recovered_ms: u64,
    /// Milliseconds from mending until the cluster was whole again.
    pub whole_ms: u64,
    /// Longest gaps while the host came back: new, kept, writes, in milliseconds.
    pub return_gaps_ms: [u64; 3],
    /// Requests that failed while the host came back, their retry counted apart.
    pub return_failed: usize,
    /// Writes acknowledged in the whole drill.
    pub acknowledged_writes: usize,
    /// Writes of unknown outcome: not answered, and not there or there.
    pub unknown_writes: usize,
    /// Rules broken.
    pub violations: Vec<Violation>,
    /// Load of the machine when the drill ended, as `uptime` tells it: numbers of a busy machine are larger.
    pub load_average: String,
}

impl Report {
    /// Whether every rule held: the history is whole, and no stream had a gap above [`GAP_MS_MAX`].
    pub fn passed(&self) -> bool {
        self.broken().is_empty()
    }

    /// Rules that did not hold, as sentences.
    pub fn broken(&self) -> Vec<String> {
        let mut broken: Vec<String> = self
            .violations
            .iter()
            .map(|violation| format!("history: {violation:?}"))
            .collect();
        for (name, summary) in self.streams() {
            if summary.longest_gap_ms > GAP_MS_MAX {
                broken.push(format!(
                    "{name}: expected no gap above {GAP_MS_MAX} ms, seen {} ms",
                    summary.longest_gap_ms
                ));
            }
        }
        broken
    }

    fn streams(&self) -> [(&'static str, &Summary); 3] {
        [
            ("new connections", &self.new_connections),
            ("kept connection", &self.kept_connection),
            ("writes", &self.writes),
        ]
    }

    /// For people, without colour, at most 100 columns.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let led = if self.led_etcd {
            ", the etcd leader's host"
        } else {
            ""
        };
        let mut line = |text: String| writeln!(out, "{text}").expect("a String takes everything");
        line(format!("{} of {}{led}", self.fault, self.node));
        line(format!(
            "{:<18}{:>12}{:>10}{:>9}{:>16}",
            "", "LONGEST GAP", "REQUESTS", "FAILED", "FAILED TWICE"
        ));
        for (name, summary) in self.streams() {
            line(format!(
                "{name:<18}{:>9} ms{:>10}{:>9}{:>16}",
                summary.longest_gap_ms,
                summary.requests,
                summary.failed,
                summary.failed_after_retry
            ));
        }
        line(format!("watch              cut {} times", self.watch_cuts));
        line(format!(
            "every stream succeeded again after {} ms",
            self.recovered_ms
        ));
        line(format!(
            "whole again {:.1} s after the host was back in power; longest gap then {} ms, {} requests failed",
            self.whole_ms as f64 / 1000.0,
            self.return_gaps_ms.iter().max().unwrap_or(&0),
            self.return_failed
        ));
        line(format!(
            "{} writes acknowledged, {} lost, {} never answered",
            self.acknowledged_writes,
            self.violations
                .iter()
                .filter(|violation| matches!(violation, Violation::Lost { .. }))
                .count(),
            self.unknown_writes
        ));
        line(format!(
            "load average of this machine: {}",
            self.load_average
        ));
        let broken = self.broken();
        if broken.is_empty() {
            line("verdict: every rule held".into());
        } else {
            line(format!("verdict: {} rules broken", broken.len()));
            for rule in broken {
                line(format!("  {rule}"));
            }
        }
        out
    }
}
