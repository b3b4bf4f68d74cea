//! What a plan says of one HTTP trigger: a route, and who answers on it.
//!
//! Law: exactly one of a component and a static response answers (features.md H10).

use std::fmt::Debug;

use http::{HeaderName, HeaderValue};
use serde::Deserialize;

use crate::error::Error;

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    pub id: String,
    pub route: String,
    /// Who answers; none where `static_response` does.
    pub component: Option<String>,
    /// The same bytes each time (features.md H17).
    pub static_response: Option<StaticResponse>,
}

#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct StaticResponse {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Trigger {
    /// `is_component` says whether the plan has one of that name.
    pub fn check(&self, is_component: impl Fn(&str) -> bool) -> Result<(), Error> {
        match (&self.component, &self.static_response) {
            (Some(name), None) if is_component(name) => Ok(()),
            (Some(name), None) => Err(Error::Plan(format!(
                "trigger {:?} names component {name:?}, which the plan does not have",
                self.id
            ))),
            (None, Some(response)) => response.check(&self.id),
            _ => Err(Error::Plan(format!(
                "trigger {:?}: wanted exactly one of component and static_response",
                self.id
            ))),
        }
    }
}

impl StaticResponse {
    fn check(&self, trigger: &str) -> Result<(), Error> {
        let wrong = |what: &str, found: &dyn Debug| {
            Error::Plan(format!(
                "trigger {trigger:?}: static_response has {what} {found:?}; name a valid one"
            ))
        };
        if !(200..600).contains(&self.status) {
            return Err(wrong("the status", &self.status));
        }
        for (name, value) in &self.headers {
            if HeaderName::try_from(name).is_err() || HeaderValue::try_from(value).is_err() {
                return Err(wrong("the header", &(name, value)));
            }
        }
        Ok(())
    }
}
