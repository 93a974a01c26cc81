//! The few things read out of a component's `go.mod` and `go.sum`. Start at [`required`].

/// The version of `module` that a `go.mod` requires.
pub(crate) fn required(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("require ").unwrap_or(line);
        let mut words = line.split_whitespace();
        let version = (words.next()? == module).then(|| words.next())??;
        // A replacement reads `module => …`; a tool line is the package alone.
        version.starts_with('v').then(|| version.to_owned())
    })
}

/// The checksum a `go.sum` pins for the content of a module's version.
pub(crate) fn sum(go_sum: &str, module: &str, version: &str) -> Option<String> {
    go_sum.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let matches = words.next()? == module && words.next()? == version;
        matches.then(|| words.next().map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO_MOD: &str = "module m\n\ngo 1.25.0\n\nrequire example.org/one v1.2.3 // indirect\n\nrequire (\n\texample.org/two/v2 v2.0.0\n\
        \texample.org/three v0.1.0 // indirect\n)\n\nreplace example.org/four => ./four\n\ntool example.org/five\n";

    #[test]
    fn finds_required_versions() {
        for (module, version) in [
            ("example.org/one", Some("v1.2.3")),
            ("example.org/two/v2", Some("v2.0.0")),
            ("example.org/three", Some("v0.1.0")),
            ("example.org/two", None),
            ("example.org/four", None),
            ("example.org/five", None),
        ] {
            assert_eq!(required(GO_MOD, module).as_deref(), version, "{module}");
        }
    }

    #[test]
    fn finds_sums_of_content_not_of_go_mod() {
        let go_sum = "example.org/one v1.2.3/go.mod h1:bbb=\nexample.org/one v1.2.3 h1:aaa=\n";
        assert_eq!(
            sum(go_sum, "example.org/one", "v1.2.3").as_deref(),
            Some("h1:aaa=")
        );
        assert_eq!(sum(go_sum, "example.org/one", "v1.2.4"), None);
    }
}
