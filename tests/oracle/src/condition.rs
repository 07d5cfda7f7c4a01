//! Conditions on a request, as a policy says them and as Rust evaluates them.

/// A condition on a request.
#[derive(Debug, Clone)]
pub enum Cond {
    And(Box<Cond>, Box<Cond>),
    Or(Box<Cond>, Box<Cond>),
    Not(Box<Cond>),
    Has(&'static str),
    True(&'static str),
    Whole(&'static str, &'static str, i128),
    Real(&'static str, &'static str, f64),
    Text(&'static str, &'static str, String),
    Size(&'static str, &'static str, usize),
}

/// What a scalar is; texts and bytes as bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    Bool(bool),
    Whole(i128),
    Real(f64),
    Bytes(Vec<u8>),
}

impl Cond {
    /// As a policy says it.
    pub fn show(&self) -> String {
        match self {
            Cond::And(a, b) => format!("({}) && ({})", a.show(), b.show()),
            Cond::Or(a, b) => format!("({}) || ({})", a.show(), b.show()),
            Cond::Not(a) => format!("!({})", a.show()),
            Cond::Has(path) => format!("has(request.{path})"),
            Cond::True(path) => format!("request.{path}"),
            Cond::Whole(path, op, value) => {
                let unsigned = ["u32", "u64", "f32", "f64"].contains(path);
                format!("request.{path} {op} {value}{}", if unsigned { "u" } else { "" })
            }
            Cond::Real(path, op, value) => format!("request.{path} {op} {value:?}"),
            Cond::Text("payload", "==", value) => format!("request.payload == b{value:?}"),
            Cond::Text("payload", op, value) => format!("request.payload.{op}(b{value:?})"),
            Cond::Text(path, "==", value) => format!("request.{path} == {value:?}"),
            Cond::Text(path, op, value) => format!("request.{path}.{op}({value:?})"),
            Cond::Size(path, op, value) => format!("size(request.{path}) {op} {value}"),
        }
    }

    /// The fields that it reads.
    pub fn paths(&self, out: &mut Vec<&'static str>) {
        match self {
            Cond::And(a, b) | Cond::Or(a, b) => {
                a.paths(out);
                b.paths(out);
            }
            Cond::Not(a) => a.paths(out),
            Cond::Has(path)
            | Cond::True(path)
            | Cond::Whole(path, ..)
            | Cond::Real(path, ..)
            | Cond::Text(path, ..)
            | Cond::Size(path, ..) => out.push(path),
        }
    }

    /// Whether it holds, where `get` says a field's value and whether it is set.
    pub fn holds(&self, get: &dyn Fn(&str) -> (Scalar, bool)) -> bool {
        fn compare<T: PartialOrd>(op: &str, a: T, b: T) -> bool {
            match op {
                "==" => a == b,
                "!=" => a != b,
                "<" => a < b,
                "<=" => a <= b,
                ">" => a > b,
                ">=" => a >= b,
                _ => panic!("{op}"),
            }
        }
        match self {
            Cond::And(a, b) => a.holds(get) && b.holds(get),
            Cond::Or(a, b) => a.holds(get) || b.holds(get),
            Cond::Not(a) => !a.holds(get),
            Cond::Has(path) => get(path).1,
            Cond::True(path) => get(path).0 == Scalar::Bool(true),
            Cond::Whole(path, op, b) => matches!(get(path).0, Scalar::Whole(a) if compare(op, a, *b)),
            Cond::Real(path, op, b) => matches!(get(path).0, Scalar::Real(a) if compare(op, a, *b)),
            Cond::Text(path, op, b) => {
                let Scalar::Bytes(a) = get(path).0 else { panic!("{path}") };
                let b = b.as_bytes();
                match *op {
                    "==" => a == b,
                    "startsWith" => a.starts_with(b),
                    "endsWith" => a.ends_with(b),
                    "contains" => b.is_empty() || a.windows(b.len()).any(|window| window == b),
                    _ => panic!("{op}"),
                }
            }
            Cond::Size(path, op, b) => {
                let Scalar::Bytes(a) = get(path).0 else { panic!("{path}") };
                let size = if *path == "payload" { a.len() } else { String::from_utf8(a).unwrap().chars().count() };
                compare(op, size, *b)
            }
        }
    }
}
