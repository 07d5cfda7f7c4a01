//! Stage 2, file to descriptors: what the names in a policy stand for. Protos, method patterns, address blocks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_reflect::prost_types::FileDescriptorSet;
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};
use toml::Spanned;

use super::cel::Side;
use super::editions::{self, Closed};
use super::err::Fault;
use super::file::File;
use super::validate;

/// The longest proto source or descriptor set that is read.
const PROTO_BYTES: u64 = 64 << 20;

/// Everything that the protos of a policy describe.
#[derive(Debug)]
pub struct Protos {
    pub pool: DescriptorPool,
    pub closed: Closed,
    /// Every method, by path, sorted: `/pkg.Service/Method`.
    pub methods: Vec<(String, MethodDescriptor)>,
    by_path: HashMap<String, usize>,
    /// A file with constraints that were not read: options do not survive that editions are said in other words.
    pub unread: Option<String>,
}

impl Protos {
    /// A method.
    pub fn method(&self, path: &str) -> Option<&MethodDescriptor> {
        self.methods.get(*self.by_path.get(path)?).map(|(_, method)| method)
    }

    /// The request or response of a method.
    pub fn message(&self, path: &str, side: Side) -> Option<MessageDescriptor> {
        self.method(path).map(|method| message(method, side))
    }

    /// The methods whose path begins so.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a (String, MethodDescriptor)> {
        let start = self.methods.partition_point(|(path, _)| path.as_str() < prefix);
        self.methods.iter().skip(start).take_while(move |(path, _)| path.starts_with(prefix))
    }
}

/// The request or response of a method.
pub fn message(method: &MethodDescriptor, side: Side) -> MessageDescriptor {
    match side {
        Side::Request => method.input(),
        Side::Response => method.output(),
    }
}

/// Reads the protos that a policy names; `base` is the policy's folder.
pub fn protos(file: &File, base: &Path) -> Result<Protos, Vec<Fault>> {
    let mut faults = Vec::new();
    let (sets, sources): (Vec<_>, Vec<_>) = file.proto.iter().partition(|path| is_set(path.get_ref()));
    let (mut pool, mut closed, mut unread) = (DescriptorPool::new(), Closed::default(), None);
    match compile_sources(&sources, file, base) {
        Ok(compiled) => pool = compiled,
        Err(fault) => faults.push(fault),
    }
    for path in sets {
        if let Err(fault) = add_set(&mut pool, &mut closed, &mut unread, path, base) {
            faults.push(fault);
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut methods: Vec<(String, MethodDescriptor)> = pool
        .services()
        .flat_map(|service| {
            let name = service.full_name().to_owned();
            service.methods().map(|method| (format!("/{name}/{}", method.name()), method)).collect::<Vec<_>>()
        })
        .collect();
    methods.sort_by(|(a, _), (b, _)| a.cmp(b));
    let by_path = methods.iter().enumerate().map(|(i, (path, _))| (path.clone(), i)).collect();
    Ok(Protos { pool, closed, methods, by_path, unread })
}

fn is_set(path: &str) -> bool {
    [".binpb", ".pb", ".protoset", ".desc"].iter().any(|end| path.ends_with(end))
}

fn check_file(path: &Path, place: &Spanned<String>) -> Result<(), Fault> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| Fault::at(place.span(), format!("cannot read `{}`: {error}", path.display())))?;
    if !metadata.is_file() {
        return Err(Fault::at(place.span(), format!("`{}` is not a file", path.display())));
    }
    if metadata.len() > PROTO_BYTES {
        return Err(Fault::at(place.span(), format!("`{}` is larger than {PROTO_BYTES} bytes", path.display())));
    }
    Ok(())
}

