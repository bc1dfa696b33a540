//! Tables for a terminal: no lines, one row an item. What does not fit the width loses its least important columns.

use crate::cli::format;
use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, presets};
use std::borrow::Cow;

/// How a column behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    title: Cow<'static, str>,
    /// Zero: always there. Otherwise the column goes when room is short, the largest number first.
    dispensable: u8,
    /// Before it goes, it loses the beginning of its text, down to so many characters.
    shrinks_to: Option<usize>,
    alignment: CellAlignment,
}

impl Column {
    /// A column that is always shown.
    pub fn fixed(title: impl Into<Cow<'static, str>>) -> Self {
        Self { title: title.into(), dispensable: 0, shrinks_to: None, alignment: CellAlignment::Left }
    }

    /// A column that goes when room is short; those with the largest `rank` go first.
    pub fn dispensable(title: impl Into<Cow<'static, str>>, rank: u8) -> Self {
        Self { title: title.into(), dispensable: rank, shrinks_to: None, alignment: CellAlignment::Left }
    }

    /// The same column, which rather loses the beginning of its text than goes, down to so many characters.
    pub fn shrinking_to(self, characters: usize) -> Self {
        Self { shrinks_to: Some(characters), ..self }
    }

    /// The same column, for numbers.
    pub fn right(self) -> Self {
        Self { alignment: CellAlignment::Right, ..self }
    }
}

/// Columns and the rows that fill them.
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

    /// Adds a row, with one cell for each column.
    pub fn row(&mut self, cells: impl Into<Vec<String>>) {
        self.rows.push(cells.into());
    }

    /// The table as text for the standard output: as wide as the terminal, or as it likes to be for a file or pipe.
    pub fn for_stdout(&self) -> String {
        self.in_width(width())
    }

    /// The table as text of at most `width` columns, as far as its fixed columns allow.
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
        // a bold heading is padded inside its style, where `trim_fmt` does not look
        let trimmed = |line: &str| match line.strip_suffix(RESET) {
            Some(styled) => format!("{}{RESET}\n", styled.trim_end()),
            None => format!("{}\n", line.trim_end()),
        };
        table.trim_fmt().lines().map(trimmed).collect()
    }

    /// The columns that are shown in `width`, and how wide each may be.
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

/// The width of the terminal behind the standard output; none where it is a file or a pipe.
pub fn width() -> Option<usize> {
    let terminal = comfy_table::Table::new();
    terminal.is_tty().then(|| terminal.width().map(usize::from)).flatten()
}

/// The lines of the terminal behind the standard output; none where it is a file or a pipe.
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
