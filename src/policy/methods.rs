//! Stage 5, rules to methods: which rules each method has, and the tables of them all.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost_reflect::{MessageDescriptor, MethodDescriptor};

use super::cel::Side;
use super::decide::Bit;
use super::err::Warning;
use super::file::File;
use super::header::{self, Header};
use super::limit::{self, Limit};
use super::needs::Needs;
use super::plan::{self, Size};
use super::resolve::{Pattern, Protos};
use super::rule::{Decides, Rule};
use super::scope::Layout;
use super::tables::{Assembly, Input, Refusal, Tables};
use super::trie::Ends;
use super::{Action, Direction, MethodInfo, Mode};
use crate::abi;

/// The message scope's first word (`PG_MESSAGE_WORD`): the scopes are equally long.
const MESSAGE_WORD: u32 = abi::PG_MAX_SCOPE_WORDS;

/// The tables, and what else is known of them.
pub struct Built {
    pub tables: Tables,
    pub methods: Vec<MethodInfo>,
    pub sizes: HashMap<Input, Size>,
    pub header_predicates: usize,
    pub message_predicates: usize,
    pub layouts: Layouts,
}

/// Where predicate results are: of headers, and of messages by the first of their tests.
pub struct Layouts {
    pub header: Layout,
    pub message: HashMap<u32, Layout>,
}

/// The rules by the patterns that they name.
struct Cover<'a> {
    exact: HashMap<&'a str, Vec<usize>>,
    prefix: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Cover<'a> {
    fn new(rules: &'a [Rule]) -> Cover<'a> {
        let mut cover = Cover { exact: HashMap::new(), prefix: HashMap::new() };
        for (i, rule) in rules.iter().enumerate() {
            for pattern in &rule.patterns {
                match pattern {
                    Pattern::Exact(path) => cover.exact.entry(path).or_default().push(i),
                    Pattern::Prefix(prefix) => cover.prefix.entry(prefix).or_default().push(i),
                }
            }
        }
        cover
    }

    /// The rules that cover all paths that begin with `text`, and (if `exact`) the path itself; in file order.
    fn rules(&self, text: &str, exact: bool) -> Vec<usize> {
        let ends = text.char_indices().filter(|(_, c)| matches!(c, '/' | '.')).map(|(i, _)| i + 1);
        let stems = std::iter::once(0).chain(ends).filter_map(|end| text.get(..end));
        let mut rules: Vec<usize> = stems.filter_map(|stem| self.prefix.get(stem)).flatten().copied().collect();
        if exact {
            rules.extend(self.exact.get(text).into_iter().flatten());
        }
        rules.sort_unstable();
        rules.dedup();
        rules
    }
}

/// What rules on the message give a method: shared by all with the same request and rules.
#[derive(Clone, Copy, Default)]
struct OnMessage {
    first: u32,
    count: u32,
    plan: u32,
    init: u32,
}

struct Builder<'a> {
    file: &'a File,
    rules: &'a [Rule],
    protos: &'a Protos,
    tables: Assembly,
    header: Header,
    known_header: HashMap<Vec<usize>, (u32, u32)>,
    known_message: HashMap<(String, Vec<usize>), OnMessage>,
    layouts: HashMap<u32, Layout>,
    message_predicates: usize,
}

