"""A web server on the loopback whose replies are Python functions, so that they can be as wrong as anybody's. Not a test
itself."""
import socket
import socketserver
import struct
import threading


class Request:
    """One request: its target as sent, its headers in lower case, and the connection to answer on."""

    def __init__(self, connection, head, number):
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = lines[0].split(" ", 2)
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.connection, self.number = connection, number  # number: the how-many-eth for this target, from 1

    def send(self, data):
        self.connection.sendall(data if isinstance(data, bytes) else data.encode())

    def reply(self, status, body=b"", **headers):
        """A whole reply; Content_Length=None leaves that out."""
        fields = {"Content_Length": len(body), "Content_Type": "text/plain", "Connection": "close", **headers}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value is not None]
        self.send("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body)

    def reset(self):
        """The connection ends with RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def first_byte(self):
        """What the request asks to begin at; 0: for all of it."""
        text = self.headers.get("range", "")
        return int(text[len("bytes="):-1]) if text.startswith("bytes=") and text.endswith("-") else 0


def serve_file(request, body, etag='"one"'):
    """What a good server does with Range and If-Range."""
    first = request.first_byte()
    if first and request.headers.get("if-range") in (None, etag):
        request.reply("206 Partial Content", body[first:], ETag=etag,
                      Content_Range=f"bytes {first}-{len(body) - 1}/{len(body)}")
    else:
        request.reply("200 OK", body, ETag=etag, Accept_Ranges="bytes")


class FaultServer(socketserver.ThreadingTCPServer):
    """replies: target -> function of a Request. requests: all that came, in order. A target without a function is 404."""
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), None)
        self.replies, self.requests, self.lock = {}, [], threading.Lock()
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def seen(self, target):
        return [request for request in self.requests if request.target == target]

    def finish_request(self, connection, address):
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                more = connection.recv(65536)
                if not more:
                    return
                head += more
            head = head.split(b"\r\n\r\n")[0]
            with self.lock:
                target = head.split(b" ")[1].decode()
                request = Request(connection, head, len(self.seen(target)) + 1)
                self.requests.append(request)
            self.replies.get(target, lambda r: r.reply("404 Not Found", b"no such page"))(request)
        except OSError:
            pass  # the client went away, or the reply reset the connection

    def close(self):
        self.shutdown()
        self.server_close()
