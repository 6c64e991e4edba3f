#!/usr/bin/env python3
"""PyTorch's attention and flash-linear-attention on a CUDA device, on the problems of `wgpu-attention bench`.

    python3 benches/peers/torch_cuda.py [--quick] [--only TEXT] [--json FILE]

scaled_dot_product_attention runs with each of its back ends by itself, flex_attention compiled, for a sliding window;
flash-linear-attention (packages flash-linear-attention and fla-core) where it is installed. What refuses a problem is named
with its reason. Needs a CUDA device and PyTorch, and no network.

Every run is timed by CUDA events around it, after a buffer larger than the L2 cache was overwritten, so nothing is found in
there. Then the device waits for a millisecond, in which Python launches the run: its kernels follow one another as fast as the
device can. Calls that take Python longer still show it. Given are the median and the interval that holds it with 95 % confidence by order statistics.
Outputs of attention are held against float64 on a few rows before they are timed; a wrong one gets no number.

Results are printed and written as they come: a run that is ended early leaves what it has.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import math
import os
import signal
import time
import warnings

HEADS = 32
# Of a step of linear attention.
LINEAR_HEADS = 16
WINDOW = 256
DTYPES = ("f16", "bf16", "f32")
SDPA = {"flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "math": "MATH"}
# RMS error that a storage type may cost, relative to the output; f32 products may be in TF32 only where asked for.
TOLERANCE = {"f16": 2e-3, "bf16": 1e-2, "f32": 1e-5}
FLUSH_BYTES = 256 << 20
# What the two-step forms hold of scores or masks at most.
SCORE_BYTES = 8 << 30
LEAST_RUNS, MOST_RUNS = 6, 200
# About a millisecond.
WAIT_CYCLES = 2_000_000


@dataclasses.dataclass(frozen=True)
class Entry:
    """A problem and who is to solve it."""
    suite: str
    name: str
    implementation: str
    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    dtype: str
    mask: str

    def path(self):
        return f"{self.suite}/{self.name} {self.implementation}"

    def is_linear(self):
        return self.suite.startswith("linear")

    def pairs(self):
        """Visible (query, key) pairs of a head."""
        n = self.queries
        full = n * self.keys
        if n == 1 or self.mask == "full":
            return full
        hidden_before = 0 if self.mask == "causal" else max(n - WINDOW, 0) * (max(n - WINDOW, 0) + 1) // 2
        return full - n * (n - 1) // 2 - hidden_before

    def flops(self):
        if self.is_linear():
            return 4.0 * self.head_dim**2 * self.queries * self.batch * self.heads
        return 4.0 * self.head_dim * self.pairs() * self.batch * self.heads

    def bytes(self):
        size = 4 if self.dtype == "f32" else 2
        rows = 2 * self.heads * self.queries + 2 * self.kv_heads * self.keys
        # A step of decoding reads and writes its state.
        state = 8 * self.heads * self.head_dim**2 if self.suite == "linear decode" else 0
        return float(self.batch * (rows * self.head_dim * size + state))

    def problem(self):
        fields = ("batch", "heads", "kv_heads", "queries", "keys", "head_dim", "dtype", "mask")
        return {
            "op": "linear" if self.is_linear() else "dense", **{field: getattr(self, field) for field in fields},
            "value_dim": self.head_dim, "weighting": None if self.is_linear() else "softmax", "kept": None,
        }


def prefill(quick):
    lengths = (512, 4096) if quick else (512, 1024, 2048, 4096, 8192, 16384, 32768)
    # Each is compiled anew by flex_attention, which takes seconds; a window is a mask tensor to the others.
    windows = (8192,) if quick else (8192, 32768)
    for dtype in DTYPES:
        for dim in (64, 128):
            for mask in ("causal", "full", f"window {WINDOW}"):
                window = mask.startswith("window")
                for n in windows if window else lengths:
                    name = f"D{dim}/{mask}/{dtype}/softmax/N{n}"
                    for way in ["torch flex", "torch efficient"] if window else [f"torch {b}" for b in SDPA]:
                        yield Entry("prefill", name, way, 1, HEADS, HEADS, n, n, dim, dtype, mask)


def decode(quick):
    lengths = (4096, 131072) if quick else (1024, 4096, 16384, 65536, 131072)
    for dtype in DTYPES:
        for dim in (64, 128):
            for heads, kv_heads in ((32, 32), (64, 8)):
                for keys in lengths:
                    name = f"D{dim}/{heads}:{kv_heads}/{dtype}/softmax/Nk{keys}"
                    for back_end in SDPA:
                        way = f"torch {back_end}"
                        yield Entry("decode", name, way, 1, heads, kv_heads, 1, keys, dim, dtype, "causal")


def linear(quick):
    lengths = (4096, 65536) if quick else (1024, 4096, 16384, 65536)
    for dtype in ("f32", "bf16"):
        for dim in (64, 128):
            for batch, heads in ((1, 1), (1, LINEAR_HEADS), (4, 32)):
                for n in lengths:
                    # The longest would hold more than 2^30 elements a tensor.
                    if batch * heads * n * dim < 1 << 30:
                        name = f"D{dim}/decay of a head/{dtype}/N{n}/B{batch}H{heads}"
                        yield Entry("linear", name, "fla chunk_simple_gla", batch, heads, heads, n, n, dim, dtype, "causal")


def linear_decode(_quick):
    for dtype in ("f32", "bf16"):
        for dim in (64, 128):
            for batch in (1, 8):
                name = f"D{dim}/decay of a head/{dtype}/N1/B{batch}H{LINEAR_HEADS}"
                way = "fla fused_recurrent_simple_gla"
                yield Entry("linear decode", name, way, batch, LINEAR_HEADS, LINEAR_HEADS, 1, 1, dim, dtype, "causal")


def entries(quick, only):
    every = [entry for suite in (prefill, decode, linear, linear_decode) for entry in suite(quick)]
    # Short problems of all suites come first: a run that is cut short has some of everything.
    every.sort(key=lambda entry: entry.flops() + 100 * entry.bytes())
    return [entry for entry in every if not only or any(text in entry.path() for text in only)]


def interval(values):
    """Median, and the narrowest interval of order statistics that holds it with 95 % confidence, or all where too few."""
    values = sorted(values)
    n = len(values)
    coverage = lambda below: 1 - 2 * sum(math.comb(n, k) for k in range(below + 1)) / 2**n
    below = max((k for k in range(n // 2) if coverage(k) >= 0.95), default=0)
    return {
        "median": (values[(n - 1) // 2] + values[n // 2]) / 2, "low": values[below], "high": values[n - 1 - below],
        "confidence": min(0.95, max(0.0, coverage(below))), "runs": n,
    }


class Cuda:
    """The device, what is loaded on it, and the clock."""

    def __init__(self, seconds):
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("error: PyTorch finds no CUDA device here; --list shows what would be run")
        self.torch = torch
        self.seconds = seconds
        self.dtypes = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
        # Anything else would not be f32.
        torch.backends.cuda.matmul.allow_tf32 = False
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
        self.compiled_flex = None

    def describe(self):
        major, minor = self.torch.cuda.get_device_capability()
        return {
            "name": self.torch.cuda.get_device_name(), "backend": "CUDA", "driver": f"CUDA {self.torch.version.cuda}",
            "driver_info": f"compute capability {major}.{minor}", "type": "discrete GPU",
        }

    def random(self, seed, *shape, dtype):
        generator = self.torch.Generator(device="cuda").manual_seed(seed)
        numbers = self.torch.rand(*shape, device="cuda", generator=generator)
        return numbers.mul_(2).sub_(1).to(self.dtypes[dtype])

    def call(self, entry):
        """What to run, and its RMS error where it is checked."""
        if entry.is_linear():
            return self.linear(entry), None
        run, (q, k, v) = self.dense(entry)
        return run, self.checked(entry, run(), q, k, v)

    def dense(self, entry):
        q = self.random(1, entry.batch, entry.heads, entry.queries, entry.head_dim, dtype=entry.dtype)
        kv = (entry.batch, entry.kv_heads, entry.keys, entry.head_dim)
        k, v = self.random(2, *kv, dtype=entry.dtype), self.random(3, *kv, dtype=entry.dtype)
        way = entry.implementation.removeprefix("torch ")
        return (self.flex if way == "flex" else functools.partial(self.sdpa, way))(entry, q, k, v), (q, k, v)

    def sdpa(self, back_end, entry, q, k, v):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        mask = None
        if entry.mask.startswith("window"):
            limit(entry.queries * entry.keys, "a mask tensor")
            place = self.torch.arange(entry.queries, device="cuda")
            back = place[:, None] - place[None, :]
            mask = (back >= 0) & (back < WINDOW)
        if back_end == "math":
            limit(4 * entry.batch * entry.heads * entry.queries * entry.keys, "scores")
        options = {"is_causal": entry.mask == "causal" and entry.queries > 1}
        if entry.kv_heads != entry.heads:
            options["enable_gqa"] = True
        attend = self.torch.nn.functional.scaled_dot_product_attention
        chosen = getattr(SDPBackend, SDPA[back_end])

        def run():
            with sdpa_kernel(chosen):
                return attend(q, k, v, attn_mask=mask, **options)

        return run

    def flex(self, entry, q, k, v):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        if self.compiled_flex is None:
            # Beyond its limit of recompilations it would run uncompiled, without a word.
            for name in ("recompile_limit", "cache_size_limit"):
                if hasattr(self.torch._dynamo.config, name):
                    setattr(self.torch._dynamo.config, name, 256)
            self.compiled_flex = self.torch.compile(flex_attention, dynamic=False)
        window = lambda b, h, i, j: (j <= i) & (i - j < WINDOW)
        block_mask = create_block_mask(window, None, None, entry.queries, entry.keys, device="cuda")
        return lambda: self.compiled_flex(q, k, v, block_mask=block_mask)

    def linear(self, entry):
        from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

        shape = (entry.batch, entry.queries, entry.heads, entry.head_dim)
        q, k, v = (self.random(seed, *shape, dtype=entry.dtype) for seed in (1, 2, 3))
        # Constant for a head, as in Lightning Attention and RetNet.
        decay = self.torch.linspace(-0.1, -1e-3, entry.heads, device="cuda")
        if entry.suite == "linear":
            return lambda: chunk_simple_gla(q, k, v, g_gamma=decay, scale=1.0)
        state = self.torch.zeros(entry.batch, entry.heads, entry.head_dim, entry.head_dim, device="cuda")
        step = functools.partial(fused_recurrent_simple_gla, initial_state=state, output_final_state=True)
        return lambda: step(q, k, v, g_gamma=decay, scale=1.0)

    def checked(self, entry, o, q, k, v):
        """RMS error against float64 on some rows of the first and the last head."""
        torch = self.torch
        squares = reference = 0.0
        rows = torch.linspace(0, entry.queries - 1, min(entry.queries, 16), device="cuda").long().unique()
        for head in (0, entry.heads - 1):
            kv_head = head * entry.kv_heads // entry.heads
            scores = q[0, head, rows].double() @ k[0, kv_head].double().T / math.sqrt(entry.head_dim)
            back = (rows + entry.keys - entry.queries)[:, None] - torch.arange(entry.keys, device="cuda")[None, :]
            if entry.mask != "full":
                scores = scores.masked_fill(back < 0, -math.inf)
            if entry.mask.startswith("window"):
                scores = scores.masked_fill(back >= WINDOW, -math.inf)
            expected = scores.softmax(-1) @ v[0, kv_head].double()
            squares += (o[0, head, rows].double() - expected).square().sum().item()
            reference += expected.square().sum().item()
        rms = math.sqrt(squares / reference)
        if not rms <= TOLERANCE[entry.dtype]:
            raise RuntimeError(f"WRONG: rms {rms:.1e} (≤ {TOLERANCE[entry.dtype]:.0e})")
        return rms

    def time(self, run):
        """Seconds of runs, enough of them or as many as there is time for."""
        torch = self.torch
        begin = time.monotonic()
        for _ in range(3):
            run()
        torch.cuda.synchronize()
        measured = []
        while len(measured) < MOST_RUNS:
            events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(LEAST_RUNS)]
            for start, end in events:
                self.flush.zero_()
                torch.cuda._sleep(WAIT_CYCLES)
                start.record()
                run()
                end.record()
            torch.cuda.synchronize()
            measured += [start.elapsed_time(end) * 1e-3 for start, end in events]
            now = interval(measured)
            if time.monotonic() - begin > self.seconds or (now["high"] - now["low"]) / 2 < 0.01 * now["median"]:
                break
        return interval(measured)


def limit(size, what):
    if size > SCORE_BYTES:
        raise RuntimeError(f"it holds {what}: {size / 2**30:.0f} GiB, more than {SCORE_BYTES >> 30}")


class Report:
    """Prints each result as it comes, and keeps the file current."""

    def __init__(self, cuda, path):
        self.path = path
        packages = {}
        for name in ("triton", "fla"):
            try:
                packages[name] = __import__(name).__version__
            except Exception as error:
                packages[name] = None
                print(f"without {name}: {first_line(error)}", flush=True)
        self.content = {
            "format": "wgpu-attention-bench/1",
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "program": {"name": "torch", "version": cuda.torch.__version__}, "packages": packages,
            "device": cuda.describe(), "results": [],
        }
        device = self.content["device"]
        print(f"{device['name']}, torch {cuda.torch.__version__}, {device['driver']}, fla {packages['fla']}", flush=True)

    def add(self, entry, seconds=None, rms=None, failure=None):
        self.content["results"].append({
            "suite": entry.suite, "name": entry.name, "implementation": entry.implementation, "tier": None, "kernel": None,
            "problem": entry.problem(), "seconds": seconds, "clock": "device" if seconds else None,
            "flops": entry.flops(), "bytes": entry.bytes(), "bound": None, "fraction_of_bound": None,
            "error": None if rms is None else {"rms": rms}, "failure": failure,
        })
        if seconds:
            median, low, high = (seconds[key] * 1e6 for key in ("median", "low", "high"))
            rates = f"{entry.flops() / median / 1e6:8.2f} TFLOP/s {entry.bytes() / median / 1e3:8.1f} GB/s"
            line = f"{median:10.1f} µs ({low:.1f} … {high:.1f}) {rates}"
        else:
            line = f"no number: {failure}"
        print(f"{entry.suite:<13} {entry.name:<46} {entry.implementation:<31} {line}", flush=True)
        if self.path:
            # A whole file or the one before, never half of one.
            with open(self.path + ".new", "w") as file:
                json.dump(self.content, file, indent=1)
            os.replace(self.path + ".new", self.path)


def measured(cuda, entry):
    """What Report.add takes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run, rms = cuda.call(entry)
            return {"seconds": cuda.time(run), "rms": rms}
        except Exception as error:
            # PyTorch gives the reasons of a refusal as warnings.
            reasons = dict.fromkeys(str(warning.message).split(" (Triggered")[0] for warning in caught)
            return {"failure": "; ".join([first_line(error), *reasons])[:600]}


