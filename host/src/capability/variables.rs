//! Application variables: `spin:variables@3.0.0`, `fermyon:spin/variables@2.0.0`, `fermyon:spin/config`.
//!
//! Law: values are the app's, resolved by the control plane before the host starts; a name is judged
//! before it is looked up, so a guest can tell a typo from a missing declaration.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::component::{Accessor, HasData, Linker};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "spinwheel:host/capabilities",
    });
}

use bindings::fermyon::spin::config as v1;
use bindings::fermyon::spin2_0_0::variables as v2;
use bindings::spin::variables::variables as v3;

/// One component's variables. Lives as long as the app; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Variables(Arc<BTreeMap<String, String>>);

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    InvalidName(String),
    Undefined(String),
}

impl Variables {
    #[must_use]
    pub fn new(values: BTreeMap<String, String>) -> Self {
        Self(Arc::new(values))
    }

    fn lookup(&self, name: &str) -> Result<String, Refusal> {
        check_name(name).map_err(|why| Refusal::InvalidName(format!("{name:?}: {why}")))?;
        self.0.get(name).cloned().ok_or_else(|| {
            Refusal::Undefined(format!("no variable {name:?} is defined for this component"))
        })
    }
}

/// features.md H75: lower snake case, a letter first, no doubled and no trailing underscore.
fn check_name(name: &str) -> Result<(), &'static str> {
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        Err("must start with a lower case letter")
    } else if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        Err("must have only lower case letters, digits and underscores")
    } else if name.contains("__") {
        Err("must not have two underscores in a row")
    } else if name.ends_with('_') {
        Err("must not end with an underscore")
    } else {
        Ok(())
    }
}

/// Gives the bindings access to a store's [`Variables`].
struct HasVariables;

impl HasData for HasVariables {
    type Data<'a> = &'a mut Variables;
}

/// Adds the three interfaces, reading from what `get` finds in the store.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    get: fn(&mut T) -> &mut Variables,
) -> wasmtime::Result<()> {
    v1::add_to_linker::<T, HasVariables>(linker, get)?;
    v2::add_to_linker::<T, HasVariables>(linker, get)?;
    v3::add_to_linker::<T, HasVariables>(linker, get)
}

impl v1::Host for Variables {
    fn get_config(&mut self, key: String) -> Result<String, v1::Error> {
        self.lookup(&key).map_err(|refusal| match refusal {
            Refusal::InvalidName(why) => v1::Error::InvalidKey(why),
            // The old interface has no word for it; Spin answers with this one.
            Refusal::Undefined(why) => v1::Error::Provider(why),
        })
    }
}

impl v2::Host for Variables {
    fn get(&mut self, name: String) -> Result<String, v2::Error> {
        self.lookup(&name).map_err(|refusal| match refusal {
            Refusal::InvalidName(why) => v2::Error::InvalidName(why),
            Refusal::Undefined(why) => v2::Error::Undefined(why),
        })
    }
}

impl v3::Host for Variables {}

impl<T: 'static> v3::HostWithStore<T> for HasVariables {
    async fn get(accessor: &Accessor<T, Self>, name: String) -> Result<String, v3::Error> {
        accessor.with(|mut access| access.get().lookup(&name)).map_err(|refusal| match refusal {
            Refusal::InvalidName(why) => v3::Error::InvalidName(why),
            Refusal::Undefined(why) => v3::Error::Undefined(why),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Variables {
        Variables::new([("token".to_owned(), "secret".to_owned())].into())
    }

    #[test]
    fn a_defined_name_has_its_value() {
        assert_eq!(one().lookup("token"), Ok("secret".into()));
    }

    #[test]
    fn an_undefined_name_is_no_invalid_name() {
        assert!(matches!(one().lookup("tokens"), Err(Refusal::Undefined(_))));
        for bad in ["", "Token", "1st", "_x", "a__b", "a_", "a-b", "ä", "a b"] {
            assert!(matches!(one().lookup(bad), Err(Refusal::InvalidName(_))), "{bad:?}");
        }
        for good in ["a", "a1", "a_1", "some_long_name"] {
            assert_eq!(check_name(good), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn the_old_interface_says_provider_where_it_has_no_word() {
        let answer = v1::Host::get_config(&mut one(), "nope".into());
        assert!(matches!(answer, Err(v1::Error::Provider(_))));
    }
}