fn compile_sources(sources: &[&Spanned<String>], file: &File, base: &Path) -> Result<DescriptorPool, Fault> {
    let Some(first) = sources.first() else { return Ok(DescriptorPool::new()) };
    let mut roots: Vec<PathBuf> = Vec::new();
    for root in file.include.iter().flatten() {
        let path = base.join(root.get_ref());
        if !path.is_dir() {
            return Err(Fault::at(root.span(), format!("the import root `{}` is not a folder", path.display())));
        }
        roots.push(path);
    }
    if !roots.iter().any(|root| root == base) {
        roots.push(base.to_path_buf());
    }
    let whole = |error: protox::Error, place: &Spanned<String>| {
        let help = if error.is_file_not_found() {
            "proto paths are relative to the policy's folder, imports to the `include` roots"
        } else {
            "protoc or buf would refuse it too; fix the proto"
        };
        Fault::at(place.span(), format!("cannot compile `{}`: {error:?}", place.get_ref())).help(help)
    };
    let mut compiler = protox::Compiler::new(&roots).map_err(|error| whole(error, first))?;
    for source in sources {
        let beside = base.join(source.get_ref());
        let path = if beside.exists() {
            check_file(&beside, source)?;
            beside
        } else if roots.iter().any(|root| root.join(source.get_ref()).exists()) {
            PathBuf::from(source.get_ref()) // a name in an include root
        } else {
            let message = format!("`{}` is neither in the policy's folder nor in an import root", source.get_ref());
            return Err(Fault::at(source.span(), message));
        };
        compiler.open_file(path).map_err(|error| {
            let fault = whole(error, source);
            match is_edition(&base.join(source.get_ref())) {
                true => fault.help("of editions descriptor sets are read: compile it with protoc or buf to a .binpb"),
                false => fault,
            }
        })?;
    }
    Ok(compiler.descriptor_pool())
}

/// Whether a source says that it is of an edition.
fn is_edition(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line.trim_start().starts_with("edition")))
}

fn add_set(
    pool: &mut DescriptorPool,
    closed: &mut Closed,
    unread: &mut Option<String>,
    place: &Spanned<String>,
    base: &Path,
) -> Result<(), Fault> {
    let path = base.join(place.get_ref());
    check_file(&path, place)?;
    let bytes = std::fs::read(&path)
        .map_err(|error| Fault::at(place.span(), format!("cannot read `{}`: {error}", path.display())))?;
    let mut set = FileDescriptorSet::decode(bytes.as_slice()).map_err(|error| {
        Fault::at(place.span(), format!("`{}` is not a FileDescriptorSet: {error}", path.display()))
            .help("make one with `protoc --include_imports --descriptor_set_out` or `buf build -o policy.binpb`")
    })?;
    let known: Vec<_> = set.file.iter().filter_map(|file| file.name.clone()).collect();
    for file in &set.file {
        let imported =
            file.dependency.iter().find(|import| !known.contains(import) && pool.get_file_by_name(import).is_none());
        if let Some(import) = imported {
            let message = format!("`{}` lacks `{import}`, which `{}` imports", path.display(), file.name());
            return Err(Fault::at(place.span(), message)
                .help("compile it with its imports: `protoc --include_imports`, or `buf build`"));
        }
    }
    let of_editions = set.file.iter().any(|file| file.syntax() == "editions");
    editions::lower(&mut set, &bytes, closed)
        .map_err(|error| Fault::at(place.span(), format!("cannot use `{}`: {error}", path.display())))?;
    let added = if of_editions {
        let constrained = set.file.iter().find(|file| file.dependency.iter().any(|import| import == validate::FILE));
        *unread = unread.take().or(constrained.map(|file| file.name().to_owned()));
        pool.add_file_descriptor_set(set)
    } else {
        pool.decode_file_descriptor_set(bytes.as_slice())
    };
    added.map_err(|error| Fault::at(place.span(), format!("cannot use `{}`: {error:?}", path.display())))
}

/// What a rule says of methods.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `/package.Service/Method`
    Exact(String),
    /// The text before the `*`; empty for `*` itself.
    Prefix(String),
}

