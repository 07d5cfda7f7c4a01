//! `matches` patterns: RE2's syntax and meaning, as regex-syntax's intermediate form.

use regex_syntax::ast::{
    self, Assertion, AssertionKind, Ast, ClassAscii, ClassAsciiKind, ClassBracketed, ClassPerl, ClassPerlKind,
    ClassSet, ClassSetItem, ClassSetUnion, Flag, Flags, FlagsItem, FlagsItemKind, Group, GroupKind, HexLiteralKind,
    Literal, LiteralKind, Span,
};
use regex_syntax::hir::translate::TranslatorBuilder;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::predicate::{Ranges, Text};

/// A pattern that is simpler than a regular expression.
#[derive(Debug, PartialEq, Eq)]
pub enum Shape {
    /// It matches every text.
    Always,
    /// A text test.
    Text(Text),
    /// `^[class]{m,n}$`: a size, and nothing of what the class excludes.
    Counted { size: Ranges, never: Option<Text> },
}

/// Parses a pattern. The error says what RE2 refuses, or what the kernel cannot do.
pub fn hir(pattern: &str) -> Result<Hir, String> {
    let mut parser = ast::parse::ParserBuilder::new().nest_limit(100).build();
    let mut tree = parser.parse(pattern).map_err(|error| format!("the pattern is wrong: {}", error.kind()))?;
    ascii(&mut tree)?;
    TranslatorBuilder::new()
        .utf8(false)
        .unicode(true)
        .build()
        .translate(pattern, &tree)
        .map_err(|error| format!("the pattern is wrong: {}", error.kind()))
}

/// The simplest test that means the same as a pattern.
pub fn shape(pattern: &str) -> Result<Shape, String> {
    let hir = hir(pattern)?;
    let properties = hir.properties();
    if properties.minimum_len() == Some(0) && properties.look_set().is_empty() {
        return Ok(Shape::Always);
    }
    if let Some(text) = literal(&hir) {
        return Ok(text);
    }
    Ok(counted(&hir).unwrap_or_else(|| Shape::Text(Text::Matches(pattern.to_owned()))))
}

fn anchored(hir: &Hir) -> (bool, &[Hir], bool) {
    let parts = match hir.kind() {
        HirKind::Concat(parts) => parts.as_slice(),
        _ => std::slice::from_ref(hir),
    };
    let is = |part: Option<&Hir>, look| part.is_some_and(|part| *part.kind() == HirKind::Look(look));
    let start = is(parts.first(), Look::Start);
    let parts = if start { parts.get(1..).unwrap_or_default() } else { parts };
    let end = is(parts.last(), Look::End);
    let parts = if end { parts.split_last().map_or(parts, |(_, rest)| rest) } else { parts };
    (start, parts, end)
}

fn literal(hir: &Hir) -> Option<Shape> {
    let (start, parts, end) = anchored(hir);
    let text = match parts {
        [] => Vec::new(),
        [part] => match part.kind() {
            HirKind::Literal(literal) => literal.0.to_vec(),
            HirKind::Empty => Vec::new(),
            _ => return None,
        },
        _ => return None,
    };
    Some(match (start, end) {
        (true, true) => Shape::Text(Text::In(vec![text])),
        _ if text.is_empty() => Shape::Always,
        (true, false) => Shape::Text(Text::Prefix(text)),
        (false, true) => Shape::Text(Text::Suffix(text)),
        (false, false) => Shape::Text(Text::Contains(text)),
    })
}

fn counted(hir: &Hir) -> Option<Shape> {
    let (true, [part], true) = anchored(hir) else { return None };
    let HirKind::Repetition(repetition) = part.kind() else { return None };
    if repetition.min < 2 && repetition.max.is_none_or(|max| max < 2) {
        return None; // an automaton of a few states does it
    }
    let mut inner = &*repetition.sub;
    while let HirKind::Capture(capture) = inner.kind() {
        inner = &capture.sub;
    }
    let HirKind::Class(Class::Unicode(class)) = inner.kind() else { return None };
    let size = Ranges::of(u64::from(repetition.min), repetition.max.map_or(u64::MAX, u64::from));
    let mut outside = class.clone();
    outside.negate();
    let never = match outside.ranges() {
        [] => None,
        [one] if one.start() == one.end() => Some(Text::Contains(one.start().to_string().into_bytes())),
        _ => Some(Text::Matches(Hir::class(Class::Unicode(outside)).to_string())),
    };
    Some(Shape::Counted { size, never })
}

