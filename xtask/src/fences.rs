//! What README and guide show in blocks is run or taken by somebody, and its fence says by whom; see `tests/live/src/blocks.rs`. Start at
//! [`findings`].

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{build, promises};

/// Programs whose commands belong into `console` blocks.
const PROGRAMS: &[&str] = &[
    "$",
    "ansible-galaxy",
    "ansible-playbook",
    "aws",
    "cargo",
    "kubectl",
    "quorate",
    "terraform",
    "tofu",
];

/// Languages of files that people write.
const FILES: &[&str] = &["hcl", "ini", "json", "toml", "yaml"];

/// A page whose commands a person cannot type as they stand there: they name hosts of a cluster that he has. Live cases take the same steps.
const NOT_TO_BE_TYPED: &[&str] = &["docs/guide/convert.md"];

/// Words that a reason has at least.
const REASON_WORDS: usize = 3;

/// Who may run a block.
struct Runners {
    /// Names of live cases.
    cases: Vec<String>,
    /// Lines of `.ci/run`.
    ci: Vec<String>,
    /// Names of stories in `terraform/tests/against_moto.py`.
    stories: Vec<String>,
    /// Whether the collection's tests run blocks of the guide.
    play: bool,
}

/// Blocks of README and guide that nobody runs.
///
/// # Errors
/// When a page cannot be read.
pub fn findings(files: &[PathBuf]) -> Result<Vec<String>> {
    let root = build::root();
    let runners = Runners::look()?;
    let mut findings = Vec::new();
    for path in files.iter().filter(|path| {
        path.as_path() == Path::new("README.md")
            || path.starts_with("docs/guide") && path.extension().is_some_and(|it| it == "md")
    }) {
        let page = fs::read_to_string(root.join(path))?;
        let to_be_typed = !NOT_TO_BE_TYPED.iter().any(|name| path == Path::new(name));
        for (number, fence, lines) in blocks(&page) {
            let what = runners.finding(fence, &lines, to_be_typed).or_else(|| {
                let whole = words(fence).find_map(|word| word.strip_prefix("part-of="))?;
                let text = fs::read_to_string(root.join(whole)).unwrap_or_default();
                let found = is_part(&lines, &text);
                (!found).then(|| format!("this is no part of {whole}"))
            });
            findings.extend(what.map(|what| format!("{}:{number}: {what}", path.display())));
        }
    }
    Ok(findings)
}

impl Runners {
    fn look() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(build::root().join(path));
        let ci = read(".ci/run")?;
        let stories = read("terraform/tests/against_moto.py")?;
        Ok(Self {
            cases: promises::cases_in_source()?,
            ci: ci
                .lines()
                .map(|line| line.trim_start_matches("exec ").to_owned())
                .collect(),
            stories: stories
                .lines()
                .filter_map(|line| {
                    line.strip_prefix("    shown(run, folder, \"")?
                        .strip_suffix("\")")
                })
                .map(str::to_owned)
                .collect(),
            play: read("ansible/tests/unit/test_pages.py").is_ok(),
        })
    }

    /// What is wrong with who runs a block, or takes it.
    fn finding(&self, fence: &str, lines: &[&str], to_be_typed: bool) -> Option<String> {
        let language = fence.split(' ').next().unwrap_or_default();
        let by: Vec<&str> = words(fence)
            .filter(|word| !word.starts_with("file="))
            .collect();
        let is_file = words(fence).any(|word| word.starts_with("file="));
        match language {
            "sh" | "bash" | "shell" => {
                Some("commands are shown in `console` blocks, so that they can be run".into())
            }
            "text" | "" => lines
                .iter()
                .filter_map(|line| line.split_whitespace().next())
                .find(|program| to_be_typed && PROGRAMS.contains(program))
                .map(|program| format!("`{program}` is a command: show it in a `console` block, so that it is run")),
            "console" => match by[..] {
                ["ci"] => commands(lines)
                    .find(|command| !self.ci.iter().any(|line| line == command))
                    .map(|command| format!("`.ci/run` does not run `{command}`")),
                [one] => self.unknown(one),
                _ => Some("nobody runs this block: say `process`, `ci`, `live=CASE`, `terraform=STORY`, `play` or `not-run=WHY` at its fence".into()),
            },
            _ if FILES.contains(&language) => match by[..] {
                [one] if one.starts_with("part-of=") && !is_file => None,
                [one] if is_file => self.unknown(one),
                _ => Some("nobody takes this file: say for whose commands it is and its name, as in `live=CASE file=NAME`, or `part-of=PATH`".into()),
            },
            _ => None,
        }
    }

    /// What is wrong with one who is named.
    fn unknown(&self, who: &str) -> Option<String> {
        let (kind, name) = who.split_once('=').unwrap_or((who, ""));
        let known = |names: &[String]| names.iter().any(|known| known == name);
        match kind {
            "process" => None,
            "play" if self.play => None,
            "live" if known(&self.cases) => None,
            "live" => Some(format!("no live case is called `{name}`")),
            "terraform" if known(&self.stories) => None,
            "terraform" => Some(format!("`terraform/tests` show no story `{name}`")),
            "not-run"
                if name.split('-').filter(|word| !word.is_empty()).count() >= REASON_WORDS =>
            {
                None
            }
            "not-run" => Some(
                "say why nobody can run it, as in `not-run=needs-machines-of-AWS-itself`".into(),
            ),
            _ => Some(format!("nobody is called `{who}`")),
        }
    }
}

