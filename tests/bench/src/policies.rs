//! protocg's policies: one field rule, alone or among many others.

use std::fmt::Write;

/// Which rules there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// The field rule alone.
    One,
    /// 999 others for the same field.
    Fields,
    /// 9,999 others, each for a method of its own.
    Methods,
    /// The same rule for the search service's field.
    Search,
}

/// The policy's text, for a server's port.
#[must_use]
pub fn text(set: Set, port: u16) -> String {
    let (methods, field) = match set {
        Set::Search => ("\"/search.SearchService/Search\"", "query"),
        _ => ("\"/echo.Echo/Unary\", \"/echo.Echo/Bidi\"", "text"),
    };
    let mut text = format!(
        "name = \"bench\"\nproto = [\"echo.proto\", \"search.proto\"]\nports = [{port}]\ndefault = \"allow\"\n\
         [[deny]]\nname = \"contains-A\"\nmethods = [{methods}]\nwhen = 'request.{field}.contains(\"A\")'\n"
    );
    // A String takes whatever is written.
    let _ = match set {
        Set::One | Set::Search => Ok(()),
        Set::Fields => (0..999).try_for_each(|i| {
            let when = format!("request.text.contains(\"needle{i}x\")");
            writeln!(text, "[[deny]]\nname = \"f{i}\"\nmethods = [\"/echo.Echo/Unary\"]\nwhen = '{when}'")
        }),
        Set::Methods => (0..9_999).try_for_each(|i| {
            writeln!(text, "[[deny]]\nname = \"m{i}\"\nmethods = [\"/pkg{}.Service{i}/Method\"]", i % 100)
        }),
    };
    text
}
