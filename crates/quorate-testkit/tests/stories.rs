//! The stories of `tests/scripts`: what operators do, and what they read.

use std::path::{Path, PathBuf};

use quorate_testkit::story;
use tokio::task::LocalSet;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scripts")
}

/// With `QUORATE_BLESS` set in the environment the stories are written as they are told now.
#[tokio::test(start_paused = true)]
async fn stories_are_told_as_they_are_written() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("tests/scripts can be read")
        .map(|entry| entry.expect("tests/scripts can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "there are stories");
    for file in files {
        let written = std::fs::read_to_string(&file).expect("a story can be read");
        let told = LocalSet::new().run_until(story::tell(&written)).await;
        if std::env::var_os("QUORATE_BLESS").is_some() {
            std::fs::write(&file, told).expect("tests/scripts can be written");
            continue;
        }
        assert!(
            written == told,
            "{} is told differently; run with QUORATE_BLESS=1 and read the difference\n--- written\n{written}--- told\n{told}",
            file.display()
        );
    }
}