/// Line of the fence, what stands there, and the lines of every block.
fn blocks(page: &str) -> Vec<(usize, &str, Vec<&str>)> {
    let mut found = Vec::new();
    let mut lines = (1..).zip(page.lines().map(str::trim));
    while let Some((number, line)) = lines.next() {
        let Some(fence) = line.strip_prefix("```") else {
            continue;
        };
        let inside = lines.by_ref().map(|(_, line)| line);
        found.push((
            number,
            fence,
            inside.take_while(|line| *line != "```").collect(),
        ));
    }
    found
}

/// What a fence says after the language.
fn words(fence: &str) -> impl Iterator<Item = &str> {
    fence.split(' ').skip(1).filter(|word| !word.is_empty())
}

fn commands<'a>(lines: &[&'a str]) -> impl Iterator<Item = &'a str> {
    lines.iter().filter_map(|line| line.strip_prefix("$ "))
}

/// Whether a file has these lines one after another, but for indentation and comments.
fn is_part(lines: &[&str], whole: &str) -> bool {
    let said = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let lines: Vec<&str> = lines.iter().copied().filter(said).collect();
    let whole: Vec<&str> = whole.lines().map(str::trim).filter(said).collect();
    !lines.is_empty() && whole.windows(lines.len()).any(|window| window == lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runners() -> Runners {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Runners {
            cases: names(&["up"]),
            ci: names(&["ci"]),
            stories: names(&["new"]),
            play: true,
        }
    }

    #[test]
    fn a_block_that_nobody_runs_is_found() {
        let page = "```console\n$ a\n```\n\n```console live=up\n$ b\n```\n```console live=down\n$ b\n```\n\
                    ```yaml\nc: 1\n```\n```console ci\n$ ci\n$ more\n```\n```console process\n$ d\n```\n```sh\nx\n```\n";
        let found: Vec<usize> = blocks(page)
            .into_iter()
            .filter(|(_, fence, lines)| runners().finding(fence, lines, true).is_some())
            .map(|(number, _, _)| number)
            .collect();
        assert_eq!(found, [1, 8, 11, 14, 21]);
    }

    #[test]
    fn a_fence_names_somebody_who_is_there() {
        for (fence, good) in [
            ("console terraform=new", true),
            ("console terraform=old", false),
            ("console play", true),
            ("console nobody", false),
            ("console live=up live=up", false),
            ("console not-run=needs-AWS-itself", true),
            ("console not-run=no", false),
            ("hcl terraform=new file=a.tfvars", true),
            ("hcl file=a.tfvars", false),
            ("hcl terraform=new", false),
            ("yaml live=up file=a.yml", true),
            ("yaml live=down file=a.yml", false),
            ("yaml part-of=a", true),
            ("mermaid", true),
        ] {
            let finding = runners().finding(fence, &["$ a"], true);
            assert_eq!(finding.is_none(), good, "{fence}: {finding:?}");
        }
    }

    #[test]
    fn commands_hide_in_no_text() {
        for (line, good) in [("quorate apply", false), ("what quorate says", true)] {
            assert_eq!(
                runners().finding("text", &[line], true).is_none(),
                good,
                "{line}"
            );
        }
        assert!(
            runners()
                .finding("text", &["quorate convert"], false)
                .is_none()
        );
    }

    #[test]
    fn a_part_is_found_but_for_indentation_and_comments() {
        let whole = "a {\n  # why\n  b = 1\n\n  c = 2\n}\n";
        assert!(is_part(&["b = 1", "c = 2"], whole));
        assert!(!is_part(&["b = 1", "}"], whole));
        assert!(!is_part(&[], whole));
    }
}
