//! Reports of cases for CI, in JUnit's form.

use std::io;

use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};

/// The cases of one file.
pub struct Suite<'a> {
    /// The file.
    pub name: String,
    /// The policy's name.
    pub policy: &'a str,
    /// Each case, and what was wrong: in short, and whole.
    pub cases: Vec<(&'a str, Option<(&'a str, &'a str)>)>,
}

/// Writes a report.
pub fn write(suites: &[Suite<'_>], out: impl io::Write) -> Result<(), SerializeError> {
    let mut report = Report::new("protocg");
    for suite in suites {
        let mut written = TestSuite::new(suite.name.as_str());
        for (name, wrong) in &suite.cases {
            let mut status = match wrong {
                None => TestCaseStatus::success(),
                Some(_) => TestCaseStatus::non_success(NonSuccessKind::Failure),
            };
            if let Some((short, whole)) = wrong {
                status.set_message(*short).set_type("outcome").set_description(*whole);
            }
            let mut case = TestCase::new(*name, status);
            case.set_classname(suite.policy);
            written.add_test_case(case);
        }
        report.add_test_suite(written);
    }
    report.serialize(out)
}
