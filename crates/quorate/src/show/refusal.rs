//! Refusals and what is waited for, as text: what, in numbers, and where there is more about it.

use quorate_plan::{Place, Refusal, plan::Waiting};

use super::harmless;
use crate::console::{Paint, Style};

/// One refusal.
pub fn text(refusal: &Refusal, paint: Paint) -> String {
    let code = refusal.code();
    let mut out = format!(
        "{} {}\n",
        paint.paint(Style::Bad, format!("refused[{code}]:")),
        harmless(&refusal.to_string()).replace('\n', "\n    ")
    );
    if let Some(node) = refusal.acceptable_for() {
        out += &format!(
            "    {} if you know better: --accept {code}={node}\n",
            paint.paint(Style::Bold, "hint:")
        );
    }
    out
}

/// All of them, with one hint for all.
pub fn all(refusals: &[Refusal], paint: Paint) -> String {
    let mut out: String = refusals
        .iter()
        .map(|refusal| text(refusal, paint))
        .collect();
    let mut codes: Vec<String> = refusals
        .iter()
        .map(|refusal| refusal.code().to_string())
        .collect();
    codes.dedup();
    if let [first, ..] = codes.as_slice() {
        out += &format!(
            "{} `quorate explain {first}` says what to do\n",
            paint.paint(Style::Bold, "hint:")
        );
    }
    out
}

/// What is waited for.
pub fn waiting(waiting: &[Waiting], paint: Paint) -> String {
    waiting
        .iter()
        .map(|one| {
            let what = harmless(&one.what);
            let what = match &one.on {
                Place::Host(on) if !what.starts_with(on.as_str()) => format!("{on}: {what}"),
                Place::Host(_) | Place::Operator => what,
            };
            format!("{} {what}\n", paint.paint(Style::Warn, "waiting:"))
        })
        .collect()
}
