#!/usr/bin/env python3
"""Attention beside its peers, on one GPU in one run: for each shape ours, then every way of calling flash-attn-4 and cuDNN,
then ours again. Wants PyTorch, flash-attn-4 (flash_attn.cute), nvidia-cudnn-frontend and nvidia-ml-py; a peer that is not
there has no column entries. Prints a Markdown table; --json FILE keeps every figure.

    tests/gpu/peers.py --bench build/bench [--long S S] [--short S S] [--json FILE] [--only sustained|others] [SHAPE...]

SHAPE as `bench kernels --op attention --shape` takes it. --long and --short: seconds of warm-up and seconds measured, of
the three sustained shapes and of the others. All are measured alike: runs follow one another, the next is always issued
before the host waits for one, and the clocks and joules are read while they run. TFLOP/s are of executed pairs, over all
runs; a rest between runs would be in them. A way that is 10 % behind another one of the shape in a second's look is not
measured for longer: its figure has a ~."""
import argparse
import importlib.metadata
import json
import math
import statistics
import subprocess
import sys
import threading
import time

SHAPES = ["T=32768,N=204800,H=28,K=4,D=128", "T=32768,N=1048576,H=28,K=4,D=128", "T=131072,N=1048576,H=28,K=4,D=128",
          "T=32768,N=614400,H=16,K=4,D=64", "T=8192,N=8192,H=28,K=4,D=128", "T=32768,N=32768,H=28,K=4,D=128",
          "T=32768,N=65536,H=28,K=4,D=128", "T=8192,N=614400,H=28,K=4,D=128", "T=32768,N=614400,H=28,K=4,D=128",
          "T=8192,N=1048576,H=28,K=4,D=128", "T=32768,N=1048576,H=7,K=1,D=128", "T=131072,N=1048576,H=7,K=1,D=128"]
SUSTAINED = SHAPES[:3]
LOOK = (0.3, 1)  # seconds of warm-up and seconds measured
BEHIND = 0.9
BLOCK = 8192  # rows of a call


def flops_of(s):
    pairs = s["T"] * (s["N"] - s["T"]) + s["T"] * (s["T"] + 1) // 2
    return 4 * s["H"] * s["D"] * pairs


# ---- peers: functions of q [1, T, H, D] and k, v [1, N, K, D], causal, aligned at the end

def flash_attention_4():
    from flash_attn.cute import flash_attn_func

    def call(q, k, v):
        flash_attn_func(q, k, v, causal=True)
    return call


def cudnn_attention(torch):
    import cudnn
    handle, plans = cudnn.create_handle(), {}

    def heads_first(x):
        return x.transpose(1, 2)

    def plan_for(q, k, v):
        graph = cudnn.pygraph(io_data_type=cudnn.data_type.BFLOAT16, intermediate_data_type=cudnn.data_type.FLOAT,
                              compute_data_type=cudnn.data_type.FLOAT, handle=handle)
        tensors = [graph.tensor_like(heads_first(x).detach()) for x in (q, k, v)]
        square = q.shape[1] == k.shape[1]
        out, _ = graph.sdpa(name="attention", q=tensors[0], k=tensors[1], v=tensors[2], is_inference=True,
                            attn_scale=q.shape[3] ** -0.5, use_causal_mask=square, use_causal_mask_bottom_right=not square)
        memory = torch.empty(q.shape, device=q.device, dtype=q.dtype)
        out.set_output(True).set_dim(list(heads_first(memory).shape)).set_stride(list(heads_first(memory).stride()))
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        graph.check_support()
        graph.build_plans()
        workspace = torch.empty(max(1, graph.get_workspace_size()), device=q.device, dtype=torch.uint8)
        return graph, tensors, out, memory, workspace

    def call(q, k, v):
        key = tuple((tuple(x.shape), tuple(x.stride())) for x in (q, k))
        if key not in plans:
            plans[key] = plan_for(q, k, v)
        graph, (tq, tk, tv), out, memory, workspace = plans[key]
        graph.execute({tq: heads_first(q), tk: heads_first(k), tv: heads_first(v), out: heads_first(memory)}, workspace,
                      handle=handle)
    return call


def in_rows(call):
    def rows(q, k, v):
        first = k.shape[1] - q.shape[1]
        for r in range(0, q.shape[1], BLOCK):
            call(q[:, r:r + BLOCK], k[:, :first + r + BLOCK], v[:, :first + r + BLOCK])
    return rows


