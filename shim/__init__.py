"""spinwheel's control plane: a containerd shim v2 that runs Spin WebAssembly apps. Imports only go down."""

__version__ = "0.1.0"
