//! Tables for a terminal: no borders, one row per item. If the width is too small, the least important columns are dropped.

use crate::cli::format;
use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, presets};
use std::borrow::Cow;

/// A column and how it behaves in a narrow terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    title: Cow<'static, str>,
    /// Zero: never dropped. Else columns are dropped in order, the largest number first.
    dispensable: u8,
    /// Before the column is dropped, its text is cut at the beginning, to at least this many characters.
    shrinks_to: Option<usize>,
    alignment: CellAlignment,
}

impl Column {
    /// A column that is always shown.
    pub fn fixed(title: impl Into<Cow<'static, str>>) -> Self {
        Self { title: title.into(), dispensable: 0, shrinks_to: None, alignment: CellAlignment::Left }
    }

    /// A column that can be dropped; those with the largest `rank` are dropped first.
    pub fn dispensable(title: impl Into<Cow<'static, str>>, rank: u8) -> Self {
        Self { title: title.into(), dispensable: rank, shrinks_to: None, alignment: CellAlignment::Left }
    }

    /// The same column; its text is cut at the beginning, to at least this many characters, before it is dropped.
    pub fn shrinking_to(self, characters: usize) -> Self {
        Self { shrinks_to: Some(characters), ..self }
    }

    /// The same column, right-aligned for numbers.
    pub fn right(self) -> Self {
        Self { alignment: CellAlignment::Right, ..self }
    }
}

/// Columns and rows.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

const GAP: usize = 2;
/// Ends a style.
const RESET: &str = "\x1b[0m";

impl Table {
    /// A table without rows.
    pub fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row with one cell per column.
    pub fn row(&mut self, cells: impl Into<Vec<String>>) {
        self.rows.push(cells.into());
    }

    /// The table as text for the standard output: limited to the width of a terminal, unlimited for a file or pipe.
    pub fn for_stdout(&self) -> String {
        self.in_width(width())
    }

    /// The table as text of at most `width` columns, if its fixed columns fit.
    pub fn in_width(&self, width: Option<usize>) -> String {
        let kept = self.kept(width);
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(kept.iter().map(|&(i, _)| Cell::new(&self.columns[i].title).add_attribute(Attribute::Bold)));
        for row in &self.rows {
            let cell =
                |(i, wide): &(usize, usize)| row.get(*i).map(|cell| format::tail(cell, *wide)).unwrap_or_default();
            table.add_row(kept.iter().map(cell).map(Cell::new));
        }
        for (at, &(i, _)) in kept.iter().enumerate() {
            if let Some(column) = table.column_mut(at) {
                column.set_cell_alignment(self.columns[i].alignment);
                column.set_padding((0, GAP as u16));
            }
        }
        // a bold heading is padded inside its style, which `trim_fmt` does not trim
        let trimmed = |line: &str| match line.strip_suffix(RESET) {
            Some(styled) => format!("{}{RESET}\n", styled.trim_end()),
            None => format!("{}\n", line.trim_end()),
        };
        table.trim_fmt().lines().map(trimmed).collect()
    }

    /// The columns that are shown in `width`, and their widths.
    fn kept(&self, width: Option<usize>) -> Vec<(usize, usize)> {
        let mut kept: Vec<_> = (0..self.columns.len()).map(|i| (i, self.natural_width(i))).collect();
        let Some(width) = width else { return kept };
        loop {
            let all: usize = kept.iter().map(|(_, w)| w + GAP).sum();
            let over = all.saturating_sub(width + GAP);
            let least = (0..kept.len()).max_by_key(|&at| self.columns[kept[at].0].dispensable);
            let Some(at) = least.filter(|&at| over > 0 && self.columns[kept[at].0].dispensable > 0) else {
                return kept;
            };
            let (column, wide) = kept[at];
            match self.columns[column].shrinks_to {
                Some(narrow) if wide >= over + narrow => kept[at].1 = wide - over,
                _ => drop(kept.remove(at)),
            }
        }
    }

    fn natural_width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([self.columns[column].title.len()]).max().unwrap_or(0)
    }
}

/// The width of the terminal at the standard output; none for a file or a pipe.
pub fn width() -> Option<usize> {
    let terminal = comfy_table::Table::new();
    terminal.is_tty().then(|| terminal.width().map(usize::from)).flatten()
}

/// The height of the terminal at the standard output; none for a file or a pipe.
pub fn height() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_row)).filter(|rows| *rows > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let columns = [
            Column::fixed("ID"),
            Column::dispensable("SOURCE", 3),
            Column::dispensable("TYPE", 1),
            Column::fixed("N").right(),
        ];
        let mut table = Table::new(columns);
        table.row(["0190-a", "genesys", "customer.start", "7"].map(String::from));
        table.row(["0190-b", "genesys", "customer.end", "1200"].map(String::from));
        table
    }

    #[test]
    fn all_columns_are_shown_where_they_fit() {
        let text = sample().in_width(None);
        assert_eq!(
            text,
            "ID      SOURCE   TYPE               N\n\
             0190-a  genesys  customer.start     7\n\
             0190-b  genesys  customer.end    1200\n"
        );
        assert_eq!(sample().in_width(Some(37)), text);
    }

    #[test]
    fn a_narrow_terminal_loses_the_least_important_columns() {
        let narrow = sample().in_width(Some(36));
        assert!(!narrow.contains("SOURCE") && narrow.contains("TYPE"), "{narrow}");
        let narrower = sample().in_width(Some(20));
        assert!(!narrower.contains("TYPE") && narrower.contains("1200"), "{narrower}");
        let hopeless = sample().in_width(Some(3));
        assert!(hopeless.contains("0190-a") && hopeless.contains("1200"), "{hopeless}");
    }

    #[test]
    fn a_shrinking_column_keeps_its_end() {
        let mut table = Table::new([Column::fixed("ID"), Column::dispensable("TYPE", 1).shrinking_to(5)]);
        table.row(["0190-a", "customer.start"].map(String::from));
        assert_eq!(table.in_width(Some(15)), "ID      TYPE\n0190-a  ….start\n");
        assert_eq!(table.in_width(Some(12)), "ID\n0190-a\n");
    }

    #[test]
    fn no_line_is_wider_than_asked() {
        for width in 12..60 {
            let text = sample().in_width(Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
        }
    }
}
