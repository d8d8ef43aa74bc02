"""KernelBench's Level-1 workloads as one table: operation, parameters, and sizes at the two scales.

`gpu` has the shapes of KernelBench v0.1; `cpu` has the same operations at sizes that one CPU core runs in milliseconds.
Every size is written (gpu, cpu). Rows of one family go through one function, so that a row holds facts only. Beside what
is computed stands the work that cannot be left out, where it is not just to read each input and to write each output once.
"""

from collections.abc import Mapping
from dataclasses import replace

from expert_tail.tasks.render import Workload, check_scale, render_workload
from expert_tail.tasks.task import Task, TaskError

Size = tuple[int, int]

# The order in which torch's convolution layers take their options; an option after a gap is passed by keyword.
_CONV_OPTIONS = ("stride", "padding", "dilation", "groups", "bias")
_CONV_TRANSPOSE_OPTIONS = ("stride", "padding", "output_padding", "groups", "bias", "dilation")
_OPTION_DEFAULTS = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1, "bias": False}
_CONV_ATTRIBUTES = {
    "Conv1d": "conv1d",
    "Conv2d": "conv2d",
    "Conv3d": "conv3d",
    "ConvTranspose1d": "conv1d_transpose",
    "ConvTranspose2d": "conv_transpose2d",
    "ConvTranspose3d": "conv_transpose3d",
}


def _names(signature: str) -> list[str]:
    return [parameter.split("=")[0] for parameter in signature.split(", ")] if signature else []


def _matmul(
    task_id: int,
    name: str,
    left: str,
    right: str,
    forward: str = "torch.matmul(A, B)",
    draw: str = "{0}",
    **sizes: Size,
) -> Workload:
    """A product of matrices of shapes `left` and `right`; `draw` makes an argument {1} from uniform numbers {0}.

    The letters K, k and l stand for the inner dimension; where the shapes have none of them, it is the last of `left`.
    """
    shapes = {"A": left, "B": right}
    inputs = {argument: draw.format(f"torch.rand({shape})", argument) for argument, shape in shapes.items()}
    names = left.split(", ")
    inner = next((letter for letter in "Kkl" if letter in names), names[-1])
    return Workload(task_id, name, forward, inputs, sizes, macs_per_output=inner)


def _unary(
    task_id: int,
    name: str,
    forward: str,
    sizes: Mapping[str, Size],
    signature: str = "",
    init_inputs: str = "",
    attributes: Mapping[str, str] | None = None,
    constants: Mapping[str, object] | None = None,
    shape: str = "",
) -> Workload:
    """One uniform input x. Its shape is all sizes, and parameters become attributes, unless these are given."""
    if attributes is None:
        attributes = {parameter: parameter for parameter in _names(signature)}
    inputs = {"x": f"torch.rand({shape or ', '.join(sizes)})"}
    return Workload(task_id, name, forward, inputs, sizes, constants or {}, signature, attributes, init_inputs)


def _activation(task_id: int, name: str, forward: str, signature: str = "", init_inputs: str = "") -> Workload:
    return _unary(task_id, name, forward, {"batch_size": (4096, 128), "dim": (393216, 12288)}, signature, init_inputs)


def _image_norm(
    task_id: int,
    name: str,
    forward: str,
    batch: Size,
    side: Size = (512, 64),
    signature: str = "",
    init_inputs: str = "",
    attributes: Mapping[str, str] | None = None,
    constants: Mapping[str, object] | None = None,
) -> Workload:
    sizes = {"batch_size": batch, "features": (64, 64), "dim1": side, "dim2": side}
    return _unary(task_id, name, forward, sizes, signature, init_inputs, attributes, constants)


def _pool(task_id: int, name: str, layer: str, signature: str, given: Mapping[str, object], **sizes: Size) -> Workload:
    """A pooling layer, which takes the parameters in the order of `signature`; `given` has their values."""
    attribute = "maxpool" if layer.startswith("Max") else "avg_pool"
    attributes = {attribute: f"nn.{layer}({', '.join(_names(signature))})"}
    return _unary(task_id, name, f"self.{attribute}(x)", sizes, signature, ", ".join(given), attributes, given)


def _reduction(task_id: int, name: str, forward: str) -> Workload:
    sizes = {"batch_size": (128, 8), "dim1": (4096, 512), "dim2": (4095, 511)}
    return _unary(task_id, name, forward, sizes, "dim", "dim", constants={"dim": 1})


