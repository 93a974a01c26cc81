//! The fence of a host: the highest token it has granted and the operation in force, kept over crashes and boots. Start at
//! [`Fences::claim`].
//!
//! The file is replaced whole and synced before anything is answered. While a session serves the operator in force it holds a shared
//! lock on a file named after the token, so that others can tell an operator who is there from one who is gone.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
};

use quorate_plan::{
    Claim, Fence, NodeName, Refusal,
    observation::{Fencing, HostMark},
};
use serde::{Deserialize, Serialize};

use crate::{
    durable::{self, FileError},
    paths::Paths,
};

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    highest: Fence,
    claim: Option<Claim>,
}

/// Why the fence was not taken or given back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FenceError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0}")]
    Refused(Box<Refusal>),
}

impl From<Refusal> for FenceError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// Held as long as a session serves the operator in force.
#[derive(Debug)]
pub(crate) struct Held {
    fence: Fence,
    // Closing the file ends the lock.
    _lock: File,
}

/// The fence of one host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fences<'a> {
    paths: &'a Paths,
}

impl<'a> Fences<'a> {
    pub(crate) fn new(paths: &'a Paths) -> Self {
        Self { paths }
    }

    fn file(&self) -> PathBuf {
        self.paths.state("fence.json")
    }

    fn kept(&self) -> Result<Kept, FileError> {
        Ok(durable::read_json(&self.file())?.unwrap_or_default())
    }

    /// The fence as it is. A file that cannot be understood is an error: it is never taken for "nobody".
    pub(crate) fn look(&self) -> Result<Fencing, FileError> {
        let kept = self.kept()?;
        let connected = match &kept.claim {
            Some(claim) => self.connected(claim.fence)?,
            None => false,
        };
        Ok(Fencing {
            highest: kept.highest,
            claim: kept.claim,
            connected,
        })
    }

    /// Takes the fence for `claim`. `held` is what this session holds already.
    pub(crate) fn claim(
        &self,
        claim: Claim,
        held: Option<&Held>,
        mark: Option<&HostMark>,
    ) -> Result<(Fencing, Held), FenceError> {
        if let Some(mark) = mark
            && mark.cluster != claim.intent.spec.name
        {
            return Err(foreign(mark, &claim).into());
        }
        let _alone = self.alone()?;
        let kept = self.kept()?;
        self.judge(&kept, &claim, held, mark)?;
        let kept = Kept {
            highest: claim.fence,
            claim: Some(claim.clone()),
        };
        durable::write_json(&self.file(), &kept)?;
        let held = self.hold(claim.fence)?;
        self.forget_others(claim.fence);
        let fencing = Fencing {
            highest: claim.fence,
            claim: Some(claim),
            connected: true,
        };
        Ok((fencing, held))
    }

    fn judge(
        &self,
        kept: &Kept,
        claim: &Claim,
        held: Option<&Held>,
        mark: Option<&HostMark>,
    ) -> Result<(), FenceError> {
        let fenced = || Refusal::Fenced {
            token: claim.fence,
            highest: kept.highest,
            holder: kept.claim.as_ref().map_or_else(
                || "an operation that has ended".to_owned(),
                |c| c.operator.to_string(),
            ),
        };
        if claim.fence < kept.highest || claim.fence == Fence::default() {
            return Err(fenced().into());
        }
        let Some(in_force) = &kept.claim else {
            // The same token twice would be two operators who read the same number.
            return if claim.fence > kept.highest {
                Ok(())
            } else {
                Err(fenced().into())
            };
        };
        // The same run again, perhaps over a new channel, perhaps with a higher token because another host asked for one.
        if in_force.operator == claim.operator {
            return Ok(());
        }
        if claim.fence == kept.highest {
            return Err(fenced().into());
        }
        let own_session = held.is_some_and(|held| held.fence == in_force.fence);
        let there = !own_session && self.connected(in_force.fence)?;
        let own_run = (&in_force.operator.user, &in_force.operator.machine)
            == (&claim.operator.user, &claim.operator.machine);
        // Somebody else may finish what was begun, not begin something else over it.
        if there || !(own_run || in_force.intent.is_the_same_as(&claim.intent)) {
            let node = mark.map(|mark| mark.node.clone()).or_else(|| self.name());
            return Err(Refusal::OperationInForce {
                holder: in_force.operator.to_string(),
                goal: in_force.intent.goal.to_string(),
                hosts: node.into_iter().collect(),
            }
            .into());
        }
        Ok(())
    }

