"""Artifacts: `manifest` and `app` turn untrusted bytes into verified values; `containerd` brings them."""