def _scan(task_id: int, name: str, forward: str, **inputs: str) -> Workload:
    inputs = {"x": "torch.rand(batch_size, length)", **inputs}
    sizes = {"batch_size": (32768, 512), "length": (32768, 2048)}
    return Workload(task_id, name, forward, inputs, sizes, {"dim": 1}, "dim", {"dim": "dim"}, "dim")


def _layer(
    task_id: int,
    name: str,
    layers: Mapping[str, str],
    signature: str,
    given: Mapping[str, object],
    sizes: Mapping[str, Size],
    init_inputs: str = "",
    macs_per_output: str = "0",
    macs_per_input: str = "0",
) -> Workload:
    """Layers, one after the other, on images of in_channels channels; `sizes` are those of the batch and the image."""
    forward = "x"
    for attribute in layers:
        forward = f"self.{attribute}({forward})"
    batch, *extent = sizes
    shape = ", ".join([batch, "in_channels", *extent])
    workload = _unary(task_id, name, forward, sizes, signature, init_inputs or ", ".join(given), layers, given, shape)
    return replace(workload, macs_per_output=macs_per_output, macs_per_input=macs_per_input)


def _conv(
    task_id: int,
    name: str,
    layer: str,
    channels: tuple[int, int],
    kernel_size: int | tuple[int, ...],
    options: str = "",
    given: Mapping[str, object] | None = None,
    kernel: str = "kernel_size",
    unused: str = "",
    **sizes: Size,
) -> Workload:
    """A convolution. `options` are the parameters of its constructor after kernel_size; `given` has their values.

    `kernel` is the kernel as the layer takes it; the parameter named `unused` is accepted and not passed on.
    """
    transposed = layer.startswith("ConvTranspose")
    order = _CONV_TRANSPOSE_OPTIONS if transposed else _CONV_OPTIONS
    default = "stride padding output_padding groups" if transposed else "stride padding dilation groups"
    names = [*(options or default).split(), "bias"]
    arguments, gap = ["in_channels", "out_channels", kernel], False
    for option in order:
        if option not in names or option == unused:
            gap = True
        else:
            arguments.append(f"{option}={option}" if gap else option)
    signature = ["in_channels", "out_channels", "kernel_size", *(f"{name}={_OPTION_DEFAULTS[name]}" for name in names)]
    values = {"in_channels": channels[0], "out_channels": channels[1], "kernel_size": kernel_size, **(given or {})}
    layers = {_CONV_ATTRIBUTES[layer]: f"nn.{layer}({', '.join(arguments)})"}
    groups = " / groups" if "groups" in values else ""
    work = {"macs_per_input": f"out_channels{groups}"} if transposed else {"macs_per_output": f"in_channels{groups}"}
    return _layer(task_id, name, layers, ", ".join(signature), values, sizes, **work)


def _loss(
    task_id: int,
    name: str,
    forward: str,
    rows: Size,
    columns: Size,
    scaled: bool = True,
    targets: str = "torch.rand(batch_size, length)",
    draw: str = "{}",
) -> Workload:
    """A scalar loss; `scaled` predictions are multiplied by one random number; `draw` is applied to both arguments."""
    predictions = "torch.rand(batch_size, length)" + (" * scale" if scaled else "")
    inputs = {"predictions": draw.format(predictions), "targets": draw.format(targets)}
    draws = {"scale": "torch.rand(())"} if scaled else {}
    return Workload(task_id, name, forward, inputs, {"batch_size": rows, "length": columns}, draws=draws)


