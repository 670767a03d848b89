"""bench trace --memory: peaks, who held them and the lines are what the file says, computed here by h5py and numpy
alone; and what the file says is no more than what the devices have."""
import csv
import io
import json
import re
import unittest

import drive
import h5py
import numpy as np
from test_trace import Recorded

CATEGORIES = ("weights", "kv", "activations", "workspace", "comm", "graph", "other")
MIB = 1 << 20


class Memory:
    """What each op of a case's traced chunks had in use: [op, buffer]."""

    def __init__(self, path, case):
        with h5py.File(path, "r") as f:
            group = f["case"][case]
            spans, buffers, uses = group["spans"], group["spans/buffers"], group["spans/memory"]
            self.names = [drive.text(name) for name in buffers["name"]]
            self.category = [drive.text(name) for name in buffers["category"]]
            self.rank, self.device, self.bytes = (buffers[k][:] for k in ("rank", "device", "bytes"))
            self.chunk, self.on = spans["chunk"][:], spans["device"][:]
            self.uses = list(zip(*(uses[k][:] for k in ("span", "buffer", "bytes"))))
            self.measured = {k: group["memory"][k][:] for k in group["memory"]}
        self.table = np.zeros((len(self.chunk), len(self.names)), np.int64)
        rows, now, key = iter(self.uses), np.zeros(len(self.names), np.int64), None
        row = next(rows)
        for i in range(len(self.chunk)):
            if (self.chunk[i], self.on[i]) != key:
                key, now = (self.chunk[i], self.on[i]), np.zeros_like(now)
            while row and row[0] == i:
                now[row[1]] = row[2]
                row = next(rows, None)
            self.table[i] = now

    def counted(self, device, rank):
        """Buffers of a rank of a device, or (None) of the device."""
        return (self.device == device) & ((self.rank == rank) | (self.rank == -1) | (rank is None))

    def peak(self, chunk, device, rank):
        """The op at which most is in use, and what each buffer has then."""
        ops = np.flatnonzero((self.chunk == chunk) & (self.on == device))
        best = ops[np.argmax(self.table[ops][:, self.counted(device, rank)].sum(axis=1))]
        return best, np.where(self.counted(device, rank), self.table[best], 0)


