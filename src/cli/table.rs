//! Tables for a terminal: no lines, one row an item. What does not fit the width loses its least important columns.

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, presets};

/// How a column behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    title: &'static str,
    /// Zero: always there. Otherwise the column goes when room is short, the largest number first.
    dispensable: u8,
    alignment: CellAlignment,
}

impl Column {
    /// A column that is always shown.
    pub const fn fixed(title: &'static str) -> Self {
        Self { title, dispensable: 0, alignment: CellAlignment::Left }
    }

    /// A column that goes when room is short; those with the largest `rank` go first.
    pub const fn dispensable(title: &'static str, rank: u8) -> Self {
        Self { title, dispensable: rank, alignment: CellAlignment::Left }
    }

    /// The same column, for numbers.
    pub const fn right(self) -> Self {
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
        table.set_header(kept.iter().map(|&i| Cell::new(self.columns[i].title).add_attribute(Attribute::Bold)));
        for row in &self.rows {
            table.add_row(kept.iter().map(|&i| Cell::new(row.get(i).map_or("", String::as_str))));
        }
        for (at, &i) in kept.iter().enumerate() {
            if let Some(column) = table.column_mut(at) {
                column.set_cell_alignment(self.columns[i].alignment);
                column.set_padding((0, GAP as u16));
            }
        }
        let mut text = table.trim_fmt();
        text.push('\n');
        text
    }

    /// The columns that are shown in `width`.
    fn kept(&self, width: Option<usize>) -> Vec<usize> {
        let mut kept: Vec<usize> = (0..self.columns.len()).collect();
        let Some(width) = width else { return kept };
        let needs: Vec<usize> = kept.iter().map(|&i| self.natural_width(i) + GAP).collect();
        while kept.iter().map(|&i| needs[i]).sum::<usize>() > width + GAP {
            let least = kept.iter().copied().max_by_key(|&i| self.columns[i].dispensable);
            match least {
                Some(i) if self.columns[i].dispensable > 0 => kept.retain(|&k| k != i),
                _ => break,
            }
        }
        kept
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
    fn all_columns_where_there_is_room() {
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
    fn no_line_is_wider_than_asked() {
        for width in 12..60 {
            let text = sample().in_width(Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
        }
    }
}
