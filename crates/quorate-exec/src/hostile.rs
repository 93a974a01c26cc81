//! Text from other machines is hostile bytes until it went through here: control characters escaped, length capped.

/// Longest single line kept of what another machine said, in characters.
pub const LINE_CHARS_MAX: usize = 300;

/// Longest text of several lines kept of what another machine said, in characters: a tool's last words, not its log.
pub const TEXT_CHARS_MAX: usize = 4000;

/// One line: line breaks and control characters escaped, at most [`LINE_CHARS_MAX`] characters.
pub fn line(raw: &str) -> String {
    clean(raw.trim(), LINE_CHARS_MAX, false)
}

/// Several lines: line breaks kept, other control characters escaped, at most [`TEXT_CHARS_MAX`] characters.
pub fn text(raw: &str) -> String {
    clean(raw.trim_end(), TEXT_CHARS_MAX, true)
}

fn clean(raw: &str, chars_max: usize, breaks: bool) -> String {
    let mut out = String::new();
    for (count, c) in raw.chars().enumerate() {
        if count == chars_max {
            out.push('…');
            break;
        }
        match c {
            '\n' if breaks => out.push(c),
            '\t' => out.push(' '),
            // Direction marks reorder what a terminal shows: as good as control characters for lying.
            c if c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                out.extend(c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_driven_by_hosts() {
        assert_eq!(line("a\u{1b}[2Jb\r\nc\td\n"), "a\\u{1b}[2Jb\\u{d}\\u{a}c d");
        assert_eq!(text("a\nb\u{7}\n\n"), "a\nb\\u{7}");
        assert_eq!(line("\u{202e}txt"), "\\u{202e}txt");
        assert_eq!(line(&"x".repeat(1000)).chars().count(), LINE_CHARS_MAX + 1);
        assert_eq!(
            text(&"x\n".repeat(5000)).chars().count(),
            TEXT_CHARS_MAX + 1
        );
    }
}
