//! What is wrong with a policy: one diagnostic each, with the place in the policy's text.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

/// One thing that is wrong, before it is known in which file: what stages pass on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub message: String,
    /// Where, as bytes of the policy's text.
    pub span: Option<Range<usize>>,
    /// What to write instead.
    pub help: Option<String>,
}

impl Fault {
    /// A fault at a place of the text.
    pub fn at(span: Range<usize>, message: impl Into<String>) -> Fault {
        Fault { message: message.into(), span: Some(span), help: None }
    }

    /// A fault of the whole policy.
    pub fn whole(message: impl Into<String>) -> Fault {
        Fault { message: message.into(), span: None, help: None }
    }

    /// Says what to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Fault {
        self.help = Some(help.into());
        self
    }
}

/// The text of a policy, shared by its diagnostics.
#[derive(Clone)]
pub struct Source(Arc<NamedSource<String>>);

impl Source {
    /// The text of the policy `origin`.
    pub fn new(origin: &Path, text: &str) -> Source {
        Source(Arc::new(NamedSource::new(origin.display().to_string(), text.to_owned()).with_language("TOML")))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.0.name())
    }
}

/// One diagnostic.
#[derive(Debug, Clone)]
pub struct Problem {
    fault: Fault,
    source: Source,
}

impl Problem {
    /// What is wrong, where, and what to write instead.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// The line and column (from 1) of the place.
    pub fn position(&self) -> Option<(usize, usize)> {
        let span = self.fault.span.clone()?;
        let before = self.source.0.inner().get(..span.start)?;
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        Some((line, before.get(start..)?.chars().count() + 1))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fault.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.fault.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.fault.span.as_ref().map(|_| &*self.source.0 as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.fault.span.clone()?;
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(Some("here".to_owned()), span))))
    }
}

/// Why a policy cannot be used: one diagnostic or more, in the order of the text.
#[derive(Debug, Clone)]
pub struct Errors {
    first: Box<Problem>,
    rest: Vec<Problem>,
}

impl Errors {
    /// Places faults in a policy's text. No fault at all is a fault of ours, and says so.
    pub(crate) fn new(source: &Source, mut faults: Vec<Fault>) -> Errors {
        faults.sort_by_key(|fault| fault.span.as_ref().map_or(0, |span| span.start));
        faults.dedup();
        let mut problems = faults.into_iter().map(|fault| Problem { fault, source: source.clone() });
        let first = problems.next().unwrap_or_else(|| Problem {
            fault: Fault::whole("the policy cannot be compiled, and nothing says why"),
            source: source.clone(),
        });
        Errors { first: Box::new(first), rest: problems.collect() }
    }

    /// Every diagnostic.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        std::iter::once(&*self.first).chain(&self.rest)
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.first.source.0.name(), self.first)?;
        match self.rest.len() {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

impl std::error::Error for Errors {}

impl Diagnostic for Errors {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.first.help()
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.first.source_code()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.first.labels()
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        if self.rest.is_empty() {
            return None;
        }
        Some(Box::new(self.rest.iter().map(|problem| problem as &dyn Diagnostic)))
    }
}

/// Something that is allowed, and probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The rule that it is about.
    pub rule: Option<String>,
    /// What may surprise.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Some(rule) => write!(f, "rule `{rule}`: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}
