//! Interfaces that guests are built against and that this host does not have: each call is a trap that
//! names what was called.
//!
//! SDKs import every interface of their world, used or not, so refusing the import would refuse most
//! guests. wasmtime's `define_unknown_imports_as_traps` does not serve: it also plants stand-ins for the
//! resources that a provided interface merely mentions, which then do not match.

use wasmtime::Engine;
use wasmtime::component::types::{ComponentInstance, ComponentItem};
use wasmtime::component::{Linker, LinkerInstance, ResourceType};

/// Stands in for all absent resources; none is ever made, so one type will do.
struct Absent;

/// Defines the interface `name`, of the shape that the component expects.
pub fn define<T: 'static>(
    linker: &mut Linker<T>,
    engine: &Engine,
    name: &str,
    shape: &ComponentInstance,
) -> wasmtime::Result<()> {
    let mut instance = linker.instance(name)?;
    for (item, export) in shape.exports(engine) {
        match export.ty {
            ComponentItem::ComponentFunc(func) => {
                let called = format!("{name}#{item} was called, which this host does not provide");
                define_func(&mut instance, item, func.async_(), called)?;
            }
            ComponentItem::Resource(_) => {
                instance.resource(item, ResourceType::host::<Absent>(), |_, _| Ok(()))?;
            }
            // Types need no definition; nothing else is in an interface.
            _ => {}
        }
    }
    Ok(())
}

fn define_func<T: 'static>(
    instance: &mut LinkerInstance<'_, T>,
    item: &str,
    is_async: bool,
    called: String,
) -> wasmtime::Result<()> {
    if is_async {
        instance.func_new_concurrent(item, move |_, _, _, _| {
            let trap = wasmtime::Error::msg(called.clone());
            Box::pin(async { Err(trap) })
        })
    } else {
        instance.func_new(item, move |_, _, _, _| Err(wasmtime::Error::msg(called.clone())))
    }
}