def per_kv_head(call):
    def heads(q, k, v):
        group = q.shape[2] // k.shape[2]
        for j in range(k.shape[2]):
            call(q[:, :, group * j:group * (j + 1)], k[:, :, j:j + 1], v[:, :, j:j + 1])
    return heads


def ways_of(torch):
    """Names and calls of the peers that are here."""
    ways = {}
    for name, make in (("fa4", flash_attention_4), ("cudnn", lambda: cudnn_attention(torch))):
        try:
            call = make()
        except Exception as why:  # whatever a library raises where it cannot be had
            print(f"{name}: {why!r}", file=sys.stderr)
            continue
        ways[name, "whole"] = call
        ways[name, "rows"] = in_rows(call)
        if name == "fa4":
            ways[name, "per kv head"] = per_kv_head(call)
    return ways


# ---- measuring

class Clocks:
    """SM clock now and then, and joules from begin to end, read by a thread."""

    def __init__(self, torch):
        import pynvml
        pynvml.nvmlInit()
        self.nvml = pynvml
        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid  # NVML counts otherwise
        self.gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")

    def energy(self):
        return self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.gpu) * 1e-3

    def begin(self):
        self.mhz, self.quit = [], threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.joules, self.since = self.energy(), time.monotonic()
        self.thread.start()

    def look(self):
        while not self.quit.wait(0.1):
            self.mhz.append(self.nvml.nvmlDeviceGetClockInfo(self.gpu, self.nvml.NVML_CLOCK_SM))

    def end(self):
        joules, seconds = self.energy() - self.joules, time.monotonic() - self.since
        self.quit.set()
        self.thread.join()
        return joules / seconds, statistics.mean(self.mhz) if self.mhz else float("nan")


def measure(torch, clocks, run, flops, warmup, seconds):
    """Two runs are in flight at any time; rates are over all runs that ended while it was measured."""
    ended = []

    def issue():
        run()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    flying = [issue(), issue()]
    begin, watts, mhz = time.monotonic(), math.nan, math.nan
    measuring = False
    try:
        while True:
            flying.append(issue())
            flying[0].synchronize()
            now = time.monotonic()
            if not measuring and now >= begin + warmup:
                measuring, begin = True, now
                clocks.begin()
            if measuring:
                ended.append(flying[0])
                if len(ended) > 1 and now >= begin + seconds:
                    break
            flying.pop(0)
    finally:
        if measuring:
            watts, mhz = clocks.end()
    torch.cuda.synchronize()
    rate = flops * (len(ended) - 1) / (ended[0].elapsed_time(ended[-1]) * 1e-3)
    return {"flops_per_s": rate, "power_w": watts, "sm_clock_mhz": mhz, "joules_per_flop": watts / rate, "runs": len(ended) - 1}


def look_or_measure(torch, clocks, run, flops, best, warmup, seconds):
    """best: the rate of the shape's fastest way so far, or 0."""
    if best > 0:
        look = measure(torch, clocks, run, flops, *LOOK)
        if look["flops_per_s"] < BEHIND * best:
            return dict(look, look=True)
    return measure(torch, clocks, run, flops, warmup, seconds)


def ours(bench, shape, s, warmup, seconds):
    """None where the program has no figure; what it says is on stderr."""
    command = [bench, "kernels", "--device", "cuda", "--op", "attention", "--shape", shape, "--json", "--warmup", str(warmup),
               "--seconds", str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout) if done.returncode == 0 else {"kernels": []}
    if not found["kernels"]:
        print(f"{shape}: no figure of ours, exit code {done.returncode}", file=sys.stderr)
        return None
    kernel = found["kernels"][0]
    return dict(kernel, flops_per_s=flops_of(s) / kernel["mean_s"], median_flops_per_s=kernel["flops_per_s"],
                product_flops_per_s=found["product_flops_per_s"])


