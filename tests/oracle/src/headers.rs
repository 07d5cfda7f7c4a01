//! A request's header fields: what RFC 9113 (section 8) and gRPC ask of them.

use crate::conversation::Cause;
use crate::hpack::Field;

/// The longest path that is told apart.
pub const PATH_BYTES: usize = 1024;

const CONNECTION: [&[u8]; 5] = [b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"];
const PSEUDO: [&[u8]; 5] = [b":path", b":method", b":scheme", b":authority", b":status"];

fn token(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.!#$%&'*+^`|~".contains(&byte)
}

fn name_is_sound(name: &[u8]) -> bool {
    let rest = name.strip_prefix(b":").unwrap_or(name);
    !name.is_empty() && rest.iter().all(|byte| token(*byte)) && (rest.len() == name.len() || PSEUDO.contains(&name))
}

/// No NUL, CR or LF, and no spaces at the ends. Where both sides have agreed on it, gRPC's binary metadata is NUL and any bytes.
fn value_is_sound(name: &[u8], value: &[u8]) -> bool {
    if name.ends_with(b"-bin") && value.first() == Some(&0) {
        return true;
    }
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    !value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) && !space(value.first()) && !space(value.last())
}

/// `/` service `/` method, and nothing that a server might decode or cut off. What is wrong first counts.
fn path_is_sound(path: &[u8]) -> Result<(), Cause> {
    let odd = |byte: &u8| *byte <= b' ' || *byte >= 0x7f || matches!(byte, b'?' | b'#' | b'%');
    let within = &path[..path.len().min(PATH_BYTES)];
    let twice = within.windows(2).any(|two| two == b"//");
    let began = within.first().is_none_or(|byte| *byte == b'/');
    if within.iter().any(odd) || twice || !began {
        return Err(Cause::Malformed);
    }
    if path.len() > PATH_BYTES {
        return Err(if matches!(path[PATH_BYTES], 0 | b'\r' | b'\n') { Cause::Malformed } else { Cause::TooLarge });
    }
    let slashes = path.iter().filter(|byte| **byte == b'/').count();
    if slashes != 2 || path.ends_with(b"/") { Err(Cause::Malformed) } else { Ok(()) }
}

fn field_is_sound((name, value): &Field) -> Result<(), Cause> {
    if !name_is_sound(name) {
        return Err(Cause::Malformed);
    }
    if name == b":path" {
        path_is_sound(value)?;
    }
    if value_is_sound(name, value) { Ok(()) } else { Err(Cause::Malformed) }
}

fn is_grpc(value: &[u8]) -> bool {
    let value = value.to_ascii_lowercase();
    match value.strip_prefix(b"application/grpc") {
        Some([]) => true,
        Some([next, rest @ ..]) => matches!(next, b'+' | b';') && std::str::from_utf8(rest).is_ok(),
        None => false,
    }
}

/// The path of a request's header block, or what is wrong with the block.
pub fn request(fields: &[Field]) -> Result<&[u8], Cause> {
    let mut seen: Vec<&[u8]> = Vec::new();
    let mut regular = false;
    for field in fields {
        field_is_sound(field)?;
        let name = field.0.as_slice();
        if CONNECTION.contains(&name) || name == b":status" {
            return Err(Cause::Malformed);
        }
        if PSEUDO.contains(&name) {
            if regular || seen.contains(&name) {
                return Err(Cause::Malformed);
            }
            seen.push(name);
        } else {
            regular = true;
        }
    }
    let needed: [&[u8]; 3] = [b":path", b":method", b":scheme"];
    let mut types = fields.iter().filter(|(name, _)| name == b"content-type").peekable();
    if needed.iter().any(|name| !seen.contains(name))
        || types.peek().is_none()
        || types.any(|(_, value)| !is_grpc(value))
    {
        return Err(Cause::Malformed);
    }
    Ok(fields.iter().find(|(name, _)| name == b":path").map_or(&[], |(_, path)| path))
}
