//! Prints rows as an aligned markdown table, readable as it stands.

/// Renders `rows` below `head`; columns after the first are right-aligned.
pub fn markdown(head: &[&str], rows: &[Vec<String>]) -> String {
    // Two dashes are the least that markdown takes for a right-aligned column.
    let mut widths: Vec<usize> = head
        .iter()
        .map(|cell| cell.chars().count().max(2))
        .collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    line(&mut out, head.iter().copied(), &widths);
    for (column, width) in widths.iter().enumerate() {
        let dashes = "-".repeat(*width);
        out += &if column == 0 {
            format!("| {dashes} |")
        } else {
            format!(" {}: |", &dashes[1..])
        };
    }
    out.push('\n');
    for row in rows {
        line(&mut out, row.iter().map(String::as_str), &widths);
    }
    out
}

fn line<'a>(out: &mut String, cells: impl Iterator<Item = &'a str>, widths: &[usize]) {
    out.push('|');
    for (column, (cell, width)) in cells.zip(widths).enumerate() {
        *out += &if column == 0 {
            format!(" {cell:<width$} |")
        } else {
            format!(" {cell:>width$} |")
        };
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_column_is_still_a_column() {
        assert_eq!(markdown(&["x", ""], &[]), "| x  |    |\n| -- | -: |\n");
    }

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".to_owned(), "10".to_owned()],
            vec!["long".to_owned(), "1".to_owned()],
        ];
        assert_eq!(
            markdown(&["x", "n"], &rows),
            "| x    |  n |\n| ---- | -: |\n| a    | 10 |\n| long |  1 |\n",
        );
    }
}
