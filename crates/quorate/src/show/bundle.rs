//! Building and verifying bundles as it goes: a line for each part that is finished, a moving one for the part in hand.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate_bundle::{Outcome, Progress};

use super::{duration, size};
use crate::console::{Console, Paint, Style, Voice};

/// How often the moving line is drawn.
const TICK: Duration = Duration::from_millis(120);

/// Shows parts.
#[derive(Debug)]
pub struct Parts {
    moving: Option<ProgressBar>,
    voice: Voice,
    paint: Paint,
}

impl Parts {
    /// On a console.
    pub fn new(console: &Console) -> Self {
        let moving = console.moves().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(
                ProgressStyle::with_template("  {spinner} {wide_msg} {elapsed:>4}")
                    .expect("the template is right")
                    .tick_strings(&["-", "\\", "|", "/", " "]),
            );
            bar.enable_steady_tick(TICK);
            bar
        });
        Self {
            moving,
            voice: console.voice(),
            paint: console.paint_err(),
        }
    }

    /// Shows one thing that happened.
    pub fn show(&mut self, progress: &Progress) {
        match progress {
            Progress::Started { name, number, of } => {
                if let Some(bar) = &self.moving {
                    bar.reset_elapsed();
                    bar.set_message(format!("[{number}/{of}] {name}"));
                }
            }
            Progress::Advanced { name, done, total } => {
                if let Some(bar) = &self.moving {
                    let of = total
                        .map(|total| format!(" of {}", size(total)))
                        .unwrap_or_default();
                    bar.set_message(format!("{name}: {}{of}", size(*done)));
                }
            }
            Progress::Finished {
                name,
                number,
                of,
                outcome,
                elapsed,
                bytes,
            } => {
                let word = match outcome {
                    Outcome::Built => "built",
                    Outcome::Unchanged => "unchanged",
                    Outcome::Cached => "from the cache",
                    Outcome::Fetched => "fetched",
                    Outcome::Absent => "not there, and not needed",
                    Outcome::Verified => "verified",
                };
                let after = format!("{}, {}", size(*bytes), duration(*elapsed));
                self.say(&format!(
                    "  [{number}/{of}] {name}: {} {}",
                    self.paint.paint(Style::Good, word),
                    self.paint.paint(Style::Dim, after)
                ));
            }
        }
    }

    /// Only counts: for many small parts.
    pub fn count(&mut self, progress: &Progress) {
        if let (
            Some(bar),
            Progress::Finished {
                name, number, of, ..
            },
        ) = (&self.moving, progress)
        {
            bar.set_message(format!("[{number}/{of}] {name}"));
        }
    }

    /// Nothing moves any more.
    pub fn end(&mut self) {
        if let Some(bar) = self.moving.take() {
            bar.finish_and_clear();
        }
    }

    fn say(&self, line: &str) {
        match &self.moving {
            Some(bar) => bar.suspend(|| self.voice.say(line)),
            None => self.voice.say(line),
        }
    }
}
