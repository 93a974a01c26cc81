//! Text of others, made fit to be shown: capped, control characters escaped, bootstrap tokens blotted out.

use std::error::Error;

/// Longest line that is passed on, in characters.
const LINE_MAX: usize = 400;

/// Lines of a tool's output that an error carries: its last ones, where tools say what was wrong.
const LINES_MAX: usize = 12;

/// One line: line breaks are escaped as well.
pub(crate) fn line(text: &str) -> String {
    let text = text.trim();
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == LINE_MAX {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    without_tokens(out)
}

/// The last lines of a tool's output.
pub(crate) fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(LINES_MAX);
    let lines: Vec<String> = lines[from..].iter().map(|l| line(l)).collect();
    lines.join("\n")
}

/// An error with its causes.
pub(crate) fn chain(err: &(dyn Error + 'static)) -> String {
    let mut out = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        let text = err.to_string();
        // Some libraries repeat the cause in their own text.
        if !out.ends_with(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        cause = err.source();
    }
    out
}

/// Blots out what looks like a bootstrap token: six and sixteen of a-z and 0-9 with a dot between. Tools say such things in errors.
fn without_tokens(text: String) -> String {
    const ID: usize = 6;
    const SECRET: usize = 16;
    let bytes = text.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut blots = Vec::new();
    for (dot, _) in bytes.iter().enumerate().filter(|(_, b)| **b == b'.') {
        let before = bytes[..dot].iter().rev().take_while(|b| plain(b)).count();
        let after = bytes[dot + 1..].iter().take_while(|b| plain(b)).count();
        if before == ID && after == SECRET {
            blots.push(dot + 1..dot + 1 + SECRET);
        }
    }
    if blots.is_empty() {
        return text;
    }
    let mut out = text;
    for blot in blots {
        out.replace_range(blot.clone(), &"*".repeat(blot.len()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_long_lines_cut() {
        assert_eq!(line("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(line(&"x".repeat(1000)).chars().count(), LINE_MAX + 1);
    }

    #[test]
    fn the_last_lines_are_kept() {
        let text: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
        let kept = tail(text.join("\n").as_bytes());
        assert_eq!(kept.lines().count(), LINES_MAX);
        assert!(kept.ends_with("line 99"));
        assert_eq!(tail(b"\xff\xfe\n"), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn tokens_are_blotted_out() {
        assert_eq!(
            line("using token: abcdef.0123456789abcdef for"),
            "using token: abcdef.**************** for"
        );
        let innocent = "registry.k8s.io/pause:3.10.1 v1.35.4 abcdefg.0123456789abcdef";
        assert_eq!(line(innocent), innocent);
    }
}
