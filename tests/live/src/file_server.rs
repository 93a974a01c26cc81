//! Serves files of this machine to its own test hosts, over as much of HTTP as apt speaks. Start at [`FileServer::start`].

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

/// How long a client may take with its request.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// Serves until it is dropped.
pub struct FileServer {
    /// Where.
    pub address: SocketAddr,
    root: Arc<Mutex<Option<PathBuf>>>,
    ends: Arc<AtomicBool>,
    serving: Option<thread::JoinHandle<()>>,
}

impl FileServer {
    /// Serves what is below `root` at that address of this machine's.
    pub fn start(root: PathBuf, at: Ipv4Addr) -> Result<Self> {
        let listener = TcpListener::bind((at, 0)).context("the hosts' bridge has that address")?;
        let address = listener.local_addr()?;
        let root = Arc::new(Mutex::new(Some(root)));
        let ends = Arc::new(AtomicBool::new(false));
        let (roots, ended) = (Arc::clone(&root), Arc::clone(&ends));
        let serving = thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let root = roots.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(root) = root {
                    thread::spawn(move || {
                        // A client that goes away in the middle asks again.
                        let _gone = answer(&client, &root);
                    });
                }
            }
        });
        Ok(Self {
            address,
            root,
            ends,
            serving: Some(serving),
        })
    }

    /// From now on it serves what is below there. `None`: connections end without an answer.
    pub fn serve(&self, root: Option<PathBuf>) {
        *self.root.lock().unwrap_or_else(PoisonError::into_inner) = root;
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // It waits for somebody to come.
        drop(TcpStream::connect(self.address));
        if let Some(serving) = self.serving.take() {
            let _it_panicked = serving.join();
        }
    }
}

/// Answers every request of one connection.
fn answer(client: &TcpStream, root: &Path) -> Result<()> {
    client.set_read_timeout(Some(REQUEST_WITHIN))?;
    let mut lines = BufReader::new(client.try_clone()?).lines();
    loop {
        let Some(request) = lines.next().transpose()? else {
            return Ok(());
        };
        // Headers ask for nothing that has to be granted.
        for line in lines.by_ref() {
            if line?.is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let path = decoded(path.trim_start_matches('/'));
        let inside = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        let file = inside
            .then(|| fs::File::open(root.join(&path)).ok())
            .flatten();
        let mut client = client;
        match file.filter(|file| file.metadata().is_ok_and(|about| about.is_file())) {
            Some(mut file) => {
                let length = file.metadata()?.len();
                write!(
                    client,
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
                )?;
                std::io::copy(&mut file, &mut client)?;
            }
            None => write!(
                client,
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
            )?,
        }
    }
}

/// A path with `%3a` and its like made plain.
pub fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(&part[2..]);
            }
            None => plain.push_str(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_as_apt_writes_them() {
        assert_eq!(
            decoded("core%3a/stable%3a/v1.35/deb/InRelease"),
            "core:/stable:/v1.35/deb/InRelease"
        );
        assert_eq!(
            decoded("a/kubelet_1.35.4-1.1_amd64.deb"),
            "a/kubelet_1.35.4-1.1_amd64.deb"
        );
    }
}