def measure_shape(torch, clocks, ways, bench, text, times):
    s = {k: int(v) for k, v in (part.split("=") for part in text.split(","))}
    figures = {"shape": text, "before": ours(bench, text, s, *times)}
    q = torch.randn(1, s["T"], s["H"], s["D"], device="cuda", dtype=torch.bfloat16)
    k = torch.randn(1, s["N"], s["K"], s["D"], device="cuda", dtype=torch.bfloat16)
    v = torch.randn_like(k)
    best = 0
    for (name, way), call in ways.items():
        if (way == "rows" and s["T"] <= BLOCK) or (way == "per kv head" and s["K"] == 1):
            continue
        try:
            figure = look_or_measure(torch, clocks, lambda: call(q, k, v), flops_of(s), best, *times)
            figures[f"{name} {way}"], best = figure, max(best, figure["flops_per_s"])
        except Exception as why:  # a shape that a library does not take
            print(f"{text}: {name} {way}: {why!r}", file=sys.stderr)
    del q, k, v
    torch.cuda.empty_cache()
    figures["after"] = ours(bench, text, s, *times)
    return figures


# ---- the table

def rate_text(figure):
    return f"{'~' if figure.get('look') else ''}{figure['flops_per_s'] * 1e-12:.1f}" if figure else "-"


def number(value):
    return math.nan if value is None else value


def facts_text(*figures):
    return " | ".join(", ".join(f"{scale * number(f[key]):{form}}" if f else "-" for f in figures)
                      for key, scale, form in (("sm_clock_mhz", 1, ",.0f"), ("power_w", 1, ".0f"), ("joules_per_flop", 1e12, ".3f")))


def row_of(f):
    fa4 = {way: f.get(f"fa4 {way}") for way in ("whole", "rows", "per kv head")}
    cudnn = [f[k] for k in ("cudnn whole", "cudnn rows") if k in f]
    peers = [x for x in fa4.values() if x] + cudnn
    best = max(peers, key=lambda x: x["flops_per_s"]) if peers else None
    mine = [x["flops_per_s"] for x in (f["before"], f["after"]) if x]
    ratio = statistics.mean(mine) / best["flops_per_s"] if mine and best else math.nan
    best_cudnn = max(cudnn, key=lambda x: x["flops_per_s"]) if cudnn else None
    return (f"| {f['shape']} | {rate_text(f['before'])}, {rate_text(f['after'])} | {facts_text(f['before'], f['after'])} | "
            + " | ".join(rate_text(x) for x in fa4.values()) + f" | {rate_text(best_cudnn)} | "
            + (facts_text(best) if best else "- | - | -") + f" | {ratio:.3f} |")


HEAD = ("| T, N, heads | ours | MHz | W | pJ/FLOP | fa4 whole | fa4 in rows | fa4 per kv head | cuDNN | best peer's MHz | its W | "
        "its pJ/FLOP | ours / best |")


def keep(path, rows):
    if path:
        with open(path, "w", encoding="utf-8") as out:
            json.dump(rows, out, indent=1)


def versions():
    found = []
    for name in ("flash-attn-4", "nvidia-cutlass-dsl", "nvidia-cudnn-frontend", "nvidia-cudnn-cu13"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            pass
    return ", ".join(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="build/bench", help="the program")
    parser.add_argument("--long", nargs=2, type=float, default=(3.5, 7), metavar="S", help="of the sustained shapes (3.5 7)")
    parser.add_argument("--short", nargs=2, type=float, default=(0.7, 2), metavar="S", help="of the others (0.7 2)")
    parser.add_argument("--json", help="file for every figure")
    parser.add_argument("--only", choices=("sustained", "others"), help="of the usual shapes")
    parser.add_argument("shapes", nargs="*", metavar="SHAPE")
    a = parser.parse_args()
    shapes = a.shapes or [x for x in SHAPES if a.only in (None, "sustained" if x in SUSTAINED else "others")]
    keep(a.json, [])
    import torch
    torch.manual_seed(0)
    clocks, ways, rows = Clocks(torch), ways_of(torch), []
    print(f"{torch.cuda.get_device_name()}; PyTorch {torch.__version__}, {versions()}\n\n{HEAD}\n{'|---' * (HEAD.count('|') - 1)}|", flush=True)
    for shape in shapes:
        rows.append(measure_shape(torch, clocks, ways, a.bench, shape, a.long if shape in SUSTAINED else a.short))
        print(row_of(rows[-1]), flush=True)
        keep(a.json, rows)
    products = [f[k]["product_flops_per_s"] * 1e-12 for f in rows for k in ("before", "after") if f[k]]
    if products:
        print(f"\nA product of 8192^3 by cuBLAS before each of ours: {min(products):.0f} to {max(products):.0f} TFLOP/s.")


if __name__ == "__main__":
    main()