fn index(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Makes the tables of a policy.
pub fn build(file: &File, rules: &[Rule], protos: &Protos, warnings: &mut Vec<Warning>) -> Result<Built, Refusal> {
    let mut tables = Assembly::new(!file.allowed_causes.contains(&abi::PG_CAUSE_AMBIGUOUS));
    let decisions: Vec<_> = rules.iter().flat_map(Rule::decisions).collect();
    let bits: BTreeSet<&Bit> = decisions.iter().flat_map(|it| it.bits()).filter(|bit| !bit.in_message()).collect();
    let limits: Vec<&Limit> = file.rules.iter().filter_map(|rule| rule.limit.as_ref()).collect();
    let counted: Vec<&str> = limit::keys(&limits)?;
    let header = header::add(&mut tables, &bits, &counted)?;
    let cover = Cover::new(rules);
    let mut builder = Builder {
        file,
        rules,
        protos,
        tables,
        header,
        known_header: HashMap::new(),
        known_message: HashMap::new(),
        layouts: HashMap::new(),
        message_predicates: 0,
    };

    let mut infos = vec![MethodInfo { path: None, exact: false, response: false }];
    let mut methods = vec![builder.method(&cover.rules("", false), None)?];
    let mut responses = Vec::new();
    let mut paths: BTreeMap<Vec<u8>, Ends> = BTreeMap::new();
    let prefixes: BTreeSet<&str> = cover.prefix.keys().copied().filter(|prefix| !prefix.is_empty()).collect();
    for prefix in prefixes {
        paths.entry(prefix.as_bytes().to_vec()).or_default().prefix = index(methods.len()) + 1;
        infos.push(MethodInfo { path: Some(format!("{prefix}*")), exact: false, response: false });
        methods.push(builder.method(&cover.rules(prefix, false), None)?);
    }
    let named: BTreeSet<&str> = cover.exact.keys().copied().collect();
    let described = protos.methods.iter().map(|(path, _)| path.as_str()).filter(|path| !named.contains(path));
    for path in named.iter().copied().chain(described) {
        if methods.len() + responses.len() >= abi::PG_MAX_METHODS as usize {
            let most = abi::PG_MAX_METHODS;
            return Err(Refusal::whole(format!("rules and protos name more than {most} methods (limit METHODS)")));
        }
        paths.entry(path.as_bytes().to_vec()).or_default().exact = index(methods.len()) + 1;
        infos.push(MethodInfo { path: Some(path.to_owned()), exact: true, response: false });
        let (covering, described) = (cover.rules(path, true), protos.method(path));
        responses.extend(builder.response(&covering, described)?.map(|row| (methods.len(), row)));
        methods.push(builder.method(&covering, described)?);
    }
    let reads_responses = !responses.is_empty();
    for (of, row) in responses {
        let own = index(methods.len());
        infos.extend(infos.get(of).cloned().map(|info| MethodInfo { response: true, ..info }));
        methods.extend([row]);
        methods.get_mut(of).into_iter().for_each(|method| method.response = own);
    }
    warn_unknown(file, &cover, rules, protos, warnings);

    let Builder { mut tables, header, message_predicates, layouts, .. } = builder;
    let path_root = tables.tries.add(&paths);
    let config = abi::pg_config {
        responses: u32::from(reads_responses),
        limits: u32::from(!limits.is_empty()),
        ..config(file, &header, path_root)
    };
    let mut limit = 0..;
    let entries = file.rules.iter().map(|rule| abi::pg_rule {
        action: rule.action.abi(),
        status: rule.status,
        flags: if rule.audit { abi::PG_RULE_AUDIT } else { 0 },
        limit: rule.limit.as_ref().and_then(|_| limit.next()).unwrap_or(0),
    });
    let rows = limits.iter().map(|limit| limit.row(&counted)).collect();
    let sizes = std::mem::take(&mut tables.sizes);
    let tables = tables.finish(config, methods, entries.collect(), header.keys, header.peers, rows);
    let layouts = Layouts { header: header.layout, message: layouts };
    Ok(Built { tables, methods: infos, sizes, header_predicates: bits.len(), message_predicates, layouts })
}

impl Builder<'_> {
    /// Deny rules first, then allow rules, each in file order; of those that read this message, or none.
    fn ordered(&self, rules: &[usize], side: Option<Side>) -> Vec<usize> {
        let of = |action| {
            rules
                .iter()
                .copied()
                .filter(move |i| self.rules.get(*i).is_some_and(|rule| rule.action == action && rule.side() == side))
        };
        of(Action::Deny).chain(of(Action::Allow)).collect()
    }

    /// The entry for a method's responses, if rules read them.
    fn response(
        &mut self,
        covering: &[usize],
        described: Option<&MethodDescriptor>,
    ) -> Result<Option<abi::pg_method>, Refusal> {
        let rules = self.ordered(covering, Some(Side::Response));
        let Some(message) = described.map(MethodDescriptor::output).filter(|_| !rules.is_empty()) else {
            return Ok(None);
        };
        let part = self.on_message(&message, rules)?;
        if part.count > abi::PG_MAX_CLAUSE_TESTS {
            return Err(too_many_tests());
        }
        Ok(Some(abi::pg_method {
            flags: abi::PG_METHOD_MESSAGES,
            message_test: part.first,
            message_tests: part.count,
            plan: part.plan,
            init: part.init,
            ..Default::default()
        }))
    }

    fn method(&mut self, covering: &[usize], described: Option<&MethodDescriptor>) -> Result<abi::pg_method, Refusal> {
        let on_header = self.ordered(covering, None);
        let mut on_message = self.ordered(covering, Some(Side::Request));
        let reads_response = !self.ordered(covering, Some(Side::Response)).is_empty();
        if let Some(request) = described.map(MethodDescriptor::input) {
            // a constraint is of one message
            on_message.retain(|i| self.rules.get(*i).is_some_and(|rule| rule.on(request.full_name()).is_some()));
        }
        let allows = |i: &usize| self.rules.get(*i).is_some_and(|rule| rule.action == Action::Allow);
        let mut method =
            abi::pg_method { allow_messages: u32::from(on_message.iter().any(allows)), ..Default::default() };
        (method.header_test, method.header_tests) = self.header_tests(on_header);
        let limits =
            covering.iter().copied().filter(|i| self.rules.get(*i).is_some_and(|it| it.action == Action::Limit));
        let limits: Vec<usize> = limits.collect();
        if limits.len() > abi::PG_MAX_METHOD_LIMITS as usize {
            let most = abi::PG_MAX_METHOD_LIMITS;
            return Err(Refusal::whole(format!("more than {most} limits apply to one method (limit METHOD_LIMITS)")));
        }
        (method.limit_test, method.limit_tests) = self.header_tests(limits);
        if described.is_some_and(|m| !m.is_client_streaming()) {
            method.flags |= abi::PG_METHOD_UNARY;
        }
        match described.map(MethodDescriptor::input) {
            Some(request) if !on_message.is_empty() => {
                let part = self.on_message(&request, on_message)?;
                method.flags |= abi::PG_METHOD_MESSAGES;
                method.message_test = part.first;
                method.message_tests = part.count;
                (method.plan, method.init) = (part.plan, part.init);
            }
            Some(_) => {}
            None if !on_message.is_empty() || reads_response => method.flags |= abi::PG_METHOD_UNKNOWN,
            None => {}
        }
        if self.is_refused(covering) {
            method.flags |= abi::PG_METHOD_REFUSED;
        }
        if method.header_tests + method.message_tests + method.limit_tests > abi::PG_MAX_CLAUSE_TESTS {
            return Err(too_many_tests());
        }
        Ok(method)
    }

    /// Whether every call is denied, whatever its metadata and its messages: by a rule without condition, or because
    /// no rule allows any.
    fn is_refused(&self, covering: &[usize]) -> bool {
        let denies = |i: &usize| {
            let audit = self.file.rules.get(*i).is_none_or(|rule| rule.audit);
            self.rules.get(*i).is_some_and(|rule| !audit && rule.action == Action::Deny && rule.is_unconditional())
        };
        let allows = |i: &usize| self.rules.get(*i).is_some_and(|rule| rule.action == Action::Allow);
        covering.iter().any(denies) || (self.file.default == Action::Deny && !covering.iter().any(allows))
    }

    fn header_tests(&mut self, rules: Vec<usize>) -> (u32, u32) {
        if rules.is_empty() {
            return (0, 0);
        }
        if let Some(known) = self.known_header.get(&rules) {
            return *known;
        }
        let first = index(self.tables.tests.len());
        let none = Layout::default();
        for i in &rules {
            if let Some(Decides::OnHeader(decision)) = self.rules.get(*i).map(|rule| &rule.decides) {
                self.tables.rule_tests(*i, &decision.clauses, &self.header.layout, &none);
            }
        }
        let known = (first, index(self.tables.tests.len()) - first);
        self.known_header.insert(rules, known);
        known
    }

    fn on_message(&mut self, request: &MessageDescriptor, rules: Vec<usize>) -> Result<OnMessage, Refusal> {
        let key = (request.full_name().to_owned(), rules);
        if let Some(known) = self.known_message.get(&key) {
            return Ok(*known);
        }
        let decisions: Vec<_> = key.1.iter().filter_map(|i| Some((*i, self.rules.get(*i)?.on(&key.0)?))).collect();
        let bits: BTreeSet<&Bit> =
            decisions.iter().flat_map(|(_, it)| it.bits()).filter(|bit| bit.in_message()).collect();
        let bits: Vec<&Bit> = bits.into_iter().collect();
        let needs = Needs::new(&bits);
        self.message_predicates = self.message_predicates.max(needs.predicates());
        let layout = Layout::of(needs.groups(), MESSAGE_WORD).ok_or_else(|| {
            Refusal::whole(format!("rules test `{}` more than 1024 times (limit SCOPE_WORDS)", request.full_name()))
        })?;
        let (plan, init) = plan::add(&mut self.tables, request, &self.protos.closed, &needs, &layout)?;
        let first = index(self.tables.tests.len());
        for (i, decision) in decisions {
            self.tables.rule_tests(i, &decision.clauses, &self.header.layout, &layout);
        }
        let count = index(self.tables.tests.len()) - first;
        let part = OnMessage { first, count, plan, init };
        self.layouts.insert(first, layout);
        self.known_message.insert(key, part);
        Ok(part)
    }
}

