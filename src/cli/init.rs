//! `protocg init --proto FILE...`: a policy to start from.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use miette::miette;
use prost_reflect::{FieldDescriptor, Kind, MethodDescriptor, ServiceDescriptor};

use super::exit::{Exit, Failure};
use super::test::unwritten;
use crate::policy::{self, Study};

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// A .proto source or a compiled FileDescriptorSet (.binpb); may be given several times
    #[arg(long = "proto", value_name = "FILE", required = true, num_args = 1..)]
    pub protos: Vec<PathBuf>,
    /// An import root; may be given several times. By default the policy's folder
    #[arg(long = "include", value_name = "FOLDER")]
    pub includes: Vec<PathBuf>,
    /// A port that the servers listen on; may be given several times
    #[arg(long = "port", value_name = "PORT", default_value = "50051", value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Vec<u16>,
    /// The policy's name. By default that of the first proto file
    #[arg(long)]
    pub name: Option<String>,
    /// Write the policy there, and not to standard output; its paths are then relative to that file's folder
    #[arg(short, long, value_name = "POLICY.toml")]
    pub output: Option<PathBuf>,
    /// Replace the file if there is one
    #[arg(long, requires = "output")]
    pub force: bool,
}

/// Writes the policy.
pub fn init(args: &InitArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let current = std::env::current_dir().map_err(|e| failed("find the current folder", &e))?;
    let folder = match args.output.as_deref().and_then(Path::parent) {
        Some(parent) => current.join(parent),
        None => current.clone(),
    };
    let head = head(args, &current, &folder);
    // the compiler reads the protos, so what it says of them is what it will say of the policy
    let origin = folder.join(args.output.as_deref().and_then(Path::file_name).unwrap_or("policy.toml".as_ref()));
    let study = policy::study_text(&head, &origin).map_err(|e| Failure::new(Exit::Policy, e))?;
    let text = policy(&head, &study);
    let Some(path) = &args.output else {
        out.write_all(text.as_bytes()).map_err(unwritten)?;
        return Ok(Exit::Ok);
    };
    let opened = if args.force { std::fs::File::create(path) } else { std::fs::File::create_new(path) };
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            let help = "--force replaces it";
            Failure::new(Exit::Failed, miette!(help = help, "`{}` is there already", path.display()))
        }
        _ => failed(&format!("write `{}`", path.display()), &e),
    })?;
    writeln!(out, "wrote {}: try `protocg check {0}`", path.display()).map_err(unwritten)?;
    Ok(Exit::Ok)
}

fn failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, miette!("cannot {what}: {error}"))
}

/// A path as a policy in `folder` names it.
fn relative(path: &Path, current: &Path, folder: &Path) -> String {
    let plain = |path: PathBuf| std::fs::canonicalize(&path).unwrap_or(path);
    let (path, folder) = (plain(current.join(path)), plain(folder.to_path_buf()));
    let same = path.components().zip(folder.components()).take_while(|(a, b)| a == b).count();
    let mut out: PathBuf = folder.components().skip(same).map(|_| "..").collect();
    out.extend(path.components().skip(same));
    if out.as_os_str().is_empty() { ".".to_owned() } else { out.display().to_string() }
}

/// A policy's name out of any text.
fn name_of(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        match c {
            'a'..='z' | '0'..='9' => out.push(c),
            _ if !out.is_empty() && !out.ends_with('-') => out.push('-'),
            _ => {}
        }
    }
    out.truncate(32);
    let name = out.trim_end_matches('-');
    if name.is_empty() { "policy".to_owned() } else { name.to_owned() }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// All but the rules.
fn head(args: &InitArgs, current: &Path, folder: &Path) -> String {
    let stem = args.protos.first().and_then(|path| path.file_stem()).map(|stem| stem.to_string_lossy().into_owned());
    let name = args.name.clone().unwrap_or_else(|| name_of(&stem.unwrap_or_default()));
    let path = |path: &PathBuf| quoted(&relative(path, current, folder));
    let mut includes = args.includes.clone();
    // a proto elsewhere imports its neighbours by their names
    if includes.is_empty() {
        for proto in &args.protos {
            let beside = proto.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
            if relative(&beside, current, folder) != "." && !includes.contains(&beside) {
                includes.push(beside);
            }
        }
    }
    let mut out = format!("name    = {}\nproto   = {}\n", quoted(&name), list(args.protos.iter().map(path)));
    if !includes.is_empty() {
        let _ = writeln!(out, "include = {}", list(includes.iter().map(path)));
    }
    let _ = writeln!(out, "ports   = {}", list(args.ports.iter().map(u16::to_string)));
    out.push_str("default = \"deny\"\n");
    out
}

