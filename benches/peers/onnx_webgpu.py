"""ONNX Runtime's attention on its WebGPU execution provider, driven by wgpu-attention-peers.

    pip install onnxruntime-webgpu onnx numpy

Speaks the protocol of `src/protocol.rs`: a JSON object a line, requests on standard input, replies on standard output. The
program starts it by itself (`wgpu-attention-peers --python PROGRAM`); there is nothing to be run by hand.

As many queries as keys, or no causal mask: the operator MultiHeadAttention. Fewer queries, causal: GroupQueryAttention with
all but the last keys as its past, in a buffer that past and present share, as a decoding loop has it.
"""

import json
import os
import sys
import time
import traceback

# What libraries print must not get between the replies, C++ ones included.
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

PROVIDER = "WebGpuExecutionProvider"
DEVICE = "webgpu"


def say(kind, **fields):
    print(json.dumps({kind: fields}), file=replies, flush=True)


class Session:
    """A graph of one node, on WebGPU or nowhere."""

    def __init__(self, op, attributes, inputs, outputs, domain="com.microsoft"):
        # inputs and outputs: name → (NumPy type, shape)
        def info(name, tensor):
            dtype, shape = tensor
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

        # An input without a type is left out, and so has no name.
        names = [name if tensor else "" for name, tensor in inputs.items()]
        node = helper.make_node(op, names, list(outputs), domain=domain, **attributes)
        given = [info(name, tensor) for name, tensor in inputs.items() if tensor]
        graph = helper.make_graph([node], "attention", given, [info(*output) for output in outputs.items()])
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        options = onnxruntime.SessionOptions()
        # A processor's time must not pass for a GPU's.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=[PROVIDER], enable_fallback=0)
        if PROVIDER not in self.session.get_providers():
            raise RuntimeError("no WebGPU adapter: the provider did not start")

    def binding(self):
        return self.session.io_binding()

    def run(self, binding):
        self.session.run_with_iobinding(binding)


class Wait:
    """Runs end before the device is done. The queue is in order: reading one number back waits for all before it."""

    def __init__(self):
        shape = (np.float32, [1])
        self.session = Session("Neg", {}, {"x": shape}, {"y": shape}, domain="")
        self.input = {"x": np.zeros(1, np.float32)}

    def __call__(self):
        self.session.session.run(None, self.input)


