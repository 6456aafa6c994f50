"""A server of completions: `python -m tests.benchmarks.fake_server PORT`."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(200, {"data": [{"id": "tiny", "penstock": {"kv_dtype": "bf16"}}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert asked["model"] == "tiny"
        assert asked["ignore_eos"] is True
        assert asked["temperature"] == 0
        if len(asked["prompt"]) > 1000:
            self.reply(400, {"error": "too long"})
            return
        time.sleep(asked.get("delay", 0))
        said = asked["max_tokens"] - asked.get("short", 0)
        self.reply(200, {"usage": {"completion_tokens": said}})

    def reply(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    print("listening", flush=True)
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