/// Reads an entry of `methods`.
pub fn pattern(text: &Spanned<String>) -> Result<Pattern, Fault> {
    let path = text.get_ref();
    if path == "*" {
        return Ok(Pattern::Prefix(String::new()));
    }
    let fault = |message: String| {
        Err(Fault::at(text.span(), message)
            .help("write `/package.Service/Method`, `/package.Service/*`, `/package.*` or `*`"))
    };
    let (stem, star) = path.strip_suffix('*').map_or((path.as_str(), false), |stem| (stem, true));
    if stem.contains('*') {
        return fault(format!("`{path}` has a `*` that is not at its end"));
    }
    if stem.bytes().any(|b| matches!(b, b'?' | b'#' | b'%') || !b.is_ascii_graphic()) {
        return fault(format!("`{path}` has a character that no method path has"));
    }
    if path.len() > crate::abi::PG_MAX_PATH_BYTES as usize {
        return fault(format!("a path is longer than {} bytes (limit PATH_BYTES)", crate::abi::PG_MAX_PATH_BYTES));
    }
    let Some(rest) = stem.strip_prefix('/') else { return fault(format!("`{path}` does not begin with `/`")) };
    if !star {
        return match rest.split_once('/') {
            Some((service, method)) if !service.is_empty() && !method.is_empty() && !method.contains('/') => {
                Ok(Pattern::Exact(path.clone()))
            }
            _ => fault(format!("`{path}` is not `/` service `/` method")),
        };
    }
    if !stem.ends_with(['/', '.']) {
        return fault(format!("the `*` of `{path}` does not stand right after a `/` or `.`"));
    }
    if rest.starts_with('/') || rest.matches('/').count() > 1 {
        return fault(format!("`{path}` covers no path: `/` service `/` method"));
    }
    Ok(Pattern::Prefix(stem.to_owned()))
}

/// An address block as the kernel compares it: IPv4 is `::ffff:0:0/96`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block {
    pub address: [u8; 16],
    pub mask: [u8; 16],
}

impl Block {
    fn new(address: [u8; 16], bits: u32) -> Block {
        let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
        Block { address, mask: mask.to_be_bytes() }
    }

    /// All of IPv4.
    pub fn v4() -> Block {
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
        Block::new(mapped, 96)
    }

    /// Whether it is an IPv6 block that IPv4's mapped addresses would fall into.
    pub fn holds_v4(&self) -> bool {
        let bits = u128::from_be_bytes(self.mask).leading_ones();
        bits < 96
            && u128::from_be_bytes(Block::v4().address) & u128::from_be_bytes(self.mask)
                == u128::from_be_bytes(self.address)
    }
}

fn mapped(address: IpAddr) -> ([u8; 16], u32) {
    match address {
        IpAddr::V4(address) => (address.to_ipv6_mapped().octets(), 96),
        IpAddr::V6(address) => (address.octets(), 0),
    }
}

/// Reads the text of `ip("...")`.
pub fn address(text: &str) -> Result<Block, String> {
    let address: IpAddr = text.parse().map_err(|_| format!("`{text}` is not an IP address"))?;
    Ok(Block::new(mapped(address).0, 128))
}

/// Reads the text of `cidr("...")`.
pub fn cidr(text: &str) -> Result<Block, String> {
    let wrong = || format!("`{text}` is not an address block like `10.0.0.0/8`");
    let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let (octets, base) = mapped(address);
    if bits.is_empty() || bits.len() > 3 || !bits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let bits: u32 = bits.parse().map_err(|_| wrong())?;
    if base + bits > 128 {
        return Err(format!("`{text}` has a prefix longer than its address"));
    }
    let block = Block::new(octets, base + bits);
    if u128::from_be_bytes(octets) & !u128::from_be_bytes(block.mask) != 0 {
        let kept = u128::from_be_bytes(octets) & u128::from_be_bytes(block.mask);
        let kept: IpAddr = std::net::Ipv6Addr::from(kept).into();
        let kept = if base == 96 { kept.to_canonical() } else { kept };
        return Err(format!("`{text}` has bits set past its prefix; write `{kept}/{bits}`"));
    }
    Ok(block)
}
