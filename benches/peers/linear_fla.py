"""Times flash-linear-attention's Triton kernels on the problems of `tune_linear -- table`.

    python3 benches/peers/linear_fla.py [f32|f16|bf16]

Needs a CUDA device, PyTorch, and the packages flash-linear-attention and fla-core. The log-decays are constant per head,
as Lightning Attention's and RetNet's are; layouts are the packages' own, [B, T, H, D]. Medians of single calls, each timed
by CUDA events after warm-up.
"""

import sys
import torch
import fla
from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def median_us(call, repeats=30):
    for _ in range(5):
        call()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return sorted(times)[len(times) // 2]


def problem(batch, tokens, heads, dim, dtype):
    torch.manual_seed(1)
    q, k, v = (torch.rand(batch, tokens, heads, dim, device="cuda").mul(2).sub(1).to(dtype) for _ in range(3))
    return q, k, v, torch.linspace(-0.1, -1e-3, heads, device="cuda")


def main():
    names = sys.argv[1:] or ["f32", "bf16"]
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "fla", fla.__version__)
    with torch.no_grad():
        for name in names:
            for dim in (64, 128):
                for batch, heads in ((1, 1), (1, 16), (4, 32)):
                    for tokens in (1024, 4096, 16384, 65536):
                        if batch * heads * tokens * dim >= 1 << 30:
                            continue
                        q, k, v, g = problem(batch, tokens, heads, dim, DTYPES[name])
                        us = median_us(lambda: chunk_simple_gla(q, k, v, g_gamma=g, scale=1.0))
                        print(f"{us:9.1f} us {us * 1e3 / (batch * heads * tokens):8.3f} ns/token  chunk_simple_gla"
                              f" {batch}x{heads}x{tokens}x{dim} {name}", flush=True)
                for batch in (1, 32):
                    q, k, v, g = problem(batch, 1, 32, dim, DTYPES[name])
                    state = torch.zeros(batch, 32, dim, dim, device="cuda")
                    us = median_us(lambda: fused_recurrent_simple_gla(
                        q, k, v, g_gamma=g, scale=1.0, initial_state=state, output_final_state=True))
                    print(f"{us:9.1f} us fused_recurrent_simple_gla step {batch}x32x{dim} {name}", flush=True)


if __name__ == "__main__":
    main()