_MATMULS = [
    _matmul(1, "Square_matrix_multiplication_", "N, N", "N, N", N=(4096, 512)),
    _matmul(2, "Standard_matrix_multiplication_", "M, K", "K, N", M=(2048, 256), K=(8192, 1024), N=(4096, 512)),
    _matmul(
        3,
        "Batched_matrix_multiplication",
        "batch_size, m, k",
        "batch_size, k, n",
        "torch.bmm(A, B)",
        batch_size=(128, 32),
        m=(512, 64),
        k=(1024, 128),
        n=(2048, 256),
    ),
    _matmul(4, "Matrix_vector_multiplication_", "M, K", "K, 1", M=(2048, 64), K=(1048576, 32768)),
    Workload(
        5,
        "Matrix_scalar_multiplication",
        "A * s",
        {"A": "torch.rand(M, N)", "s": "3.14"},
        {"M": (65536, 2048), "N": (16384, 1024)},
    ),
    _matmul(6, "Matmul_with_large_K_dimension_", "M, K", "K, N", M=(256, 64), N=(256, 64), K=(524288, 16384)),
    _matmul(7, "Matmul_with_small_K_dimension_", "M, K", "K, N", M=(32768, 1024), N=(32768, 1024), K=(64, 64)),
    _matmul(8, "Matmul_with_irregular_shapes_", "M, K", "K, N", M=(8205, 513), K=(2949, 369), N=(5921, 741)),
    _matmul(9, "Tall_skinny_matrix_multiplication_", "M, N", "N, M", M=(32768, 1536), N=(32, 32)),
    _matmul(
        10, "3D_tensor_matrix_multiplication", "N, M, K", "K, L", N=(16, 8), M=(1024, 128), K=(2048, 256), L=(768, 384)
    ),
    _matmul(
        11,
        "4D_tensor_matrix_multiplication",
        "b, i, j, l",
        "l, k",
        "torch.einsum('bijl,lk->bijk', A, B)",
        b=(8, 2),
        i=(256, 16),
        j=(512, 32),
        l=(256, 256),
        k=(768, 384),
    ),
    # The product with a materialised diagonal matrix, as in the paper; newer KernelBench multiplies A.unsqueeze(1) * B.
    replace(
        _matmul(12, "Matmul_with_diagonal_matrices_", "N", "N, M", "torch.diag(A) @ B", M=(4096, 512), N=(4096, 512)),
        macs_per_output="0",
    ),
    replace(
        _matmul(13, "Matmul_for_symmetric_matrices", "N, N", "N, N", draw="{0}\n({1} + {1}.T) / 2", N=(4096, 512)),
        reads=dict.fromkeys("AB", "1/2"),
    ),
    *(
        # Half of each matrix is zero. The sums over N, one in two of them needed, have N / 3 terms on average.
        replace(
            _matmul(
                task_id,
                f"Matmul_for_{kind}_triangular_matrices",
                f"{n}, {n}",
                f"{n}, {n}",
                f"torch.{half}(torch.matmul(A, B))",
                f"torch.{half}({{0}})",
                **{n: (4096, 512)},
            ),
            reads=dict.fromkeys("AB", "1/2"),
            writes="1/2",
            macs_per_output=f"{n} / 6",
        )
        for task_id, kind, half, n in [(14, "upper", "triu", "N"), (15, "lower", "tril", "M")]
    ),
    *(
        _matmul(task_id, name, left, right, forward, M=(2048, 256), K=(8192, 1024), N=(4096, 512))
        for task_id, name, left, right, forward in [
            (16, "Matmul_with_transposed_A", "K, M", "K, N", "torch.matmul(A.T, B)"),
            (17, "Matmul_with_transposed_B", "M, K", "N, K", "torch.matmul(A, B.T)"),
            (18, "Matmul_with_transposed_both", "K, M", "N, K", "torch.matmul(A.T, B.T)"),
        ]
    ),
]

_ACTIVATIONS = [
    # Some activations change nothing on some inputs, and may then return them: no output needs to be written.
    replace(_activation(19, "ReLU", "torch.relu(x)"), writes="0"),
    replace(
        _activation(20, "LeakyReLU", "F.leaky_relu(x, negative_slope=self.negative_slope)", "negative_slope=0.01"),
        writes="0",
    ),
    _activation(21, "Sigmoid", "torch.sigmoid(x)"),
    _activation(22, "Tanh", "torch.tanh(x)"),
    _activation(23, "Softmax", "torch.softmax(x, dim=1)"),
    _activation(24, "LogSoftmax", "torch.log_softmax(x, dim=self.dim)", "dim=1"),
    _activation(25, "Swish", "x * torch.sigmoid(x)"),
    _activation(26, "GELU_", "F.gelu(x)"),
    _activation(27, "SELU_", "torch.selu(x)"),
    _activation(28, "HardSigmoid", "F.hardsigmoid(x)"),
    _activation(29, "Softplus", "F.softplus(x)"),
    _activation(30, "Softsign", "x / (1 + torch.abs(x))"),
    replace(_activation(31, "ELU", "F.elu(x, alpha=self.alpha)", "alpha=1.0", "1.0"), writes="0"),
    replace(_activation(32, "HardTanh", "F.hardtanh(x, min_val=-1.0, max_val=1.0)"), writes="0"),
]

