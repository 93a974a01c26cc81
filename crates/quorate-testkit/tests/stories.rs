//! The stories of `tests/scripts`: what operators do, and what they read.

use std::path::{Path, PathBuf};

use quorate_plan::refusal::RefusalCode;
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

/// Each refusal is met by somebody.
#[test]
fn every_refusal_has_its_story() {
    let mut told = String::new();
    for entry in std::fs::read_dir(folder()).expect("tests/scripts can be read") {
        let path = entry.expect("tests/scripts can be read").path();
        told += &std::fs::read_to_string(&path).expect("a story can be read");
    }
    for code in RefusalCode::ALL {
        // What nobody saw is no verdict on anything, and is told without a code.
        let words = match code {
            RefusalCode::Missing => "cannot be seen: ".to_owned(),
            code => format!("refused ({code}): "),
        };
        assert!(told.contains(&words), "no story of `{words}`");
    }
}
