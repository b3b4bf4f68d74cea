//! `HostPlan`: the one document that says what to serve, written by Python, read here once.
//!
//! Laws: unknown fields, another version, duplicate ids and dangling references are errors, so that a
//! newer writer is never half understood. `tests/fixtures/plan/golden.json` has every field and is read
//! by the tests of both languages.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::Deserialize;

use crate::error::Error;
use crate::policy::Policy;
use crate::trigger::Trigger;
use crate::tuning::{Http, Limits};

/// The only version that this program reads.
const VERSION: u32 = 1;

/// A plan has a few kilobytes; this is far above any real one and far below what would hurt.
pub const MAX_BYTES: u64 = 16 << 20;

const MAX_ID: usize = 128;

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct HostPlan {
    pub version: u32,
    pub app: App,
    /// Where to listen; a name is resolved here, port 0 lets the kernel choose.
    pub listen: String,
    /// Where the ready line goes; none for people who run us by hand.
    pub ready_fd: Option<RawFd>,
    pub components: Vec<Component>,
    pub triggers: Vec<Trigger>,
    pub limits: Limits,
    pub http: Http,
}

#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct App {
    pub name: String,
    pub version: String,
    pub description: String,
    pub oci_image_digest: String,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Component {
    pub id: String,
    /// For messages only: the control plane has verified it already.
    pub digest: String,
    pub aot: Artifact,
    pub env: Vec<(String, String)>,
    pub variables: BTreeMap<String, String>,
    /// A folder of this machine that the guest sees, read-only, as `/`.
    pub files: Option<PathBuf>,
    /// As `policy.rs` reads them, with their templates filled in.
    pub allowed_outbound_hosts: Vec<String>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Artifact {
    /// An inherited descriptor: what the control plane verified is what we map.
    Fd(RawFd),
    Path(PathBuf),
}

impl HostPlan {
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let plan: Self = serde_json::from_slice(json).map_err(|cause| {
            Error::Plan(format!(
                "wanted a HostPlan of version {VERSION}, found JSON that is not one: {cause}; \
                 use a control plane and a host of the same release"
            ))
        })?;
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), Error> {
        if self.version != VERSION {
            return Err(Error::Plan(format!(
                "wanted a HostPlan of version {VERSION}, found version {}; use a control plane and a \
                 host of the same release",
                self.version
            )));
        }
        self.check_components()?;
        self.check_triggers()?;
        self.check_descriptors()?;
        self.limits.check()?;
        self.http.check()
    }

    fn check_components(&self) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        for component in &self.components {
            let id = &component.id;
            if !is_component_id(id) {
                return Err(Error::Plan(format!(
                    "component id {id:?} is not one: wanted a letter or digit, then up to 127 letters, \
                     digits, '_' or '-'; rename the component"
                )));
            }
            Policy::parse(&component.allowed_outbound_hosts, &[])
                .map_err(|cause| Error::Plan(format!("component {id:?}: {cause}")))?;
            if !seen.insert(id) {
                return Err(Error::Plan(format!(
                    "component id {id:?} is there twice; give each component its own id"
                )));
            }
        }
        Ok(())
    }

    fn check_triggers(&self) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        for trigger in &self.triggers {
            if !seen.insert(&trigger.id) {
                return Err(Error::Plan(format!(
                    "trigger id {:?} is there twice; give each trigger its own id",
                    trigger.id
                )));
            }
            trigger.check(|name| self.components.iter().any(|c| c.id == name))?;
        }
        Ok(())
    }

    /// `fd.rs` relies on this: no number may be adopted twice.
    fn check_descriptors(&self) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        for fd in self.descriptors() {
            if !seen.insert(fd) {
                return Err(Error::Plan(format!(
                    "descriptor {fd} is named twice in the plan; hand over one for each use"
                )));
            }
        }
        Ok(())
    }

    fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let aot = self.components.iter().filter_map(|c| match c.aot {
            Artifact::Fd(fd) => Some(fd),
            Artifact::Path(_) => None,
        });
        aot.chain(self.ready_fd)
    }

    /// The descriptor that the plan itself came on is used up, and must not be named in it.
    pub fn refuse_descriptor(&self, used: RawFd) -> Result<(), Error> {
        if self.descriptors().any(|fd| fd == used) {
            return Err(Error::Plan(format!(
                "descriptor {used} brings the plan and is named in it; hand over one for each use"
            )));
        }
        Ok(())
    }
}

