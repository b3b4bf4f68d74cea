//! Outbound HTTP: refused, for there is no operator policy to allow it yet.
//!
//! Law: a refusal is an answer that the guest can handle, and a log line that the operator can find.
//! Sockets and name lookups are refused by WASI's own defaults, which `host.rs` leaves as they are.

use std::sync::Arc;

use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::log;

/// Lives as long as the instance; the name is the app's.
pub struct Denied {
    pub component: Arc<str>,
}

type Processing = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answer = Result<(http::Response<WasiBody>, Processing), Error>;

impl WasiHttpHooks for Denied {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _processing: Processing,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        let to = request.uri().authority().map_or("-", |authority| authority.as_str());
        log::warn("outbound request refused", &[("component", &self.component), ("to", &to)]);
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}
