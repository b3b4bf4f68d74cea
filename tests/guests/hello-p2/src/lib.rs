//! The hello guest on WASI 0.2: `wasi:http/incoming-handler` and `fermyon:spin/variables@2.0.0`.
//!
//! Knows: how `behaviour` is said in blocking WASI 0.2 HTTP.
//! Law: an answer that is known in full carries its content-length; only `/echo` streams.

use std::thread;
use std::time::Duration;

use behaviour::{Action, Answer};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

mod spin {
    wit_bindgen::generate!({ path: "wit", world: "guest" });
}

use spin::fermyon::spin::variables;

/// One splice moves at most this much: what wasmtime buffers for a body anyway.
const CHUNK: u64 = 64 * 1024;

struct Hello;

wasip2::http::proxy::export!(Hello);

impl Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        match Action::of(&target) {
            Action::Echo => echo(&request, out),
            action => respond(out, answer(&action, &request)),
        }
    }
}

fn answer(action: &Action<'_>, request: &IncomingRequest) -> Answer {
    match action {
        Action::Hello => Answer::ok("hello from p2\n"),
        Action::Headers => behaviour::headers(&request.headers().entries()),
        Action::Env => behaviour::env(),
        Action::Var(name) => behaviour::variable(variables::get(name).map_err(reason)),
        Action::File(path) => behaviour::file(path),
        Action::Sleep(ms) => sleep(*ms),
        Action::Trap => panic!("asked to trap"),
        Action::Spin => behaviour::spin(),
        Action::Grow(mib) => behaviour::grow(*mib),
        Action::Log => behaviour::log(),
        Action::Echo | Action::Unknown => Answer::not_found("no such path"),
    }
}

fn sleep(ms: u64) -> Answer {
    thread::sleep(Duration::from_millis(ms));
    Answer::ok(format!("slept {ms} ms\n"))
}

fn reason(error: variables::Error) -> String {
    match error {
        variables::Error::InvalidName(text) => format!("invalid name: {text}"),
        variables::Error::Undefined(text) => format!("undefined: {text}"),
        variables::Error::Provider(text) => format!("provider: {text}"),
        variables::Error::Other(text) => format!("other: {text}"),
    }
}

fn respond(out: ResponseOutparam, answer: Answer) {
    let length = answer.body.len().to_string().into_bytes();
    let fields = Fields::from_list(&[("content-length".to_owned(), length)])
        .expect("a content-length is a legal header");
    send(out, fields, answer.status, |stream| {
        // The client may have gone; there is nobody left to tell.
        let _ = write_all(stream, &answer.body);
    });
}

fn echo(request: &IncomingRequest, out: ResponseOutparam) {
    let body = request.consume().expect("the body is taken once");
    let input = body.stream().expect("the stream is taken once");
    send(out, Fields::new(), 200, |output| {
        let _ = copy(&input, output);
    });
}

/// Starts the response first and fills its body after, so that a long body streams.
fn send(out: ResponseOutparam, fields: Fields, status: u16, fill: impl FnOnce(&OutputStream)) {
    let response = OutgoingResponse::new(fields);
    response.set_status_code(status).expect("the status is legal");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the stream is taken once");
    fill(&stream);
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

/// `blocking-write-and-flush` takes 4 KiB at most, by its contract.
fn write_all(stream: &OutputStream, bytes: &[u8]) -> Result<(), StreamError> {
    bytes.chunks(4096).try_for_each(|chunk| stream.blocking_write_and_flush(chunk))
}

fn copy(input: &InputStream, output: &OutputStream) -> Result<(), StreamError> {
    loop {
        match output.blocking_splice(input, CHUNK) {
            Ok(_) => {}
            Err(StreamError::Closed) => return output.blocking_flush(),
            Err(error) => return Err(error),
        }
    }
}
