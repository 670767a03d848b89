"""The engine's forward pass against a transformer in numpy that shares no code with it: weights from a Philox of its
own, NeoX rotation, grouped queries, biases, dual chunk attention from its definition, float64 throughout. Tensor
parallel 1 to 8 (8 repeats the kv heads), chunk sizes from one token to more than the prompt, eager and recorded."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

PROGRAM = Path(os.environ.get("BENCH_BUILD_DIR", "build")) / "tests" / "forward_logits"
SEED = 20251
TOLERANCE = 1e-5  # of the largest logit of a row
# Place of each tensor in the engine's numbering, which is part of what makes a random model.
TENSORS = ("embed", "input_norm", "q", "q_bias", "k", "k_bias", "v", "v_bias", "o", "post_norm", "gate", "up", "down",
           "final_norm", "head")


# ---- weights

def philox(key, counter):
    """Philox4x32-10 of Salmon et al. 2011; counter: uint64 array [4, n] of 32-bit words."""
    mask = np.uint64(0xFFFFFFFF)
    c = list(counter)
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), p1 & mask,
             (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c)


def almost_normal(stream, n):
    """Sum of a word's four bytes, centred, divided by its standard deviation."""
    index = np.arange((n + 3) // 4, dtype=np.uint64)
    zero = np.zeros_like(index)
    words = philox(SEED, [index, zero, zero + np.uint64(stream & 0xFFFFFFFF), zero + np.uint64(stream >> 32)])
    total = sum((words >> np.uint64(8 * i)) & np.uint64(255) for i in range(4)).astype(np.int64) - 510
    return (total.T.reshape(-1)[:n].astype(np.float32) * np.float32(0.0067658083))


def bf16(x):
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))) & np.uint64(0xFFFF0000)
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def tensor(name, layer, shape, mean, deviation):
    z = almost_normal(layer << 8 | TENSORS.index(name), int(np.prod(shape)))
    return bf16(np.float32(mean) + np.float32(deviation) * z).reshape(shape)


