//! A plan turned into something that can be asked: components loaded and linked, routes to them.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use wasmtime::Engine;
use wasmtime::component::Component as Code;

use crate::answer::Static;
use crate::capability::variables::Variables;
use crate::epoch::Clock;
use crate::error::Error;
use crate::guest::Guest;
use crate::host::{self, Template};
use crate::plan::{self, Artifact, HostPlan};
use crate::route::{self, Routes};
use crate::trigger::Trigger;
use crate::tuning::{Http, Limits};
use crate::{aot, fd, log};

/// Where a route leads.
pub enum Target {
    Component(Called),
    Static(Static),
}

impl Target {
    /// Who answers, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Component(called) => &called.component,
            Self::Static(_) => "static response",
        }
    }
}

/// A component that a trigger names.
pub struct Called {
    pub component: Arc<str>,
    pub guest: Guest,
}

pub struct App {
    pub routes: Routes<Target>,
    /// The answer on `/.well-known/spin/info`, rendered once.
    pub info: String,
}

/// A component and, if its code comes on a descriptor, that descriptor.
pub struct Adopted {
    plan: plan::Component,
    code: Option<OwnedFd>,
}

/// Takes over every descriptor that the plan names. Must come before this process opens files of its
/// own, or a number that the plan has wrong could be one of those.
pub fn adopt(components: Vec<plan::Component>) -> Result<Vec<Adopted>, Error> {
    components
        .into_iter()
        .map(|plan| {
            let code = match plan.aot {
                Artifact::Fd(number) => Some(fd::adopt(number).map_err(|cause| {
                    Error::Component(format!(
                        "component {}: descriptor {number} was to hold its code and cannot be taken \
                         over: {cause}; hand it over open",
                        plan.id
                    ))
                })?),
                Artifact::Path(_) => None,
            };
            Ok(Adopted { plan, code })
        })
        .collect()
}

/// A component whose code is mapped but not linked.
pub struct Loaded {
    plan: plan::Component,
    code: Code,
}

pub fn load(engine: &Engine, components: Vec<Adopted>) -> Result<Vec<Loaded>, Error> {
    components
        .into_iter()
        .map(|Adopted { plan, code }| {
            let code = map_code(engine, &plan.aot, code.as_ref()).map_err(|cause| {
                Error::Component(format!("component {} ({}): {cause}", plan.id, plan.digest))
            })?;
            Ok(Loaded { plan, code })
        })
        .collect()
}

/// Maps from the descriptor if there is one; the mapping stays when the descriptor goes.
fn map_code(engine: &Engine, artifact: &Artifact, fd: Option<&OwnedFd>) -> Result<Code, Error> {
    match (artifact, fd) {
        (Artifact::Path(path), _) => aot::load(engine, path),
        (Artifact::Fd(number), None) => {
            Err(Error::Internal(format!("descriptor {number} was not taken over")))
        }
        (Artifact::Fd(_), Some(fd)) => {
            let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            require_proc(&path)?;
            aot::load(engine, &path)
        }
    }
}

/// wasmtime maps files by path only, and `/proc` is the only path to a descriptor.
fn require_proc(path: &Path) -> Result<(), Error> {
    if path.exists() {
        return Ok(());
    }
    Err(Error::Component(format!(
        "wanted {} to reach its code, found no /proc mounted; mount proc in the container",
        path.display()
    )))
}

pub fn link(
    engine: &Engine,
    clock: &Arc<Clock>,
    plan: &HostPlanHead,
    loaded: Vec<Loaded>,
    triggers: &[Trigger],
) -> Result<App, Error> {
    let linker = host::linker(engine)?;
    let mut guests = BTreeMap::new();
    for Loaded { plan: component, code } in loaded {
        let failed = |id: &str, cause: wasmtime::Error| {
            Error::Component(format!(
                "component {id} does not link: {cause:#}; build it with an SDK of this release's WASI \
                 versions"
            ))
        };
        let id: Arc<str> = component.id.as_str().into();
        let pre = host::link(&linker, &code).map_err(|cause| failed(&id, cause))?;
        let template = template(&id, component, &plan.limits);
        let guest = Guest::new(template, pre, Arc::clone(clock), &plan.limits)
            .map_err(|cause| failed(&id, cause))?;
        guests.insert(id, guest);
    }
    Ok(App { routes: routes(&guests, triggers), info: info(&plan.app) })
}

/// What of the plan outlives its components.
pub struct HostPlanHead {
    pub app: plan::App,
    pub limits: Limits,
    pub http: Http,
}

impl HostPlanHead {
    #[must_use]
    pub fn of(plan: &HostPlan) -> Self {
        Self { app: plan.app.clone(), limits: plan.limits.clone(), http: plan.http.clone() }
    }
}

fn template(id: &Arc<str>, plan: plan::Component, limits: &Limits) -> Template {
    Template {
        component: Arc::clone(id),
        env: plan.env,
        variables: Variables::new(plan.variables),
        files: plan.files,
        memory_bytes: limits.memory_bytes,
    }
}

fn routes(guests: &BTreeMap<Arc<str>, Guest>, triggers: &[Trigger]) -> Routes<Target> {
    let targets = triggers
        .iter()
        .filter_map(|trigger| Some((trigger.route.as_str(), target(guests, trigger)?)));
    let (routes, displaced) = Routes::new(targets);
    for route in displaced {
        log::error(
            "two triggers have the same route; the later one counts",
            &[("route", &route.raw()), ("ignored", &route.target.name())],
        );
    }
    for route in routes.iter().filter(|route| route.raw().starts_with(route::RESERVED)) {
        log::error(
            "the route is below a prefix that belongs to the host and is never reached",
            &[("route", &route.raw()), ("component", &route.target.name())],
        );
    }
    routes
}

/// The plan was checked: a trigger has one of the two, and its component is there.
fn target(guests: &BTreeMap<Arc<str>, Guest>, trigger: &Trigger) -> Option<Target> {
    if let Some(response) = &trigger.static_response {
        return Some(Target::Static(Static::new(response)));
    }
    let (component, guest) = guests.get_key_value(trigger.component.as_deref()?)?;
    let called = Called { component: Arc::clone(component), guest: guest.clone() };
    Some(Target::Component(called))
}

fn info(app: &plan::App) -> String {
    let mut info = json!({ "name": app.name, "version": app.version });
    if !app.oci_image_digest.is_empty() {
        info["oci_image_digest"] = json!(app.oci_image_digest);
    }
    info.to_string()
}
