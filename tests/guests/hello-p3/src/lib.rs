//! The hello guest on WASI 0.3: `wasi:http/handler` and `spin:variables@3.0.0`, both asynchronous.
//!
//! Knows: how `behaviour` is said in WASI 0.3 HTTP.
//! Laws: nothing here blocks the instance but `/spin` and `/grow`, so one instance serves many
//! requests at once; an answer that is known in full carries its content-length.

use behaviour::{Action, Answer};
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{clocks::monotonic_clock, wit_future, wit_stream};

mod spin {
    wit_bindgen::generate!({ path: "wit", world: "guest" });
}

use spin::spin::variables::variables;

struct Hello;

wasip3::http::service::export!(Hello);

impl Guest for Hello {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        match Action::of(&target) {
            Action::Echo => Ok(echo(request)),
            action => Ok(respond(answer(&action, &request).await)),
        }
    }
}

async fn answer(action: &Action<'_>, request: &Request) -> Answer {
    match action {
        Action::Hello => Answer::ok("hello from p3\n"),
        Action::Headers => behaviour::headers(&request.get_headers().copy_all()),
        Action::Env => behaviour::env(),
        Action::Var(name) => variable((*name).to_owned()).await,
        Action::File(path) => behaviour::file(path),
        Action::Sleep(ms) => sleep(*ms).await,
        Action::Trap => panic!("asked to trap"),
        Action::Spin => behaviour::spin(),
        Action::Grow(mib) => behaviour::grow(*mib),
        Action::Log => behaviour::log(),
        Action::Echo | Action::Unknown => Answer::not_found("no such path"),
    }
}

async fn variable(name: String) -> Answer {
    behaviour::variable(variables::get(name).await.map_err(reason))
}

async fn sleep(ms: u64) -> Answer {
    monotonic_clock::wait_for(ms.saturating_mul(1_000_000)).await;
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

fn respond(answer: Answer) -> Response {
    let length = answer.body.len().to_string().into_bytes();
    let fields = Fields::from_list(&[("content-length".to_owned(), length)])
        .expect("a content-length is a legal header");
    let (mut writer, reader) = wit_stream::new();
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(fields, Some(reader), no_trailers);
    response.set_status_code(answer.status).expect("the status is legal");
    // The body is written after this call has returned the response that it belongs to. What the
    // client did not wait for comes back; there is nobody left to tell.
    wit_bindgen::spawn_local(async move {
        drop(writer.write_all(answer.body).await);
    });
    response
}

/// The request's own stream and trailers become the response's: the guest copies no byte.
fn echo(request: Request) -> Response {
    let (_, received) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, received);
    Response::new(Fields::new(), Some(body), trailers).0
}
