//! What commands print: pure functions from values to text. Start at [`plan::text`].

pub mod adoption;
pub mod assessment;
pub mod bundle;
pub mod details;
pub mod infra;
pub mod json;
pub mod lint;
pub mod plan;
pub mod progress;
pub mod refusal;
pub mod table;

use std::time::Duration;

/// A duration as people say it: `820 ms`, `3.2 s`, `4 min 10 s`.
pub fn duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms < 1000 {
        format!("{ms} ms")
    } else if ms < 60_000 {
        format!("{}.{} s", ms / 1000, ms % 1000 / 100)
    } else if ms < 3_600_000 {
        format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000)
    } else {
        format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000)
    }
}

/// Bytes as people say them: `812 B`, `24.1 MiB`.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < units.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
}

/// Text of other machines, harmless: control characters escaped, long lines cut.
pub fn harmless(text: &str) -> String {
    quorate_exec::hostile::text(text)
}

/// Longest line of prose.
const PROSE_WIDTH: usize = 100;

/// Prose in lines that fit the terminal, of at most 100 columns: paragraphs are filled anew, list items keep their indentation, headings
/// stay.
pub fn prose(text: &str, columns: Option<usize>) -> String {
    let width = columns.map_or(PROSE_WIDTH, |columns| columns.min(PROSE_WIDTH));
    let mut out = String::new();
    let mut paragraph = String::new();
    let end = |paragraph: &mut String, out: &mut String| {
        if !paragraph.is_empty() {
            fill(paragraph, width, out);
            paragraph.clear();
        }
    };
    for line in text.lines() {
        let begins = line.starts_with("- ") || line.starts_with('#') || line.trim().is_empty();
        if begins {
            end(&mut paragraph, &mut out);
        }
        if line.trim().is_empty() || line.starts_with('#') {
            out.push_str(line.trim_end());
            out.push('\n');
            continue;
        }
        if !paragraph.is_empty() {
            paragraph.push(' ');
        }
        paragraph.push_str(line.trim());
    }
    end(&mut paragraph, &mut out);
    out
}

/// One paragraph or list item.
fn fill(paragraph: &str, width: usize, out: &mut String) {
    let indentation = if paragraph.starts_with("- ") {
        "  "
    } else {
        ""
    };
    let mut line = String::new();
    for word in paragraph.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            out.push_str(&line);
            out.push('\n');
            line = format!("{indentation}{word}");
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    out.push_str(&line);
    out.push('\n');
}

/// `1 step`, `2 steps`.
pub fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_filled() {
        let long = "word ".repeat(30);
        let text = format!("# Title\na\nb\n\n- {long}\n- c\n");
        let narrow = prose(&text, Some(30));
        assert!(narrow.lines().all(|line| line.len() <= 30), "{narrow}");
        let shown = prose(&text, Some(250));
        assert!(
            shown.lines().all(|line| line.len() <= PROSE_WIDTH),
            "{shown}"
        );
        assert!(shown.starts_with("# Title\na b\n\n- word word"), "{shown}");
        assert!(shown.contains("\n  word"), "{shown}");
        assert!(shown.ends_with("\n- c\n"), "{shown}");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, shown) in [
            (812, "812 B"),
            (2048, "2.0 KiB"),
            (25_270_000, "24.0 MiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn durations_are_short() {
        for (ms, shown) in [
            (7, "7 ms"),
            (3_250, "3.2 s"),
            (250_000, "4 min 10 s"),
            (7_260_000, "2 h 1 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), shown);
        }
    }
}
