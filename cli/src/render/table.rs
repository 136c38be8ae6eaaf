//! Tables that fit the terminal: columns as wide as their cells; what is too wide loses the end of its widest cells.

use crate::ui::{printable, width};

const GAP: &str = "  ";
/// No column is cut below this.
const MIN_COLUMN: usize = 8;

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
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
            shrink(&mut widths, columns.saturating_sub(gaps));
        }
        let header = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        std::iter::once(&header).chain(&self.rows).map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (i, ((cell, (_, align)), max)) in row.iter().zip(&self.columns).zip(widths).enumerate() {
            if i > 0 {
                line.push_str(GAP);
            }
            let cell = cut(cell, *max);
            let padding = " ".repeat(max - width(&cell));
            match align {
                Align::Left => line.extend([cell.as_str(), padding.as_str()]),
                Align::Right => line.extend([padding.as_str(), cell.as_str()]),
            }
        }
        line.trim_end().to_owned()
    }
}

/// Takes from the widest column until all fit, or none may lose more.
fn shrink(widths: &mut [usize], available: usize) {
    while widths.iter().sum::<usize>() > available {
        let Some(widest) = widths.iter_mut().max().filter(|widest| **widest > MIN_COLUMN) else { return };
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
}
