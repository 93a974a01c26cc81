//! The terminal: the only place that knows it. stdout is data, stderr is conversation; colours only where somebody sees them.

use std::{
    fmt,
    io::{self, BufRead, IsTerminal as _, Write},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{exit::Exit, failure::Failure, interrupts::Interrupts};

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColourChoice {
    /// On terminals, unless the environment says otherwise (`NO_COLOR`, `CLICOLOR_FORCE`, `TERM=dumb`).
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a console is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Terminal {
    /// Somebody can type.
    pub stdin: bool,
    /// Data is read by a person.
    pub stdout: bool,
    /// The conversation is read by a person.
    pub stderr: bool,
    /// Columns of the terminal that shows the data.
    pub columns: Option<usize>,
}

/// A style of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Titles, hosts.
    Bold,
    /// What matters less.
    Dim,
    /// Good news.
    Good,
    /// Take note.
    Warn,
    /// Bad news.
    Bad,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "1;31",
        }
    }
}

/// Colours or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Paint {
    /// Whether escape sequences are written.
    pub colour: bool,
}

impl Paint {
    /// `text` in a style.
    pub fn paint(self, style: Style, text: impl fmt::Display) -> String {
        if self.colour {
            format!("\u{1b}[{}m{text}\u{1b}[0m", style.code())
        } else {
            text.to_string()
        }
    }
}

/// Where a command reads and writes.
pub struct Console {
    out: Box<dyn Write + Send>,
    err: Voice,
    input: Box<dyn BufRead + Send>,
    /// What it is connected to.
    pub terminal: Terminal,
    choice: ColourChoice,
    environment: Environment,
    interrupts: Option<Interrupts>,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("terminal", &self.terminal)
            .field("choice", &self.choice)
            .finish_non_exhaustive()
    }
}

/// What the environment says about colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Environment {
    /// `NO_COLOR` is set and not empty.
    pub no_color: bool,
    /// `CLICOLOR_FORCE` is set and not `0`.
    pub force: bool,
    /// `TERM` is `dumb`.
    pub dumb: bool,
}

impl Environment {
    fn of_process() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            no_color: set("NO_COLOR").is_some(),
            force: set("CLICOLOR_FORCE").is_some_and(|value| value != "0"),
            dumb: set("TERM").is_some_and(|value| value == "dumb"),
        }
    }

    fn colour(self, choice: ColourChoice, terminal: bool) -> bool {
        match choice {
            ColourChoice::Always => true,
            ColourChoice::Never => false,
            ColourChoice::Auto if self.no_color => false,
            ColourChoice::Auto if self.force => true,
            ColourChoice::Auto => terminal && !self.dumb,
        }
    }
}

impl Console {
    /// This process's own.
    pub fn of_process() -> Self {
        Self {
            out: Box::new(io::stdout()),
            err: Voice::of(Box::new(io::stderr())),
            input: Box::new(io::BufReader::new(io::stdin())),
            terminal: Terminal {
                stdin: io::stdin().is_terminal(),
                stdout: io::stdout().is_terminal(),
                stderr: io::stderr().is_terminal(),
                columns: terminal_size::terminal_size_of(io::stdout())
                    .map(|(columns, _)| columns.0.into()),
            },
            choice: ColourChoice::Auto,
            environment: Environment::of_process(),
            interrupts: None,
        }
    }

    /// One made of parts, for scripts and tests.
    pub fn of(
        out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
        input: Box<dyn BufRead + Send>,
        terminal: Terminal,
    ) -> Self {
        Self {
            out,
            err: Voice::of(err),
            input,
            terminal,
            choice: ColourChoice::Never,
            environment: Environment::default(),
            interrupts: None,
        }
    }

    /// The listener for Ctrl-C, which is this console's from the first time that somebody wants it.
    ///
    /// # Errors
    /// When the system does not let us listen.
    pub fn interrupts(&mut self) -> Result<Interrupts, Failure> {
        match &self.interrupts {
            Some(interrupts) => Ok(interrupts.clone()),
            None => Ok(self.interrupts.insert(Interrupts::listen()?).clone()),
        }
    }

    /// Chooses when to colour.
    pub fn set_colour(&mut self, choice: ColourChoice) {
        self.choice = choice;
    }

    /// For what goes to stdout.
    pub fn paint_out(&self) -> Paint {
        Paint {
            colour: self.environment.colour(self.choice, self.terminal.stdout),
        }
    }

    /// For what goes to stderr.
    pub fn paint_err(&self) -> Paint {
        Paint {
            colour: self.environment.colour(self.choice, self.terminal.stderr),
        }
    }

