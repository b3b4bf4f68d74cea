"""Inputs that must be refused where a component is wanted, made without any tool-chain.

Knows: just enough of the wasm component binary format and of ELF to be wrong in one way at a
time. Law: each maker's bytes are the smallest that show their fault, so that a refusal can only
be for that fault.
"""

import struct

CORE_PREAMBLE = b"\0asm\x01\0\0\0"
COMPONENT_PREAMBLE = b"\0asm\x0d\0\x01\0"

_INSTANCE_SECTION = 5
_EXPORT_SECTION = 11
_SORT_INSTANCE = b"\x05"
_ELF_X86_64 = 62
# How wasmtime marks its own artefacts: `ELFOSABI_WASMTIME` and `EF_WASMTIME_COMPONENT`.
_OSABI_WASMTIME = 200
_FLAG_COMPONENT = 2


def not_wasm() -> bytes:
    """Text where wasm is wanted."""
    return b"this is not wasm\n"


def empty() -> bytes:
    """No byte at all."""
    return b""


def truncated(component: bytes) -> bytes:
    """Return the first half of a good component: a failed upload."""
    return component[: len(component) // 2]


def core_module() -> bytes:
    """Return valid wasm, but a core module: what `cargo build` leaves before componentizing."""
    return CORE_PREAMBLE


def no_handler() -> bytes:
    """Return a valid component that exports nothing."""
    return COMPONENT_PREAMBLE


def two_handlers() -> bytes:
    """Return a component that exports both HTTP handlers, as instances without functions."""
    names = ("wasi:http/incoming-handler@0.2.0", "wasi:http/handler@0.3.0")
    an_empty_instance = b"\x01" + _vector()
    instances = _section(_INSTANCE_SECTION, _vector(an_empty_instance))
    exports = _section(_EXPORT_SECTION, _vector(*map(_export_first_instance, names)))
    return COMPONENT_PREAMBLE + instances + exports


def oversized_section() -> bytes:
    """Return a component whose only section claims 4 GiB that are not there."""
    return COMPONENT_PREAMBLE + bytes([_EXPORT_SECTION]) + b"\xff\xff\xff\xff\x0f"


def native_elf() -> bytes:
    """Return the header of a native program: what `arg0` must never lead to."""
    return _elf_header(os_abi=0, flags=0)


def precompiled() -> bytes:
    """Return an ELF header with the marks of wasmtime's own AOT output, and nothing behind it."""
    return _elf_header(os_abi=_OSABI_WASMTIME, flags=_FLAG_COMPONENT)


def all_bad(component: bytes) -> dict[str, bytes]:
    """Return every bad input by name; *component* is a good one to cut."""
    return {
        "not-wasm": not_wasm(),
        "empty": empty(),
        "truncated": truncated(component),
        "core-module": core_module(),
        "no-handler": no_handler(),
        "two-handlers": two_handlers(),
        "oversized-section": oversized_section(),
        "native-elf": native_elf(),
        "precompiled": precompiled(),
    }


def _vector(*items: bytes) -> bytes:
    return bytes([len(items)]) + b"".join(items)


def _section(kind: int, body: bytes) -> bytes:
    # One byte of LEB128 each: the sections here are shorter than 128 bytes.
    return bytes([kind, len(body)]) + body


def _export_first_instance(name: str) -> bytes:
    no_type_ascription = b"\0"
    return b"\0" + bytes([len(name)]) + name.encode() + _SORT_INSTANCE + b"\0" + no_type_ascription


def _elf_header(*, os_abi: int, flags: int) -> bytes:
    identity = b"\x7fELF" + bytes([2, 1, 1, os_abi]) + bytes(8)
    executable, version, entry, program_headers, sections = 2, 1, 0, 0, 0
    fields = (executable, _ELF_X86_64, version, entry, program_headers, sections, flags)
    return identity + struct.pack("<HHIQQQI6H", *fields, 64, 56, 0, 64, 0, 0)