_NORMS = [
    _image_norm(
        33,
        "BatchNorm",
        "self.bn(x)",
        (64, 4),
        signature="num_features",
        init_inputs="features",
        attributes={"bn": "nn.BatchNorm2d(num_features)"},
    ),
    _image_norm(
        34,
        "InstanceNorm",
        "self.inorm(x)",
        (112, 7),
        signature="num_features",
        init_inputs="features",
        attributes={"inorm": "nn.InstanceNorm2d(num_features)"},
    ),
    _image_norm(
        35,
        "GroupNorm_",
        "self.gn(x)",
        (112, 7),
        signature="num_features, num_groups",
        init_inputs="features, num_groups",
        attributes={"gn": "nn.GroupNorm(num_groups, num_features)"},
        constants={"num_groups": 8},
    ),
    _image_norm(
        36,
        "RMSNorm_",
        "x / torch.sqrt(torch.mean(x ** 2, dim=1, keepdim=True) + self.eps)",
        (112, 7),
        signature="num_features, eps=1e-5",
        init_inputs="features",
        attributes={"eps": "eps"},
    ),
    _image_norm(37, "FrobeniusNorm_", "x / torch.norm(x, p='fro')", (112, 7)),
    *(
        _unary(task_id, name, forward, {"batch_size": (32768, 192), "dim": (65535, 8191)})
        for task_id, name, forward in [
            (38, "L1Norm_", "x / torch.mean(torch.abs(x), dim=1, keepdim=True)"),
            (39, "L2Norm_", "x / torch.norm(x, p=2, dim=1, keepdim=True)"),
        ]
    ),
    _image_norm(
        40,
        "LayerNorm",
        "self.ln(x)",
        (16, 6),
        side=(256, 64),
        signature="normalized_shape",
        init_inputs="(features, dim1, dim2)",
        attributes={"ln": "nn.LayerNorm(normalized_shape)"},
    ),
]

_POOLS = [
    _pool(
        41,
        "Max_Pooling_1D",
        "MaxPool1d",
        "kernel_size, stride=None, padding=0, dilation=1, return_indices=False",
        {"kernel_size": 8, "stride": 1, "padding": 4, "dilation": 3, "return_indices": False},
        batch_size=(64, 4),
        features=(192, 96),
        sequence_length=(65536, 4096),
    ),
    _pool(
        42,
        "Max_Pooling_2D",
        "MaxPool2d",
        "kernel_size, stride, padding, dilation",
        {"kernel_size": 4, "stride": 1, "padding": 1, "dilation": 1},
        batch_size=(32, 1),
        channels=(64, 16),
        height=(512, 128),
        width=(512, 128),
    ),
    replace(
        _pool(
            43,
            "Max_Pooling_3D",
            "MaxPool3d",
            "kernel_size, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False",
            {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 3},
            batch_size=(16, 1),
            channels=(32, 16),
            dim1=(128, 32),
            dim2=(128, 32),
            dim3=(128, 32),
        ),
        reads={"x": "((dim1 - 2) / dim1) ** 3"},
    ),
    _pool(
        44,
        "Average_Pooling_1D",
        "AvgPool1d",
        "kernel_size, stride=1, padding=0",
        {"kernel_size": 8, "stride": 1, "padding": 4},
        batch_size=(64, 4),
        in_channels=(128, 32),
        input_length=(65536, 4096),
    ),
    replace(
        _pool(
            45,
            "Average_Pooling_2D",
            "AvgPool2d",
            "kernel_size, stride=None, padding=0",
            {"kernel_size": 11},
            batch_size=(16, 2),
            channels=(64, 16),
            height=(2048, 256),
            width=(2048, 256),
        ),
        reads={"x": "(height // kernel_size * kernel_size / height) ** 2"},
    ),
    _pool(
        46,
        "Average_Pooling_3D",
        "AvgPool3d",
        "kernel_size, stride=None, padding=0",
        {"kernel_size": 3, "stride": 2, "padding": 1},
        batch_size=(16, 1),
        channels=(32, 16),
        depth=(128, 32),
        height=(128, 32),
        width=(256, 64),
    ),
]

_REDUCTIONS = [
    _reduction(47, "Sum_reduction_over_a_dimension", "torch.sum(x, dim=self.dim, keepdim=True)"),
    _reduction(48, "Mean_reduction_over_a_dimension", "torch.mean(x, dim=self.dim)"),
    _reduction(49, "Max_reduction_over_a_dimension", "torch.max(x, dim=self.dim)[0]"),
    _reduction(51, "Argmax_over_a_dimension", "torch.argmax(x, dim=self.dim)"),
    _reduction(52, "Argmin_over_a_dimension", "torch.argmin(x, dim=self.dim)"),
    _reduction(53, "Min_reduction_over_a_dimension", "torch.min(x, dim=self.dim)[0]"),
]

