//! `docs/reference/error-codes.md`.

use std::fmt::Write as _;

use quorate_infra::Code as Found;
use quorate_plan::{diagnostic::Code, refusal::RefusalCode};

use super::runbook_title;

/// The page.
pub fn reference() -> String {
    let mut out = String::from(
        "# Error codes\n\nCodes beginning with `Q` are mistakes in a cluster file; from Q0501 on they are warnings. Names are refusals: what a guard \
         will not do; and, at the end, what `quorate lint` finds. `quorate explain CODE` prints the same.\n\n## Refusals\n\n| refusal | means | can be accepted for one node |\n|---|---|---|\n",
    );
    for code in RefusalCode::ALL {
        let accepted = if code.acceptable() {
            format!("`--accept {code}=NODE`")
        } else {
            "no".to_owned()
        };
        writeln!(
            out,
            "| [`{code}`](../runbooks/{code}.md) | {} | {accepted} |",
            runbook_title(*code)
        )
        .expect("a String takes everything");
    }
    out.push_str("\n## Mistakes in the cluster file\n");
    for code in Code::ALL {
        write!(
            out,
            "\n### {code}: {}\n\n{}\n",
            code.title(),
            code.explanation()
        )
        .expect("a String takes everything");
    }
    out.push_str("\n## Findings of `quorate lint`\n");
    for code in Found::ALL {
        write!(out, "\n### {code}: {}\n\n{}", code.title(), code.page())
            .expect("a String takes everything");
    }
    out
}
