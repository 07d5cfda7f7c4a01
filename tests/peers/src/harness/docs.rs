//! Tables in the documents that tests know the rows of.

use std::path::Path;

/// Compares what stands in `path` between `<!-- attacks: NAME -->` and `<!-- end -->` with these tables, by their names; with
/// `PROTOCG_WRITE_TABLES` in the environment writes them instead.
///
/// # Panics
/// If the file is not to be read or written, has no such place, or says something else.
pub fn compare_tables(path: &Path, tables: &[(&str, String)]) {
    let text = std::fs::read_to_string(path).expect("the document is readable");
    let mut new = text.clone();
    for (name, table) in tables {
        let begin = format!("<!-- attacks: {name} -->\n");
        let from = new.find(&begin).unwrap_or_else(|| panic!("no table `{name}`")) + begin.len();
        let to = from + new[from..].find("<!-- end -->").expect("the table's end");
        new.replace_range(from..to, &format!("\n{table}\n"));
    }
    if std::env::var_os("PROTOCG_WRITE_TABLES").is_some() {
        std::fs::write(path, &new).expect("the document is writable");
    } else {
        assert!(text == new, "{} is not what the rows say: run this test with PROTOCG_WRITE_TABLES=1", path.display());
    }
}
