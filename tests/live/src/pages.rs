//! The console blocks of README and guide that need real hosts, run as they stand there. Start at [`run`].

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    blocks::{Block, Shown, blocks, files},
    stage::{Stage, finish, said, tail},
};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// README and every page of the guide, relative to the root.
fn pages() -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::from("README.md")];
    for entry in fs::read_dir(root().join("docs/guide"))? {
        found.push(Path::new("docs/guide").join(entry?.file_name()));
    }
    found.sort();
    Ok(found)
}

/// The blocks that name this case, with their pages.
pub fn of(case: &str) -> Result<Vec<(PathBuf, Block)>> {
    let mut found = Vec::new();
    for page in pages()? {
        let text = fs::read_to_string(root().join(&page))
            .with_context(|| format!("failed to read {}", page.display()))?;
        let named = blocks(&text)
            .into_iter()
            .filter(|block| block.by == format!("live={case}"));
        found.extend(named.map(|block| (page.clone(), block)));
    }
    Ok(found)
}

/// Writes the files that a page of the guide shows for that case, with a name of this case's own in the place of the page's.
pub fn write_files(page: &str, case: &str, name: (&str, &str), directory: &Path) -> Result<()> {
    let text = fs::read_to_string(root().join("docs/guide").join(page))?;
    let shown = files(&text);
    let mut ours = shown
        .iter()
        .filter(|file| file.by == format!("live={case}"))
        .peekable();
    anyhow::ensure!(ours.peek().is_some(), "{page} shows no file for {case}");
    for file in ours {
        fs::write(
            directory.join(&file.name),
            file.text.replace(name.0, name.1),
        )?;
    }
    Ok(())
}

/// How a page's names become this case's own.
pub struct Reading<'a> {
    /// Words that are replaced, in commands and in what they print.
    pub words: &'a [(&'a str, &'a str)],
    /// Where the commands run.
    pub directory: &'a Path,
    /// Called after each command with it: what a case has to do that no person would.
    pub after: &'a dyn Fn(&mut Stage, &str) -> Result<()>,
}

/// A folder with the programs that pages name, made where it is missing.
pub fn programs(stage: &Stage) -> Result<PathBuf> {
    let programs = stage.directory.join("programs");
    if !programs.exists() {
        fs::create_dir(&programs)?;
        symlink(&stage.quorate, programs.join("quorate"))?;
        symlink(stage.bundle.join("bin/kubectl"), programs.join("kubectl"))?;
    }
    Ok(programs)
}

/// Runs every block that names this case, in the order of the pages. A command that fails ends it: the next ones build upon it.
pub fn run(stage: &mut Stage, case: &str, reading: &Reading<'_>) -> Result<()> {
    let programs = programs(stage)?;
    for (page, block) in of(case)? {
        stage.say(&format!("{}, line {}", page.display(), block.line));
        for shown in &block.commands {
            let shown = replaced(shown, reading.words);
            one(stage, &shown, reading.directory, &programs)?;
            (reading.after)(stage, &shown.command)?;
        }
        stage.read_a_block();
    }
    Ok(())
}

fn replaced(shown: &Shown, words: &[(&str, &str)]) -> Shown {
    let replace = |text: &String| {
        words
            .iter()
            .fold(text.clone(), |text, (was, is)| text.replace(was, is))
    };
    Shown {
        command: replace(&shown.command),
        prints: shown.prints.iter().map(replace).collect(),
    }
}

fn one(stage: &mut Stage, shown: &Shown, directory: &Path, programs: &Path) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("sh");
    let answers = shown.answers();
    if answers.is_empty() {
        // Both streams as one, as a terminal shows them: what is printed is compared in order.
        shell.args(["-c", &format!("{{ {} ; }} 2>&1", shown.command)]);
    } else {
        // On a terminal, as a person would answer there.
        let typed: String = answers.iter().map(|word| format!("{word}\n")).collect();
        shell.args([
            "-c",
            "printf '%s' \"$1\" | script -qec \"$0\" /dev/null",
            &shown.command,
            &typed,
        ]);
    }
    stage.surroundings(&mut shell);
    shell
        .current_dir(directory)
        .env("PATH", format!("{}:{path}", programs.display()));
    let output = finish(&mut shell)?;
    let text = said(&output).replace('\r', "");
    let good = output.status.success();
    stage.check(&format!("`{}` succeeds", shown.command), good);
    let misses = shown.misses(&text);
    stage.check(
        &format!("`{}` prints what the page says", shown.command),
        misses.is_none(),
    );
    if let Some(line) = misses {
        stage.say(&format!("        not printed: {line}"));
    }
    if !good || misses.is_some() {
        stage.say(&tail(&text, 40));
    }
    anyhow::ensure!(good, "`{}` failed ({})", shown.command, output.status);
    Ok(())
}
