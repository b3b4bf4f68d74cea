//! `serve`: a plan read, an app put together, a server run until a signal ends it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

use crate::app::{self, Adopted, App, HostPlanHead};
use crate::cli::PlanSource;
use crate::connection::Door;
use crate::control::{Ready, Steps};
use crate::epoch::Clock;
use crate::error::Error;
use crate::plan::{self, HostPlan};
use crate::request::Service;
use crate::shutdown::{Shutdown, Signals};
use crate::trigger::Trigger;
use crate::tuning::Http;
use crate::{engine, fd, listen, log, server};

/// More threads than this hold memory and make no single app faster.
const MAX_WORKERS: usize = 4;

/// A busy guest gives way every 10 ms. At tokio's own interval of 61 such turns, new connections and
/// timers would wait more than half a second behind guests that spin.
const EVENT_INTERVAL: u32 = 7;

#[must_use]
pub fn run(source: &PlanSource, mut steps: Steps) -> ExitCode {
    log::catch_panics();
    let plan = read(source).and_then(|plan| Ok((Ready::adopt(plan.ready_fd)?, plan)));
    let (ready, plan) = match plan {
        Ok(parts) => parts,
        Err(error) => return fail(Ready::default(), &error),
    };
    steps.ended("plan");
    let head = HostPlanHead::of(&plan);
    let prepared = app::adopt(plan.components).and_then(|components| {
        prepare(components, &plan.triggers, &plan.listen, &head, &mut steps)
    });
    match prepared {
        Ok((runtime, app, listener)) => {
            let code = runtime.block_on(serve(app, listener, &head, ready, &steps));
            // Guests that outlived the grace time are not waited for.
            runtime.shutdown_background();
            code
        }
        Err(error) => fail(ready, &error),
    }
}

fn fail(ready: Ready, error: &Error) -> ExitCode {
    eprintln!("{error}");
    ready.error(error);
    ExitCode::FAILURE
}

fn read(source: &PlanSource) -> Result<HostPlan, Error> {
    let unreadable = |cause: std::io::Error| Error::Plan(format!("cannot read the plan: {cause}"));
    let file = match source {
        PlanSource::Path(path) => File::open(path),
        PlanSource::Descriptor(number) => fd::adopt(*number).map(File::from),
    };
    let mut json = Vec::new();
    file.map_err(unreadable)?
        .take(plan::MAX_BYTES + 1)
        .read_to_end(&mut json)
        .map_err(unreadable)?;
    if json.len() as u64 > plan::MAX_BYTES {
        return Err(Error::Plan(format!("the plan has more than {} bytes", plan::MAX_BYTES)));
    }
    let plan = HostPlan::parse(&json)?;
    match source {
        PlanSource::Descriptor(number) => plan.refuse_descriptor(*number)?,
        PlanSource::Path(_) => {}
    }
    Ok(plan)
}

/// Everything that can fail, in the order in which it is reported.
fn prepare(
    components: Vec<Adopted>,
    triggers: &[Trigger],
    listen: &str,
    head: &HostPlanHead,
    steps: &mut Steps,
) -> Result<(Runtime, App, TcpListener), Error> {
    let engine = engine::server(head.limits.max_concurrency, |name| std::env::var(name).ok())?;
    let clock = Arc::new(Clock::start(&engine)?);
    steps.ended("engine");
    let loaded = app::load(&engine, components)?;
    steps.ended("components");
    let app = app::link(&engine, &clock, head, loaded, triggers)?;
    steps.ended("linked");
    let runtime = runtime()?;
    let listener = listen::bind(listen, head.http.find_free_port)?;
    steps.ended("bound");
    Ok((runtime, app, listener))
}

fn runtime() -> Result<Runtime, Error> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Builder::new_multi_thread()
        .worker_threads(cores.min(MAX_WORKERS))
        .thread_name("worker")
        .event_interval(EVENT_INTERVAL)
        .enable_io()
        .enable_time()
        .build()
        .map_err(|cause| Error::Internal(format!("no runtime: {cause}")))
}

async fn serve(
    app: App,
    listener: TcpListener,
    head: &HostPlanHead,
    ready: Ready,
    steps: &Steps,
) -> ExitCode {
    let (listener, local, signals) = match start(listener) {
        Ok(parts) => parts,
        Err(error) => return fail(ready, &error),
    };
    let banner = banner(&app, local, &head.http);
    let service = Arc::new(Service::new(app, local, &head.limits, &head.http));
    let door = match Door::new(service, head.http.clone()) {
        Ok(door) => Arc::new(door),
        Err(error) => return fail(ready, &error),
    };
    let shutdown = Shutdown::default();
    tokio::spawn(signals.watch(shutdown.clone()));
    ready.ready(local, steps);
    announce(&banner);
    server::run(listener, door, &shutdown).await;
    if !shutdown.drained(head.limits.shutdown_grace()).await {
        log::warn("the grace time is over; ending what is still in flight", &[]);
    }
    ExitCode::SUCCESS
}

/// What must run inside the runtime before anyone is told that we are ready.
fn start(listener: TcpListener) -> Result<(tokio::net::TcpListener, SocketAddr, Signals), Error> {
    let unusable =
        |cause: std::io::Error| Error::Internal(format!("the listening socket fails: {cause}"));
    let local = listener.local_addr().map_err(unusable)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(unusable)?;
    Ok((listener, local, Signals::catch()?))
}

/// What people see in the container's output (features.md S52).
fn banner(app: &App, local: SocketAddr, http: &Http) -> String {
    let scheme = if http.tls.is_some() { "https" } else { "http" };
    let routes = app.routes.iter().map(|route| {
        let wildcard = if route.is_wildcard() { " (wildcard)" } else { "" };
        let (name, prefix) = (route.target.name(), route.prefix());
        format!("  {name}: {scheme}://{local}{prefix}{wildcard}\n")
    });
    format!("Serving {scheme}://{local}\nAvailable Routes:\n{}", routes.collect::<String>())
}

fn announce(banner: &str) {
    let mut out = std::io::stdout().lock();
    // A closed stdout is no reason not to serve.
    _ = out.write_all(banner.as_bytes()).and_then(|()| out.flush());
}