const INTRODUCTION: &str = "\
# A policy to start from, written by `protocg init`: it allows every method that the protos describe, and nothing else.
# `protocg check` compiles it, `protocg test` tries calls on it, `protocg run` enforces it. Deny rules come before allow rules,
# wherever they stand. Below each service is an example of one: remove the `# ` before its lines.

";

const HEALTH: &str = "
# Health checks and reflection are services too:
#
# [[allow]]
# name    = \"health-and-reflection\"
# methods = [\"/grpc.health.v1.Health/*\", \"/grpc.reflection.v1.ServerReflection/*\"]
";

const AUDIT: &str = "\
# Nothing is denied yet: events only say what would be. Remove this line when they say what you want.
mode    = \"audit\"
";

fn policy(head: &str, study: &Study) -> String {
    let mut out = format!("{INTRODUCTION}{head}{AUDIT}");
    let mut services: Vec<ServiceDescriptor> = study.pool().services().collect();
    services.sort_by(|a, b| a.full_name().cmp(b.full_name()));
    for service in services.iter().filter(|service| service.methods().len() > 0) {
        rule(&mut out, service);
    }
    if services.is_empty() {
        let example = "# [[allow]]\n# name    = \"everything\"\n";
        let _ = write!(
            out,
            "\n# The protos describe no service. A rule without `methods` is for all methods:\n#\n{example}"
        );
    }
    if !services.iter().any(|service| service.full_name().starts_with("grpc.")) {
        out.push_str(HEALTH);
    }
    out
}

fn rule(out: &mut String, service: &ServiceDescriptor) {
    let name = service.full_name();
    // a rule's name has at most 100 bytes
    let short = name.get(name.len().saturating_sub(100)..).unwrap_or("service");
    let _ = writeln!(out, "\n# ---- {name} ----\n\n[[allow]]\nname    = {}\nmethods = [", quoted(short));
    for method in service.methods() {
        let _ = writeln!(out, "    {}, # {}", quoted(&format!("/{name}/{}", method.name())), request(&method));
    }
    out.push_str("]\n");
    let example = service.methods().find_map(|method| Some((method.clone(), example(&method)?)));
    if let Some((method, (what, when))) = example {
        let rule = name_of(&format!("{}-{what}", method.name()));
        let path = quoted(&format!("/{name}/{}", method.name()));
        let _ = write!(
            out,
            "\n# [[deny]]\n# name    = \"{rule}\"\n# methods = [{path}]\n# when    = '{when}'\n# status  = \"INVALID_ARGUMENT\"\n# message = \"{what} is not accepted\"\n",
        );
    }
}

/// What a request has, in a comment's length.
fn request(method: &MethodDescriptor) -> String {
    const SOME: usize = 4;
    let input = method.input();
    let field = |field: FieldDescriptor| {
        let kind = match field.kind() {
            Kind::Message(of) => of.name().to_owned(),
            Kind::Enum(of) => of.name().to_owned(),
            kind => format!("{kind:?}").to_lowercase(),
        };
        match (field.is_map(), field.is_list()) {
            (true, _) => format!("{} (map)", field.name()),
            (_, true) => format!("{} (repeated {kind})", field.name()),
            _ => format!("{} ({kind})", field.name()),
        }
    };
    let mut fields: Vec<String> = input.fields().take(SOME).map(field).collect();
    if input.fields().len() > SOME {
        fields.push("...".to_owned());
    }
    let stream = if method.is_client_streaming() { "a stream of " } else { "" };
    let fields = if fields.is_empty() { "no fields".to_owned() } else { fields.join(", ") };
    format!("{stream}{}: {fields}", input.name())
}

/// A condition on a field of a request, and the field's name.
fn example(method: &MethodDescriptor) -> Option<(String, String)> {
    let input = method.input();
    let single = |field: &FieldDescriptor| !field.is_list() && !field.is_map() && !field.is_group();
    let of = |wanted: fn(&Kind) -> bool| input.fields().find(|field| single(field) && wanted(&field.kind()));
    let condition = |field: Option<FieldDescriptor>, write: fn(&str) -> String| {
        field.map(|field| (field.name().to_owned(), write(&format!("request.{}", field.name()))))
    };
    condition(of(|kind| matches!(kind, Kind::String)), |name| format!("size({name}) > 256 || {name}.contains(\"..\")"))
        .or_else(|| condition(of(|kind| matches!(kind, Kind::Bytes)), |name| format!("size({name}) > 1024")))
        .or_else(|| {
            condition(of(|kind| matches!(kind, Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64)), |name| {
                format!("{name} > 1000")
            })
        })
        .or_else(|| condition(of(|kind| matches!(kind, Kind::Bool)), |name| name.to_owned()))
}
