"""spin.toml to a locked app and its artifact: `document`, `schema`, `legacy`, `lock` and `pack` are pure."""