fn refuse<T>(what: &str) -> Result<T, String> {
    Err(format!("{what} is not RE2"))
}

/// Makes Perl classes and word boundaries ASCII, and refuses what RE2 does not know or reads differently.
fn ascii(tree: &mut Ast) -> Result<(), String> {
    match tree {
        Ast::Empty(_) | Ast::Dot(_) | Ast::ClassUnicode(_) => Ok(()),
        Ast::Literal(literal) => check_literal(literal),
        Ast::Flags(set) => check_flags(&set.flags),
        Ast::Assertion(assertion) => match assertion.kind {
            AssertionKind::WordBoundary | AssertionKind::NotWordBoundary => {
                *tree = not_unicode(assertion);
                Ok(())
            }
            AssertionKind::StartLine | AssertionKind::EndLine | AssertionKind::StartText | AssertionKind::EndText => {
                Ok(())
            }
            _ => refuse("a half or named word boundary"),
        },
        Ast::ClassPerl(class) => {
            let bracketed = ClassBracketed { span: class.span, negated: class.negated, kind: perl(class) };
            *tree = Ast::class_bracketed(bracketed);
            Ok(())
        }
        Ast::ClassBracketed(class) => set(&mut class.kind),
        Ast::Repetition(repetition) => ascii(&mut repetition.ast),
        Ast::Group(group) => {
            if let GroupKind::NonCapturing(flags) = &group.kind {
                check_flags(flags)?;
            }
            ascii(&mut group.ast)
        }
        Ast::Alternation(many) => many.asts.iter_mut().try_for_each(ascii),
        Ast::Concat(many) => many.asts.iter_mut().try_for_each(ascii),
    }
}

fn check_flags(flags: &Flags) -> Result<(), String> {
    for item in &flags.items {
        match item.kind {
            FlagsItemKind::Flag(Flag::IgnoreWhitespace) => return refuse("the flag `x`"),
            FlagsItemKind::Flag(Flag::Unicode) => return refuse("the flag `u`"),
            FlagsItemKind::Flag(Flag::CRLF) => return refuse("the flag `R`"),
            FlagsItemKind::Negation | FlagsItemKind::Flag(_) => {}
        }
    }
    Ok(())
}

