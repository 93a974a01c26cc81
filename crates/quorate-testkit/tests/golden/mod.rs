//! Texts that people read, kept in files beside the tests.

use std::path::Path;

/// Compares with a file below `tests/`. With `QUORATE_BLESS` set in the environment the file is written instead.
pub fn check(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(file);
    if std::env::var_os("QUORATE_BLESS").is_some() {
        std::fs::write(&path, text).expect("the tests' folder can be written");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; run with QUORATE_BLESS=1 to write it",
            path.display()
        )
    });
    assert!(
        expected == text,
        "{} differs; run with QUORATE_BLESS=1 and read the difference\n--- expected\n{expected}--- seen\n{text}",
        path.display()
    );
}