def first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"[:300]


def positive(text):
    number = float(text)
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"`{text}`: a positive number of seconds, below a million")
    return number


def arguments():
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--quick", action="store_true", help="fewer lengths")
    parser.add_argument("--only", action="append", metavar="TEXT",
                        help="only entries with TEXT in `suite/name implementation`, as --list prints them; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the entries and stop; needs no GPU and no PyTorch")
    parser.add_argument("--json", metavar="FILE", help="write the results to FILE too")
    parser.add_argument("--seconds", type=positive, default=0.25, metavar="S", help="for each entry [default: 0.25]")
    parser.add_argument("--limit", type=positive, default=330, metavar="S",
                        help="begin no entry after so many seconds, and say which were left out [default: 330]")
    parsed = parser.parse_args()
    chosen = entries(parsed.quick, parsed.only)
    if not chosen:
        parser.error(f"--only {' --only '.join(parsed.only)}: no entry has that in its name; see --list")
    return parsed, chosen


def main():
    begin = time.monotonic()
    parsed, chosen = arguments()
    if parsed.list:
        # `… | head` is no error.
        if hasattr(signal, "SIGPIPE"):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        print("\n".join(entry.path() for entry in chosen))
        return
    try:
        cuda = Cuda(parsed.seconds)
    except ImportError as error:
        raise SystemExit(f"error: {error}; install PyTorch, or see --list")
    report = Report(cuda, parsed.json)
    with cuda.torch.no_grad():
        for entry in chosen:
            if time.monotonic() - begin > parsed.limit:
                report.add(entry, failure=f"not run: the {parsed.limit:.0f} s of --limit were over")
                continue
            report.add(entry, **measured(cuda, entry))
            # Tensors of the last problem must not make the next one run out of memory.
            if entry.bytes() > 1 << 28:
                cuda.torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