/// `^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$`, checked here again because ids end up in messages and logs.
fn is_component_id(id: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    id.len() <= MAX_ID
        && id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && id.bytes().all(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuning::Span;
    use serde_json::{Value, json};

    const GOLDEN: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/plan/golden.json"));

    const NULLABLE: [&str; 8] = [
        "ready_fd",
        "files",
        "memory_bytes",
        "cpu_ms",
        "max_instance_reuse_count",
        "max_instance_concurrent_reuse_count",
        "static_response",
        "tls",
    ];

    fn golden() -> Value {
        serde_json::from_str(GOLDEN).unwrap()
    }

    fn parse(value: &Value) -> Result<HostPlan, Error> {
        HostPlan::parse(value.to_string().as_bytes())
    }

    fn refusal(value: &Value) -> String {
        parse(value).unwrap_err().to_string()
    }

    #[test]
    fn the_golden_plan_is_read_in_full() {
        let plan = HostPlan::parse(GOLDEN.as_bytes()).unwrap();
        assert_eq!(plan.app.name, "hello");
        assert_eq!(plan.listen, "0.0.0.0:80");
        assert_eq!(plan.ready_fd, Some(4));
        assert_eq!(plan.components[0].aot, Artifact::Fd(5));
        assert_eq!(plan.components[0].env, [("GREETING".into(), "hi".into())]);
        assert_eq!(plan.components[0].variables["token"], "secret");
        assert_eq!(plan.components[0].files, Some("/.spinwheel/assets/0".into()));
        assert_eq!(plan.components[1].aot, Artifact::Path("/var/lib/spinwheel/api.aot".into()));
        assert_eq!(plan.components[1].files, None);
        assert_eq!(plan.components[0].allowed_outbound_hosts[1], "redis://cache:6379");
        assert_eq!(plan.triggers.len(), 3);
        assert_eq!(plan.limits.memory_bytes, Some(134_217_728));
        assert_eq!(plan.limits.request_timeout_ms, Span::Exactly(30_000));
        assert_eq!(plan.limits.max_instance_reuse_count, Some(Span::Between(8, 16)));
        assert_eq!(plan.http.tls.unwrap().key.to_str(), Some("/tls/tls.key"));
        assert_eq!(plan.triggers[2].static_response.as_ref().unwrap().status, 301);
    }

    /// Walks every object of the golden plan and plants a stranger in it.
    #[test]
    fn an_unknown_field_is_an_error_at_every_depth() {
        for pointer in [
            "",
            "/app",
            "/components/0",
            "/components/0/aot",
            "/triggers/0",
            "/triggers/2/static_response",
            "/limits",
            "/http",
            "/http/tls",
        ] {
            let mut value = golden();
            value.pointer_mut(pointer).unwrap()["stranger"] = json!(1);
            assert!(parse(&value).is_err(), "a stranger in {pointer:?} was accepted");
        }
    }

    #[test]
    fn every_field_but_the_nullable_ones_is_needed() {
        for pointer in ["", "/app", "/components/0", "/triggers/0", "/limits", "/http"] {
            let keys: Vec<String> =
                golden().pointer(pointer).unwrap().as_object().unwrap().keys().cloned().collect();
            for key in keys {
                let mut value = golden();
                value.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(&key);
                let nullable = NULLABLE.contains(&key.as_str());
                assert_eq!(parse(&value).is_ok(), nullable, "{pointer}/{key}");
            }
        }
    }

    #[test]
    fn another_version_is_refused() {
        let mut value = golden();
        value["version"] = json!(2);
        assert!(refusal(&value).contains("found version 2"));
    }

    #[test]
    fn duplicate_ids_and_descriptors_are_refused() {
        let mut value = golden();
        value["components"][1]["id"] = json!("hello");
        assert!(refusal(&value).contains("there twice"));

        let mut value = golden();
        value["triggers"][1]["id"] = value["triggers"][0]["id"].clone();
        assert!(refusal(&value).contains("trigger id"));

        let mut value = golden();
        value["ready_fd"] = json!(5);
        assert!(refusal(&value).contains("descriptor 5"));

        let plan = parse(&golden()).unwrap();
        assert!(plan.refuse_descriptor(3).is_ok());
        assert!(plan.refuse_descriptor(5).is_err());
    }

    #[test]
    fn a_bad_outbound_host_names_its_component() {
        let mut value = golden();
        value["components"][1]["allowed_outbound_hosts"] = json!(["example.com"]);
        let message = refusal(&value);
        assert!(message.contains("\"api\"") && message.contains("\"example.com\""), "{message}");
    }

    #[test]
    fn a_trigger_needs_its_component() {
        let mut value = golden();
        value["triggers"][0]["component"] = json!("nobody");
        assert!(refusal(&value).contains("nobody"));
        value["triggers"][0]["component"] = Value::Null;
        assert!(refusal(&value).contains("exactly one of"));
        value["triggers"][0]["static_response"] = json!({"status": 99, "headers": [], "body": ""});
        assert!(refusal(&value).contains("the status 99"));
        value["triggers"][0]["static_response"]["status"] = json!(200);
        assert!(parse(&value).is_ok());
    }

    #[test]
    fn ids_that_could_be_paths_are_refused() {
        for id in ["", "..", "/", "a/../../b", "-a", "_a", "a b", "ä", &"a".repeat(129)] {
            assert!(!is_component_id(id), "{id:?}");
        }
        for id in ["a", "0", "Hello_World-2", &"a".repeat(128)] {
            assert!(is_component_id(id), "{id:?}");
        }
    }

    #[test]
    fn limits_that_refuse_everything_are_refused() {
        for name in ["memory_bytes", "request_timeout_ms", "max_concurrency", "cpu_ms"] {
            let mut value = golden();
            value["limits"][name] = json!(0);
            assert!(refusal(&value).contains(name));
        }
        let mut value = golden();
        value["limits"]["idle_instance_timeout_ms"] = json!([5, 5]);
        assert!(refusal(&value).contains("holds no number"));
        value = golden();
        value["http"]["http1_max_buf_bytes"] = json!(8191);
        assert!(refusal(&value).contains("8192 or more"));
    }
}