class MemoryViews:
    def setUp(self):
        super().setUp()
        self.memory = Memory(self.path, self.case)

    def test_no_buffer_has_more_in_use_than_it_has_and_all_is_accounted(self):
        m = self.memory
        self.assertTrue((m.table <= m.bytes).all() and (m.table >= 0).all())
        accounted = sum(m.measured[c][(m.measured["repeat"] == 0) & (m.measured["chunk"] == 0)].sum()
                        for c in CATEGORIES)
        spans = m.bytes.sum() - accounted  # what the traced pass has beside a measured one: room for spans
        self.assertGreater(spans, 0)
        for category in ("weights", "kv", "activations", "workspace", "comm"):
            mine = sum(n for n, c in zip(m.bytes, m.category) if c == category)
            first = (m.measured["repeat"] == 0) & (m.measured["chunk"] == 0)
            self.assertEqual(mine, m.measured[category][first].sum(), category)

    def test_keys_and_values_grow_with_the_prompt(self):
        m = self.memory
        kv = [i for i, c in enumerate(m.category) if c == "kv"]
        at_end = [m.table[np.flatnonzero(m.chunk == c)[-1]][kv].sum() for c in sorted(set(m.chunk))]
        self.assertEqual(len(at_end), 4)
        self.assertTrue(all(n == (i + 1) * at_end[0] for i, n in enumerate(at_end)), at_end)

    def test_the_peaks_are_those_of_the_file(self):
        m, rows = self.memory, self.table("at the peak of each traced chunk", "--memory")
        heads, rows = rows[0], [row for row in rows if row[0].isdigit()]
        shown = [c for c in CATEGORIES if c in heads]
        self.assertEqual(shown, [c for c in CATEGORIES if c in m.category])
        parts = set(zip(m.chunk, m.on))
        alone = {d for d in set(m.device) if len(set(m.rank[(m.device == d) & (m.rank >= 0)])) == 1}
        self.assertEqual(len(rows), sum(1 if device in alone else 2 for _, device in parts))
        for row in rows:
            device = self.cut_device(row, 2)
            chunk, rank = int(row[0]) - 1, None if row[2] == "all" else int(row[2])
            _, held = m.peak(chunk, device, rank)
            self.near(row[3], held.sum() / MIB)
            self.near(row[4], m.bytes[m.counted(device, rank)].sum() / MIB)
            for cell, category in zip(row[5:], shown):
                self.near(cell, sum(n for n, c in zip(held, m.category) if c == category) / MIB)

    def test_who_held_the_highest_peak_is_named(self):
        m, out = self.memory, self.trace("--memory", "--verbose").out
        chunk, rank = map(int, re.search(r"at the peak of chunk (\d+) on rank (\d+) \(", out).groups())
        device = int(m.device[m.rank == rank][0])
        _, held = m.peak(chunk - 1, device, rank)
        others = [m.peak(c, d, r)[1].sum() for c in set(m.chunk) for d, r in set(zip(m.device, m.rank)) if r >= 0]
        self.assertEqual(held.sum(), max(others))
        self.assertRegex(" ".join(out.split()), r"kv [\d.]+ [KM]iB, activations [\d.]+ [KM]iB \(\w")
        rows = [row for row in self.table("at the peak of chunk", "--memory") if row[1:2] and row[1] in CATEGORIES]
        expected = sorted(((n, b) for n, b, mine in zip(held, m.bytes, m.counted(device, rank)) if mine), reverse=True)
        self.assertEqual(len(rows), len(expected))
        for row, (in_use, reserved) in zip(rows, expected):
            self.near(row[3], in_use / MIB)
            self.near(row[5], reserved / MIB)
            self.near(row[6], (reserved - in_use) / MIB)

    def test_the_systems_figure_stands_beside_it(self):
        m = self.memory.measured
        rows = [row for row in self.table("the same chunks in the measured repeats", "--memory") if row[0].isdigit()]
        self.assertEqual([int(row[0]) for row in rows], sorted(set(self.memory.chunk + 1)))
        for row in rows:
            mine = np.flatnonzero((m["chunk"] == int(row[0]) - 1) & (m["rank"] == -1))
            at = mine[np.argmax(m["driver_high_water"][mine])]
            self.near(row[2], m["driver_after"][at] / MIB)
            self.near(row[4], m["unaccounted"][at] / MIB)

    def test_the_lines_are_the_changes(self):
        m = self.memory
        lines = list(csv.DictReader(io.StringIO(self.trace("--memory", "--csv").out)))
        self.assertEqual(len(lines), len(m.uses))
        for line, (span, buffer, in_use) in zip(lines, m.uses):
            self.assertEqual((line["buffer"], int(line["bytes"])), (m.names[buffer], in_use))
            self.assertEqual((int(line["chunk"]), int(line["device"])), (m.chunk[span], m.on[span]))

    def test_curves_in_trace_events_are_the_sums_of_their_categories(self):
        m, written = self.memory, self.folder / "trace.json"
        for only in (None, 2):
            self.trace("--perfetto", written, *(["--chunk", str(only + 1)] if only else []))
            trace = json.loads(written.read_text())
            drawn = {(e["pid"] - 1, e["name"], round(e["ts"] * 1000)): e["args"]["bytes"]
                     for e in trace["traceEvents"] if e["ph"] == "C"}
            origin = int(trace["otherData"]["begin_monotonic_ns"])
            with h5py.File(self.path, "r") as f:
                begin = f["case"][self.case]["spans"]["begin_ns"][:]
            expected, last = {}, {}
            for i in np.flatnonzero(m.chunk == only) if only else range(len(m.chunk)):
                for category in CATEGORIES:
                    mine = [k for k, c in enumerate(m.category) if c == category and m.device[k] == m.on[i]]
                    key, now = (m.on[i], m.chunk[i], category), m.table[i, mine].sum()
                    if last.get(key) != now:
                        expected[(m.on[i], f"memory: {category}", begin[i] - origin)] = now
                    last[key] = now
            # before a chunk without a timeline, and after the last, nothing is known: the curves fall to 0
            with h5py.File(self.path, "r") as f:
                table = {name: values[:] for name, values in f["case"][self.case]["spans"]["chunks"].items()}
            shown = sorted({chunk for _, chunk, _ in last})
            ends = {int(c): int(b + n) - origin for c, b, n in zip(table["chunk"], table["begin_ns"], table["latency_ns"])}
            for (device, chunk, category), now in last.items():
                if chunk + 1 not in shown and now > 0:
                    expected[(device, f"memory: {category}", ends[chunk])] = 0
            self.assertEqual(drawn, expected)
            self.assertIn(0, drawn.values())

    def test_a_chunk_can_be_looked_at_alone(self):
        rows = self.table("at the peak of each traced chunk", "--memory", "--chunk", "2")
        self.assertEqual({row[0] for row in rows if row[0].isdigit()}, {"2"})

    def test_what_is_reserved_beside_a_measured_chunk_is_explained(self):
        m = self.memory.measured
        first = (m["repeat"] == 0) & (m["chunk"] == 0)
        other = sum(n for n, c in zip(self.memory.bytes, self.memory.category) if c == "other")
        told = re.search(r"the traced ones have ([\d.]+) KiB more reserved \(other\): room for their spans",
                         self.trace("--memory").out)
        self.assertAlmostEqual(float(told[1]), (other - m["other"][first].sum()) / 1024, delta=0.0501)

    def test_memory_that_has_no_room_is_left_out_and_named(self):
        for more in ((), ("--verbose",)):
            self.assert_fits("--memory", *more)
        self.assertRegex(self.trace("--memory", width=80).out, r"no room for: other \(MiB\)")

    def test_a_chunk_without_a_timeline_is_told_with_those_that_have_one(self):
        def cut(spans):
            chunk, uses = spans["chunk"][:], {k: spans["memory"][k][:] for k in spans["memory"]}
            keep = chunk[uses["span"]] != 1
            for name, values in uses.items():
                attributes = dict(spans["memory"][name].attrs)
                del spans["memory"][name]
                spans["memory"].create_dataset(name, data=values[keep]).attrs.update(attributes)
            spans["memory"].attrs.modify("rows", np.int64(keep.sum()))
        path = self.copy(cut)
        self.expect(self.bench("trace", path, "--case", self.case, "--memory", "--chunk", 2), 2,
                    "chunk 2 of", "chunks that have one: 1, 3-4")
        self.trace("--memory", "--chunk", 3, path=path)


