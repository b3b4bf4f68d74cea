"""Components that are small to send and large to compile (faults.md A13), made without any tool-chain.

Knows: just enough of the binary formats. Each has an HTTP handler, so that nothing but its size is wrong.
"""

from tests.guests.bad import COMPONENT_PREAMBLE, CORE_PREAMBLE

_HANDLER = b"wasi:http/incoming-handler@0.2.0"
_I32 = b"\x7f"
_BLOCK, _END, _CONST, _ADD, _BR_TABLE = b"\x02\x40", b"\x0b", b"\x41\x01", b"\x6a", b"\x0e"


def leb(number: int) -> bytes:
    """An unsigned number as wasm writes it."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def section(kind: int, body: bytes) -> bytes:
    """A section of a module or component."""
    return bytes([kind]) + leb(len(body)) + body


def repeated(count: int, item: bytes) -> bytes:
    """A vector of equal items."""
    return leb(count) + item * count


def module(functions: int, code: bytes, local_count: int = 0) -> bytes:
    """A core module of equal functions of type () -> ()."""
    local_groups = repeated(1, leb(local_count) + _I32) if local_count else leb(0)
    body = local_groups + code + _END
    types = section(1, repeated(1, b"\x60\x00\x00"))
    declared = section(3, repeated(functions, b"\x00"))
    a_global = section(6, repeated(1, _I32 + b"\x01\x41\x00\x0b"))
    return (
        CORE_PREAMBLE + types + declared + a_global + section(10, repeated(functions, leb(len(body)) + body))
    )


def component(*sections: bytes) -> bytes:
    """A component with these sections and a handler that has no functions."""
    instance = section(5, b"\x01\x01\x00")
    export = section(11, b"\x01\x00" + leb(len(_HANDLER)) + _HANDLER + b"\x05\x00\x00")
    return COMPONENT_PREAMBLE + b"".join(sections) + instance + export


def of_module(core: bytes) -> bytes:
    """A component around one module."""
    return component(section(1, core))


def modest() -> bytes:
    """A component that compiles at once, to a few megabytes."""
    return of_module(module(40, _work(0.005)))


def _work(millions: float) -> bytes:
    """So many additions to a global, none of which an optimizer may leave out."""
    return (b"\x23\x00" + _CONST + _ADD + b"\x24\x00") * int(millions * 1_000_000)


def all_bombs() -> dict[str, bytes]:
    """Every bomb of faults.md A13 by name."""
    nested = COMPONENT_PREAMBLE
    for _ in range(1000):
        nested = COMPONENT_PREAMBLE + section(4, nested)
    types = CORE_PREAMBLE + section(1, repeated(100_000, b"\x60\x01\x7f\x01\x7f"))
    imports = section(1, repeated(1, b"\x60\x00\x00")) + section(2, repeated(100_000, b"\x01a\x01b\x00\x00"))
    table = _BLOCK + _CONST + _BR_TABLE + repeated(1_000_000, b"\x00") + b"\x00" + _END
    return {
        "one-long-function": of_module(module(1, _work(1))),
        "a-function-past-the-limit": of_module(module(1, _work(7))),
        "a-million-functions": of_module(module(1_000_000, b"")),
        "many-long-functions": of_module(module(500, _work(0.005))),
        "fifty-thousand-locals": of_module(module(200, b"", 50_000)),
        "deep-blocks": of_module(module(1, _BLOCK * 1_000_000 + _END * 1_000_000)),
        "wide-table": of_module(module(4, table)),
        "nested-components": component(section(4, nested)),
        "a-hundred-thousand-types": of_module(types),
        "a-hundred-thousand-imports": of_module(CORE_PREAMBLE + imports),
    }
