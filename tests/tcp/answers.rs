//! What a server can say: a response that a rule denies never becomes complete at the client, whatever frames and segments it comes
//! in. Each is a row of docs/threat-model.md, and succeeds without the enforcer. `PROTOCG_WRITE_TABLES=1` writes the table anew.

use std::fmt::Write as _;
use std::io::Write as _;

use protocg_peers::h2raw::{self, Encoder, Field, Headers, Indexing, Name, Str, Style, frame, hpack};
use protocg_peers::harness::docs;
use protocg_peers::wire::Message;

use crate::scene::*;

/// One test an attack, and a row of the table: what is tried, what real clients make of it, and what the enforcer does.
macro_rules! answers {
    ($($name:ident: $tried:literal, $off:literal, $on:literal, $scene:expr;)*) => {
        const ROWS: &[(&str, &str, &str, &str)] = &[$((stringify!($name), $tried, $off, $on)),*];
        $(
            #[test]
            fn $name() {
                check(stringify!($name), $off, $on, &$scene);
            }
        )*
    };
}

answers! {
    // ---- segments ----
    at_once: "an answer in one segment", "given", "kept, told", whole(&[&bad(), &trailers()]);
    behind_its_headers: "a segment behind the headers'", "given", "kept, told", says(&[send(&[&opening()]), wait(), send(&[&bad()])]);
    a_segment_a_byte: "a segment a byte", "given", "kept", says(&[send(&[&opening()]), bytes(&bad())]);
    cut_in_the_message: "cut in the message", "given", "kept", says(&[send(&[&opening(), &bad()[..16]]), wait(), send(&[&bad()[16..]])]);
    cut_in_the_frames_head: "cut in the frame's head", "given", "kept",
        says(&[send(&[&opening(), &bad()[..4]]), wait(), send(&[&bad()[4..]])]);
    behind_20_kb: "behind 20 KB of allowed messages in one segment", "given", "kept, told", {
        let long = reply(&"fine ".repeat(400));
        let many = data(1, &long).repeat(10);
        whole(&[&many, &bad(), &many]).before(10 * long.len())
    };
    a_frame_of_40_kb: "at the end of a frame of 40 KB, as the client's settings allow", "", "kept, told or not", {
        let long = h2raw::grpc(&Message::new().bytes(2, vec![7; 40_000]).bytes(1, "a SECRET").bytes);
        let open = h2raw::open(&[(5, 1 << 20), (4, 1 << 20)]);
        message(&long).asking([open, call(1, BIDI, "x")].concat())
    };
    urgent: "as urgent data", "refused", "urgent", says(&[send(&[&opening()]), ("urgent", hex(&bad())), send(&[&fine()])]);
    behind_the_clients_fin: "after the client has closed its side", "", "kept, told",
        Scene { closes: true, ..says(&[wait(), send(&[&opening(), &bad()])]) };

    // ---- frames ----
    a_frame_a_byte: "a DATA frame a byte, in one segment", "given", "kept, told",
        whole(&[&frame::data_in_pieces(1, &secret(), false, 1)]).before(secret().len() - 1);
    a_frame_a_byte_in_segments: "a DATA frame a byte, cut into segments", "given", "kept, told", {
        let all = secret();
        let (most, last) = all.split_at(all.len() - 1);
        let most = frame::data_in_pieces(1, most, false, 1);
        says(&[send(&[&opening()]), bytes(&most), wait(), send(&[&data(1, last)])]).before(secret().len() - 1)
    };
    several_messages_in_a_frame: "between two allowed messages, in one frame", "given", "kept, told",
        whole(&[&data(1, &[reply("fine"), secret(), reply("fine")].concat())]);
    behind_other_messages: "behind allowed messages of the stream", "given", "kept, told",
        whole(&[&fine(), &fine(), &bad(), &fine()]).before(2 * reply("fine").len());
    behind_empty_messages: "behind messages and frames of no length", "given", "kept, told",
        whole(&[&data(1, &h2raw::grpc(&[])), &data(1, &[]).repeat(50), &bad()]).before(5);
    interleaved: "another stream's frames inside the message", "", "kept, told", {
        let all = secret();
        let (a, b) = all.split_at(6);
        let says = whole(&[&data(1, a), &answered(3), &data(3, &reply("fine")), &data(1, b)]);
        says.asking(asks(&[&call(1, BIDI, "x"), &call(3, BIDI, "x")])).before(6)
    };
    padded: "padding", "tonic: given, grpcio: refused", "kept, told", whole(&[&frame::data(1, &secret(), false, Some(40))]);
    end_stream_without_trailers: "END_STREAM on the message, and no trailers", "tonic: given, grpcio: either", "kept, told",
        whole(&[&frame::data(1, &secret(), true, None)]);
    without_headers: "DATA before any headers", "tonic: refused, grpcio: given", "kept, told", says(&[send(&[&settings(), &bad()])]);
    behind_interim_headers: "behind headers of 103, a hundred times", "tonic: given, grpcio: refused", "kept, told", {
        let interim = hpack::block(&[Field::Literal(Indexing::Without, Name::Index(8), Str::raw("103"))]);
        let interim = Headers::new(false).write(1, &interim).repeat(100);
        says(&[send(&[&settings(), &interim, &answered(1), &bad()])])
    };
    behind_continuations: "behind headers in a hundred frames", "tonic: refused, grpcio: given", "kept, told", {
        let empty = frame::frame(9, 0, 1, &[]).repeat(100);
        says(&[send(&[&settings(), &frame::frame(1, 0, 1, &[0x88]), &empty, &frame::frame(9, 4, 1, &[]), &bad()])])
    };
    undefined_flags: "flags that DATA does not have", "tonic: given, grpcio: refused", "kept, told", whole(&[&frame::frame(0, 0xf6, 1, &secret())]);
    the_reserved_bit: "the reserved bit of the stream's number", "given", "kept, told",
        whole(&[&frame::frame(0, 0, 0x8000_0001, &secret())]);
    behind_goaway: "behind GOAWAY", "given", "kept, told", whole(&[&frame::goaway(1, 0), &bad()]);
    behind_unknown_frames: "behind frames of unknown types", "given", "kept, told",
        whole(&[&frame::frame(0x2a, 0xff, 1, &secret()[..9]), &frame::frame(0xfe, 0, 0, &[1; 99]), &bad()]);
    inside_a_header_block: "DATA inside a header block", "refused", "frame_order",
        says(&[send(&[&settings(), &frame::frame(1, 0, 1, &[0x88]), &bad()])]);
    pushed: "PUSH_PROMISE, and DATA on its stream", "refused", "frame_order",
        whole(&[&frame::frame(5, 4, 1, &[0, 0, 0, 2, 0x82]), &data(2, &secret())]);
    behind_a_broken_frame: "behind a PING of 7 bytes", "refused", "frame_size", whole(&[&frame::frame(6, 0, 0, &[0; 7]), &bad()]);

    // ---- streams ----
    on_a_stream_that_nobody_opened: "DATA on a stream that nobody opened", "refused", "response_stream", whole(&[&data(3, &secret())]);
    on_a_servers_stream: "DATA on a stream of the server's, which it has not promised", "refused", "response_stream",
        whole(&[&data(2, &secret())]);
    behind_trailers: "DATA behind the trailers", "refused", "response_stream", says(&[send(&[&opening(), &trailers()]), wait(), send(&[&bad()])]);
    behind_rst_stream: "DATA behind the server's own RST_STREAM", "refused", "response_stream", whole(&[&frame::rst_stream(1, 8), &bad()]);
    before_the_request_is_whole: "before the client has ended its side", "", "kept, told", {
        let block = Encoder::default().encode(&h2raw::call(BIDI, &[]), Style::PLAIN);
        whole(&[&bad()]).asking(asks(&[&Headers::new(false).write(1, &block)]))
    };
    behind_the_clients_reset: "after the client has reset the call, and reads on", "", "kept, told or not",
        says(&[wait(), send(&[&opening(), &bad()])]).asking(asks(&[&call(1, BIDI, "x"), &frame::rst_stream(1, 8)]));
    of_a_request_that_was_denied: "DATA on a stream whose request was denied", "", "kept",
        Scene { also: Some("asked"), ..whole(&[&bad()]).asking(asks(&[&call(1, BIDI, "BAD"), &call(3, BIDI, "x")])) };
    of_a_method_that_was_denied: "DATA on a stream whose method was denied", "", "response_stream", {
        let asks = asks(&[&call(1, "/echo.Echo/Slow", "x"), &call(3, BIDI, "x")]);
        Scene { also: Some("slow"), ..whole(&[&bad()]).asking(asks) }
    };
    beside_a_request_that_was_denied: "on the stream next to one whose request was denied", "", "kept, told", {
        let says = says(&[send(&[&settings(), &answered(3), &data(3, &secret())])]);
        Scene { also: Some("asked"), ..says.asking(asks(&[&call(1, BIDI, "BAD"), &call(3, BIDI, "x")])).on(3) }
    };

    // ---- messages ----
    marked_as_compressed: "a message that is marked as compressed, and is not", "refused", "compressed, told", {
        let text = Message::new().bytes(1, "a SECRET").bytes;
        message(&h2raw::grpc_claiming(1, u32::try_from(text.len()).unwrap(), &text))
    };
    compressed: "gzip", "given", "compressed, told", {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&Message::new().bytes(1, "a SECRET").bytes).unwrap();
        let gzip = gzip.finish().unwrap();
        let gzip = h2raw::grpc_claiming(1, u32::try_from(gzip.len()).unwrap(), &gzip);
        let block = hpack::block(&[Field::Indexed(8), Field::plain("grpc-encoding", "gzip")]);
        let says = says(&[send(&[&settings(), &Headers::new(false).write(1, &block), &data(1, &gzip)])]);
        Scene { message: gzip, ..says }
    };
    no_grpc: "a page of text, with a content-type of its own", "refused", "grpc_flag, told", {
        let block = hpack::block(&[Field::Indexed(8), Field::plain("content-type", "text/html")]);
        let says = says(&[send(&[&settings(), &Headers::new(false).write(1, &block), &data(1, b"<p>a SECRET</p>")])]);
        Scene { message: b"a SECRET".to_vec(), ..says }
    };
    not_utf8: "text that is not UTF-8", "refused", "utf8, told", message(&h2raw::grpc(&Message::new().bytes(1, b"a SECRET\xff").bytes));
    the_last_wins: "an allowed text, and then the denied one", "given", "kept, told",
        message(&h2raw::grpc(&Message::new().bytes(1, "fine").bytes(1, "a SECRET").bytes));
    behind_unknown_fields: "behind fields of higher numbers, unknown ones and groups", "given", "kept, told", {
        let group = Message::new().bytes(1, "fine").group(7, &Message::new().varint(1, 1));
        let before = Message::new().bytes(2, [7; 90]).fixed64(3000, [1; 8]).group(900, &group);
        message(&h2raw::grpc(&before.bytes(1, "a SECRET").bytes))
    };
    behind_another_wire_type: "behind its own number with another wire type", "tonic: refused, grpcio: given", "protobuf_wire_type, told",
        message(&h2raw::grpc(&Message::new().varint(1, 5).bytes(1, "a SECRET").bytes));
    over_long_varints: "over-long varints in tag and length", "given", "kept, told",
        message(&h2raw::grpc(&Message::new().long_tag(1, 2, 3).raw(&[0x88, 0x80, 0x00]).raw(b"a SECRET").bytes));
    merged: "a message in two halves, neither of which is denied", "given", "protobuf_repeated, told", {
        let (a, b) = (Message::new().bytes(1, "SECRET"), Message::new().varint(3, 1));
        message(&h2raw::grpc(&Message::new().message(6, &a).message(6, &b).bytes))
    };
}

/// Pages that the server can write after the filter has seen them: sendfile() refers to the file's own.
#[test]
fn in_pages_that_can_still_be_written() {
    if protocg_peers::harness::skip_pages("answers_pages") {
        return;
    }
    check("pages", PAGES.2, PAGES.3, &says(&[send(&[&opening()]), ("file", hex(&bad()))]));
}

const PAGES: (&str, &str, &str, &str) =
    ("in_pages_that_can_still_be_written", "by sendfile()", "given", "shared_pages");

#[test]
fn the_table_in_the_docs_is_this() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/threat-model.md");
    let mut table =
        "| what the server says | test | off | off: tonic, grpcio | on |\n|---|---|---|---|---|\n".to_owned();
    for (name, tried, off, on) in ROWS.iter().chain([&PAGES]) {
        let (why, told) = on.split_once(", ").unwrap_or((on, ""));
        let told = if told.is_empty() { String::new() } else { format!("; the caller is {told}") };
        let _ = writeln!(table, "| {tried} | `answers::{name}` | delivered | {off} | `{why}`{told} |");
    }
    docs::compare_tables(&path, &[("answers", table)]);
}