class MemoryOfOneDevice(MemoryViews, Recorded):
    def test_a_file_without_a_timeline_says_so(self):
        def drop(spans):
            del spans["memory"]
        self.expect(self.bench("trace", self.copy(drop), "--case", self.case, "--memory"), 4, "no memory timeline")
        self.trace(path=self.copy(drop))

    def test_a_timeline_that_makes_no_sense_is_refused(self):
        for name, row, value in (("memory/span", 0, 10**9), ("memory/buffer", 1, 999), ("memory/bytes", 2, -1),
                                 ("memory/span", 5, 10**6), ("buffers/rank", 0, 99), ("buffers/bytes", 0, -5),
                                 ("buffers/buffer", 0, 3), ("buffers/category", 0, b"nothing")):
            def change(spans):
                spans[name][row] = value
            self.expect(self.bench("trace", self.copy(change), "--case", self.case, "--memory"), 6, "spans/" + name[:6]
                        if name != "buffers/category" else "a category")

    def test_the_case_points_to_it(self):
        shown = self.expect(self.bench("show", self.path, "--case", self.case), 0).out
        self.assertIn("bench trace FILE --case ID --memory", shown)

    def test_it_is_a_view_of_its_own(self):
        target = self.folder / "t.json"
        self.expect(self.bench("trace", self.path, "--case", self.case, "--memory", "--perfetto", target), 2, "--memory")


class MemoryOfTwoDevices(MemoryViews, Recorded):
    values = {"engine__devices": 2}


if __name__ == "__main__":
    unittest.main(verbosity=2)