    /// Ends the operation with that token; the token stays the highest. Ending it twice is fine.
    pub(crate) fn release(&self, fence: Fence) -> Result<Fencing, FenceError> {
        let _alone = self.alone()?;
        let mut kept = self.kept()?;
        match &kept.claim {
            Some(claim) if claim.fence == fence => {
                kept.claim = None;
                durable::write_json(&self.file(), &kept)?;
            }
            None if kept.highest == fence => {}
            other => {
                return Err(Refusal::Fenced {
                    token: fence,
                    highest: kept.highest,
                    holder: other.as_ref().map_or_else(
                        || "an operation that has ended".to_owned(),
                        |claim| claim.operator.to_string(),
                    ),
                }
                .into());
            }
        }
        Ok(Fencing {
            highest: kept.highest,
            claim: None,
            connected: false,
        })
    }

    /// Marks this session as one that serves the operator with that token.
    pub(crate) fn hold(&self, fence: Fence) -> Result<Held, FileError> {
        let path = self.holder(fence);
        let lock = self.open(&path)?;
        lock.lock_shared().map_err(FileError::new("lock", &path))?;
        Ok(Held { fence, _lock: lock })
    }

    /// Whether a session that serves the operator with that token is there.
    fn connected(&self, fence: Fence) -> Result<bool, FileError> {
        let path = self.holder(fence);
        let file = match File::open(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result.map_err(FileError::new("read", &path))?,
        };
        match file.try_lock() {
            Ok(()) => Ok(false),
            Err(fs::TryLockError::WouldBlock) => Ok(true),
            Err(fs::TryLockError::Error(err)) => Err(FileError::new("lock", &path)(err)),
        }
    }

    fn holder(&self, fence: Fence) -> PathBuf {
        self.paths.run(&format!("operator-{fence}"))
    }

