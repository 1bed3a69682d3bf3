"""What cloudfoundry-client asks a Cloud Controller and a UAA for before it comes to us: where
to go, and a token. Which tokens are good is the Traffic Controller's to say.
"""

import contextlib
import http.server
import json
import threading


@contextlib.contextmanager
def serve(logging, token):
    """Both on one port of loopback; gives their URL. `logging` is where logs are."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            here = {"href": f"http://{self.headers['Host']}"}
            self.answer({"links": {"self": here, "login": here, "logging": {"href": logging}}})

        def do_POST(self):
            self.answer({"access_token": token, "refresh_token": "r", "token_type": "bearer"})

        def answer(self, value):
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
