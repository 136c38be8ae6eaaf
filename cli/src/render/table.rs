//! Tables that fit the terminal: columns as wide as their cells; what is too wide loses the end of its widest cells.
//!
//! Invariant: what a person types again is never cut. Prose gives way first, then the other columns; a row whose names
//! are still too long is longer than the terminal is wide.

use crate::ui::{printable, width};

const GAP: &str = "  ";
/// No column is cut below this; prose that gets less is left out.
const MIN_COLUMN: usize = 8;

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
    /// At the left and never cut: it is typed again, or copied.
    Name,
    /// At the left, and the first to be cut.
    Prose,
}

/// A table under construction.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with one cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        // One row is one line, whatever is in the cells.
        self.rows.push(cells.iter().map(|cell| printable(cell).replace(['\n', '\t'], " ")).collect());
    }

    /// Whether there are no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The header and the rows; `columns` is the width to fit in, if any.
    pub(crate) fn lines(&self, columns: Option<usize>) -> Vec<String> {
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| width(name)).collect();
        for row in &self.rows {
            for (cell, max) in row.iter().zip(&mut widths) {
                *max = width(cell).max(*max);
            }
        }
        if let Some(columns) = columns {
            let gaps = GAP.len() * widths.len().saturating_sub(1);
            self.shrink(&mut widths, columns.saturating_sub(gaps));
        }
        let header = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        std::iter::once(&header).chain(&self.rows).map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (i, ((cell, (_, align)), max)) in row.iter().zip(&self.columns).zip(widths).enumerate() {
            if *max == 0 {
                continue;
            }
            if i > 0 {
                line.push_str(GAP);
            }
            let cell = if *align == Align::Name { cell.clone() } else { cut(cell, *max) };
            let padding = " ".repeat(max.saturating_sub(width(&cell)));
            match align {
                Align::Left | Align::Name | Align::Prose => line.extend([cell.as_str(), padding.as_str()]),
                Align::Right => line.extend([padding.as_str(), cell.as_str()]),
            }
        }
        line.trim_end().to_owned()
    }

    /// Takes from the columns, prose first and names last, until all fit or none may lose more.
    fn shrink(&self, widths: &mut [usize], mut available: usize) {
        let aligns = || self.columns.iter().map(|(_, align)| *align);
        take(widths, available, aligns().map(|align| align == Align::Prose));
        for (i, align) in aligns().enumerate() {
            if align == Align::Prose && widths.iter().sum::<usize>() > available {
                widths[i] = 0;
                available += GAP.len();
            }
        }
        take(widths, available, aligns().map(|align| align != Align::Name));
        // Long names reach over the edge of their column, each in its own row.
        take(widths, available, aligns().map(|align| align == Align::Name));
    }
}

/// Takes from the widest of those that may be taken from, until all fit or none of them may lose more.
fn take(widths: &mut [usize], available: usize, may: impl Iterator<Item = bool> + Clone) {
    while widths.iter().sum::<usize>() > available {
        let widest = widths.iter_mut().zip(may.clone()).filter(|(_, may)| *may).map(|(width, _)| width).max();
        let Some(widest) = widest.filter(|widest| **widest > MIN_COLUMN) else { return };
        *widest -= 1;
    }
}

fn cut(cell: &str, max: usize) -> String {
    if width(cell) <= max {
        return cell.to_owned();
    }
    let mut shown = String::new();
    for c in cell.chars() {
        shown.push(c);
        if width(&shown) >= max {
            shown.pop();
            break;
        }
    }
    shown.push('…');
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("TEXT", Align::Left)]);
        table.row(vec!["täglich".to_owned(), "1.0 MiB".to_owned(), "a long description\nof it".to_owned()]);
        table.row(vec!["日本語".to_owned(), "3 B".to_owned(), String::new()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        assert_eq!(
            table().lines(None),
            ["NAME        SIZE  TEXT", "täglich  1.0 MiB  a long description of it", "日本語       3 B",]
        );
    }

    #[test]
    fn narrow_terminals_cut_the_widest_column() {
        for columns in 30..60 {
            for line in table().lines(Some(columns)) {
                assert!(width(&line) <= columns, "{columns}: {line}");
            }
        }
        assert_eq!(table().lines(Some(30))[1], "täglich  1.0 MiB  a long desc…");
        let wide = cut("日本語", 4);
        assert!(width(&wide) <= 4, "{wide}");
    }

    #[test]
    fn names_are_whole_on_narrow_terminals() {
        let mut table = Table::new(&[("NAME", Align::Name), ("UPDATED", Align::Left), ("TEXT", Align::Prose)]);
        let long = "sh/a-rather-long-topic-name-1";
        table.row(vec![long.to_owned(), "2026-11-25 10:00".to_owned(), "a description that is long".to_owned()]);
        table.row(vec!["b".to_owned(), "2026-11-25 10:00".to_owned(), String::new()]);
        assert_eq!(table.lines(Some(57))[1], format!("{long}  2026-11-25 10:00  a descr…"));
        assert_eq!(table.lines(Some(50))[1], format!("{long}  2026-11-25 10:00"), "prose is left out");
        assert_eq!(table.lines(Some(40))[1], format!("{long}  2026-11-…"));
        assert_eq!(table.lines(Some(20))[1..], [format!("{long}  2026-11…"), "b           2026-11…".to_owned()]);
    }
}
