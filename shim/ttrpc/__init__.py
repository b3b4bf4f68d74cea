"""ttrpc: `wire` turns bytes into frames without I/O, `server` and `client` move them over UNIX sockets."""
