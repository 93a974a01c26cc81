//! Console blocks of README and guide that need no hosts, run as they stand there. Which block is run by whom is said at its fence; see
//! `tests/live/src/blocks.rs`. And the parts of a cluster file that they show, as parts of one.

#[path = "../../../tests/live/src/blocks.rs"]
mod blocks;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What every cluster file has.
const WHOLE: &str = "apiVersion: quorate/v1\nname: prod\nendpoint: { host: api.prod.internal, balancer: { kind: external } }\n\
                     controlPlane: { hosts: [{ name: cp-1, address: 192.0.2.11 }] }\nprovider: { kind: ssh, user: root }\n";

/// README and guide.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let guide = fs::read_dir(root.join("docs/guide")).unwrap();
    let mut pages: Vec<PathBuf> = guide.map(|entry| entry.unwrap().path()).collect();
    pages.push(root.join("README.md"));
    pages
}

#[test]
fn a_part_of_a_cluster_file_is_one_that_quorate_takes() {
    let directory = tempfile::tempdir().unwrap();
    // Whom a page names. Whether it is a key is looked at where apt takes it.
    fs::write(
        directory.path().join("kubernetes.asc"),
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----\n",
    )
    .unwrap();
    let mut taken = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for part in blocks::files(&text) {
            if part.by != "process" {
                continue;
            }
            let place = format!("{}:{}", page.display(), part.line);
            fs::write(
                directory.path().join(&part.name),
                format!("{WHOLE}{}", part.text),
            )
            .unwrap();
            let line = format!("quorate hosts -f {}", part.name);
            let said = tell(&line, directory.path(), &place);
            assert!(said.contains("192.0.2.11"), "{place}: {said}");
            taken += 1;
        }
    }
    assert!(taken >= 1, "no page shows a part of a cluster file");
}

#[test]
fn what_needs_no_hosts_is_run() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for block in blocks::blocks(&text)
            .iter()
            .filter(|one| one.by == "process")
        {
            for shown in &block.commands {
                let place = format!("{}:{}: `{}`", page.display(), block.line, shown.command);
                let said = tell(&shown.command, directory.path(), &place);
                let misses = shown.misses(&said);
                assert_eq!(misses, None, "{place} does not print that line:\n{said}");
                assert!(
                    shown.answers().is_empty(),
                    "{place} asks, and nobody is there"
                );
                run += 1;
            }
        }
    }
    assert!(run >= 3, "only {run} commands");
}

/// Runs a command, which must succeed.
fn tell(line: &str, directory: &Path, place: &str) -> String {
    let mut words = line.split_whitespace();
    assert_eq!(
        words.next(),
        Some("quorate"),
        "{place}: only quorate runs here"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(words)
        .current_dir(directory)
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", directory)
        .output()
        .unwrap();
    let said =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{place} failed:\n{said}");
    said
}
