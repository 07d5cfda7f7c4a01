//! Results as tables and as a plot.

mod plot;
mod tables;
mod targets;

use anyhow::{Context, Result};

pub use plot::plot;
pub use tables::markdown;

const BEGIN: &str = "<!-- results: written by `make bench` -->\n";
const END: &str = "<!-- end of results -->\n";

/// A page with what stands between its two marks exchanged.
pub fn into_page(page: &str, results: &str) -> Result<String> {
    let (head, rest) = page.split_once(BEGIN).context("the page has no mark where results begin")?;
    let (_, tail) = rest.split_once(END).context("the page has no mark where results end")?;
    Ok(format!("{head}{BEGIN}{results}{END}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_exchanged() {
        let page = format!("head\n{BEGIN}old\n{END}tail\n");
        assert_eq!(into_page(&page, "new\n").unwrap(), format!("head\n{BEGIN}new\n{END}tail\n"));
        assert!(into_page("no marks", "new").is_err());
    }
}
