from spin_sdk import variables
from spin_sdk.http import Handler, Request, Response


class HttpHandler(Handler):
    async def handle_request(self, request: Request) -> Response:
        greeting = await variables.get("greeting")
        return Response(200, {"content-type": "text/plain"}, f"{greeting} from {{name}}\n".encode())
