//! What a request's header block says: its path, pseudo-headers, content-type and metadata.

use protocg_peers::h2raw::{self, Headers, flag, frame, kind};

use crate::talk::{Talk, UNARY, Value, block, call_of, data, harmless, head, head_of, last};

const GRPC: [(&str, &str); 2] = [("te", "trailers"), ("content-type", "application/grpc")];

/// A call with these pseudo-headers and the usual fields behind them.
fn call(pseudo: &[(&str, &str)], more: &[(&str, &str)]) -> Talk {
    Talk::new(call_of(1, &block(&[pseudo, &GRPC, more].concat())))
}

fn path(path: &str) -> Talk {
    call(&[(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")], &[])
}

/// Calls with each of these paths, in which `*` is the value's.
fn paths(value: Value, forms: &[&str]) -> Vec<Talk> {
    forms.iter().map(|form| path(&form.replace('*', value.path()))).collect()
}

/// A call of an allowed method, with these fields behind the usual ones.
fn fields(more: &[(&str, &str)]) -> Talk {
    Talk::new([head(1, UNARY, more), last(1, &harmless())].concat())
}

/// A call of the value's method without `content-type` and `te`, with these fields instead.
fn other(value: Value, more: &[(&str, &str)]) -> Talk {
    let pseudo = [(":method", "POST"), (":scheme", "http"), (":path", value.path()), (":authority", "a")];
    Talk::new(call_of(1, &block(&[&pseudo, more].concat())))
}

attacks! {
    path_without_its_slash: "`echo.Echo/Slow` (CVE-2026-33186)",
        off "grpc-go: handler; grpcio: UNIMPLEMENTED; RST_STREAM PROTOCOL_ERROR", on "path", good "grpc-go: path; refused",
        |v| vec![path(&v.path()[1..])];
    path_with_a_query: "a query behind the path: empty, short, long, with slashes",
        off "tonic: handler; UNIMPLEMENTED", on "path", good "tonic: path; refused",
        |v| paths(v, &["*?", "*?x=1", "*?/a/b", "*?*"]);
    path_with_a_fragment: "a fragment behind the path",
        off "tonic: handler; UNIMPLEMENTED", on "path", good "tonic: path; refused",
        |v| paths(v, &["*#", "*#x", "*#/a"]);
    path_with_more_slashes: "a slash more at the beginning, in the middle or at the end",
        off "UNIMPLEMENTED", on "path", good "refused",
        |v| paths(v, &["/*", "//*", "*/", "*//", "*/x"]).into_iter().chain([path(&v.path().replace("Echo/", "Echo//"))]).collect();
    path_with_dots: "dot segments that a normalising server would take out",
        off "UNIMPLEMENTED", on "path", good "refused",
        |v| paths(v, &["/.*", "/x/..*", "/echo.Echo/x/../..*", "*/.", "/./echo.Echo/Slow"]);
    path_in_percent_encoding: "letters and slashes of the path percent-encoded",
        off "grpc-go: UNIMPLEMENTED; grpcio: UNIMPLEMENTED; RST_STREAM PROTOCOL_ERROR / UNIMPLEMENTED", on "path", good "refused",
        |v| ["/echo.Echo", "%2fecho.Echo", "/echo%2eEcho", "/%65cho.Echo"]
            .map(|service| path(&v.path().replace("/echo.Echo", service).replace("/S", "/%53").replace("/U", "/%55")))
            .to_vec();
    path_in_absolute_form: "`http://host/service/method`, `//host/...`, `host/...`",
        off "grpc-go: UNIMPLEMENTED; grpcio: UNIMPLEMENTED; RST_STREAM PROTOCOL_ERROR / UNIMPLEMENTED", on "path", good "refused",
        |v| paths(v, &["http://a*", "//a*", "a*", "a:80*", "http:*"]);
    path_with_foreign_bytes: "spaces, tabs, controls, bytes past ASCII, backslashes and semicolons around or in the path",
        off "grpcio: UNIMPLEMENTED; RST_STREAM PROTOCOL_ERROR / UNIMPLEMENTED", on "path / header_value", good "refused",
        |v| paths(v, &["* ", " *", "*\t", "*\u{1}", "*\u{7f}", "*\u{e4}", "*\0", "*\r", "*\n"]);
    path_of_another_case: "the path in capitals", off "UNIMPLEMENTED", on "passed", good "refused",
        |v| vec![path(&v.path().to_uppercase()), path(&v.path().to_lowercase())];
    path_with_a_parameter: "a semicolon or a backslash, which make it another method",
        off "UNIMPLEMENTED", on "unknown_method", good "refused",
        |v| paths(v, &["*;x=1", "*\\", "\\*"]).into_iter().take(2).collect();
    path_that_is_empty: "an empty path, `/`, `*`, `//`, and none at all",
        off "grpc-go: RESOURCE_EXHAUSTED / UNIMPLEMENTED; grpcio: CANCELLED / RST_STREAM INTERNAL_ERROR / UNIMPLEMENTED; RST_STREAM PROTOCOL_ERROR / UNIMPLEMENTED", on "path / pseudo_header", good "refused",
        |_| {
            let mut forms = ["", "/", "*", "//", "/echo.Echo", "/echo.Echo/"].map(path).to_vec();
            forms.push(call(&[(":method", "POST"), (":scheme", "http"), (":authority", "a")], &[]));
            forms
        };
    path_of_8_kib: "a path of 1,025 and 8,192 bytes that begins with the denied one",
        off "grpc-go: UNIMPLEMENTED; grpc-js: UNIMPLEMENTED; grpcio: UNIMPLEMENTED; UNIMPLEMENTED / handler", on "path / path_length", good "grpc-go: refused; grpc-js: refused; grpcio: refused; path",
        |v| [1025, 8192]
            .into_iter()
            .flat_map(|n| ["x", "/", "?"].map(|fill| path(&format!("{}{}", v.path(), fill.repeat(n - v.path().len())))))
            .collect();
    path_twice: "`:path` twice, the denied one first, last, or both",
        off "grpcio: handler / harmless; RST_STREAM PROTOCOL_ERROR", on "pseudo_header", good "grpcio: pseudo_header; refused",
        |v| [[v.path(), UNARY], [UNARY, v.path()], [v.path(), v.path()]]
            .map(|[one, two]| call(&[(":method", "POST"), (":path", one), (":scheme", "http"), (":authority", "a"), (":path", two)], &[]))
            .to_vec();
    path_behind_regular_headers: "`:path` behind `te`, at the end, or a second one there",
        off "grpcio: handler; RST_STREAM PROTOCOL_ERROR", on "pseudo_header", good "grpcio: pseudo_header; refused",
        |v| {
            let pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "a")];
            vec![
                call(&pseudo, &[(":path", v.path())]),
                call(&[&pseudo[..], &[(":path", UNARY)]].concat(), &[(":path", v.path())]),
            ]
        };
    pseudo_headers_twice_or_missing: "`:method`, `:scheme` or `:authority` twice, `:method` or `:scheme` missing",
        off "grpc-go: RST_STREAM PROTOCOL_ERROR / handler; grpcio: INTERNAL / RST_STREAM INTERNAL_ERROR / handler; RST_STREAM PROTOCOL_ERROR", on "pseudo_header", good "grpc-go: pseudo_header; grpcio: pseudo_header; refused",
        |v| {
            let all = [(":method", "POST"), (":scheme", "http"), (":path", v.path()), (":authority", "a")];
            vec![
                call(&[&all[..], &all[..1]].concat(), &[]),
                call(&[&all[..], &all[1..2]].concat(), &[]),
                call(&[&all[..], &[(":authority", "b")]].concat(), &[]),
                call(&all[1..], &[]),
                call(&[all[0], all[2], all[3]], &[]),
            ]
        };
    unknown_pseudo_headers: "`:protocol`, `:status` and unknown pseudo-headers in a request",
        off "grpc-go: RST_STREAM PROTOCOL_ERROR; grpc-js: RST_STREAM PROTOCOL_ERROR; grpcio: INTERNAL / handler; GOAWAY PROTOCOL_ERROR / RST_STREAM PROTOCOL_ERROR", on "pseudo_header", good "grpcio: pseudo_header; refused",
        |v| [(":protocol", "websocket"), (":status", "200"), (":x", "y"), (":", "")]
            .map(|field| call(&[(":method", "POST"), (":scheme", "http"), (":path", v.path()), (":authority", "a"), field], &[]))
            .to_vec();
    other_methods: "`:method` GET, PUT, post and X", off "grpcio: INTERNAL / RST_STREAM INTERNAL_ERROR; handler", on "slow", good "grpcio: refused; allowed",
        |v| ["GET", "PUT", "post", "X"]
            .map(|method| call(&[(":method", method), (":scheme", "http"), (":path", v.path()), (":authority", "a")], &[]))
            .to_vec();
    connect: "CONNECT, plain, with path and scheme, and extended with `:protocol`",
        off "grpc-go: RESOURCE_EXHAUSTED / RST_STREAM PROTOCOL_ERROR / handler; grpcio: INTERNAL; RST_STREAM PROTOCOL_ERROR / UNIMPLEMENTED", on "pseudo_header / slow", good "grpc-go: allowed; refused",
        |v| vec![
            call(&[(":method", "CONNECT"), (":authority", "a")], &[]),
            call(&[(":method", "CONNECT"), (":scheme", "http"), (":path", v.path()), (":authority", "a")], &[]),
            call(
                &[(":method", "CONNECT"), (":protocol", "connect-udp"), (":scheme", "http"), (":path", v.path()), (":authority", "a")],
                &[],
            ),
        ];
    other_schemes: "`:scheme` https, empty, in capitals, and of no known name",
        off "grpc-js: RST_STREAM PROTOCOL_ERROR / handler; grpcio: INTERNAL / handler; handler", on "slow", good "allowed",
        |v| ["https", "", "HTTP", "ftp"]
            .map(|scheme| call(&[(":method", "POST"), (":scheme", scheme), (":path", v.path()), (":authority", "a")], &[]))
            .to_vec();
    other_authorities: "no `:authority`, an empty one, `host` beside it or instead",
        off "grpc-js: RST_STREAM PROTOCOL_ERROR / handler; grpcio: RST_STREAM INTERNAL_ERROR / handler; handler", on "slow", good "allowed",
        |v| {
            let all = [(":method", "POST"), (":scheme", "http"), (":path", v.path())];
            vec![
                call(&all, &[]),
                call(&[&all[..], &[(":authority", "a")]].concat(), &[("host", "b")]),
                call(&all, &[("host", "a")]),
            ]
        };
    grpc_content_types: "`application/grpc` with a subtype or parameters, or in capitals",
        off "handler", on "slow", good "allowed",
        |v| ["application/grpc+proto", "application/grpc+json", "application/grpc;x=y"]
            .map(|kind| other(v, &[("te", "trailers"), ("content-type", kind)]))
            .to_vec();
    other_content_types: "another `content-type`: grpc-web, JSON, empty, none, two of them",
        off "grpc-go: RST_STREAM PROTOCOL_ERROR / handler; grpc-js: HTTP 415 / handler; handler", on "content_type", good "content_type",
        |v| {
            let kinds = ["application/grpc-web", "application/grpc-web+proto", "application/json", "application/grpcx", ""];
            let mut forms = kinds.map(|kind| other(v, &[("te", "trailers"), ("content-type", kind)])).to_vec();
            forms.push(other(v, &[("te", "trailers")]));
            forms.push(other(v, &[("te", "trailers"), GRPC[1], ("content-type", "text/html")]));
            forms
        };
    te_is_missing_or_another: "`te` missing, twice, or of another value", off "grpc-go: handler; grpcio: INTERNAL / RST_STREAM INTERNAL_ERROR / handler; RST_STREAM PROTOCOL_ERROR / handler", on "slow", good "allowed",
        |v| [&[GRPC[1]][..], &[("te", "gzip"), GRPC[1]], &[GRPC[0], GRPC[0], GRPC[1]]].map(|f| other(v, f)).to_vec();
    connection_headers: "connection-specific headers, which HTTP/2 forbids",
        off "grpc-go: handler; grpcio: handler; RST_STREAM PROTOCOL_ERROR", on "connection_header", good "grpc-go: connection_header; grpcio: connection_header; refused",
        |v| [("connection", "close"), ("keep-alive", "1"), ("proxy-connection", "x"), ("transfer-encoding", "chunked"), ("upgrade", "h2c")]
            .map(|field| fields(&[field, ("x-role", v.role())]))
            .to_vec();
    content_length: "a `content-length` that is not the message's length, or comes twice",
        off "grpc-go: handler; grpcio: handler; RST_STREAM PROTOCOL_ERROR", on "slow", good "grpc-go: allowed; grpcio: allowed; refused",
        |v| [&["1"][..], &["99"], &["1", "99"], &["x"]]
            .map(|values| {
                let more: Vec<_> = values.iter().map(|value| ("content-length", *value)).collect();
                other(v, &[&GRPC[..], &more].concat())
            })
            .to_vec();
    metadata_twice: "the denied value and an allowed one, in either order, apart and with others between (CVE-2026-26308)",
        off "grpc-js: harmless; handler", on "role", good "allowed",
        |v| vec![
            fields(&[("x-role", v.role()), ("x-role", "resident")]),
            fields(&[("x-role", "resident"), ("x-role", v.role())]),
            fields(&[("x-role", ""), ("x-a", "b"), ("x-role", v.role()), ("x-a", "b"), ("x-role", "resident")]),
        ];
    metadata_joined: "two values in one, `resident, intruder`: a handler gets one value, which is not the denied one",
        off "harmless", on "passed", good "allowed",
        |v| ["resident, *", "*,resident", "*;"].map(|form| fields(&[("x-role", &form.replace('*', v.role()))])).to_vec();
    metadata_with_spaces: "spaces and tabs around the denied value",
        off "harmless", on "header_value", good "header_value",
        |v| [" *", "* ", "\t*", "*\t", "  * "].map(|form| fields(&[("x-role", &form.replace('*', v.role()))])).to_vec();
    metadata_with_controls: "NUL, CR, LF and other controls in and behind the denied value",
        off "grpc-go: RST_STREAM PROTOCOL_ERROR; grpc-js: harmless; grpcio: harmless; GOAWAY PROTOCOL_ERROR", on "header_value", good "grpc-js: header_value; grpcio: header_value; refused",
        |v| ["*\0", "*\r", "*\n", "*\r\nx-a: b"].map(|form| fields(&[("x-role", &form.replace('*', v.role()))])).to_vec();
    metadata_of_other_names: "names that only look like the denied one: another name's values are no rule's",
        off "harmless", on "passed", good "allowed",
        |v| ["x_role", "x-roles", "x.role", "x-role-bin"].map(|name| fields(&[(name, v.role())])).to_vec();
    metadata_with_forbidden_names: "empty names, and names with spaces, colons and bytes that HTTP/2 forbids",
        off "grpc-go: RST_STREAM PROTOCOL_ERROR; grpc-js: harmless; grpcio: INTERNAL; GOAWAY PROTOCOL_ERROR", on "header_name", good "grpc-js: header_name; refused",
        |v| ["", "x role", "x-role:", "x-role ", "x-r\u{f6}le", "x-role\0"].map(|name| fields(&[(name, v.role())])).to_vec();
    metadata_in_trailers: "the denied role in trailers behind the message, which some stacks add to the metadata",
        off "grpc-go: RST_STREAM PROTOCOL_ERROR or harmless; grpc-js: harmless; grpcio: harmless; handler", on "trailers", good "trailers",
        |v| {
            let trailers = Headers::new(true).write(1, &block(&[("x-role", v.role())]));
            vec![Talk::new([head(1, UNARY, &[]), data(1, &harmless()), trailers].concat())]
        };
    path_in_trailers: "the denied path in trailers behind the message",
        off "grpc-go: RST_STREAM PROTOCOL_ERROR or harmless; grpc-js: RST_STREAM PROTOCOL_ERROR; harmless", on "passed", good "grpc-go: refused or allowed; grpc-js: refused; allowed",
        |v| {
            let trailers = Headers::new(true).write(1, &block(&[(":path", v.path())]));
            vec![Talk::new([head(1, UNARY, &[]), data(1, &harmless()), trailers].concat())]
        };
    fields_past_the_limit: "1,025 fields before the denied one",
        off "grpc-go: handler; grpc-js: RST_STREAM ENHANCE_YOUR_CALM; grpcio: handler; HTTP 431", on "header_block", good "grpc-go: header_block; grpcio: header_block; refused",
        |v| {
            let mut all = h2raw::call(UNARY, &[]);
            all.extend([("a", ""); 1025]);
            all.push(("x-role", v.role()));
            let block = block(&all);
            vec![Talk::new([head_of(1, &block), last(1, &harmless())].concat())]
        };
    end_of_stream_on_headers: "the denied path or role on HEADERS that end the stream, without a message",
        off "grpc-go: silence; grpc-js: UNIMPLEMENTED; grpcio: UNIMPLEMENTED; INTERNAL", on "role / slow", good "refused",
        |v| [block(&h2raw::call(v.path(), &[])), block(&h2raw::call(UNARY, &[("x-role", v.role())]))]
            .map(|block| Talk::new(frame::frame(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, 1, &block)))
            .to_vec();
}
