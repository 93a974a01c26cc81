//! Tables as kubectl prints them: upper-case headers, columns three spaces apart, no borders. Where a terminal is too narrow for one, its
//! rows are shown one below the other.

/// A table that is being filled.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headers.
    pub fn new<const N: usize>(headers: [&str; N]) -> Self {
        Self {
            rows: vec![headers.map(str::to_owned).to_vec()],
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    /// Its text, for a terminal of so many columns. `None`: it is no terminal, and programs read lines.
    pub fn text(&self, columns: Option<usize>) -> String {
        let lined = self.lined();
        let wide = |columns| lined.lines().any(|line| line.chars().count() > columns);
        if columns.is_some_and(wide) {
            self.stacked()
        } else {
            lined
        }
    }

    /// Each row by itself: its first cell, and below it the others with their headers.
    fn stacked(&self) -> String {
        let Some((headers, rows)) = self.rows.split_first() else {
            return String::new();
        };
        let mut out = String::new();
        for row in rows {
            let mut cells = headers.iter().zip(row);
            if let Some((_, first)) = cells.next() {
                out += &format!("{first}\n");
            }
            for (header, cell) in cells.filter(|(_, cell)| !cell.is_empty()) {
                out += &format!("  {}: {cell}\n", header.to_lowercase());
            }
        }
        out
    }

    fn lined(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line += &format!("{cell:width$}   ");
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["HOST", "ROLE"]);
        table.row(["cp-10".into(), "control plane".into()]);
        table.row(["w-1".into(), String::new()]);
        let lined = "HOST    ROLE\ncp-10   control plane\nw-1\n";
        assert_eq!(table.text(None), lined);
        assert_eq!(table.text(Some(21)), lined);
        assert_eq!(table.text(Some(20)), "cp-10\n  role: control plane\nw-1\n");
    }
}
