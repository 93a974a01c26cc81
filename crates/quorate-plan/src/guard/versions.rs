//! Versions that are known to be bad for a change of membership, as data with their sources. Start at [`known_bad`].
//!
//! kubeadm's own bugs about joining (promoting a learner that did not start, giving up on one that was promoted) are in phases of
//! `kubeadm join` that Quorate does not run: it asks etcd itself.

/// What is to be done to the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// A member is added, as a learner that is promoted.
    Adding,
    /// A member is removed.
    Removing,
}

/// A range of versions that is bad for something.
struct KnownBad {
    component: &'static str,
    first: [u32; 3],
    last: [u32; 3],
    adding: bool,
    removing: bool,
    why: &'static str,
}

/// First range that fits counts.
const KNOWN_BAD: [KnownBad; 3] = [
    // etcd's CHANGELOG/README.md and postmortem of 2022: committed transactions missing on some members after a kill under load.
    KnownBad {
        component: "etcd",
        first: [3, 5, 0],
        last: [3, 5, 2],
        adding: true,
        removing: true,
        why: "its members may hold different data after a crash; upgrade to 3.5.24 or later first",
    },
    // etcd pull request 15096, in 3.5.7.
    KnownBad {
        component: "etcd",
        first: [3, 5, 3],
        last: [3, 5, 6],
        adding: true,
        removing: false,
        why: "it may promote a learner that never started; upgrade to 3.5.24 or later first",
    },
    // etcd issues 19557 and 20793: the promotion is not persisted, and the upgrade to 3.6 finds learners again.
    KnownBad {
        component: "etcd",
        first: [3, 5, 7],
        last: [3, 5, 19],
        adding: true,
        removing: false,
        why: "it forgets on disk that a learner was promoted, and the upgrade to 3.6 fails; upgrade to 3.5.24 or later first",
    },
];

/// Why this version is bad for that. `None`: nothing is known against it.
pub(crate) fn known_bad(component: &str, version: &str, doing: Doing) -> Option<&'static str> {
    let version = parse(version)?;
    KNOWN_BAD
        .iter()
        .find(|bad| {
            let concerns = match doing {
                Doing::Adding => bad.adding,
                Doing::Removing => bad.removing,
            };
            bad.component == component && concerns && (bad.first..=bad.last).contains(&version)
        })
        .map(|bad| bad.why)
}

/// Major, minor and patch; what comes after (`-0`, `+git`) does not matter.
fn parse(version: &str) -> Option<[u32; 3]> {
    let mut parts = version
        .trim_start_matches('v')
        .split(['.', '-', '+'])
        .map(|part| part.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_where_they_say() {
        for (version, adding, removing) in [
            ("3.4.30", false, false),
            ("3.5.0", true, true),
            ("3.5.2", true, true),
            ("3.5.3", true, false),
            ("3.5.7", true, false),
            ("3.5.19", true, false),
            ("3.5.20", false, false),
            ("3.6.16", false, false),
            ("v3.5.1-0", true, true),
        ] {
            let bad = |doing| known_bad("etcd", version, doing).is_some();
            assert_eq!(bad(Doing::Adding), adding, "{version}");
            assert_eq!(bad(Doing::Removing), removing, "{version}");
        }
        assert_eq!(known_bad("kubeadm", "3.5.0", Doing::Adding), None);
    }
}