_CONVS = [
    replace(
        _unary(
            50,
            "conv_standard_2D__square_input__square_kernel",
            "self.conv1(x)",
            {"batch_size": (256, 4), "height": (224, 112), "width": (224, 112)},
            "num_classes=1000",
            "num_classes",
            {"conv1": "nn.Conv2d(3, 96, kernel_size=11, stride=4, padding=2)"},
            {"num_classes": 1000},
            "batch_size, 3, height, width",
        ),
        macs_per_output="3",
    ),
    _conv(
        54,
        "conv_standard_3D__square_input__square_kernel",
        "Conv3d",
        (3, 64),
        3,
        batch_size=(16, 1),
        depth=(64, 16),
        width=(64, 32),
        height=(64, 32),
    ),
    _conv(
        55,
        "conv_standard_2D__asymmetric_input__square_kernel",
        "Conv2d",
        (64, 128),
        3,
        batch_size=(8, 1),
        height=(512, 32),
        width=(1024, 64),
    ),
    _conv(
        56,
        "conv_standard_2D__asymmetric_input__asymmetric_kernel",
        "Conv2d",
        (64, 128),
        (5, 7),
        batch_size=(8, 1),
        height=(512, 32),
        width=(256, 16),
    ),
    _conv(
        57,
        "conv_transposed_2D__square_input__square_kernel",
        "ConvTranspose2d",
        (64, 64),
        3,
        batch_size=(8, 1),
        height=(1024, 64),
        width=(1024, 64),
    ),
    _conv(
        58,
        "conv_transposed_3D__asymmetric_input__asymmetric_kernel",
        "ConvTranspose3d",
        (32, 16),
        (3, 5, 7),
        batch_size=(16, 1),
        depth_in=(16, 8),
        height_in=(32, 16),
        width_in=(64, 32),
    ),
    _conv(
        59,
        "conv_standard_3D__asymmetric_input__square_kernel",
        "Conv3d",
        (3, 64),
        3,
        kernel="(kernel_size, kernel_size, 1)",
        batch_size=(16, 1),
        height=(256, 64),
        width=(256, 64),
        depth=(10, 10),
    ),
    _conv(
        60,
        "conv_standard_3D__square_input__asymmetric_kernel",
        "Conv3d",
        (3, 64),
        (3, 5, 7),
        batch_size=(16, 1),
        width=(64, 20),
        height=(64, 20),
        depth=(64, 20),
    ),
    _conv(
        61,
        "conv_transposed_3D__square_input__square_kernel",
        "ConvTranspose3d",
        (48, 48),
        3,
        batch_size=(8, 1),
        depth=(64, 16),
        height=(64, 16),
        width=(64, 16),
    ),
    _conv(
        62,
        "conv_standard_2D__square_input__asymmetric_kernel",
        "Conv2d",
        (32, 64),
        (5, 9),
        batch_size=(8, 1),
        height=(512, 48),
        width=(512, 48),
    ),
    _conv(
        63,
        "conv_standard_2D__square_input__square_kernel",
        "Conv2d",
        (16, 128),
        3,
        batch_size=(16, 1),
        height=(1024, 96),
        width=(1024, 96),
    ),
    _conv(64, "conv_transposed_1D", "ConvTranspose1d", (128, 128), 3, batch_size=(64, 2), length=(65536, 1024)),
    _conv(
        65,
        "conv_transposed_2D__square_input__asymmetric_kernel",
        "ConvTranspose2d",
        (64, 64),
        (3, 7),
        batch_size=(8, 1),
        height=(512, 48),
        width=(512, 48),
    ),
    _conv(
        66,
        "conv_standard_3D__asymmetric_input__asymmetric_kernel",
        "Conv3d",
        (3, 64),
        (3, 5, 7),
        batch_size=(8, 1),
        depth=(16, 8),
        height=(128, 32),
        width=(128, 32),
    ),
    _conv(67, "conv_standard_1D", "Conv1d", (64, 128), 3, batch_size=(32, 2), length=(131072, 2048)),
    _conv(
        68,
        "conv_transposed_3D__square_input__asymmetric_kernel",
        "ConvTranspose3d",
        (32, 64),
        (3, 5, 5),
        batch_size=(16, 1),
        depth=(64, 12),
        width=(64, 12),
        height=(64, 12),
    ),
    _conv(
        69,
        "conv_transposed_2D__asymmetric_input__asymmetric_kernel",
        "ConvTranspose2d",
        (64, 128),
        (3, 5),
        "stride padding output_padding dilation groups",
        batch_size=(64, 1),
        height_in=(128, 32),
        width_in=(256, 64),
    ),
    _conv(
        70,
        "conv_transposed_3D__asymmetric_input__square_kernel",
        "ConvTranspose3d",
        (48, 24),
        3,
        "stride padding output_padding dilation groups",
        batch_size=(8, 1),
        depth=(96, 16),
        height=(96, 16),
        width=(96, 16),
    ),
    _conv(
        71,
        "conv_transposed_2D__asymmetric_input__square_kernel",
        "ConvTranspose2d",
        (32, 32),
        3,
        batch_size=(8, 1),
        height_in=(512, 64),
        width_in=(1024, 128),
    ),
    _conv(
        72,
        "conv_transposed_3D_asymmetric_input_asymmetric_kernel___strided_padded_grouped_",
        "ConvTranspose3d",
        (32, 32),
        (3, 5, 7),
        given={"stride": (2, 2, 2), "padding": (1, 2, 3), "output_padding": (1, 1, 1), "groups": 4},
        batch_size=(8, 1),
        depth=(12, 6),
        height=(24, 12),
        width=(48, 24),
    ),
    # KernelBench passes groups in the place of output_padding, which its layer ignores: one group is what it computes.
    _conv(
        73,
        "conv_transposed_3D_asymmetric_input_square_kernel__strided_padded__grouped",
        "ConvTranspose3d",
        (32, 32),
        3,
        given={"stride": 2, "padding": 1, "groups": 4},
        unused="output_padding",
        batch_size=(4, 1),
        depth=(32, 8),
        height=(64, 16),
        width=(128, 32),
    ),
    _conv(
        74,
        "conv_transposed_1D_dilated",
        "ConvTranspose1d",
        (32, 64),
        5,
        "stride padding dilation",
        {"stride": 1, "padding": 0, "dilation": 3},
        batch_size=(32, 2),
        length=(131072, 4096),
    ),
    # Where stride and dilation have a common factor, some outputs get nothing and are always zero.
    replace(
        _conv(
            75,
            "conv_transposed_2D_asymmetric_input_asymmetric_kernel_strided__grouped____padded____dilated__",
            "ConvTranspose2d",
            (32, 64),
            (3, 5),
            "stride padding dilation groups",
            {"stride": (2, 3), "padding": (1, 2), "dilation": (2, 1), "groups": 4},
            batch_size=(16, 1),
            height=(128, 32),
            width=(256, 64),
        ),
        writes="0.49",
    ),
    replace(
        _conv(
            76,
            "conv_standard_1D_dilated_strided__",
            "Conv1d",
            (64, 128),
            3,
            "stride dilation",
            {"stride": 3, "dilation": 4},
            batch_size=(64, 2),
            length=(524280, 8190),
        ),
        reads={"x": "(length - 6) / length"},
    ),
    replace(
        _conv(
            77,
            "conv_transposed_3D_square_input_square_kernel___padded____dilated____strided__",
            "ConvTranspose3d",
            (32, 64),
            3,
            "stride padding dilation",
            {"stride": 2, "padding": 1, "dilation": 2},
            batch_size=(16, 1),
            depth=(16, 8),
            height=(32, 16),
            width=(32, 16),
        ),
        writes="0.1",
    ),
    _conv(
        78,
        "conv_transposed_2D_asymmetric_input_asymmetric_kernel___padded__",
        "ConvTranspose2d",
        (32, 32),
        (3, 7),
        "stride padding",
        {"stride": (1, 1), "padding": (1, 3)},
        batch_size=(8, 1),
        height=(512, 48),
        width=(1024, 96),
    ),
    replace(
        _conv(
            79,
            "conv_transposed_1D_asymmetric_input_square_kernel___padded____strided____dilated__",
            "ConvTranspose1d",
            (32, 64),
            3,
            "stride padding dilation",
            {"stride": 2, "padding": 1, "dilation": 2},
            batch_size=(16, 2),
            length=(131072, 4096),
        ),
        writes="0.49",
    ),
    _conv(
        80,
        "conv_standard_2D_square_input_asymmetric_kernel___dilated____padded__",
        "Conv2d",
        (32, 64),
        (5, 9),
        "stride padding dilation",
        {"stride": 1, "padding": (2, 4), "dilation": (2, 3)},
        batch_size=(8, 1),
        height=(512, 48),
        width=(512, 48),
    ),
    replace(
        _conv(
            81,
            "conv_transposed_2D_asymmetric_input_square_kernel___dilated____padded____strided__",
            "ConvTranspose2d",
            (32, 64),
            3,
            "stride padding dilation",
            {"stride": 5, "padding": 1, "dilation": 2},
            batch_size=(16, 2),
            height_in=(64, 16),
            width_in=(128, 32),
        ),
        writes="1/3",
    ),
    _layer(
        82,
        "conv_depthwise_2D_square_input_square_kernel",
        {"conv2d": "nn.Conv2d(in_channels, in_channels, kernel_size, stride, padding, groups=in_channels, bias=bias)"},
        "in_channels, kernel_size, stride=1, padding=0, bias=False",
        {"in_channels": 64, "kernel_size": 3, "stride": 1, "padding": 0},
        {"batch_size": (16, 1), "height": (512, 160), "width": (512, 160)},
    ),
    _layer(
        83,
        "conv_depthwise_2D_square_input_asymmetric_kernel",
        {
            "conv2d": "nn.Conv2d(in_channels, in_channels, (kernel_size, 1), stride, padding, dilation, "
            "in_channels, bias)"
        },
        "in_channels, kernel_size, stride=1, padding=0, dilation=1, bias=False",
        {"in_channels": 8, "kernel_size": 3, "stride": 1, "padding": 0, "dilation": 1},
        {"batch_size": (64, 12), "height": (512, 128), "width": (512, 128)},
    ),
    _layer(
        84,
        "conv_depthwise_2D_asymmetric_input_square_kernel",
        {"conv2d": "nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=in_channels, bias=bias)"},
        "in_channels, out_channels, kernel_size, stride=1, padding=0, bias=False",
        {"in_channels": 128, "out_channels": 128, "kernel_size": 3, "stride": 1, "padding": 0},
        {"batch_size": (64, 1), "height_in": (256, 80), "width_in": (512, 160)},
    ),
    # The number of groups is always in_channels, and out_channels goes nowhere.
    _layer(
        85,
        "conv_depthwise_2D_asymmetric_input_asymmetric_kernel",
        {
            "conv2d": "nn.Conv2d(in_channels, in_channels, (kernel_size_h, kernel_size_w), (stride_h, stride_w), "
            "(padding_h, padding_w), (dilation_h, dilation_w), in_channels, bias)"
        },
        "in_channels, out_channels, kernel_size_h, kernel_size_w, stride_h=1, stride_w=1, padding_h=0, padding_w=0, "
        "dilation_h=1, dilation_w=1, groups=1, bias=False",
        {
            "in_channels": 128,
            "out_channels": 128,
            "kernel_size_h": 3,
            "kernel_size_w": 7,
            "stride_h": 1,
            "stride_w": 1,
            "padding_h": 0,
            "padding_w": 0,
            "dilation_h": 1,
            "dilation_w": 1,
            "groups": 128,
        },
        {"batch_size": (32, 1), "height": (128, 64), "width": (256, 128)},
    ),
    _layer(
        86,
        "conv_depthwise_separable_2D",
        {
            "depthwise": "nn.Conv2d(in_channels, in_channels, kernel_size, stride, padding, dilation, "
            "in_channels, bias)",
            "pointwise": "nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=bias)",
        },
        "in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, bias=False",
        {"in_channels": 64, "out_channels": 128, "kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1},
        {"batch_size": (16, 1), "height": (512, 96), "width": (512, 96)},
        macs_per_output="in_channels",
    ),
    _layer(
        87,
        "conv_pointwise_2D",
        {"conv1d": "nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=bias)"},
        "in_channels, out_channels, bias=False",
        {"in_channels": 64, "out_channels": 128},
        {"batch_size": (16, 1), "height": (1024, 112), "width": (1024, 112)},
        macs_per_output="in_channels",
    ),
]

_SCANS = [
    _scan(89, "cumsum", "torch.cumsum(x, dim=self.dim)"),
    # A product of 64 uniform numbers is not zero yet; where a later one is, the rest is known.
    replace(_scan(90, "cumprod", "torch.cumprod(x, dim=self.dim)"), reads={"x": "64 / length"}, writes="64 / length"),
    _scan(91, "cumsum_reverse", "torch.cumsum(x.flip(self.dim), dim=self.dim).flip(self.dim)"),
    replace(
        _scan(
            92,
            "cumsum_exclusive",
            "sums = torch.cumsum(x.narrow(self.dim, 0, x.size(self.dim) - 1), dim=self.dim)\n"
            "torch.cat((torch.zeros_like(x.narrow(self.dim, 0, 1)), sums), dim=self.dim)",
        ),
        reads={"x": "(length - 1) / length"},
        writes="(length - 1) / length",
    ),
    replace(
        _scan(93, "masked_cumsum", "torch.cumsum(x * mask, dim=self.dim)", mask="torch.randint(0, 2, x.shape).bool()"),
        reads={"x": "1/2"},
    ),
]

_LOSSES = [
    _loss(94, "MSELoss", "torch.mean((predictions - targets) ** 2)", (32768, 1024), (32768, 1024)),
    Workload(
        95,
        "CrossEntropyLoss",
        "F.cross_entropy(predictions, targets)",
        {
            "predictions": "torch.rand(batch_size, num_classes)",
            "targets": "torch.randint(0, num_classes, (batch_size,))",
        },
        {"batch_size": (32768, 1024), "num_classes": (4096, 1024)},
    ),
    _loss(96, "HuberLoss", "F.smooth_l1_loss(predictions, targets)", (32768, 1024), (32768, 1024)),
    _loss(
        98,
        "KLDivLoss",
        "F.kl_div(torch.log(predictions), targets, reduction='batchmean')",
        (16384, 1024),
        (16384, 1024),
        draw="torch.softmax({}, dim=-1)",
    ),
    Workload(
        99,
        "TripletMarginLoss",
        "self.loss_fn(anchor, positive, negative)",
        {
            "anchor": "torch.rand(batch_size, length) * scale",
            "positive": "torch.rand(batch_size, length)",
            "negative": "torch.rand(batch_size, length)",
        },
        {"batch_size": (32768, 512), "length": (8192, 2048)},
        signature="margin=1.0",
        attributes={"loss_fn": "nn.TripletMarginLoss(margin=margin)"},
        init_inputs="1.0",
        draws={"scale": "torch.rand(())"},
    ),
    # The targets are one sign a row, and broadcasting reads them as one a column: the matrix must be square.
    _loss(
        100,
        "HingeLoss",
        "torch.mean(torch.clamp(1 - predictions * targets, min=0))",
        (32768, 1536),
        (32768, 1536),
        scaled=False,
        targets="torch.randint(0, 2, (batch_size,)).float() * 2 - 1",
    ),
]

_OTHERS = [
    _unary(
        88,
        "MinGPTNewGelu",
        "0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))",
        {"batch_size": (8192, 1024), "dim": (8192, 1024)},
    ),
    Workload(
        97,
        "ScaledDotProductAttention",
        "F.scaled_dot_product_attention(Q, K, V)",
        dict.fromkeys("QKV", "torch.rand(batch_size, num_heads, sequence_length, embedding_dimension)"),
        {
            "batch_size": (32, 1),
            "num_heads": (32, 8),
            "sequence_length": (512, 128),
            "embedding_dimension": (1024, 256),
        },
        macs_per_output="2 * sequence_length",
    ),
]

_FAMILIES = [_MATMULS, _ACTIVATIONS, _NORMS, _POOLS, _REDUCTIONS, _CONVS, _SCANS, _LOSSES, _OTHERS]
LEVEL1: dict[int, Workload] = {
    workload.task_id: workload
    for workload in sorted((row for family in _FAMILIES for row in family), key=lambda row: row.task_id)
}


def render(task_id: int, scale: str) -> str:
    """The module source of one Level-1 task at scale `cpu` or `gpu`."""
    if task_id not in LEVEL1:
        raise TaskError(f"level1 has no task {task_id!r}: its ids run from {min(LEVEL1)} to {max(LEVEL1)}")
    return render_workload(LEVEL1[task_id], scale)


def level1(scale: str) -> list[Task]:
    """All 100 tasks at one scale, in order of their ids."""
    check_scale(scale)
    return [Task(task_id, LEVEL1[task_id].full_name, 1, render(task_id, scale)) for task_id in LEVEL1]