fn check_literal(literal: &Literal) -> Result<(), String> {
    match literal.kind {
        LiteralKind::HexFixed(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
        | LiteralKind::HexBrace(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong) => {
            refuse("`\\u` (write `\\x{...}`)")
        }
        _ => Ok(()),
    }
}

fn set(kind: &mut ClassSet) -> Result<(), String> {
    match kind {
        ClassSet::BinaryOp(_) => refuse("a set operation in a class"),
        ClassSet::Item(item) => set_item(item),
    }
}

fn set_item(item: &mut ClassSetItem) -> Result<(), String> {
    match item {
        ClassSetItem::Bracketed(_) => refuse("a class in a class (write `\\[` for a bracket)"),
        ClassSetItem::Perl(class) => {
            let bracketed = ClassBracketed { span: class.span, negated: class.negated, kind: perl(class) };
            *item = ClassSetItem::Bracketed(Box::new(bracketed));
            Ok(())
        }
        ClassSetItem::Union(union) => union.items.iter_mut().try_for_each(set_item),
        ClassSetItem::Literal(literal) => check_literal(literal),
        ClassSetItem::Range(range) => check_literal(&range.start).and_then(|()| check_literal(&range.end)),
        ClassSetItem::Empty(_) | ClassSetItem::Ascii(_) | ClassSetItem::Unicode(_) => Ok(()),
    }
}

/// The positive ASCII set of `\d`, `\w` or `\s`; RE2's `\s` has no vertical tab.
fn perl(class: &ClassPerl) -> ClassSet {
    let span = class.span;
    let named = |kind| ClassSet::Item(ClassSetItem::Ascii(ClassAscii { span, kind, negated: false }));
    match class.kind {
        ClassPerlKind::Digit => named(ClassAsciiKind::Digit),
        ClassPerlKind::Word => named(ClassAsciiKind::Word),
        ClassPerlKind::Space => {
            let items = ['\t', '\n', '\x0c', '\r', ' ']
                .into_iter()
                .map(|c| ClassSetItem::Literal(Literal { span, kind: LiteralKind::Verbatim, c }))
                .collect();
            ClassSet::union(ClassSetUnion { span, items })
        }
    }
}

fn not_unicode(assertion: &Assertion) -> Ast {
    let span: Span = assertion.span;
    let item = |kind| FlagsItem { span, kind };
    let items = vec![item(FlagsItemKind::Negation), item(FlagsItemKind::Flag(Flag::Unicode))];
    Ast::group(Group {
        span,
        kind: GroupKind::NonCapturing(Flags { span, items }),
        ast: Box::new(Ast::assertion(assertion.clone())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_patterns_become_simpler_tests() {
        let text = |test| Ok(Shape::Text(test));
        assert_eq!(shape("^abc$"), text(Text::In(vec![b"abc".to_vec()])));
        assert_eq!(shape("^abc"), text(Text::Prefix(b"abc".to_vec())));
        assert_eq!(shape("abc$"), text(Text::Suffix(b"abc".to_vec())));
        assert_eq!(shape("a\\.b"), text(Text::Contains(b"a.b".to_vec())));
        assert_eq!(shape("a*"), Ok(Shape::Always));
        assert_eq!(shape(""), Ok(Shape::Always));
        assert_eq!(shape("^"), Ok(Shape::Always));
        assert_eq!(
            shape("^.{1,256}$"),
            Ok(Shape::Counted { size: Ranges::of(1, 256), never: Some(Text::Contains(b"\n".to_vec())) })
        );
        assert_eq!(shape("(?s)^.{3,}$"), Ok(Shape::Counted { size: Ranges::of(3, u64::MAX), never: None }));
        assert!(matches!(shape("^[a-z]{2,9}$"), Ok(Shape::Counted { never: Some(Text::Matches(_)), .. })));
    }

    #[test]
    fn what_re2_does_not_know_or_reads_differently_is_refused() {
        for pattern in ["(?x)a b", "(?u)a", "(?R)a", "[a&&b]", "[a--b]", "[[a]b]", r"\b{start}a", "(?x:a)", r"\u0041"] {
            assert!(hir(pattern).is_err(), "{pattern}");
        }
        for pattern in ["(", "a{2,1}", r"(a)\1", "(?=a)", "[b-a]"] {
            assert!(hir(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn perl_classes_are_ascii_and_dots_are_code_points() {
        let matches = |pattern: &str, text: &str| {
            let hir = hir(pattern).unwrap();
            regex_automata::meta::Builder::new().build_from_hir(&hir).unwrap().is_match(text)
        };
        assert!(!matches(r"^\d$", "٣"));
        assert!(!matches(r"^\w$", "é"));
        assert!(matches(r"^\W$", "é"));
        assert!(!matches(r"\s", "\x0b"));
        assert!(matches(r"^[^\S]$", "\t"));
        assert!(matches(r"^[^\w]$", "é"));
        assert!(matches("^.$", "é"));
        assert!(matches(r"a\b", "aé"));
        assert!(!matches("a$", "a\n"));
        assert!(matches("(?m)a$", "a\n"));
        assert!(matches("(?i)^straSSe$", "STRASSE"));
        assert!(matches("(?i)k", "\u{212a}"));
    }
}
