"""bench plot: pictures that are pictures, drawn from the numbers of the file; and what it does when there is nothing to
draw, or nothing to draw with."""
import re
import shutil
import struct
import tempfile
import unittest
import xml.etree.ElementTree as xml
import zlib
from pathlib import Path

import drive
import h5py
import numpy as np
from test_trace_memory import Memory

PICTURES = ("latency", "speed", "memory", "prediction")
needs_gnuplot = unittest.skipUnless(shutil.which("gnuplot"), "gnuplot is not installed (package gnuplot-nox)")


def read_png(path):
    """Width, height and the unpacked rows of a PNG file; every check sum must be right."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n", path
    at, head, packed, last = 8, None, b"", None
    while at < len(data):
        size, last = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        assert zlib.crc32(last + body) == struct.unpack(">I", data[at + 8 + size:at + 12 + size])[0], path
        head = body if last == b"IHDR" else head
        packed += body if last == b"IDAT" else b""
        at += 12 + size
    assert last == b"IEND", path
    width, height = struct.unpack(">II", head[:8])
    return width, height, zlib.decompress(packed)


def set_text(attributes, name, value):
    """Writes into the attribute as it is, of its own type and size."""
    place = attributes.get_id(name)
    place.write(np.array(value.encode(), dtype=place.dtype))


def svg_texts(path):
    return ["".join(node.itertext()).strip() for node in xml.parse(path).iter("{http://www.w3.org/2000/svg}text")]


class Plot(drive.BenchTest):
    @classmethod
    def setUpClass(cls):
        cls.kept = Path(tempfile.mkdtemp(prefix="bench-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.kept, ignore_errors=True)
        cls.path = cls.kept / "small.h5"
        runner = drive.BenchTest()
        runner.folder = cls.kept
        result = runner.bench("run", runner.write_config(), "-o", cls.path, "--quiet")
        if result.code != 0:
            raise AssertionError(f"the run failed: {result!r}")

    def setUp(self):
        super().setUp()
        self.copy = self.folder / "copy.h5"
        shutil.copy(self.path, self.copy)
        self.out = self.folder / "pictures"

    def data(self, picture, name):
        lines = (self.out / f"{picture}-data" / name).read_text().splitlines()
        return [line.split() for line in lines if line]

    @needs_gnuplot
    def test_every_picture_is_drawn_in_both_formats(self):
        result = self.expect(self.bench("plot", self.path, "-o", self.out, "--format", "png,svg"), 0)
        names = [f"{picture}.{kind}" for picture in PICTURES for kind in ("png", "svg")]
        self.assertEqual(result.out.split(), [str(self.out / name) for name in names])
        self.assertEqual(sorted(p.name for p in self.out.iterdir()), sorted(names), "nothing else is left")
        for picture in PICTURES:
            width, height, rows = read_png(self.out / f"{picture}.png")
            self.assertEqual(width, 1200)
            self.assertTrue(250 < height < 1200, height)
            self.assertGreater(len(set(rows)), 40, "an empty page has few values")
            texts = svg_texts(self.out / f"{picture}.svg")
            self.assertTrue(any("TP 2" in t and "bfloat16" in t for t in texts), texts)

    @needs_gnuplot
    def test_pictures_say_what_they_show(self):
        self.expect(self.bench("plot", self.path, "-o", self.out, "--format", "svg"), 0)
        for picture, words in {"latency": ("Chunk latency", "depth", "256 eager", "256 graph", "affine fit"),
                               "speed": ("Tokens per second", "256 eager", "prompt of 1k tokens", "graph (lighter)"),
                               "memory": ("Peak memory", "weights", "kv", "as the system counts", "MiB"),
                               "prediction": ("predicted", "measured", "chunk 256")}.items():
            texts = " | ".join(svg_texts(self.out / f"{picture}.svg"))
            for word in words:
                self.assertIn(word, texts, picture)
            self.assertNotIn("estimated", texts)

    @needs_gnuplot
    def test_the_numbers_are_those_of_the_file(self):
        self.expect(self.bench("plot", self.path, "-o", self.out, "--keep-data"), 0)
        with h5py.File(self.path, "r") as f:
            cases = sorted(f["case"].values(), key=lambda g: drive.text(g.attrs["mode"]))
            for row, group in zip(self.data("speed", "speed.dat"), cases):
                self.assertAlmostEqual(float(row[1]) / group.attrs["prefill_tok_s"], 1, places=6)
            for row, group in zip(self.data("memory", "system.dat"), cases):
                self.assertEqual(float(row[1]), group.attrs["peak_driver_bytes"])
            end = {y: float(to) for y, _, to, *_ in self.data("memory", "device.dat")}
            self.assertEqual(list(end.values()), [g.attrs["peak_device_bytes"] for g in cases])
            points = [row for row in self.data("latency", "latency.dat")]
            self.assertEqual(len(points), sum(len(g["chunks"]["chunk"]) for g in cases))
            measured = {round(ns / 1e9, 9) for g in cases for ns in g["chunks"]["latency_ns"][:]}
            self.assertTrue({round(float(p[1]), 9) for p in points} <= measured)
            for row, group in zip(self.data("prediction", "time.dat"), cases):
                self.assertAlmostEqual(float(row[0]), group.attrs["predicted_prefill_s"])

    @needs_gnuplot
    def test_an_estimate_is_hollow_and_said_to_be_one(self):
        config = self.write_config(run__coverage="sample:3")
        self.expect(self.bench("run", config, "-o", self.file, "--quiet"), 0)
        self.expect(self.bench("plot", self.file, "-o", self.out, "--format", "svg"), 0)
        self.assertTrue(any("estimated" in t for t in svg_texts(self.out / "speed.svg")))
        self.assertTrue(any(t.startswith("~") for t in svg_texts(self.out / "speed.svg")))
        self.assertTrue(any("synthetic cache" in t for t in svg_texts(self.out / "latency.svg")))

    @needs_gnuplot
    def test_series_of_one_chunk_size_differ_in_colour(self):
        config = self.write_config(engine__tensor_parallel_size="1, 2")
        self.expect(self.bench("run", config, "-o", self.file, "--quiet"), 0)
        self.expect(self.bench("plot", self.file, "-o", self.out, "--keep-data"), 0)
        settings = (self.out / "latency-data" / "settings.gp").read_text()
        values = dict(line.split(" = ", 1) for line in settings.splitlines())
        looks = [(values[f"COLOR_{i}"], values[f"GRAPH_{i}"]) for i in range(1, 5)]
        self.assertEqual((values["SERIES"], len(set(looks))), ("4", 4))
        self.assertIn("256 eager TP 1", values["SERIES_1"])

    @needs_gnuplot
    def test_more_series_than_colours_differ_in_shape(self):
        sizes = range(64, 320, 32)
        config = self.write_config(engine__max_num_batched_tokens=", ".join(map(str, sizes)))
        self.expect(self.bench("run", config, "-o", self.file, "--quiet"), 0)
        self.expect(self.bench("plot", self.file, "-o", self.out, "--format", "svg"), 0)
        for picture in ("latency", "prediction"):
            uses = xml.parse(self.out / f"{picture}.svg").iter("{http://www.w3.org/2000/svg}use")
            looks = {(use.get("{http://www.w3.org/1999/xlink}href"), use.get("color")) for use in uses}
            colored = {look for look in looks if look[1] not in (None, "rgb(119, 119, 119)")}
            self.assertEqual(len(colored), 2 * len(sizes), picture)

    @needs_gnuplot
    def test_the_deepest_chunk_is_drawn_though_the_answer_took_some_of_its_tokens(self):
        for tokens, chunks in ((1020, 4), (900, 3)):
            config = self.write_config(prompt__source=f"random:{tokens}", engine__enforce_eager="true")
            self.expect(self.bench("run", config, "-o", self.file, "--quiet", "--force"), 0)
            self.expect(self.bench("plot", self.file, "-o", self.out, "--keep-data"), 0)
            depths = {float(row[0]) for row in self.data("latency", "latency.dat")}
            self.assertEqual(depths, {128.0, 384.0, 640.0, *([(768 + tokens) / 2] if chunks == 4 else [])})

    @needs_gnuplot
    def test_a_long_path_is_shown_by_its_beginning_and_its_end(self):
        text = self.folder / ("long" * 12) / "the prompt.txt"
        text.parent.mkdir()
        text.write_text("x" * 600)
        self.expect(self.bench("run", self.write_config(prompt__source=f"file:{text}"), "-o", self.file, "--quiet"), 0)
        self.expect(self.bench("plot", self.file, "-o", self.out, "--format", "svg"), 0)
        for picture in ("speed", "memory"):
            header, = {t for t in svg_texts(self.out / f"{picture}.svg") if t.startswith("prompt of 600 tokens: file:/")}
            self.assertRegex(header, r"^prompt of 600 tokens: .{16}\.\.\..{25}$")
            self.assertTrue(header.endswith("long/the prompt.txt"), header)

    @needs_gnuplot
    def test_pictures_go_beside_the_file_and_replace_older_ones(self):
        for _ in range(2):
            self.expect(self.bench("plot", self.copy), 0)
        self.assertEqual(sorted(p.name for p in (self.folder / "copy-plots").iterdir()),
                         sorted(f"{p}.png" for p in PICTURES))

    @needs_gnuplot
    def test_names_that_mean_something_to_gnuplot_do_no_harm(self):
        self.out = self.folder / "it's `touch bad` \"here\""
        with h5py.File(self.copy, "r+") as f:
            set_text(f["run"].attrs, "cpu_model", "x'; system('touch bad'); y = \"`touch bad`\" @bad")
        self.expect(self.bench("plot", self.copy, "-o", self.out, "--format", "svg"), 0)
        self.assertFalse(list(self.folder.rglob("bad")))
        self.assertIn("x?; system(?touch bad?)", " ".join(svg_texts(self.out / "speed.svg")))

    @needs_gnuplot
    def test_a_terminal_that_this_gnuplot_does_not_have_is_not_asked_for(self):
        self.expect(self.bench("plot", self.path, "-o", self.out, GNUTERM="no_such_terminal"), 0)

    @needs_gnuplot
    def test_numbers_out_of_reason_are_drawn_or_left_out(self):
        """A file may say anything: gnuplot is never given what it stops at."""
        far = {"prompt_tokens": 2**31 - 1, "ttft": 2**63 - 1, "latency": 2**63 - 1, "peak": 2**62, "predicted": 1e300}
        near = {"prompt_tokens": 1, "ttft": 1, "latency": 1, "peak": 1, "predicted": 1e-300}
        odd = {"prompt_tokens": 7, "ttft": 3, "latency": -5, "peak": -(2**62), "predicted": float("nan")}
        for first, second in ((far, near), (near, near), (far, far), (odd, far)):
            shutil.copy(self.path, self.copy)
            with h5py.File(self.copy, "r+") as f:
                for group, values in zip(f["case"].values(), (first, second)):
                    group.attrs.get_id("prompt_tokens").write(np.array(values["prompt_tokens"], "i4"))
                    group.attrs.get_id("predicted_prefill_s").write(np.array(values["predicted"], "f8"))
                    group["ttft"]["ttft_ns"][...] = values["ttft"]
                    group["chunks"]["latency_ns"][...] = values["latency"]
                    group["memory"]["kv_high_water"][...] = values["peak"]
                    group["memory"]["driver_high_water"][...] = values["peak"]
            result = self.bench("plot", self.copy, "-o", self.out, "--format", "png,svg")
            self.expect(result, 0)
            self.assertIn("speed.svg", result.out)

    @needs_gnuplot
    def test_cases_without_a_result_are_counted_not_drawn(self):
        with h5py.File(self.copy, "r+") as f:
            set_text(next(iter(f["case"].values())).attrs, "status", "failed")
        self.expect(self.bench("plot", self.copy, "-o", self.out, "--format", "svg", "--keep-data"), 0)
        self.assertIn("1 of 2 cases have no result to show", svg_texts(self.out / "speed.svg"))
        self.assertEqual(len(self.data("speed", "speed.dat")), 1)

    @needs_gnuplot
    def test_a_wrong_answer_has_no_speed(self):
        self.expect(self.bench("run", self.write_config(), "-o", self.file, "--quiet", program=drive.faulty,
                               BENCH_TEST_FAULT="drop:1", BENCH_TEST_CASE="*_eager_*"), 3)
        self.expect(self.bench("plot", self.file, "-o", self.out, "--format", "svg"), 0)
        rows = svg_texts(self.out / "speed.svg")
        self.assertIn("1 of 2 cases have no result to show", rows)
        self.assertIn("256 graph", rows)
        self.assertNotIn("256 eager", rows)

    @needs_gnuplot
    def test_a_picture_without_data_is_left_out_with_its_reason(self):
        with h5py.File(self.copy, "r+") as f:
            for group in f["case"].values():
                group.attrs["predicted_prefill_s"] = 0.0
        result = self.expect(self.bench("plot", self.copy, "-o", self.out), 0)
        self.assertIn("prediction is left out: no case has a prediction", result.err)
        self.assertEqual(sorted(p.stem for p in self.out.iterdir()), ["latency", "memory", "speed"])

    @needs_gnuplot
    def test_a_run_without_results_has_no_pictures(self):
        with h5py.File(self.copy, "r+") as f:
            for group in f["case"].values():
                set_text(group.attrs, "status", "crashed")
        self.expect(self.bench("plot", self.copy, "-o", self.out), 4, "none of its 2 cases has a result")
        self.assertEqual(list(self.out.iterdir()), [])

    def test_a_missing_gnuplot_is_named_with_its_package(self):
        empty = self.folder / "empty"
        empty.mkdir()
        self.expect(self.bench("plot", self.path, "-o", self.out, PATH=str(empty)), 5, "gnuplot-nox")
        self.assertFalse(self.out.exists())

    def test_a_gnuplot_that_fails_is_quoted(self):
        fake = self.folder / "bin" / "gnuplot"
        fake.parent.mkdir()
        fake.write_text("#!/bin/sh\necho '\"latency.gp\" line 7: no such terminal' >&2\nexit 1\n")
        fake.chmod(0o755)
        self.expect(self.bench("plot", self.path, "-o", self.out, PATH=str(fake.parent)), 5, "no such terminal")
        self.assertEqual(list(self.out.iterdir()), [], "no working folder is left")

    def test_bad_requests_and_files_are_refused(self):
        self.expect(self.bench("plot", self.path, "--format", "png,gif"), 2, "png,gif")
        self.expect(self.bench("plot", self.folder / "none.h5"), 6, "No such file")
        self.expect(self.bench("plot", drive.source / "configs" / "smoke.ini"), 6, "HDF5")
        self.copy.write_bytes(self.path.read_bytes()[:4000])
        self.expect(self.bench("plot", self.copy), 6, "truncated")

    @needs_gnuplot
    def test_a_folder_that_cannot_be_made_is_named(self):
        self.expect(self.bench("plot", self.path, "-o", self.folder / "no" / "such"), 6, "cannot make folder")
        self.expect(self.bench("plot", self.path, "-o", self.copy), 6, "is not a folder")


TRACE_PICTURES = {
    "time_by_op": ("attention", "linear gate_up", "depth in the prompt", "share of it", "no op:"),
    "roofline": ("attention", "linear gate_up", "measured ceilings", "copied", "FLOP/B"),
    "memory_in_use": ("weights", "kv", "activations", "reserved", "ops of chunk 4 in order", "MiB"),
    "memory_of_layer": ("linear gate_up, 0", "gate_up", "partial, rank 0", "reserved, idle", "ops of layer"),
}


class TracePlot(drive.BenchTest):
    """Pictures of spans: every chunk recorded in a pass of its own."""
    devices = 1

    @classmethod
    def setUpClass(cls):
        cls.kept = Path(tempfile.mkdtemp(prefix="bench-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.kept, ignore_errors=True)
        cls.path = cls.kept / "small.h5"
        runner = drive.BenchTest()
        runner.folder = cls.kept
        config = runner.write_config(run__spans="all", engine__devices=cls.devices)
        result = runner.bench("run", config, "-o", cls.path, "--quiet")
        if result.code != 0:
            raise AssertionError(f"the run failed: {result!r}")
        with h5py.File(cls.path, "r") as f:
            cls.cases = [drive.text(row["id"]) for row in f["cases"]]
            group = f["case"][cls.cases[0]]["spans"]
            cls.chunks = {name: group["chunks"][name][:] for name in group["chunks"]}
            ops = zip(group["ops"]["op"], group["ops"]["role"])
            names = [" ".join(filter(None, map(drive.text, row))) for row in ops]
            cls.name = np.array(names)[group["op_id"][:]]
            cls.chunk, cls.ns = group["chunk"][:], group["end_ns"][:] - group["begin_ns"][:]
            cls.flops, cls.bytes = group["flops"][:].astype(float), group["bytes"][:].astype(float)

    def setUp(self):
        super().setUp()
        self.out = self.folder / "pictures"

    def plot(self, *more):
        return self.expect(self.bench("plot", self.path, "--trace", "-o", self.out, *more), 0)

    def data(self, picture, name):
        text = (self.out / f"{self.cases[0]}-{picture}-data" / name).read_text()
        return [line.split(maxsplit=5) for line in text.splitlines()]

    def series(self, picture):
        """Names by number, as the picture was told them."""
        settings = (self.out / f"{self.cases[0]}-{picture}-data" / "settings.gp").read_text()
        named = dict(re.findall(r"SERIES_(\d) = '(.*)'", settings))  # the last word counts
        return {int(k): v for k, v in named.items() if v}

    @needs_gnuplot
    def test_every_case_with_spans_has_its_pictures(self):
        names = [f"{case}-{picture}.{kind}" for case in self.cases for picture in TRACE_PICTURES for kind in ("png", "svg")]
        self.assertEqual(self.plot("--format", "png,svg").out.split(), [str(self.out / name) for name in names])
        self.assertEqual(sorted(p.name for p in self.out.iterdir()), sorted(names), "nothing else is left")
        for name in names:
            if name.endswith("png"):
                width, height, rows = read_png(self.out / name)
                self.assertTrue(width == 1200 and 250 < height < 1200 and len(set(rows)) > 40, name)
            else:
                texts = " | ".join(svg_texts(self.out / name))
                words = next(words for picture, words in TRACE_PICTURES.items() if name.endswith(f"-{picture}.svg"))
                for word in (name[:20], *words):
                    self.assertIn(word, texts)

    @needs_gnuplot
    def test_bars_are_as_high_as_their_chunks_took_and_made_of_their_spans(self):
        self.plot("--case", self.cases[0], "--keep-data")
        series, rows = self.series("time_by_op"), self.data("time_by_op", "time_by_op.dat")
        for i, chunk in enumerate(self.chunks["chunk"]):
            latency = self.chunks["latency_ns"][i] / 1e9
            middle = self.chunks["start_token"][i] + self.chunks["n_tokens"][i] / 2
            mine = [row for row in rows if float(row[0]) == middle]
            self.assertAlmostEqual(max(float(row[3]) for row in mine), latency, places=9)
            for _, _, low, high, whole, number in mine:
                self.assertEqual(float(whole), latency)
                name = series[int(number)]
                if name in self.name:
                    expected = self.ns[(self.chunk == chunk) & (self.name == name)].sum()
                    self.assertAlmostEqual(float(high) - float(low), expected / self.devices / 1e9, places=9)

    @needs_gnuplot
    def test_points_are_the_work_of_their_ops_over_bytes_and_time(self):
        self.plot("--case", self.cases[0], "--keep-data")
        series, rows = self.series("roofline"), self.data("roofline", "roofline.dat")
        points = {series[int(r[3])]: r for r in rows if r[4] == "0" and series[int(r[3])] in self.name}
        self.assertEqual(set(points), set(series.values()) & set(self.name), "a colour is of an op that has a point")
        self.assertGreaterEqual(len(points), 5)
        for name, (x, y, share, *_) in points.items():
            mine = self.name == name
            self.assertAlmostEqual(float(x) / (self.flops[mine].sum() / self.bytes[mine].sum()), 1, places=6)
            self.assertAlmostEqual(float(y) / (self.flops[mine].sum() * 1e9 / self.ns[mine].sum()), 1, places=6)
            self.assertAlmostEqual(float(share), self.ns[mine].sum() / self.devices / self.chunks["latency_ns"].sum(),
                                   places=6)
        named = {" ".join(row[3:]) for row in self.data("roofline", "labels.dat")}
        shown = {name for name in set(self.name) if self.flops[self.name == name].sum() > 0}
        self.assertEqual({name.strip('"') for name in named}, shown - set(points))

    @needs_gnuplot
    def test_an_op_has_its_colour_in_every_picture(self):
        self.plot("--case", self.cases[0], "--keep-data")
        for picture in ("time_by_op", "roofline"):
            names = self.series(picture)
            self.assertEqual([names[i] for i in range(5)],
                             ["attention", "linear qkv", "linear o", "linear gate_up", "linear down"])
            self.assertEqual(names[6], "other ops")
            if self.devices > 1:
                note = (self.out / f"{self.cases[0]}-{picture}-data" / "settings.gp").read_text()
                self.assertIn(f"; mean of {self.devices} devices'", note)

    @needs_gnuplot
    def test_memory_is_stacked_to_the_peak_of_its_chunk(self):
        self.plot("--case", self.cases[0], "--keep-data")
        m = Memory(self.path, self.cases[0])
        peak = {c: m.peak(c, 0, None)[1] for c in range(4)}
        top = {}
        for row in self.data("memory_in_use", "depth.dat"):
            low, high, _, to, _ = map(float, row)
            chunk = int((low + high) / 2 // 256)
            top[chunk] = max(top.get(chunk, 0), to)
        self.assertEqual(top, {c: peak[c].sum() for c in range(4)})
        kv = [i for i, c in enumerate(m.category) if c == "kv"]
        drawn = {chunk: high - low for *_, chunk, low, high in
                 ((int((float(r[0]) + float(r[1])) / 2 // 256), float(r[2]), float(r[3]))
                  for r in self.data("memory_in_use", "depth.dat") if r[4] == "1")}
        self.assertEqual(drawn, {c: peak[c][kv].sum() for c in range(4)})
        tops = [float(row[3]) for row in self.data("memory_in_use", "chunk.dat")]
        self.assertEqual(max(tops), peak[3].sum())

    @needs_gnuplot
    def test_a_row_is_filled_while_its_buffer_is_needed(self):
        self.plot("--case", self.cases[0], "--keep-data")
        m = Memory(self.path, self.cases[0])
        labels = {int(row[0]): " ".join(row[1:]) for row in self.data("memory_of_layer", "buffers.dat")}
        row = next(i for i, text in labels.items() if text.startswith('"gate_up'))
        buffer = next(i for i, name in enumerate(m.names) if name == "gate_up" and m.device[i] == 0)
        with h5py.File(self.path, "r") as f:
            layer = f["case"][self.cases[0]]["spans"]["layer"][:]
        ops = np.flatnonzero((m.chunk == 3) & (m.on == 0))
        middle = layer[ops].max() // 2
        ops = ops[layer[ops] == middle][:48]
        drawn = np.zeros(len(ops))
        for begin, end, number, share, _ in self.data("memory_of_layer", "life.dat"):
            if int(number) == row:
                drawn[int(begin):int(end)] = float(share)
        np.testing.assert_allclose(drawn, m.table[ops, buffer] / m.bytes[buffer], rtol=1e-6)

    @needs_gnuplot
    def test_a_file_without_a_timeline_has_the_other_pictures(self):
        copy = self.folder / "old.h5"
        shutil.copy(self.path, copy)
        with h5py.File(copy, "r+") as f:
            for case in self.cases:
                del f["case"][case]["spans/memory"], f["case"][case]["spans/buffers"]
        result = self.expect(self.bench("plot", copy, "--trace", "-o", self.out), 0)
        self.assertEqual(len(result.out.split()), 2 * len(self.cases))
        self.assertIn("memory_in_use is left out: the file has no memory timeline", result.err)

    @needs_gnuplot
    def test_a_chunk_without_a_timeline_is_missed_by_name(self):
        copy = self.folder / "some.h5"
        shutil.copy(self.path, copy)
        with h5py.File(copy, "r+") as f:
            spans = f["case"][self.cases[0]]["spans"]
            memory = spans["memory"]
            kept = spans["chunk"][:][memory["span"][:]] != 1
            for name in list(memory):
                rows = memory[name][:][kept]
                del memory[name]
                memory[name] = rows
            memory.attrs["rows"] = np.int64(kept.sum())
        for path, said in ((self.path, False), (copy, True)):
            self.expect(self.bench("plot", path, "--trace", "--case", self.cases[0], "-o", self.out, "--keep-data"), 0)
            self.assertEqual(len({row[0] for row in self.data("memory_in_use", "depth.dat")}), 3 if said else 4)
            note = (self.out / f"{self.cases[0]}-memory_in_use-data" / "settings.gp").read_text()
            self.assertEqual("; 3 of them have a memory timeline" in note, said)
            self.assertEqual("have a memory timeline" in note, said)

    @needs_gnuplot
    def test_ceilings_of_any_number_of_digits_are_drawn(self):
        copy = self.folder / "round.h5"
        for roof in (3e12, 2.5e11, 299792458000.0, 7e8):  # 3e+12 as a text is no number to gnuplot
            shutil.copy(self.path, copy)
            with h5py.File(copy, "r+") as f:
                for case in self.cases:
                    f["case"][case].attrs["measured_roof_flops"] = np.float64(roof)
            self.expect(self.bench("plot", copy, "--trace", "--case", self.cases[0], "-o", self.out), 0)

    @needs_gnuplot
    def test_pictures_of_a_trace_with_drops_say_so(self):
        copy = self.folder / "dropped.h5"
        shutil.copy(self.path, copy)
        with h5py.File(copy, "r+") as f:
            f["case"][self.cases[0]]["spans"].attrs.modify("dropped_records", np.int64(5))
        self.expect(self.bench("plot", copy, "--trace", "--case", self.cases[0], "--keep-data", "-o", self.out), 0)
        for picture in TRACE_PICTURES:
            settings = (self.out / f"{self.cases[0]}-{picture}-data" / "settings.gp").read_text()
            self.assertIn("SPANS ARE MISSING", settings, picture)

    @needs_gnuplot
    def test_what_has_no_spans_is_not_drawn(self):
        self.expect(self.bench("plot", self.path, "--case", self.cases[0]), 2, "--trace")
        self.expect(self.bench("plot", self.path, "--trace", "--case", "nobody", "-o", self.out), 2, "nobody")
        config = self.write_config(run__spans="none", engine__enforce_eager="true")
        self.expect(self.bench("run", config, "-o", self.file, "--quiet"), 0)
        self.expect(self.bench("plot", self.file, "--trace", "-o", self.out), 4, "run.spans=all")
        self.assertEqual(list(self.out.iterdir()), [])


class TracePlotOfTwoDevices(TracePlot):
    devices = 2


if __name__ == "__main__":
    unittest.main()
