//! Hosts that are on their way: they boot, or nobody answers there yet. What they carry decides, and it can be told in a while; so it is
//! waited for instead of being refused. Start at [`wait_for_hosts`].

use crate::{
    Intent, NodeName, Observation, Planning,
    plan::{Plan, Waiting},
    refusal::RefusalCode,
    seen::{Seen, Why},
    step::Place,
};

/// Makes waiting of what would be refused, or begun half, only because hosts are on their way. How long that is reasonable is for whoever
/// waits to decide.
pub(super) fn wait_for_hosts(intent: &Intent, seen: &Observation, planning: &mut Planning) {
    // Machines that are started first are a plan of their own.
    if !planning.waiting.is_empty() {
        return;
    }
    let hosts: Vec<(&NodeName, Host<'_>)> = intent
        .machines()
        .map(|(node, ..)| (node, Host::of(seen, node)))
        .collect();
    let booting = hosts.iter().any(|(_, host)| *host == Host::Boots);
    let needed = booting || !planning.refused.is_empty();
    let final_word = planning
        .refused
        .iter()
        .any(|refusal| refusal.code() != RefusalCode::Missing)
        || hosts.iter().any(|(_, host)| *host == Host::Unseen);
    let waiting: Vec<Waiting> = hosts
        .iter()
        .filter_map(|(node, host)| {
            let what = match host {
                Host::Boots => "to finish booting: what it needs can be seen then".to_owned(),
                Host::Silent(detail) => format!("to answer: {detail}"),
                Host::Seen | Host::Unseen => return None,
            };
            Some(Waiting {
                on: Place::Host((*node).clone()),
                what: format!("{node} {what}"),
            })
        })
        .collect();
    if waiting.is_empty() || !needed {
        return;
    }
    planning.plan = Plan::default();
    if final_word {
        // What else is unseen may be a consequence; what was refused is not.
        return;
    }
    planning.refused.clear();
    planning.waiting = waiting;
}

/// How a host looks to whoever wants to know what it carries.
#[derive(Debug, PartialEq, Eq)]
enum Host<'a> {
    /// It told.
    Seen,
    /// It answers, and starts what it starts at boot.
    Boots,
    /// Nobody answers there, which may change.
    Silent(&'a str),
    /// It could not be seen for a reason that does not pass by itself.
    Unseen,
}

impl<'a> Host<'a> {
    fn of(seen: &'a Observation, node: &NodeName) -> Self {
        match seen.hosts.get(node) {
            Some(Seen::Known { value, .. }) => match &value.booting {
                Seen::Known { value: true, .. } => Self::Boots,
                // Nothing is decided by it but whether to wait: a host whose systemd does not tell is judged by what it carries.
                Seen::Known { value: false, .. } | Seen::Unknown(_) => Self::Seen,
            },
            Some(Seen::Unknown(missing)) => match &missing.why {
                Why::NotYet { detail } => Self::Silent(detail),
                Why::NotLooked
                | Why::NoAnswer { .. }
                | Why::Unreadable { .. }
                | Why::TooOld { .. } => Self::Unseen,
            },
            None => Self::Unseen,
        }
    }
}
