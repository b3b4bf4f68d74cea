"""A Spin app in Python: the demo of `./install.sh demo`, and the guest of the Python e2e tests.

Knows: the Spin SDK's handler and one variable. `/` is a constant, so that it also measures the
bare way through the host; `/greeting` asks the host for a variable.
"""

from spin_sdk import variables
from spin_sdk.http import Handler, Request, Response

TEXT = {"content-type": "text/plain"}


class HttpHandler(Handler):
    """The export `wasi:http/handler`, found by componentize-py under exactly this name."""

    async def handle_request(self, request: Request) -> Response:
        """Answer one request."""
        match request.uri.partition("?")[0]:
            case "/":
                return Response(200, dict(TEXT), b"hello from python\n")
            case "/greeting":
                greeting = await variables.get("greeting")
                return Response(200, dict(TEXT), f"{greeting}\n".encode())
            case _:
                return Response(404, dict(TEXT), b"not found\n")
