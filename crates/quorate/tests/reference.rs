//! Reference pages are made from code: the committed files are fresh. `QUORATE_BLESS=1` writes them anew.

use std::{fs, path::Path};

#[test]
fn reference_pages_are_fresh() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    for (name, text) in quorate::reference::pages() {
        let path = directory.join(name);
        if std::env::var_os("QUORATE_BLESS").is_some() {
            fs::create_dir_all(&directory).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "docs/reference/{name} is not fresh: QUORATE_BLESS=1 cargo test -p quorate --test reference"
        );
    }
}
