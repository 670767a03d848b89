"""The shape of the tree, checked: includes point downwards only, every third-party header lives in one file, file
names are unique, the public doors of the engine are the only ones that the harness uses."""
import os
import re
import sys
from collections import defaultdict
from pathlib import Path

root = Path(os.environ.get("BENCH_SOURCE_DIR", Path(__file__).resolve().parents[2]))
layers = ["kernels", "engine", "harness"]

# What a file of a folder may include of the folders below it. Everything of its own folder is allowed. The processor's
# features, the list of GPUs and NVML tell of the machine, not of kernels: the harness asks them for the facts of a run.
# `bench kernels` runs ops alone, and sums over devices.
doors = {
    "kernels": set(),
    "engine": {f"kernels/{name}.h" for name in ("error", "types", "ops", "backend", "cost", "op_memory", "bf16", "random", "random_matrix",
                                        "rendezvous")},
    "harness": {"engine/engine.h", "engine/needle.h", "engine/sum_bench.h", "kernels/cpu_features.h", "kernels/gpu_list.h", "kernels/nvml.h",
                "kernels/nvtx.h", "kernels/counters.h", "kernels/activity/activity.h", "kernels/activity/activity_log.h",
                "kernels/activity/op_place.h", "kernels/op_bench.h", "kernels/op_runs.h"},
}
# Headers that are not ours: who may include them. One home each.
homes = {
    "hdf5.h": {"harness/h5file.c"},
    "sqlite3.h": {"harness/trace_sqlite.c"},
    "ini.h": {"harness/config.c"},
    "curl/curl.h": {"harness/download.c"},
    "oneapi/dnnl/dnnl.h": {"kernels/linear/linear_onednn.c"},
    "nvtx3/nvToolsExt.h": {"kernels/nvtx.c"},
    "nvtx3/nvToolsExtPayload.h": {"kernels/nvtx.c"},
    "dnnl.h": {"kernels/linear/linear_onednn.c"},
    "dlfcn.h": {"kernels/nvml.c", "kernels/cublas_door_cuda.c", "kernels/run_time_library.c",
                "harness/library_probe.c"},
}
# Libraries whose plain C interface several files use on purpose.
shared = {"jansson.h", "xxhash.h"}
# CUDA's headers: in CUDA C and in the C files that drive a GPU.
gpu_headers = re.compile(r"(cuda|cublas|cudnn|nccl|cupti|mma)\w*\.h")
gpu_files = re.compile(r"kernels/cuda/|\.cuh?$|_(cuda|cublas|cudnn|nccl)\.c$")

system = set("""assert.h ctype.h dirent.h errno.h fcntl.h float.h fnmatch.h immintrin.h inttypes.h langinfo.h limits.h
locale.h math.h poll.h pthread.h sched.h signal.h stdarg.h stdatomic.h stdbool.h stddef.h stdint.h stdio.h stdlib.h
string.h strings.h time.h unistd.h cpuid.h getopt.h glob.h termios.h regex.h libgen.h semaphore.h""".split())


def problems():
    names = defaultdict(list)
    third_party = defaultdict(set)
    for layer in layers:
        for path in sorted((root / layer).rglob("*")):
            if path.suffix not in {".c", ".h", ".inc", ".cu", ".cuh"}:
                continue
            where = path.relative_to(root).as_posix()
            names[path.name].append(where)
            for number, line in enumerate(path.read_text().splitlines(), 1):
                found = re.match(r'\s*#\s*include\s+([<"])([^>"]+)[>"]', line)
                if not found:
                    continue
                kind, header = found.groups()
                if kind == "<":
                    if header not in system and not header.startswith(("sys/", "linux/", "asm/")):
                        third_party[header].add(where)
                    continue
                target = header.split("/")[0]
                if target not in layers:
                    yield f"{where}:{number}: \"{header}\" is not named from the root of the tree"
                elif target != layer and header not in doors[layer]:
                    yield f"{where}:{number}: {layer}/ may not include {header}"
    for name, places in names.items():
        if len(places) > 1:
            yield f"{name} exists {len(places)} times: {', '.join(places)}"
    for header, users in third_party.items():
        if header in shared:
            continue
        if gpu_headers.fullmatch(header):
            for user in sorted(users):
                if not gpu_files.search(user):
                    yield f"<{header}> belongs into files for a GPU, found in {user}"
            continue
        allowed = homes.get(header)
        if allowed is not None and not users <= allowed:
            yield f"<{header}> belongs in {', '.join(sorted(allowed))} alone, found in {', '.join(sorted(users))}"
        if allowed is None and len(users) > 1:
            yield f"<{header}> is included by {len(users)} files: {', '.join(sorted(users))}"


found = list(problems())
print("\n".join(found) or "the hierarchy holds")
sys.exit(1 if found else 0)
