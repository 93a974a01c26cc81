//! Processes of a host, seen and ended from outside. Begin at [`init`] (which process is a host's first one) and
//! [`clear`] (pulling the plug).

use std::fs;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::cgroup::{HostCgroup, until};
use crate::error::{During, Error, Result};
use crate::names::HostName;
use crate::status::Init;

/// How long a killed host may take to be gone altogether. Measured: 0.3 s on a busy machine.
const GONE_WITHIN: Duration = Duration::from_secs(15);

/// How long the launcher may take to notice that its host has died and end by itself.
const LAUNCHER_ENDS_WITHIN: Duration = Duration::from_secs(2);

/// Units of a start time in `/proc/PID/stat`, per second: 100 on every architecture of Linux that has hosts like these.
const TICKS_PER_SECOND: u64 = 100;

/// The first process of a host among its processes: the one that is number 1 one namespace below ours.
///
/// Processes in containers of the host that are number 1 are deeper; the launcher is not below at all.
pub(crate) fn init(processes: &[i32]) -> Option<i32> {
    let ours = depth_and_last(&fs::read_to_string("/proc/self/status").ok()?)?.0;
    processes.iter().copied().find(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        depth_and_last(&status) == Some((ours + 1, 1))
    })
}

/// How many process namespaces a process is in, and its number in the innermost.
fn depth_and_last(status: &str) -> Option<(usize, i32)> {
    let numbers = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    let numbers: Vec<i32> = numbers
        .split_whitespace()
        .map_while(|n| n.parse().ok())
        .collect();
    Some((numbers.len(), *numbers.last()?))
}

/// The first process with the time it started; `None` when it ended meanwhile.
pub(crate) fn describe(pid: i32) -> Option<Init> {
    let ticks = started(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = boot
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    let since = Duration::from_secs(boot) + Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND);
    Some(Init {
        pid,
        since: SystemTime::UNIX_EPOCH + since,
    })
}

/// The start time in a `/proc/PID/stat`: field 22, counted after the command, which may hold anything.
fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// A process that cannot be mistaken for a later one with its number.
struct Handle(OwnedFd);

impl Handle {
    /// `None` when there is no such process.
    fn open(pid: i32) -> Result<Option<Handle>> {
        use nix::libc;
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match nix::errno::Errno::result(fd) {
            // SAFETY: the descriptor is new and nobody else's.
            Ok(fd) => Ok(Some(Handle(unsafe { OwnedFd::from_raw_fd(fd as i32) }))),
            Err(nix::errno::Errno::ESRCH) => Ok(None),
            Err(err) => Err(err).during("open a handle of process", Path::new(&pid.to_string())),
        }
    }

    /// SIGKILL; one that has ended already is as good.
    fn kill(&self) -> Result<()> {
        use nix::libc;
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open; a null siginfo means that of kill(2).
        let done = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                libc::SIGKILL,
                none,
                0,
            )
        };
        match nix::errno::Errno::result(done) {
            Ok(_) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(err) => Err(err).during("kill a process of", Path::new("a host")),
        }
    }

    /// Waits for its end; whether it came in time.
    fn ended(&self, within: Duration) -> Result<bool> {
        let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, timeout) {
            // Every caller looks again at what is left.
            Err(nix::errno::Errno::EINTR) => Ok(false),
            ready => Ok(ready.during("wait for a process of", Path::new("a host"))? > 0),
        }
    }
}

/// Ends every process of a host at once, as a loss of power would: SIGKILL to its first process, with which the
/// kernel ends all others in its namespace. Then removes the host's cgroups. Returns when nothing is left, also when
/// there was nothing.
///
/// Without its cgroups no launcher can start it any more, also one that a command left behind when it was killed.
pub(crate) fn clear(cgroup: &HostCgroup, host: &HostName) -> Result<()> {
    let start = Instant::now();
    // Again and again: a launcher can enter, or a host reboot by itself, between any two looks.
    let gone = until(GONE_WITHIN, || {
        let processes = cgroup.processes()?;
        if processes.is_empty() {
            return Ok(cgroup.remove());
        }
        end(
            cgroup,
            processes,
            GONE_WITHIN.saturating_sub(start.elapsed()),
        )?;
        Ok(false)
    })?;
    match (gone, cgroup.processes()?) {
        (true, _) => Ok(()),
        (false, processes) => {
            let what = format!("cgroup or processes {processes:?}");
            Err(Error::Lingering {
                host: host.clone(),
                what,
                waited: GONE_WITHIN,
            })
        }
    }
}

/// Kills once, and waits for what that should end.
fn end(cgroup: &HostCgroup, processes: Vec<i32>, within: Duration) -> Result<()> {
    // Without a first process it is still starting, or rebooting by itself, or the launcher does not end.
    let targets = init(&processes).map_or(processes, |init| vec![init]);
    let mut killed = Vec::new();
    for pid in targets {
        if let Some(handle) = Handle::open(pid)?
            && cgroup.holds(pid)
        {
            handle.kill()?;
            killed.push(handle);
        }
    }
    // A frozen process takes no signal with cgroup v1; thawed, it takes this one before it does anything.
    cgroup.thaw()?;
    for handle in &killed {
        handle.ended(within)?;
    }
    // Now the launcher ends by itself, having unplugged the cable.
    let patience = Instant::now();
    for pid in cgroup.processes()? {
        if let Some(handle) = Handle::open(pid)? {
            handle.ended(LAUNCHER_ENDS_WITHIN.saturating_sub(patience.elapsed()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_is_told_by_its_number_one_namespace_down() {
        assert_eq!(
            depth_and_last("Name:\tsystemd\nNSpid:\t11702\t1\n"),
            Some((2, 1))
        );
        assert_eq!(depth_and_last("NSpid:\t11681\n"), Some((1, 11681)));
        assert_eq!(depth_and_last("NSpid:\t9\t8\t1\n"), Some((3, 1)));
        assert_eq!(depth_and_last("Name:\tx\n"), None);
    }

    #[test]
    fn a_start_time_is_found_behind_any_command_name() {
        let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        assert_eq!(
            started(&format!("7 (a) b) (c) {}", fields.join(" "))),
            Some(22)
        );
    }

    #[test]
    fn a_handle_tells_of_the_end_and_a_process_that_is_not_has_none() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep");
        let pid = i32::try_from(child.id()).expect("a process number");
        let handle = Handle::open(pid).expect("opened").expect("it runs");
        assert!(!handle.ended(Duration::from_millis(1)).expect("polled"));
        handle.kill().expect("killed");
        assert!(handle.ended(Duration::from_secs(5)).expect("polled"));
        child.wait().expect("reaped");
        assert!(Handle::open(pid).expect("asked").is_none());
        handle.kill().expect("killing the dead is fine");
    }

    #[test]
    fn this_process_started_before_now() {
        let me = describe(i32::try_from(std::process::id()).expect("a number")).expect("it runs");
        let age = SystemTime::now().duration_since(me.since + Duration::from_secs(2));
        assert!(
            me.since < SystemTime::now() + Duration::from_secs(2),
            "{me:?}"
        );
        assert!(
            age.is_err() || age.is_ok_and(|age| age < Duration::from_secs(3600)),
            "{me:?}"
        );
    }
}
