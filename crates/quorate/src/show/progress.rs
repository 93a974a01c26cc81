//! A run as it goes: each step ticks when it stands. On a terminal the steps in flight are lines that move; elsewhere each step that
//! ended is a line.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate_plan::{Event, Step};

use super::{
    duration, harmless,
    plan::{what_of, where_of},
};
use crate::console::{Console, Paint, Style, Voice};

/// How often a moving line is drawn: often enough to be seen to live.
const TICK: Duration = Duration::from_millis(120);

/// Where nothing moves, a step in flight gives news at most this often.
const NEWS_EVERY: Duration = Duration::from_secs(10);

/// Shows a run's events.
#[derive(Debug)]
pub struct Progress {
    moving: Option<MultiProgress>,
    voice: Voice,
    active: BTreeMap<String, ProgressBar>,
    /// When each step in flight began, or last gave news.
    news: BTreeMap<String, Instant>,
    paint: Paint,
    stages: usize,
    since: Instant,
    steps: usize,
}

impl Progress {
    /// For a run of that many stages.
    pub fn new(console: &Console, stages: usize) -> Self {
        let moving = console
            .moves()
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self {
            moving,
            voice: console.voice(),
            active: BTreeMap::new(),
            news: BTreeMap::new(),
            paint: console.paint_err(),
            stages,
            since: Instant::now(),
            steps: 0,
        }
    }

    /// Since it began.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Steps that stand.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Speaks between what moves, also while the progress is in other hands.
    pub fn voice(&self) -> Between {
        Between {
            moving: self.moving.clone(),
            voice: self.voice.clone(),
        }
    }

    fn say(&self, line: &str) {
        self.voice().say(line);
    }

    /// Shows one event.
    pub fn show(&mut self, event: &Event) {
        match event {
            Event::Started { .. } | Event::Ended { .. } | Event::Refused { .. } => {}
            Event::Fenced { .. } => {}
            Event::StageStarted {
                number,
                title,
                change,
            } => {
                let change = change
                    .as_ref()
                    .map(|change| format!(" ({change})"))
                    .unwrap_or_default();
                let place = format!("{number}/{}", self.stages);
                let line = format!(
                    "{} {}{change}",
                    self.paint.paint(Style::Dim, place),
                    self.paint.paint(Style::Bold, title)
                );
                self.say(&line);
            }
            Event::Waiting { what, at_most_s } => {
                let label = self.paint.paint(Style::Warn, "waiting:");
                let most = duration(Duration::from_secs(*at_most_s));
                self.say(&format!("{label} {} (at most {most})", harmless(what)));
            }
            Event::StepStarted { step } => self.started(step),
            Event::StepProgress { step, line } => {
                let line = harmless(line).replace('\n', " ");
                match self.active.get(&key(step)) {
                    Some(bar) => bar.set_message(format!("{} ({line})", what_of(step))),
                    None => self.news(step, &line),
                }
            }
            Event::StepStands { step, took_ms, .. } => {
                self.ended(step);
                self.steps += 1;
                let took = duration(Duration::from_millis(*took_ms));
                let line = self.line(Style::Good, "ok", step, &took);
                self.say(&line);
            }
            Event::StepFailed { step, error } => {
                self.ended(step);
                let mut line = self.line(Style::Bad, "failed", step, "");
                for detail in harmless(error).lines() {
                    line += &format!("\n        {detail}");
                }
                self.say(&line);
            }
        }
    }

    fn line(&self, style: Style, word: &str, step: &Step, after: &str) -> String {
        let after = if after.is_empty() {
            String::new()
        } else {
            format!("  {}", self.paint.paint(Style::Dim, after))
        };
        format!(
            "  {} {}: {}{after}",
            self.paint.paint(style, word),
            where_of(step),
            what_of(step)
        )
    }

    fn news(&mut self, step: &Step, line: &str) {
        let last = self.news.entry(key(step)).or_insert_with(Instant::now);
        if last.elapsed() >= NEWS_EVERY {
            *last = Instant::now();
            self.say(&format!("    {}: {line}", where_of(step)));
        }
    }

    fn started(&mut self, step: &Step) {
        self.news.insert(key(step), Instant::now());
        let Some(moving) = &self.moving else { return };
        let style = ProgressStyle::with_template("  {spinner} {prefix}: {wide_msg} {elapsed:>4}")
            .expect("the template is right")
            .tick_strings(&["-", "\\", "|", "/", " "]);
        let bar = moving.add(ProgressBar::new_spinner().with_style(style));
        bar.set_prefix(where_of(step));
        bar.set_message(what_of(step));
        bar.enable_steady_tick(TICK);
        self.active.insert(key(step), bar);
    }

    fn ended(&mut self, step: &Step) {
        self.news.remove(&key(step));
        if let Some(bar) = self.active.remove(&key(step)) {
            bar.finish_and_clear();
        }
    }

    /// Nothing moves any more.
    pub fn end(&mut self) {
        for (_, bar) in std::mem::take(&mut self.active) {
            bar.finish_and_clear();
        }
    }
}

/// Speaks between what moves.
#[derive(Clone, Debug)]
pub struct Between {
    moving: Option<MultiProgress>,
    voice: Voice,
}

impl Between {
    /// Says a line.
    pub fn say(&self, line: &str) {
        match &self.moving {
            Some(moving) => moving.suspend(|| self.voice.say(line)),
            None => self.voice.say(line),
        }
    }
}

fn key(step: &Step) -> String {
    format!("{} {}", where_of(step), what_of(step))
}