class Model:
    def __init__(self, shape, tied=False, dual=None):
        self.L, self.C, self.H, self.K, self.D, self.F, self.V = shape
        self.dual = dual
        C, q, kv, F = self.C, self.H * self.D, self.K * self.D, self.F
        per = lambda fan_in: np.float32(1 / np.sqrt(fan_in))
        self.embed = tensor("embed", 0, (self.V, C), 0, per(C) if tied else 1)
        self.head = self.embed if tied else tensor("head", 0, (self.V, C), 0, per(C))
        self.final_norm = tensor("final_norm", 0, C, 1, 0.1)
        self.layers = [{
            "input_norm": tensor("input_norm", i, C, 1, 0.1), "post_norm": tensor("post_norm", i, C, 1, 0.1),
            "q": tensor("q", i, (q, C), 0, per(C)), "q_bias": tensor("q_bias", i, q, 0, 0.1),
            "k": tensor("k", i, (kv, C), 0, per(C)), "k_bias": tensor("k_bias", i, kv, 0, 0.1),
            "v": tensor("v", i, (kv, C), 0, per(C)), "v_bias": tensor("v_bias", i, kv, 0, 0.1),
            "o": tensor("o", i, (C, q), 0, per(q)), "gate": tensor("gate", i, (F, C), 0, per(C)),
            "up": tensor("up", i, (F, C), 0, per(C)), "down": tensor("down", i, (C, F), 0, per(F)),
        } for i in range(self.L)]
        self.name = "random:" + "x".join(map(str, shape)) + ("/tied" if tied else "")
        self.name += "/dual:%d:%d:%d" % dual if dual else ""

    # ---- the transformer

    def norm(self, x, gain):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float64(np.float32(1e-5))) * gain

    def rotate(self, x, phase):
        """x: [T, heads, D]; phase: integers [T]."""
        half = self.D // 2
        angle = phase[:, None].astype(np.float64) * 1e7 ** (-2.0 * np.arange(half) / self.D)
        cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def scores(self, q, k, factor):
        """[H, T, T] before masking. Keys at phase j mod Lc; the query's phase depends on where the key lies."""
        T = len(q)
        p = np.arange(T)
        repeated = lambda x: np.repeat(x, self.H // self.K, axis=1)
        product = lambda a, b: np.einsum("thd,shd->hts", a, b)
        if not self.dual:
            return product(self.rotate(q, p), repeated(self.rotate(k, p))) / np.sqrt(self.D)
        Lc, w, _ = self.dual
        keys = repeated(self.rotate(k, p % Lc))
        intra, successive, inter = (product(self.rotate(q, phase), keys) for phase in
                                    (p % Lc, np.minimum(p % Lc + Lc, Lc + w), np.full(T, Lc + w)))
        between = p[:, None] // Lc - p[None, :] // Lc
        return np.where(between <= 0, intra, np.where(between == 1, successive, inter)) * factor / np.sqrt(self.D)

    def logits(self, ids, prompt):
        """Of every position. prompt: tokens that were there before the first was generated."""
        T = len(ids)
        length = np.maximum(np.arange(T) + 1, prompt)  # S as it was when a position was computed
        f = np.maximum(1, 0.1 * np.log(length / self.dual[2]) + 1) if self.dual else np.ones(T)
        x = self.embed[ids]
        for w in self.layers:
            y = self.norm(x, w["input_norm"])
            q = (y @ w["q"].T + w["q_bias"]).reshape(T, self.H, self.D)
            k = (y @ w["k"].T + w["k_bias"]).reshape(T, self.K, self.D)
            v = (y @ w["v"].T + w["v_bias"]).reshape(T, self.K, self.D)
            s = self.scores(q, k, f[None, :, None] * f[None, None, :])  # the query's f and the key's
            s = np.where(np.arange(T)[None, :] <= np.arange(T)[:, None], s, -np.inf)
            s = np.exp(s - s.max(axis=-1, keepdims=True))
            s /= s.sum(axis=-1, keepdims=True)
            attended = np.einsum("hts,shd->thd", s, np.repeat(v, self.H // self.K, axis=1)).reshape(T, -1)
            x = x + attended @ w["o"].T
            y = self.norm(x, w["post_norm"])
            gate = y @ w["gate"].T
            x = x + (gate / (1 + np.exp(-gate)) * (y @ w["up"].T)) @ w["down"].T
        return self.norm(x, self.final_norm) @ self.head.T


# ---- the engine

def engine(model, ids, positions, tp, chunk, mode="eager", decode=0):
    """Logits at positions, logits after the prompt and after each generated token, the generated ids."""
    numbers = np.concatenate([[len(ids)], ids, [len(positions)], positions]).astype(np.int32).tobytes()
    command = [PROGRAM, model.name, SEED, tp, chunk, "f32", mode, "dual" if model.dual else "dense", decode]
    done = subprocess.run([str(c) for c in command], input=numbers, stdout=subprocess.PIPE, check=True)
    out, V, n = np.frombuffer(done.stdout, np.float32), model.V, len(positions) + 1
    assert len(out) == n * V + decode * (V + 1), (len(out), n, V, decode)
    steps = out[n * V:].reshape(decode, V + 1)
    return np.concatenate([out[:n * V].reshape(n, V), steps[:, 1:]]), steps[:, 0].astype(int)


def compare(what, got, expected):
    error = np.abs(got - expected).max(axis=-1) / np.abs(expected).max(axis=-1)
    print(f"{what}: {error.max():.2e} of the largest logit, over {len(error)} rows")
    return bool(np.isfinite(got).all() and error.max() <= TOLERANCE)


def check(model, tokens, tps, chunks, decode=3):
    ids = np.random.default_rng(7).integers(0, model.V, tokens)
    positions = [0, 1, 6, 7, 127, 128, tokens // 2, tokens - 2]
    expected = model.logits(ids, tokens)
    ok = True
    for tp in tps:
        for chunk in chunks:
            got, _ = engine(model, ids, positions, tp, chunk)
            ok &= compare(f"{model.name} tp {tp} chunk {chunk}", got, expected[positions + [tokens - 1]])
        for mode in ("eager", "graph"):  # pruned, and on into the answer
            got, generated = engine(model, ids, [], tp, chunks[-2], mode, decode)
            longer = model.logits(np.concatenate([ids, generated]), tokens)[tokens - 1:]
            ok &= compare(f"{model.name} tp {tp} {mode}, pruned, {decode} generated", got, longer)
            ok &= list(generated) == list(longer[:-1].argmax(axis=-1))
    return ok


SHAPE = (3, 64, 8, 4, 16, 96, 256)
results = [
    check(Model(SHAPE), 300, (1, 2, 4, 8), (1, 7, 128, 1000)),
    check(Model(SHAPE, tied=True), 200, (1, 8), (7, 128, 1000)),
    check(Model(SHAPE, dual=(128, 64, 256)), 600, (1, 4, 8), (7, 128, 200, 1000)),
]
print("the forward pass agrees with numpy" if all(results) else "the forward pass is wrong")
sys.exit(0 if all(results) else 1)
