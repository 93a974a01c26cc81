//! Console blocks of pages for people: commands with what they print, as they are written there. Used by the live cases and by a test of the
//! command line, so that no page shows what nobody ran.
//!
//! After the word `console` a fence says who runs the block: `process`, a test without hosts; `live=CASE`, a live case; `ci`, what `.ci/run`
//! does; `terraform=STORY`, `terraform/tests`; `play`, the tests of the Ansible collection; `not-run=WHY`, nobody. A block of another language
//! with `file=NAME` is a file that is written where these commands run. A line that begins with `$ ` is a command, one that ends with `\` goes on in the next. Every other line is printed by the command
//! above it, in this order, with others in between; `…` stands for anything.

/// A block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The line of its fence, from 1.
    pub line: usize,
    /// Who runs it. Empty: nobody.
    pub by: String,
    /// What it shows.
    pub commands: Vec<Shown>,
}

/// A file that a page shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The line of its fence, from 1.
    pub line: usize,
    /// Whose commands it is for.
    pub by: String,
    /// Its name.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// A command as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What is typed.
    pub command: String,
    /// Lines that it prints.
    pub prints: Vec<String>,
}

/// The console blocks of a page.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    let mut goes_on = false;
    for (number, line) in (1..).zip(page.lines()) {
        let text = line.trim();
        if let Some(fence) = text.strip_prefix("```") {
            let opens = !inside && (fence == "console" || fence.starts_with("console "));
            inside = opens;
            goes_on = false;
            if opens {
                found.push(Block {
                    line: number,
                    by: fence["console".len()..].trim().to_owned(),
                    commands: Vec::new(),
                });
            }
            continue;
        }
        let Some(block) = found.last_mut().filter(|_| inside) else {
            continue;
        };
        let more = text.strip_suffix('\\').map(str::trim_end);
        if let Some(command) = text.strip_prefix("$ ") {
            let command = command
                .strip_suffix('\\')
                .unwrap_or(command)
                .trim()
                .to_owned();
            block.commands.push(Shown {
                command,
                prints: Vec::new(),
            });
            goes_on = more.is_some();
        } else if let Some(last) = block.commands.last_mut() {
            if goes_on {
                last.command += " ";
                last.command += more.unwrap_or(text);
                goes_on = more.is_some();
            } else if !text.is_empty() {
                last.prints.push(text.to_owned());
            }
        }
    }
    found
}

/// The files that a page shows.
pub fn files(page: &str) -> Vec<File> {
    let mut found = Vec::new();
    let mut lines = (1..).zip(page.lines());
    while let Some((line, text)) = lines.next() {
        let Some(fence) = text.trim().strip_prefix("```") else {
            continue;
        };
        let inside = lines
            .by_ref()
            .map(|(_, text)| text)
            .take_while(|text| !text.trim().starts_with("```"));
        let text: String = inside.flat_map(|text| [text, "\n"]).collect();
        let mut by = String::new();
        let mut name = None;
        for word in fence.split(' ').skip(1) {
            match word.strip_prefix("file=") {
                Some(file) => name = Some(file.to_owned()),
                None => by = word.to_owned(),
            }
        }
        found.extend(name.map(|name| File {
            line,
            by,
            name,
            text,
        }));
    }
    found
}

impl Shown {
    /// What is typed at its questions.
    pub fn answers(&self) -> Vec<&str> {
        self.prints
            .iter()
            .filter_map(|line| Some(line.split_once(" to go on: ")?.1.trim()))
            .collect()
    }

    /// The first line that it should have printed and did not.
    pub fn misses(&self, said: &str) -> Option<&str> {
        // What is typed is not always echoed: what follows a question begins a line.
        let said = said.replace(" to go on: ", " to go on: \n");
        let mut said = said.lines();
        self.prints
            .iter()
            .find(|wanted| !said.any(|line| fits(line, wanted)))
            .map(String::as_str)
    }
}

/// Whether a line is the wanted one. What is typed is not in what a program says.
fn fits(line: &str, wanted: &str) -> bool {
    let wanted = match wanted.split_once(" to go on: ") {
        Some((question, _)) => question,
        None => wanted,
    };
    let mut rest = line.trim();
    let mut parts = wanted.split('…').map(str::trim);
    let first = parts.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else {
        return false;
    };
    rest = after;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# T

```console live=readme
$ quorate init \\
    --name demo
Wrote `x`: 3 masters
$ quorate apply
Do this? Type yes to go on: yes
demo: healthy
```

```yaml
$ not a console
```

```console
$ nobody
```
";

    #[test]
    fn a_page_is_read() {
        let found = blocks(PAGE);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].line, found[0].by.as_str()), (3, "live=readme"));
        assert_eq!((found[1].line, found[1].by.as_str()), (16, ""));
        let [init, apply] = &found[0].commands[..] else {
            panic!("{found:?}")
        };
        assert_eq!(init.command, "quorate init --name demo");
        assert_eq!(init.prints, ["Wrote `x`: 3 masters"]);
        assert_eq!(apply.answers(), ["yes"]);
    }

    #[test]
    fn files_of_a_page_are_read() {
        let page = "```console live=x\n$ a\n```\n```yaml live=x file=a.yml\nb:\n  c: 1\n```\n```yaml\nd: 1\n```\n";
        let found = files(page);
        let [file] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!((file.line, file.by.as_str()), (4, "live=x"));
        assert_eq!(
            (file.name.as_str(), file.text.as_str()),
            ("a.yml", "b:\n  c: 1\n")
        );
    }

    #[test]
    fn what_is_printed_is_compared_in_order() {
        let shown = |prints: &[&str]| Shown {
            command: "x".into(),
            prints: prints.iter().map(|line| (*line).to_owned()).collect(),
        };
        let said = "one 1\n  two 2 of 3\nDo this? Type yes to go on: yes\n";
        assert_eq!(shown(&["one", "two … 3"]).misses(said), None);
        assert_eq!(
            shown(&["one", "Do this? Type yes to go on: yes"]).misses(said),
            None
        );
        let piped = "Do this? Type yes to go on: done\n";
        assert_eq!(
            shown(&["Do this? Type yes to go on: yes", "done"]).misses(piped),
            None
        );
        assert_eq!(shown(&["two", "one"]).misses(said), Some("one"));
        assert_eq!(shown(&["two … 4"]).misses(said), Some("two … 4"));
    }
}