    /// Lock files of tokens that are outranked say nothing any more; one that cannot be removed does no harm.
    fn forget_others(&self, fence: Fence) {
        let Ok(entries) = fs::read_dir(self.paths.run("")) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let other = name.to_str().and_then(|n| n.strip_prefix("operator-"));
            if other
                .and_then(|n| n.parse().ok())
                .is_some_and(|n: u64| n < fence.0)
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// One session at a time reads and replaces the file.
    fn alone(&self) -> Result<File, FileError> {
        let path = self.paths.run("fence-lock");
        let lock = self.open(&path)?;
        lock.lock().map_err(FileError::new("lock", &path))?;
        Ok(lock)
    }

    fn open(&self, path: &std::path::Path) -> Result<File, FileError> {
        durable::private_folder(&self.paths.run(""))?;
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(FileError::new("open", path))
    }

    /// The machine's own name, where no mark names it yet.
    fn name(&self) -> Option<NodeName> {
        let name = durable::read_text(&self.paths.at("/proc/sys/kernel/hostname")).ok()??;
        name.trim().parse().ok()
    }
}

fn foreign(mark: &HostMark, claim: &Claim) -> Refusal {
    Refusal::ForeignHost {
        node: mark.node.clone(),
        mark: format!("cluster `{}` as `{}`", mark.cluster, mark.node),
        expected: format!("cluster `{}`", claim.intent.spec.name),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing;
    use quorate_plan::Operator;

    fn claim(fence: u64, user: &str, run: &str) -> Claim {
        Claim {
            fence: Fence(fence),
            operator: Operator {
                user: user.into(),
                machine: "desk".into(),
                pid: 1,
                run: run.into(),
            },
            since: 0,
            intent: testing::intent(),
        }
    }

    fn other_intent(mut claim: Claim) -> Claim {
        claim.intent.spec.kubernetes = "1.36.3".into();
        claim
    }

    fn refusal<T>(result: Result<T, FenceError>) -> Refusal {
        match result {
            Err(FenceError::Refused(refusal)) => *refusal,
            Err(FenceError::File(err)) => panic!("{err}"),
            Ok(_) => panic!("granted"),
        }
    }

    #[test]
    fn lower_and_equal_tokens_of_others_are_refused() {
        let machine = testing::machine();
        let fences = Fences::new(&machine.paths);
        assert_eq!(fences.look().unwrap(), Fencing::default());
        assert!(matches!(
            refusal(fences.claim(claim(0, "ann", "r1"), None, None)),
            Refusal::Fenced { .. }
        ));
        let (fencing, held) = fences.claim(claim(5, "ann", "r1"), None, None).unwrap();
        assert!(fencing.connected);
        drop(held);
        for token in [4, 5] {
            let refused = refusal(fences.claim(claim(token, "bob", "r2"), None, None));
            assert!(
                matches!(refused, Refusal::Fenced { .. }),
                "{token}: {refused}"
            );
        }
        // The token outlives its operation.
        fences.release(Fence(5)).unwrap();
        let refused = refusal(fences.claim(claim(5, "bob", "r2"), None, None));
        assert!(matches!(refused, Refusal::Fenced { .. }), "{refused}");
        fences.claim(claim(6, "bob", "r2"), None, None).unwrap();
        let refused = refusal(fences.release(Fence(5)));
        assert!(matches!(refused, Refusal::Fenced { .. }), "{refused}");
    }

    #[test]
    fn an_operator_who_is_there_is_not_taken_over() {
        let machine = testing::machine();
        let fences = Fences::new(&machine.paths);
        let (_, held) = fences.claim(claim(1, "ann", "r1"), None, None).unwrap();
        for other in [
            claim(2, "bob", "r2"),
            claim(2, "ann", "r3"),
            other_intent(claim(2, "ann", "r3")),
        ] {
            let refused = refusal(fences.claim(other, None, None));
            assert!(
                matches!(refused, Refusal::OperationInForce { .. }),
                "{refused}"
            );
        }
        assert!(fences.look().unwrap().connected);
        drop(held);
        assert!(!fences.look().unwrap().connected);
    }

    #[test]
    fn a_crashed_run_is_taken_over_by_its_own_operator_or_finished_by_another() {
        for (next, granted) in [
            (claim(2, "ann", "r2"), true),
            (other_intent(claim(2, "ann", "r2")), true),
            (claim(2, "bob", "r2"), true),
            (other_intent(claim(2, "bob", "r2")), false),
        ] {
            let machine = testing::machine();
            let fences = Fences::new(&machine.paths);
            drop(fences.claim(claim(1, "ann", "r1"), None, None).unwrap());
            let result = fences.claim(next.clone(), None, None);
            if granted {
                assert_eq!(result.unwrap().0.claim, Some(next));
                assert!(
                    !machine.paths.run("operator-1").exists(),
                    "old lock files go"
                );
            } else {
                assert!(matches!(refusal(result), Refusal::OperationInForce { .. }));
                assert_eq!(fences.look().unwrap().highest, Fence(1));
            }
        }
    }

    #[test]
    fn the_same_run_may_ask_again_and_raise_its_token() {
        let machine = testing::machine();
        let fences = Fences::new(&machine.paths);
        let (_, first) = fences.claim(claim(1, "ann", "r1"), None, None).unwrap();
        let (_, second) = fences.claim(claim(1, "ann", "r1"), None, None).unwrap();
        drop(first);
        assert!(
            fences.look().unwrap().connected,
            "the other session is there"
        );
        let (fencing, _third) = fences
            .claim(claim(7, "ann", "r1"), Some(&second), None)
            .unwrap();
        assert_eq!(fencing.highest, Fence(7));
    }

    #[test]
    fn crash_points_leave_the_old_fence_or_the_new_one() {
        let machine = testing::machine();
        let fences = Fences::new(&machine.paths);
        drop(fences.claim(claim(3, "ann", "r1"), None, None).unwrap());
        let file = machine.paths.state("fence.json");
        let old = fs::read(&file).unwrap();
        // Killed while the new file was being written: any part of it lies beside.
        let beside = machine.paths.state(".fence.json.quorate-new");
        for cut in [0, 1, old.len() / 2, old.len()] {
            fs::write(&beside, &old[..cut]).unwrap();
            assert_eq!(fences.look().unwrap().highest, Fence(3), "cut at {cut}");
        }
        drop(fences.claim(claim(4, "ann", "r1"), None, None).unwrap());
        assert_eq!(fences.look().unwrap().highest, Fence(4));
        // A damaged file is nobody's permission.
        for garbage in [&b""[..], b"{", b"{\"highest\":1}garbage", b"null"] {
            fs::write(&file, garbage).unwrap();
            assert!(fences.look().is_err(), "{garbage:?}");
            assert!(matches!(
                fences.claim(claim(9, "ann", "r1"), None, None),
                Err(FenceError::File(_))
            ));
        }
    }

    #[test]
    fn another_clusters_host_is_not_claimed() {
        let machine = testing::machine();
        let mark = HostMark {
            cluster: "other".parse().unwrap(),
            node: "cp-1".parse().unwrap(),
            disposable: true,
        };
        let refused =
            refusal(Fences::new(&machine.paths).claim(claim(1, "ann", "r1"), None, Some(&mark)));
        assert!(matches!(refused, Refusal::ForeignHost { .. }), "{refused}");
    }
}
