"""Prompts from the web: what servers do wrong, what is kept and gone on from, what `bench plan` and `bench run` make of
it. Everything is on the loopback; where a stall is waited for, timeouts are tenths of a second."""
import hashlib
import json
import os
import pty
import signal
import subprocess
import threading
import time
import unittest
from pathlib import Path

import drive
import h5py
from fault_server import FaultServer, serve_file

text = "".join(f"line {i}: the quick brown fox jumps over the lazy dog\n" for i in range(6000)).encode()
half = len(text) // 2
short = text[:1500]


class FetchTest(drive.BenchTest):
    def setUp(self):
        super().setUp()
        self.server = FaultServer()
        self.addCleanup(self.server.close)
        self.folder_of_prompts = self.folder / "cache" / "chunkbench" / "prompts"

    def environment(self, **more):
        env = super().environment(**{"XDG_CACHE_HOME": str(self.folder / "cache"), **more})
        return {k: v for k, v in env.items() if k in more or not k.lower().endswith("_proxy")}

    def serve(self, path, function):
        self.server.replies[path] = function
        return self.server.url(path)

    def serve_good(self, path="/good.txt", body=text):
        return self.serve(path, lambda r: serve_file(r, body))

    def fetch(self, *args, timeout=2, retries=2, **env):
        return self.bench("fetch", "--timeout", timeout, "--retries", retries, *args, **env)

    def entry(self, url, **env):
        """What the cache holds for an address, or None."""
        listed = json.loads(self.expect(self.bench("fetch", "--json", **env), 0).out)
        found = [p for p in listed["prompts"] if p["url"] == url]
        return found[0] if found else None

    def assert_whole(self, url, body=text):
        entry = self.entry(url)
        self.assertEqual((entry["state"], entry["bytes"], entry["sha256"]),
                         ("whole", len(body), hashlib.sha256(body).hexdigest()))
        with open(entry["file"], "rb") as f:
            self.assertEqual(f.read(), body)
        self.assertFalse(list(self.folder_of_prompts.glob("*.part*")), "nothing but the file is left")

    def assert_nothing(self, url):
        self.assertIsNone(self.entry(url))

    def wait_for_part(self, least=1):
        return self.wait_for(lambda: [p for p in self.folder_of_prompts.glob("*.txt.part")
                                      if p.stat().st_size >= least])[0]


