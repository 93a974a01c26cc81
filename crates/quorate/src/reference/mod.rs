//! Reference pages that are made from code: the text of each is a function here, and a test keeps the committed file fresh.
//! `QUORATE_BLESS=1 cargo test -p quorate` writes them anew.

mod cluster_file;
mod codes;
mod commands;
mod ports;

use quorate_plan::refusal::RefusalCode;

/// Pages below `docs/reference`: name and text.
pub fn pages() -> Vec<(&'static str, String)> {
    vec![
        ("exit-codes.md", crate::exit::reference()),
        ("error-codes.md", codes::reference()),
        ("cluster-file.md", cluster_file::reference()),
        ("cli.md", commands::reference()),
        ("ports.md", ports::reference()),
    ]
}

macro_rules! runbooks {
    ($($variant:ident = $file:literal;)*) => {
        /// The runbook of a refusal: what it means, what to look at, what to do and what never to do.
        pub fn runbook(code: RefusalCode) -> &'static str {
            match code {
                $(RefusalCode::$variant => include_str!(concat!("../../../../docs/runbooks/", $file, ".md")),)*
            }
        }
    };
}

runbooks! {
    Missing = "missing";
    WouldLoseQuorum = "would-lose-quorum";
    LearnerPresent = "learner-present";
    MemberUnstarted = "member-unstarted";
    AlarmRaised = "alarm-raised";
    NotBlank = "not-blank";
    FoundingFailed = "founding-failed";
    ForeignHost = "foreign-host";
    ForeignAuthority = "foreign-authority";
    UnfitHost = "unfit-host";
    ClockDiffers = "clock-differs";
    EtcdVolume = "etcd-volume";
    PortInUse = "port-in-use";
    EndpointUnresolved = "endpoint-unresolved";
    EndpointSilent = "endpoint-silent";
    EndpointRecords = "endpoint-records";
    DataLost = "data-lost";
    MachineHeld = "machine-held";
    BundleVersion = "bundle-version";
    Unchangeable = "unchangeable";
    Unnamed = "unnamed";
    Fenced = "fenced";
    OperationInForce = "operation-in-force";
    PlanDeparted = "plan-departed";
    Unpermitted = "unpermitted";
    NotProvenDead = "not-proven-dead";
    MayStillRun = "may-still-run";
    RaftLags = "raft-lags";
    NearQuota = "near-quota";
    DiskFull = "disk-full";
    DiskSlow = "disk-slow";
    KnownBadVersion = "known-bad-version";
    EvenVoters = "even-voters";
    NoSuccessor = "no-successor";
    StillWanted = "still-wanted";
    NotWanted = "not-wanted";
    JoinerDiffers = "joiner-differs";
    StillMember = "still-member";
    NotConvertible = "not-convertible";
    OldAddressInUse = "old-address-in-use";
    OldAddressStored = "old-address-stored";
    Unproven = "unproven";
    WorkerAway = "worker-away";
    PastReturn = "past-return";
    TargetUnhealthy = "target-unhealthy";
    LastTarget = "last-target";
}

/// The first line of a runbook.
pub fn runbook_title(code: RefusalCode) -> &'static str {
    runbook(code)
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("# ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_one_thing() {
        for code in quorate_infra::Code::ALL {
            assert_eq!(RefusalCode::parse(code.name()), None, "{code}");
        }
    }

    #[test]
    fn every_runbook_is_about_its_refusal() {
        for code in RefusalCode::ALL {
            let page = runbook(*code);
            assert!(page.starts_with("# "), "{code}");
            assert!(page.contains(&format!("`{code}`")), "{code}");
        }
    }
}
