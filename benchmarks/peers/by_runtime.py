"""Peers that run a model: ONNX Runtime, OpenVINO, ncnn. They have no gradients.

The weights are constants of the model, as they are in use, so packing them is not timed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.cases import Arrays, Case
from benchmarks.peers.base import Peer, Prepared


def inputs_of(arrays: Arrays) -> dict[str, Any]:
    """Return what changes from call to call."""
    given = {"input": arrays.input, "offset": arrays.offset, "mask": arrays.mask}
    return {name: array for name, array in given.items() if array is not None}


class OnnxRuntime(Peer):
    """DeformConv of ONNX, in the newest of its versions that the runtime takes."""

    name: ClassVar[str] = "onnxruntime"
    modules: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")

    def session(self, case: Case, arrays: Arrays, opset: int) -> Any:
        """Build the model and load it."""
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        inputs = inputs_of(arrays)
        node = helper.make_node(
            "DeformConv",
            ["input", "weight", "offset", "bias", "mask" if case.mask else ""],
            ["output"],
            kernel_shape=case.kernel,
            strides=case.stride,
            pads=case.padding * 2,
            dilations=case.dilation,
            group=case.groups,
            offset_group=case.offset_groups,
        )
        graph = helper.make_graph(
            [node],
            "case",
            [
                helper.make_tensor_value_info(k, TensorProto.FLOAT, a.shape)
                for k, a in inputs.items()
            ],
            [
                helper.make_tensor_value_info(
                    "output", TensorProto.FLOAT, case.shapes["grad_output"]
                )
            ],
            [
                numpy_helper.from_array(arrays.weight, "weight"),
                numpy_helper.from_array(arrays.bias, "bias"),
            ],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)

    def prepare(self, case: Case, arrays: Arrays, direction: str) -> Prepared:  # noqa: ARG002
        """Bind the inputs and the output, so that none is copied."""
        import onnxruntime

        try:
            session = self.session(case, arrays, 22)
        except Exception:  # noqa: BLE001  (its exceptions share no narrower class)
            session = self.session(case, arrays, 19)
        binding = session.io_binding()
        inputs = inputs_of(arrays)
        values = {k: onnxruntime.OrtValue.ortvalue_from_numpy(a) for k, a in inputs.items()}
        out = np.zeros(case.shapes["grad_output"], np.float32)
        result = onnxruntime.OrtValue.ortvalue_from_numpy(out)
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("output", result)

        def run() -> tuple[Any, Any]:
            session.run_with_iobinding(binding)
            return result, (inputs, out)  # a value does not keep its array alive

        return Prepared(run, lambda found: {"output": found[0].numpy()})


class OpenVino(Peer):
    """DeformableConvolution of operation set 8, in float32 also where it would choose bfloat16."""

    name: ClassVar[str] = "openvino"
    modules: ClassVar[tuple[str, ...]] = ("openvino",)
    columns: ClassVar[bool] = False

    def prepare(self, case: Case, arrays: Arrays, direction: str) -> Prepared:  # noqa: ARG002
        """Compile the model for one stream and share the arrays with it."""
        import openvino
        from openvino import opset8

        inputs = inputs_of(arrays)
        nodes = {k: opset8.parameter(a.shape, np.float32, name=k) for k, a in inputs.items()}
        convolved = opset8.deformable_convolution(
            nodes["input"],
            nodes["offset"],
            opset8.constant(arrays.weight),
            list(case.stride),
            list(case.padding),
            list(case.padding),
            list(case.dilation),
            mask=nodes.get("mask"),
            group=case.groups,
            deformable_group=case.offset_groups,
            bilinear_interpolation_pad=True,  # samples fade out over one pixel, as elsewhere
        )
        bias = opset8.constant(arrays.bias.reshape(1, -1, 1, 1))
        model = openvino.Model([opset8.add(convolved, bias)], list(nodes.values()), "case")
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        for name, array in inputs.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))

        def run() -> tuple[Any, Any]:
            request.infer()
            return request.get_output_tensor(), inputs  # a tensor does not keep its array alive

        return Prepared(run, lambda found: {"output": np.array(found[0].data)})


class Ncnn(Peer):
    """DeformableConv2D of ncnn: one image, one group and one offset group at a time."""

    name: ClassVar[str] = "ncnn"
    modules: ClassVar[tuple[str, ...]] = ("ncnn",)

    @classmethod
    def refuses(cls, case: Case, direction: str) -> str:
        """Say why it cannot do this; empty where it can."""
        if case.groups > 1 or case.offset_groups > 1:
            return "one group only"
        return super().refuses(case, direction)

    def network(self, case: Case, arrays: Arrays) -> Any:
        """Build the network of one layer; ncnn reads its weights from a file."""
        import ncnn

        inputs = inputs_of(arrays)
        names = list(inputs)
        (ky, kx), (sy, sx), (py, px), (dy, dx) = (
            case.kernel,
            case.stride,
            case.padding,
            case.dilation,
        )
        numbers = {
            0: case.out_channels, 1: kx, 11: ky, 2: dx, 12: dy, 3: sx, 13: sy,
            4: px, 15: px, 14: py, 16: py, 5: 1, 6: arrays.weight.size,
        }  # fmt: skip
        settings = " ".join(f"{key}={value}" for key, value in numbers.items())
        lines = [f"Input {k} 0 1 {k}" for k in names]
        lines.append(f"DeformableConv2D conv {len(names)} 1 {' '.join(names)} output {settings}")
        text = f"7767517\n{len(lines)} {len(lines)}\n" + "\n".join(lines) + "\n"
        net = ncnn.Net()
        net.opt.num_threads = self.threads
        for name in dir(net.opt):
            if name.startswith(("use_fp16", "use_bf16", "use_int8", "use_vulkan")):
                setattr(net.opt, name, False)
        net.load_param_mem(text)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "weights.bin")
            # Four zero bytes say that the weights that follow are float32.
            path.write_bytes(bytes(4) + arrays.weight.tobytes() + arrays.bias.tobytes())
            if net.load_model(str(path)):
                raise RuntimeError("ncnn did not take the weights")
        return net

    def prepare(self, case: Case, arrays: Arrays, direction: str) -> Prepared:  # noqa: ARG002
        """Load the network; images go through one after the other, as it has no batches."""
        import ncnn

        net = self.network(case, arrays)
        inputs = inputs_of(arrays)
        images = [{k: ncnn.Mat(a[n]) for k, a in inputs.items()} for n in range(case.batch)]

        def run() -> tuple[Any, Any]:
            found = []
            for image in images:
                extractor = net.create_extractor()
                for name, matrix in image.items():
                    extractor.input(name, matrix)
                status, matrix = extractor.extract("output")
                if status:
                    raise RuntimeError(f"ncnn failed with status {status}")
                found.append(matrix)
            return found, inputs  # a matrix does not keep its array alive

        return Prepared(run, lambda found: {"output": np.stack([np.array(m) for m in found[0]])})
