import mimetypes
from pathlib import Path
from urllib.parse import unquote

from spin_sdk.http import Handler, Request, Response


class HttpHandler(Handler):
    """Serves the files that spin.toml mounts at /: a folder by its index.html."""

    async def handle_request(self, request: Request) -> Response:
        wanted = Path("/", unquote(request.uri.partition("?")[0]).lstrip("/"))
        file = wanted / "index.html" if wanted.is_dir() else wanted
        if ".." in file.parts or not file.is_file():
            return Response(404, {"content-type": "text/plain"}, b"not found\n")
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return Response(200, {"content-type": kind}, file.read_bytes())