    /// Columns of the terminal that shows the data. `None`: it goes elsewhere, and lines are as long as they are.
    pub fn columns(&self) -> Option<usize> {
        self.terminal.columns
    }

    /// Whether progress may move on the screen.
    pub fn moves(&self) -> bool {
        self.terminal.stderr && !self.environment.dumb
    }

    /// Writes data.
    ///
    /// # Errors
    /// When nobody takes it. A reader that went away, as `head` does, is no error of ours: the command just ends.
    pub fn data(&mut self, text: &str) -> Result<(), Failure> {
        match self
            .out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush())
        {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(Failure::silent(Exit::Done))
            }
            Err(error) => Err(Failure::doing(
                Exit::Unexpected,
                "could not write to stdout",
                &error,
            )),
        }
    }

    /// Writes a line of data.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn line(&mut self, text: impl fmt::Display) -> Result<(), Failure> {
        self.data(&format!("{text}\n"))
    }

    /// Says something: a line of conversation.
    pub fn say(&mut self, text: impl fmt::Display) {
        self.err.say(text);
    }

    /// Says something without ending the line.
    pub fn ask(&mut self, text: impl fmt::Display) {
        self.err.write(&text.to_string());
    }

    /// A handle that can speak while the console is in other hands.
    pub fn voice(&self) -> Voice {
        self.err.clone()
    }

    /// Says a warning.
    pub fn warn(&mut self, text: impl fmt::Display) {
        let label = self.paint_err().paint(Style::Warn, "warning:");
        self.say(format!("{label} {text}"));
    }

    /// Asks for a word to be typed, and says whether it was.
    ///
    /// # Errors
    /// When there is nobody to type: `otherwise` says what to do then.
    pub fn confirm(
        &mut self,
        question: &str,
        word: &str,
        otherwise: &str,
    ) -> Result<bool, Failure> {
        if !self.terminal.stdin {
            return Err(
                Failure::usage(format!("{question}? There is no terminal to answer on"))
                    .hint(otherwise),
            );
        }
        self.ask(format!("{question}? Type {word} to go on: "));
        let mut typed = String::new();
        let mut read = || self.input.read_line(&mut typed);
        let answered = match &self.interrupts {
            Some(interrupts) => interrupts.asking(read)?,
            // Nobody took Ctrl-C over: it ends the process.
            None => read(),
        };
        answered.map_err(|error| {
            Failure::doing(Exit::Unexpected, "could not read the answer", &error)
        })?;
        if !typed.ends_with('\n') {
            self.say("");
        }
        Ok(typed.trim() == word)
    }

    /// Prints why a command failed.
    pub fn failure(&mut self, failure: &Failure) {
        let paint = self.paint_err();
        if !failure.message.is_empty() {
            let label = paint.paint(Style::Bad, "error:");
            self.say(format!("{label} {}", failure.message));
        }
        for cause in &failure.causes {
            self.say(format!(
                "  because: {}",
                cause.replace('\n', "\n           ")
            ));
        }
        for hint in &failure.hints {
            let label = paint.paint(Style::Bold, "hint:");
            self.say(format!("{label} {hint}"));
        }
    }
}

/// The conversation, from anywhere. That nobody listens is no reason to stop.
#[derive(Clone)]
pub struct Voice {
    err: Arc<Mutex<Box<dyn Write + Send>>>,
}

impl fmt::Debug for Voice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Voice")
    }
}

impl Voice {
    fn of(err: Box<dyn Write + Send>) -> Self {
        Self {
            err: Arc::new(Mutex::new(err)),
        }
    }

    /// Says a line.
    pub fn say(&self, text: impl fmt::Display) {
        self.write(&format!("{text}\n"));
    }

    fn write(&self, text: &str) {
        let mut err = self.err.lock().unwrap_or_else(PoisonError::into_inner);
        let _nobody_listens = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_colour() {
        let colour = |no_color, force, dumb, choice, terminal| {
            Environment {
                no_color,
                force,
                dumb,
            }
            .colour(choice, terminal)
        };
        use ColourChoice::{Always, Auto, Never};
        assert!(colour(false, false, false, Auto, true));
        assert!(!colour(false, false, false, Auto, false));
        assert!(!colour(true, true, false, Auto, true), "NO_COLOR wins");
        assert!(colour(false, true, false, Auto, false));
        assert!(!colour(false, false, true, Auto, true));
        assert!(colour(true, false, true, Always, false), "a flag wins");
        assert!(!colour(false, true, false, Never, true));
    }
}
