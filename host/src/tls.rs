//! TLS at the door: certificates from PEM files, taken up anew when the files change (features.md H3).
//!
//! Laws: files that cannot be used fail the start, but never a server that has good ones already; a client
//! has [`HANDSHAKE_TIMEOUT`] for its handshake, which runs in the connection's own task (faults.md H3).
//! Who renews a certificate replaces two files, one after the other: a pair that does not match is one
//! that is not there yet.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::server::TlsStream;

use crate::error::Error;
use crate::log;
use crate::tuning::Tls as Files;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the files are looked at, when somebody connects.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    pub fn new(files: Files, http2: bool) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let certificate = Reloading::new(files, Arc::clone(&provider))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|cause| Error::Internal(format!("no TLS: {cause}")))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certificate));
        config.alpn_protocols =
            if http2 { vec![HTTP2.into(), HTTP1.into()] } else { vec![HTTP1.into()] };
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// The stream in clear, and whether its client speaks HTTP/2; none if it shook no hands in time.
    pub async fn accept(&self, stream: TcpStream) -> Option<(TlsStream<TcpStream>, bool)> {
        let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.0.accept(stream)).await;
        let stream = shaken.ok()?.ok()?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        Some((stream, http2))
    }
}

/// Lives as long as the server.
#[derive(Debug)]
struct Reloading {
    files: Files,
    provider: Arc<CryptoProvider>,
    state: Mutex<State>,
}

/// Held while two small files are read, once for every change.
#[derive(Debug)]
struct State {
    key: Arc<CertifiedKey>,
    stamp: Option<Stamp>,
    looked: Instant,
}

/// Another file is another stamp.
type Stamp = [(u64, i64, i64, u64); 2];

impl Reloading {
    fn new(files: Files, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let stamp = stamp(&files).ok();
        let key = Arc::new(load(&files, &provider)?);
        let state = Mutex::new(State { key, stamp, looked: Instant::now() });
        Ok(Self { files, provider, state })
    }

    fn current(&self, now: Instant) -> Arc<CertifiedKey> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.looked) >= LOOK_AGAIN {
            state.looked = now;
            self.look(&mut state);
        }
        Arc::clone(&state.key)
    }

    fn look(&self, state: &mut State) {
        // Files that are gone for a moment are being replaced.
        let Ok(found) = stamp(&self.files) else { return };
        if state.stamp.replace(found) == Some(found) {
            return;
        }
        match load(&self.files, &self.provider) {
            Ok(key) => {
                state.key = Arc::new(key);
                log::info("took up a new certificate", &[("file", &self.files.cert.display())]);
            }
            Err(cause) => log::warn("keeping the certificate that was there", &[("cause", &cause)]),
        }
    }
}

impl ResolvesServerCert for Reloading {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current(Instant::now()))
    }
}

fn stamp(files: &Files) -> io::Result<Stamp> {
    let of = |found: Metadata| (found.ino(), found.mtime(), found.mtime_nsec(), found.len());
    Ok([of(files.cert.metadata()?), of(files.key.metadata()?)])
}

fn load(files: &Files, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
    let wrong = |what: &str, path: &std::path::Path, found: &dyn std::fmt::Display| {
        Error::Plan(format!(
            "TLS: wanted {what} in {}, found {found}; mount PEM files",
            path.display()
        ))
    };
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|cause| wrong("a certificate chain", &files.cert, &cause))?;
    if chain.is_empty() {
        return Err(wrong("a certificate chain", &files.cert, &"no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|cause| wrong("a private key", &files.key, &cause))?;
    CertifiedKey::from_der(chain, key, provider)
        .map_err(|cause| wrong("the certificate's key", &files.key, &cause))
}
