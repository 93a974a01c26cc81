//! What an operator sees: every story in `console/` is a list of commands with their exit codes and what they say, run by the real binary
//! in a directory with the files of `console/files`. `QUORATE_BLESS=1` writes the stories anew; read the difference before it is committed.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

#[test]
fn stories() {
    let stories = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/console");
    let bless = std::env::var_os("QUORATE_BLESS").is_some();
    let mut paths: Vec<_> = fs::read_dir(&stories)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    paths.sort();
    let mut differing = String::new();
    for path in &paths {
        let wanted = fs::read_to_string(path).unwrap();
        let seen = tell(&wanted, &stories.join("files"));
        if bless {
            fs::write(path, &seen).unwrap();
        } else if seen != wanted {
            differing += &format!("== {}\n-- seen\n{seen}", path.display());
        }
    }
    assert!(differing.is_empty(), "{differing}");
    assert!(paths.len() >= 8, "only {} stories", paths.len());
}

/// A host asks the binary that shall balance for its unit, in exactly these words, and reads its hash back from it.
#[test]
fn the_unit_of_a_balancer() {
    let output = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args([
            "lb",
            "unit",
            "--program",
            "/var/lib/quorate/bin/quorate-abc",
        ])
        .args(["--config", "/etc/quorate/lb.json"])
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let starts =
        "\nExecStart=/var/lib/quorate/bin/quorate-abc lb run --config /etc/quorate/lb.json\n";
    assert!(text.contains(starts), "{text}");
    assert!(text.contains("\nRuntimeDirectoryMode=0700\n"), "{text}");
}

/// Runs the commands of a story, and gives the story as it went. Lines beginning with `# ` are its prose.
fn tell(story: &str, files: &Path) -> String {
    let directory = tempfile::tempdir().unwrap();
    for file in fs::read_dir(files).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), directory.path().join(file.file_name())).unwrap();
    }
    let mut out = String::new();
    for line in story.lines() {
        if line.starts_with("# ") {
            out += &format!("{line}\n");
        } else if let Some(command) = line.strip_prefix("$ ") {
            out += &format!("{line}\n{}\n", run(command, directory.path()));
        }
    }
    out
}

/// One command: `NAME=value … quorate …`, or `cat FILE`.
fn run(line: &str, directory: &Path) -> String {
    let mut words = line.split_whitespace().peekable();
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command
        .current_dir(directory)
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", directory)
        .env("COLUMNS", "100");
    while let Some((name, value)) = words.peek().and_then(|word| word.split_once('=')) {
        command.env(name, value);
        words.next();
    }
    match words.next() {
        Some("quorate") => {}
        Some("cat") => {
            let file = words.next().unwrap();
            let text = fs::read_to_string(directory.join(file)).unwrap();
            return text.lines().map(|line| format!("    {line}\n")).collect();
        }
        other => panic!("a story runs `quorate` or `cat`, not {other:?}"),
    }
    let output = command.args(words).output().unwrap();
    let mut out = format!("[exit {}]\n", output.status.code().unwrap());
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let text = redacted(&String::from_utf8(bytes.clone()).unwrap(), directory);
        if !text.is_empty() {
            out += &format!("[{name}]\n{}\n", text.trim_end());
        }
    }
    out
}

/// What differs from run to run, in placeholders of a fixed width.
fn redacted(text: &str, directory: &Path) -> String {
    let text = text
        .replace(directory.to_str().unwrap(), "[HOME]")
        .replace(env!("CARGO_PKG_VERSION"), "[VERSION]");
    let lines = text.lines().map(|line| {
        line.split_inclusive(' ')
            .map(|word| {
                let bare = word.trim_matches([' ', '(', ')', '"', ',']);
                if bare.len() == 64 && bare.bytes().all(|b| b.is_ascii_hexdigit()) {
                    word.replace(bare, "[SHA256]")
                } else {
                    word.to_owned()
                }
            })
            .collect::<String>()
            .trim_end()
            .to_owned()
            + "\n"
    });
    lines.collect()
}