class GoodServers(FetchTest):
    def test_a_file_is_fetched_once_and_recorded(self):
        url = self.serve_good()
        result = self.expect(self.fetch(url), 0, "whole", f"{len(text):,}", hashlib.sha256(text).hexdigest()[:16])
        self.assertIn(f"fetched url:{url}", result.err)
        self.assert_whole(url)
        entry = self.entry(url)
        self.assertEqual((entry["etag"], entry["prompt"]), ('"one"', f"url:{url}"))
        self.assertRegex(entry["fetched_utc"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.expect(self.fetch(url), 0)
        self.expect(self.fetch(f"url:{url}"), 0)
        self.assertEqual(len(self.server.requests), 1)
        request = self.server.requests[0]
        self.assertTrue(request.headers["user-agent"].startswith("chunkbench/"))
        self.assertNotIn("range", request.headers)
        self.expect(self.fetch(url, "--force"), 0)
        self.assertEqual(len(self.server.requests), 2)

    def test_chunked_replies_and_redirects_are_followed(self):
        def chunked(request):
            request.reply("200 OK", Content_Length=None, Transfer_Encoding="chunked")
            for at in range(0, len(text), 50000):
                piece = text[at:at + 50000]
                request.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            request.send("0\r\n\r\n")
        self.serve("/chunked", chunked)
        url = self.serve("/moved", lambda r: r.reply("302 Found", b"elsewhere", Location="/chunked"))
        self.expect(self.fetch(url), 0)
        self.assert_whole(url)

    def test_a_slow_line_is_no_stall(self):
        def drip(request):
            request.reply("200 OK", Content_Length=len(short))
            for at in range(0, len(short), 100):
                request.send(short[at:at + 100])
                time.sleep(0.05)
        url = self.serve("/slow", drip)
        self.expect(self.fetch(url, retries=0), 0)
        self.assert_whole(url, short)

    def test_two_processes_fetch_once(self):
        def slow(request):
            request.reply("200 OK", Content_Length=len(text))
            request.send(text[:half])
            second_waits.wait(5)
            request.send(text[half:])
        second_waits = threading.Event()
        url = self.serve("/slow", slow)
        first = self.start("fetch", url)
        self.wait_for_part()
        second = self.start("fetch", url)
        self.wait_for_line(second, "another process fetches it")
        second_waits.set()
        for process in (first, second):
            self.expect(self.finish(process), 0, "whole")
        self.assertEqual(len(self.server.requests), 1)
        self.assert_whole(url)

    def test_several_addresses_one_of_them_wrong(self):
        good, bad = self.serve_good(), self.server.url("/none.txt")
        self.expect(self.fetch(bad, good), 6, "404", "absent", "whole")
        self.assert_whole(good)

    def test_progress_on_a_terminal(self):
        def slow(request):
            request.reply("200 OK", Content_Length=len(text))
            for at in range(0, len(text), len(text) // 5):
                request.send(text[at:at + len(text) // 5])
                time.sleep(0.12)
        url = self.serve("/bar", slow)
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(drive.bench, ["bench", "fetch", url], self.environment(NO_COLOR="1"))
        seen = b""
        try:
            while True:
                more = os.read(terminal, 65536)
                if not more:
                    break
                seen += more
        except OSError:
            pass  # how Linux says that nobody has the terminal open any more
        os.close(terminal)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0, seen)
        self.assertRegex(seen.decode(), r"url:http://.*/bar  \d+ KiB of 3\d\d KiB, [1-9]\d? %")


class BadServers(FetchTest):
    def refused(self, url, *words, tries=1, **more):
        """Ends with 6, names the file to put by hand, leaves nothing; so many requests were made."""
        result = self.expect(self.fetch(url, **more), 6, *words)
        self.assertRegex(result.err, rf"put the text there by hand, as {self.folder_of_prompts}/\S+\.txt\n")
        self.assertEqual(len(self.server.requests), tries, result)
        self.assert_nothing(url)
        return result

    def again(self, path, fault, *words, **more):
        """A fault of the first reply, which the second makes good."""
        url = self.serve(path, lambda r: fault(r) if r.number == 1 else serve_file(r, text))
        self.expect(self.fetch(url, **more), 0, *words)
        self.assertEqual(len(self.server.requests), 2)
        self.assert_whole(url)
        return self.server.requests[1]

    def test_404(self):
        self.refused(self.server.url("/none.txt"), "the server answers 404")

    def test_500_then_good(self):
        self.again("/a", lambda r: r.reply("500 Internal Server Error", b"x"), "the server answers 500", "again in")

    def test_503_with_its_own_idea_of_when(self):
        began = time.monotonic()
        self.again("/a", lambda r: r.reply("503 Service Unavailable", Retry_After="1"), "503", "again in 1.00 s")
        self.assertGreater(time.monotonic() - began, 0.95)

    def test_500_for_ever(self):
        url = self.serve("/a", lambda r: r.reply("500 Internal Server Error"))
        self.refused(url, "500", "(3 tries)", tries=3, timeout=0.4)

    def test_a_head_that_never_comes(self):
        url = self.serve("/a", lambda r: time.sleep(30))
        began = time.monotonic()
        self.refused(url, "stalled: 0 bytes in 0.4 s", "(3 tries)", tries=3, timeout=0.4)
        self.assertLess(time.monotonic() - began, 10)

    def test_a_stall_in_the_middle_goes_on_by_range(self):
        def stall(request):
            request.reply("200 OK", Content_Length=len(text), ETag='"one"')
            request.send(text[:half])
            time.sleep(2)
        second = self.again("/a", stall, "stalled", timeout=0.4)
        self.assertEqual((second.headers["range"], second.headers["if-range"]), (f"bytes={half}-", '"one"'))

    def test_a_drip_that_is_too_slow_is_a_stall(self):
        def drip(request):
            request.reply("200 OK", Content_Length=len(text), ETag='"one"')
            for at in range(20):
                request.send(text[at:at + 1])
                time.sleep(0.1)
        self.again("/a", drip, "stalled", timeout=0.4)

    def test_reset_in_the_middle(self):
        def reset(request):
            request.reply("200 OK", Content_Length=len(text), ETag='"one"')
            request.send(text[:half])
            time.sleep(0.2)
            request.reset()
        second = self.again("/a", reset)
        self.assertIn("range", second.headers)

    def test_truncation(self):
        def cut(request):
            request.reply("200 OK", Content_Length=len(text), ETag='"one"')
            request.send(text[:half])
        second = self.again("/a", cut, "bytes remaining")
        self.assertEqual(second.headers["range"], f"bytes={half}-")

    def test_without_a_validator_it_begins_anew(self):
        def cut(request):
            request.reply("200 OK", Content_Length=len(text))
            request.send(text[:half])
        self.assertNotIn("range", self.again("/a", cut).headers)

    def test_many_tries_that_each_bring_much_are_not_counted(self):
        def piece(request):
            first = request.first_byte()
            if first == 0:
                request.reply("200 OK", Content_Length=len(text), ETag='"one"')
            else:
                request.reply("206 Partial Content", Content_Length=len(text) - first, ETag='"one"',
                              Content_Range=f"bytes {first}-{len(text) - 1}/{len(text)}")
            request.send(text[first:first + 70000])
        url = self.serve("/a", piece)
        self.expect(self.fetch(url, timeout=1, retries=1), 0)
        self.assertEqual(len(self.server.requests), -(-len(text) // 70000))
        self.assert_whole(url)

    def test_a_length_that_is_wrong(self):
        def wrong(request):  # the part that comes has another length than the whole has told
            first = request.first_byte()
            if first:
                request.reply("206 Partial Content", text[first:] + b"more", ETag='"one"',
                              Content_Range=f"bytes {first}-{len(text) + 3}/{len(text) + 4}")
            else:
                request.reply("200 OK", Content_Length=len(text), ETag='"one"')
                request.send(text[:half] if request.number == 1 else text)
        url = self.serve("/a", wrong)
        self.expect(self.fetch(url), 0, "another length", "again from the first byte")
        self.assert_whole(url)

    def test_a_length_that_nobody_tells(self):
        url = self.serve("/a", lambda r: r.reply("200 OK", text, Content_Length=None))
        self.refused(url, "does not say how long")

    def test_a_part_that_is_shorter_than_it_says(self):
        def wrong(request):
            first = request.first_byte()
            if first:
                request.reply("206 Partial Content", text[first:first + 5], ETag='"one"',
                              Content_Range=f"bytes {first}-{len(text) - 1}/{len(text)}")
            else:
                request.reply("200 OK", Content_Length=len(text), ETag='"one"')
                request.send(text[:half] if request.number == 1 else text)
        url = self.serve("/a", wrong)
        self.expect(self.fetch(url), 0, "disagree", "again from the first byte")
        self.assert_whole(url)

    def test_a_server_that_ignores_range(self):
        def whole(request):
            request.reply("200 OK", Content_Length=len(text), ETag='"one"')
            request.send(text[:half] if request.number == 1 else text)
        url = self.serve("/a", whole)
        self.expect(self.fetch(url), 0)
        self.assertIn("range", self.server.requests[1].headers)
        self.assert_whole(url)

    def test_a_file_that_changed_between_two_tries(self):
        other = text.replace(b"fox", b"cat")

        def good(request):
            if request.number == 1:
                request.reply("200 OK", Content_Length=len(text), ETag='"one"')
                request.send(text[:half])
            else:
                serve_file(request, other, '"two"')
        url = self.serve("/good", good)
        self.expect(self.fetch(url), 0)
        self.assert_whole(url, other)

        def careless(request):  # sends the rest of the new file after the first half of the old one
            if request.number == 1:
                good(request)
            else:
                request.headers.pop("if-range", None)
                serve_file(request, other, '"two"')
        url = self.serve("/careless", careless)
        self.expect(self.fetch(url), 0, "has changed", "again from the first byte")
        self.assertEqual(len(self.server.seen("/careless")), 3)
        self.assert_whole(url, other)

    def test_416(self):
        def unsatisfiable(request):
            if request.number == 1:
                request.reply("200 OK", Content_Length=len(text), ETag='"one"')
                request.send(text[:half])
            elif request.first_byte():
                request.reply("416 Range Not Satisfiable")
            else:
                serve_file(request, text)
        url = self.serve("/a", unsatisfiable)
        self.expect(self.fetch(url), 0, "416")
        self.assert_whole(url)

    def test_a_redirect_loop(self):
        url = self.serve("/a", lambda r: r.reply("302 Found", Location="/a"))
        self.refused(url, "more than 5 redirects", tries=6)

    def test_a_redirect_out_of_the_web(self):
        secret = self.folder / "secret.txt"
        secret.write_text("not for you")
        for number, place in enumerate((f"file://{secret}", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x"), 1):
            url = self.serve(f"/{number}", lambda r, place=place: r.reply("302 Found", Location=place))
            self.refused(url, "rotocol", tries=number)

    def test_what_is_not_a_text(self):
        for path, body, words in (("/bytes", bytes(range(256)) * 20, "byte 0x80 at offset 128"),
                                  ("/latin1", b"caf\xe9", "byte 0xe9 at offset 3")):
            url = self.serve_good(path, body)
            self.expect(self.fetch(url), 2, f"{url} is not UTF-8", words)
            self.assert_nothing(url)
            self.assertFalse(list(self.folder_of_prompts.glob("*.part*")))

    def test_what_is_no_file(self):
        self.refused(self.serve_good("/empty", b""), "empty")
        self.refused(self.serve("/page", lambda r: r.reply("200 OK", b"<html>log in", Content_Type="text/html; a=b")),
                     "a login page", tries=2)
        self.refused(self.serve("/gzip", lambda r: r.reply("200 OK", text, Content_Encoding="gzip")), "compressed",
                     tries=3)
        self.refused(self.serve("/part", lambda r: r.reply("206 Partial Content", text[:9],
                                                           Content_Range=f"bytes 0-8/{len(text)}")), "206", tries=4)

    def test_more_than_the_cap(self):
        url = self.serve_good()
        result = self.expect(self.fetch(url, "--max-bytes", "100000"), 6, f"has {len(text):,} bytes", "100,000")
        self.assertNotIn("again", result.err)

        def endless(request):
            request.reply("200 OK", Content_Length=None, Transfer_Encoding="chunked", ETag='"one"')
            while True:
                request.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        url = self.serve("/endless", endless)
        self.expect(self.fetch(url, "--max-bytes", "100000"), 6, "more than 100,000 bytes")
        self.assertFalse(list(self.folder_of_prompts.glob("*.part*")))
        self.assert_nothing(url)

    def test_garbage_in_the_place_of_a_head(self):
        garbage = [
            b"\x16\x03\x01\x00\xa5" + bytes(range(256)),
            b"HTTP/9.9 abc\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\nConnection: close\r\n\r\nhel",
            b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 9-5/\xff\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 302 Found\r\nLocation: \x00\x01\x02\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"y" * 200000 + b"\r\n" * 2,
            b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 60000 + b"\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzzz\r\nhello",
            b"",
        ]
        for number, head in enumerate(garbage):
            url = self.serve(f"/{number}", lambda r, head=head: r.send(head))
            result = self.fetch(url, timeout=0.5, retries=0)
            with self.subTest(head[:60]):
                self.expect(result, 6, "cannot fetch", "by hand")
                self.assert_nothing(url)


class CutOff(FetchTest):
    """What stops on this side."""

    def begin_slow(self, path="/slow"):
        def slow(request):
            first = request.first_byte()
            if first:
                serve_file(request, text)
                return
            request.reply("200 OK", Content_Length=len(text), ETag='"one"')
            request.send(text[:half])
            time.sleep(30)
        return self.serve(path, slow)

    def test_ctrl_c_leaves_a_part_that_is_gone_on_from(self):
        url = self.begin_slow()
        process = self.start("fetch", url)
        self.wait_for_part(half)
        began = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        self.expect(self.finish(process), 130, "interrupted", "are kept", "part, 50 %")
        self.assertLess(time.monotonic() - began, 1)
        entry = self.entry(url)
        self.assertEqual((entry["state"], entry["bytes"]), ("part", half))
        self.expect(self.bench("fetch"), 0, "part, 50 %", f"url:{url}")
        self.expect(self.fetch(url), 0, "the rest of it")
        self.assertEqual(self.server.requests[1].headers["range"], f"bytes={half}-")
        self.assert_whole(url)

    def test_kill_9_too(self):
        url = self.begin_slow()
        process = self.start("fetch", url)
        self.wait_for_part(half)
        process.kill()
        self.finish(process)
        self.expect(self.fetch(url), 0)
        self.assertEqual(self.server.requests[1].headers["range"], f"bytes={half}-")
        self.assert_whole(url)

    def test_a_part_of_something_else_is_not_gone_on_from(self):
        url = self.serve_good()
        for state in ('{"url": "http://other/", "etag": "\\"one\\"", "last_modified": "", "total_bytes": 99}',
                      '{"url": "%s", "etag": "W/\\"weak\\"", "last_modified": "", "total_bytes": 99}' % url,
                      '{"url": "%s", "etag": "\\"one\\"", "last_modified": "", "total_bytes": 2}' % url,
                      '{"url": 5', "", "[]"):
            with self.subTest(state):
                self.expect(self.fetch(url, "--force"), 0)
                file = self.entry(url)["file"]
                os.unlink(file)
                with open(file + ".part", "w") as part, open(file + ".part.json", "w") as beside:
                    part.write("something else")
                    beside.write(state)
                self.expect(self.fetch(url), 0)
                self.assertNotIn("range", self.server.requests[-1].headers)
                self.assert_whole(url)

    def test_a_file_that_was_damaged_is_fetched_again(self):
        url = self.serve_good()
        self.expect(self.fetch(url), 0)
        file = self.entry(url)["file"]
        with open(file, "r+") as f:
            f.write("LINE")
        self.assertEqual(self.entry(url)["state"], "damaged")
        self.expect(self.fetch(url), 0, "is damaged")
        self.assert_whole(url)

    def test_a_disk_that_is_full(self):
        url = self.serve_good()
        done = subprocess.run(["sh", "-c", f"ulimit -f 100; exec {drive.bench} fetch {url}"], capture_output=True,
                              text=True, env=self.environment(), timeout=60)
        self.assertEqual(done.returncode, 6, done)
        self.assertIn("File too large", done.stderr)
        self.assertNotIn("again", done.stderr)
        self.expect(self.fetch(url), 0)
        self.assert_whole(url)

    def test_a_cache_that_cannot_be_written(self):
        url = self.serve_good()
        self.expect(self.fetch(url, XDG_CACHE_HOME="/proc/nowhere"), 6, "/proc/nowhere", "XDG_CACHE_HOME")
        self.expect(self.fetch(url, XDG_CACHE_HOME="", HOME=""), 6, "neither XDG_CACHE_HOME nor HOME")
        self.expect(self.fetch(url, XDG_CACHE_HOME="", HOME=str(self.folder)), 0, f"{self.folder}/.cache/chunkbench")

    def test_no_network_names_the_file_to_put_by_hand(self):
        for source, env in (("http://127.0.0.1:1/x.txt", {}), ("http://no-such-host.invalid/x.txt", {}),
                            ("qwen:64k", {"https_proxy": "http://127.0.0.1:1"})):
            with self.subTest(source):
                result = self.expect(self.fetch(source, timeout=0.2, retries=1, **env), 6, "(2 tries)")
                path = result.err.split("by hand, as ")[1].strip()
                with open(path, "wb") as f:
                    f.write(short)
                shown = self.expect(self.fetch(source, timeout=0.2, **env), 0, "by hand")
                self.assertIn(hashlib.sha256(short).hexdigest()[:16], shown.out)
        listed = json.loads(self.bench("fetch", "--json").out)["prompts"]
        self.assertIn(("qwen:64k", "by hand", len(short)), [(p["prompt"], p["state"], p["bytes"]) for p in listed])

    def test_a_file_by_hand_that_is_no_text_is_told_and_kept(self):
        url = self.serve_good()
        self.expect(self.fetch(url), 0)
        file = Path(self.entry(url)["file"])
        Path(f"{file}.json").unlink()
        for content in (b"", b"no \xff text"):
            file.write_bytes(content)
            self.expect(self.fetch(url), 2, str(file), "--force")
            self.expect(self.bench("plan", self.write_config(prompt__source=f"url:{url}")), 2, "small.ini:", str(file))
            listed = json.loads(self.bench("fetch", "--json").out)["prompts"]
            self.assertEqual([(p["file"], p["state"]) for p in listed], [(str(file), "unusable")])
            self.assertEqual(file.read_bytes(), content)
        self.expect(self.fetch(url, "--force"), 0)
        self.assert_whole(url)

    def test_what_is_no_text_is_no_reason_to_list_nothing(self):
        url = self.serve_good()
        self.expect(self.fetch(url), 0)
        folder = Path(self.entry(url)["file"]).parent
        (folder / "folder.txt").mkdir()
        os.mkfifo(folder / "pipe.txt")
        (folder / "nothing.txt").touch()
        result = self.expect(self.bench("fetch"), 0, "folder.txt", "directory", "pipe.txt", "nothing.txt", "empty")
        self.assertEqual(result.out.count("unusable "), 3)
        listed = json.loads(self.bench("fetch", "--json").out)["prompts"]
        self.assertEqual(sorted(p["state"] for p in listed), 3 * ["unusable"] + ["whole"])

    def test_proxies_of_the_environment(self):
        target = "http://prompts.invalid/x.txt"
        self.server.replies[target] = lambda r: serve_file(r, text)
        self.expect(self.fetch(target, http_proxy=self.server.url("")), 0)
        self.assertEqual(self.server.requests[0].target, target)
        self.assert_whole(target)
        self.server.requests.clear()
        self.expect(self.fetch("https://prompts.invalid/y.txt", retries=0, https_proxy=self.server.url("")), 6, "404")
        self.assertEqual((self.server.requests[0].method, self.server.requests[0].target),
                         ("CONNECT", "prompts.invalid:443"))
        self.server.requests.clear()
        url = self.serve_good()
        self.expect(self.fetch(url, http_proxy="http://127.0.0.1:1", no_proxy="127.0.0.1"), 0)


class CommandLine(FetchTest):
    def test_ends(self):
        self.expect(self.bench("fetch", "--help"), 0, "usage: bench fetch", "qwen:600k", "https_proxy")
        self.expect(self.bench("fetch"), 0, "no prompts in", str(self.folder_of_prompts))
        for words in (["qwen:2m"], ["file:x.txt"], ["needle:4k"], ["ftp://x/y"], ["file:///etc/passwd"], ["http://"],
                      ["http://user:word@host/x"], ["http://a b/"], ["url:"], ["http://h/" + "x" * 300], ["x.txt"],
                      ["--timeout", "0"], ["--timeout", "x", "qwen:64k"], ["--retries", "-1"],
                      ["--max-bytes", "2000m"], ["--nonsense"]):
            with self.subTest(words):
                self.expect(self.bench("fetch", *words), 2, "bench fetch: ")
        good = self.serve_good()
        self.expect(self.fetch(good, "ftp://x/y"), 2)
        self.assertFalse(self.server.requests, "nothing is fetched when an argument is wrong")

    def test_json_holds_what_was_asked_for(self):
        url = self.serve_good()
        self.serve_good("/other", short)
        self.expect(self.fetch(self.server.url("/other")), 0)
        d = json.loads(self.expect(self.fetch("--json", url), 0).out)
        self.assertEqual((d["schema"], d["schema_version"], d["folder"]),
                         ("chunkbench prompts", 1, str(self.folder_of_prompts)))
        self.assertEqual([p["url"] for p in d["prompts"]], [url])
        self.assertEqual(len(json.loads(self.bench("fetch", "--json").out)["prompts"]), 2)


class PlanAndRun(FetchTest):
    def config_of(self, source, **more):
        return self.write_config(prompt__source=source, prompt__timeout_s="1.5", prompt__retries="1",
                                 sampling__max_tokens="4", engine__enforce_eager="true", **more)

    def test_a_plan_fetches_what_is_not_there(self):
        url = self.serve_good(body=short)
        config = self.config_of(f"needle:1k, url:{url}")
        plan = self.expect(self.bench("plan", config, "--json"), 0)
        self.assertIn(f"bench plan: fetched url:{url}: 1.46 KiB", plan.err)
        lengths = {c["prompt"]: c["prompt_tokens"] for c in json.loads(plan.out)["cases"]}
        self.assertEqual(lengths, {"needle:1k": 1024, f"url:{url}": len(short)})
        self.assertEqual(self.expect(self.bench("plan", config), 0).err, "")
        self.assertEqual(len(self.server.requests), 1)

    def test_a_run_records_where_its_prompt_came_from(self):
        url = self.serve_good("/p/good%20one.txt?key=1", short)
        self.expect(self.bench("run", self.config_of(f"url:{url}"), "-o", self.file), 0, "bench run: fetched")
        digest = hashlib.sha256(short).hexdigest()
        with h5py.File(self.file) as f:
            (name, group), = f["case"].items()
            self.assertRegex(name, r"^url-goodp20one.txt_key_1-[0-9a-f]{6}_c256_eager")
            self.assertEqual(drive.text(group["prompt"].attrs["url"]), url)
            self.assertEqual(drive.text(group["prompt"].attrs["file_sha256"]), digest)
            self.assertEqual(group.attrs["prompt_tokens"], len(short))
            ids = b"".join(byte.to_bytes(4, "little") for byte in short)
            self.assertEqual(drive.text(group.attrs["prompt_sha256"]), hashlib.sha256(ids).hexdigest())
        case, = json.loads(self.bench("show", self.file, "--json").out)["cases"]
        self.assertEqual((case["prompt_url"], case["prompt_file_sha256"]), (url, digest))
        self.expect(self.bench("show", self.file, "--case", name), 0, f"{url}, sha256 of the file {digest[:16]}")
        self.assertEqual(len(self.server.requests), 1)

    def test_a_case_that_crashed_names_its_text(self):
        url = self.serve_good(body=short)
        self.expect(self.bench("run", self.config_of(f"url:{url}"), "-o", self.file, program=drive.faulty,
                               BENCH_TEST_FAULT="abort:0"), 5)
        with h5py.File(self.file) as f:
            group, = f["case"].values()
            self.assertEqual([drive.text(group["prompt"].attrs[name]) for name in ("url", "file_sha256")],
                             [url, hashlib.sha256(short).hexdigest()])

    def test_a_run_is_not_resumed_with_another_text_from_the_web(self):
        url = self.serve_good(body=short)
        config = self.config_of(f"url:{url}")
        self.expect(self.bench("run", config, "-o", self.file, program=drive.faulty, BENCH_TEST_FAULT="abort:1"), 5)
        other = short.swapcase()
        self.serve_good(body=other)
        self.expect(self.bench("fetch", "--force", f"url:{url}"), 0)
        was, now = (hashlib.sha256(text).hexdigest() for text in (short, other))
        self.expect(self.bench("run", config, "-o", self.file, "--resume"), 2, f"url:{url}: sha256 was {was}, is {now}")

    def test_findings_stand_where_the_key_stands(self):
        config = self.config_of("url:http://127.0.0.1:1/x.txt", run__repeats="2")
        for command in (["plan", config], ["run", config, "-o", self.file]):
            result = self.expect(self.bench(*command), 6, "small.ini:", "cannot fetch", "by hand, as ")
            self.assertEqual(result.err.count("small.ini:"), 1, result)
            result = self.expect(self.bench(*command, "--set", "engine.tensor_parallel_size=3"), 6, "cannot fetch")
            self.assertIn("--set engine.tensor_parallel_size=3: ", result.err)
        self.assertFalse(self.file.exists() or self.partial.exists())

    def test_a_configuration_that_is_wrong_fetches_nothing(self):
        url = self.serve_good()
        result = self.expect(self.bench("plan", self.config_of(f"url:{url}", run__repeats="x")), 2, "repeats")
        self.assertNotIn("fetch", result.err)
        self.assertFalse(self.server.requests)
        for source in ("qwen:2m", "url:ftp://x/y", "url:file:///etc/passwd", "url:http://u:p@h/x"):
            with self.subTest(source):
                result = self.expect(self.bench("plan", self.config_of(source)), 2, "small.ini:")
                self.assertEqual(result.err.count("small.ini:"), 1, result)

    def test_a_text_that_does_not_fit(self):
        url = self.serve_good()
        self.expect(self.bench("plan", self.config_of(f"url:{url}", model__max_model_len="4096")), 2, "small.ini:",
                    f"{len(text):,} prompt tokens", "exceed max_model_len 4,096")

    def test_a_file_that_was_damaged_between_plan_and_run_is_fetched_again(self):
        url = self.serve_good(body=short)
        config = self.config_of(f"url:{url}")
        self.expect(self.bench("plan", config), 0)
        with open(self.entry(url)["file"], "r+") as f:
            f.write("LINE")
        self.expect(self.bench("run", config, "-o", self.file), 0)
        self.assertEqual(len(self.server.requests), 2)

    def serve_half(self):
        """The address of a text that stops in its middle for ever; what follows a first byte other than 0 is sent."""
        def slow(request):
            if request.first_byte():
                serve_file(request, text)
                return
            request.reply("200 OK", Content_Length=len(text), ETag='"one"')
            request.send(text[:half])
            time.sleep(30)
        return self.serve("/slow", slow)

    def test_ctrl_c_while_a_plan_fetches(self):
        url = self.serve_half()
        config = self.write_config(prompt__source=f"url:{url}")
        for stop in (signal.SIGINT, signal.SIGTERM):
            process = self.start("plan", config)
            self.wait_for_part(half)
            began = time.monotonic()
            os.kill(process.pid, stop)
            self.expect(self.finish(process), 130, "interrupted", "are kept")
            self.assertLess(time.monotonic() - began, 1)
            download = self.entry(url)
            self.assertEqual((download["state"], download["bytes"]), ("part", half))
            for part in self.folder_of_prompts.glob("*.part*"):
                part.unlink()
        self.expect(self.fetch(url), 0)  # nothing is locked
        self.assert_whole(url)

    def test_a_plan_that_fetches_nothing_ends_by_the_signal(self):
        config = self.write_config(prompt__source=f"url:{self.serve_good(body=short)}")
        self.expect(self.bench("plan", config), 0)
        process = self.start("plan", config, "--measure")
        time.sleep(0.3)  # its prompts are read, its kernels are measured, for about a second
        os.kill(process.pid, signal.SIGINT)
        self.assertEqual(self.finish(process).code, -signal.SIGINT)

    def test_ctrl_c_while_a_run_fetches(self):
        url = self.serve_half()
        config = self.write_config(prompt__source=f"url:{url}")
        process = self.start("run", config, "-o", self.file)
        self.wait_for_part(half)
        os.kill(process.pid, signal.SIGINT)
        self.expect(self.finish(process), 130, "interrupted", "are kept")
        self.assertFalse(self.file.exists() or self.partial.exists())


if __name__ == "__main__":
    unittest.main()