fn too_many_tests() -> Refusal {
    let most = abi::PG_MAX_CLAUSE_TESTS;
    Refusal::whole(format!(
        "the rules of one method need more than {most} tests (limit CLAUSE_TESTS): name methods in their rules"
    ))
}

/// Health checks and reflection stop working where a rule on messages covers them and no proto describes them.
fn warn_unknown(file: &File, cover: &Cover<'_>, rules: &[Rule], protos: &Protos, warnings: &mut Vec<Warning>) {
    if file.allowed_causes.contains(&abi::PG_CAUSE_UNKNOWN_METHOD) {
        return;
    }
    let services = [
        ("/grpc.health.v1.Health/Check", "health checks (grpc.health.v1.Health)"),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "reflection (grpc.reflection.v1)"),
    ];
    for (path, what) in services {
        let covering = cover.rules(path, true);
        let rule = covering.iter().find(|i| rules.get(**i).is_some_and(|rule| rule.side().is_some()));
        if let (Some(rule), None) = (rule, protos.method(path)) {
            warnings.push(Warning {
                rule: file.rules.get(*rule).map(|rule| rule.name.get_ref().clone()),
                message: format!("it covers {what}, which no proto describes: denied as unknown_method"),
            });
        }
    }
}

fn config(file: &File, header: &Header, path_root: u32) -> abi::pg_config {
    let mut config = abi::pg_config {
        generation: 0,
        direction: match file.direction {
            Direction::Ingress => abi::PG_INGRESS,
            Direction::Egress => abi::PG_EGRESS,
        },
        audit: u32::from(file.mode == Mode::Audit),
        default_action: file.default.abi(),
        events_allowed: 0,
        path_root,
        name_root: header.name_root,
        peer_tests: index(header.peers.len()),
        port_bound: header.port.0,
        port_bounds: header.port.1,
        peer_init: 0,
        responses: 0,
        tls: 0,
        limits: 0,
        elements: 0,
        packed: 0,
        audits: 0,
        reserved: 0,
        cause: [0; 16],
        fixed: header.fixed,
        ports: [0; 1024],
    };
    for (cause, switch) in config.cause.iter_mut().enumerate() {
        let allowed = file.allowed_causes.contains(&index(cause));
        *switch = u8::try_from(if allowed { abi::PG_SWITCH_ALLOW } else { abi::PG_SWITCH_DENY }).unwrap_or(0);
    }
    for (first, last) in file.ports.ranges() {
        for port in first..=last {
            if let Some(word) = config.ports.get_mut(usize::from(port / 64)) {
                *word |= 1 << (port % 64);
            }
        }
    }
    config
}
