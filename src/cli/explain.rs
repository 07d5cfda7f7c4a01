//! `protocg explain POLICY CALL`: which rule decides a call, and why.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::{Exit, Failure};
use super::test::unwritten;
use crate::cases::judge::Host;
use crate::cases::{read, why};
use crate::policy;

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The policy
    #[arg(value_name = "POLICY.toml")]
    pub policy: PathBuf,
    /// A file with the call, or with cases (see --case), in TOML, YAML or JSON; `-` is standard input
    #[arg(value_name = "CALL", required_unless_present = "method", conflicts_with = "method")]
    pub call: Option<PathBuf>,
    /// The case of this name
    #[arg(long = "case", value_name = "NAME", conflicts_with = "method")]
    pub case: Option<String>,
    /// The call's path, instead of a file
    #[arg(long, value_name = "/PACKAGE.SERVICE/METHOD")]
    pub method: Option<String>,
    /// Metadata of the call; may be given several times
    #[arg(long, value_name = "KEY=VALUE", requires = "method", value_parser = pair)]
    pub metadata: Vec<(String, String)>,
    /// Where the call comes from
    #[arg(long, value_name = "IP[:PORT]", requires = "method")]
    pub peer: Option<String>,
    /// A request message; may be given several times
    #[arg(long = "message", value_name = "JSON", requires = "method")]
    pub messages: Vec<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, _)) if key.starts_with(':') => Err(format!("`{key}` is not metadata")),
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// Explains.
pub fn explain(args: &ExplainArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let study = policy::study(&args.policy).map_err(|e| Failure::new(Exit::Policy, e))?;
    let call = match (&args.method, &args.call) {
        (Some(method), _) => read::said(method, &args.metadata, args.peer.as_deref(), &args.messages, &study),
        (None, path) => {
            let path = path.as_deref().unwrap_or(Path::new("-"));
            let name = args.case.as_deref();
            read::text(path).and_then(|(text, format)| read::call(&text, format, path, &study, name))
        }
    };
    let (call, warnings) = call.map_err(|e| Failure::new(Exit::Cases, e))?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let run = Host::new(&study.policy).run(&call);
    let text = why::explain(&study, &args.policy.display().to_string(), &call, &run);
    out.write_all(text.map_err(|e| Failure::new(Exit::Policy, e))?.as_bytes()).map_err(unwritten)?;
    Ok(Exit::Ok)
}
