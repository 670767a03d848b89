"""A result file that was cut short or has flipped bits: every reader ends by itself, in seconds, with what it says about
the whole file or with an I/O error that names the file. Never a crash, never a hang, never another number."""
import os
import random
import shutil
import unittest
import zlib

import h5py

import drive

tries = drive.campaign or 6
seed = int(os.environ.get("BENCH_TEST_SEED", random.randrange(10**6)))
most_seconds = 60 if drive.sanitized else 20


class DamagedFiles(drive.BenchTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(seed)
        config = self.write_config(model__path="needle:4x4x64", engine__threads=1, check__spot=4, run__spans="all")
        self.expect(self.bench("run", config, "-o", self.file), 0)
        self.good = self.file.read_bytes()
        case = list(self.cases())[0]
        self.readers = [["show"], ["show", "--json"], ["show", "--verbose", "--case", case],
                        ["show", "--json", "--case", case]]
        self.readers += [["show", "--csv"], ["show", "--csv", "--case", case], ["export", "--llama-bench"]]
        self.readers += [["trace", "--case", case], ["trace", "--csv", "--case", case]]
        self.readers += [["trace", "--case", case, "--perfetto", str(self.folder / "trace.json")]]
        self.readers += [["trace", "--case", case, "--sqlite", str(self.folder / "trace.sqlite")]]
        if shutil.which("gnuplot"):
            self.readers += [["plot", "-o", str(self.folder)], ["plot", "--trace", "-o", str(self.folder)]]

        self.whole = self.answers(self.good)

    def answers(self, data):
        """What each reader says about these bytes."""
        damaged = self.folder / "damaged.h5"
        damaged.write_bytes(data)
        return [self.finish(self.start(command, damaged, *rest), timeout=most_seconds) for command, *rest in self.readers]

    def read(self, data, what):
        """Whether any reader noticed. One that did not says what it says about the whole file."""
        noticed = False
        for (command, *rest), result, whole in zip(self.readers, self.answers(data), self.whole):
            with self.subTest(f"{what}, seed {seed}: {command} {rest}"):
                # 2: the case is not in what is left of the table; 4: none has a result that is ok, or has spans
                expected = {"plot": (0, 4, 6), "export": (0, 4, 6), "trace": (0, 2, 4, 6)}.get(command, (0, 2, 6))
                if result.code == 5 and "without SQLite" in result.err:
                    continue
                self.assertIn(result.code, expected, repr(result))
                if result.code:
                    self.assertIn("damaged.h5", result.err)
                else:
                    self.assertEqual(result.out, whole.out)
            noticed = noticed or result.code != 0
        return noticed

    def test_cut_short(self):
        for i in range(tries):
            n = 0 if i == 0 else len(self.good) - 1 if i == 1 else self.random.randrange(len(self.good))
            self.assertTrue(self.read(self.good[:n], f"{n} of {len(self.good)} bytes"))
        drive.tell_faults("a result file cut short", tries, 0, "an I/O error that names the file")

    def test_a_flipped_bit_in_a_table_is_always_noticed(self):
        # each piece of a table carries the checksum of its compression; only the bits that fill up the last byte before
        # it mean nothing
        case = list(self.cases())[0]
        ends = []
        with h5py.File(self.file, "r") as f:
            for name in ("chunks/latency_ns", "chunks/begin_ns", "memory/driver_after", "decode/latency_ns"):
                piece = f["case"][case][name].id.get_chunk_info(0)
                ends.append((piece.byte_offset, piece.byte_offset + piece.size))
        for begin, end in ends:
            whole = zlib.decompress(self.good[begin:end])
            while True:
                data = bytearray(self.good)
                data[self.random.randrange(begin, end)] ^= 1 << self.random.randrange(8)
                try:
                    if zlib.decompress(data[begin:end]) != whole:
                        break
                except zlib.error:
                    break
            (self.folder / "damaged.h5").write_bytes(data)
            self.expect(self.bench("show", "--verbose", "--case", case, self.folder / "damaged.h5"), 6, "damaged.h5")

    def test_a_flipped_bit_in_an_attribute_or_a_text_is_always_noticed(self):
        case = list(self.cases())[0]
        with h5py.File(self.file, "r") as f:
            texts = [f["run"].attrs["cpu_model"], f["run"].attrs["config_sha256"], f["case"][case].attrs["id"],
                     f["run"]["config"][()], f["run"]["argv"][()], f["case"][case]["outputs"]["text"][()]]
        for text in texts:
            at = self.good.index(text if isinstance(text, bytes) else text.encode())
            data = bytearray(self.good)
            data[at] ^= 1 << self.random.randrange(8)
            (self.folder / "damaged.h5").write_bytes(data)
            self.expect(self.bench("show", "--verbose", "--case", case, self.folder / "damaged.h5"), 6, "damaged.h5")

    def test_flipped_bits(self):
        noticed = 0
        for i in range(tries):
            data = bytearray(self.good)
            places = [self.random.randrange(len(data)) for _ in range(1 if i % 2 else 20)]
            for at in places:
                data[at] ^= 1 << self.random.randrange(8)
            noticed += self.read(data, f"flipped at {places}")
        drive.tell_faults("1 or 20 flipped bits in a result file", tries, 0,
                          f"an I/O error in {noticed} of {tries}, in the others every reader says what it says about the "
                          "whole file")


if __name__ == "__main__":
    unittest.main()