class Prepared:
    """A problem whose tensors are on the device."""

    def __init__(self, task):
        self.task = task
        self.dtype = {"f16": np.float16, "f32": np.float32}[task["dtype"]]
        heads, kv_heads = task["heads"], task["kv_heads"]
        q = self.load("q", heads, task["queries"], task["head_dim"])
        k = self.load("k", kv_heads, task["keys"], task["head_dim"])
        v = self.load("v", kv_heads, task["keys"], task["value_dim"])
        if task["causal"] and task["queries"] < task["keys"]:
            self.with_past(q, k, v)
        elif heads == kv_heads:
            self.without_past(q, k, v)
        else:
            raise RuntimeError("grouped heads without a past are not tried here")

    def load(self, name, heads, rows, dim):
        numbers = np.fromfile(os.path.join(self.task["folder"], name), self.dtype)
        return numbers.reshape(self.task["batch"], heads, rows, dim)

    def tensor(self, array):
        return (array.dtype, list(array.shape))

    def without_past(self, q, k, v):
        task = self.task
        self.kernel = "MultiHeadAttention"
        arrays = {name: rows_first(x) for name, x in (("query", q), ("key", k), ("value", v))}
        output = (self.dtype, [task["batch"], task["queries"], task["heads"] * task["value_dim"]])
        attributes = {"num_heads": task["heads"], "unidirectional": int(task["causal"])}
        inputs = {name: self.tensor(x) for name, x in arrays.items()}
        self.session = Session(self.kernel, attributes, inputs, {"o": output})
        self.bound = self.session.binding()
        for name, x in arrays.items():
            self.bound.bind_cpu_input(name, x)  # copies it to the device
        self.bound.bind_output("o", DEVICE)
        self.session.run(self.bound)

    def with_past(self, q, k, v):
        task = self.task
        self.kernel = "GroupQueryAttention"
        batch, keys, past = task["batch"], task["keys"], task["keys"] - task["queries"]
        arrays = {
            "query": rows_first(q), "key": rows_first(k[:, :, past:]), "value": rows_first(v[:, :, past:]),
            "past_key": np.ascontiguousarray(k[:, :, :past]), "past_value": np.ascontiguousarray(v[:, :, :past]),
            "seqlens_k": np.full(batch, keys - 1, np.int32), "total_sequence_length": np.array([keys], np.int32),
        }
        inputs = {name: self.tensor(x) for name, x in arrays.items()}
        # The first run has the past alone, the others a buffer for past and present.
        for name, x in (("past_key", k), ("past_value", v)):
            inputs[name] = (self.dtype, [batch, task["kv_heads"], None, x.shape[3]])
        outputs = {"o": (self.dtype, [batch, task["queries"], task["heads"] * task["value_dim"]])}
        for name, x in (("present_key", k), ("present_value", v)):
            outputs[name] = self.tensor(x)
        attributes = {"num_heads": task["heads"], "kv_num_heads": task["kv_heads"]}
        self.session = Session(self.kernel, attributes, inputs, outputs)
        first = self.session.binding()
        for name, x in arrays.items():
            first.bind_cpu_input(name, x)
        for name in outputs:
            first.bind_output(name, DEVICE)
        self.session.run(first)
        _, present_key, present_value = first.get_outputs()
        self.bound = self.session.binding()
        for name, x in arrays.items():
            if not name.startswith("past"):
                self.bound.bind_cpu_input(name, x)
        self.bound.bind_output("o", DEVICE)
        for name, cache in (("key", present_key), ("value", present_value)):
            self.bound.bind_ortvalue_input("past_" + name, cache)
            self.bound.bind_ortvalue_output("present_" + name, cache)
        self.session.run(self.bound)

    def write_output(self):
        task = self.task
        o = self.bound.copy_outputs_to_cpu()[0].reshape(task["batch"], task["queries"], task["heads"], -1)
        np.ascontiguousarray(o.transpose(0, 2, 1, 3)).tofile(os.path.join(task["folder"], "o"))

    def seconds(self, repeats, wait):
        start = time.perf_counter()
        for _ in range(repeats):
            self.session.run(self.bound)
        wait()
        return (time.perf_counter() - start) / repeats


def rows_first(x):
    """[B, H, N, D] as [B, N, H · D]."""
    batch, heads, rows, dim = x.shape
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(batch, rows, heads * dim)


def answer(request, state):
    if "prepare" in request:
        state["prepared"] = None  # frees the last problem first: two large ones may not fit
        state["prepared"] = Prepared(request["prepare"])
        state["prepared"].write_output()
        say("prepared", kernel=state["prepared"].kernel)
    else:
        asked = request["time"]
        if asked["clock"] != "host":
            raise RuntimeError("the device's clock cannot be read through ONNX Runtime")
        say("timed", seconds=state["prepared"].seconds(asked["repeats"], state["wait"]))


def main():
    try:
        state = {"wait": Wait(), "prepared": None}
        state["wait"]()
    except Exception as error:
        return say("failed", message=f"no WebGPU device for ONNX Runtime: {error}")
    # It does not tell which adapter it took.
    say("hello", implementation="onnxruntime webgpu", program="onnxruntime-webgpu", version=onnxruntime.__version__,
        adapter=None, device_clock=False)
    for line in sys.stdin:
        try:
            answer(json.loads(line), state)
        except Exception as error:
            traceback.print_exc()
            say("failed", message=f"{type(error).__name__}: {error}")


try:
    import numpy as np
    import onnxruntime
    from onnx import helper
except ImportError as error:
    say("failed", message=f"{error}; it takes: pip install onnxruntime-webgpu onnx numpy")
    sys.exit()

if PROVIDER in onnxruntime.get_available_providers():
    main()
else:
    say("failed", message=f"onnxruntime {onnxruntime.__version__} is not the package onnxruntime-webgpu")
